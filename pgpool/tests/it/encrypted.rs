//! TLS towards a real PostgreSQL that insists on it: libpq's modes, names and authorities, client
//! certificates, logins bound to the channel, cancel requests.
//!
//! Invariant: what a mode must refuse is refused, and says so at once.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_postgres::NoTls;

use crate::pooler::{Pooler, Setup, code, connect};
use crate::postgres::{PASSWORD, Postgres};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("made")
}

/// A certificate and its key: for a host, and for whom.
fn certificate(by: &Authority, host: &str, whose: &str) -> (String, String) {
    let mut params = CertificateParams::new(vec![host.to_owned()]).expect("names");
    params.distinguished_name.push(DnType::CommonName, whose);
    let key = KeyPair::generate().expect("a key");
    let made = params.signed_by(&key, by).expect("signed");
    (made.pem(), key.serialize_pem())
}

/// What a server shows, and the authority that is named for it.
struct Shown {
    chain: String,
    key: String,
    ca: String,
}

/// A server that lets nobody in without TLS but the tests' own connections, and a pooler with one
/// database per host and way of reaching it: `d0`, `d1`, …
async fn start(ways: &[(&str, &str)]) -> (Postgres, Pooler) {
    let ours = authority();
    let (chain, key) = certificate(&ours, "localhost", "localhost");
    let shown = Shown { chain, key, ca: ours.pem() };
    start_with(&shown, &ours, ways).await
}

async fn start_with(shown: &Shown, ours: &Authority, ways: &[(&str, &str)]) -> (Postgres, Pooler) {
    let server = Postgres::start().await;
    let others = authority();
    let hba = "host all root all scram-sha-256\nhostssl all open all cert\n\
               hostssl all all all scram-sha-256\n";
    server.encrypt(&shown.chain, &shown.key, &ours.pem(), hba).await;
    let folder = server.sockets();
    let (chain, key) = certificate(ours, "client", "open");
    for (name, text) in
        [("ca", shown.ca.clone()), ("other", others.pem()), ("own.pem", chain), ("own.key", key)]
    {
        std::fs::write(folder.join(name), text).expect("written");
    }
    let at = |name: &str| format!("file:{}", folder.join(name).display());
    let mut more = String::new();
    for (n, (host, tls)) in ways.iter().enumerate() {
        let own = format!("certificate: {{ chain: {}, key: {} }}", at("own.pem"), at("own.key"));
        let tls = tls.replace("OURS", &at("ca")).replace("OTHERS", &at("other"));
        let tls = tls.replace("SHOWN", &own);
        more.push_str(&format!(
            " }}\n      d{n}: {{ primary: {host}:{}, server-name: shop, tls: {{ {tls} }}",
            server.port
        ));
    }
    let pooler = Pooler::start(&server, Setup { more: &more, ..Setup::default() }).await;
    (server, pooler)
}

const DIRECT: &str = "mode: require, negotiation: direct";

/// P4: libpq's modes: in clear, encrypted, verified by authority and by name; as a user whose proof
/// alone is known, and as one who is known by a certificate.
#[tokio::test]
async fn servers_are_reached_by_sslmode() {
    let table = [
        ("127.0.0.1", "mode: disable", "app", false),
        ("127.0.0.1", "mode: allow", "app", true),
        ("127.0.0.1", "mode: prefer", "app", true),
        ("localhost", "mode: prefer", "app", true),
        ("127.0.0.1", "mode: require", "app", true),
        ("127.0.0.1", "mode: require", "other", true),
        ("127.0.0.1", "mode: require, ca: OTHERS", "app", false),
        ("127.0.0.1", "mode: verify-ca, ca: OURS", "app", true),
        ("127.0.0.1", "mode: verify-ca, ca: OTHERS", "app", false),
        ("127.0.0.1", "mode: verify-full, ca: OURS", "app", false),
        ("localhost", "mode: verify-full, ca: OURS", "app", true),
        ("127.0.0.1", "mode: verify-full, ca: OURS, name: localhost", "app", true),
        ("127.0.0.1", "mode: require", "open", false),
        ("127.0.0.1", "mode: require, SHOWN", "open", true),
        // Before PostgreSQL 17 a handshake is a broken packet.
        ("127.0.0.1", DIRECT, "app", false),
    ];
    let ways: Vec<_> = table.iter().map(|(host, tls, ..)| (*host, *tls)).collect();
    let (_server, pooler) = start(&ways).await;
    let mut version = 0;
    for (n, (host, tls, user, lawful)) in table.into_iter().enumerate() {
        let lawful = lawful || (tls == DIRECT && version >= 17);
        let reached = connect(&pooler.config(user, PASSWORD, &format!("d{n}"))).await;
        match (reached, lawful) {
            (Ok(client), true) => {
                let sql = "select ssl, current_setting('server_version_num')::int / 10000
                           from pg_stat_ssl where pid = pg_backend_pid()";
                let row = client.query_one(sql, &[]).await.expect("row");
                assert!(row.get::<_, bool>(0), "{host} {tls} {user}: in clear");
                version = row.get::<_, i32>(1);
            }
            (Err(fault), false) => assert_eq!(code(&fault), "57P03", "{host} {tls} {user}"),
            (Ok(_), false) => panic!("{host} {tls} {user} was let in"),
            (Err(fault), true) => panic!("{host} {tls} {user}: {fault:?}"),
        }
    }
}

/// P7: a cancel request goes the way of the query that it ends.
#[tokio::test]
async fn cancels_are_encrypted_too() {
    let (_server, pooler) = start(&[("localhost", "mode: verify-full, ca: OURS")]).await;
    let client = connect(&pooler.config("app", PASSWORD, "d0")).await.expect("a client");
    for _ in 0..3 {
        let token = client.cancel_token();
        let over = std::cell::Cell::new(false);
        let cancel = async {
            while !over.get() {
                let _ = token.cancel_query(NoTls).await;
                tokio::task::yield_now().await;
            }
        };
        let query = async {
            let fault = client.batch_execute("select pg_sleep(100)").await;
            over.set(true);
            assert_eq!(code(&fault.expect_err("cancelled")), "57014");
        };
        tokio::join!(cancel, query);
    }
}

/// Turns a server's TLS on; nobody must use it.
pub(crate) async fn encrypted(server: &Postgres) {
    let ours = authority();
    let (chain, key) = certificate(&ours, "localhost", "localhost");
    server.encrypt(&chain, &key, &ours.pem(), "host all all all scram-sha-256\n").await;
}

/// A server's certificate as PostgreSQL's manual says (§19.9.5): one that it has signed itself, or one by an
/// authority of its own; `None` without `openssl`.
fn by_the_manual(authority: bool) -> Option<Shown> {
    let folder = tempfile::tempdir().expect("folder");
    let openssl = |line: &str| {
        let mut command = std::process::Command::new("openssl");
        let made = command.args(line.split(' ')).current_dir(folder.path()).output().ok()?;
        assert!(made.status.success(), "{line}: {}", String::from_utf8_lossy(&made.stderr));
        Some(())
    };
    if authority {
        openssl("req -new -nodes -text -out root.csr -keyout root.key -subj /CN=root.internal")?;
        openssl(
            "x509 -req -in root.csr -text -days 3650 -extfile /etc/ssl/openssl.cnf \
             -extensions v3_ca -signkey root.key -out root.crt",
        )?;
        openssl("req -new -nodes -text -out server.csr -keyout server.key -subj /CN=localhost")?;
        openssl(
            "x509 -req -in server.csr -text -days 365 -CA root.crt -CAkey root.key \
             -CAcreateserial -out server.crt",
        )?;
    } else {
        openssl(
            "req -new -x509 -days 365 -nodes -text -out server.crt -keyout server.key \
             -subj /CN=localhost",
        )?;
    }
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("made");
    let ca = if authority { "root.crt" } else { "server.crt" };
    Some(Shown { chain: read("server.crt"), key: read("server.key"), ca: read(ca) })
}

/// The same shape: an authority for its own sake, with a common name alone.
fn of_its_own() -> Shown {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let chain = params.self_signed(&key).expect("made").pem();
    Shown { ca: chain.clone(), chain, key: key.serialize_pem() }
}

/// P4: certificates made as PostgreSQL's manual says do, by themselves, by their authority (then they are of
/// version 1) and by their common name; others do not.
#[tokio::test]
async fn servers_with_certificates_of_the_manual() {
    let table = [
        ("localhost", "mode: require", true),
        ("localhost", "mode: require, ca: OURS", true),
        ("127.0.0.1", "mode: verify-ca, ca: OURS", true),
        ("localhost", "mode: verify-full, ca: OURS", true),
        ("127.0.0.1", "mode: verify-full, ca: OURS", false),
        ("localhost", "mode: verify-ca, ca: OTHERS", false),
        ("localhost", "mode: verify-full, ca: OTHERS", false),
    ];
    let ways: Vec<_> = table.iter().map(|(host, tls, _)| (*host, *tls)).collect();
    let all = [Some(of_its_own()), by_the_manual(false), by_the_manual(true)];
    for (kind, shown) in all.into_iter().enumerate() {
        let Some(shown) = shown else { continue };
        let (_server, pooler) = start_with(&shown, &authority(), &ways).await;
        for (n, (host, tls, lawful)) in table.into_iter().enumerate() {
            let reached = connect(&pooler.config("app", PASSWORD, &format!("d{n}"))).await;
            assert_eq!(reached.is_ok(), lawful, "{kind}: {host} {tls}: {:?}", reached.err());
        }
    }
}
