//! Whether traffic keeps to the own zone. Not for choosing within it. Called by `Balancer::select`.
//!
//! Invariant: while 70 % of the zone's weight can be selected everything keeps to it; below, as much
//! goes elsewhere as is missing, so that the rest is not overrun.

use tokio::time::Instant;
use topology::units::ZoneName;

use crate::rng::Rng;
use crate::service::Service;

/// One draw: this flow stays in the zone, or goes to another.
pub(super) fn keeps_to(zone: &ZoneName, service: &Service, now: Instant, rng: &Rng) -> bool {
    let (mut there, mut whole) = (0, 0);
    for endpoint in service.endpoints.iter().filter(|e| e.zone.as_ref() == Some(zone)) {
        let weight = u64::from(endpoint.weight());
        whole += weight;
        there += if endpoint.state.selectable(now) { weight } else { 0 };
    }
    // 70 % counts as whole: one of four may be away.
    let enough = whole * 7;
    whole > 0 && (there * 10 >= enough || (rng.below(enough as usize) as u64) < there * 10)
}
