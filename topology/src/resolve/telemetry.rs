//! A group's traces.
//!
//! Invariant: none beyond `resolve`'s.

use crate::raw;
use crate::resolve::l4::networks;
use crate::telemetry::Telemetry;

/// What a group says of them.
pub(super) fn telemetry(raw: Option<raw::Telemetry>) -> Telemetry {
    let Some(raw) = raw else { return Telemetry::default() };
    Telemetry {
        sample: raw.sample.map_or_else(Default::default, |typed| typed.value),
        trust_trace_from: networks(raw.trust_trace_from),
    }
}
