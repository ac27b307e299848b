//! Fills a table by rendezvous hashing (Thaler and Ravishankar, 1998), weighted: a change of the list
//! moves nobody but the clients of what came or went; shares are uneven by some percent. Not for
//! looking anything up. Called when a balancer is made.
//!
//! Invariant: whether one endpoint or another is preferred for a slot depends on these two alone,
//! and on no floating point: the same on every machine.

use super::HashKey;
use super::table::{NOBODY, Table};
use crate::rng::{GAMMA, mix};
use crate::service::Endpoint;

/// Each slot goes to the endpoint with the least of -log(random) / weight.
pub(super) fn fill(endpoints: &[(u16, &Endpoint)], key: HashKey) -> Box<[u16]> {
    let logarithm = Logarithm::new();
    let seed = |&(index, endpoint): &(u16, &Endpoint)| {
        (index, key.hash(endpoint.name.as_str().as_bytes()), u128::from(endpoint.weight().max(1)))
    };
    let seeds: Vec<(u16, u64, u128)> = endpoints.iter().map(seed).collect();
    let owner = |slot: u64| {
        let mut best = (NOBODY, u128::MAX, 1);
        for &(index, seed, weight) in &seeds {
            let draw = u128::from(logarithm.negative(mix(seed ^ slot.wrapping_mul(GAMMA))));
            // draw / weight < best draw / best weight, without division.
            if draw * best.2 < best.1.saturating_mul(weight) {
                best = (index, draw, weight);
            }
        }
        best.0
    };
    (0..Table::SLOTS as u64).map(owner).collect()
}

/// The binary logarithm in fixed point, by a table of 1024 steps and straight lines between.
struct Logarithm(Box<[u64]>);

impl Logarithm {
    fn new() -> Self {
        Self((0..=1024).map(|step| fraction((1024 + step) << 53)).collect())
    }

    /// -log2(x / 2^64) in units of 2^-32, for x ≥ 1.
    fn negative(&self, x: u64) -> u64 {
        let x = x | 1;
        let zeros = x.leading_zeros();
        let mantissa = x << zeros;
        let (step, rest) = (((mantissa >> 53) & 1023) as usize, (mantissa << 11) >> 32);
        let below = self.0.get(step).copied().unwrap_or_default();
        let above = self.0.get(step + 1).copied().unwrap_or_default();
        let between = ((above - below) * rest) >> 32;
        ((u64::from(zeros) + 1) << 32) - below - between
    }
}

/// log2 of m / 2^63 for m in [2^63, 2^64], in units of 2^-32: a bit per squaring.
fn fraction(mantissa: u128) -> u64 {
    let (mut m, mut bits) = (mantissa, 0);
    if m >= 1 << 64 {
        return 1 << 32;
    }
    for _ in 0..32 {
        m = (m * m) >> 63;
        bits <<= 1;
        if m >= 1 << 64 {
            m >>= 1;
            bits |= 1;
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// N2: the logarithm is one, to a millionth.
    #[test]
    fn logarithms_are_right() {
        let logarithm = Logarithm::new();
        for x in [1_u64, 2, 3, 1 << 20, (1 << 40) + 12_345, 1 << 63, u64::MAX / 3, u64::MAX] {
            let wanted = 64.0 - ((x | 1) as f64).log2();
            let got = logarithm.negative(x) as f64 / (1_u64 << 32) as f64;
            assert!((got - wanted).abs() < 1e-6, "{x}: {got} {wanted}");
        }
    }
}
