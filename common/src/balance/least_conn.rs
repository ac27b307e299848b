//! Least connections. Called by `Balancer::select`.
//!
//! Invariant: no allowed endpoint has fewer in flight for its weight than the chosen one had.

use super::Choice;
use crate::rng::Rng;

/// Ties fall to a random one, so that workers and instances do not march in step.
pub(super) fn select(choice: &Choice<'_>, rng: &Rng) -> Option<usize> {
    let start = rng.below(choice.service.endpoints.len());
    choice.from(start).reduce(|best, next| choice.lighter(best, next))
}
