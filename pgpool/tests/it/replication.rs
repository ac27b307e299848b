//! Clients that replicate: a server of their own, counted and never shared, and a stream both ways. Real
//! PostgreSQL, and a fake one where limits and the drain are the question.
//!
//! Invariant: no test waits for wall time.

use std::sync::atomic::Ordering;

use pgpool_wire::frame;

use crate::fake::{Bench, local};
use crate::pooler::{Pooler, Setup};
use crate::postgres::Postgres;
use crate::raw::{Raw, bare, columns, query, tags};

/// How many rows of a table of the admin database say `physical`.
async fn shown(console: &tokio_postgres::Client, table: &str) -> usize {
    let rows = console.simple_query(&format!("show {table}")).await.expect("a table");
    let physical = |message: &tokio_postgres::SimpleQueryMessage| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get("replication") == Some("physical"),
        _ => false,
    };
    rows.iter().filter(|message| physical(message)).count()
}

/// A standby's word on how far it is, which asks for an answer.
fn status() -> Vec<u8> {
    let mut out = Vec::new();
    frame::put(&mut out, b'd', |out| {
        out.push(b'r');
        out.extend([0; 32]);
        out.push(1);
    });
    out
}

/// P1: physical replication: the stream passes both ways, under the name by which a primary knows its
/// standbys, over a server of its own that goes with the client.
#[tokio::test]
async fn physical_replication_passes() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 2, ..Setup::default() }).await;
    replicate(&server, &pooler).await;
}

/// P1, P2: the same in a pool that is spread over workers, on each of them, though all places are taken by servers
/// that rest at the other one.
#[tokio::test]
async fn replication_passes_on_all_shards() {
    let server = Postgres::start().await;
    let setup = Setup { size: 2, more: ", pool-shards: 2", ..Setup::default() };
    let pooler = Pooler::start(&server, setup).await;
    for _ in 0..2 {
        // Two that work at a time: both places are taken.
        let clients = [pooler.client("open").await, pooler.client("open").await];
        for client in &clients {
            client.batch_execute("begin").await.expect("a server");
        }
        for client in &clients {
            client.batch_execute("commit").await.expect("it rests");
        }
        replicate(&server, &pooler).await;
        // The next one comes to the other worker.
        pooler.client("open").await;
    }
}

async fn replicate(server: &Postgres, pooler: &Pooler) {
    let root = server.root().await;
    root.batch_execute("alter role open replication").await.expect("altered");
    let asked = [("replication", "true"), ("application_name", "standby_1")];
    let mut raw = Raw::login_with(pooler.port, &asked).await;
    raw.send(&query("IDENTIFY_SYSTEM")).await;
    let messages = raw.until_ready(1).await;
    assert_eq!(tags(&messages), "TDCZ");
    let position = columns(&messages[1].1)[2].clone();
    raw.send(&query(&format!("START_REPLICATION PHYSICAL {position}"))).await;
    assert_eq!(raw.message().await.map(|(tag, _)| tag), Some(b'W'));
    root.batch_execute("insert into t values (7, 'seven')").await.expect("inserted");
    let mut written = false;
    while !written {
        let (tag, body) = raw.message().await.expect("the stream goes on");
        assert_eq!(tag, b'd');
        written = body[0] == b'w';
    }
    raw.send(&status()).await;
    let mut answered = false;
    while !answered {
        let (_, body) = raw.message().await.expect("the stream goes on");
        answered = body[0] == b'k';
    }
    let known = "select count(*) from pg_stat_replication where application_name = 'standby_1'";
    assert_eq!(root.query_one(known, &[]).await.expect("row").get::<_, i64>(0), 1);
    let console = pooler.console().await;
    assert_eq!((shown(&console, "servers").await, shown(&console, "clients").await), (1, 1));
    // Others are served meanwhile, by another server.
    let client = pooler.client("open").await;
    client.query_one("select 1", &[]).await.expect("row");
    raw.send(&bare(b'c')).await;
    let ended = tags(&raw.until_ready(1).await);
    assert!(ended.trim_start_matches('d').starts_with('c') && ended.ends_with("CZ"), "{ended}");
    raw.send(&query("IDENTIFY_SYSTEM")).await;
    assert_eq!(tags(&raw.until_ready(1).await), "TDCZ", "the connection goes on");
    drop(raw);
    while shown(&console, "servers").await > 0 {}
    let left = "select count(*) from pg_stat_activity where backend_type = 'walsender'";
    while root.query_one(left, &[]).await.expect("row").get::<_, i64>(0) > 0 {}
}

/// P1, P3, P4: logical replication connections run SQL as well, in a session that nobody shares; who may not
/// replicate is told what PostgreSQL says.
#[tokio::test]
async fn logical_replication_has_a_session_of_its_own() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let login = |value: &str| {
        let mut hello = Vec::new();
        let who = [("user", "open"), ("database", "shop"), ("replication", value)];
        pgpool_wire::startup::put_startup(&mut hello, pgpool_wire::startup::V3_0, &who);
        hello
    };
    let refused = async |value: &str| {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket =
            tokio::net::TcpStream::connect(("127.0.0.1", pooler.port)).await.expect("open");
        socket.write_all(&login(value)).await.expect("sent");
        let mut told = Vec::new();
        socket.read_to_end(&mut told).await.expect("read");
        String::from_utf8_lossy(&told).into_owned()
    };
    let told = refused("database").await;
    // PostgreSQL 15 and 18 say it so.
    let words = ["must be superuser or replication role", "permission denied to start WAL sender"];
    assert!(words.iter().any(|said| told.contains(said)), "{told}");
    let told = refused("perhaps").await;
    assert!(told.contains("08P01") && told.contains("invalid value for parameter"), "{told}");

    server.root().await.batch_execute("alter role open replication").await.expect("altered");
    let mut raw =
        Raw::login_with(pooler.port, &[("replication", "database"), ("work_mem", "77kB")]).await;
    let shows = query("select current_setting('work_mem'), current_database()");
    raw.send(&shows).await;
    let messages = raw.until_ready(1).await;
    assert_eq!(columns(&messages[1].1), ["77kB", "shop"]);
    raw.ask(&query("create temp table mine (a int)")).await;
    let (tags_seen, _) = raw.ask(&query("IDENTIFY_SYSTEM")).await;
    assert_eq!(tags_seen, "TDCZ");
    drop(raw);
    let client = pooler.client("open").await;
    let row = client.query_one("select current_setting('work_mem')", &[]).await.expect("row");
    assert_eq!(row.get::<_, String>(0), "4MB");
    client.batch_execute("select * from mine").await.expect_err("gone with its client");
}

/// P2: who replicates counts in the pool: an idle server makes room, never one too many is connected, and
/// whoever comes then waits, to replicate or to ask.
#[tokio::test(start_paused = true)]
async fn replication_counts_in_the_pool() {
    local(async {
        let bench = Bench::new(1, "query_wait_timeout: 3s");
        let mut one = bench.client().await;
        assert_eq!(one.ask("select").await, "CZ");
        let mut copies = bench.arrive(&[("replication", "true")]);
        assert_eq!(copies.answer().await, "RSSKZ");
        assert_eq!(one.ask("select").await, "53300$", "the only server is taken");
        let mut next = bench.arrive(&[("replication", "true")]);
        let waits = std::time::Duration::from_secs(1);
        assert!(tokio::time::timeout(waits, next.answer()).await.is_err(), "its turn comes later");
        assert_eq!(copies.ask("select").await, "CZ");
        drop(copies);
        assert_eq!(next.answer().await, "RSSKZ");
        let mut two = bench.client().await;
        let served = tokio::join!(two.ask("select"), async { drop(next) });
        assert_eq!(served.0, "CZ");
        assert_eq!(bench.fake.most.load(Ordering::SeqCst), 1);
    })
    .await;
}

/// P7: in a drain a stream is ended between two messages, and a command under way may finish.
#[tokio::test(start_paused = true)]
async fn streams_end_with_the_instance() {
    local(async {
        let bench = Bench::new(3, "");
        let mut streams = bench.arrive(&[("replication", "true")]);
        let mut rests = bench.arrive(&[("replication", "database")]);
        let mut works = bench.arrive(&[("replication", "true")]);
        for client in [&mut streams, &mut rests, &mut works] {
            assert_eq!(client.answer().await, "RSSKZ");
        }
        streams.send("stream").await;
        works.send("hang").await;
        bench.lifecycle.drain();
        assert_eq!(streams.answer().await, "Wd57P01$");
        assert_eq!(rests.answer().await, "57P01$");
        let a_while = std::time::Duration::from_secs(5);
        assert!(tokio::time::timeout(a_while, works.answer()).await.is_err(), "it may finish");
    })
    .await;
}

/// P8: `SUSPEND` has nothing to wait for in who replicates; `PAUSE` ends the stream, so that the database can be
/// left alone.
#[tokio::test]
async fn pauses_wait_for_no_stream() {
    let server = Postgres::start().await;
    let root = server.root().await;
    root.batch_execute("alter role open replication").await.expect("altered");
    let pooler = Pooler::start(&server, Setup { size: 2, ..Setup::default() }).await;
    let mut raw = Raw::login_with(pooler.port, &[("replication", "true")]).await;
    raw.send(&query("IDENTIFY_SYSTEM")).await;
    assert_eq!(tags(&raw.until_ready(1).await), "TDCZ");
    let console = pooler.console().await;
    console.batch_execute("suspend").await.expect("suspended");
    console.batch_execute("resume").await.expect("resumed");
    raw.send(&query("IDENTIFY_SYSTEM")).await;
    assert_eq!(tags(&raw.until_ready(1).await), "TDCZ", "it goes on");
    console.batch_execute("pause shop").await.expect("paused");
    let (tag, body) = raw.message().await.expect("a word");
    assert_eq!(tag, b'E');
    assert!(crate::raw::text(&[(tag, body)]).contains("57P01"));
}
