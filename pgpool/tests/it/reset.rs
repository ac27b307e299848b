//! What is left of a session for the next one, whatever `server_reset_query` says: nothing. In memory for what is
//! sent, against a real PostgreSQL for what is left.
//!
//! Invariant: a pool of one connection, so that the next client has the same one.

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::fake::{Bench, local};
use crate::pooler::{Pooler, Setup};
use crate::postgres::Postgres;

/// P2, P3: in session mode the reset query is sent when a client has left that may have left anything, and not after
/// one that surely has not; an empty one never is, and a weak one comes after what it does not do.
#[tokio::test(start_paused = true)]
async fn a_reset_is_sent_when_it_is_needed() {
    let settings = "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL";
    local(async {
        for (reset, said, expected) in [
            ("DISCARD ALL", "select 1", &[][..]),
            ("DISCARD ALL", "begin", &["ROLLBACK"]),
            ("DISCARD ALL", "show work_mem", &[]),
            ("DISCARD ALL", "select f()", &["DISCARD ALL"]),
            ("discard  all;", "insert into t values (1)", &["DISCARD ALL"]),
            ("-", "select f()", &[]),
            ("-", "create temp table t (a int)", &["DISCARD ALL"]),
            ("select 1 as reset", "select f()", &[settings, "select 1 as reset"]),
            ("select 1 as reset", "listen x", &["DISCARD ALL", "select 1 as reset"]),
        ] {
            let settings = format!("server_reset_query: \"{reset}\"");
            let bench = Bench::spread("mode: session, pool-size: 1", &settings);
            let mut client = bench.client().await;
            client.ask(said).await;
            drop(client);
            assert_eq!(bench.client().await.ask("select 2").await, "CZ");
            let all = bench.fake.said.lock().expect("whole").clone();
            let between: Vec<_> = all.iter().skip(1).take(all.len().saturating_sub(2)).collect();
            assert_eq!(between, expected, "{reset}: {said}");
        }
    })
    .await;
}

async fn seen(client: &Client) -> String {
    let sql = "select current_setting('work_mem') || '|' || coalesce(to_regclass('pg_temp.mine')::text, 'none') || '|' || \
               (select count(*) from pg_listening_channels()) || '|' || (select count(*) from pg_cursors where is_holdable) || '|' || \
               (select count(*) from pg_prepared_statements) || '|' || \
               (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())";
    let answer = client.simple_query(sql).await.expect("an answer");
    let text = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    text.expect("a row")
}

/// P3: with no reset query, or one that does little, nobody finds a temporary table, a channel, a cursor, a prepared
/// statement, a lock or a setting of who was there before.
#[tokio::test]
async fn a_weak_reset_leaks_nothing() {
    let server = Postgres::start().await;
    for reset in ["-", "select 1", "reset all"] {
        let settings = format!("server_reset_query: \"{reset}\"");
        let setup = Setup { mode: "session", settings: &settings, ..Setup::default() };
        let pooler = Pooler::start(&server, setup).await;
        let before = seen(&pooler.client("app").await).await;
        for spoil in [
            "create temp table mine (a int)",
            "listen nobody",
            "begin; declare held cursor with hold for select 1; commit",
            "prepare it as select 1",
            "select pg_advisory_lock(7)",
            "set work_mem to '77kB'",
            "set work_mem to '78kB'; select 1",
            "select set_config('work_mem', '79kB', false)",
        ] {
            let client = pooler.client("app").await;
            client.simple_query(spoil).await.expect("done");
            assert_ne!(seen(&client).await, before, "{spoil}");
            drop(client);
            assert_eq!(seen(&pooler.client("app").await).await, before, "{reset}: {spoil}");
        }
        let client = pooler.client("app").await;
        let statement = client.prepare("create temp table mine as select $1::int as a").await;
        client.execute(&statement.expect("prepared"), &[&1]).await.expect("run");
        drop(client);
        assert_eq!(seen(&pooler.client("app").await).await, before, "{reset}: by messages");
        pooler.end().await;
    }
}

/// P3: whatever a reset query takes away of prepared statements, those who have prepared them find them.
#[tokio::test]
async fn statements_outlive_a_reset() {
    let server = Postgres::start().await;
    for reset in [
        "DEALLOCATE ALL",
        "RESET ALL; DEALLOCATE ALL",
        "DISCARD ALL --x",
        "do 'begin execute ''deallocate all''; end'",
        "select 1",
    ] {
        let settings = format!("server_reset_query: \"{reset}\", server_reset_query_always: true");
        let pooler =
            Pooler::start(&server, Setup { settings: &settings, ..Setup::default() }).await;
        let (one, two) = (pooler.client("app").await, pooler.client("app").await);
        let of_one = one.prepare("select 'one'").await.expect("prepared");
        let of_two = two.prepare("select 'two'").await.expect("prepared");
        for _ in 0..3 {
            for (client, statement, wanted) in [(&one, &of_one, "one"), (&two, &of_two, "two")] {
                let row = client.query_one(statement, &[]).await;
                let row = row.unwrap_or_else(|fault| panic!("{reset}: {fault}"));
                assert_eq!(row.get::<_, String>(0), wanted, "{reset}");
            }
        }
        pooler.end().await;
    }
}

/// P3: what is sent in one packet with `DISCARD ALL`, behind it, stays with its client as long as it is there, and
/// reaches nobody else.
#[tokio::test]
async fn what_follows_discard_all_in_one_packet() {
    use crate::raw::{Raw, bare, bind, execute, parse, query};
    let server = Postgres::start().await;
    let run = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    for mode in ["transaction", "session"] {
        let settings = "server_reset_query: \"-\"";
        let pooler = Pooler::start(&server, Setup { mode, settings, ..Setup::default() }).await;
        let before = seen(&pooler.client("open").await).await;
        for what in [
            "create temp table mine (a int)",
            "select pg_advisory_lock(7)",
            "listen nobody",
            "prepare it as select 1",
        ] {
            for (how, all, count) in [
                ("queries", [query("discard all"), query(what)].concat(), 2),
                ("a query first", [query("discard all"), run(what), bare(b'S')].concat(), 2),
                ("messages", [run("discard all"), run(what), bare(b'S')].concat(), 1),
                ("two pieces", [run("discard all"), bare(b'S'), run(what), bare(b'S')].concat(), 2),
            ] {
                let mut raw = Raw::login(pooler.port).await;
                raw.send(&all).await;
                raw.until_ready(count).await;
                drop(raw);
                let after = seen(&pooler.client("open").await).await;
                assert_eq!(after, before, "{mode}: {what}, {how}");
            }
        }
        pooler.end().await;
    }
}
