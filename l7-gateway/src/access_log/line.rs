//! One access record as one line of JSON. Not for choosing what is logged. Called by the sink.
//!
//! Invariant: whatever a client sent, the line is one valid JSON object and one newline.

use std::time::Duration;

use common::calendar::timestamp;
use common::tls::principal::Principal;
use http::StatusCode;
use topology::ServiceName;

use super::End;
use crate::exchange::{Exchange, Stage};

/// Stands for an answer that nobody was there to take; never sent.
pub const CLIENT_GONE: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

/// Appends the line of an exchange that took `elapsed`.
pub fn write(x: &Exchange, instance: &str, elapsed: Duration, out: &mut Vec<u8>) {
    let record = &x.record;
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    out.extend_from_slice(b"{\"timestamp\":\"");
    timestamp(x.wall, out);
    out.extend_from_slice(b"\",\"userId\":");
    user(record.user.as_ref().and_then(|user| user.to_str().ok()), out);
    out.extend_from_slice(b",\"endpoint\":\"");
    escape(record.method.as_str(), out);
    out.push(b' ');
    escape(&record.path, out);
    number(b"\",\"latency_ms\":", micros / 1000, out);
    number(b",\"latency_us\":", micros, out);
    number(b",\"status\":", u64::from(record.status.unwrap_or(CLIENT_GONE).as_u16()), out);
    if let Some(code) = record.grpc {
        number(b",\"grpc_status\":", u64::from(code), out);
    }
    text(b",\"service\":", record.service.as_ref().map(ServiceName::as_str), out);
    text(b",\"gateway_instance\":", Some(instance), out);
    raw(b",\"request_id\":\"", &x.request_id.hex(), out);
    raw(b"\",\"trace_id\":\"", &x.trace.trace_hex(), out);
    raw(b"\",\"span_id\":\"", &x.trace.span_hex(), out);
    number(b"\",\"bytes_in\":", record.body_in.as_ref().map_or(0, |body| body.bytes()), out);
    number(b",\"bytes_out\":", record.bytes_out, out);
    let client = x.peer.address().to_string();
    text(b",\"client\":", Some(&client), out);
    text(b",\"connection_id\":", x.peer.connection_id.as_deref(), out);
    let consumer = record.consumer.as_ref().and_then(|consumer| consumer.to_str().ok());
    text(b",\"consumer\":", consumer, out);
    text(b",\"principal\":", x.peer.principal().map(Principal::as_str), out);
    let route = Some(record.route.name.as_str()).filter(|name| !name.is_empty());
    text(b",\"route\":", route, out);
    text(b",\"halted\":", x.progress.halted().map(Stage::name), out);
    if let Some(reason) = record.reason.get() {
        text(b",\"reason\":", Some(reason), out);
    }
    if let Some(calls) = &record.failed_calls {
        text(b",\"failed_calls\":", Some(calls), out);
    }
    let complete = if record.end == End::Complete { "true" } else { "false" };
    raw(b",\"complete\":", complete.as_bytes(), out);
    number(b",\"upstream_us\":", micros_of(x.progress.upstream), out);
    stages(x, out);
    out.extend_from_slice(b"}\n");
}

/// `"stages_us":{…}`: the stages that ran.
fn stages(x: &Exchange, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"stages_us\":{");
    for (index, stage) in Stage::ALL.into_iter().filter(|s| x.progress.ran(*s)).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.push(b'"');
        out.extend_from_slice(stage.name().as_bytes());
        number(b"\":", micros_of(x.progress.spent(stage)), out);
    }
    out.push(b'}');
}

fn micros_of(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A number where the user is a decimal one that reads back the same, else text; null without one.
pub(crate) fn user(user: Option<&str>, out: &mut Vec<u8>) {
    let decimal = |text: &str| {
        let canonical = text == "0" || !text.starts_with('0');
        // 2^53 - 1: above it readers that use doubles would confuse users (RFC 8259 §6).
        canonical
            && text.len() <= 16
            && text.parse::<u64>().is_ok_and(|n| n < 1 << 53)
            && text.bytes().all(|b| b.is_ascii_digit())
    };
    match user {
        None => out.extend_from_slice(b"null"),
        Some(text) if decimal(text) => out.extend_from_slice(text.as_bytes()),
        Some(text) => quoted(text, out),
    }
}

pub(crate) fn number(key: &[u8], value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

pub(crate) fn text(key: &[u8], value: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    match value {
        Some(value) => quoted(value, out),
        None => out.extend_from_slice(b"null"),
    }
}

fn raw(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

pub(crate) fn quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape(text, out);
    out.push(b'"');
}

/// RFC 8259 §7; also the line separators that some readers of logs take for newlines.
fn escape(text: &str, out: &mut Vec<u8>) {
    // Most text has nothing to escape; 0xc2 and 0xe2 begin the marks beyond ASCII.
    if !text.bytes().any(|b| matches!(b, 0..=0x1f | b'"' | b'\\' | 0x7f | 0xc2 | 0xe2)) {
        return out.extend_from_slice(text.as_bytes());
    }
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
                let code = c as usize;
                let hex = |shift: usize| b"0123456789abcdef"[(code >> shift) & 15];
                out.extend_from_slice(&[b'\\', b'u', hex(12), hex(8), hex(4), hex(0)]);
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests;
