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

/// FunctionCall with texts.
fn call(oid: u32, values: &[&str]) -> Vec<u8> {
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
}

/// P1: a function call (manual, "Function Call") is answered, alone, refused, and inside a transaction, and its
/// server goes to the next client.
#[tokio::test]
async fn function_calls() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
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

/// P3: what a function call leaves on its server reaches nobody else, and those for large objects leave nothing.
#[tokio::test]
async fn what_function_calls_leave() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let root = server.root().await;
    let held = "select count(*) from pg_locks where locktype = 'advisory'";
    let (mut one, mut two) = (Raw::login(pooler.port).await, Raw::login(pooler.port).await);
    // pg_advisory_lock(bigint), set_config(text, text, boolean)
    assert_eq!(one.ask(&call(2880, &["7"])).await.0, "VZ");
    assert_eq!(two.ask(&query("select 1")).await.0, "TDCZ");
    assert_eq!(root.query_one(held, &[]).await.expect("a row").get::<_, i64>(0), 0);
    assert_eq!(one.ask(&call(2078, &["app.tenant", "1", "f"])).await.0, "VZ");
    two.send(&query("select coalesce(current_setting('app.tenant', true), '')")).await;
    let messages = two.until_ready(1).await;
    assert_eq!(raw::columns(&messages[1].1), [""], "{}", raw::text(&messages));
    let known = "select proname::text from pg_proc where oid = any ($1) order by 1";
    let oids = [952_u32, 953, 954, 955, 956, 957, 958, 964, 715, 1004, 3170, 3171, 3172];
    let rows = root.query(known, &[&&oids[..]]).await.expect("rows");
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let expected = "lo_close lo_creat lo_create lo_lseek lo_lseek64 lo_open lo_tell lo_tell64 lo_truncate \
                    lo_truncate64 lo_unlink loread lowrite";
    assert_eq!(names.join(" "), expected);
}

/// P3: `DEALLOCATE` of a statement that its server does not have is answered as by the one that has it, whether its
/// text could still be parsed or not.
#[tokio::test]
async fn what_is_not_there_is_forgotten() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 2, ..Setup::default() }).await;
    let root = server.root().await;
    let (mut one, mut two) = (Raw::login(pooler.port).await, Raw::login(pooler.port).await);
    root.batch_execute("create table gone (a int); grant all on gone to public")
        .await
        .expect("made");
    let named = [raw::parse("s1", "select * from gone"), raw::bare(b'S')].concat();
    assert_eq!(one.ask(&named).await.0, "1Z");
    // Its server is taken: the next one does not have the statement.
    assert_eq!(two.ask(&query("begin")).await.0, "CZ");
    root.batch_execute("drop table gone").await.expect("dropped");
    assert_eq!(one.ask(&query("deallocate s1")).await.0, "CZ");
    assert_eq!(one.ask(&query("deallocate s1")).await.0, "EZ", "it is gone");
    assert_eq!(two.ask(&query("commit")).await.0, "CZ");
    // In a transaction that has failed nothing is carried out.
    assert_eq!(one.ask(&[raw::parse("s2", "select 2"), raw::bare(b'S')].concat()).await.0, "1Z");
    assert_eq!(two.ask(&query("begin")).await.0, "CZ");
    for sql in ["begin", "select 1/0", "deallocate s2", "rollback", "deallocate s2"] {
        let expected = if sql == "select 1/0" || sql == "deallocate s2" { 'E' } else { 'C' };
        let (said, _) = one.ask(&query(sql)).await;
        if sql == "deallocate s2" && said == "CZ" {
            continue;
        }
        assert!(said.contains(expected) && said.ends_with('Z'), "{sql}: {said}");
    }
}

/// P1: however many answers of ours stand behind one of the server's, all come.
#[tokio::test]
async fn many_answers_of_ours() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let mut client = Raw::login(pooler.port).await;
    let close = raw::subject(b'C', b'S', "a").repeat(9000);
    client.send(&[raw::parse("", "select 1"), close, raw::bare(b'S')].concat()).await;
    let messages = client.until_ready(1).await;
    assert_eq!(messages.len(), 9002);
    assert!(raw::tags(&messages).ends_with("33Z"));
}

/// P1: what may not come while a COPY takes data is the server's to refuse, at once; the next client is served.
#[tokio::test]
async fn a_copy_is_fed_nothing_else() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let root = server.root().await;
    root.batch_execute("create table fed (a text); grant all on fed to public")
        .await
        .expect("made");
    let mut other = Raw::login(pooler.port).await;
    assert_eq!(other.ask(&[raw::parse("s", "select 1"), raw::bare(b'S')].concat()).await.0, "1Z");
    for wrong in [raw::parse("s", "select 1"), query("reset all"), query("select 1")] {
        let mut one = Raw::login_with(pooler.port, &[("work_mem", "77kB")]).await;
        one.send(&query("copy fed from stdin")).await;
        let (said, body) = one.message().await.expect("an answer");
        assert_eq!(said, b'G', "{}", String::from_utf8_lossy(&body));
        one.send(&wrong).await;
        assert_eq!(one.message().await.expect("an answer").0, b'E', "{wrong:?}");
        drop(one);
        assert_eq!(other.ask(&query("select 1")).await.0, "TDCZ");
    }
}
