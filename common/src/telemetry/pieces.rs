//! What spans of every tier are made of: ids, times, attributes, an end. Not for what a tier says in them.
//!
//! Invariant: an id is written as bytes, most significant first.

use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Judged;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use crate::trace_parent::TraceParent;

/// Ids, kind and times.
pub fn blank(
    own: TraceParent,
    parent: Option<TraceParent>,
    (wall, began, ended): (SystemTime, Duration, Duration),
    kind: SpanKind,
) -> Span {
    let (trace, span) = own.bytes();
    Span {
        trace_id: trace.to_vec(),
        span_id: span.to_vec(),
        parent_span_id: parent.map(|parent| parent.bytes().1.to_vec()).unwrap_or_default(),
        flags: u32::from(own.is_sampled()),
        kind: kind as i32,
        start_time_unix_nano: nanos(wall, began),
        end_time_unix_nano: nanos(wall, ended),
        ..Span::default()
    }
}

/// Says why it failed, if it did.
pub fn judge(span: &mut Span, failed: Option<String>) {
    if let Some(why) = failed {
        span.attributes.push(text("error.type", &why));
        let code = Judged::Error as i32;
        span.status = Some(Status { message: String::new(), code });
    }
}

/// A moment as OpenTelemetry counts it.
pub fn nanos(wall: SystemTime, after: Duration) -> u64 {
    let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + after;
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// An attribute.
pub fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

/// An attribute.
pub fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}
