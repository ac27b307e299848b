//! A group's traces, what poolers tell of queries, and what is recorded.
//!
//! Invariant: none beyond `resolve`'s.

use std::num::NonZeroUsize;

use crate::raw::{self, Findings, Flag, Text, Typed};
use crate::resolve::l4::networks;
use crate::resolve::names::Names;
use crate::resolve::or;
use crate::resolve::web_address;
use crate::telemetry::{PoolTelemetry, Recording, Sample, Telemetry};
use crate::units::{At, Size};

/// What a group says of them.
pub(super) fn telemetry(raw: Option<raw::Telemetry>, out: &mut Findings) -> Telemetry {
    let Some(raw) = raw else { return Telemetry::default() };
    let records = raw.records.as_ref().filter(|typed| typed.value.0);
    if let (Some(records), None) = (records, &raw.otlp) {
        out.error(&records.spot, "records have nowhere to go").hint("add `otlp: URL` beside it");
    }
    Telemetry {
        sample: raw.sample.map_or_else(Default::default, |typed| typed.value),
        trust_trace_from: networks(raw.trust_trace_from),
        records: records.is_some(),
        otlp: raw.otlp.and_then(|typed| collector(&typed, out)),
    }
}

/// What a group of poolers says of single queries.
pub(super) fn of_pool(raw: Option<raw::PoolTelemetry>, out: &mut Findings) -> PoolTelemetry {
    let Some(raw) = raw else { return PoolTelemetry::default() };
    PoolTelemetry {
        slow_query: raw.slow_query.map(|typed| typed.value.0),
        otlp: raw.otlp.and_then(|typed| collector(&typed, out)),
    }
}

/// What of the traffic is recorded; `None` also where no folder is named, which is told elsewhere.
pub(super) fn recording(
    raw: raw::Recording,
    names: &Names,
    out: &mut Findings,
) -> Option<Recording> {
    let folder = raw.folder?;
    let small = raw.size.as_ref().filter(|size| size.value.0 < SMALLEST);
    if let Some(size) = small {
        out.error(&size.spot, "a file so small holds no second of traffic".to_owned())
            .allowed("8MiB or more");
    }
    Some(Recording {
        folder: names.folder.join(&folder.value.0),
        sample: or(raw.sample, Sample::EVERY),
        size: or(raw.size, Size(64 << 20)).0,
        files: or(raw.files, NonZeroUsize::MIN.saturating_add(3)),
        digests: or(raw.digests, Flag(false)).0,
    })
}

/// As much as may wait to be written fits twice.
const SMALLEST: u64 = 8 << 20;

fn collector(typed: &Typed<Text>, out: &mut Findings) -> Option<At<String>> {
    let value = web_address(typed, "a collector", out)?;
    Some(At { value, place: typed.spot.extent.place })
}
