//! The admin database, by driver and by psql. Not for what its numbers mean. Real PostgreSQL.
//!
//! Invariant: columns have PgBouncer's names.

use std::collections::BTreeMap;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::pooler::{Pooler, Setup, code};
use crate::postgres::{Postgres, ROOT_PASSWORD};

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
    let stats = rows(&console, "SHOW STATS").await;
    assert_eq!(stats[0]["database"], "shop");
    assert!(stats[0]["total_query_count"].parse::<u64>().expect("number") >= 1);
    let databases = rows(&console, "SHOW DATABASES").await;
    assert!(databases.iter().any(|database| database["name"] == "shop"));
    assert!(!rows(&console, "SHOW CONFIG").await.is_empty());
    assert!(!rows(&console, "SHOW LISTS").await.is_empty());
    assert!(rows(&console, "SHOW VERSION").await[0]["version"].starts_with("PgBouncer 1."));
    assert!(rows(&console, "SHOW USERS").await.iter().any(|user| user["name"] == "open"));
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
