//! A pool that is spread over workers: one pool to everybody who looks at it, whose servers go where clients wait.
//! Not for what clients do to each other: that is `leak`. Real PostgreSQL.
//!
//! Invariant: PostgreSQL never has more connections than the pool's size, whichever workers they are of.

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::pooler::{Pooler, Setup};
use crate::postgres::Postgres;
use crate::raw::{Raw, bare, bind, columns, execute, parse, query, tags, text};

const TWO: &str = ", pool-shards: 2";

/// The worker that a client's number names.
fn worker(raw: &Raw) -> u32 {
    raw.key.pid >> 22
}

/// A client on each of two workers, in this order.
async fn one_on_each(port: u16) -> [Raw; 2] {
    let mut found = [None, None];
    while found.iter().any(Option::is_none) {
        let raw = Raw::login(port).await;
        let at = worker(&raw) as usize;
        found[at] = Some(raw);
    }
    found.map(|raw| raw.expect("found"))
}

/// The first column of the only row.
async fn first(raw: &mut Raw, sql: &str) -> String {
    raw.send(&query(sql)).await;
    let messages = raw.until_ready(1).await;
    let row = messages.iter().find(|(tag, _)| *tag == b'D');
    let (_, row) = row.unwrap_or_else(|| panic!("{sql}: {}", text(&messages)));
    columns(row)[0].clone()
}

/// A column of the only row of `SHOW POOLS` for `open`.
async fn shown(console: &Client, column: &str) -> String {
    let messages = console.simple_query("SHOW POOLS").await.expect("pools");
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) if row.get("user") == Some("open") => Some(row),
        _ => None,
    });
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows.len(), 1, "a pool is one row, however many shards it has");
    rows[0].get(column).expect("a column").to_owned()
}

const OPEN: &str =
    "select count(*) from pg_stat_activity where usename in ('open', 'app', 'other')";
const PID: &str = "select pg_backend_pid()";

/// P2: forty clients on two workers over five servers: PostgreSQL never sees a sixth, both workers work, the
/// transaction of each stays on one server, and the console shows one pool.
#[tokio::test]
async fn limits_hold_for_the_whole() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 5, more: TWO, ..Setup::default() }).await;
    let root = server.root().await;
    let over = std::cell::Cell::new(false);
    let client = |_: usize| async {
        let mut raw = Raw::login(pooler.port).await;
        for _ in 0..20 {
            raw.ask(&query("begin")).await;
            let (before, seen) = (first(&mut raw, PID).await, first(&mut raw, OPEN).await);
            assert_eq!(first(&mut raw, PID).await, before, "a transaction stays on its server");
            assert!(seen.parse::<u32>().expect("a number") <= 5, "{seen} servers");
            raw.ask(&query("commit")).await;
        }
        raw
    };
    let clients = async {
        let all = futures_util::future::join_all((0..40).map(client)).await;
        over.set(true);
        all
    };
    let watch = async {
        while !over.get() {
            let open: i64 = root.query_one(OPEN, &[]).await.expect("row").get(0);
            assert!(open <= 5, "{open} servers");
        }
    };
    let (clients, ()) = tokio::join!(clients, watch);
    let on = |at: u32| clients.iter().filter(|raw| worker(raw) == at).count();
    assert!(on(0) >= 10 && on(1) >= 10, "{} and {} clients", on(0), on(1));
    let console = pooler.console().await;
    assert_eq!(shown(&console, "cl_active").await, "40");
    assert_eq!(shown(&console, "cl_waiting").await, "0");
    let idle: u32 = shown(&console, "sv_idle").await.parse().expect("a number");
    assert!((1..=5).contains(&idle), "{idle} servers idle");
}

/// P2, P3: with one server for two workers, it goes to and fro as it is asked for: the same connection, with nobody's
/// settings or statements but those of whom it works for; and who waits gets it as soon as it is free.
#[tokio::test]
async fn a_server_goes_where_it_is_needed() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { more: TWO, ..Setup::default() }).await;
    let [mut one, mut two] = one_on_each(pooler.port).await;
    let pid = first(&mut one, PID).await;
    assert_eq!(one.ask(&query("set work_mem = '77kB'")).await.0, "CZ");
    // The same name, and the same server's name if workers did not tell theirs apart.
    for (raw, value) in [(&mut one, "7"), (&mut two, "8")] {
        let made = [parse("mine", &format!("select {value}")), bare(b'S')].concat();
        assert_eq!(raw.ask(&made).await.0, "1Z");
    }
    for _ in 0..5 {
        for (raw, memory, value) in [(&mut two, "4MB", "8"), (&mut one, "77kB", "7")] {
            assert_eq!(first(raw, PID).await, pid, "one connection for both");
            assert_eq!(first(raw, "show work_mem").await, memory);
            raw.send(&[bind("", "mine", &[]), execute("", 0), bare(b'S')].concat()).await;
            let messages = raw.until_ready(1).await;
            assert_eq!(tags(&messages), "2DCZ", "{}", text(&messages));
            assert_eq!(columns(&messages[1].1)[0], value);
        }
    }
    one.ask(&query("begin")).await;
    two.send(&query(PID)).await;
    let console = pooler.console().await;
    while shown(&console, "cl_waiting").await != "1" {}
    assert_eq!(shown(&console, "sv_active").await, "1");
    one.ask(&query("commit")).await;
    let messages = two.until_ready(1).await;
    assert_eq!(columns(&messages[1].1)[0], pid);
}

/// P7: a cancel request reaches its query on whichever worker, and no other.
#[tokio::test]
async fn cancels_reach_their_query() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 2, more: TWO, ..Setup::default() }).await;
    let mut both = one_on_each(pooler.port).await;
    for raw in &mut both {
        raw.send(&query("select pg_sleep(100)")).await;
    }
    for raw in &mut both {
        let (key, over) = (raw.key.clone(), std::cell::Cell::new(false));
        let request = async {
            while !over.get() {
                Raw::cancel(pooler.port, &key).await;
            }
        };
        let answer = async {
            let messages = raw.until_ready(1).await;
            over.set(true);
            messages
        };
        let ((), messages) = tokio::join!(request, answer);
        assert!(text(&messages).contains("57014"), "{}", text(&messages));
        assert_eq!(first(raw, "select 1").await, "1");
    }
}

/// T9: the number of shards changes by a reload: clients that come from then on are spread, those that are there
/// stay, and all have one pool between them.
#[tokio::test]
async fn a_reload_spreads_a_pool() {
    let server = Postgres::start().await;
    let pooler =
        Pooler::start(&server, Setup { more: ", pool-shards: 1", ..Setup::default() }).await;
    let mut before = Vec::new();
    for _ in 0..6 {
        before.push(Raw::login(pooler.port).await);
    }
    let pid = first(&mut before[0], PID).await;
    assert!(before.iter().all(|raw| worker(raw) == worker(&before[0])), "one home");
    pooler.rewrite(|text| text.replace("pool-shards: 1", "pool-shards: 2"));
    pooler.reload().await.expect("reloaded");
    let mut after = one_on_each(pooler.port).await;
    pooler.rewrite(|text| text.replace("pool-shards: 2", "pool-shards: 1"));
    pooler.reload().await.expect("reloaded");
    let mut last = Raw::login(pooler.port).await;
    assert_eq!(worker(&last), worker(&before[0]));
    for raw in before.iter_mut().chain(&mut after).chain([&mut last]) {
        assert_eq!(first(raw, PID).await, pid, "one connection for all");
    }
}

/// P2: a limit that pools share is found room in, wherever the idle server is that must go.
#[tokio::test]
async fn room_is_made_on_any_worker() {
    let server = Postgres::start().await;
    let more = ", pool-shards: 2, max-connections: 1";
    let pooler = Pooler::start(&server, Setup { size: 2, more, ..Setup::default() }).await;
    let mut clients = Vec::new();
    for user in ["open", "app", "other", "open", "app", "other"] {
        clients.push(pooler.client(user).await);
    }
    for _ in 0..3 {
        for client in &clients {
            let row = client.query_one(OPEN, &[]).await.expect("served");
            assert_eq!(row.get::<_, i64>(0), 1);
        }
    }
}

/// P3: one connection listens for the clients of all workers; each hears what it listens on, in its order, until it
/// has had enough.
#[tokio::test]
async fn one_connection_listens_for_all_shards() {
    let server = Postgres::start().await;
    let settings = "shared_listen: true";
    let setup = Setup { size: 2, settings, more: TWO, ..Setup::default() };
    let pooler = Pooler::start(&server, setup).await;
    let root = server.root().await;
    let mut both = one_on_each(pooler.port).await;
    for raw in &mut both {
        assert_eq!(raw.ask(&query("listen jobs")).await.0, "CZ");
    }
    assert_eq!(both[1].ask(&query("listen more")).await.0, "CZ");
    let listening =
        "select count(*) from pg_stat_activity where application_name = 'pgpool listen'";
    let listening: i64 = root.query_one(listening, &[]).await.expect("row").get(0);
    assert_eq!(listening, 1, "connections that listen");
    for n in 0..50 {
        root.batch_execute(&format!("notify jobs, '{n}'; notify more, '{n}'")).await.expect("said");
    }
    for (raw, channels) in both.iter_mut().zip([&["jobs"][..], &["jobs", "more"]]) {
        for n in 0..50 {
            for channel in channels {
                let (tag, body) = raw.message().await.expect("a message");
                let said = String::from_utf8_lossy(&body[4..]).into_owned();
                assert_eq!((tag, said), (b'A', format!("{channel}\0{n}\0")));
            }
        }
        assert_eq!(raw.ask(&query("unlisten jobs")).await.0, "CZ");
    }
    root.batch_execute("notify jobs, 'late'; notify more, 'last'").await.expect("said");
    let (_, body) = both[1].message().await.expect("a message");
    assert_eq!(&body[4..], b"more\0last\0");
    assert_eq!(both[0].ask(&query("select 1")).await.0, "TDCZ", "it hears nothing any more");
}

/// P6: `PAUSE` lets no server of any worker stay, `RECONNECT` and `KILL` reach all of them.
#[tokio::test]
async fn commands_reach_all_shards() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 4, more: TWO, ..Setup::default() }).await;
    let (root, console) = (server.root().await, pooler.console().await);
    let [mut one, mut two] = one_on_each(pooler.port).await;
    // Both at a time, so that each worker has a server.
    for raw in [&mut one, &mut two] {
        raw.ask(&query("begin")).await;
    }
    let old = [first(&mut one, PID).await, first(&mut two, PID).await];
    assert_ne!(old[0], old[1]);
    for raw in [&mut one, &mut two] {
        raw.ask(&query("commit")).await;
    }
    console.simple_query("RECONNECT shop").await.expect("told");
    console.simple_query("WAIT_CLOSE shop").await.expect("closed");
    for raw in [&mut one, &mut two] {
        assert!(!old.contains(&first(raw, PID).await), "a connection of before");
    }
    console.simple_query("PAUSE shop").await.expect("paused");
    let open: i64 = root.query_one(OPEN, &[]).await.expect("row").get(0);
    assert_eq!(open, 0, "connections while paused");
    console.simple_query("RESUME shop").await.expect("resumed");
    assert_eq!(first(&mut two, "select 2").await, "2");
    console.simple_query("KILL shop").await.expect("killed");
    for mut raw in [one, two] {
        assert!(text(&raw.until_ready(1).await).contains("57P01"), "ended");
    }
}

/// P1, P4: what servers say of themselves is as new on every worker: a role's settings were changed, and a server of one
/// worker has told.
#[tokio::test]
async fn what_servers_say_is_new_on_all_shards() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { more: TWO, ..Setup::default() }).await;
    let (root, console) = (server.root().await, pooler.console().await);
    let [mut one, mut two] = one_on_each(pooler.port).await;
    for raw in [&mut one, &mut two] {
        assert_ne!(first(raw, "show timezone").await, "Asia/Tokyo");
    }
    root.batch_execute("alter role open set timezone = 'Asia/Tokyo'").await.expect("altered");
    console.simple_query("RECONNECT shop").await.expect("told");
    console.simple_query("WAIT_CLOSE shop").await.expect("closed");
    assert_ne!(first(&mut one, "show timezone").await, "Asia/Tokyo", "it began with another");
    for raw in &mut one_on_each(pooler.port).await {
        assert_eq!(first(raw, "show timezone").await, "Asia/Tokyo");
    }
}

/// P4: keys for servers that one client's login has shown are known on every worker: after a change of the password,
/// who is in is served wherever it is, by servers of its own worker.
#[tokio::test]
async fn keys_of_a_new_password_are_known_to_all_shards() {
    const NEW: &str = "battery staple";
    let server = Postgres::start().await;
    let settings = "query_wait_timeout: 10s";
    let setup = Setup { size: 4, more: TWO, settings, ..Setup::default() };
    let pooler = Pooler::start(&server, setup).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(pooler.client("app").await);
    }
    let sql = format!("alter role app password '{NEW}'");
    server.root().await.batch_execute(&sql).await.expect("altered");
    std::fs::write(pooler.file().with_file_name("app"), server.verifier("app").await)
        .expect("written");
    pooler.reload().await.expect("reloaded");
    let console = pooler.console().await;
    console.simple_query("WAIT_CLOSE shop").await.expect("closed");
    crate::pooler::connect(&pooler.config("app", NEW, "shop")).await.expect("the new password");
    // All at a time: none has a server to lend.
    for client in &clients {
        client.batch_execute("begin").await.expect("a server");
    }
    for client in &clients {
        client.batch_execute("commit").await.expect("committed");
    }
}

/// P3, T9: a pool that leaves the configuration hears for nobody any more; one that comes by its name hears for its own
/// clients alone, each thing once.
#[tokio::test]
async fn a_pool_that_comes_back_hears_for_its_own() {
    let server = Postgres::start().await;
    let settings = "shared_listen: true";
    let setup = Setup { size: 2, settings, more: TWO, ..Setup::default() };
    let pooler = Pooler::start(&server, setup).await;
    let root = server.root().await;
    let ears = async || {
        let sql = "select 1 from pg_stat_activity where application_name = 'pgpool listen'";
        root.query(sql, &[]).await.expect("rows").len()
    };
    let mut before = one_on_each(pooler.port).await;
    for raw in &mut before {
        assert_eq!(raw.ask(&query("listen jobs")).await.0, "CZ");
    }
    assert_eq!(ears().await, 1);
    pooler.rewrite(|text| text.replace(" shop: {", " gone: {"));
    pooler.reload().await.expect("reloaded");
    for raw in &mut before {
        assert!(text(&raw.until_ready(1).await).contains("57P01"), "ended");
    }
    // Nobody listens by it any more.
    while ears().await > 0 {}
    pooler.rewrite(|text| text.replace(" gone: {", " shop: {"));
    pooler.reload().await.expect("reloaded");
    let mut after = one_on_each(pooler.port).await;
    for raw in &mut after {
        assert_eq!(raw.ask(&query("listen jobs")).await.0, "CZ");
    }
    for n in 0..20 {
        root.batch_execute(&format!("notify jobs, '{n}'")).await.expect("said");
    }
    for raw in &mut after {
        for n in 0..20 {
            let (tag, body) = raw.message().await.expect("a message");
            let said = String::from_utf8_lossy(&body[4..]).into_owned();
            assert_eq!((tag, said), (b'A', format!("jobs\0{n}\0")));
        }
        assert_eq!(raw.ask(&query("select 1")).await.0, "TDCZ");
    }
    assert_eq!(ears().await, 1);
}
