//! What follows a client from server to server, and what must not reach the next one: prepared
//! statements, settings, session state. Real PostgreSQL, mostly with a single server connection.
//!
//! Invariant: two clients that share a server cannot tell.

use tokio_postgres::SimpleQueryMessage;

use crate::pooler::{Pooler, Setup, code};
use crate::postgres::Postgres;

async fn value(client: &tokio_postgres::Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap_or_else(|fault| panic!("{sql}: {fault}"));
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    row.unwrap_or_default()
}

/// P3: two clients give the same names to different statements over one server, in turn and again
/// after each other's errors.
#[tokio::test]
async fn prepared_statements_do_not_collide() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let (one, two) = (pooler.client("app").await, pooler.client("app").await);
    // tokio-postgres numbers its statements: both clients call theirs s0, s1 …
    let mut of_one = Vec::new();
    let mut of_two = Vec::new();
    for n in 0..5 {
        of_one.push(one.prepare(&format!("select 'one {n}', $1::int4")).await.expect("prepared"));
        of_two.push(two.prepare(&format!("select 'two {n}', $1::int4")).await.expect("prepared"));
    }
    for (n, (a, b)) in of_one.iter().zip(&of_two).enumerate() {
        let row = one.query_one(a, &[&1]).await.expect("one");
        assert_eq!(row.get::<_, String>(0), format!("one {n}"));
        let row = two.query_one(b, &[&2]).await.expect("two");
        assert_eq!(row.get::<_, String>(0), format!("two {n}"));
        one.batch_execute("select 1/0").await.expect_err("division by zero");
    }
    drop(of_one);
    let again = one.prepare("select 'one 0', $1::int4").await.expect("prepared again");
    assert_eq!(one.query_one(&again, &[&1]).await.expect("row").get::<_, String>(0), "one 0");
}

/// P3: a statement that one client prepared is there on every server, and a cached plan that a
/// change of schema has broken is mended.
#[tokio::test]
async fn prepared_statements_follow() {
    let server = Postgres::start().await;
    let setup = Setup { size: 3, settings: "max_prepared_statements: 2", ..Setup::default() };
    let pooler = Pooler::start(&server, setup).await;
    let client = pooler.client("app").await;
    let mut statements = Vec::new();
    for n in 0..6_i32 {
        let sql = format!("select {n}::int4, pg_backend_pid()");
        statements.push(client.prepare(&sql).await.expect("prepared"));
    }
    let mut others = [pooler.client("app").await, pooler.client("app").await];
    for round in 0..12_usize {
        // Others hold servers in transactions, so that ours has to be another one each time.
        let busy = &mut others[round % 2];
        let transaction = busy.transaction().await.expect("begin");
        let statement = &statements[round % 6];
        let row = client.query_one(statement, &[]).await.expect("row");
        assert_eq!(row.get::<_, i32>(0), (round % 6) as i32);
        transaction.commit().await.expect("commit");
    }
}

/// P3: what a function forgets cannot be seen before; the first client that misses its statement is
/// told, and nobody after it. An error about something else costs no server.
#[tokio::test]
async fn what_a_function_forgets_is_missed_once() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let (one, two) = (pooler.client("app").await, pooler.client("app").await);
    one.batch_execute(
        "create function forget() returns void language plpgsql as
         $$ begin execute 'deallocate all'; end $$",
    )
    .await
    .expect("made");
    let known = two.prepare("select 1, pg_backend_pid()").await.expect("prepared");
    let before: i32 = two.query_one(&known, &[]).await.expect("there").get(1);
    one.batch_execute("create table pg_catalog.x ()").await.expect_err("not allowed");
    one.query("select forget()", &[]).await.expect("forgotten");
    let fault = two.query(&known, &[]).await.expect_err("gone");
    assert_eq!(code(&fault), "26000");
    // The driver goes on as soon as it hears the error, so this may still be asked of the same server.
    two.query_one(&known, &[]).await.expect("mended");
    two.batch_execute("").await.expect("ready");
    let after: i32 = two.query_one(&known, &[]).await.expect("there again").get(1);
    assert_ne!(before, after, "the server that had forgotten is closed");
    one.batch_execute("do $$ begin raise feature_not_supported; end $$").await.expect_err("raised");
    let last: i32 = two.query_one(&known, &[]).await.expect("there").get(1);
    assert_eq!(after, last, "not every unsupported feature is a plan");
}

/// P3: settings follow the client that made them and reach nobody else; `SET LOCAL` ends with its
/// transaction; a rolled back `SET` never was.
#[tokio::test]
async fn settings_do_not_leak() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let (one, two) = (pooler.client("app").await, pooler.client("app").await);
    let zone = value(&two, "show timezone").await;
    one.batch_execute("set timezone = 'Asia/Tokyo'").await.expect("set");
    one.batch_execute("set work_mem = '99kB'").await.expect("set");
    one.batch_execute("set search_path to pg_catalog, public").await.expect("set");
    assert_eq!(value(&two, "show timezone").await, zone);
    assert_eq!(value(&two, "show work_mem").await, "4MB");
    assert_eq!(value(&two, "show search_path").await, "\"$user\", public");
    assert_eq!(value(&one, "show timezone").await, "Asia/Tokyo");
    assert_eq!(value(&one, "show work_mem").await, "99kB");
    assert_eq!(value(&one, "show search_path").await, "pg_catalog, public");
    one.batch_execute("reset work_mem").await.expect("reset");
    assert_eq!(value(&two, "show work_mem").await, "4MB");
    assert_eq!(value(&one, "show work_mem").await, "4MB");

    one.batch_execute("begin; set work_mem = '98kB'; rollback").await.expect("rolled back");
    one.batch_execute("select set_config('a.b', 'secret', false)").await.expect("set");
    assert_eq!(value(&two, "show work_mem").await, "4MB");
    assert_eq!(value(&two, "select current_setting('a.b', true)").await, "");
    one.batch_execute("begin").await.expect("begin");
    one.batch_execute("set work_mem = '97kB'").await.expect("set");
    one.batch_execute("commit").await.expect("commit");
    assert_eq!(value(&two, "show work_mem").await, "4MB");
    assert_eq!(value(&one, "show work_mem").await, "97kB");
}

/// P3: a setting that a savepoint, a failure or a chained transaction leaves in force goes on with its client, and
/// reaches nobody else; one that they undo never was.
#[tokio::test]
async fn settings_and_savepoints() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let of = [("search_path", "tenant_a"), ("work_mem", "99kB"), ("timezone", "Asia/Tokyo")];
    for (name, wanted) in of {
        let (set, show) = (format!("set {name} = '{wanted}'"), format!("show {name}"));
        let before = value(&pooler.client("app").await, &show).await;
        for (steps, stays) in [
            (&["begin", &set, "savepoint s", "rollback to s", "commit"][..], true),
            (&["begin", "savepoint s", &set, "rollback to s", "commit"], false),
            (&["begin", &set, "savepoint s", "select 1/0", "rollback to s", "commit"], true),
            (&["begin", &set, "savepoint s", "select 1/0", "commit"], false),
            (&["begin", &set, "savepoint s", "release s", "commit"], true),
            (&["begin", &set, "savepoint s", "rollback"], false),
            (&["begin", &set, "rollback and chain", "commit"], false),
            (&["begin", &set, "savepoint s", "rollback and chain", "commit"], false),
            (&["begin", &set, "commit and chain", "rollback"], true),
        ] {
            let (one, two) = (pooler.client("app").await, pooler.client("app").await);
            for step in steps {
                let said = one.simple_query(step).await;
                assert_eq!(said.is_err(), step.contains("1/0"), "{steps:?}");
            }
            assert_eq!(value(&two, &show).await, before, "{steps:?}");
            let own = if stays { wanted } else { &before };
            assert_eq!(&value(&one, &show).await, own, "{steps:?}");
            assert_eq!(value(&two, &show).await, before, "{steps:?}");
        }
    }
}

/// P3: to reset one setting leaves those alone that its client has set over what it asked for at its login.
#[tokio::test]
async fn one_reset_leaves_the_others() {
    use crate::raw::{Raw, query};
    let server = Postgres::start().await;
    for mode in ["transaction", "session"] {
        let pooler = Pooler::start(&server, Setup { mode, ..Setup::default() }).await;
        let more = [("work_mem", "77kB"), ("lock_timeout", "7s")];
        let mut raw = Raw::login_with(pooler.port, &more).await;
        raw.ask(&query("set work_mem = '99kB'")).await;
        raw.ask(&query("set lock_timeout = '9s'")).await;
        raw.ask(&query("reset lock_timeout")).await;
        let show = "select current_setting('work_mem') || ' ' || current_setting('lock_timeout')";
        let (_, answer) = raw.ask(&query(show)).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.contains("99kB 7s"), "{mode}: {answer}");
        pooler.end().await;
    }
}

/// P3: an unnamed statement that comes in one packet with `RESET` is there for the Bind that follows.
#[tokio::test]
async fn an_unnamed_statement_outlives_a_reset() {
    use crate::raw::{Raw, bare, bind, execute, parse, query, tags};
    let server = Postgres::start().await;
    for mode in ["transaction", "session"] {
        let pooler = Pooler::start(&server, Setup { mode, ..Setup::default() }).await;
        let mut raw = Raw::login_with(pooler.port, &[("work_mem", "77kB")]).await;
        for reset in ["reset all", "reset work_mem", "discard all"] {
            let all = [query(reset), parse("", "select current_setting('work_mem')"), bare(b'S')];
            raw.send(&all.concat()).await;
            assert_eq!(tags(&raw.until_ready(2).await), "CZ1Z", "{mode}: {reset}");
            let run = [bind("", "", &[]), execute("", 0), bare(b'S')].concat();
            let (said, answer) = raw.ask(&run).await;
            assert_eq!(said, "2DCZ", "{mode}: {reset}");
            assert!(String::from_utf8_lossy(&answer).contains("77kB"), "{mode}: {reset}");
        }
        drop(raw);
        pooler.end().await;
    }
}

/// P3: what only lives in a server's session stays with its client and is gone when it leaves:
/// temporary tables, advisory locks, cursors, listeners, PREPARE.
#[tokio::test]
async fn session_state_does_not_leak() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 2, ..Setup::default() }).await;
    for (sql, probe) in [
        ("create temp table mine (a int)", "select count(*) from pg_class where relname = 'mine'"),
        ("select pg_advisory_lock(7)", "select count(*) from pg_locks where locktype = 'advisory'"),
        (
            "prepare mine as select 1",
            "select count(*) from pg_prepared_statements where name = 'mine'",
        ),
        ("begin; listen mine; commit", "select count(*) from pg_listening_channels()"),
        (
            "begin; declare mine cursor with hold for select 1; commit",
            "select count(*) from pg_cursors where name = 'mine'",
        ),
    ] {
        let tied = pooler.client("app").await;
        tied.batch_execute(sql).await.unwrap_or_else(|fault| panic!("{sql}: {fault}"));
        assert_ne!(value(&tied, probe).await, "0", "{sql} is lost for its own client");
        drop(tied);
        // Both servers are asked: one of them was the tied one.
        let mut clients = [pooler.client("app").await, pooler.client("app").await];
        let [one, two] = &mut clients;
        let (one, two) = (one.transaction().await, two.transaction().await);
        for transaction in [one.expect("begin"), two.expect("begin")] {
            let row = transaction.query_one(probe, &[]).await.expect("probe");
            let found = row.get::<_, i64>(0);
            assert_eq!(found, 0, "{sql} reached another client");
        }
    }
}

/// P3: an unnamed statement is its client's own, even when it is bound much later and elsewhere.
#[tokio::test]
async fn unnamed_statements_do_not_mix() {
    use pgpool_wire::frontend;
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let mut raw =
        [crate::raw::Raw::login(pooler.port).await, crate::raw::Raw::login(pooler.port).await];
    for (n, client) in raw.iter_mut().enumerate() {
        let mut out = Vec::new();
        let query = format!("select 'mine {n}'\0\0\0");
        frontend::put_parse(&mut out, b"", query.as_bytes());
        frontend::put_empty(&mut out, b'S');
        assert_eq!(client.ask(&out).await.0, "1Z");
    }
    for (n, client) in raw.iter_mut().enumerate() {
        let mut out = Vec::new();
        frontend::put_bind_head(&mut out, b"", b"", 6);
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
        frontend::put_empty(&mut out, b'S');
        let (tags, bytes) = client.ask(&out).await;
        assert_eq!(tags, "2DCZ");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains(&format!("mine {n}")), "{text}");
    }
}

/// P3: names that a client never gave fail as with PostgreSQL, whatever others have prepared.
#[tokio::test]
async fn unknown_names_fail() {
    use pgpool_wire::frontend;
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let other = pooler.client("open").await;
    let _kept = other.prepare("select 'not yours'").await.expect("prepared");
    let mut raw = crate::raw::Raw::login(pooler.port).await;
    for name in [&b"s0"[..], b"aqueduct_0_0", b"aqueduct_1_0"] {
        let mut out = Vec::new();
        frontend::put_bind_head(&mut out, b"", name, 6);
        out.extend_from_slice(&[0; 6]);
        frontend::put_empty(&mut out, b'S');
        let (tags, bytes) = raw.ask(&out).await;
        assert_eq!(tags, "EZ", "{}", String::from_utf8_lossy(&bytes));
        assert!(String::from_utf8_lossy(&bytes).contains("26000"));
    }
    let mut twice = Vec::new();
    frontend::put_parse(&mut twice, b"x", b"select 1\0\0\0");
    frontend::put_parse(&mut twice, b"x", b"select 2\0\0\0");
    frontend::put_empty(&mut twice, b'S');
    let (tags, bytes) = raw.ask(&twice).await;
    assert_eq!(tags, "1EZ");
    assert!(String::from_utf8_lossy(&bytes).contains("42P05"));
}

/// P3: whoever goes on in the pipeline after a server has shown that it forgot something is served by
/// it all the same, and rightly.
#[tokio::test]
async fn a_pipeline_goes_on_after_a_stale_statement() {
    use crate::raw::{Raw, bare, bind, execute, parse, query};
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let mut raw = Raw::login(pooler.port).await;
    raw.ask(&query("create table shape as select 1 as a")).await;
    let run = |name: &str| [bind("", name, &[]), execute("", 0), bare(b'S')].concat();
    let parsed = [
        parse("mine", "select * from shape"),
        parse("other", "select 'other' from shape"),
        bare(b'S'),
    ];
    assert_eq!(raw.ask(&parsed.concat()).await.0, "11Z");
    assert_eq!(raw.ask(&run("mine")).await.0, "2DCZ");
    for forget in [
        "alter table shape add b int",
        "do $$ begin execute 'deallocate all'; end $$",
        // What somebody else has put in the name's place.
        "do $$ begin execute 'deallocate all'; \
         for n in 0..3 loop execute 'prepare aqueduct_' || n / 2 || '_' || n % 2 || ' as select 1'; end loop; \
         end $$",
    ] {
        let mut thief = Raw::login(pooler.port).await;
        assert_eq!(thief.ask(&query(forget)).await.0, "CZ");
        raw.send(&run("mine")).await;
        // As a driver does that need not wait for the end of a piece: the error is enough.
        let first = raw.message().await.expect("an answer");
        raw.send(&[run("mine"), run("other")].concat()).await;
        let rest = crate::raw::tags(&raw.until_ready(3).await);
        let heard = format!("{}{rest}", first.0 as char);
        assert!(heard == "EZ2DCZ2DCZ" || heard == "2DCZ2DCZ2DCZ", "{forget}: {heard}");
    }
}

/// P3: constants are read when a text is parsed, under the settings of the client that sends it: the
/// same text of another client with other settings is another statement, even when the setting is in
/// the same pipeline, or made after the statement was named.
#[tokio::test]
async fn a_statement_is_read_under_its_own_clients_settings() {
    use crate::raw::{Raw, bare, bind, columns, execute, parse, query};
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 2, ..Setup::default() }).await;
    let text = "select extract(month from date '01/02/2020')::text";
    let run = [bind("", "mine", &[]), execute("", 0), bare(b'S')].concat();
    let month = async |raw: &mut Raw, bytes: &[u8], ready: usize| {
        raw.send(bytes).await;
        let messages = raw.until_ready(ready).await;
        let row = messages.iter().find(|(tag, _)| *tag == b'D');
        columns(&row.unwrap_or_else(|| panic!("{}", crate::raw::text(&messages))).1)[0].clone()
    };
    let mut american = Raw::login_with(pooler.port, &[("datestyle", "ISO, MDY")]).await;
    // It sets and parses at once, in one piece and in two, so that nobody knows yet what counts.
    for set in [
        query("set datestyle = 'ISO, DMY'"),
        [parse("", "set datestyle = 'ISO, DMY'"), bind("", "", &[]), execute("", 0)].concat(),
        [parse("", "select set_config('datestyle', 'ISO, DMY', false)"), bind("", "", &[])]
            .into_iter()
            .chain([execute("", 0)])
            .collect::<Vec<_>>()
            .concat(),
    ] {
        let mut european = Raw::login_with(pooler.port, &[("datestyle", "ISO, MDY")]).await;
        let first = usize::from(set[0] == b'Q');
        let all = [&set[..], &parse("mine", text), &bare(b'S')].concat();
        european.send(&all).await;
        european.until_ready(1 + first).await;
        assert_eq!(month(&mut european, &run, 1).await, "2");
        // The same text on the same server.
        let named = [parse("mine", text), run.clone()].concat();
        let mut other = Raw::login_with(pooler.port, &[("datestyle", "ISO, MDY")]).await;
        assert_eq!(month(&mut other, &named, 1).await, "1");
        assert_eq!(month(&mut european, &run, 1).await, "2");
    }
    // Named before, set since, and carried out on a server that has to parse it first.
    assert_eq!(month(&mut american, &[parse("mine", text), run.clone()].concat(), 1).await, "1");
    assert_eq!(american.ask(&query("set datestyle = 'ISO, DMY'")).await.0, "CSZ");
    let mut holder = Raw::login(pooler.port).await;
    for _ in 0..2 {
        // One server after the other is held up.
        assert_eq!(holder.ask(&query("begin")).await.0, "CZ");
        month(&mut american, &run, 1).await;
        let mut fresh = Raw::login_with(pooler.port, &[("datestyle", "ISO, MDY")]).await;
        let named = [parse("mine", text), run.clone()].concat();
        assert_eq!(month(&mut fresh, &named, 1).await, "1");
        assert_eq!(holder.ask(&query("commit")).await.0, "CZ");
    }
}
