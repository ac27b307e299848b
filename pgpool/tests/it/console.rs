//! The admin database, by driver and by psql. Not for what its numbers mean. Real PostgreSQL.
//!
//! Invariant: columns have PgBouncer's names.

use std::collections::BTreeMap;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::pooler::{Pooler, Setup, code, connect};
use crate::postgres::{PASSWORD, Postgres, ROOT_PASSWORD};

async fn rows(console: &Client, sql: &str) -> Vec<BTreeMap<String, String>> {
    let messages = console.simple_query(sql).await.unwrap_or_else(|fault| panic!("{sql}: {fault}"));
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            let names = row.columns().iter().map(|column| column.name().to_owned());
            Some(
                names
                    .enumerate()
                    .map(|(n, name)| (name, row.get(n).unwrap_or("").to_owned()))
                    .collect(),
            )
        }
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

/// P6: what exporters ask for.
#[tokio::test]
async fn shows() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 3, ..Setup::default() }).await;
    let client = pooler.client("app").await;
    client.query_one("select 1", &[]).await.expect("row");
    let console = pooler.console().await;
    let pools = rows(&console, "SHOW POOLS").await;
    let pool = pools.iter().find(|pool| pool["user"] == "app").expect("the pool of app");
    assert_eq!(pool["database"], "shop");
    assert_eq!(pool["cl_active"], "1");
    assert_eq!(pool["sv_idle"], "1");
    assert_eq!(pool["pool_mode"], "transaction");
    let clients = rows(&console, "show clients;").await;
    assert!(clients.iter().any(|client| client["user"] == "app" && client["state"] == "idle"));
    let servers = rows(&console, "SHOW SERVERS").await;
    assert_eq!(servers[0]["port"], server.port.to_string());
    for table in ["STATS", "STATS_TOTALS", "STATS_AVERAGES"] {
        let shown = rows(&console, &format!("SHOW {table}")).await;
        assert!(shown.iter().any(|row| row["database"] == "pgbouncer"), "{table}");
    }
    let stats = rows(&console, "SHOW STATS").await;
    let stats = stats.iter().find(|row| row["database"] == "shop").expect("its row");
    assert!(stats["total_query_count"].parse::<u64>().expect("number") >= 1);
    let databases = rows(&console, "SHOW DATABASES").await;
    assert!(databases.iter().any(|database| database["name"] == "shop"));
    assert!(!rows(&console, "SHOW CONFIG").await.is_empty());
    assert!(!rows(&console, "SHOW LISTS").await.is_empty());
    assert!(rows(&console, "SHOW VERSION").await[0]["version"].starts_with("PgBouncer 1."));
    let users = rows(&console, "SHOW USERS").await;
    let clients = |name: &str| {
        let user = users.iter().find(|user| user["name"] == name);
        user.map(|user| user["current_client_connections"].clone())
    };
    assert!(clients("open").is_some());
    // Consoles are clients of their users, and whoever runs the process is one of them.
    assert_eq!(clients("root").as_deref(), Some("1"));
    assert_eq!(clients("pgbouncer").as_deref(), Some("0"));
    // One of each console, however often it asks.
    for _ in 0..2 {
        let all = rows(&console, "SHOW STATS_TOTALS").await;
        let own = all.iter().find(|row| row["database"] == "pgbouncer").expect("its row");
        assert_eq!((own["xact_count"].as_str(), own["query_count"].as_str()), ("1", "1"));
    }
    let totals = rows(&console, "SHOW TOTALS").await;
    let names: Vec<_> = totals.iter().take(11).map(|row| row["name"].as_str()).collect();
    let wanted = "server_assignment_count xact_count query_count client_bytes server_bytes xact_time query_time \
                  wait_time ps_client_parse_count ps_server_parse_count ps_bind_count";
    let wanted: Vec<_> = wanted.split(' ').map(|name| format!("total_{name}")).collect();
    assert_eq!(names, wanted, "those of 1.25");
    let fault = console.simple_query("SHOW NONSENSE").await.expect_err("unknown");
    assert_eq!(code(&fault), "42601");
    console.query("SHOW VERSION", &[]).await.expect("extended protocol");
}

/// P6: paused, a query waits; resumed, it is answered; killed, a client is told.
#[tokio::test]
async fn verbs() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 2, ..Setup::default() }).await;
    let client = pooler.client("app").await;
    client.query_one("select 1", &[]).await.expect("row");
    let console = pooler.console().await;
    console.simple_query("PAUSE shop").await.expect("paused");
    let resume = async {
        let waiting = |pools: &[BTreeMap<String, String>]| {
            pools.iter().any(|pool| pool["user"] == "app" && pool["cl_waiting"] == "1")
        };
        while !waiting(&rows(&console, "SHOW POOLS").await) {
            tokio::task::yield_now().await;
        }
        console.simple_query("RESUME shop").await.expect("resumed");
    };
    let (answer, ()) = tokio::join!(client.simple_query("select 1"), resume);
    answer.expect("answered after RESUME");
    console.simple_query("RECONNECT").await.expect("reconnect");
    client.query_one("select 1", &[]).await.expect("over a new server");
    console.simple_query("PAUSE missing").await.expect_err("no such database");
    console.simple_query("KILL shop").await.expect("killed");
    let fault = client.simple_query("select 1").await.expect_err("ended");
    assert!(client.is_closed() || code(&fault) == "57P01", "{fault:?}");
}

/// P6: as a person uses it.
#[tokio::test]
async fn psql() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let output = tokio::process::Command::new("psql")
        .args(["-h", "127.0.0.1", "-p", &pooler.port.to_string(), "-U", "root", "-X"])
        .args(["-d", "pgbouncer", "-c", "SHOW POOLS"])
        .env("PGPASSWORD", ROOT_PASSWORD)
        .output()
        .await
        .expect("psql runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("cl_waiting"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

/// P6: the columns of PgBouncer 1.25, in its order, by both protocols.
#[tokio::test]
async fn columns_are_those_of_pgbouncer() {
    const SOCKET: &str = "type user database replication state addr port local_addr local_port \
        connect_time request_time wait wait_us close_needed ptr link remote_pid tls application_name \
        prepared_statements id";
    const DEBUG: &str = "recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail";
    const PLAIN: &str = "database server_assignment_count xact_count query_count bytes_received \
        bytes_sent xact_time query_time wait_time client_parse_count server_parse_count bind_count";
    let averages = PLAIN.replace(
        "client_parse_count server_parse_count bind_count",
        "avg_client_parse_count avg_server_parse_count avg_bind_count",
    );
    let sockets = format!("{SOCKET} {DEBUG}");
    let table = [
        ("CLIENTS", SOCKET),
        ("SERVERS", SOCKET),
        ("SOCKETS", &sockets),
        ("ACTIVE_SOCKETS", &sockets),
        ("STATS_TOTALS", PLAIN),
        ("STATS_AVERAGES", &averages),
        ("TOTALS", "name value"),
        (
            "POOLS",
            "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active \
             sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us \
             pool_mode load_balance_hosts",
        ),
        (
            "DATABASES",
            "name host port database force_user pool_size min_pool_size reserve_pool_size \
             server_lifetime pool_mode load_balance_hosts max_connections current_connections \
             max_client_connections current_client_connections paused disabled reserve_pool",
        ),
        (
            "FDS",
            "fd task user database addr port cancel link client_encoding std_strings datestyle \
             timezone password scram_client_key scram_server_key",
        ),
        ("MEM", "name size used free memtotal"),
        ("DNS_HOSTS", "hostname ttl addrs"),
        ("DNS_ZONES", "zonename serial count"),
        ("PEERS", "peer_id host port pool_size"),
        ("CONFIG", "key value default changeable"),
        ("LISTS", "list items"),
    ];
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    pooler.client("app").await.query_one("select $1::text", &[&"x"]).await.expect("row");
    let console = pooler.console().await;
    for (what, expected) in table {
        let sql = format!("SHOW {what}");
        let prepared = console.prepare(&sql).await.unwrap_or_else(|fault| panic!("{sql}: {fault}"));
        let names: Vec<_> = prepared.columns().iter().map(tokio_postgres::Column::name).collect();
        assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>(), "{sql}");
        console.query(&prepared, &[]).await.unwrap_or_else(|fault| panic!("{sql}: {fault}"));
        for row in rows(&console, &sql).await {
            assert_eq!(row.len(), names.len(), "{sql}");
        }
    }
    let totals = rows(&console, "SHOW STATS_TOTALS").await;
    let totals = totals.iter().find(|row| row["database"] == "shop").expect("its row");
    for counted in ["client_parse_count", "server_parse_count", "bind_count", "xact_count"] {
        assert!(totals[counted].parse::<u64>().expect("a number") >= 1, "{counted}: {totals:?}");
    }
}

/// P6: databases that take no new clients, that are killed until RESUME, and settings that change.
#[tokio::test]
async fn holds_and_settings() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 2, ..Setup::default() }).await;
    let client = pooler.client("app").await;
    client.query_one("select 1", &[]).await.expect("row");
    let console = pooler.console().await;
    console.simple_query("DISABLE shop").await.expect("disabled");
    let fault = connect(&pooler.config("app", PASSWORD, "shop")).await.expect_err("disabled");
    assert_eq!(code(&fault), "57P03");
    client.query_one("select 1", &[]).await.expect("who is inside stays");
    let shown = rows(&console, "SHOW DATABASES").await;
    assert!(shown.iter().any(|row| row["name"] == "shop" && row["disabled"] == "1"));
    console.simple_query("ENABLE shop").await.expect("enabled");
    connect(&pooler.config("app", PASSWORD, "shop")).await.expect("let in again");

    console.simple_query("RECONNECT shop").await.expect("reconnect");
    console.simple_query("WAIT_CLOSE shop").await.expect("all are closed");
    assert!(rows(&console, "SHOW SERVERS").await.is_empty());

    console.simple_query("SUSPEND").await.expect("suspended");
    let state = rows(&console, "SHOW STATE").await;
    assert!(state.iter().any(|row| row["key"] == "suspended" && row["value"] == "yes"));
    console.simple_query("RESUME").await.expect("resumed");
    client.query_one("select 1", &[]).await.expect("goes on");

    console.simple_query("SET query_timeout = '0.2'").await.expect("set");
    let shown = rows(&console, "SHOW CONFIG").await;
    assert!(shown.iter().any(|row| row["key"] == "query_timeout" && row["value"] == "0.2"));
    let fault = client.batch_execute("select pg_sleep(60)").await.expect_err("cancelled");
    assert_eq!(code(&fault), "57014");
    for wrong in
        ["SET query_timeout = 'long'", "SET nonsense = 1", "SET server_connect_timeout = 0"]
    {
        assert_eq!(code(&console.simple_query(wrong).await.expect_err(wrong)), "42601");
    }

    console.simple_query("SET query_timeout = '0'").await.expect("set");
    console.simple_query("KILL").await.expect("killed");
    let waiting = async {
        let next = pooler.client("app").await;
        next.query_one("select 1", &[]).await.expect("served after RESUME");
    };
    let resume = async {
        while !rows(&console, "SHOW POOLS").await.iter().any(|pool| pool["cl_waiting"] == "1") {
            tokio::task::yield_now().await;
        }
        console.simple_query("RESUME shop").await.expect("resumed");
    };
    tokio::join!(waiting, resume);
}

/// P6: who may look may not change anything (the class of CVE-2026-6667).
#[tokio::test]
async fn who_looks_changes_nothing() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    pooler.rewrite(|text| text.replace("open: {}", "open: { console: stats }"));
    pooler.reload().await.expect("reloaded");
    let stats = connect(&pooler.config("open", "", "pgbouncer")).await.expect("let in");
    stats.simple_query("SHOW POOLS").await.expect("may look");
    for sql in [
        "PAUSE",
        "RESUME",
        "RECONNECT",
        "RELOAD",
        "KILL",
        "KILL shop",
        "KILL_CLIENT 1",
        "DISABLE shop",
        "ENABLE shop",
        "SUSPEND",
        "WAIT_CLOSE",
        "SET query_timeout = 1",
        "SHUTDOWN",
        "SHUTDOWN WAIT_FOR_CLIENTS",
        "SHOW FDS",
    ] {
        assert_eq!(code(&stats.simple_query(sql).await.expect_err(sql)), "42501", "{sql}");
    }
    pooler.client("app").await.query_one("select 1", &[]).await.expect("nothing has happened");
}

/// P6: who gives up a PAUSE that waits, by a cancel request or by leaving, has paused nothing; its key is its own.
#[tokio::test]
async fn a_pause_that_waits_is_given_up() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let client = pooler.client("app").await;
    client.batch_execute("begin").await.expect("begun");
    let looks = pooler.console().await;
    let until = async |command: &str, paused: bool| loop {
        // All databases are paused in one, without each being so.
        let (sql, key, sign) = match command {
            "PAUSE" => ("SHOW STATE", "value", if paused { "yes" } else { "no" }),
            _ => ("SHOW DATABASES", "paused", if paused { "1" } else { "0" }),
        };
        let is_it = |row: &BTreeMap<String, String>| {
            row.get("key")
                .or(row.get("name"))
                .is_some_and(|name| name == "paused" || name == "shop")
        };
        if rows(&looks, sql).await.iter().any(|row| is_it(row) && row[key] == sign) {
            break;
        }
    };
    for command in ["PAUSE", "PAUSE shop"] {
        let config = pooler.config("root", ROOT_PASSWORD, "pgbouncer");
        let (console, connection) = config.connect(tokio_postgres::NoTls).await.expect("let in");
        let connection = tokio::spawn(connection);
        let token = console.cancel_token();
        let cancels = async {
            until(command, true).await;
            token.cancel_query(tokio_postgres::NoTls).await.expect("taken");
        };
        let (outcome, ()) = tokio::join!(console.batch_execute(command), cancels);
        assert_eq!(code(&outcome.expect_err("given up")), "57014", "{command}");
        until(command, false).await;
        console.batch_execute("SHOW VERSION").await.expect("it goes on");
        // One for nothing hits nothing.
        token.cancel_query(tokio_postgres::NoTls).await.expect("taken");
        let leaves = async {
            until(command, true).await;
            connection.abort();
        };
        let (outcome, ()) = tokio::join!(console.batch_execute(command), leaves);
        outcome.expect_err("it has left");
        until(command, false).await;
    }
    client.batch_execute("commit").await.expect("ended");
    pooler.client("app").await.query_one("select 1", &[]).await.expect("served");
}

/// P6: `KILL_CLIENT` ends the client of an id of SHOW CLIENTS and no other.
#[tokio::test]
async fn one_client_is_killed() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 2, ..Setup::default() }).await;
    let mut config = pooler.config("app", PASSWORD, "shop");
    let victim = connect(config.application_name("victim")).await.expect("let in");
    let other = pooler.client("app").await;
    victim.batch_execute("begin").await.expect("begun");
    let console = pooler.console().await;
    let clients = rows(&console, "SHOW CLIENTS").await;
    let found = clients.iter().find(|row| row["application_name"] == "victim").expect("shown");
    let kill = format!("KILL_CLIENT {}", found["id"]);
    console.batch_execute(&kill).await.expect("killed");
    let fault = victim.batch_execute("select 1").await.expect_err("ended");
    assert!(victim.is_closed() || code(&fault) == "57P01", "{fault:?}");
    other.batch_execute("select 1").await.expect("nobody else is");
    let gone =
        async || rows(&console, "SHOW CLIENTS").await.iter().all(|row| row["id"] != found["id"]);
    while !gone().await {}
    assert_eq!(code(&console.batch_execute(&kill).await.expect_err("it is gone")), "42601");
}

/// P6: `WAIT_CLOSE` is answered when the last server of before `RECONNECT` is gone, `SUSPEND` when no server works;
/// what is asked meanwhile is answered after `RESUME`.
#[tokio::test]
async fn what_waits_for_servers() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 2, ..Setup::default() }).await;
    let (client, console, looks) =
        (pooler.client("app").await, pooler.console().await, pooler.console().await);
    client.batch_execute("begin").await.expect("begun");
    console.batch_execute("RECONNECT").await.expect("said");
    let begun = std::sync::atomic::AtomicBool::new(false);
    let waits = async {
        console.batch_execute("WAIT_CLOSE shop").await.expect("all are closed");
        assert!(begun.load(std::sync::atomic::Ordering::SeqCst), "one was not");
    };
    let commits = async {
        let servers = rows(&looks, "SHOW SERVERS").await;
        assert!(servers.iter().any(|row| row["close_needed"] == "1"), "{servers:?}");
        begun.store(true, std::sync::atomic::Ordering::SeqCst);
        client.batch_execute("commit").await.expect("ended");
    };
    tokio::join!(waits, commits);
    assert!(rows(&looks, "SHOW SERVERS").await.iter().all(|row| row["close_needed"] == "0"));

    client.batch_execute("begin").await.expect("begun");
    let commits = async {
        let suspended = async || {
            let state = rows(&looks, "SHOW STATE").await;
            state.iter().any(|row| row["key"] == "suspended" && row["value"] == "yes")
        };
        while !suspended().await {}
        client.batch_execute("commit").await.expect("ended");
    };
    let (outcome, ()) = tokio::join!(console.batch_execute("SUSPEND"), commits);
    outcome.expect("nothing works");
    let resumes = async {
        let waiting = async || {
            let pools = rows(&looks, "SHOW POOLS").await;
            pools.iter().any(|row| row["cl_waiting"] == "1")
        };
        while !waiting().await {}
        looks.batch_execute("RESUME").await.expect("resumed");
    };
    let (outcome, ()) = tokio::join!(client.batch_execute("select 1"), resumes);
    outcome.expect("answered");
}

/// P6: what is paused by itself and what is paused with all are two things, as under PgBouncer: `RESUME` ends the one,
/// `RESUME db` the other, also after `KILL`; what is so already is refused.
#[tokio::test]
async fn what_is_paused_by_itself_is_resumed_by_itself() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    let console = pooler.console().await;
    let done = async |sql: &str| {
        console.batch_execute(sql).await.unwrap_or_else(|fault| panic!("{sql}: {fault:?}"));
    };
    let refused = async |all: &[&str]| {
        for sql in all {
            assert_eq!(code(&console.batch_execute(sql).await.expect_err(sql)), "55000", "{sql}");
        }
    };
    let paused = async || {
        let shown = rows(&console, "SHOW DATABASES").await;
        let paused = shown.into_iter().filter(|row| row["paused"] == "1");
        paused.map(|row| row["name"].clone()).collect::<Vec<_>>()
    };
    refused(&["RESUME", "RESUME shop", "PAUSE pgbouncer", "KILL pgbouncer"]).await;
    done("PAUSE \"shop\"").await;
    done("PAUSE shop").await;
    refused(&["SUSPEND", "RESUME"]).await;
    done("PAUSE").await;
    assert_eq!(paused().await, ["nowhere", "shop"]);
    refused(&["PAUSE", "PAUSE shop", "KILL", "KILL shop", "SUSPEND"]).await;
    done("RESUME").await;
    assert_eq!(paused().await, ["shop"], "it was paused by itself");
    done("RESUME shop").await;
    refused(&["RESUME shop", "RESUME"]).await;
    done("SUSPEND").await;
    refused(&["SUSPEND", "PAUSE"]).await;
    done("RESUME").await;
    done("KILL").await;
    refused(&["RESUME", "SUSPEND"]).await;
    assert_eq!(paused().await, ["nowhere", "shop"]);
    done("RESUME shop").await;
    pooler.client("app").await.query_one("select 1", &[]).await.expect("it goes on");
    assert_eq!(paused().await, ["nowhere"]);
}

/// P6: databases that only `*` stands for are held up before anybody has named them.
#[tokio::test]
async fn what_the_star_stands_for_is_held_up_by_name() {
    let server = Postgres::start().await;
    let more = format!(" }}\n      \"*\": {{ primary: 127.0.0.1:{}", server.port);
    let pooler = Pooler::start(&server, Setup { more: &more, ..Setup::default() }).await;
    let console = pooler.console().await;
    let done = async |sql: &str| {
        console.batch_execute(sql).await.unwrap_or_else(|fault| panic!("{sql}: {fault:?}"));
    };
    done("DISABLE postgres").await;
    let config = pooler.config("app", PASSWORD, "postgres");
    let fault = connect(&config).await.expect_err("disabled");
    assert!(format!("{fault:?}").contains("does not allow connections"), "{fault:?}");
    done("ENABLE postgres").await;
    done("PAUSE later").await;
    done("KILL postgres").await;
    done("RECONNECT other").await;
    let shown = rows(&console, "SHOW DATABASES").await;
    for name in ["later", "postgres"] {
        assert!(shown.iter().any(|row| row["name"] == name && row["paused"] == "1"), "{name}");
    }
    done("RESUME later").await;
    done("RESUME postgres").await;
    let client = connect(&config).await.expect("let in");
    client.query_one("select 1", &[]).await.expect("served");
}
