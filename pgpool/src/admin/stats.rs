//! The tables of counters: STATS, STATS_TOTALS, STATS_AVERAGES, TOTALS, with PgBouncer 1.25's names and
//! order. Not for counting: that is `pool`. Called by `show`.
//!
//! Invariant: averages are of the last whole period, as PgBouncer's are; before its end they are 0.

use std::collections::BTreeMap;
use std::time::Duration;

use super::report::Report;
use super::show::{Cell, Table, columns};
use crate::pool::Counters;
use crate::snapshot::CONSOLE;

/// What is counted, in the order of the tables, by TOTALS' own names.
const NAMES: [&str; Counters::MANY] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
];

/// Sums of the pools of a database, or of all.
#[derive(Clone, Copy, Default)]
struct Sums {
    totals: Counters,
    recent: Counters,
    period: Duration,
}

impl Sums {
    fn by_database(report: &Report) -> BTreeMap<&str, Self> {
        let mut all: BTreeMap<&str, Self> = BTreeMap::new();
        for pool in &report.pools {
            let sums = all.entry(&pool.database).or_default();
            sums.totals = sums.totals.plus(&pool.totals);
            sums.recent = sums.recent.plus(&pool.recent);
            sums.period = sums.period.max(pool.period);
        }
        // PgBouncer counts one query and one transaction of each console, and no more.
        let [_, transactions, queries, ..] = &mut all.entry(CONSOLE).or_default().totals.0;
        (*transactions, *queries) = (report.counts.visits, report.counts.visits);
        all
    }

    /// Counts per second; times per transaction and per query, waits per server that was given.
    fn averages(&self) -> [u64; Counters::MANY] {
        let [assignments, transactions, queries, ..] = self.recent.0;
        let micros = self.period.as_micros().max(1);
        let per_second = |count: u64| u64::try_from(u128::from(count) * 1_000_000 / micros);
        let mut all = self.recent.0.map(|count| per_second(count).unwrap_or(u64::MAX));
        let [_, _, _, _, _, transaction_time, query_time, wait_time, ..] = self.recent.0;
        let [.., in_transaction, in_query, in_wait, _, _, _] = &mut all;
        *in_transaction = each(transaction_time, transactions);
        *in_query = each(query_time, queries);
        *in_wait = each(wait_time, assignments);
        all
    }
}

/// A time per one of what took it; nothing of none.
fn each(time: u64, of: u64) -> u64 {
    time.checked_div(of).unwrap_or(0)
}

fn row(database: &str, values: impl IntoIterator<Item = u64>) -> Vec<Cell> {
    std::iter::once(Cell::from(database)).chain(values.into_iter().map(Cell::from)).collect()
}

/// `SHOW STATS`; behind PgBouncer's columns one that exporters for its old versions want.
pub(super) fn stats(report: &Report) -> Table {
    let rows = Sums::by_database(report).into_iter().map(|(database, sums)| {
        let [_, _, queries, ..] = sums.totals.0;
        row(database, sums.totals.0.into_iter().chain(sums.averages()).chain([queries]))
    });
    Table {
        columns: columns(
            "database #total_server_assignment_count #total_xact_count #total_query_count \
             #total_received #total_sent #total_xact_time #total_query_time #total_wait_time \
             #total_client_parse_count #total_server_parse_count #total_bind_count \
             #avg_server_assignment_count #avg_xact_count #avg_query_count #avg_recv #avg_sent \
             #avg_xact_time #avg_query_time #avg_wait_time #avg_client_parse_count \
             #avg_server_parse_count #avg_bind_count #total_requests",
        ),
        rows: rows.collect(),
    }
}

/// What STATS_TOTALS calls its columns.
const PLAIN: &str = "database #server_assignment_count #xact_count #query_count #bytes_received \
                     #bytes_sent #xact_time #query_time #wait_time #client_parse_count \
                     #server_parse_count #bind_count";

/// What STATS_AVERAGES does.
const AVERAGES: &str = "database #server_assignment_count #xact_count #query_count #bytes_received \
                        #bytes_sent #xact_time #query_time #wait_time #avg_client_parse_count \
                        #avg_server_parse_count #avg_bind_count";

/// `SHOW STATS_TOTALS`.
pub(super) fn totals_by_database(report: &Report) -> Table {
    let sums = Sums::by_database(report).into_iter();
    let rows = sums.map(|(database, sums)| row(database, sums.totals.0)).collect();
    Table { columns: columns(PLAIN), rows }
}

/// `SHOW STATS_AVERAGES`.
pub(super) fn averages_by_database(report: &Report) -> Table {
    let sums = Sums::by_database(report).into_iter();
    let rows = sums.map(|(database, sums)| row(database, sums.averages())).collect();
    Table { columns: columns(AVERAGES), rows }
}

/// `SHOW TOTALS`: all databases together.
pub(super) fn totals(report: &Report) -> Table {
    let mut all = Sums::default();
    for sums in Sums::by_database(report).values() {
        all.totals = all.totals.plus(&sums.totals);
        all.recent = all.recent.plus(&sums.recent);
        all.period = all.period.max(sums.period);
    }
    let named = |front: &str, values: [u64; Counters::MANY]| {
        let row = |(name, value): (&str, u64)| row(&format!("{front}_{name}"), [value]);
        NAMES.into_iter().zip(values).map(row).collect::<Vec<_>>()
    };
    let rows = [named("total", all.totals.0), named("avg", all.averages())].concat();
    Table { columns: columns("name #value"), rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P6: counts go by the second, times by what took them: a wait by servers that were given.
    #[test]
    fn averages_are_those_of_pgbouncer() {
        let recent = Counters([4, 10, 20, 1000, 2000, 500, 600, 80, 30, 40, 50]);
        let sums = Sums { recent, period: Duration::from_secs(10), ..Sums::default() };
        assert_eq!(sums.averages(), [0, 1, 2, 100, 200, 50, 30, 20, 3, 4, 5]);
        assert_eq!(Sums::default().averages(), [0; Counters::MANY]);
        let rows = stats(&Report::default()).rows;
        assert!(matches!(rows[0].first(), Some(Cell::Text(name)) if name == CONSOLE));
    }
}
