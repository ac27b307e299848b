//! The per-address limits, charged by stage 2 before any signature is verified, so that requests
//! that end in 401 count. Not for limits of identities: that is the stage itself. Called by
//! `stages/normalise`.
//!
//! Invariant: every request with a policy is charged exactly once.

use topology::gateway::{LimitId, RoutePolicy};

use super::{Caller, Limiter, Subject, headers};
use crate::exchange::{Exchange, ResponseHead, Stage};
use crate::halt::Halt;
use crate::trace::Trace;

/// Charges those limits of the policy that go by the client's address; a halt says 429 (or 503 when the store is away
/// and the policy says so). Waits for the store at most its timeout.
pub async fn charge(limiter: &Limiter, x: &mut Exchange, policy: &RoutePolicy) -> Result<(), Halt> {
    Ok(limiter.charge(x, &policy.limits, &Caller::default(), true).await?)
}

/// What [`charge`] would charge, with the keys as reasons.
pub fn plan(
    limiter: &Limiter,
    x: &Exchange,
    policy: &RoutePolicy,
    trace: &mut impl Trace,
) -> Vec<(LimitId, Subject)> {
    let charges = limiter.charges(x, &policy.limits, &Caller::default(), true);
    limiter.planned(charges, Stage::Normalise, trace)
}

/// For stage 2's response side: tells the client how its limits stand, also where the request came
/// no further than this or ended in 401. Harmless where stage 5 has told it already.
pub fn respond(x: &Exchange, head: &mut ResponseHead) {
    headers::write(x, head);
}
