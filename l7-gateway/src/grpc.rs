//! What a gateway must know of gRPC over HTTP/2: who speaks it, how long a call may take, how it ended.
//! Not for messages: those pass as they are. Which code an answer of ours has is in `halt`. Called by the
//! stages.
//!
//! Invariant: nothing here fails; what is no gRPC is `None`.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};

pub mod details;

/// How a call ended: in trailers, or in the head of an answer that has nothing else.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Why, for people, percent-encoded.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// How long the client will wait.
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The service cannot be reached now.
pub const UNAVAILABLE: u8 = 14;

/// Whether a request is a call.
pub fn is_call(head: &http::request::Parts) -> bool {
    head.version == Version::HTTP_2 && head.method == Method::POST && is_content(&head.headers)
}

/// `application/grpc`, with a codec's name or parameters behind it; gRPC-Web is something else.
pub fn is_content(headers: &HeaderMap) -> bool {
    let rest = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// `grpc-timeout`: at most eight digits and a unit.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count = digits.parse::<u64>().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// How a call ended, if these fields say so.
pub fn status(fields: &HeaderMap) -> Option<u8> {
    fields.get(STATUS)?.to_str().ok()?.parse().ok()
}

/// The fields that end a call.
pub fn end(code: u8, message: &str) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(2);
    fields.insert(STATUS, HeaderValue::from(u16::from(code)));
    if let Ok(message) = HeaderValue::try_from(escaped(message)) {
        fields.insert(MESSAGE, message);
    }
    fields
}

fn escaped(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => {
                text.push('%');
                for half in [byte >> 4, byte & 15] {
                    text.extend(
                        char::from_digit(u32::from(half), 16).map(|c| c.to_ascii_uppercase()),
                    );
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a value"));
        headers
    }

    /// G4: what a call is, and how long it may take.
    #[test]
    fn calls_are_told_by_their_fields() {
        for (value, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            assert_eq!(is_content(&with("content-type", value)), is, "{value}");
        }
        for (value, millis) in [
            ("5S", Some(5000)),
            ("99999999m", Some(99_999_999)),
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3000u", Some(3)),
            ("123456789m", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("5", None),
            ("5é", None),
        ] {
            let expected = millis.map(Duration::from_millis);
            assert_eq!(timeout(&with("grpc-timeout", value)), expected, "{value}");
        }
        assert_eq!(end(3, "50% é")[MESSAGE], "50%25 %C3%A9");
    }
}
