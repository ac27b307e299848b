//! The arithmetic of one limit: what its counter holds, when it admits, what is left. Pure and in
//! whole numbers of microseconds, so that `charge.lua` can do the very same steps in Redis. Not for
//! where counters live: that is `local` and `redis`. Called by both.
//!
//! Invariant: a token bucket never admits more than burst + rate × t in any time t, a leaky bucket lets
//! nobody go on sooner than its interval after the one before, a fixed window never admits more than
//! its count in one of its windows, a sliding window in any window.

use common::calendar::civil;
use topology::gateway::{Allowance, Limit, LimitAlgorithm};
use topology::units::{Calendar, LimitName, Place, Quota};

/// In microseconds.
const DAY: u64 = 86_400_000_000;

/// Most units a sliding window counts: it keeps one timestamp per admitted unit, which is what makes
/// it exact.
pub const LARGEST_WINDOW: u64 = 10_000;

/// Every number that `charge.lua` computes stays below this, so that a double holds it exactly.
const EXACT: u64 = 1 << 52;

/// A counter's time may lie ahead of a worker's clock by so many microseconds: another worker has
/// looked at the clock later and come first. What lies further ahead was left long ago, before the
/// counter's number wrapped; of a million units per second that happens after months, and one such
/// counter in a hundred million would be taken for one of now.
const AHEAD: u64 = 100_000;

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
    /// The same numbers, but who is admitted waits until those before him have drained.
    LeakyBucket {
        /// Drained per microsecond.
        fill: u64,
        /// Size of one unit.
        cost: u64,
        /// The one that drains and those behind it in line.
        capacity: u64,
    },
    /// At most `count` units in each of the windows that begin with multiples of `per` since 1970.
    FixedWindow {
        /// How many.
        count: u64,
        /// Length of the window in microseconds.
        per: u64,
    },
    /// At most `count` units in each month of the calendar (UTC).
    Month {
        /// How many.
        count: u64,
    },
    /// At most `count` units in any `per` microseconds.
    SlidingWindow {
        /// How many.
        count: u64,
        /// Length of the window in microseconds.
        per: u64,
    },
    /// At most so many units that were not given back.
    Concurrent {
        /// How many.
        most: u64,
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

/// How a key stands after a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether this limit had room for the request.
    pub verdict: Verdict,
    /// Units left.
    pub remaining: u64,
    /// Microseconds until one more unit is there; 0 when nothing is used up.
    pub next: u64,
    /// Microseconds that an admitted request waits before it goes on: its turn in a leaky bucket.
    pub wait: u64,
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
        let (rate, burst, algorithm) = match limit.allows {
            Allowance::Rate { rate, burst, algorithm } => (rate, burst, algorithm),
            Allowance::Quota(Quota { count, per }) => {
                let count = (u64::from(count.get()) / instances).max(1);
                return Ok(match per {
                    Calendar::Day => Self::FixedWindow { count, per: DAY },
                    Calendar::Month => Self::Month { count },
                });
            }
            Allowance::Concurrent(most) => return Ok(Self::Concurrent { most: most.get().into() }),
        };
        let (count, burst) = (u64::from(rate.count.get()), u64::from(burst.get()));
        let per = u64::try_from(rate.per.as_micros()).unwrap_or(u64::MAX).max(1);
        let part = |all: u64| (all / instances).max(1);
        let (fill, cost) = reduced(count, per.saturating_mul(instances));
        let capacity = |units: u64| {
            let exact = units.checked_mul(cost).filter(|capacity| *capacity < EXACT);
            let (limit, place) = (limit.name.clone(), limit.place);
            exact.ok_or(BudgetError::BurstTooLarge { limit, burst, place })
        };
        match algorithm {
            LimitAlgorithm::SlidingWindow if count > LARGEST_WINDOW => {
                let (limit, place) = (limit.name.clone(), limit.place);
                Err(BudgetError::WindowTooLarge { limit, count, place })
            }
            LimitAlgorithm::SlidingWindow => Ok(Self::SlidingWindow { count: part(count), per }),
            LimitAlgorithm::FixedWindow => Ok(Self::FixedWindow { count: part(count), per }),
            LimitAlgorithm::TokenBucket => {
                Ok(Self::TokenBucket { fill, cost, capacity: capacity(part(burst))? })
            }
            // The one that drains has its place beside the line.
            LimitAlgorithm::LeakyBucket => {
                Ok(Self::LeakyBucket { fill, cost, capacity: capacity(burst / instances + 1)? })
            }
        }
    }

    /// The counter of a key never seen before. What a counter's number means is this module's alone:
    /// of a bucket when it will be full or drained, in units of its level and modulo 2^64; of a fixed
    /// window its index and what was admitted in it, of requests under way how many they are. Sliding
    /// windows have none: they keep times.
    pub fn fresh(&self, now: u64) -> u64 {
        match *self {
            Self::TokenBucket { fill, .. } | Self::LeakyBucket { fill, .. } => {
                now.wrapping_mul(fill)
            }
            Self::FixedWindow { .. } | Self::Month { .. } => packed(self.window(now).0, 0),
            Self::SlidingWindow { .. } | Self::Concurrent { .. } => 0,
        }
    }

    /// Takes one unit if there is one: the counter after it, and how it stands.
    pub fn charge(&self, counter: u64, now: u64) -> (u64, Standing) {
        let admits = self.remaining(counter, now) > 0;
        let after = if admits { self.taken(counter, now) } else { counter };
        let wait = match *self {
            Self::LeakyBucket { fill, .. } if admits => self.owed(counter, now).div_ceil(fill),
            _ => 0,
        };
        let verdict = if admits { Verdict::Admit } else { Verdict::Refuse };
        (after, Standing { verdict, wait, ..self.standing(after, now) })
    }

    /// Gives back a unit taken at `now`, because another limit refused the request.
    pub fn refund(&self, counter: u64, now: u64) -> (u64, Standing) {
        let after = match *self {
            Self::TokenBucket { cost, .. } | Self::LeakyBucket { cost, .. } => {
                counter.wrapping_sub(cost)
            }
            Self::FixedWindow { .. } | Self::Month { .. } => {
                let now = self.window(now).0;
                let same = index(counter) == index(packed(now, 0));
                if same { packed(now, used(counter).saturating_sub(1)) } else { counter }
            }
            Self::Concurrent { .. } => counter.saturating_sub(1),
            Self::SlidingWindow { .. } => counter,
        };
        (after, self.standing(after, now))
    }

    /// Whether a counter says no more than a fresh one.
    pub fn is_idle(&self, counter: u64, now: u64) -> bool {
        self.owed(counter, now) == 0
    }

    /// How much of the budget is used up, of 2^16 parts.
    pub fn spent(&self, counter: u64, now: u64) -> u64 {
        let (Self::TokenBucket { capacity: most, .. }
        | Self::LeakyBucket { capacity: most, .. }
        | Self::FixedWindow { count: most, .. }
        | Self::Month { count: most }
        | Self::SlidingWindow { count: most, .. }
        | Self::Concurrent { most }) = *self;
        let part = u128::from(self.owed(counter, now)) * (1 << 16) / u128::from(most.max(1));
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    /// Most units at once.
    pub fn most(&self) -> u64 {
        match *self {
            Self::TokenBucket { cost, capacity, .. } | Self::LeakyBucket { cost, capacity, .. } => {
                capacity / cost
            }
            Self::FixedWindow { count, .. }
            | Self::Month { count }
            | Self::SlidingWindow { count, .. } => count,
            Self::Concurrent { most } => most,
        }
    }

    /// Which window is open, and when it ends.
    fn window(&self, now: u64) -> (u64, u64) {
        match *self {
            Self::FixedWindow { per, .. } => (now / per, (now / per + 1) * per),
            Self::Month { .. } => month(now),
            _ => (0, 0),
        }
    }

    fn standing(&self, counter: u64, now: u64) -> Standing {
        let (remaining, next) = (self.remaining(counter, now), self.next(counter, now));
        Standing { verdict: Verdict::Admit, remaining, next, wait: 0 }
    }

    /// What is taken and not yet given back by time: of a bucket in units of its level, of a window in
    /// requests.
    fn owed(&self, counter: u64, now: u64) -> u64 {
        match *self {
            Self::TokenBucket { fill, capacity, .. } | Self::LeakyBucket { fill, capacity, .. } => {
                let owed = counter.wrapping_sub(now.wrapping_mul(fill));
                let stale = owed > capacity.saturating_add(fill.saturating_mul(AHEAD));
                if stale { 0 } else { owed.min(capacity) }
            }
            Self::FixedWindow { .. } | Self::Month { .. } => {
                // Another worker's clock may have seen the next window already.
                let ahead = index(counter).wrapping_sub(index(packed(self.window(now).0, 0)));
                if ahead > 1 { 0 } else { used(counter) }
            }
            Self::Concurrent { .. } => counter,
            Self::SlidingWindow { .. } => 0,
        }
    }

    fn remaining(&self, counter: u64, now: u64) -> u64 {
        let owed = self.owed(counter, now);
        match *self {
            Self::TokenBucket { cost, capacity, .. } | Self::LeakyBucket { cost, capacity, .. } => {
                (capacity - owed) / cost
            }
            Self::FixedWindow { count: most, .. }
            | Self::Month { count: most }
            | Self::Concurrent { most } => most.saturating_sub(owed),
            Self::SlidingWindow { .. } => 0,
        }
    }

    fn taken(&self, counter: u64, now: u64) -> u64 {
        let owed = self.owed(counter, now);
        match *self {
            Self::TokenBucket { fill, cost, .. } | Self::LeakyBucket { fill, cost, .. } => {
                now.wrapping_mul(fill).wrapping_add(owed + cost)
            }
            Self::Concurrent { .. } => counter + 1,
            Self::FixedWindow { .. } | Self::Month { .. } if owed > 0 => counter + 1,
            Self::FixedWindow { .. } | Self::Month { .. } => packed(self.window(now).0, 1),
            Self::SlidingWindow { .. } => counter,
        }
    }

    fn next(&self, counter: u64, now: u64) -> u64 {
        let owed = self.owed(counter, now);
        match *self {
            _ if owed == 0 => 0,
            Self::TokenBucket { fill, cost, capacity }
            | Self::LeakyBucket { fill, cost, capacity } => {
                (cost - (capacity - owed) % cost).div_ceil(fill)
            }
            Self::FixedWindow { .. } | Self::Month { .. } => self.window(now).1 - now,
            Self::SlidingWindow { .. } | Self::Concurrent { .. } => 0,
        }
    }
}

/// Months since the year 0, and when the next one begins, in microseconds since 1970.
fn month(now: u64) -> (u64, u64) {
    let days = now / DAY;
    let (year, month, day) = civil(days);
    // No month is longer than 31 days: so many after its first lies in the next one.
    let next = days + 32 - day;
    let (_, _, over) = civil(next);
    (year * 12 + month - 1, (next - (over - 1)) * DAY)
}

/// `count` in `per` microseconds, reduced: how much a level rises per microsecond, and what a unit
/// costs.
fn reduced(count: u64, per: u64) -> (u64, u64) {
    let common = greatest_common_divisor(count, per);
    (count / common, per / common)
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

/// The counter of a fixed window: its index modulo 2^32, and what was admitted in it.
fn packed(index: u64, used: u64) -> u64 {
    index << 32 | used
}

fn index(counter: u64) -> u32 {
    (counter >> 32) as u32
}

fn used(counter: u64) -> u64 {
    counter & u64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
