//! Randomness that is not secret: jitter, and the draws of a balancer. Not for keys or tokens; those
//! come from the operating system. Called by `balance` and `health`, and by back-off timers; rendezvous
//! hashing takes the mixing alone.
//!
//! Invariant: the same seed gives the same sequence, so that a test may fix it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::{RngCore, SeedableRng, rngs::SmallRng};

/// A splitmix64 sequence that threads may share without a lock.
#[derive(Debug)]
pub struct Rng(AtomicU64);

impl Rng {
    /// Seeded by the operating system.
    pub fn from_os() -> Self {
        Self::seeded(SmallRng::from_os_rng().next_u64())
    }

    /// A fixed sequence.
    pub fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next 64 bits.
    pub fn next(&self) -> u64 {
        mix(self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA))
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&self, bound: usize) -> usize {
        // The upper half of a 128-bit product is uniform up to 2^-64 × bound.
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// `base` ± `percent` of it (at most 100).
    pub fn jitter(&self, base: Duration, percent: u32) -> Duration {
        let span = base.as_nanos() as u64 / 100 * u64::from(percent.min(100));
        let shift = self.below((span as usize).saturating_mul(2).saturating_add(1)) as u64;
        (base + Duration::from_nanos(shift)).saturating_sub(Duration::from_nanos(span))
    }
}

/// Odd, 2^64 divided by the golden ratio: the step of splitmix64.
pub(crate) const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of splitmix64.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_the_sequence() {
        let (a, b) = (Rng::seeded(7), Rng::seeded(7));
        assert!((0..100).all(|_| a.next() == b.next()));
    }

    #[test]
    fn draws_stay_below_the_bound_and_reach_every_value() {
        let rng = Rng::seeded(1);
        let mut seen = [0_u32; 7];
        for _ in 0..7_000 {
            seen[rng.below(7)] += 1;
        }
        assert!(seen.iter().all(|&n| n > 800), "{seen:?}");
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn jitter_keeps_its_span() {
        let rng = Rng::seeded(3);
        for _ in 0..1_000 {
            let d = rng.jitter(Duration::from_secs(1), 10);
            assert!((900..=1100).contains(&d.as_millis()), "{d:?}");
        }
        assert_eq!(rng.jitter(Duration::ZERO, 10), Duration::ZERO);
    }
}
