//! What an operator must hear about the store of shared limits. Not for refused requests: those are
//! in the access log and counted there. Emitted by `redis`.
//!
//! Invariant: labels are names from the topology file.

use std::time::Duration;

use common::observe::{Event, Observer};
use tracing::Level;

/// The store does not answer: its policy for that case holds from now on.
#[derive(Debug)]
pub struct LimitStoreAway<'a> {
    /// What happened.
    pub cause: &'a str,
    /// What happens to requests meanwhile.
    pub policy: &'static str,
}

/// The store answers again.
#[derive(Debug)]
pub struct LimitStoreBack {
    /// How long it was away, for this worker.
    pub after: Duration,
}

impl Event for LimitStoreAway<'_> {
    fn emit(&self, to: &Observer) {
        let help = "Times a worker lost the store of shared limits.";
        to.metrics.counter("aqueduct_http_limit_store_away_total", help, &[]).increment(1);
        tracing::event!(
            Level::WARN,
            instance = &*to.instance,
            cause = self.cause,
            policy = self.policy,
            "limit store away"
        );
    }
}

impl Event for LimitStoreBack {
    fn emit(&self, to: &Observer) {
        tracing::event!(
            Level::INFO,
            instance = &*to.instance,
            after_ms = self.after.as_millis() as u64,
            "limit store back"
        );
    }
}
