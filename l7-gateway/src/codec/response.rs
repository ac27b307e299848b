//! A service's head as the gateway takes it. Services are not trusted: what is ambiguous is a fault,
//! and its connection is not used again. Not for trying elsewhere: `stages/dispatch`. Called by it.
//!
//! Invariant: the end of an answer is told in exactly one way.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::response::Parts;
use http::{Method, StatusCode};

use super::{BodyLength, Fault, Fields, Persistence, SLOTS, Version, fields};

/// A head that was read.
#[derive(Debug)]
pub struct Head {
    /// Line and fields.
    pub parts: Parts,
    /// What follows.
    pub body: BodyLength,
    /// Whether the connection serves on.
    pub persistence: Persistence,
}

/// Reads a complete head, which `head::end` has found, as the answer to a request with `method`.
///
/// # Errors
/// It is malformed, or two programs could read it differently.
pub fn parse(head: &Bytes, method: &Method, most_headers: usize) -> Result<Head, Fault> {
    let mut slots = [const { MaybeUninit::uninit() }; SLOTS];
    let mut tokens = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    match parser.parse_response_with_uninit_headers(&mut tokens, head, &mut slots) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooManyHeaders),
        Ok(_) | Err(_) => return Err(Fault::Syntax),
    }
    if tokens.headers.len() > most_headers {
        return Err(Fault::TooManyHeaders);
    }
    let version = Version::of(tokens.version)?;
    let code = tokens.code.filter(|code| *code < 600);
    let status = code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Fault::Syntax)?;
    let mut known = Fields::default();
    let headers = fields(head, tokens.headers, SPARE, |name, value| known.add(name, value))?;
    let named = known.body(version)?;
    let (mut parts, ()) = http::Response::new(()).into_parts();
    (parts.status, parts.headers) = (status, headers);
    let body = if bodiless(method, status) {
        BodyLength::Exact(0)
    } else {
        named.unwrap_or(BodyLength::UntilClose)
    };
    let persistence = match body {
        BodyLength::UntilClose => Persistence::Close,
        _ => known.persistence(version),
    };
    Ok(Head { parts, body, persistence })
}

/// Fields that are added on the way to a client.
const SPARE: usize = 1;

/// RFC 9112 §6.3, cases 1 and 2: the head is all, whatever it says.
pub fn bodiless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}
