//! An exchange that has ended, as OpenTelemetry has it: one server span with an event per stage, one
//! client span per attempt, or a log record. Not for sending. Called by the sink, on the worker.
//!
//! Invariant: nothing is in it that the access record may not say: no query, no header of a client.

use std::borrow::Cow;
use std::time::Duration;

use common::telemetry::pieces::{blank, judge, nanos, number, text};
use http::Method;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};

use super::Notes;
use super::notes::{Attempt, Outcome};
use crate::access_log::End;
use crate::access_log::line::CLIENT_GONE;
use crate::exchange::{Exchange, Stage};

/// The spans of a sampled exchange that took `elapsed`: its own, then those of its attempts.
pub fn spans(x: &Exchange, notes: &Notes, elapsed: Duration) -> impl Iterator<Item = Span> {
    let server = server(x, elapsed);
    let method = method(&x.record.method).into_owned();
    let (wall, own) = (x.wall, x.trace);
    let path = x.record.path.clone();
    let attempts = notes.attempts().into_iter().enumerate();
    let clients = attempts.map(move |(nth, attempt)| {
        let Attempt { span, endpoint, address, began, ended, outcome } = attempt;
        let mut attributes = vec![
            text("http.request.method", &method),
            text("server.address", &address.ip().to_string()),
            number("server.port", i64::from(address.port())),
            text("url.path", &path),
            text("aqueduct.endpoint", endpoint.as_str()),
        ];
        if nth > 0 {
            attributes.push(number("http.request.resend_count", nth as i64));
        }
        let failed = match outcome {
            Outcome::Status(status) => {
                attributes.push(number("http.response.status_code", i64::from(status)));
                (status >= 400).then(|| status.to_string())
            }
            Outcome::Failed(why) => Some(why.to_owned()),
            Outcome::Abandoned => Some("abandoned".to_owned()),
        };
        let parent = Some(own);
        let mut made = blank(span, parent, (wall, began, ended), SpanKind::Client);
        made.name.clone_from(&method);
        made.attributes = attributes;
        judge(&mut made, failed);
        made
    });
    std::iter::once(server).chain(clients)
}

fn server(x: &Exchange, elapsed: Duration) -> Span {
    let record = &x.record;
    let parent = x.continued.as_ref().map(|before| before.parent);
    let mut span = blank(x.trace, parent, (x.wall, Duration::ZERO, elapsed), SpanKind::Server);
    let (method, route) = (method(&record.method), record.route.name.as_str());
    span.name = if route.is_empty() { method.to_string() } else { format!("{method} {route}") };
    let status = record.status.unwrap_or(CLIENT_GONE);
    let client = x.peer.address().to_string();
    let request_id = x.request_id.to_string();
    span.attributes = vec![
        text("http.request.method", &method),
        text("url.path", &record.path),
        text("url.scheme", x.peer.scheme()),
        text("client.address", &client),
        number("http.response.status_code", i64::from(status.as_u16())),
        number("http.response.body.size", i64::try_from(record.bytes_out).unwrap_or(i64::MAX)),
        text("aqueduct.request_id", &request_id),
    ];
    let service = record.service.as_ref().map(topology::ServiceName::as_str);
    let consumer = record.consumer.as_ref().and_then(|consumer| consumer.to_str().ok());
    let user = record.user.as_ref().and_then(|user| user.to_str().ok());
    let more = [
        ("http.route", Some(route).filter(|route| !route.is_empty())),
        ("aqueduct.service", service),
        ("enduser.id", user),
        ("aqueduct.consumer", consumer),
        ("aqueduct.connection_id", x.peer.connection_id.as_deref()),
        ("aqueduct.halted", x.progress.halted().map(Stage::name)),
    ];
    span.attributes.extend(more.iter().filter_map(|(key, value)| Some(text(key, (*value)?))));
    if let Some(code) = record.grpc {
        span.attributes.push(number("rpc.grpc.status_code", i64::from(code)));
    }
    if let Some(state) = x.continued.as_ref().and_then(|before| before.state.as_ref()) {
        span.trace_state = state.to_str().unwrap_or_default().to_owned();
    }
    span.events = stages(x);
    let failed = match record.end {
        _ if status.is_server_error() => Some(status.as_str().to_owned()),
        End::Complete => None,
        End::Aborted => Some("aborted".to_owned()),
    };
    judge(&mut span, failed);
    span
}

/// An event where each stage of the request side began. They follow each other without a gap, so that
/// their lengths say where they began.
fn stages(x: &Exchange) -> Vec<Event> {
    let mut at = Duration::ZERO;
    let ran = Stage::ALL.into_iter().filter(|stage| *stage != Stage::Tls && x.progress.ran(*stage));
    ran.map(|stage| {
        let spent = x.progress.spent(stage);
        let micros = i64::try_from(spent.as_micros()).unwrap_or(i64::MAX);
        let event = Event {
            time_unix_nano: nanos(x.wall, at),
            name: stage.name().to_owned(),
            attributes: vec![number("aqueduct.spent_us", micros)],
            dropped_attributes_count: 0,
        };
        at += spent;
        event
    })
    .collect()
}

/// The access record as a log record: its line is the body.
pub fn record(x: &Exchange, line: &[u8]) -> LogRecord {
    let (trace, span) = x.trace.bytes();
    let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
    let failed = x.record.status.is_some_and(|status| status.is_server_error());
    let severity = if failed { SeverityNumber::Error } else { SeverityNumber::Info };
    let at = nanos(x.wall, Duration::ZERO);
    LogRecord {
        time_unix_nano: at,
        observed_time_unix_nano: at,
        severity_number: severity as i32,
        body: Some(AnyValue { value: Some(Value::StringValue(line)) }),
        flags: u32::from(x.trace.is_sampled()),
        trace_id: trace.to_vec(),
        span_id: span.to_vec(),
        event_name: "aqueduct.access".to_owned(),
        ..LogRecord::default()
    }
}

/// A client may name any method; a collector gets few names.
fn method(method: &Method) -> Cow<'_, str> {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    Cow::Borrowed(if KNOWN.contains(method) { method.as_str() } else { "_OTHER" })
}
