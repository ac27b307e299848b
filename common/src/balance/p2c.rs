//! The less loaded of two random endpoints. Called by `Balancer::select`.
//!
//! Invariant: the two are different whenever two are allowed.

use super::Choice;
use crate::rng::Rng;

pub(super) fn select(choice: &Choice<'_>, rng: &Rng) -> Option<usize> {
    let count = choice.from(0).count();
    let first = rng.below(count);
    if count < 2 {
        return choice.from(0).next();
    }
    let second = (first + 1 + rng.below(count - 1)) % count;
    let (a, b) = (choice.from(0).nth(first)?, choice.from(0).nth(second)?);
    Some(choice.lighter(a, b))
}
