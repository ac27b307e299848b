//! What drivers hardly do and must not go wrong nonetheless: cancels with a wrong secret, function calls, long
//! cancel keys, three who wait. Not for hostile bytes: those are `faults` and `login`. Real PostgreSQL.
//!
//! Invariant: nothing here waits for a time: a state is asked for until it is there.

use pgpool_wire::frame;
use pgpool_wire::startup::{CancelKey, V3_2};

use crate::pooler::{Pooler, Setup};
use crate::postgres::Postgres;
use crate::raw::{self, Raw, query};

/// Asks until the admin database counts so many clients that wait.
async fn until_waiting(console: &tokio_postgres::Client, count: usize) {
    loop {
        let pools = console.simple_query("show pools").await.expect("pools");
        let waiting = pools.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                row.get("cl_waiting")?.parse::<usize>().ok()
            }
            _ => None,
        });
        if waiting.sum::<usize>() == count {
            return;
        }
    }
}

/// P7: the number of a client alone cancels nothing: whatever secret comes with it, the query goes on.
#[tokio::test]
async fn a_wrong_secret_reaches_nobody() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let root = server.root().await;
    root.batch_execute("select pg_advisory_lock(77)").await.expect("locked");
    let mut client = Raw::login(pooler.port).await;
    client.send(&query("select pg_advisory_lock_shared(77)")).await;
    let blocked = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
    let waits = async || -> i64 { root.query_one(blocked, &[]).await.expect("a row").get(0) };
    while waits().await == 0 {}
    let right = client.key.secret.clone();
    let mut flipped = right.clone();
    flipped[0] ^= 1;
    for secret in [flipped, right[..3].to_vec(), [&right[..], &[0]].concat(), vec![0; 32]] {
        Raw::cancel(pooler.port, &CancelKey { pid: client.key.pid, secret }).await;
        assert_eq!(waits().await, 1, "it goes on");
    }
    root.batch_execute("select pg_advisory_unlock(77)").await.expect("unlocked");
    let messages = client.until_ready(1).await;
    assert_eq!(raw::tags(&messages), "TDCZ", "{}", raw::text(&messages));
}

/// P1: a function call (manual, "Function Call") is answered, alone, refused, and inside a transaction, and its
/// server goes to the next client.
#[tokio::test]
async fn function_calls() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let call = |oid: u32, values: &[&str]| {
        let mut out = Vec::new();
        frame::put(&mut out, b'F', |out| {
            out.extend_from_slice(&oid.to_be_bytes());
            out.extend_from_slice(&[0, 0, 0, values.len() as u8]);
            for value in values {
                out.extend_from_slice(&(value.len() as u32).to_be_bytes());
                out.extend_from_slice(value.as_bytes());
            }
            out.extend_from_slice(&[0, 0]);
        });
        out
    };
    // int4pl(integer, integer)
    let sum = call(177, &["3", "4"]);
    let (mut first, mut second) = (Raw::login(pooler.port).await, Raw::login(pooler.port).await);
    let (tags, answer) = first.ask(&sum).await;
    assert_eq!(tags, "VZ");
    assert!(answer.windows(5).any(|bytes| bytes == b"\0\0\0\x017"), "{answer:?}");
    assert_eq!(second.ask(&query("select 1")).await.0, "TDCZ");
    assert_eq!(first.ask(&call(177, &["3", "x"])).await.0, "EZ");
    assert_eq!(second.ask(&sum).await.0, "VZ");
    assert_eq!(first.ask(&query("begin")).await.0, "CZ");
    assert_eq!(first.ask(&sum).await.0, "VZ");
    assert_eq!(first.ask(&query("commit")).await.0, "CZ");
    assert_eq!(second.ask(&query("select 1")).await.0, "TDCZ");
}

/// P1, P7: a client of protocol 3.2 gets a key of 32 bytes, and cancels with it.
#[tokio::test]
async fn a_long_key_cancels() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let mut client = Raw::login_as(V3_2, pooler.port, &[]).await;
    assert_eq!(client.key.secret.len(), 32);
    client.send(&query("select pg_sleep(600)")).await;
    let key = client.key.clone();
    let cancels = async {
        // One that comes before the query runs hits nothing.
        loop {
            Raw::cancel(pooler.port, &key).await;
        }
    };
    let messages = tokio::select! {
        messages = client.until_ready(1) => messages,
        () = cancels => unreachable!("it goes on for ever"),
    };
    assert!(raw::text(&messages).contains("57014"), "{}", raw::text(&messages));
}

/// P2: three who wait are served in the order in which they came.
#[tokio::test]
async fn three_who_wait_in_their_order() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let console = pooler.console().await;
    let mut holder = Raw::login(pooler.port).await;
    let mut waiters = Vec::new();
    for _ in 0..3 {
        waiters.push(Raw::login(pooler.port).await);
    }
    let root = server.root().await;
    root.batch_execute("create sequence turn; grant usage on turn to public").await.expect("made");
    assert_eq!(holder.ask(&query("begin")).await.0, "CZ");
    // Not in the order in which they have logged in.
    for (count, at) in [(1, 1), (2, 2), (3, 0)] {
        waiters[at].send(&query("select nextval('turn')")).await;
        until_waiting(&console, count).await;
    }
    assert_eq!(holder.ask(&query("commit")).await.0, "CZ");
    for (turn, at) in [("1", 1), ("2", 2), ("3", 0)] {
        let messages = waiters[at].until_ready(1).await;
        let row = messages.iter().find(|(tag, _)| *tag == b'D').expect("a row");
        assert_eq!(raw::columns(&row.1), [turn]);
    }
}
