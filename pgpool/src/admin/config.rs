//! `SHOW CONFIG`: every key of `[pgbouncer]` with its value, its default and whether `SET` changes it. Not for
//! changing: that is `setting`, and `topology::pgbouncer::with`. Called by `show`.
//!
//! Invariant: a value that is shown is in force; what a topology file says elsewhere has none.

use std::time::Duration;

use topology::Form;
use topology::pgbouncer::{Change, KNOWN, Process};
use topology::pool::{AuthType, Console, ListenAddress, ReadyWhen, Settings, SslMode};

use super::setting;
use super::show::{Cell, Table, columns, yes};
use crate::snapshot::Snapshot;

/// The whole table.
pub(super) fn table(snapshot: &Snapshot) -> Table {
    let rows = match &snapshot.source.form {
        Form::PgBouncer(process) => {
            KNOWN.iter().map(|known| by_ini(snapshot, process, known)).collect()
        }
        Form::Topology => by_topology(snapshot),
    };
    Table { columns: columns("key value default changeable"), rows }
}

fn cell(text: Option<&str>) -> Cell {
    text.map_or(Cell::Null, Cell::from)
}

/// As the ini has it, or the console since.
fn by_ini(
    snapshot: &Snapshot,
    process: &Process,
    (key, default, change): &(&'static str, Option<&'static str>, Change),
) -> Vec<Cell> {
    let said = process.said.get(*key).map(String::as_str);
    let value = match *key {
        "conffile" => Some(snapshot.source.name.as_str()),
        "verbose" => said.or(Some("0")),
        _ => said.or(*default),
    };
    vec![Cell::from(*key), cell(value), cell(*default), yes(*change == Change::Now).into()]
}

/// What a topology file has in place of PgBouncer's keys, and those of its `settings`.
fn by_topology(snapshot: &Snapshot) -> Vec<Vec<Cell>> {
    let settings = settings(&snapshot.settings);
    let mut rows: Vec<_> = KNOWN
        .iter()
        .map(|(key, theirs, _)| {
            let (value, default) = match settings.iter().find(|(own, ..)| own == key) {
                Some((_, value, default)) => (Some(value.clone()), Some(*default)),
                None => (elsewhere(snapshot, key), *theirs),
            };
            let changes = setting::is_known(&snapshot.settings, key);
            let value = value.map_or(Cell::Null, Cell::from);
            vec![Cell::from(*key), value, cell(default), yes(changes).into()]
        })
        .collect();
    for (key, value, default) in settings {
        if KNOWN.iter().all(|(known, ..)| *known != key) {
            let changes = yes(setting::is_known(&snapshot.settings, key));
            rows.push(vec![key.into(), value.into(), default.into(), changes.into()]);
        }
    }
    rows
}

/// What a topology file says outside of `settings`.
fn elsewhere(snapshot: &Snapshot, key: &str) -> Option<String> {
    let with = |rights: Console| {
        let those = snapshot.users.values().filter(|user| user.console == rights);
        those.map(|user| user.name.as_str()).collect::<Vec<_>>().join(",")
    };
    let addresses = &snapshot.addresses.0;
    Some(match key {
        "conffile" => snapshot.source.name.clone(),
        "admin_users" => with(Console::Admin),
        "stats_users" => with(Console::Stats),
        "listen_addr" => {
            let ips = addresses.iter().filter_map(ListenAddress::ip);
            ips.map(|address| address.ip().to_string()).collect::<Vec<_>>().join(",")
        }
        "listen_port" => addresses.iter().find_map(ListenAddress::ip)?.port().to_string(),
        "unix_socket_dir" => addresses.iter().find_map(|address| match address {
            ListenAddress::Unix(folder, _) => Some(folder.display().to_string()),
            ListenAddress::Ip(_) => None,
        })?,
        "peer_id" => snapshot.peer_id.to_string(),
        "client_tls_sslmode" => match snapshot.sslmode {
            _ if snapshot.tls.is_none() => "disable",
            SslMode::Disable => "disable",
            SslMode::Allow => "allow",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
        .to_owned(),
        "auth_type" => match snapshot.settings.auth_type {
            _ if snapshot.rules.is_some() => "hba",
            Some(AuthType::Md5) => "md5",
            Some(AuthType::Scram) => "scram-sha-256",
            Some(AuthType::Plain) => "plain",
            None => return None,
        }
        .to_owned(),
        _ => return None,
    })
}

/// As the file writes it.
fn ready_when(when: ReadyWhen) -> &'static str {
    match when {
        ReadyWhen::Running => "running",
        ReadyWhen::SomeDatabase => "some-database",
        ReadyWhen::AllDatabases => "all-databases",
    }
}

/// The keys of `settings`: value and default.
fn settings(settings: &Settings) -> Vec<(&'static str, String, &'static str)> {
    let seconds = |time: Duration| time.as_secs_f64().to_string();
    let switch = |on: bool| u8::from(on).to_string();
    let s = settings;
    let keepalive = &s.keepalive;
    vec![
        ("max_client_conn", s.max_client_conn.to_string(), "1000"),
        ("default_pool_size", s.default_pool_size.to_string(), "20"),
        ("pool_shards", s.pool_shards.to_string(), "1"),
        ("min_pool_size", s.min_pool_size.to_string(), "0"),
        ("reserve_pool_size", s.reserve_pool_size.to_string(), "0"),
        ("reserve_pool_timeout", seconds(s.reserve_pool_timeout), "5"),
        ("max_db_connections", s.max_db_connections.to_string(), "0"),
        ("max_user_connections", s.max_user_connections.to_string(), "0"),
        ("query_wait_timeout", seconds(s.query_wait_timeout), "120"),
        ("server_idle_timeout", seconds(s.server_idle_timeout), "600"),
        ("server_lifetime", seconds(s.server_lifetime), "3600"),
        ("server_connect_timeout", seconds(s.server_connect_timeout), "15"),
        ("client_login_timeout", seconds(s.client_login_timeout), "60"),
        ("client_idle_timeout", seconds(s.client_idle_timeout), "0"),
        ("idle_transaction_timeout", seconds(s.idle_transaction_timeout), "0"),
        ("query_timeout", seconds(s.query_timeout), "0"),
        ("transaction_timeout", seconds(s.transaction_timeout), "0"),
        ("max_db_client_connections", s.max_db_client_connections.to_string(), "0"),
        ("max_user_client_connections", s.max_user_client_connections.to_string(), "0"),
        ("max_prepared_statements", s.max_prepared_statements.to_string(), "200"),
        ("max_pinned", s.max_pinned.to_string(), "0"),
        ("shared_listen", switch(s.shared_listen), "0"),
        ("max_listen_channels", s.max_listen_channels.to_string(), "100"),
        ("max_prepared_bytes", s.max_prepared_bytes.to_string(), "8388608"),
        ("server_login_retry", seconds(s.server_login_retry), "5"),
        ("ready_when", ready_when(s.ready_when).to_owned(), "some-database"),
        ("server_away_after", seconds(s.server_away_after), "10"),
        ("query_wait_notify", seconds(s.query_wait_notify), "5"),
        ("cancel_wait_timeout", seconds(s.cancel_wait_timeout), "10"),
        ("autodb_idle_timeout", seconds(s.autodb_idle_timeout), "3600"),
        ("dns_max_ttl", seconds(s.dns_max_ttl), "15"),
        ("dns_nxdomain_ttl", seconds(s.dns_nxdomain_ttl), "15"),
        ("server_check_query", s.server_check_query.clone(), "select 1"),
        ("server_check_delay", seconds(s.server_check_delay), "30"),
        ("server_round_robin", switch(s.server_round_robin), "0"),
        ("server_fast_close", switch(s.server_fast_close), "0"),
        ("tcp_keepalive", switch(keepalive.on), "1"),
        ("tcp_keepidle", seconds(keepalive.idle), "60"),
        ("tcp_keepintvl", seconds(keepalive.interval.unwrap_or_default()), "0"),
        ("tcp_keepcnt", keepalive.count.unwrap_or_default().to_string(), "0"),
        (
            "tcp_user_timeout",
            keepalive.user_timeout.unwrap_or_default().as_millis().to_string(),
            "0",
        ),
        ("server_reset_query", s.server_reset_query.clone(), "DISCARD ALL"),
        ("server_reset_query_always", switch(s.server_reset_query_always), "0"),
        ("ignore_startup_parameters", s.ignore_startup_parameters.join(","), ""),
    ]
}
