//! What became of the requests of one route. Not for choosing a request's route. Used by
//! `report::https`.
//!
//! Invariant: a request without a recorded value is never counted as changed.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Ended, Outcome};
use crate::replay::https::recording::Expected;

/// Counters of one route in one lane.
#[derive(Clone, Debug)]
pub(super) struct RouteTally {
    requests: u64,
    failed: u64,
    times: Histogram<u32>,
    statuses_changed: u64,
    sizes_changed: u64,
    bodies_changed: u64,
}

impl Default for RouteTally {
    fn default() -> Self {
        let times = Histogram::new_with_bounds(1_000, 600_000_000_000, 2)
            .expect("invariant: 1 µs to 10 min at two digits are lawful bounds");
        Self {
            requests: 0,
            failed: 0,
            times,
            statuses_changed: 0,
            sizes_changed: 0,
            bodies_changed: 0,
        }
    }
}

/// One route in the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct RouteLine {
    pub(crate) route: String,
    pub(crate) requests: u64,
    /// Without a whole answer.
    pub(crate) failed: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) statuses_changed: u64,
    pub(crate) sizes_changed: u64,
    pub(crate) bodies_changed: u64,
}

impl RouteLine {
    /// Anything that is otherwise than recorded.
    pub(super) fn changed(&self) -> u64 {
        self.statuses_changed + self.sizes_changed + self.bodies_changed
    }
}

impl RouteTally {
    pub(super) fn record(&mut self, ended: &Ended<'_>) {
        self.requests += 1;
        let Expected { status: was, bytes: long, digest: known } = ended.expected;
        match ended.outcome {
            Outcome::Failed(_) => {
                self.failed += 1;
                self.statuses_changed += u64::from(was.is_some());
            }
            Outcome::Answered { status, bytes, digest } => {
                let nanoseconds = u64::try_from(ended.latency.as_nanos()).unwrap_or(u64::MAX);
                self.times.saturating_record(nanoseconds);
                let other_status = was.is_some_and(|was| was != status);
                self.statuses_changed += u64::from(other_status);
                // Another status has another body; only one of them is told.
                let same = !other_status;
                self.sizes_changed += u64::from(same && long.is_some_and(|long| long != bytes));
                let bodies = known.zip(digest).is_some_and(|(known, now)| known != now);
                self.bodies_changed += u64::from(same && bodies);
            }
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.times.add(&other.times).expect("invariant: all have the same bounds");
        self.statuses_changed += other.statuses_changed;
        self.sizes_changed += other.sizes_changed;
        self.bodies_changed += other.bodies_changed;
    }

    pub(super) fn line(&self, name: &str) -> RouteLine {
        let at = |q| self.times.value_at_quantile(q) as f64 / 1e6;
        RouteLine {
            route: name.to_owned(),
            requests: self.requests,
            failed: self.failed,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            statuses_changed: self.statuses_changed,
            sizes_changed: self.sizes_changed,
            bodies_changed: self.bodies_changed,
        }
    }
}
