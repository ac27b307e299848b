//! Clients that leave, wait or go on while something is still owed to them or by them: a COPY's data, a Sync,
//! an answer that is not read. Not for clients that vanish at any byte: those are in `faults`. Real PostgreSQL.
//!
//! Invariant: nothing here waits for a time: a state is asked for until it is there.

use crate::pooler::{Pooler, Setup};
use crate::postgres::Postgres;
use crate::raw::{
    Message, Raw, bare, bind, columns, data, execute, parse, query, subject, tags, text,
};

/// Parse, Bind and Execute of the unnamed statement.
fn run(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", "", &[]), execute("", 0)].concat()
}

/// The one row of an answer.
fn row(messages: &[Message]) -> Vec<String> {
    let row = messages.iter().find(|(tag, _)| *tag == b'D');
    columns(&row.unwrap_or_else(|| panic!("no row: {}", text(messages))).1)
}

async fn ask(client: &mut Raw, sql: &str) -> Vec<String> {
    client.send(&query(sql)).await;
    row(&client.until_ready(1).await)
}

/// Waits until the server shows this.
async fn until(server: &Postgres, condition: &str) {
    let root = server.root().await;
    let sql = format!("select {condition}");
    while !root.query_one(&sql, &[]).await.expect("a row").get::<_, bool>(0) {}
}

/// P7: a client that says goodbye while its server waits for a word of it gives the server back, and nothing of what
/// it did not end is kept.
#[tokio::test]
async fn a_goodbye_in_the_middle_frees_the_server() {
    let server = Postgres::start().await;
    let insert = run("insert into t values (1, 'lost')");
    let scripts = [
        (query("copy t from stdin"), "G"),
        ([run("copy t from stdin"), bare(b'S')].concat(), "G"),
        ([run("copy t from stdin"), bare(b'H')].concat(), "G"),
        (
            [query("begin; insert into t values (1, 'lost')"), query("copy t from stdin")].concat(),
            "G",
        ),
        (insert.clone(), ""),
        ([insert, bare(b'H')].concat(), "C"),
        ([parse("s", "selekt"), bare(b'H')].concat(), "E"),
        ([query("begin"), parse("s", "selekt"), bare(b'H')].concat(), "E"),
    ];
    for mode in ["transaction", "session"] {
        let pooler = Pooler::start(&server, Setup { mode, ..Setup::default() }).await;
        for (at, (said, heard)) in scripts.iter().enumerate() {
            let mut leaving = Raw::login(pooler.port).await;
            if heard.is_empty() {
                leaving.send(&[&said[..], &bare(b'X')].concat()).await;
            } else {
                leaving.send(said).await;
                while leaving.message().await.expect("an answer").0 as char
                    != heard.chars().next().expect("one")
                {}
                leaving.send(&[data("1\tlost\n"), bare(b'X')].concat()).await;
            }
            // Its socket stays open: nothing but its word says that it goes.
            let mut next = Raw::login(pooler.port).await;
            assert_eq!(ask(&mut next, "select count(*) from t").await, ["0"], "{mode}, {at}");
            drop((leaving, next));
        }
        pooler.end().await;
    }
}

/// P7: what a client has asked for before its goodbye is carried out, and what it has not ended is not.
#[tokio::test]
async fn what_was_asked_before_a_goodbye_is_done() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let mut next = Raw::login(pooler.port).await;
    for turn in 1..=20 {
        let mut leaving = Raw::login(pooler.port).await;
        let script = [
            run("insert into t select 1, 'kept' from pg_sleep(0.001)"),
            bare(b'S'),
            run("insert into t values (1, 'lost')"),
            bare(b'X'),
        ];
        leaving.send(&script.concat()).await;
        drop(leaving);
        until(&server, &format!("count(*) >= {turn} from t where b = 'kept'")).await;
        let found = ask(&mut next, "select count(*) filter (where b = 'lost') from t").await;
        assert_eq!(found, ["0"]);
    }
}

/// P7: a client that goes while what it has sent has to wait for an answer is noticed; one that has said goodbye
/// behind it gets what it has asked for.
#[tokio::test]
async fn who_goes_while_its_next_message_waits_is_noticed() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let root = server.root().await;
    root.batch_execute("select pg_advisory_lock(77)").await.expect("locked");
    let waits = "exists (select from pg_locks where locktype = 'advisory' and not granted)";
    let hidden = query("do $$ begin execute 'select pg_advisory_xact_lock(77)'; end $$");
    let mut doomed = Raw::login(pooler.port).await;
    doomed.send(&[hidden, query("select 1")].concat()).await;
    until(&server, waits).await;
    drop(doomed);
    let mut next = Raw::login(pooler.port).await;
    assert_eq!(ask(&mut next, "select 2").await, ["2"]);
    until(&server, &format!("not {waits}")).await;

    let hidden =
        "do $$ begin perform pg_advisory_xact_lock(77); insert into t values (5, 'kept'); end $$";
    let insert = query("insert into t values (6, 'kept')");
    let mut leaving = Raw::login(pooler.port).await;
    leaving.send(&[query(hidden), insert, bare(b'X')].concat()).await;
    until(&server, waits).await;
    drop(leaving);
    // Another client's round trip, in which the end of this one comes to the pooler.
    drop(Raw::login(pooler.port).await);
    root.batch_execute("select pg_advisory_unlock(77)").await.expect("unlocked");
    until(&server, "count(*) = 2 from t").await;
}

/// P3: a Sync that comes before a COPY's data is ignored by the server: what was copied is its client's, and the
/// server too, until the Sync behind the data.
#[tokio::test]
async fn a_copy_ends_with_the_sync_behind_it() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let (mut one, mut two) = (Raw::login(pooler.port).await, Raw::login(pooler.port).await);
    one.send(&[run("copy t from stdin"), bare(b'S')].concat()).await;
    while one.message().await.expect("an answer").0 != b'G' {}
    one.send(&[data("1\tone\n"), bare(b'c'), bare(b'H')].concat()).await;
    assert_eq!(one.message().await.expect("an answer").0, b'C');
    let sql = "select pg_current_xact_id_if_assigned() is null, (select count(*) from t)";
    two.send(&query(sql)).await;
    one.send(&bare(b'S')).await;
    assert_eq!(tags(&one.until_ready(1).await), "Z");
    assert_eq!(row(&two.until_ready(1).await), ["t", "1"]);
}

/// P1: an error may be as long as the value that it names, in every form of the protocol; its client goes on with
/// the same server.
#[tokio::test]
async fn long_errors_pass() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let mut client = Raw::login(pooler.port).await;
    let pid = ask(&mut client, "select pg_backend_pid()").await;
    for length in [1000, 30_000, 32_700, 40_000, 65_000, 100_000, 3_000_000] {
        let value = "x".repeat(length);
        let simple = query(&format!("select repeat('x', {length})::int"));
        let bound = [parse("", "select $1::text::int"), bind("", "", &[&value]), execute("", 0)];
        let asks = [
            (simple, "EZ"),
            ([&bound.concat()[..], &bare(b'S')].concat(), "1EZ"),
            ([&bound.concat()[..], &bare(b'H'), &run("select 1"), &bare(b'S')].concat(), "1EZ"),
        ];
        for (said, heard) in asks {
            client.send(&said).await;
            let messages = client.until_ready(1).await;
            assert_eq!(tags(&messages), heard, "{length}: {}", text(&messages));
            let error = &messages[heard.find('E').expect("one")].1;
            assert!(error.len() > length && error.ends_with(b"\0\0"), "{length}");
            let whole = error.windows(length).any(|part| part == value.as_bytes());
            assert!(whole, "{length}: all of it");
            assert_eq!(ask(&mut client, "select pg_backend_pid()").await, pid, "{length}");
        }
    }
}

/// P3, T3: `max_prepared_statements` holds for a client that keeps its server for long, too: what it closes is closed
/// once the server has more, in a transaction and where session state ties it.
#[tokio::test]
async fn a_client_that_stays_keeps_no_more_statements() {
    let server = Postgres::start().await;
    let settings = "max_prepared_statements: 10";
    let pooler = Pooler::start(&server, Setup { settings, ..Setup::default() }).await;
    let count = "select count(*) from pg_prepared_statements";
    for first in ["begin", "create temp table own (a int)"] {
        let mut client = Raw::login(pooler.port).await;
        assert_eq!(client.ask(&query(first)).await.0, "CZ");
        for n in 0..100 {
            let said = [
                parse("s", &format!("select {n}")),
                bind("", "s", &[]),
                execute("", 0),
                subject(b'C', b'S', "s"),
                bare(b'S'),
            ];
            assert_eq!(client.ask(&said.concat()).await.0, "12DC3Z");
        }
        // The same in one go, and each name again in the same piece.
        let mut all = Vec::new();
        for n in 100..200 {
            let sql = format!("select {n}");
            let (parse, close) = (parse("s", &sql), subject(b'C', b'S', "s"));
            all.extend(
                [&parse[..], &close, &parse, &bind("", "s", &[]), &execute("", 0), &close].concat(),
            );
            all.extend(bare(b'S'));
        }
        client.send(&all).await;
        assert_eq!(tags(&client.until_ready(100).await), "1312DC3Z".repeat(100));
        let kept: usize = ask(&mut client, count).await[0].parse().expect("a number");
        assert!(kept <= 12, "{first}: {kept}");

        // A name that was closed in vain still means its statement; one that was closed means none.
        let failing = [bind("", "nobody", &[]), subject(b'C', b'S', "t"), bare(b'S')].concat();
        let bound = [bind("", "t", &[]), execute("", 0), bare(b'S')].concat();
        if first != "begin" {
            assert_eq!(client.ask(&[parse("t", "select 't'"), bare(b'S')].concat()).await.0, "1Z");
            assert_eq!(client.ask(&failing).await.0, "EZ");
            assert_eq!(client.ask(&bound).await.0, "2DCZ");
            assert_eq!(client.ask(&[subject(b'C', b'S', "t"), bare(b'S')].concat()).await.0, "3Z");
            assert_eq!(client.ask(&bound).await.0, "EZ");
        }
    }
}

/// P1: statements without number before the first Sync are taken in, however long their texts are.
#[tokio::test]
async fn long_statements_without_a_sync_are_answered() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let mut client = Raw::login(pooler.port).await;
    let long = parse("", &format!("select '{}'", "x".repeat(30_000)));
    client.send(&[long.repeat(200), bare(b'S')].concat()).await;
    assert_eq!(tags(&client.until_ready(1).await), "1".repeat(200) + "Z");
}
