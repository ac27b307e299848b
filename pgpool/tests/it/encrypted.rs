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

/// A server that lets nobody in without TLS but the tests' own connections, and a pooler with one
/// database per host and way of reaching it: `d0`, `d1`, …
async fn start(ways: &[(&str, &str)]) -> (Postgres, Pooler) {
    let server = Postgres::start().await;
    let (ours, others) = (authority(), authority());
    let (chain, key) = certificate(&ours, "localhost", "localhost");
    let hba = "host all root all scram-sha-256\nhostssl all open all cert\n\
               hostssl all all all scram-sha-256\n";
    server.encrypt(&chain, &key, &ours.pem(), hba).await;
    let folder = server.sockets();
    let (chain, key) = certificate(&ours, "client", "open");
    for (name, text) in
        [("ca", ours.pem()), ("other", others.pem()), ("own.pem", chain), ("own.key", key)]
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
        ("127.0.0.1", "mode: prefer", "app", false),
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
