//! Whether traffic keeps to the own zone. Not for choosing within it. Called by `Balancer::select`.
//!
//! Invariant: while 70 % of the zone's weight can be selected everything keeps to it; below, as much
//! goes elsewhere as is missing, so that the rest is not overrun.

use tokio::time::Instant;
use topology::units::ZoneName;

use crate::rng::Rng;
use crate::service::{Remembered, Service};

/// The own zone, and how much of it can be selected.
#[derive(Debug)]
pub(super) struct Near {
    pub(super) zone: ZoneName,
    /// Thousandths of the draws that stay.
    kept: Remembered,
}

impl Near {
    pub(super) fn new(zone: ZoneName) -> Self {
        Self { zone, kept: Remembered::default() }
    }

    /// One draw: this flow stays in the zone, or goes to another. Endpoints are counted now and then,
    /// not for each draw.
    pub(super) fn keeps(&self, service: &Service, now: Instant, rng: &Rng) -> bool {
        let kept = self.kept.get(service.turn(now), || part(&self.zone, service, now));
        kept >= 1000 || rng.below(1000) < usize::from(kept)
    }
}

/// Of a thousand draws, how many stay.
fn part(zone: &ZoneName, service: &Service, now: Instant) -> u16 {
    let (mut there, mut whole) = (0, 0);
    for endpoint in service.endpoints.iter().filter(|e| e.zone.as_ref() == Some(zone)) {
        let weight = u64::from(endpoint.weight());
        whole += weight;
        there += if endpoint.state.selectable(now) { weight } else { 0 };
    }
    // 70 % counts as whole: one of four may be away.
    let enough = (whole * 7).max(1);
    u16::try_from(there * 10_000 / enough).unwrap_or(1000).min(1000)
}
