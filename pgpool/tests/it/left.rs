//! What one client's session leaves on a server that the next one gets: roles, settings, temporary tables, locks and
//! statements, in the forms that are hard to see. Not for what a reset query does (`reset`). Real PostgreSQL.
//!
//! Invariant: a pool of one connection, so that the next client has the same one.

use crate::pooler::{Pooler, Setup};
use crate::postgres::Postgres;
use crate::raw::{Message, Raw, bare, bind, columns, execute, parse, query, text};

async fn run(raw: &mut Raw, sql: &str) -> Vec<Message> {
    raw.send(&query(sql)).await;
    raw.until_ready(1).await
}

/// The first column of the first row.
async fn value(raw: &mut Raw, sql: &str) -> String {
    let all = run(raw, sql).await;
    let row = all.iter().find(|(tag, _)| *tag == b'D');
    columns(&row.unwrap_or_else(|| panic!("{sql}: {}", text(&all))).1)[0].clone()
}

/// Runs it, and nothing must fail.
async fn done(raw: &mut Raw, sql: &str) {
    let all = run(raw, sql).await;
    assert!(all.iter().all(|(tag, _)| *tag != b'E'), "{sql}: {}", text(&all));
}

const WHO: &str = "select current_user";
const LOCKS: &str = "select count(*) from pg_locks where locktype = 'advisory'";

/// P3: a role that a client has taken by a function, or at its login, is nobody else's, and the login's stays its own.
#[tokio::test]
async fn a_role_is_nobody_elses() {
    let server = Postgres::start().await;
    server.root().await.batch_execute("grant other to open").await.expect("granted");
    let pooler = Pooler::start(&server, Setup::default()).await;
    for sql in [
        "select set_config('role', 'other', false)",
        "select set_config('ro' || 'le', 'other', false)",
        "select pg_catalog.set_config(setting_name => 'role', new_value => 'other', is_local => not true)",
        "select set_config('role', 'other', not true)",
        "set session role other",
        "set role to 'other'; select 1/0",
        "set work_mem = '1MB'; select set_config('role', 'other', false)",
    ] {
        let mut one = Raw::login(pooler.port).await;
        run(&mut one, sql).await;
        drop(one);
        assert_eq!(value(&mut Raw::login(pooler.port).await, WHO).await, "open", "{sql}");
    }
    let mut kept = Raw::login(pooler.port).await;
    done(&mut kept, "select set_config('role', 'other', false)").await;
    assert_eq!(value(&mut kept, WHO).await, "other", "as on a server of its own");
    drop(kept);
    let (mut one, mut two) = (
        Raw::login_with(pooler.port, &[("options", "-c role=other -c work_mem=77kB")]).await,
        Raw::login(pooler.port).await,
    );
    for _ in 0..3 {
        assert_eq!(value(&mut one, WHO).await, "other");
        done(&mut one, "select set_config('a.b', '1', false)").await;
        assert_eq!(value(&mut two, WHO).await, "open");
        assert_eq!(value(&mut one, WHO).await, "other");
        assert_eq!(value(&mut two, WHO).await, "open");
    }
    pooler.end().await;
}

/// P3: a setting of a transaction alone is not unmade for the next client, which PostgreSQL would refuse.
#[tokio::test]
async fn a_transactions_own_settings_end_with_it() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let (mut one, mut two) = (Raw::login(pooler.port).await, Raw::login(pooler.port).await);
    for sql in ["set transaction_read_only = on", "set transaction_isolation to 'serializable'"] {
        done(&mut one, sql).await;
        assert_eq!(value(&mut two, "show transaction_read_only").await, "off");
        assert_eq!(value(&mut one, "show transaction_read_only").await, "off", "{sql}");
        assert_eq!(value(&mut one, "show transaction_isolation").await, "read committed", "{sql}");
    }
    pooler.end().await;
}

/// P3: a remembered SET says no more than itself when it is said again, whatever comment stood behind it.
#[tokio::test]
async fn a_comment_swallows_no_setting() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    for sql in ["set app.a = '1' -- x", "set app.a = 1 -- x\n;", "set app.a = 1 /* x */ -- ;"] {
        let (mut one, mut two) = (Raw::login(pooler.port).await, Raw::login(pooler.port).await);
        done(&mut two, "set app.tenant = 'two'").await;
        done(&mut one, sql).await;
        done(&mut one, "set app.tenant = 'one'").await;
        for _ in 0..2 {
            assert_eq!(value(&mut two, "show app.tenant").await, "two", "{sql}");
            assert_eq!(value(&mut one, "show app.tenant").await, "one", "{sql}");
            assert_eq!(value(&mut one, "show app.a").await, "1", "{sql}");
        }
    }
    pooler.end().await;
}

/// P3: whatever a DO block does to its session, the next client finds its own.
#[tokio::test]
async fn a_do_block_hides_nothing() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    for body in [
        "do $$ begin create table pg_temp.secret as select 42 x; end $$",
        "do $$ begin deallocate all; end $$",
        "do $$ begin reset all; end $$",
        "do $$ begin discard temp; reset app.tenant; end $$",
        "do 'begin raise notice ''--''; reset all; end'",
        "do $$ begin do $x$ begin reset all; deallocate all; end $x$; end $$",
    ] {
        let (mut one, mut two) = (Raw::login(pooler.port).await, Raw::login(pooler.port).await);
        let sql = "select current_setting('app.tenant')";
        for raw in [&mut one, &mut two] {
            done(raw, "set app.tenant = 'both'").await;
            raw.ask(&[parse("s", sql), bare(b'S')].concat()).await;
        }
        done(&mut one, body).await;
        let again = [bind("", "s", &[]), execute("", 0), bare(b'S')].concat();
        assert_eq!(two.ask(&again).await.0, "2DCZ", "{body}");
        assert_eq!(value(&mut two, sql).await, "both", "{body}");
        assert!(run(&mut two, "select * from secret").await[0].0 == b'E', "{body}");
    }
    pooler.end().await;
}

/// P3: a session's lock that was taken by a text which fails, is cancelled or whose client is killed is gone.
#[tokio::test]
async fn a_lock_does_not_outlive_a_failure() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    // Never looked at as a whole.
    let large = format!("/* {} */ select pg_advisory_lock(7); select 1/0", "x".repeat(200_000));
    let taken = "do $$ begin perform pg_advisory_lock(7); raise 'x'; end $$";
    for sql in [taken, &large, "do $$ begin perform pg_advisory_lock(7); commit; raise 'x'; end $$"]
    {
        let (mut one, mut two) = (Raw::login(pooler.port).await, Raw::login(pooler.port).await);
        let answer = run(&mut one, sql).await;
        assert!(answer.iter().any(|(tag, _)| *tag == b'E'), "it fails");
        assert_eq!(value(&mut two, LOCKS).await, "0", "{}", &sql[..50]);
        let extended = [parse("", sql), bind("", "", &[]), execute("", 0), bare(b'S')];
        one.ask(&extended.concat()).await;
        drop(one);
        assert_eq!(value(&mut two, LOCKS).await, "0", "{} by messages", &sql[..50]);
    }
    let root = server.root().await;
    for killed in [true, false] {
        let mut one = Raw::login(pooler.port).await;
        one.send(&query("do $$ begin perform pg_advisory_lock(7); perform pg_sleep(1000); end $$"))
            .await;
        while root.query_one(LOCKS, &[]).await.expect("a row").get::<_, i64>(0) == 0 {}
        if !killed {
            Raw::cancel(pooler.port, &one.key).await;
            one.until_ready(1).await;
        }
        drop(one);
        assert_eq!(value(&mut Raw::login(pooler.port).await, LOCKS).await, "0", "{killed}");
    }
    pooler.end().await;
}

/// P3: what a server reports while it is cleaned counts: its own values may have changed since its login.
#[tokio::test]
async fn a_reset_believes_the_server() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let mut two = Raw::login(pooler.port).await;
    let mut one = Raw::login_with(pooler.port, &[("TimeZone", "Europe/Rome")]).await;
    let before = value(&mut two, "show timezone").await;
    let root = server.root().await;
    root.batch_execute("alter system set timezone = 'Asia/Tokyo'").await.expect("set");
    root.batch_execute("select pg_reload_conf()").await.expect("reloaded");
    // The server reads its files in its own time.
    let own = "select reset_val from pg_settings where name = 'TimeZone'";
    while value(&mut one, own).await != "Asia/Tokyo" {}
    done(&mut one, "select set_config('a.b', '1', false)").await;
    assert_eq!(value(&mut two, "show timezone").await, before);
    assert_eq!(value(&mut one, "show timezone").await, "Europe/Rome");
    pooler.end().await;
}

/// P3: a table that is temporary because of where tables are made is its client's alone.
#[tokio::test]
async fn a_path_to_temporary_tables_ties() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let login = [("options", "-c search_path=pg_temp")];
    for (how, more) in [
        ("set search_path = 'pg_temp'", &[][..]),
        ("set schema 'pg_temp'", &[]),
        ("begin; set search_path = E'pg\\x5ftemp'", &[]),
        ("begin; set local search_path to 'PG_TEMP', 'public'", &[]),
        ("select set_config('search_path', 'pg_temp, public', false)", &[]),
        ("begin; select set_config('search_path', 'pg_' || 'temp', false)", &[]),
        ("begin; select set_config('search_path', 'pg_temp', true)", &[]),
        ("select 1", &login),
    ] {
        let mut one = Raw::login_with(pooler.port, more).await;
        done(&mut one, how).await;
        done(&mut one, "create table secret as select 1 as x").await;
        done(&mut one, "commit").await;
        drop(one);
        let seen = run(&mut Raw::login(pooler.port).await, "select * from pg_temp.secret").await;
        assert_eq!(seen[0].0, b'E', "{how}: {}", text(&seen));
    }
    pooler.end().await;
}

/// P3: a statement that was parsed under a setting of its transaction alone, or one that is not followed, is shared
/// with nobody.
#[tokio::test]
async fn a_statement_of_one_transaction_is_not_shared() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let root = server.root().await;
    let prepared = |number: usize| parse("s", &format!("select {number} where null::int = null"));
    let bound = [bind("", "s", &[]), execute("", 0), bare(b'S')].concat();
    let (on, off) =
        ("set local transform_null_equals = on", "set local transform_null_equals = off");
    let all = [
        vec!["begin", on],
        vec!["begin; set local transform_null_equals = on"],
        vec!["begin", "select set_config('transform_null_equals', 'on', true)"],
        vec!["begin", "select set_config('transform_null_equals', 'on', false)"],
        vec!["begin", off, "savepoint a", on],
        vec!["begin", on, "savepoint a", off, "rollback to a"],
        vec!["begin", "do $$ begin set local transform_null_equals = on; end $$"],
    ];
    for (number, steps) in all.iter().enumerate() {
        for before in [false, true] {
            let number = number * 2 + usize::from(before);
            let mut one = Raw::login(pooler.port).await;
            if before {
                one.ask(&[prepared(number), bare(b'S')].concat()).await;
                // A new server, which does not have it.
                let end =
                    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'open'";
                root.batch_execute(end).await.expect("ended");
                while root
                    .query_one("select count(*) from pg_stat_activity where usename = 'open'", &[])
                    .await
                    .expect("a row")
                    .get::<_, i64>(0)
                    > 0
                {}
            }
            for sql in steps {
                done(&mut one, sql).await;
            }
            if !before {
                one.ask(&[prepared(number), bare(b'S')].concat()).await;
            }
            assert_eq!(one.ask(&bound).await.0, "2DCZ", "{steps:?} {before}");
            done(&mut one, "commit").await;
            let mut two = Raw::login(pooler.port).await;
            two.ask(&[prepared(number), bare(b'S')].concat()).await;
            assert_eq!(two.ask(&bound).await.0, "2CZ", "{steps:?} {before}");
        }
    }
    pooler.end().await;
}
