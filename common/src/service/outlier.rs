//! Passive health: failures that the data path sees eject an endpoint for a while. Not for active
//! checks, and not for how many may be out at a time: `Service` knows the others. Called through it and
//! `EndpointState` alone.
//!
//! Invariant: an ejection ends by itself; the next failure after it ejects again, for longer. Who asks
//! for trials sends one request at a time until one has gone well.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use topology::units::Percent;

/// When failures eject an endpoint, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passive {
    /// So many failures in a row eject (default 3).
    pub failures: u32,
    /// The first ejection; each further one soon after doubles it (default 1 s).
    pub backoff: Duration,
    /// The longest ejection (default 60 s).
    pub longest: Duration,
    /// Most endpoints of a service that may be out for bad answers: at least one where there are two,
    /// never all; 0 %: none (default 50 %). One that cannot be connected to is out whatever their
    /// number.
    pub most: Percent,
}

impl Default for Passive {
    fn default() -> Self {
        Self {
            failures: 3,
            backoff: Duration::from_secs(1),
            longest: Duration::from_secs(60),
            most: Percent(50),
        }
    }
}

impl Passive {
    /// The length of an ejection after so many others.
    fn length(&self, before: u32) -> Duration {
        self.backoff.saturating_mul(1 << before.min(16)).min(self.longest)
    }
}

/// What went wrong with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// No connection to it could be made.
    Unreachable,
    /// It broke off, was silent, or answered with an error.
    Badly,
}

/// Counts failures in a row and holds the end of an ejection.
#[derive(Debug)]
pub(super) struct Outlier {
    /// Where `until` counts from.
    epoch: Instant,
    failures: AtomicU32,
    /// Of the failures, those at the end of the row that were no connection.
    refused: AtomicU32,
    /// Ejections of late.
    ejections: AtomicU32,
    /// Milliseconds after `epoch`; 0: trusted.
    until: AtomicU64,
    /// When the last ejection ended, likewise.
    ended: AtomicU64,
    /// It is out because it cannot be connected to.
    unreachable: AtomicBool,
    /// A request finds out whether it is well again.
    trying: AtomicBool,
}

/// Whether a request may go to an endpoint that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// As any other.
    Free,
    /// As the one that finds out whether it is well again.
    Trial,
    /// Another one is finding out.
    Busy,
}

impl Outlier {
    pub(super) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            failures: AtomicU32::new(0),
            refused: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            until: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            unreachable: AtomicBool::new(false),
            trying: AtomicBool::new(false),
        }
    }

    /// It is left alone: for a while, or while another request tries it.
    pub(super) fn ejected(&self, now: Instant) -> bool {
        // The common case costs one load of a line that nobody writes.
        let until = self.until.load(Ordering::Relaxed);
        until != 0 && (self.at(now) < until || self.trying.load(Ordering::Relaxed))
    }

    /// The same, because it could not be connected to.
    pub(super) fn unreachable(&self, now: Instant) -> bool {
        self.ejected(now) && self.unreachable.load(Ordering::Relaxed)
    }

    /// How long it is out yet.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let until = self.until.load(Ordering::Relaxed);
        until.checked_sub(self.at(now)).filter(|left| *left > 0).map(Duration::from_millis)
    }

    pub(super) fn enter(&self, now: Instant) -> Entry {
        let until = self.until.load(Ordering::Relaxed);
        // One that is out and is chosen nevertheless is chosen in a panic.
        if until == 0 || self.at(now) < until {
            return Entry::Free;
        }
        if self.trying.swap(true, Ordering::Relaxed) { Entry::Busy } else { Entry::Trial }
    }

    pub(super) fn leave(&self) {
        self.trying.store(false, Ordering::Relaxed);
    }

    /// True when it is trusted again by this. What began before an ejection says nothing.
    pub(super) fn success(&self) -> bool {
        if self.failures.load(Ordering::Relaxed) == 0 || self.left(Instant::now()).is_some() {
            return false;
        }
        self.forgive()
    }

    /// True when it was not trusted.
    pub(super) fn forgive(&self) -> bool {
        self.failures.store(0, Ordering::Relaxed);
        self.refused.store(0, Ordering::Relaxed);
        let until = self.until.swap(0, Ordering::Relaxed);
        if until != 0 {
            self.ended.store(until, Ordering::Relaxed);
        }
        until != 0
    }

    /// Counts a failure; `allowed` says whether one more may be out for bad answers.
    pub(super) fn failure(
        &self,
        passive: &Passive,
        failing: Failing,
        now: Instant,
        allowed: impl FnOnce() -> bool,
    ) -> Option<Duration> {
        let refused = match failing {
            Failing::Unreachable => self.refused.fetch_add(1, Ordering::Relaxed).saturating_add(1),
            Failing::Badly => {
                self.refused.store(0, Ordering::Relaxed);
                0
            }
        };
        let row = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let unreachable = refused >= passive.failures;
        if row < passive.failures || self.left(now).is_some() || !(unreachable || allowed()) {
            return None;
        }
        let before = self.lately(passive, now);
        let length = passive.length(before);
        let seen = self.until.load(Ordering::Relaxed);
        let until = self.at(now) + length.as_millis().max(1) as u64;
        // Of several workers that see the failure together one ejects and tells.
        self.until.compare_exchange(seen, until, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        self.unreachable.store(unreachable, Ordering::Relaxed);
        self.ejections.store(before.saturating_add(1), Ordering::Relaxed);
        Some(length)
    }

    /// Ejections that still count: none after it was well for eight times as long as it was out.
    fn lately(&self, passive: &Passive, now: Instant) -> u32 {
        let ejections = self.ejections.load(Ordering::Relaxed);
        let (since, until) =
            (self.ended.load(Ordering::Relaxed), self.until.load(Ordering::Relaxed));
        let last = passive.length(ejections.saturating_sub(1)).as_millis() as u64;
        let forgotten = until == 0 && self.at(now).saturating_sub(since) > last.saturating_mul(8);
        if forgotten { 0 } else { ejections }
    }

    fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }
}
