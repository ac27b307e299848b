//! What an answer of each endpoint costs, as one worker sees it: how long it takes, and how many of
//! them are of no use. Not shared: workers would write one line of memory for every answer. Filled by
//! the gateway's dispatch, asked by two choices.
//!
//! Invariant: a failure never makes an endpoint look cheap; and what nobody has seen for a while is
//! forgotten as far as it speaks against the endpoint, so that it is asked again.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Costs of all endpoints of a service.
#[derive(Debug)]
pub struct Costs(Box<[Cell<Option<Cost>>]>);

/// What an answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Of use.
    Well,
    /// An error, or none came.
    Badly,
    /// It was not waited for any longer.
    Unheard,
}

#[derive(Clone, Copy, Debug)]
struct Cost {
    /// Seconds until the answer's head, smoothed.
    seconds: f64,
    /// The part of answers that were of no use, smoothed.
    failed: f64,
    /// Of the last answer.
    at: Instant,
}

impl Costs {
    /// Nothing known of so many endpoints.
    pub fn new(endpoints: usize) -> Self {
        Self((0..endpoints).map(|_| Cell::new(None)).collect())
    }

    /// What is known, for another set of endpoints: of each, where it stood before.
    pub fn carried(&self, former: &[Option<usize>]) -> Self {
        let known = |at: &Option<usize>| Cell::new(at.and_then(|at| self.0.get(at)?.get()));
        Self(former.iter().map(known).collect())
    }

    /// An endpoint answered, or failed to, after `took`.
    pub fn record(&self, endpoint: usize, took: Duration, answered: Answered, now: Instant) {
        let Some(cell) = self.0.get(endpoint) else { return };
        let sample = took.as_secs_f64();
        let failed = match (answered, cell.get()) {
            (Answered::Well, _) | (Answered::Unheard, None) => 0.0,
            (Answered::Badly, _) => 1.0,
            (Answered::Unheard, Some(known)) => known.failed,
        };
        let cost = match cell.get() {
            None => Cost { seconds: sample, failed, at: now },
            // It may have come the next moment.
            Some(known) if answered == Answered::Unheard && sample < known.seconds => return,
            Some(known) => {
                let new = 1.0 - known.fading(now);
                // A refusal is quick, and says nothing of how long the work takes.
                let sample = if failed > 0.0 { sample.max(known.seconds) } else { sample };
                Cost {
                    seconds: known.seconds + (sample - known.seconds) * new.max(1.0 / 8.0),
                    failed: known.failed + (failed - known.failed) * new.max(1.0 / 16.0),
                    at: now,
                }
            }
        };
        cell.set(Some(cost));
    }

    /// What answers of `a` and of `b` cost, to be compared with each other. Where nothing is known of
    /// one, it is taken to cost what the other does.
    pub(super) fn pair(&self, a: usize, b: usize, now: Instant) -> (f64, f64) {
        let known = |index: usize| self.0.get(index).and_then(Cell::get);
        match (known(a), known(b)) {
            (Some(a), Some(b)) => {
                let (faded_a, faded_b) = (a.faded(now), b.faded(now));
                // Fading takes a disadvantage away and never makes an advantage.
                if faded_a < faded_b {
                    (a.whole().min(faded_b), faded_b)
                } else {
                    (faded_a, b.whole().min(faded_a))
                }
            }
            _ => (1.0, 1.0),
        }
    }
}

impl Cost {
    /// How much of what was known still counts.
    fn fading(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at);
        (-age.as_secs_f64() / MEMORY.as_secs_f64()).exp()
    }

    /// Seconds until an answer of use: where half of them are, twice as long.
    fn whole(&self) -> f64 {
        (self.seconds / (1.0 - self.failed).max(WORST)).max(LEAST)
    }

    /// The same by what still counts.
    fn faded(&self, now: Instant) -> f64 {
        let left = self.fading(now);
        (self.seconds * left / (1.0 - self.failed * left).max(WORST)).max(LEAST)
    }
}

/// After so long two thirds of a cost are forgotten.
const MEMORY: Duration = Duration::from_secs(5);
/// An endpoint that only fails counts as fifty times as slow as one that never does.
const WORST: f64 = 0.02;
/// Below 10 µs nobody is faster than another.
const LEAST: f64 = 1e-5;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn after(costs: &Costs, samples: &[(usize, Duration, Answered)]) -> Instant {
        let mut now = Instant::now();
        for &(endpoint, took, answered) in samples {
            now += MS;
            costs.record(endpoint, took, answered, now);
        }
        now
    }

    /// G17: slow costs more than fast, and what is unknown as much as its rival.
    #[test]
    fn slow_answers_cost_more() {
        let costs = Costs::new(3);
        let now = after(&costs, &[(0, MS, Answered::Well), (1, 50 * MS, Answered::Well)]);
        let (fast, slow) = costs.pair(0, 1, now);
        assert!(slow > 40.0 * fast, "{fast} {slow}");
        let (known, unknown) = costs.pair(1, 2, now);
        assert!((known - unknown).abs() < f64::EPSILON);
    }

    /// G17: an endpoint that fails at once costs more than one that works.
    #[test]
    fn failing_fast_is_not_cheap() {
        let costs = Costs::new(2);
        let works = (0, 10 * MS, Answered::Well);
        let fails = (1, Duration::ZERO, Answered::Badly);
        let now = after(&costs, &[works, (1, 10 * MS, Answered::Well)]);
        let (a, b) = costs.pair(0, 1, now);
        assert!((a / b - 1.0).abs() < 0.01, "{a} {b}");
        let now = after(&costs, &[works, fails].repeat(64));
        let (works, fails) = costs.pair(0, 1, now);
        assert!(fails > 20.0 * works, "{works} {fails}");
    }

    /// G17: one bad answer of a hundred costs about a hundredth more, not everything.
    #[test]
    fn a_rare_failure_costs_little() {
        let costs = Costs::new(2);
        let mut samples = [(0, MS, Answered::Well), (1, MS, Answered::Well)].repeat(100);
        samples.push((1, MS, Answered::Badly));
        let now = after(&costs, &samples);
        let (a, b) = costs.pair(0, 1, now);
        assert!(b > a && b < 1.1 * a, "{a} {b}");
    }

    /// G17: a disadvantage is forgotten with time, and turns into no advantage.
    #[test]
    fn what_is_old_is_forgiven() {
        let costs = Costs::new(2);
        let mut now = after(&costs, &[(1, 200 * MS, Answered::Badly), (0, MS, Answered::Well)]);
        for _ in 0..60 {
            now += 1000 * MS;
            costs.record(0, MS, Answered::Well, now);
        }
        let (fresh, old) = costs.pair(0, 1, now);
        assert!((fresh - old).abs() < 1e-9, "{fresh} {old}");
    }
}
