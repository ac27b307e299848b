//! The last records of an instance, for an operator who looks at them now. Not the log: it keeps a
//! sample, in memory, and only while somebody asks. Filled by tiers that have records, read by `inspect`.
//!
//! Invariant: memory is bounded, and while nobody looks a request costs one relaxed load.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Records kept where nothing else is said.
const MOST: usize = 64;
/// A longer line is left out: it would be a URI of an attack.
const LONGEST: usize = 4096;
/// Between two that are kept.
const PAUSE: Duration = Duration::from_millis(25);
/// So long after a look records are still kept.
const WATCHED: Duration = Duration::from_secs(5);

/// A sample of the requests that ended last.
#[derive(Debug)]
pub struct Recent {
    born: Instant,
    most: usize,
    pause: Duration,
    /// Milliseconds after `born` until which somebody may look again.
    until: AtomicU64,
    /// Milliseconds after `born` at which the next may be kept.
    next: AtomicU64,
    lines: Mutex<VecDeque<Arc<[u8]>>>,
}

impl Default for Recent {
    fn default() -> Self {
        Self::new(MOST, PAUSE)
    }
}

impl Recent {
    /// Keeps so many records, with this pause between two; none: each.
    pub fn new(most: usize, pause: Duration) -> Self {
        let (until, next) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { born: Instant::now(), most, pause, until, next, lines: Mutex::default() }
    }

    /// Whether somebody looks.
    pub fn is_watched(&self) -> bool {
        self.until.load(Ordering::Relaxed) > 0 && self.is_watched_at(Instant::now())
    }

    /// Whether somebody looks, for who knows the time.
    pub fn is_watched_at(&self, now: Instant) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until > 0 && self.millis(now) < until
    }

    /// Whether a record that ends now is to be kept; said once in a while.
    pub fn wants(&self, now: Instant) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        if until == 0 {
            return false;
        }
        if self.pause.is_zero() {
            return self.millis(now) < until;
        }
        let (now, next) = (self.millis(now), self.next.load(Ordering::Relaxed));
        let later = now + self.pause.as_millis() as u64;
        let mine = || {
            self.next.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        now < until && now >= next && mine()
    }

    /// Keeps a line in place of the oldest.
    pub fn keep(&self, line: &[u8]) {
        if line.len() > LONGEST {
            return;
        }
        let mut lines = locked(&self.lines);
        if lines.len() == self.most {
            lines.pop_front();
        }
        lines.push_back(line.into());
    }

    /// The last ones, the newest last; from now on, for a while, more are kept.
    pub fn look(&self, most: usize) -> Vec<serde_json::Value> {
        let until = self.millis(Instant::now() + WATCHED);
        self.until.fetch_max(until, Ordering::Relaxed);
        // They are read outside of the lock, for which requests wait.
        let newest = self.newest(most);
        newest.iter().filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    fn newest(&self, most: usize) -> Vec<Arc<[u8]>> {
        let lines = locked(&self.lines);
        lines.iter().skip(lines.len().saturating_sub(most)).cloned().collect()
    }

    fn millis(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.born).as_millis();
        u64::try_from(age).unwrap_or(u64::MAX)
    }
}

/// Whole after a panic elsewhere, too.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// O1: nothing is kept that nobody asks for, and then a bounded sample.
    #[tokio::test(start_paused = true)]
    async fn a_sample_is_kept_while_somebody_looks() {
        let recent = Recent::default();
        assert!(!recent.wants(Instant::now()) && !recent.is_watched());
        assert!(recent.look(10).is_empty());
        assert!(recent.is_watched() && recent.wants(Instant::now()));
        recent.keep(b"{\"n\":0}\n");
        assert!(!recent.wants(Instant::now()), "one in 25 ms");
        for n in 1..200 {
            tokio::time::advance(PAUSE).await;
            assert_eq!(recent.wants(Instant::now()), n < 200, "{n}");
            recent.keep(format!("{{\"n\":{n}}}\n").as_bytes());
        }
        recent.keep(&[b'x'; LONGEST + 1]);
        let last: Vec<_> = recent.look(2).into_iter().map(|line| line["n"].clone()).collect();
        assert_eq!(last, [198, 199]);
        assert_eq!(recent.look(1000).len(), MOST);
        tokio::time::advance(WATCHED).await;
        assert!(!recent.wants(Instant::now()), "nobody has looked for 5 s");
    }
}
