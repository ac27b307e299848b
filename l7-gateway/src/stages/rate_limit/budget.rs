//! The arithmetic of one limit: what a counter holds, when it admits, what is left. Pure and in
//! whole numbers of microseconds, so that `charge.lua` can do the very same steps in Redis. Not for
//! where counters live: that is `local` and `redis`. Called by both.
//!
//! Invariant: a token bucket never admits more than burst + rate × t in any time t, a sliding
//! window never more than its count in any window.

use std::collections::VecDeque;

use topology::gateway::{Limit, LimitAlgorithm};
use topology::units::{LimitName, Place};

/// Most units a sliding window counts: it keeps one timestamp per admitted unit, which is what makes
/// it exact.
pub const LARGEST_WINDOW: u64 = 10_000;

/// Every number that `charge.lua` computes stays below this, so that a double holds it exactly.
const EXACT: u64 = 1 << 52;

/// What a limit allows, reduced to whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// A level that rises by `fill` per microsecond up to `capacity`; a unit costs `cost`.
    TokenBucket {
        /// Gained per microsecond.
        fill: u64,
        /// Price of one unit.
        cost: u64,
        /// The level's upper bound.
        capacity: u64,
    },
    /// At most `count` units in any `per` microseconds.
    SlidingWindow {
        /// How many.
        count: u64,
        /// Length of the window in microseconds.
        per: u64,
    },
}

/// A limit that cannot be counted exactly.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BudgetError {
    /// More timestamps than one counter may keep.
    #[error(
        "limit {limit}: a sliding window counts at most {LARGEST_WINDOW} per window, this one asks \
         for {count}: take a shorter window or `algorithm: token-bucket`"
    )]
    WindowTooLarge {
        /// Which limit.
        limit: LimitName,
        /// What was asked for.
        count: u64,
        /// Where it stands.
        place: Place,
    },
    /// Burst and rate are too far apart for exact arithmetic.
    #[error("limit {limit}: a burst of {burst} is too large for so slow a rate: lower `burst`")]
    BurstTooLarge {
        /// Which limit.
        limit: LimitName,
        /// What was asked for.
        burst: u64,
        /// Where it stands.
        place: Place,
    },
}

impl BudgetError {
    /// Where the limit stands in the topology file.
    pub fn place(&self) -> Place {
        match self {
            Self::WindowTooLarge { place, .. } | Self::BurstTooLarge { place, .. } => *place,
        }
    }
}

/// What one key has used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Of a token bucket.
    Bucket {
        /// Level at `stamp`.
        level: u64,
        /// When the level was last brought up to date, in microseconds.
        stamp: u64,
    },
    /// Of a sliding window: when each unit was admitted, oldest first, in microseconds.
    Window(VecDeque<u64>),
}

/// How a key stands after a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether this limit had room for the request.
    pub verdict: Verdict,
    /// Units left.
    pub remaining: u64,
    /// Microseconds until one more unit is there; 0 when nothing is used up.
    pub next: u64,
}

/// What one limit says to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There was room.
    Admit,
    /// There was none.
    Refuse,
}

impl Budget {
    /// The whole budget of a limit.
    pub fn new(limit: &Limit) -> Result<Self, BudgetError> {
        Self::share(limit, 1)
    }

    /// One of `instances` equal parts of it, rounded down but at least one unit: what an instance
    /// may spend while the shared counters are away.
    pub fn share(limit: &Limit, instances: u64) -> Result<Self, BudgetError> {
        let instances = instances.max(1);
        let count = u64::from(limit.rate.count.get());
        let per = u64::try_from(limit.rate.per.as_micros()).unwrap_or(u64::MAX).max(1);
        match limit.algorithm {
            LimitAlgorithm::SlidingWindow if count > LARGEST_WINDOW => {
                let (limit, place) = (limit.name.clone(), limit.place);
                Err(BudgetError::WindowTooLarge { limit, count, place })
            }
            LimitAlgorithm::SlidingWindow => {
                Ok(Self::SlidingWindow { count: (count / instances).max(1), per })
            }
            LimitAlgorithm::TokenBucket => {
                let burst = u64::from(limit.burst.get());
                Self::bucket(count, per.saturating_mul(instances), (burst / instances).max(1))
                    .ok_or_else(|| BudgetError::BurstTooLarge {
                        limit: limit.name.clone(),
                        burst,
                        place: limit.place,
                    })
            }
        }
    }

    /// `count` per `per` microseconds, `burst` at once; `None` when it cannot be exact.
    fn bucket(count: u64, per: u64, burst: u64) -> Option<Self> {
        let common = greatest_common_divisor(count, per);
        let (fill, cost) = (count / common, per / common);
        let capacity = burst.checked_mul(cost)?;
        (capacity < EXACT).then_some(Self::TokenBucket { fill, cost, capacity })
    }

    /// The counter of a key never seen before.
    pub fn fresh(&self, now: u64) -> Counter {
        match *self {
            Self::TokenBucket { capacity, .. } => Counter::Bucket { level: capacity, stamp: now },
            Self::SlidingWindow { .. } => Counter::Window(VecDeque::new()),
        }
    }

    /// Takes one unit if there is one.
    pub fn charge(&self, counter: &mut Counter, now: u64) -> Standing {
        self.settle(counter, now);
        let verdict = if self.remaining(counter) == 0 { Verdict::Refuse } else { Verdict::Admit };
        if verdict == Verdict::Admit {
            self.take(counter, now);
        }
        Standing { verdict, remaining: self.remaining(counter), next: self.next(counter, now) }
    }

    /// Gives back a unit taken at `now`, because another limit refused the request.
    pub fn refund(&self, counter: &mut Counter, now: u64) -> Standing {
        match (self, &mut *counter) {
            (Self::TokenBucket { cost, capacity, .. }, Counter::Bucket { level, .. }) => {
                *level = (*level + cost).min(*capacity);
            }
            (Self::SlidingWindow { .. }, Counter::Window(stamps)) => {
                if let Some(at) = stamps.iter().rposition(|stamp| *stamp == now) {
                    stamps.remove(at);
                }
            }
            _ => {}
        }
        let (remaining, next) = (self.remaining(counter), self.next(counter, now));
        Standing { verdict: Verdict::Admit, remaining, next }
    }

    /// Brings a counter up to `now`. A clock that went back gains nothing and blocks nobody for
    /// longer than a window: what lies in the future counts as having happened now.
    pub fn settle(&self, counter: &mut Counter, now: u64) {
        match (self, &mut *counter) {
            (Self::TokenBucket { fill, capacity, .. }, Counter::Bucket { level, stamp }) => {
                // No more than what fills an empty bucket, so that the product stays exact.
                let elapsed = now.saturating_sub(*stamp).min(capacity / fill + 1);
                *level = (*level + elapsed * fill).min(*capacity);
                *stamp = now;
            }
            (Self::SlidingWindow { per, .. }, Counter::Window(stamps)) => {
                while stamps.front().is_some_and(|oldest| oldest + per <= now) {
                    stamps.pop_front();
                }
                stamps.iter_mut().rev().take_while(|at| **at > now).for_each(|at| *at = now);
            }
            // The limit's algorithm was changed while its counter lived: it starts afresh.
            _ => *counter = self.fresh(now),
        }
    }

    /// Whether a settled counter says no more than a fresh one.
    pub fn is_idle(&self, counter: &Counter) -> bool {
        match (self, counter) {
            (Self::TokenBucket { capacity, .. }, Counter::Bucket { level, .. }) => {
                level == capacity
            }
            (Self::SlidingWindow { .. }, Counter::Window(stamps)) => stamps.is_empty(),
            _ => true,
        }
    }

    /// Units a settled counter still admits.
    pub fn remaining(&self, counter: &Counter) -> u64 {
        match (self, counter) {
            (Self::TokenBucket { cost, .. }, Counter::Bucket { level, .. }) => level / cost,
            (Self::SlidingWindow { count, .. }, Counter::Window(stamps)) => {
                count.saturating_sub(stamps.len() as u64)
            }
            _ => 0,
        }
    }

    /// Most units at once.
    pub fn most(&self) -> u64 {
        match self {
            Self::TokenBucket { cost, capacity, .. } => capacity / cost,
            Self::SlidingWindow { count, .. } => *count,
        }
    }

    fn take(&self, counter: &mut Counter, now: u64) {
        match (self, counter) {
            (Self::TokenBucket { cost, .. }, Counter::Bucket { level, .. }) => {
                *level = level.saturating_sub(*cost);
            }
            (Self::SlidingWindow { .. }, Counter::Window(stamps)) => stamps.push_back(now),
            _ => {}
        }
    }

    fn next(&self, counter: &Counter, now: u64) -> u64 {
        match (self, counter) {
            (Self::TokenBucket { fill, cost, capacity }, Counter::Bucket { level, .. }) => {
                if level >= capacity { 0 } else { (cost - level % cost).div_ceil(*fill) }
            }
            (Self::SlidingWindow { per, .. }, Counter::Window(stamps)) => {
                stamps.front().map_or(0, |oldest| (oldest + per).saturating_sub(now))
            }
            _ => 0,
        }
    }
}

impl Counter {
    /// Bytes it holds outside of itself.
    pub fn heap(&self) -> usize {
        match self {
            Self::Bucket { .. } => 0,
            Self::Window(stamps) => stamps.capacity() * size_of::<u64>(),
        }
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

#[cfg(test)]
mod tests;
