//! The console of a pooler in PgBouncer's place, as its operators use it. Not for the columns of tables: that is
//! `console`. The binary is started as operators do, in front of a real PostgreSQL.
//!
//! Invariant: nothing here waits for a time: a state is asked for until it is there, or a process ended.

use crate::dropin::{PGPOOL, Place};
use crate::postgres::Postgres;

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
    assert!(String::from_utf8_lossy(&slow.stderr).contains("timeout"), "{slow:?}");
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
