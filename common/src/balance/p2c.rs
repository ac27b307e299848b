//! The less loaded of two random endpoints. Called by `Balancer::select`.
//!
//! Invariant: the two are different whenever two are allowed.

use super::Choice;
use crate::rng::Rng;

pub(super) fn select(choice: &Choice<'_>, rng: &Rng) -> Option<usize> {
    let count = choice.service.endpoints.len();
    let mut first = None;
    // Most are allowed as a rule: a few draws do, however many endpoints there are.
    for _ in 0..DRAWS {
        let index = rng.below(count);
        match first {
            _ if !choice.allows(index) => {}
            None => first = Some(index),
            Some(other) if other != index => return Some(choice.lighter(other, index)),
            Some(_) => {}
        }
    }
    among_few(choice, rng)
}

/// Nearly all are away, or there are few: looks at each.
fn among_few(choice: &Choice<'_>, rng: &Rng) -> Option<usize> {
    let count = choice.from(0).count();
    if count < 2 {
        return choice.from(0).next();
    }
    let first = rng.below(count);
    let second = (first + 1 + rng.below(count - 1)) % count;
    let (a, b) = (choice.from(0).nth(first)?, choice.from(0).nth(second)?);
    Some(choice.lighter(a, b))
}

/// Random endpoints looked at before all are.
const DRAWS: usize = 8;
