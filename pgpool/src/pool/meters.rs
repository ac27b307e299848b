//! What one shard of a pool counts, shown by metrics, SHOW STATS and the summary. Not for showing it: that is
//! `admin`. Filled by clients and the relay.
//!
//! Invariant: counters only grow; those of a pool's shards add up.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use common::observe::Observer;
use tokio::time::Instant;

use crate::readiness::Sign;

/// Counters of one pool, shown by metrics, SHOW STATS and the summary.
pub struct Meters {
    /// Queries answered.
    pub queries: metrics::Counter,
    /// Transactions ended.
    pub transactions: metrics::Counter,
    /// From the first message to ReadyForQuery.
    pub latency: Arc<common::observe::Latency>,
    /// Seconds that clients have waited for a server, in all.
    pub waited: metrics::Counter,
    /// How long clients wait that have to.
    pub wait: Arc<common::observe::Latency>,
    /// Seconds that servers worked while clients had them, and that they waited for their clients.
    pub held: [metrics::Counter; 2],
    /// What of these was told.
    pub told: [Cell<u64>; 2],
    /// Clients that are active, waiting, idle.
    pub clients: [metrics::Gauge; 3],
    /// Servers that are active, idle.
    pub servers: [metrics::Gauge; 2],
    /// The same numbers for SHOW STATS.
    pub totals: Totals,
    /// The database's.
    pub sign: Arc<Sign>,
}

/// Plain counters of one pool.
#[derive(Default)]
pub struct Totals {
    /// Server connections given to clients.
    pub assignments: Cell<u64>,
    /// Transactions ended.
    pub transactions: Cell<u64>,
    /// Queries answered.
    pub queries: Cell<u64>,
    /// Bytes from clients.
    pub received: Cell<u64>,
    /// Bytes to clients.
    pub sent: Cell<u64>,
    /// Microseconds from the first message to the end of a transaction.
    pub transaction_micros: Cell<u64>,
    /// Microseconds from the first message to ReadyForQuery.
    pub query_micros: Cell<u64>,
    /// Microseconds that clients have waited.
    pub wait_micros: Cell<u64>,
    /// Parse messages of named statements from clients.
    pub client_parses: Cell<u64>,
    /// Parse messages of named statements to servers.
    pub server_parses: Cell<u64>,
    /// Bind messages from clients.
    pub binds: Cell<u64>,
    /// Errors that servers sent to clients, and our own.
    pub errors: Cell<u64>,
}

/// How long PgBouncer's averages look back where no `stats_period` says it.
pub const PERIOD: Duration = Duration::from_secs(60);

/// The spans of time over which averages go.
#[derive(Debug)]
pub struct Periods {
    began: Cell<Instant>,
    until: Cell<Instant>,
    lasted: Cell<Duration>,
}

impl Periods {
    /// The first begins.
    pub fn new(period: Duration) -> Self {
        let now = Instant::now();
        Self { began: Cell::new(now), until: Cell::new(now + period), lasted: Cell::default() }
    }

    /// This one ends so long from now at the latest.
    pub fn shorten(&self, period: Duration) {
        self.until.set(self.until.get().min(Instant::now() + period));
    }

    /// Whether it is over; then the next has begun.
    pub fn is_over(&self, now: Instant, period: Duration) -> bool {
        let over = now >= self.until.get();
        if over {
            self.lasted.set(now.saturating_duration_since(self.began.replace(now)));
            self.until.set(now + period);
        }
        over
    }

    /// How long the last whole one was.
    pub fn lasted(&self) -> Duration {
        self.lasted.get()
    }
}

/// Counters at one moment, or between two, in the order of SHOW STATS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub [u64; Counters::MANY]);

impl Counters {
    /// How many there are.
    pub const MANY: usize = 11;

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut all = self.0;
        all.iter_mut().zip(other.0).for_each(|(sum, more)| *sum = sum.wrapping_add(more));
        Self(all)
    }

    /// What came since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut all = self.0;
        all.iter_mut().zip(before.0).for_each(|(now, then)| *now = now.wrapping_sub(then));
        Self(all)
    }
}

impl Totals {
    /// All of them.
    pub fn all(&self) -> Counters {
        Counters([
            self.assignments.get(),
            self.transactions.get(),
            self.queries.get(),
            self.received.get(),
            self.sent.get(),
            self.transaction_micros.get(),
            self.query_micros.get(),
            self.wait_micros.get(),
            self.client_parses.get(),
            self.server_parses.get(),
            self.binds.get(),
        ])
    }
}

/// Adds to a plain counter.
pub fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get().wrapping_add(more));
}

impl Meters {
    /// Those of a database and user.
    pub fn of(observer: &Observer, (database, sign): (&str, &Arc<Sign>), user: &str) -> Self {
        let labels = [("database", database), ("user", user)];
        let metrics = &observer.metrics;
        Self {
            sign: Arc::clone(sign),
            queries: metrics.counter("aqueduct_pg_queries_total", "Queries answered.", &labels),
            transactions: metrics.counter(
                "aqueduct_pg_transactions_total",
                "Transactions ended.",
                &labels,
            ),
            latency: metrics.latency(
                "aqueduct_pg_query_seconds",
                "From a query's first byte to its ReadyForQuery.",
                &labels,
            ),
            waited: metrics.counter(
                "aqueduct_pg_wait_seconds_total",
                "Time that clients have waited for a server connection, whole seconds.",
                &labels,
            ),
            wait: metrics.latency(
                "aqueduct_pg_wait_seconds",
                "How long clients wait for a server connection that find none free.",
                &labels,
            ),
            held: ["server", "client"].map(|who| {
                let labels = [("database", database), ("user", user), ("waits_for", who)];
                let help = "Time in transactions, whole seconds, by whom the other one waits for.";
                metrics.counter("aqueduct_pg_transaction_seconds_total", help, &labels)
            }),
            clients: ["active", "waiting", "idle"].map(|state| {
                let labels = [("database", database), ("user", user), ("state", state)];
                metrics.gauge("aqueduct_pg_clients", "Clients, by what they do.", &labels)
            }),
            servers: ["active", "idle"].map(|state| {
                let labels = [("database", database), ("user", user), ("state", state)];
                metrics.gauge(
                    "aqueduct_pg_servers",
                    "Server connections, by what they do.",
                    &labels,
                )
            }),
            told: Default::default(),
            totals: Totals::default(),
        }
    }
}
