//! The tables of SHOW as Prometheus series, under the names that exporters for PgBouncer have given them: those of
//! prometheus-community's and those of Debian's, so that dashboards and alarms go on. Not for our own series: the
//! observer has those. Called for each scrape of `/metrics`.
//!
//! Invariant: a series is written once, whatever clients have chosen as names.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::report::Report;
use super::show::{self, Cell, Table};
use crate::snapshot::Snapshot;

/// A column and what it is called, without `pgbouncer_`; a counter's name ends in `_total`.
type Series = (&'static str, &'static str);

const POOLS: [Series; 14] = [
    ("cl_active", "pools_client_active_connections"),
    ("cl_active_cancel_req", "pools_client_active_cancel_connections"),
    ("cl_waiting", "pools_client_waiting_connections"),
    ("cl_waiting_cancel_req", "pools_client_waiting_cancel_connections"),
    ("sv_active", "pools_server_active_connections"),
    ("sv_active_cancel", "pools_server_active_cancel_connections"),
    ("sv_being_canceled", "pools_server_being_canceled_connections"),
    ("sv_idle", "pools_server_idle_connections"),
    ("sv_used", "pools_server_used_connections"),
    ("sv_tested", "pools_server_testing_connections"),
    ("sv_login", "pools_server_login_connections"),
    ("maxwait", "pools_client_maxwait_seconds"),
    ("cl_active", "active_clients"),
    ("cl_waiting", "waiting_clients"),
];
const STATS: [Series; 15] = [
    ("query_count", "stats_queries_pooled_total"),
    ("query_time", "stats_queries_duration_seconds_total"),
    ("bytes_received", "stats_received_bytes_total"),
    ("bytes_sent", "stats_sent_bytes_total"),
    ("wait_time", "stats_client_wait_seconds_total"),
    ("xact_count", "stats_sql_transactions_pooled_total"),
    ("xact_time", "stats_server_in_transaction_seconds_total"),
    ("client_parse_count", "stats_client_parses_total"),
    ("server_parse_count", "stats_server_parses_total"),
    ("bind_count", "stats_binds_total"),
    ("server_assignment_count", "stats_server_assignments_total"),
    ("query_count", "requests_total"),
    ("bytes_received", "received_bytes_total"),
    ("bytes_sent", "sent_bytes_total"),
    ("query_time", "query_microseconds_total"),
];
const DATABASES: [Series; 8] = [
    ("pool_size", "databases_pool_size"),
    ("reserve_pool_size", "databases_reserve_pool"),
    ("max_connections", "databases_max_connections"),
    ("current_connections", "databases_current_connections"),
    ("max_client_connections", "databases_max_client_connections"),
    ("current_client_connections", "databases_current_client_connections"),
    ("paused", "databases_paused"),
    ("disabled", "databases_disabled"),
];
/// Debian's, by the name that clients use.
const SIZES: [Series; 2] = [("pool_size", "pool_size"), ("reserve_pool_size", "reserve_pool")];
const LISTS: [Series; 15] = [
    ("databases", "databases"),
    ("users", "users"),
    ("pools", "pools"),
    ("free_clients", "free_clients"),
    ("used_clients", "used_clients"),
    ("login_clients", "login_clients"),
    ("free_servers", "free_servers"),
    ("used_servers", "used_servers"),
    ("dns_names", "cached_dns_names"),
    ("dns_zones", "cached_dns_zones"),
    ("dns_queries", "in_flight_dns_queries"),
    ("dns_names", "dns_names"),
    ("dns_zones", "dns_zones"),
    ("dns_queries", "dns_queries"),
    ("dns_pending", "dns_pending"),
];

/// All series.
pub fn text(report: &Report, snapshot: &Snapshot) -> String {
    let mut out = String::new();
    let shown = |what| show::table(what, report, snapshot);
    put(&mut out, "up", &BTreeMap::from([(String::new(), "1".to_owned())]));
    let version = format!("{{version=\"{}\"}}", show::VERSION);
    put(&mut out, "version_info", &BTreeMap::from([(version, "1".to_owned())]));
    let pool = [("database", "database"), ("user", "user")];
    let database = [
        ("name", "name"),
        ("host", "host"),
        ("port", "port"),
        ("database", "database"),
        ("force_user", "force_user"),
        ("pool_mode", "pool_mode"),
    ];
    for (what, labels, all) in [
        ("POOLS", &pool[..], &POOLS[..]),
        ("STATS_TOTALS", &pool[..1], &STATS[..]),
        ("DATABASES", &database[..], &DATABASES[..]),
        ("DATABASES", &[("name", "database")][..], &SIZES[..]),
    ] {
        let Some(table) = shown(what) else { continue };
        for series in all {
            put(&mut out, series.1, &column(&table, labels, *series));
        }
    }
    if let Some(lists) = shown("LISTS") {
        named(&mut out, &lists, &LISTS);
    }
    if let Some(config) = shown("CONFIG") {
        let limits = [
            ("max_client_conn", "config_max_client_connections"),
            ("max_user_connections", "config_max_user_connections"),
        ];
        named(&mut out, &config, &limits);
    }
    out
}

/// Series of a table that has names in its rows.
fn named(out: &mut String, table: &Table, all: &[Series]) {
    for (key, name) in all {
        let row = table.rows.iter().find(|row| text_of(row.first()) == *key);
        let value = row.map(|row| text_of(row.get(1)));
        if let Some(value) = value.filter(|value| value.parse::<f64>().is_ok()) {
            put(out, name, &BTreeMap::from([(String::new(), value)]));
        }
    }
}

/// One column: a value for each set of labels. Rows that share theirs are one, of the longest wait or of all.
fn column(
    table: &Table,
    labels: &[(&str, &str)],
    (column, name): Series,
) -> BTreeMap<String, String> {
    let at = |column: &str| table.columns.iter().position(|(known, _)| *known == column);
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for row in &table.rows {
        let of = |column: &str| at(column).and_then(|at| row.get(at));
        let Some(Cell::Number(value)) = of(column) else { continue };
        let all = labels
            .iter()
            .map(|(column, label)| format!("{label}=\"{}\"", escaped(&text_of(of(column)))));
        let all = format!("{{{}}}", all.collect::<Vec<_>>().join(","));
        let sum = sums.entry(all).or_default();
        *sum = if column == "maxwait" { (*sum).max(*value) } else { sum.saturating_add(*value) };
    }
    let written = |value: u64| match name.contains("_seconds_total") {
        true => format!("{}.{:06}", value / 1_000_000, value % 1_000_000),
        false => value.to_string(),
    };
    sums.into_iter().map(|(labels, value)| (labels, written(value))).collect()
}

fn text_of(cell: Option<&Cell>) -> String {
    match cell {
        Some(Cell::Text(text)) => text.clone(),
        Some(Cell::Number(number)) => number.to_string(),
        Some(Cell::Null) | None => String::new(),
    }
}

fn put(out: &mut String, name: &str, values: &BTreeMap<String, String>) {
    if values.is_empty() {
        return;
    }
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    let _ = writeln!(out, "# TYPE pgbouncer_{name} {kind}");
    for (labels, value) in values {
        let _ = writeln!(out, "pgbouncer_{name}{labels} {value}");
    }
}

/// A label's value, in the text format of Prometheus.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// O2, P6: labels are escaped, rows with the same labels are one, times are in seconds.
    #[test]
    fn tables_become_series() {
        let row = |database: &str, wait: u64, time: u64| {
            vec![database.into(), Cell::Number(wait), Cell::Number(time)]
        };
        let table = Table {
            columns: show::columns("database #maxwait #wait_time"),
            rows: vec![row("a", 3, 1), row("a", 2, 1_500_000), row("\"\\\n", 0, 0)],
        };
        let of = |series| column(&table, &[("database", "database")], series);
        let wait = of(("maxwait", "pools_client_maxwait_seconds"));
        assert_eq!(wait["{database=\"a\"}"], "3");
        assert_eq!(wait[r#"{database="\"\\\n"}"#], "0");
        let time = of(("wait_time", "stats_client_wait_seconds_total"));
        assert_eq!(time["{database=\"a\"}"], "1.500001");
        let mut out = String::new();
        put(&mut out, "stats_client_wait_seconds_total", &time);
        assert!(
            out.starts_with("# TYPE pgbouncer_stats_client_wait_seconds_total counter\n"),
            "{out}"
        );
    }
}
