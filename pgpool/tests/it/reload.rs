//! Changed files, PAUSE and RESUME while clients work: nothing is lost. Real PostgreSQL.
//!
//! Invariant: a file with a problem changes nothing.

use std::cell::Cell;

use futures_util::future::{join, join_all};

use crate::pooler::{Pooler, Setup, code, connect};
use crate::postgres::{PASSWORD, Postgres};

/// Clients that work until they are told to stop; how many transactions there were.
async fn work(pooler: &Pooler, clients: usize, over: &Cell<bool>, done: &Cell<u64>) {
    let one = |n: usize| async move {
        let mut client = pooler.client(["app", "other", "open"][n % 3]).await;
        let mut count: u64 = 0;
        while !over.get() {
            let transaction = client.transaction().await.expect("begin");
            let sql = "select $1::int8 + 1, current_user::text";
            let row = transaction.query_one(sql, &[&(count as i64)]).await.expect("a row");
            assert_eq!(row.get::<_, i64>(0), count as i64 + 1);
            transaction.commit().await.expect("commit");
            count += 1;
            done.set(done.get() + 1);
        }
    };
    join_all((0..clients).map(one)).await;
}

/// Until more work was done.
async fn progress(done: &Cell<u64>) {
    let before = done.get();
    while done.get() < before + 12 {
        tokio::task::yield_now().await;
    }
}

/// T9, P6: a hundred reloads under load, each of another file, by signal's way and by RELOAD: no error.
#[tokio::test]
async fn a_hundred_reloads_under_load() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 4, ..Setup::default() }).await;
    let console = pooler.console().await;
    let mut first = String::new();
    pooler.rewrite(|text| {
        first.clone_from(&text);
        text
    });
    let (over, done) = (Cell::new(false), Cell::new(0));
    let reloads = async {
        progress(&done).await;
        for n in 0..100 {
            // Every time other sizes and times, of a file that was the same otherwise.
            pooler.rewrite(|_| {
                first
                    .replace(
                        "pool-size: 4",
                        &format!("pool-size: {}, pool-shards: {}", 2 + n % 5, 1 + n / 2 % 2),
                    )
                    .replace("settings: {", &format!("settings: {{ server_lifetime: {}s", 60 + n))
            });
            if n % 2 == 0 {
                pooler.reload().await.unwrap_or_else(|fault| panic!("{fault}"));
            } else {
                console.simple_query("RELOAD").await.expect("reloaded");
            }
        }
        over.set(true);
    };
    join(work(&pooler, 12, &over, &done), reloads).await;
    assert!(done.get() > 100, "only {} transactions", done.get());
}

/// T9: what a file can change: a password, a pool's size, a user that goes; and a file with a
/// problem changes nothing.
#[tokio::test]
async fn a_reload_changes_what_the_file_says() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let (stays, goes) = (pooler.client("app").await, pooler.client("legacy").await);
    stays.query_one("select 1", &[]).await.expect("served");
    pooler.rewrite(|text| text.replace("legacy: { secret: file:legacy }", ""));
    pooler.reload().await.expect("reloaded");
    let fault = goes.simple_query("select 1").await.expect_err("its user is gone");
    assert!(goes.is_closed() || code(&fault) == "57P01", "{fault:?}");
    let fault = connect(&pooler.config("legacy", PASSWORD, "shop")).await;
    assert_eq!(code(&fault.expect_err("no such user")), "28P01");
    stays.query_one("select 1", &[]).await.expect("goes on");

    pooler.rewrite(|text| text.replace("pool-size: 1", "pool-size: none"));
    let fault = pooler.reload().await.expect_err("no number");
    assert!(fault.contains("pool-size") && fault.contains(":6:"), "{fault}");
    let console = pooler.console().await;
    let fault = console.simple_query("RELOAD").await.expect_err("no number");
    assert_eq!(code(&fault), "F0000");
    stays.query_one("select 1", &[]).await.expect("goes on");

    pooler.rewrite(|text| text.replace("pool-size: none", "pool-size: 2, server-name: postgres"));
    pooler.reload().await.expect("reloaded");
    let row = stays.query_one("select current_database()::text", &[]).await.expect("goes on");
    assert_eq!(row.get::<_, String>(0), "postgres", "servers of before are not used again");
}

/// T9: limits of a file that is refused do not hold, whatever it is that is wrong with it.
#[tokio::test]
async fn limits_of_a_refused_file_do_not_hold() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 2, ..Setup::default() }).await;
    let _first = pooler.client("app").await;
    pooler.rewrite(|text| {
        text.replace("settings: {", "settings: { max_user_client_connections: 1,")
            .replace("file:legacy", "file:nothing")
    });
    pooler.reload().await.expect_err("no such secret");
    pooler.client("app").await.simple_query("select 1").await.expect("a second one");
    pooler.rewrite(|text| text.replace("file:nothing", "file:legacy"));
    pooler.reload().await.unwrap_or_else(|fault| panic!("{fault}"));
    let fault = connect(&pooler.config("app", PASSWORD, "shop")).await;
    assert_eq!(code(&fault.expect_err("it holds now")), "53300");
}

/// T9: a reload while a shared limit is full and somebody waits for room in it changes nothing for them.
#[tokio::test]
async fn a_reload_with_a_full_limit() {
    let server = Postgres::start().await;
    let more = ", max-connections: 1";
    let pooler = Pooler::start(&server, Setup { size: 2, more, ..Setup::default() }).await;
    let mut first = pooler.client("app").await;
    let second = pooler.client("other").await;
    let console = pooler.console().await;
    let transaction = first.transaction().await.expect("begin");
    transaction.query_one("select 1", &[]).await.expect("served");
    let waits = async { second.simple_query("select 2").await.expect("served in the end") };
    let reloads = async {
        loop {
            let pools = console.simple_query("SHOW POOLS").await.expect("pools");
            let waiting = |message: &tokio_postgres::SimpleQueryMessage| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get("cl_waiting") == Some("1"),
                _ => false,
            };
            if pools.iter().any(waiting) {
                break;
            }
        }
        pooler.reload().await.expect("reloaded");
        transaction.commit().await.expect("commit");
    };
    join(waits, reloads).await;
}

/// P6: PAUSE and RESUME under load: everybody waits, nobody is lost, and while it is paused PostgreSQL
/// has no connection of the pooler.
#[tokio::test]
async fn pause_and_resume_lose_nothing() {
    let server = Postgres::start().await;
    for more in ["", ", pool-shards: 2"] {
        lose_nothing(&server, more).await;
    }
}

async fn lose_nothing(server: &Postgres, more: &str) {
    let pooler = Pooler::start(server, Setup { size: 3, more, ..Setup::default() }).await;
    let console = pooler.console().await;
    let root = server.root().await;
    let (over, done) = (Cell::new(false), Cell::new(0));
    let pauses = async {
        for n in 0..20 {
            progress(&done).await;
            let of = if n % 2 == 0 { " shop" } else { "" };
            console.simple_query(&format!("PAUSE{of}")).await.expect("paused");
            let open =
                "select count(*) from pg_stat_activity where usename in ('app', 'other', 'open')";
            let open: i64 = root.query_one(open, &[]).await.expect("row").get(0);
            assert_eq!(open, 0, "connections while paused");
            console.simple_query(&format!("RESUME{of}")).await.expect("resumed");
        }
        over.set(true);
    };
    join(work(&pooler, 12, &over, &done), pauses).await;
}
