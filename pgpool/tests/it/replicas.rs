//! A primary and its streaming replica behind one pooler: where reads go, and what becomes of clients
//! and writes when the primary is killed and the replica promoted. Real PostgreSQL.
//!
//! Invariant: a test waits for what a server says, never for time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use tokio_postgres::Client;

use crate::pooler::{Pooler, Setup, code};
use crate::postgres::Postgres;

async fn pooler(servers: [&Postgres; 2], reads: &str) -> Pooler {
    let [primary, replica] = servers;
    let more =
        format!(", replicas: [127.0.0.1:{}], reads: {reads}, check-every: 50ms", replica.port);
    Pooler::start(primary, Setup { size: 4, more: &more, ..Setup::default() }).await
}

/// The port of the server that carried a statement out.
async fn port(client: &Client, comment: &str) -> u16 {
    let sql = format!("{comment} select inet_server_port()");
    let rows = client.simple_query(&sql).await.unwrap_or_else(|fault| panic!("{fault:?}"));
    rows.iter().find_map(at).expect("a row")
}

fn at(message: &tokio_postgres::SimpleQueryMessage) -> Option<u16> {
    match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    }
}

/// Asks again until the statement is carried out by the server that it should reach.
async fn reaches(client: &Client, comment: &str, wanted: u16) {
    while port(client, comment).await != wanted {}
}

/// P5: a client says where it reads, by a setting, at its login, by a comment or by a transaction
/// that is read-only; it never writes to a replica; and it reads what it has written.
#[tokio::test]
async fn reads_go_where_the_client_says() {
    let primary = Postgres::start().await;
    let replica = primary.replica();
    let pooler = pooler([&primary, &replica], "read-only").await;
    let mut client = pooler.client("app").await;
    reaches(&client, "/* pgpool: replica */", replica.port).await;
    assert_eq!(port(&client, "").await, primary.port);

    // A read-only transaction, once the replica has what this client may have written.
    loop {
        let transaction = client.build_transaction().read_only(true).start().await.expect("begin");
        let row = transaction.query_one("select inet_server_port()", &[]).await.expect("row");
        let fault = transaction.batch_execute("insert into t values (1)").await;
        assert_eq!(code(&fault.expect_err("read-only")), "25006");
        transaction.rollback().await.expect("rollback");
        if row.get::<_, i32>(0) == i32::from(replica.port) {
            break;
        }
    }
    client.batch_execute("insert into t values (1, 'one')").await.expect("a write");
    let transaction = client.build_transaction().read_only(true).start().await.expect("begin");
    let row = transaction.query_one("select count(*) from t", &[]).await.expect("row");
    assert_eq!(row.get::<_, i64>(0), 1, "it reads what it wrote");
    transaction.rollback().await.expect("rollback");

    client.batch_execute("set pgpool.role = 'replica'").await.expect("set");
    assert_eq!(port(&client, "").await, replica.port);
    let fault = client.batch_execute("insert into t values (2)").await.expect_err("a replica");
    assert_eq!(code(&fault), "25006");
    client.batch_execute("reset pgpool.role").await.expect("reset");
    assert_eq!(port(&client, "").await, primary.port);

    let mut config = pooler.config("app", crate::postgres::PASSWORD, "shop");
    config.options("-c pgpool.role=replica");
    let reader = crate::pooler::connect(&config).await.expect("a client");
    assert_eq!(port(&reader, "").await, replica.port);
}

/// P5, T9: replicas that a reload brings, and the first round of questions after it, end no transaction on the primary,
/// whatever its number among the servers is then.
#[tokio::test]
async fn replicas_that_come_end_no_transaction() {
    let primary = Postgres::start().await;
    let replica = primary.replica();
    let pooler = Pooler::start(&primary, Setup { size: 4, ..Setup::default() }).await;
    let mut client = pooler.client("app").await;
    let transaction = client.transaction().await.expect("begin");
    transaction.batch_execute("insert into t values (1)").await.expect("a write");
    let reader = pooler.client("app").await;
    let was = format!("primary: 127.0.0.1:{}", primary.port);
    let replicas =
        format!("pool-size: 4, check-every: 50ms, replicas: [127.0.0.1:{}]", replica.port);
    let moved = format!("replicas: [127.0.0.1:{}, ", primary.port);
    for is_moved in [false, true] {
        pooler.rewrite(|text| match is_moved {
            false => text.replace("pool-size: 4", &replicas),
            true => text.replace(&was, "primary: 127.0.0.1:1").replace("replicas: [", &moved),
        });
        pooler.reload().await.unwrap_or_else(|fault| panic!("{fault}"));
        reaches(&reader, "/* pgpool: replica */", replica.port).await;
        transaction.batch_execute("insert into t values (2)").await.expect("it goes on");
    }
    transaction.commit().await.expect("it goes on");
}

/// P5: a transaction that becomes read-only only after its BEGIN stays where it began, on the primary,
/// and is read-only there; nobody after it is.
#[tokio::test]
async fn read_only_after_begin_stays_on_the_primary() {
    let primary = Postgres::start().await;
    let replica = primary.replica();
    let pooler = pooler([&primary, &replica], "automatic").await;
    let client = pooler.client("app").await;
    reaches(&client, "", replica.port).await;
    for end in ["commit", "rollback"] {
        client.batch_execute("begin").await.expect("begin");
        client.batch_execute("set transaction read only").await.expect("read-only");
        assert_eq!(port(&client, "").await, primary.port);
        let fault = client.batch_execute("insert into t values (1)").await.expect_err("read-only");
        assert_eq!(code(&fault), "25006");
        client.batch_execute(end).await.expect("ended");
        client.batch_execute("insert into t values (1)").await.expect("a write");
        let other = pooler.client("app").await;
        other.batch_execute("insert into t values (1)").await.expect("a write");
        // And the other way round: a transaction on a replica cannot become one that writes.
        reaches(&client, "", replica.port).await;
        client.batch_execute("begin read only").await.expect("begin");
        assert_eq!(port(&client, "").await, replica.port);
        let fault = client.batch_execute("set transaction read write").await;
        assert!(["25006", "0A000", "25001"].contains(&&*code(&fault.expect_err("a replica"))));
        client.batch_execute("rollback").await.expect("ended");
    }
}

/// P5: single statements that read alone go to the replica by themselves, in every form of the
/// protocol; a misjudged one is carried out by the primary, and nobody notices.
#[tokio::test]
async fn reads_are_told_from_writes() {
    let primary = Postgres::start().await;
    let root = primary.root().await;
    // It says that it changes nothing, and does.
    let lie =
        "create function lie() returns int language sql stable as 'select nextval(''s'')::int'";
    root.batch_execute(&format!("create sequence s; grant all on s to public; {lie}"))
        .await
        .expect("a function");
    root.batch_execute("create unlogged table u as select 7 as a; grant all on u to public")
        .await
        .expect("a table");
    let replica = primary.replica();
    let pooler = pooler([&primary, &replica], "automatic").await;
    let client = pooler.client("app").await;
    reaches(&client, "", replica.port).await;
    assert_eq!(port(&client, "/* pgpool: primary */").await, primary.port);
    reaches(&client, "", replica.port).await;
    let statement = client.prepare("select inet_server_port(), $1::int4").await.expect("prepared");
    loop {
        let row = client.query_one(&statement, &[&1]).await.expect("row");
        if row.get::<_, i32>(0) == i32::from(replica.port) {
            break;
        }
    }
    for n in 1..20_i32 {
        reaches(&client, "", replica.port).await;
        let row = client.query_one("select lie()", &[]).await.expect("on the primary");
        assert_eq!(row.get::<_, i32>(0), n, "carried out once");
        let rows = client.simple_query("select a from u").await.expect("an unlogged table");
        assert_eq!(rows.iter().find_map(at), Some(7));
        client.execute("insert into t values ($1, 'x')", &[&n]).await.expect("a write");
        let row = client.query_one("select count(*) from t", &[]).await.expect("row");
        assert_eq!(row.get::<_, i64>(0), i64::from(n), "it reads what it wrote");
    }
    let fault = client.batch_execute("select nonsense").await.expect_err("no such column");
    assert_eq!(code(&fault), "42703");
}

/// Functions that a replica may be tried with: one that tells where it runs, one that waits for a lock there, and
/// one that writes.
async fn stable_functions(primary: &Postgres) {
    let stable = "language plpgsql stable as $$ begin";
    let sql = format!(
        "create sequence s; grant all on s to public;
         create function here() returns int {stable} return inet_server_port(); end $$;
         create function waits() returns int {stable} perform pg_advisory_lock_shared(7); return here(); end $$;
         create function lie() returns int {stable} return nextval('s'); end $$;"
    );
    primary.root().await.batch_execute(&sql).await.expect("functions");
}

/// Waits until it is known which functions read alone.
async fn functions_are_known(pooler: &Pooler, replica: &Postgres) {
    let client = pooler.client("app").await;
    let here = async || client.simple_query("select here()").await.expect("a row");
    while here().await.iter().find_map(at) != Some(replica.port) {}
}

/// P5: what a client has sent behind a read that the replica could not do is carried out, all of it and once, however
/// much it is.
#[tokio::test]
async fn nothing_behind_a_misjudged_read_is_lost() {
    use crate::raw::{Raw, query, tags};
    let primary = Postgres::start().await;
    stable_functions(&primary).await;
    let replica = primary.replica();
    let pooler = pooler([&primary, &replica], "automatic").await;
    functions_are_known(&pooler, &replica).await;
    let insert = query("insert into t values (1, 'behind')");
    let many = 200_000 / insert.len();
    for turn in 1..=5 {
        let mut raw = Raw::login(pooler.port).await;
        raw.send(&[query("select lie()"), insert.repeat(many)].concat()).await;
        let messages = raw.until_ready(many + 1).await;
        assert_eq!(tags(&messages), format!("TDCZ{}", "CZ".repeat(many)), "{turn}");
        let rows = primary.root().await.query_one("select count(*) from t", &[]).await;
        assert_eq!(rows.expect("a row").get::<_, i64>(0), (turn * many) as i64);
    }
}

/// P5: a read whose replica is told to end is carried out by the primary: of its answer nothing was told.
#[tokio::test]
async fn a_read_that_is_ended_on_a_replica_goes_elsewhere() {
    let primary = Postgres::start().await;
    stable_functions(&primary).await;
    let replica = primary.replica();
    let pooler = pooler([&primary, &replica], "automatic").await;
    functions_are_known(&pooler, &replica).await;
    let standby = replica.root().await;
    standby.batch_execute("select pg_advisory_lock(7)").await.expect("locked");
    let client = pooler.client("app").await;
    let ends = async {
        let sql = "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and not granted";
        while standby.query(sql, &[]).await.expect("rows").is_empty() {}
    };
    let (rows, ()) = tokio::join!(client.simple_query("select waits()"), ends);
    let rows = rows.unwrap_or_else(|fault| panic!("{fault:?}"));
    assert_eq!(rows.iter().find_map(at), Some(primary.port));
    client.batch_execute("insert into t values (1)").await.expect("it goes on");
}

/// P5: a replica that is further behind than the bound, or gone, gets no reads; they go to the
/// primary, and come back when it has caught up.
#[tokio::test]
async fn late_replicas_are_left_out() {
    let primary = Postgres::start().await;
    let replica = primary.replica();
    let more =
        format!(", replicas: [127.0.0.1:{}], check-every: 50ms, max-lag: 200ms", replica.port);
    let pooler = Pooler::start(&primary, Setup { more: &more, ..Setup::default() }).await;
    let config = pooler.config("app", crate::postgres::PASSWORD, "shop_ro");
    let reader = crate::pooler::connect(&config).await.expect("a client");
    reaches(&reader, "", replica.port).await;
    let standby = replica.root().await;
    standby.batch_execute("select pg_wal_replay_pause()").await.expect("paused");
    let root = primary.root().await;
    while port(&reader, "").await != primary.port {
        root.batch_execute("insert into t values (1)").await.expect("a write");
    }
    standby.batch_execute("select pg_wal_replay_resume()").await.expect("resumed");
    reaches(&reader, "", replica.port).await;
    replica.kill();
    loop {
        // The query under way is lost with its server; the next ones are not.
        let again = crate::pooler::connect(&config).await.expect("a client");
        if again.simple_query("select 1").await.is_ok() && port(&again, "").await == primary.port {
            break;
        }
    }
}

struct Load {
    acknowledged: RefCell<Vec<(i32, i32)>>,
    /// Sent, and nobody said what became of it.
    unknown: RefCell<BTreeSet<(i32, i32)>>,
    over: Cell<bool>,
}

impl Load {
    async fn write(&self, pooler: &Pooler, writer: i32) {
        let config = pooler.config("app", crate::postgres::PASSWORD, "shop");
        let mut number = 0;
        while !self.over.get() {
            let Ok(client) = crate::pooler::connect(&config).await else { continue };
            while !self.over.get() {
                number += 1;
                let sql = format!("insert into t values ({writer}, '{number}')");
                match client.batch_execute(&sql).await {
                    Ok(()) => self.acknowledged.borrow_mut().push((writer, number)),
                    Err(_) => {
                        self.unknown.borrow_mut().insert((writer, number));
                        break;
                    }
                }
            }
        }
    }

    async fn reach(&self, count: usize) {
        while self.acknowledged.borrow().len() < count {
            tokio::task::yield_now().await;
        }
    }
}

/// P5, R12: the primary is killed under load and its synchronous replica promoted, and nobody tells
/// the pooler: idle clients stay and go on, every acknowledged write is there once, and the old
/// primary gets none when it comes back, from this pooler or from one that starts then.
#[tokio::test]
async fn a_promoted_replica_takes_the_writes() {
    promotion("asked").await;
}

/// P5, R12: the same of a pool that is spread over workers.
#[tokio::test]
async fn a_promoted_replica_takes_the_writes_of_all_shards() {
    promotion("asked, pool-shards: 2").await;
}

async fn promotion(reads: &str) {
    let primary = Postgres::start().await;
    let replica = primary.replica();
    let root = primary.root().await;
    for sql in ["alter system set synchronous_standby_names = '*'", "select pg_reload_conf()"] {
        root.batch_execute(sql).await.expect("settings");
    }
    let sync = "select count(*) from pg_stat_replication where sync_state = 'sync'";
    while root.query_one(sync, &[]).await.expect("row").get::<_, i64>(0) == 0 {}
    let pooler = pooler([&primary, &replica], reads).await;
    let mut idle = Vec::new();
    for _ in 0..30 {
        idle.push(pooler.client("app").await);
    }
    let load = Rc::new(Load {
        acknowledged: RefCell::default(),
        unknown: RefCell::default(),
        over: Cell::new(false),
    });
    let script = async {
        load.reach(500).await;
        primary.kill();
        let before = load.acknowledged.borrow().len();
        replica.promote();
        load.reach(before + 500).await;
        load.over.set(true);
    };
    let writers = (0..8).map(|writer| load.write(&pooler, writer));
    tokio::join!(script, futures_util::future::join_all(writers));
    for client in &idle {
        client.batch_execute("select 1").await.expect("an idle client goes on");
    }

    let there = replica.root().await;
    let rows = there.query("select a, b::int4 from t", &[]).await.expect("rows");
    let found: Vec<(i32, i32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let once: BTreeSet<_> = found.iter().copied().collect();
    assert_eq!(found.len(), once.len(), "no write is doubled");
    let (acknowledged, unknown) = (load.acknowledged.take(), load.unknown.take());
    for write in &acknowledged {
        assert!(once.contains(write), "{write:?} was acknowledged and is lost");
    }
    let acknowledged: BTreeSet<_> = acknowledged.into_iter().collect();
    for write in once.difference(&acknowledged) {
        assert!(unknown.contains(write), "nobody asked for {write:?}");
    }
    no_write_to_the_old([&primary, &replica], &pooler, reads).await;
}

async fn no_write_to_the_old([old, new]: [&Postgres; 2], pooler: &Pooler, reads: &str) {
    old.launch("-c synchronous_standby_names=''");
    let count = "select count(*) from t";
    let root = old.root().await;
    let before = root.query_one(count, &[]).await.expect("row").get::<_, i64>(0);
    let started = self::pooler([old, new], reads).await;
    for pooler in [pooler, &started] {
        pooler.console().await.batch_execute("RECONNECT").await.expect("reconnect");
        let client = pooler.client("app").await;
        for _ in 0..50 {
            client.batch_execute("insert into t values (99)").await.expect("a write");
            assert_eq!(port(&client, "").await, new.port);
        }
    }
    let after = root.query_one(count, &[]).await.expect("row").get::<_, i64>(0);
    assert_eq!(after, before, "the old primary got a write");
}

/// P5: a pooler that is started anew, while only the former primary answers, gives it no write: it knows that
/// somebody was promoted. One that was told nothing takes it for the primary.
#[tokio::test]
async fn an_old_primary_stays_fenced_over_a_restart() {
    let primary = Postgres::start().await;
    let replica = primary.replica();
    let state = tempfile::tempdir().expect("a folder");
    let more = format!(", replicas: [127.0.0.1:{}], check-every: 50ms", replica.port);
    let settings = "query_wait_timeout: 1s";
    let setup = || Setup { more: &more, settings, state: Some(state.path()), ..Setup::default() };
    let before = Pooler::start(&primary, setup()).await;
    write(&before, primary.port).await;
    primary.kill();
    replica.promote();
    write(&before, replica.port).await;
    before.end().await;

    let kept = std::fs::read_to_string(state.path().join("pool-1.timelines")).expect("kept");
    assert!(kept.lines().any(|line| line.starts_with("2 ") && line.ends_with(" shop")), "{kept}");
    primary.launch("");
    replica.kill();
    let after = Pooler::start(&primary, setup()).await;
    let config = after.config("app", crate::postgres::PASSWORD, "shop");
    for _ in 0..2 {
        // Refused at its login or with its write: no server is the primary.
        let Ok(client) = crate::pooler::connect(&config).await else { continue };
        client.batch_execute("insert into t values (99)").await.expect_err("no primary");
    }
    let forgetful = Pooler::start(&primary, Setup { more: &more, ..Setup::default() }).await;
    write(&forgetful, primary.port).await;
    replica.launch("");
    write(&after, replica.port).await;
    let there = primary.root().await;
    let sql = "select count(*) from t where a = 99";
    let count = there.query_one(sql, &[]).await.expect("row").get::<_, i64>(0);
    assert_eq!(count, 0, "the old primary got a write");
}

/// Tries until a write is carried out, and tells that it was by this server.
async fn write(pooler: &Pooler, wanted: u16) {
    let config = pooler.config("app", crate::postgres::PASSWORD, "shop");
    loop {
        let Ok(client) = crate::pooler::connect(&config).await else { continue };
        if client.batch_execute("insert into t values (1)").await.is_ok() {
            assert_eq!(port(&client, "").await, wanted);
            return;
        }
    }
}

/// P5: two replicas share the reads; when one dies the other has all of them, and writes go on.
#[tokio::test]
async fn two_replicas_share_reads() {
    let primary = Postgres::start().await;
    let [first, second] = [primary.replica(), primary.replica()];
    let more = format!(
        ", replicas: [127.0.0.1:{}, 127.0.0.1:{}], reads: asked, check-every: 50ms",
        first.port, second.port
    );
    let setup = Setup { size: 4, more: &more, ..Setup::default() };
    let pooler = Pooler::start(&primary, setup).await;
    let reader = async || {
        let mut config = pooler.config("app", crate::postgres::PASSWORD, "shop");
        config.options("-c pgpool.role=replica");
        crate::pooler::connect(&config).await.expect("a client")
    };
    let mut clients = [reader().await, reader().await, reader().await, reader().await];
    let all = BTreeSet::from([first.port, second.port]);
    // As long as no replica is known to be fit the primary reads.
    let mut met = BTreeSet::new();
    while met != all {
        met.clear();
        for client in &clients {
            client.batch_execute("begin").await.expect("begun");
            met.insert(port(client, "").await);
        }
        for client in &clients {
            client.batch_execute("commit").await.expect("ended");
        }
    }
    first.kill();
    for client in &mut clients {
        // What was on its way there is lost with it.
        while client.simple_query("select 1").await.is_err() {
            if client.is_closed() {
                *client = reader().await;
            }
        }
        for _ in 0..20 {
            assert_eq!(port(client, "").await, second.port);
        }
    }
    let writer = pooler.client("app").await;
    writer.batch_execute("insert into t values (1, 'one')").await.expect("written");
    assert_eq!(port(&writer, "").await, primary.port);
}
