//! Who gets in, and what the others are told. Not for what happens afterwards. Real PostgreSQL.
//!
//! Invariant: a refusal names no more than the client said itself.

use crate::pooler::{Pooler, Setup, code, connect};
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
