//! Passive health: failures that the data path sees eject an endpoint for a while. Not for active
//! checks. Called through `EndpointState` alone.
//!
//! Invariant: an ejection ends by itself; the next failure after it ejects again, for longer.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// When failures eject an endpoint, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Passive {
    /// So many failures in a row eject (default 3).
    pub failures: u32,
    /// The first ejection; each further one without a success between doubles it (default 1 s).
    pub backoff: Duration,
    /// The longest ejection (default 60 s).
    pub longest: Duration,
}

impl Default for Passive {
    fn default() -> Self {
        Self { failures: 3, backoff: Duration::from_secs(1), longest: Duration::from_secs(60) }
    }
}

/// Counts failures in a row and holds the end of an ejection.
#[derive(Debug)]
pub(super) struct Outlier {
    passive: Passive,
    /// Where `until` counts from.
    epoch: Instant,
    failures: AtomicU32,
    /// Ejections in a row.
    ejections: AtomicU32,
    /// Milliseconds after `epoch`; 0: never ejected.
    until: AtomicU64,
}

impl Outlier {
    pub(super) fn new(passive: Passive) -> Self {
        Self {
            passive,
            epoch: Instant::now(),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            until: AtomicU64::new(0),
        }
    }

    pub(super) fn ejected(&self, now: Instant) -> bool {
        // The common case costs one load of a line that nobody writes.
        let until = self.until.load(Ordering::Relaxed);
        until != 0 && self.at(now) < until
    }

    pub(super) fn success(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.ejections.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn forgive(&self) {
        self.success();
        self.until.store(0, Ordering::Relaxed);
    }

    pub(super) fn failure(&self, now: Instant) -> Option<Duration> {
        let row = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if row < self.passive.failures || self.ejected(now) {
            return None;
        }
        let doublings = self.ejections.load(Ordering::Relaxed).min(16);
        let length = self.passive.backoff.saturating_mul(1 << doublings).min(self.passive.longest);
        let seen = self.until.load(Ordering::Relaxed);
        let until = self.at(now) + length.as_millis().max(1) as u64;
        // Of several workers that see the failure together one ejects and tells.
        self.until.compare_exchange(seen, until, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        self.ejections.fetch_add(1, Ordering::Relaxed);
        Some(length)
    }

    fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }
}
