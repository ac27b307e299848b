//! The console of a pooler in PgBouncer's place, as its operators use it. Not for the columns of tables: that is
//! `console`. The binary is started as operators do, in front of a real PostgreSQL.
//!
//! Invariant: nothing here waits for a time: a state is asked for until it is there, or a process ended.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::dropin::{PGPOOL, Place, Running};
use crate::pooler::code;
use crate::postgres::{PASSWORD, Postgres, ROOT_PASSWORD};

/// P6, P8: `SHOW CONFIG` has every key of PgBouncer with what holds; what `SET` says holds at once, together with
/// what it said before, until the file is read again; the rest is refused, and what drivers say does no harm.
#[tokio::test]
async fn settings_are_shown_and_changed() {
    let server = Postgres::start().await;
    let place = Place::new(&server, "query_timeout = 33").await;
    let running = place.start(PGPOOL);
    let config = || {
        let shown = place.told("root", "pgbouncer", "show config");
        let row = |line: &str| line.split('|').map(str::to_owned).collect::<Vec<_>>();
        shown.lines().map(row).collect::<Vec<_>>()
    };
    let value = |key: &str| {
        let found = config().into_iter().find(|row| row[0] == key);
        found.unwrap_or_else(|| panic!("no {key}"))[1].clone()
    };
    let all = config();
    assert!(all.len() >= 99, "{all:?}");
    let port = place.port.to_string();
    for (key, shown, default, changeable) in [
        ("query_timeout", "33", "0", "yes"),
        ("listen_port", &port, "6432", "no"),
        ("admin_users", "root", "", "yes"),
        ("pool_mode", "transaction", "session", "yes"),
        ("max_client_conn", "100", "100", "yes"),
        ("pkt_buf", "4096", "4096", "no"),
        ("stats_period", "60", "60", "yes"),
    ] {
        let row = all.iter().find(|row| row[0] == key).unwrap_or_else(|| panic!("no {key}"));
        assert_eq!(row[1..], [shown, default, changeable], "{key}");
    }
    for sql in [
        "set max_client_conn = 1",
        "set query_timeout to '0.25'",
        "set log_connections = 0",
        "set server_reset_query = 'reset all; discard temp'",
    ] {
        assert_eq!(place.told("root", "pgbouncer", sql), "SET", "{sql}");
    }
    assert_eq!((value("max_client_conn"), value("query_timeout")), ("1".into(), "0.25".into()));
    assert_eq!(value("server_reset_query"), "reset all; discard temp");
    let slow = place.ask("app", "shop", "select pg_sleep(60)");
    assert!(String::from_utf8_lossy(&slow.stderr).contains("took longer"), "{slow:?}");
    for (sql, word) in [
        ("set listen_port = 1", "restart"),
        ("set pkt_buf = 1", "no effect"),
        ("set nonsense = 1", "no setting"),
        ("set pool_mode = none", "pool_mode none"),
        ("set query_timeout", "one value"),
    ] {
        let refused = place.ask("root", "pgbouncer", sql);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(word), "{sql}: {told}");
    }
    for sql in ["set client_encoding to 'UTF8'", "set application_name = x", "set datestyle = ISO"]
    {
        assert_eq!(place.told("root", "pgbouncer", sql), "SET", "{sql}");
    }
    assert_eq!(place.told("root", "pgbouncer", "show client_encoding"), "UTF-8");
    assert_eq!(value("query_timeout"), "0.25", "what was refused has changed nothing");
    assert_eq!(place.told("root", "pgbouncer", "reload"), "RELOAD");
    assert_eq!((value("max_client_conn"), value("query_timeout")), ("100".into(), "33".into()));
    drop(running);
}

/// P6: averages go over `stats_period`, also over one that is shorter since a moment ago.
#[tokio::test]
async fn averages_go_over_stats_period() {
    let server = Postgres::start().await;
    let place = Place::new(&server, "").await;
    let running = place.start(PGPOOL);
    assert_eq!(place.told("root", "pgbouncer", "set stats_period = 1"), "SET");
    let average = |told: &str| {
        let shop = told.lines().find(|line| line.starts_with("shop|"));
        shop.and_then(|line| line.split('|').nth(3)?.parse::<u64>().ok()).unwrap_or_default()
    };
    let mut config = tokio_postgres::Config::new();
    config.host_path(place.folder.path()).port(place.port).user("other").password(PASSWORD);
    let client = crate::pooler::connect(config.dbname("shop")).await.expect("let in");
    while average(&place.told("root", "pgbouncer", "show stats_averages")) == 0 {
        for _ in 0..100 {
            client.batch_execute("select 1").await.expect("answered");
        }
    }
    drop(running);
}

/// P6: what is known of a client and its server is shown: addresses, processes, statements, names, the console
/// itself; `SHOW DATABASES` says that all are paused, and as whom a database is logged in to.
#[tokio::test]
async fn tables_show_what_is_known() {
    let server = Postgres::start().await;
    let place = Place::new(
        &server,
        "peer_id = 1\n[peers]\n2 = host=127.0.0.1 port=1\n[databases]\n\
         own = host=127.0.0.1 port=1 pool_mode=session",
    )
    .await;
    let running = place.start(PGPOOL);
    let rows = |sql: &str| {
        let mut psql =
            place.psql(std::path::Path::new("127.0.0.1"), "root", ROOT_PASSWORD, "pgbouncer");
        let output = psql.args(["-P", "tuples_only=off", "-P", "footer=off", "-c", sql]).output();
        let told = String::from_utf8(output.expect("psql runs").stdout).expect("text");
        let mut lines = told.lines().map(|line| line.split('|').map(str::to_owned));
        let names: Vec<_> = lines.next().expect("columns").collect();
        lines
            .map(|row| names.iter().cloned().zip(row).collect::<BTreeMap<_, _>>())
            .collect::<Vec<_>>()
    };
    let mut config = tokio_postgres::Config::new();
    config.host_path(place.folder.path()).port(place.port).user("other").password(PASSWORD);
    config.dbname("shop").application_name("the shop");
    let client = crate::pooler::connect(&config).await.expect("let in");
    let _statement = client.prepare("select 1").await.expect("prepared");
    client.batch_execute("begin").await.expect("begun");

    let clients = rows("show clients");
    let own = clients.iter().find(|row| row["database"] == "shop").expect("the client");
    assert_eq!(own["remote_pid"], std::process::id().to_string());
    assert_eq!(
        (own["local_addr"].as_str(), own["local_port"].as_str()),
        ("unix", &*place.port.to_string())
    );
    assert_eq!((own["prepared_statements"].as_str(), own["state"].as_str()), ("1", "active"));
    let console = clients.iter().find(|row| row["database"] == "pgbouncer").expect("the console");
    assert_eq!((console["user"].as_str(), console["local_addr"].as_str()), ("root", "127.0.0.1"));
    assert_eq!(console["application_name"], "psql");

    let servers = rows("show servers");
    let linked = servers.iter().find(|row| row["link"] == own["ptr"]).expect("its server");
    assert_eq!(linked["application_name"], "the shop");
    assert_eq!(linked["prepared_statements"], "1");
    let states: Vec<_> = rows("show sockets").into_iter().map(|row| row["state"].clone()).collect();
    for state in ["cl_active", "sv_active"] {
        assert!(states.iter().any(|shown| shown == state), "{states:?}");
    }
    let active = rows("show active_sockets");
    assert!(active.iter().all(|row| row["state"].ends_with("_active")) && active.len() >= 2);
    let lists: BTreeMap<_, _> = rows("show lists")
        .into_iter()
        .map(|mut row| (row.remove("list"), row["items"].clone()))
        .collect();
    assert_eq!(lists[&Some("peers".to_owned())], "1");
    assert_eq!(lists[&Some("used_servers".to_owned())], servers.len().to_string());
    assert_eq!(rows("show peer_pools")[0]["peer_id"], "2");
    assert!(
        rows("show pools")
            .iter()
            .any(|row| row["database"] == "pgbouncer" && row["cl_active"] == "1")
    );

    let database = |name: &str| {
        rows("show databases").into_iter().find(|row| row["name"] == name).expect("shown")
    };
    assert_eq!(database("boss")["force_user"], "legacy");
    assert_eq!(database("shop")["force_user"], "");
    assert_eq!(database("pgbouncer")["pool_mode"], "statement");
    assert_eq!(database("own")["pool_mode"], "session");
    assert_eq!(database("shop")["pool_mode"], "", "it is that of all");
    client.batch_execute("commit").await.expect("ended");
    assert_eq!(place.told("root", "pgbouncer", "pause"), "PAUSE");
    assert_eq!(
        (database("shop")["paused"].as_str(), database("boss")["paused"].as_str()),
        ("1", "1")
    );
    assert_eq!(place.told("root", "pgbouncer", "resume"), "RESUME");
    assert_eq!(database("shop")["paused"], "0");
    drop(running);
}

/// A client by unix socket.
async fn by_socket(
    place: &Place,
    user: &str,
    database: &str,
) -> Result<Client, tokio_postgres::Error> {
    let password = if user == "root" { ROOT_PASSWORD } else { PASSWORD };
    let mut config = tokio_postgres::Config::new();
    config.host_path(place.folder.path()).port(place.port).user(user).password(password);
    crate::pooler::connect(config.dbname(database)).await
}

/// A client by network.
async fn by_network(place: &Place) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(place.port).user("other").password(PASSWORD).dbname("shop");
    crate::pooler::connect(&config).await.expect("let in")
}

/// Until nobody listens by network any more.
async fn closed(place: &Place) {
    while tokio::net::TcpStream::connect(("127.0.0.1", place.port)).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

/// Whether the process ends with success; the runtime goes on meanwhile.
async fn ended(running: Running) -> bool {
    tokio::task::spawn_blocking(move || running.ended()).await.expect("no panic")
}

/// The console's own statement, or PgBouncer's signal for it.
async fn shut_down(place: &Place, running: &Running, way: Result<&str, Signal>) {
    match way {
        Ok(sql) => {
            let console = by_socket(place, "root", "pgbouncer").await.expect("let in");
            console.batch_execute(sql).await.expect("begun");
        }
        Err(signal) => running.signal(signal),
    }
    closed(place).await;
}

/// P6, O3: by `SHUTDOWN WAIT_FOR_SERVERS` and by INT: nobody comes in by network, by unix socket the console alone;
/// who waits for a server or wants one is told to go; what was begun is done, and then the process ends.
#[tokio::test]
async fn shutdown_waits_for_servers() {
    let server = Postgres::start().await;
    for way in [Ok("SHUTDOWN WAIT_FOR_SERVERS"), Err(Signal::SIGINT)] {
        let place = Place::new(&server, "default_pool_size = 1").await;
        let running = place.start(PGPOOL);
        let (works, waits, idle) =
            (by_network(&place).await, by_network(&place).await, by_network(&place).await);
        works.batch_execute("begin").await.expect("begun");
        let ends = async {
            let looks = by_socket(&place, "root", "pgbouncer").await.expect("let in");
            let waiting = async || {
                let shown = looks.simple_query("show clients").await.expect("shown");
                shown.iter().any(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get("state") == Some("waiting"),
                    _ => false,
                })
            };
            while !waiting().await {}
            shut_down(&place, &running, way).await;
        };
        let (refused, ()) = tokio::join!(waits.batch_execute("select 1"), ends);
        assert_eq!(code(&refused.expect_err("told to go")), "57P01", "{way:?}");
        assert_eq!(code(&idle.batch_execute("select 1").await.expect_err("told")), "57P01");
        let refused = by_socket(&place, "other", "shop").await.expect_err("not let in");
        assert_eq!(code(&refused), "57P01");
        let console = by_socket(&place, "root", "pgbouncer").await.expect("the console is");
        let refused = console.batch_execute("RESUME").await.expect_err("it is not taken back");
        assert!(format!("{refused:?}").contains("shutting down"), "{refused:?}");
        works.batch_execute("select 1; commit").await.expect("what was begun is done");
        assert!(ended(running).await, "{way:?}");
    }
}

/// P6, O3: by `SHUTDOWN WAIT_FOR_CLIENTS` nobody new is let in, who is inside goes on as long as it likes, and the
/// process ends with the last. TERM, and a second INT, end it at once.
#[tokio::test]
async fn shutdown_waits_for_clients() {
    let server = Postgres::start().await;
    let place = Place::new(&server, "").await;
    let running = place.start(PGPOOL);
    let inside = by_network(&place).await;
    shut_down(&place, &running, Ok("SHUTDOWN WAIT_FOR_CLIENTS")).await;
    let refused = by_socket(&place, "other", "shop").await.expect_err("not let in");
    assert_eq!(code(&refused), "57P01");
    for _ in 0..3 {
        inside.batch_execute("begin; select 1; commit").await.expect("it goes on");
    }
    let console = by_socket(&place, "root", "pgbouncer").await.expect("let in");
    console.batch_execute("show state").await.expect("shown");
    drop((console, inside));
    assert!(ended(running).await);
    for last in [Signal::SIGTERM, Signal::SIGINT] {
        let place = Place::new(&server, "").await;
        let running = place.start(PGPOOL);
        let inside = by_network(&place).await;
        inside.batch_execute("begin").await.expect("begun");
        shut_down(&place, &running, Err(Signal::SIGINT)).await;
        inside.batch_execute("select 1").await.expect("it goes on");
        running.signal(last);
        assert!(ended(running).await);
        inside.batch_execute("select 1").await.expect_err("cut off");
    }
}

/// P6, O3: no shutdown is left without a way out: a database that was paused by itself may go on, who waits for clients
/// after all needs no pause any more, and where all is suspended INT ends at once.
#[tokio::test]
async fn every_shutdown_has_a_way_out() {
    let server = Postgres::start().await;
    let place = Place::new(&server, "query_wait_timeout = 60").await;
    let running = place.start(PGPOOL);
    let inside = by_network(&place).await;
    let console = by_socket(&place, "root", "pgbouncer").await.expect("let in");
    console.batch_execute("PAUSE shop").await.expect("paused");
    shut_down(&place, &running, Ok("SHUTDOWN WAIT_FOR_CLIENTS")).await;
    console.batch_execute("RESUME").await.expect_err("it is not taken back");
    console.batch_execute("RESUME shop").await.expect("it goes on");
    inside.batch_execute("select 1").await.expect("served");
    drop((console, inside));
    assert!(ended(running).await);

    let place = Place::new(&server, "query_wait_timeout = 60").await;
    let running = place.start(PGPOOL);
    let inside = by_network(&place).await;
    inside.batch_execute("begin").await.expect("begun");
    shut_down(&place, &running, Ok("SHUTDOWN WAIT_FOR_SERVERS")).await;
    let console = by_socket(&place, "root", "pgbouncer").await.expect("let in");
    console.batch_execute("SHUTDOWN WAIT_FOR_CLIENTS").await.expect("said again");
    inside.batch_execute("commit").await.expect("done");
    inside.batch_execute("select 1").await.expect("a server again");
    drop((console, inside));
    assert!(ended(running).await);

    let place = Place::new(&server, "").await;
    let running = place.start(PGPOOL);
    let inside = by_network(&place).await;
    inside.batch_execute("begin").await.expect("begun");
    let console = by_socket(&place, "root", "pgbouncer").await.expect("let in");
    let looks = by_socket(&place, "root", "pgbouncer").await.expect("let in");
    let is_suspended = async || {
        let shown = looks.simple_query("show state").await.expect("shown");
        shown.iter().any(|message| match message {
            SimpleQueryMessage::Row(row) => {
                row.get(0) == Some("suspended") && row.get(1) == Some("yes")
            }
            _ => false,
        })
    };
    let ends = async {
        while !is_suspended().await {}
        running.signal(Signal::SIGINT);
    };
    let (cut_off, ()) = tokio::join!(console.batch_execute("SUSPEND"), ends);
    cut_off.expect_err("it has ended");
    assert!(ended(running).await);
}
