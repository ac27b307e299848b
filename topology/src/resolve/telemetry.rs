//! A group's traces, and what poolers tell of queries.
//!
//! Invariant: none beyond `resolve`'s.

use crate::raw::{self, Findings, Text, Typed};
use crate::resolve::gateway::hidden;
use crate::resolve::l4::networks;
use crate::telemetry::{PoolTelemetry, Telemetry};
use crate::units::At;

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

fn collector(typed: &Typed<Text>, out: &mut Findings) -> Option<At<String>> {
    let text = typed.value.0.trim_end_matches('/');
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let lawful = |b: u8| b.is_ascii_alphanumeric() || b".-_~:/[]%".contains(&b);
    if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/') || !rest.bytes().all(lawful))
    {
        let what = "this is no address of a collector".to_owned();
        let spot = hidden(&typed.spot, text.contains('@'));
        out.error(&spot, what).allowed("http://HOST:PORT or https://HOST:PORT, without a user");
        return None;
    }
    Some(At { value: text.to_owned(), place: typed.spot.extent.place })
}
