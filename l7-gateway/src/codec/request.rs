//! A client's head as the gateway takes it. Not for the canonical path or the host's form: stage 2.
//! Called by `engine/http1`.
//!
//! Invariant: what leaves here has one host field, one way to tell its body's end, and a target in
//! origin or absolute form.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Uri};

use super::head::HeadLimits;
use super::{BodyLength, Fault, Fields, Persistence, SLOTS, Version, fields};

/// A head that was read.
#[derive(Debug)]
pub struct Head {
    /// Line and fields; boxed, for they are handed on more than once.
    pub parts: Box<Parts>,
    /// What follows.
    pub body: BodyLength,
    /// Whether bytes behind it may be of another protocol.
    pub upgrade: Upgrade,
    /// Whether the client waits before it sends the body (RFC 9110 §10.1.1).
    pub expect: Expect,
    /// Whether it wants the connection to serve on.
    pub persistence: Persistence,
}

/// Whether a head has an `Upgrade`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// It asks for another protocol.
    Asked,
    /// None.
    No,
}

/// Whether a client waits for a word before it sends its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It waits for `100 Continue`.
    Continue,
    /// It sends right away.
    Nothing,
}

/// Reads a complete head, which `head::end` has found.
///
/// # Errors
/// It is malformed, or two programs could read it differently.
pub fn parse(head: &Bytes, limits: HeadLimits) -> Result<Head, Fault> {
    let mut slots = [const { MaybeUninit::uninit() }; SLOTS];
    let mut tokens = httparse::Request::new(&mut []);
    match tokens.parse_with_uninit_headers(head, &mut slots) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Fault::Syntax),
        Err(httparse::Error::Version) => return Err(Fault::Version),
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooManyHeaders),
        Err(_) => return Err(Fault::Syntax),
    }
    if tokens.headers.len() > limits.headers {
        return Err(Fault::TooManyHeaders);
    }
    let version = Version::of(tokens.version)?;
    let method = method(tokens.method.unwrap_or_default())?;
    let uri = target(head, tokens.path.unwrap_or_default().as_bytes(), limits)?;
    let mut known = Fields::default();
    let headers = fields(head, tokens.headers, SPARE, |name, value| known.add(name, value))?;
    let (mut parts, ()) = http::Request::new(()).into_parts();
    (parts.method, parts.uri, parts.headers) = (method, uri, headers);
    parts.version = match version {
        Version::Http10 => http::Version::HTTP_10,
        Version::Http11 => http::Version::HTTP_11,
    };
    framed(Box::new(parts), &known, version)
}

/// Fields that are added on the way to a service.
const SPARE: usize = 6;

fn framed(parts: Box<Parts>, known: &Fields, version: Version) -> Result<Head, Fault> {
    if known.hosts != 1 {
        return Err(Fault::Host);
    }
    let body = known.body(version)?.unwrap_or(BodyLength::Exact(0));
    let upgrade = if known.upgrade { Upgrade::Asked } else { Upgrade::No };
    // A body behind an upgrade could be read as the other protocol.
    if upgrade == Upgrade::Asked && body != BodyLength::Exact(0) {
        return Err(Fault::Length);
    }
    let expect = match known.expect {
        Some(false) => return Err(Fault::Expectation),
        Some(true) if version == Version::Http11 && body != BodyLength::Exact(0) => {
            Expect::Continue
        }
        _ => Expect::Nothing,
    };
    Ok(Head { parts, body, upgrade, expect, persistence: known.persistence(version) })
}

fn method(text: &str) -> Result<Method, Fault> {
    match text {
        "CONNECT" | "TRACE" => Err(Fault::Method),
        // So that a line that is too long is refused for it however it is cut.
        _ if text.len() > LONGEST_METHOD => Err(Fault::Syntax),
        _ => Method::from_bytes(text.as_bytes()).map_err(|_| Fault::Syntax),
    }
}

/// Twice as long as any that is registered.
const LONGEST_METHOD: usize = 32;

/// Origin form or absolute form (RFC 9112 §3.2), visible ASCII without fragment and backslash.
fn target(head: &Bytes, text: &[u8], limits: HeadLimits) -> Result<Uri, Fault> {
    if text.len() > limits.target {
        return Err(Fault::TargetTooLong);
    }
    let absolute = || {
        let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
        lower.starts_with(b"http://") || lower.starts_with(b"https://")
    };
    let clean = |b: &u8| b.is_ascii_graphic() && !b"#\\\"<>^`{|}".contains(b);
    if (text.starts_with(b"/") || absolute()) && text.iter().all(clean) {
        Uri::from_maybe_shared(head.slice_ref(text)).map_err(|_| Fault::Target)
    } else {
        Err(Fault::Target)
    }
}
