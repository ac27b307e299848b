//! Who gets in, and what the others are told. Not for what happens afterwards. Real PostgreSQL.
//!
//! Invariant: a refusal names no more than the client said itself.

use pgpool_wire::backend::{Authentication, Fields};
use pgpool_wire::frame::{self, Found};
use pgpool_wire::frontend::put_sasl_initial;
use pgpool_wire::sasl::{SCRAM, ServerFirst};
use pgpool_wire::startup::{V3_0, Version, put_startup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::pooler::{Pooler, Setup, certificates, code, connect};
use crate::postgres::{PASSWORD, Postgres};

/// P4: SCRAM by verifier (the client's own proof logs in to the server), by password, md5 and
/// trust, on both sides.
#[tokio::test]
async fn every_kind_of_secret_logs_in() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    for user in ["app", "other", "legacy", "open"] {
        let client = pooler.client(user).await;
        let row = client.query_one("select current_user::text", &[]).await.expect("answer");
        assert_eq!(row.get::<_, String>(0), user);
    }
}

/// P4, O5: wrong password, unknown user, unknown database and unreachable server are told apart
/// as PostgreSQL does, and no further.
#[tokio::test]
async fn refusals_are_clear() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    for (user, password, database, expected) in [
        ("app", "wrong", "shop", "28P01"),
        ("legacy", "wrong", "shop", "28P01"),
        ("nobody", PASSWORD, "shop", "28P01"),
        ("app", PASSWORD, "missing", "3D000"),
        ("app", "wrong", "missing", "28P01"),
        ("app", PASSWORD, "nowhere", "57P03"),
        ("app", PASSWORD, "pgbouncer", "28000"),
    ] {
        let fault = connect(&pooler.config(user, password, database)).await;
        let fault = fault.err().unwrap_or_else(|| panic!("{user} got into {database}"));
        assert_eq!(code(&fault), expected, "{user} {database}: {fault:?}");
    }
}

/// P1: a client of a later minor version is told what is spoken, and goes on.
#[tokio::test]
async fn versions_are_negotiated() {
    use pgpool_wire::startup::{Version, put_startup};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let mut socket =
        tokio::net::TcpStream::connect(("127.0.0.1", pooler.port)).await.expect("open");
    let mut hello = Vec::new();
    let version = Version { major: 3, minor: 9 };
    put_startup(&mut hello, version, &[("user", "open"), ("database", "shop"), ("_pq_.x", "1")]);
    socket.write_all(&hello).await.expect("sent");
    let mut front = [0; 17];
    socket.read_exact(&mut front).await.expect("answer");
    assert_eq!(front[0], b'v');
    assert_eq!(&front[5..9], &[0, 3, 0, 2], "3.2 is the newest that we speak");
    assert_eq!(&front[9..13], &[0, 0, 0, 1], "one unknown option");
}

/// P4, P1: over TLS, with the login bound to the channel (SCRAM-SHA-256-PLUS), by libpq; and the
/// TLS client's session moves to its home worker.
#[tokio::test]
async fn tls_with_channel_binding() {
    let server = Postgres::start().await;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("certificate");
    let pem = (made.cert.pem(), made.signing_key.serialize_pem());
    let pooler = Pooler::start(&server, Setup { tls: Some(pem), ..Setup::default() }).await;
    for (user, options) in [
        ("app", "sslmode=require channel_binding=require"),
        ("other", "sslmode=require channel_binding=disable"),
        ("legacy", "sslmode=require"),
        ("open", "sslmode=disable"),
    ] {
        let target =
            format!("host=127.0.0.1 port={} dbname=shop user={user} {options}", pooler.port);
        let output = tokio::process::Command::new("psql")
            .args(["-X", "-A", "-t", "-d", &target, "-c", "select 'in as ' || current_user"])
            .env("PGPASSWORD", PASSWORD)
            .output()
            .await
            .expect("psql runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let fault = String::from_utf8_lossy(&output.stderr);
        assert_eq!(text.trim(), format!("in as {user}"), "{options}: {fault}");
    }
}

/// P1, P4: TLS from the first byte on, under PostgreSQL's name and no other; `sslmode: require` refuses
/// who comes without.
#[tokio::test]
async fn tls_from_the_first_byte() {
    use pgpool_wire::startup::{V3_0, put_startup};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
    let server = Postgres::start().await;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("certificate");
    let pem = (made.cert.pem(), made.signing_key.serialize_pem());
    let setup = Setup { tls: Some(pem), group: "\n    sslmode: require", ..Setup::default() };
    let pooler = Pooler::start(&server, setup).await;
    for (names, inside) in [(vec![b"postgresql".to_vec()], true), (Vec::new(), false)] {
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("an authority");
        let provider = std::sync::Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().expect("versions");
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = names;
        let connector = TlsConnector::from(std::sync::Arc::new(config));
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", pooler.port)).await;
        let name = "localhost".try_into().expect("a name");
        let mut tls = connector.connect(name, socket.expect("open")).await.expect("a handshake");
        let mut hello = Vec::new();
        put_startup(&mut hello, V3_0, &[("user", "open"), ("database", "shop")]);
        // Who is refused may be gone already.
        let _ = tls.write_all(&hello).await;
        let mut first = [0];
        let read = tls.read(&mut first).await;
        assert_eq!(matches!(read, Ok(1)) && first == *b"R", inside, "{read:?} {first:?}");
    }
    let fault = connect(&pooler.config("open", "", "shop")).await.expect_err("it came without");
    assert_eq!(code(&fault), "28000");
}

/// P4, O3, O5: passwords in clear over TLS alone, certificates beside a password and by map, and who fits no
/// rule stays out; changed rules hold from the next login on, and broken ones leave those that held.
#[tokio::test]
async fn rules_decide_who_logs_in_how() {
    let server = Postgres::start().await;
    let folder = tempfile::tempdir().expect("folder");
    certificates(folder.path());
    let at = folder.path().display();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("written");
    };
    write("hba", "host all all 127.0.0.1/32 password\n");
    write("ident", "names /^a(pp)$ other\n");
    let group = format!(
        "\n    tls: {{ certificates: [{{ chain: \"file:{at}/chain.pem\", key: \"file:{at}/key.pem\" }}], \
         client-ca: \"file:{at}/ca.pem\", client-certificates: optional }}\n    \
         hba: \"file:{at}/hba\"\n    ident: \"file:{at}/ident\""
    );
    let pooler = Pooler::start(&server, Setup { group: &group, ..Setup::default() }).await;
    let own = format!("sslmode=require sslcert={at}/app.pem sslkey={at}/app.key");
    let none = "sslmode=require sslcert=none";
    let in_clear = "in clear is taken with TLS alone";
    let login = async |user: &str, password: &str, options: &str, refusal: &str| {
        let target =
            format!("host=127.0.0.1 port={} dbname=shop user={user} {options}", pooler.port);
        let mut psql = tokio::process::Command::new("psql");
        psql.args(["-X", "-A", "-t", "-d", &target, "-c", "select 'in as ' || current_user"]);
        let output = psql.env("PGPASSWORD", password).output().await.expect("psql runs");
        let fault = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), refusal.is_empty(), "{user} {options}: {fault}");
        assert!(fault.contains(refusal), "{user} {options}: {fault}");
    };
    for user in ["app", "other", "legacy"] {
        login(user, PASSWORD, none, "").await;
        login(user, "wrong", none, "password authentication failed").await;
        login(user, PASSWORD, "sslmode=disable", in_clear).await;
    }
    for user in ["open", "nobody"] {
        login(user, PASSWORD, none, "password authentication failed").await;
    }
    write(
        "hba",
        "hostssl shop app    127.0.0.1/32 scram-sha-256 clientcert=verify-full
hostssl shop legacy 127.0.0.1/32 md5 clientcert=verify-full
hostssl shop other  127.0.0.1/32 cert map=names
host    shop other  127.0.0.1/32 reject
host    shop all    10.0.0.0/8   trust
host    shop nobody 127.0.0.1/32 md5
",
    );
    pooler.reload().await.expect("lawful");
    let missing = "requires a valid client certificate";
    login("app", PASSWORD, &own, "").await;
    login("app", "wrong", &own, "password authentication failed").await;
    login("app", PASSWORD, none, missing).await;
    login("legacy", PASSWORD, &own, "certificate authentication failed").await;
    login("other", "wrong", &own, "").await;
    login("other", PASSWORD, none, missing).await;
    for user in ["app", "other", "open"] {
        login(user, PASSWORD, "sslmode=disable", "no pg_hba.conf entry").await;
    }
    login("nobody", PASSWORD, "sslmode=disable", "password authentication failed").await;
    write("hba", "host all all all trust\nhost all all all ldap\n");
    let fault = pooler.reload().await.expect_err("a method that is not spoken");
    assert!(fault.contains("line 2: the method ldap"), "{fault}");
    login("open", PASSWORD, "sslmode=disable", "no pg_hba.conf entry").await;
}

/// O5: what is no login is refused at once, with a reason, and the next client is served; nobody has to hang up for
/// it, and no time has to pass.
#[tokio::test]
async fn hostile_openings() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let ssl = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
    let packet = |version, parameters: &[(&str, &str)]| {
        let mut out = Vec::new();
        put_startup(&mut out, version, parameters);
        out
    };
    let mut unended = packet(V3_0, &[("user", "open")]);
    *unended.last_mut().expect("a last byte") = b'x';
    let openings: [&[u8]; 11] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0xff; 64],
        &[0, 0, 0, 4],
        &[0, 0, 0, 7, 0, 0, 0],
        &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0],
        &[&ssl[..], b"select 1"].concat(),
        // A request for TLS that is longer than one.
        &[0, 0, 0, 12, 4, 0xd2, 0x16, 0x2f, 1, 2, 3, 4],
        &packet(Version { major: 2, minor: 0 }, &[("user", "open")]),
        &packet(V3_0, &[("user", "open"), ("user", "root")]),
        &packet(V3_0, &[("database", "shop")]),
        &unended,
    ];
    for opening in openings {
        let mut socket = TcpStream::connect(("127.0.0.1", pooler.port)).await.expect("open");
        socket.write_all(opening).await.expect("sent");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.expect("an end");
        let Ok(Found::Whole(found)) = frame::next(&answer, 1 << 16) else {
            panic!("{opening:?}: {answer:?}")
        };
        assert_eq!((found.tag, found.raw.len()), (b'E', answer.len()), "{opening:?}");
        let said = Fields::new(found.body);
        // Not what a login says that takes too long.
        let code = said.code().map(|code| code.to_string());
        assert_eq!(code.as_deref(), Some("08P01"), "{opening:?}: {}", said.message());
    }
    // Who is answered and leaves is no fault.
    let mut socket = TcpStream::connect(("127.0.0.1", pooler.port)).await.expect("open");
    socket.write_all(&ssl).await.expect("sent");
    socket.shutdown().await.expect("half closed");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.expect("an end");
    assert_eq!(answer, b"N");
    pooler.client("app").await.query_one("select 1", &[]).await.expect("served");
}

/// P2: one client more than `max_client_conn` is refused; when one leaves there is room again. A cancel
/// request needs no room.
#[tokio::test]
async fn max_client_conn() {
    let server = Postgres::start().await;
    let setup = Setup { settings: "max_client_conn: 2", ..Setup::default() };
    let pooler = Pooler::start(&server, setup).await;
    let config = pooler.config("app", PASSWORD, "shop");
    let (one, two) = (connect(&config).await.expect("room"), connect(&config).await.expect("room"));
    let fault = connect(&config).await.expect_err("full");
    assert_eq!(code(&fault), "53300");
    two.cancel_token().cancel_query(tokio_postgres::NoTls).await.expect("taken");
    drop(one);
    while connect(&config).await.is_err() {}
    two.query_one("select 1", &[]).await.expect("served");
}

/// P1, O5: with TLS at hand, what comes in clear behind a request for it is refused before a handshake
/// (CVE-2021-23214), and requests without end are refused as well; nobody has to hang up for it.
#[tokio::test]
async fn openings_before_tls() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Postgres::start().await;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("certificate");
    let pem = (made.cert.pem(), made.signing_key.serialize_pem());
    let encrypts = Pooler::start(&server, Setup { tls: Some(pem), ..Setup::default() }).await;
    let plain = Pooler::start(&server, Setup::default()).await;
    let (ssl, gss) = ([0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], [0, 0, 0, 8, 4, 0xd2, 0x16, 0x30]);
    let mut hello = Vec::new();
    let who = [("user", "open"), ("database", "shop")];
    pgpool_wire::startup::put_startup(&mut hello, pgpool_wire::startup::V3_0, &who);
    for request in [ssl, gss] {
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", encrypts.port)).await;
        let mut socket = socket.expect("open");
        socket.write_all(&[&request[..], &hello].concat()).await.expect("sent");
        let mut answer = Vec::new();
        // A reset is an end as well.
        let _ = socket.read_to_end(&mut answer).await;
        assert!(answer.is_empty() || answer[0] == b'E', "no S, no N: {answer:?}");
    }
    for requests in [[ssl; 2], [gss; 2], [ssl, gss]] {
        let mut socket =
            tokio::net::TcpStream::connect(("127.0.0.1", plain.port)).await.expect("open");
        let mut refusals = 0;
        let last = 'asked: loop {
            for request in requests {
                let mut answer = [0];
                if socket.write_all(&request).await.is_err()
                    || !matches!(socket.read(&mut answer).await, Ok(1))
                {
                    break 'asked b'E';
                }
                if answer != *b"N" {
                    break 'asked answer[0];
                }
                refusals += 1;
                assert!(refusals < 100, "it would go on for ever");
            }
        };
        assert_eq!(last, b'E');
    }
}

/// P2, P6: where clients have taken all places, consoles still get in, so many and no more; their places are given
/// back.
#[tokio::test]
async fn consoles_get_in_where_all_places_are_taken() {
    let server = Postgres::start().await;
    let setup = Setup { settings: "max_client_conn: 1", ..Setup::default() };
    let pooler = Pooler::start(&server, setup).await;
    let client = pooler.client("app").await;
    let console = pooler.config("root", crate::postgres::ROOT_PASSWORD, "pgbouncer");
    let mut consoles = Vec::new();
    let refused = loop {
        match connect(&console).await {
            Ok(inside) => consoles.push(inside),
            Err(fault) => break fault,
        }
        assert!(consoles.len() < 100, "there is an end to it");
    };
    assert_eq!((consoles.len(), code(&refused).as_str()), (8, "53300"));
    consoles[0].batch_execute("SHOW CLIENTS").await.expect("shown");
    let fault = connect(&pooler.config("app", PASSWORD, "shop")).await.expect_err("full");
    assert_eq!(code(&fault), "53300");
    let fault = connect(&pooler.config("root", "wrong", "pgbouncer")).await.expect_err("full");
    assert_eq!(code(&fault), "53300");
    consoles.pop();
    while connect(&console).await.is_err() {}
    client.query_one("select 1", &[]).await.expect("served");
}

/// P4: verifiers of any number of iterations let their clients in, to servers as well; from a password keys are
/// derived for as many as are advised.
#[tokio::test]
async fn verifiers_of_many_iterations_log_in() {
    let server = Postgres::start().await;
    let salt = b"0123456789abcdef";
    let verifier = pgpool::scram::Verifier::derive(PASSWORD, salt, 150_000).text();
    let root = server.root().await;
    let sql = format!(
        "create role often login password '{verifier}'; create role plain login password '{verifier}'"
    );
    root.batch_execute(&sql).await.expect("roles");
    let pooler = Pooler::start(&server, Setup::default()).await;
    let folder = pooler.file().parent().expect("a folder").to_owned();
    std::fs::write(folder.join("often"), &verifier).expect("written");
    pooler.rewrite(|text| {
        let more =
            "open: {}\n      often: { secret: file:often }\n      plain: { secret: file:other }";
        text.replace("open: {}", more)
    });
    pooler.reload().await.expect("lawful");
    for user in ["often", "plain"] {
        // The driver of other tests has a bound of its own.
        let target = format!("host=127.0.0.1 port={} dbname=shop user={user}", pooler.port);
        let mut psql = tokio::process::Command::new("psql");
        psql.args(["-X", "-A", "-t", "-d", &target, "-c", "select current_user"]);
        let output = psql.env("PGPASSWORD", PASSWORD).output().await.expect("psql runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text.trim(), user, "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What a role is asked for: salt and iterations.
async fn asked(port: u16, user: &str) -> (String, u32) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.expect("open");
    let (mut hello, mut initial, mut input) = (Vec::new(), Vec::new(), Vec::new());
    put_startup(&mut hello, V3_0, &[("user", user), ("database", "shop")]);
    put_sasl_initial(&mut initial, SCRAM, b"n,,n=,r=abc");
    for message in [hello, initial] {
        socket.write_all(&message).await.expect("sent");
        loop {
            if let Found::Whole(found) = frame::next(&input, 1 << 16).expect("a message") {
                let body = found.body.to_vec();
                let used = found.raw.len();
                input.drain(..used);
                let said = Authentication::read(&body).expect("a question");
                if let Authentication::SaslContinue(said) = said {
                    let said = ServerFirst::read(said, "abc", u32::MAX).expect("a challenge");
                    return (said.salt.to_owned(), said.iterations);
                }
                break;
            }
            assert!(socket.read_buf(&mut input).await.expect("more") > 0, "an answer");
        }
    }
    panic!("no challenge");
}

/// P4: who does not exist is asked as those are who do: with their iterations, and with a salt that stays the same, over
/// a reload as well, as that of a plain password does.
#[tokio::test]
async fn strangers_are_asked_as_the_known_are() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let before = (asked(pooler.port, "other").await, asked(pooler.port, "nobody").await);
    assert_eq!((before.0.1, before.1.1), (4096, 4096));
    pooler.reload().await.expect("lawful");
    let after = (asked(pooler.port, "other").await, asked(pooler.port, "nobody").await);
    assert_eq!(before, after);
    let folder = pooler.file().parent().expect("a folder").to_owned();
    let verifier = pgpool::scram::Verifier::derive(PASSWORD, b"0123456789abcdef", 20_000).text();
    for name in ["app", "other", "root"] {
        std::fs::write(folder.join(name), &verifier).expect("written");
    }
    pooler.reload().await.expect("lawful");
    for user in ["app", "nobody", "somebody"] {
        let first = asked(pooler.port, user).await;
        assert_eq!(first.1, 20_000, "{user}");
        assert_eq!(first, asked(pooler.port, user).await, "{user}");
    }
}
