//! Many clients over few servers: exact limits, affinity, modes, COPY, pipelines, large values.
//! Not for faults. Real PostgreSQL.
//!
//! Invariant: what a client reads is what PostgreSQL alone would have told it.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, TryStreamExt};

use crate::pooler::{Pooler, Setup, code};
use crate::postgres::Postgres;

/// P2: 300 clients over a pool of 20; PostgreSQL never sees more than 20, and a transaction stays
/// on one server.
#[tokio::test]
async fn three_hundred_clients_over_twenty_servers() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 20, ..Setup::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(pooler.client("app").await);
    }
    let work = clients.iter_mut().map(|client| async {
        let mut most = 0;
        for _ in 0..3 {
            let transaction = client.transaction().await.expect("begin");
            let pid = "select pg_backend_pid()";
            let first: i32 = transaction.query_one(pid, &[]).await.expect("pid").get(0);
            let seen = "select count(*) from pg_stat_activity where usename = 'app'";
            let seen: i64 = transaction.query_one(seen, &[]).await.expect("count").get(0);
            let last: i32 = transaction.query_one(pid, &[]).await.expect("pid").get(0);
            assert_eq!(first, last, "a transaction stays on its server");
            most = most.max(seen);
            transaction.commit().await.expect("commit");
        }
        most
    });
    let most = futures_util::future::join_all(work).await.into_iter().max();
    assert!(most <= Some(20), "PostgreSQL saw {most:?} servers");
}

/// P2: in session mode a client keeps its server; in statement mode a transaction is refused.
#[tokio::test]
async fn modes() {
    let server = Postgres::start().await;
    let session = Pooler::start(&server, Setup { mode: "session", ..Setup::default() }).await;
    let client = session.client("app").await;
    client
        .batch_execute("create temp table mine (a int); set work_mem = '77kB'")
        .await
        .expect("ok");
    client.batch_execute("insert into mine values (1)").await.expect("still there");
    drop(client);
    let next = session.client("app").await;
    let row = next.query_one("select current_setting('work_mem')", &[]).await.expect("row");
    assert_ne!(row.get::<_, String>(0), "77kB");
    next.batch_execute("select * from mine").await.expect_err("gone with its client");

    let statement = Pooler::start(&server, Setup { mode: "statement", ..Setup::default() }).await;
    let client = statement.client("app").await;
    client.batch_execute("select 1").await.expect("a statement");
    let fault = client.batch_execute("begin").await.expect_err("no transactions");
    assert_eq!(code(&fault), "0A000");
}

/// P1: COPY both ways, and a failing one, each followed by ordinary queries on the same client.
#[tokio::test]
async fn copy() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let client = pooler.client("app").await;
    let sink = client.copy_in("copy t from stdin").await.expect("copy in");
    let mut sink = Box::pin(sink);
    for n in 0..2000 {
        let line = Bytes::from(format!("{n}\t{}\n", "x".repeat(100)));
        sink.send(line).await.expect("sent");
    }
    assert_eq!(sink.as_mut().finish().await.expect("finished"), 2000);
    let out = client.copy_out("copy t to stdout").await.expect("copy out");
    let chunks: Vec<Bytes> = out.try_collect().await.expect("read");
    assert_eq!(
        chunks.iter().map(Bytes::len).sum::<usize>(),
        2000 * 102 + 10 + 90 * 2 + 900 * 3 + 1000 * 4
    );

    let sink = client.copy_in("copy t from stdin").await.expect("copy in");
    let mut sink = Box::pin(sink);
    sink.send(Bytes::from_static(b"not a number\tx\n")).await.expect("sent");
    sink.as_mut().finish().await.expect_err("PostgreSQL refuses it");
    let count = client.query_one("select count(*) from t", &[]).await.expect("count");
    assert_eq!(count.get::<_, i64>(0), 2000);
}

/// P1: many queries under way on one client, and values far larger than any buffer.
#[tokio::test]
async fn pipelines_and_large_values() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let client = pooler.client("app").await;
    let statement = client.prepare("select $1::int8 + 1").await.expect("prepared");
    let all =
        (0..500_i64).map(|n| {
            let (client, statement) = (&client, &statement);
            async move {
                client.query_one(statement, &[&n]).await.expect("row").get::<_, i64>(0) == n + 1
            }
        });
    assert!(futures_util::future::join_all(all).await.into_iter().all(|right| right));

    let large = "y".repeat(5 << 20);
    let row = client.query_one("select length($1::text), $1::text", &[&large]).await.expect("row");
    assert_eq!(row.get::<_, i32>(0), 5 << 20);
    assert!(row.get::<_, String>(1) == large);
    let literal = format!("select length('{large}')");
    let row = client.query_one(literal.as_str(), &[]).await.expect("a large unnamed statement");
    assert_eq!(row.get::<_, i32>(0), 5 << 20);
    client.batch_execute(&literal).await.expect("a large simple query");
    let many = client.query_raw("select generate_series(1, 200000)", Vec::<i32>::new()).await;
    let count =
        many.expect("rows").fold(0, |count, row| async move { count + row.map_or(0, |_| 1) });
    assert_eq!(count.await, 200_000);
}

/// P2, P7, T9: a server may be named, or have a socket of this host; cancels go the same way.
#[tokio::test]
async fn servers_by_name_and_by_socket() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 2, ..Setup::default() }).await;
    let number = format!("127.0.0.1:{}", server.port);
    let by_name = format!("localhost:{}", server.port);
    let by_socket = format!("unix:{}:{}", server.sockets().display(), server.port);
    let mut before = number.clone();
    let address = "select coalesce(host(inet_server_addr()), 'a socket')";
    for (written, reached) in
        [(by_name, "127.0.0.1"), (by_socket, "a socket"), (number, "127.0.0.1")]
    {
        pooler.rewrite(|text| text.replace(&before, &written));
        pooler.reload().await.unwrap_or_else(|fault| panic!("{fault}"));
        for user in ["app", "other", "open"] {
            let client = pooler.client(user).await;
            let row = client.query_one(address, &[]).await.expect("row");
            assert_eq!(row.get::<_, String>(0), reached, "{written}");
            let token = client.cancel_token();
            let over = std::cell::Cell::new(false);
            let cancel = async {
                while !over.get() {
                    token.cancel_query(tokio_postgres::NoTls).await.expect("sent");
                }
            };
            let query = async {
                let fault =
                    client.batch_execute("select pg_sleep(100)").await.expect_err("cancelled");
                over.set(true);
                assert_eq!(code(&fault), "57014");
            };
            tokio::join!(cancel, query);
        }
        before = written;
    }
}

/// P5: the replica alias goes to replicas alone, and past one that is down.
#[tokio::test]
async fn replicas() {
    let server = Postgres::start().await;
    let more = format!(", replicas: [127.0.0.1:1, 127.0.0.2:{}]", server.port);
    let pooler = Pooler::start(&server, Setup { more: &more, ..Setup::default() }).await;
    let config = pooler.config("app", crate::postgres::PASSWORD, "shop_ro");
    let client = crate::pooler::connect(&config).await.expect("a replica");
    let row = client.query_one("select host(inet_server_addr())", &[]).await.expect("row");
    assert_eq!(row.get::<_, String>(0), "127.0.0.2");
    let client = pooler.client("app").await;
    let row = client.query_one("select host(inet_server_addr())", &[]).await.expect("row");
    assert_eq!(row.get::<_, String>(0), "127.0.0.1");
}
