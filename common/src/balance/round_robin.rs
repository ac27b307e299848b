//! Endpoints in turn, by weight, evenly mixed. Called by `Balancer::select`.
//!
//! Invariant: among endpoints that are all selectable, each gets its exact share of every full
//! round.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Choice;
use crate::rng::Rng;
use crate::service::Service;

/// One round, written out, and the place in it.
#[derive(Debug)]
pub(super) struct Turns {
    round: Box<[u16]>,
    next: AtomicUsize,
}

impl Turns {
    /// Smooth weighted turns: the endpoint that is owed most comes next and pays the whole sum.
    pub(super) fn new(service: &Service) -> Self {
        let weights = reduce(service.endpoints.iter().map(|e| i64::from(e.weight().max(1))));
        let sum: i64 = weights.iter().sum();
        let mut owed = vec![0_i64; weights.len()];
        let turn = |_| {
            owed.iter_mut().zip(&weights).for_each(|(o, w)| *o += w);
            let most = (0..owed.len()).rev().max_by_key(|&i| owed.get(i)).unwrap_or_default();
            if let Some(o) = owed.get_mut(most) {
                *o -= sum;
            }
            most as u16
        };
        Self { round: (0..sum).map(turn).collect(), next: AtomicUsize::new(0) }
    }

    /// A turn of an endpoint that is not allowed is skipped by drawing the next one: its share is
    /// spread over the others, not given to its neighbour.
    pub(super) fn select(&self, choice: &Choice<'_>, rng: &Rng) -> Option<usize> {
        for _ in 0..self.round.len() {
            let place = self.next.fetch_add(1, Ordering::Relaxed) % self.round.len();
            let index = self.round.get(place).map(|&i| usize::from(i))?;
            if choice.allows(index) && choice.takes_turn(index, rng) {
                return Some(index);
            }
        }
        // Other workers drew in between, or slow starters let all their turns pass.
        choice.from(0).next()
    }
}

/// Divides by the greatest common divisor, then until a round is at most [`LONGEST`].
fn reduce(weights: impl Iterator<Item = i64>) -> Vec<i64> {
    let mut weights: Vec<i64> = weights.collect();
    let common = weights.iter().copied().fold(0, gcd).max(1);
    weights.iter_mut().for_each(|w| *w /= common);
    while weights.iter().sum::<i64>() > LONGEST && weights.iter().any(|&w| w > 1) {
        weights.iter_mut().for_each(|w| *w = (*w / 2).max(1));
    }
    weights
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Turns in a round.
const LONGEST: i64 = 65_536;
