//! What the admin listener says: `/metrics` under our own names and those of PgBouncer's exporters, `/readyz`,
//! `/config`, `/endpoints`; in PgBouncer's place, too. Real PostgreSQL.
//!
//! Invariant: a state is asked for until it is there; nothing waits for a time.

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::dropin::{PGPOOL, Place};
use crate::postgres::{PASSWORD, Postgres, free_port};

/// The status and the body of an answer.
pub(crate) async fn get(port: u16, path: &str, token: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    socket.read_to_string(&mut text).await.expect("read");
    let status = text.get(9..12).and_then(|code| code.parse().ok()).expect("a status");
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// O1, O2, P6: `admin_listen` in a `pgbouncer.ini`: scraped without an exporter, by the names that those have; no
/// secret is shown, the token is asked for, and a pooler that lets nobody in is not ready.
#[tokio::test]
async fn a_drop_in_is_watched() {
    let server = Postgres::start().await;
    let port = free_port();
    let more = format!("admin_listen = 127.0.0.1:{port}\nadmin_token_file = @/token");
    let place = Place::new(&server, &more).await;
    place.write("token", "sesame\n");
    let running = place.start(PGPOOL);
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(place.port).user("other").password(PASSWORD).dbname("shop");
    let client = crate::pooler::connect(&config).await.expect("let in");
    for _ in 0..3 {
        client.batch_execute("select 1").await.expect("answered");
    }
    client.batch_execute("begin").await.expect("begun");
    assert_eq!(get(port, "/metrics", "guess").await.0, 401);
    let (status, metrics) = get(port, "/metrics", "sesame").await;
    assert_eq!(status, 200);
    let host = "host=\"127.0.0.1\"";
    let labels = format!(
        "name=\"boss\",{host},port=\"{}\",database=\"shop\",force_user=\"legacy\",pool_mode=\"\"",
        server.port
    );
    for line in [
        "pgbouncer_up 1",
        "pgbouncer_version_info{version=\"1.25.2\"} 1",
        "pgbouncer_pools_client_active_connections{database=\"shop\",user=\"other\"} 1",
        "pgbouncer_pools_server_active_connections{database=\"shop\",user=\"other\"} 1",
        "pgbouncer_pools_client_maxwait_seconds{database=\"shop\",user=\"other\"} 0",
        "pgbouncer_stats_queries_pooled_total{database=\"shop\"} 4",
        "pgbouncer_stats_sql_transactions_pooled_total{database=\"shop\"} 3",
        "pgbouncer_requests_total{database=\"shop\"} 4",
        "pgbouncer_active_clients{database=\"shop\",user=\"other\"} 1",
        "pgbouncer_pool_size{database=\"shop\"} 20",
        "pgbouncer_config_max_client_connections 100",
        &format!("pgbouncer_databases_pool_size{{{labels}}} 20"),
        "# TYPE pgbouncer_stats_queries_duration_seconds_total counter",
        "pgbouncer_used_clients 1",
    ] {
        assert!(metrics.lines().any(|shown| shown == line), "{line}:\n{metrics}");
    }
    for name in ["aqueduct_pg_queries_total{", "aqueduct_pg_clients{", "aqueduct_pg_query_seconds"]
    {
        assert!(metrics.contains(name), "{name}:\n{metrics}");
    }
    // Text in which a series stands twice is refused as a whole.
    let mut series: Vec<_> =
        metrics.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let count = series.len();
    series.sort_unstable();
    series.dedup_by_key(|line| line.rsplit_once(' ').map_or(*line, |(series, _)| series));
    assert_eq!(series.len(), count);

    let config: serde_json::Value =
        serde_json::from_str(&get(port, "/config", "sesame").await.1).expect("JSON");
    assert_eq!((&config["group"], &config["instance"]), (&"pgbouncer".into(), &"pool-1".into()));
    let named = |list: &str, name: &str| {
        let mut all = config[list].as_array().expect("a list").iter();
        all.find(|one| one["name"] == name).expect("shown").clone()
    };
    assert_eq!(named("databases", "boss")["pool_size"], 20);
    assert_eq!(named("databases", "boss")["server_name"], "shop");
    assert_eq!(named("users", "app")["secret"], "scram verifier");
    assert_eq!(named("users", "other")["secret"], "password");
    let endpoints = get(port, "/endpoints", "sesame").await.1;
    let endpoints: serde_json::Value = serde_json::from_str(&endpoints).expect("JSON");
    let shop = endpoints.as_array().expect("a list").iter().find(|one| one["service"] == "shop");
    let shop = shop.expect("shown");
    assert_eq!((&shop["role"], &shop["connections"]), (&"primary".into(), &1.into()));
    assert_eq!(shop["endpoints"][0], format!("127.0.0.1:{}", server.port));
    for path in ["/config", "/endpoints", "/metrics", "/summary"] {
        assert!(!get(port, path, "sesame").await.1.contains(PASSWORD), "{path}");
    }

    assert_eq!(get(port, "/readyz", "").await, (200, "ready\n".to_owned()));
    running.signal(Signal::SIGINT);
    while get(port, "/readyz", "").await.0 == 200 {}
    assert_eq!(get(port, "/readyz", "").await, (503, "draining\n".to_owned()));
    assert_eq!(get(port, "/livez", "").await.0, 200);
    drop(running);
}
