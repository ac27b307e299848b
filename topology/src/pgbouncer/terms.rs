//! What a database or a user has in place of what holds for all. Not for reading lines: that is `ini`. Used
//! by `pgbouncer` alone.
//!
//! Invariant: a value of PgBouncer that means "as for all" is left out.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Line, Out, address, ini, milliseconds, quoted};

/// A kind of value.
#[derive(Clone, Copy)]
enum Kind {
    /// A number; -1 stands for that of all.
    Count,
    /// A number above 0.
    Size,
    /// Seconds; 0 stands for those of all.
    Time,
}

/// Parameters of a database, and their keys here.
const DATABASE: [(&str, &str, Kind); 8] = [
    ("pool_size", "pool-size", Kind::Size),
    ("pool_shards", "pool-shards", Kind::Size),
    ("min_pool_size", "min-pool-size", Kind::Count),
    ("reserve_pool_size", "reserve-pool-size", Kind::Count),
    ("reserve_pool", "reserve-pool-size", Kind::Count),
    ("max_db_connections", "max-connections", Kind::Count),
    ("max_db_client_connections", "max-client-connections", Kind::Count),
    ("server_lifetime", "server-lifetime", Kind::Time),
];

/// Parameters of a user, and their keys here.
const USER: [(&str, &str, Kind); 8] = [
    ("pool_size", "pool-size", Kind::Size),
    ("reserve_pool_size", "reserve-pool-size", Kind::Count),
    ("max_user_connections", "max-connections", Kind::Count),
    ("max_user_client_connections", "max-client-connections", Kind::Count),
    ("query_timeout", "query-timeout", Kind::Time),
    ("transaction_timeout", "transaction-timeout", Kind::Time),
    ("idle_transaction_timeout", "idle-transaction-timeout", Kind::Time),
    ("client_idle_timeout", "client-idle-timeout", Kind::Time),
];

impl Out {
    /// What of a database's parameters is of this kind, each with a comma before it.
    pub(super) fn database_terms(
        &mut self,
        line: &Line,
        pairs: &mut BTreeMap<String, String>,
    ) -> String {
        let mut text = String::new();
        for term in self.terms(&format!("database {}", line.key), line.number, &DATABASE, pairs) {
            let _ = write!(text, ", {term}");
        }
        text
    }

    /// A user's parameters, each with a comma behind it.
    pub(super) fn user_terms(&mut self, line: &Line) -> String {
        let (whose, number) = (format!("user {}", line.key), line.number);
        let Some(pairs) = ini::connection(&line.value) else {
            self.stop(number, format!("{whose}: its parameters cannot be read"));
            return String::new();
        };
        let mut pairs: BTreeMap<String, String> = pairs.into_iter().collect();
        let mut text = String::new();
        if let Some(mode) = pairs.remove("pool_mode") {
            let _ = write!(text, " mode: {},", self.mode(number, &mode));
        }
        for term in self.terms(&whose, number, &USER, &mut pairs) {
            let _ = write!(text, " {term},");
        }
        for key in pairs.keys() {
            self.stop(number, format!("{whose}: {}", super::untranslated(key)));
        }
        text
    }

    /// The servers of a database as the value of `primary` and what follows it.
    pub(super) fn hosts(
        &mut self,
        line: &Line,
        hosts: &str,
        port: &str,
        order: Option<&str>,
    ) -> Option<String> {
        let mut all: Vec<String> = Vec::new();
        for host in hosts.split(',').map(str::trim) {
            let at = address(host, port);
            if at.parse::<crate::pool::ServerAddress>().is_err() || port == "0" {
                let what = format!("database {}: {at} is no address of a server", line.key);
                self.stop(line.number, what);
                return None;
            }
            if !all.contains(&at) {
                all.push(at);
            }
        }
        let (first, more) = all.split_first()?;
        let mut text = quoted(first);
        if !more.is_empty() {
            let more: Vec<_> = more.iter().map(|at| quoted(at)).collect();
            let _ = write!(text, ", also-at: [{}]", more.join(", "));
        }
        match order {
            // One server has no order.
            Some("disable") if !more.is_empty() => text.push_str(", load-balance-hosts: disable"),
            None | Some("disable" | "round-robin") => {}
            Some(_) => {
                let what = format!("database {}: load_balance_hosts is none", line.key);
                self.stop(line.number, what);
            }
        }
        Some(text)
    }

    fn terms(
        &mut self,
        whose: &str,
        number: u32,
        known: &[(&'static str, &'static str, Kind)],
        pairs: &mut BTreeMap<String, String>,
    ) -> Vec<String> {
        let mut all = Vec::new();
        for (theirs, ours, kind) in known {
            let Some(value) = pairs.remove(*theirs) else { continue };
            let count = value.parse::<i64>().ok().filter(|count| *count <= i64::from(u32::MAX));
            let read = match kind {
                Kind::Count | Kind::Size if count == Some(-1) => continue,
                Kind::Count => count.filter(|count| *count >= 0).map(|count| count.to_string()),
                Kind::Size => count.filter(|count| *count > 0).map(|count| count.to_string()),
                Kind::Time => match milliseconds(&value) {
                    Some(0) => continue,
                    time => time.map(|time| format!("{time}ms")),
                },
            };
            match read {
                Some(read) => all.push(format!("{ours}: {read}")),
                None => self.stop(number, format!("{whose}: {theirs} is no lawful value")),
            }
        }
        all
    }
}

/// What servers of a database are told first, each with a comma before it.
pub(super) fn prelude(pairs: &mut BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for key in ["connect_query", "client_encoding", "datestyle", "timezone", "application_name"] {
        if let Some(value) = pairs.remove(key).filter(|value| !value.trim().is_empty()) {
            let _ = write!(text, ", {}: {}", key.replace('_', "-"), quoted(&value));
        }
    }
    text
}
