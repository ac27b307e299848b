//! Heads and chunks as bytes. Not for deciding how a body is framed: the caller knows its body.
//! Called by `engine/http1` and `stages/dispatch`.
//!
//! Invariant: what is written has one framing field at most, ours, whatever the header map says.

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode, Uri};

use super::BodyLength;

/// What ends the body behind a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length`.
    Exact(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Nothing is said: there is no body, or it ends with the connection.
    Silent,
    /// No body follows, but the length that one would have is told as the service told it (RFC 9110
    /// §8.6: answers to HEAD, and 304).
    AsTold,
}

impl From<BodyLength> for Framing {
    fn from(length: BodyLength) -> Self {
        match length {
            BodyLength::Exact(bytes) => Self::Exact(bytes),
            BodyLength::Chunked => Self::Chunked,
            BodyLength::UntilClose => Self::Silent,
        }
    }
}

/// A request's head, its host first (RFC 9112 §3.2).
pub fn request(
    out: &mut Vec<u8>,
    method: &Method,
    target: &Uri,
    headers: &HeaderMap,
    framing: Framing,
) {
    let path = target.path_and_query().map_or("/", |target| target.as_str());
    out.reserve(path.len() + size(headers));
    out.extend_from_slice(method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(host) = headers.get(header::HOST) {
        field(out, &header::HOST, host.as_bytes());
    }
    for (name, value) in headers {
        if *name != header::HOST {
            passed(out, name, value.as_bytes(), framing);
        }
    }
    frame(out, framing);
}

/// An answer's head; `extra` writes complete lines of the connection's own.
pub fn response(
    out: &mut Vec<u8>,
    status: StatusCode,
    headers: &HeaderMap,
    framing: Framing,
    extra: impl FnOnce(&mut Vec<u8>),
) {
    out.reserve(size(headers) + EXTRA);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        passed(out, name, value.as_bytes(), framing);
    }
    extra(out);
    frame(out, framing);
}

/// Fields behind a chunked body, and its end.
pub fn trailers(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        field(out, name, value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// What comes before a chunk of so many bytes; CRLF comes behind it.
pub fn chunk(out: &mut Vec<u8>, size: usize) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut left = size;
    while at > 0 && (left > 0 || at == digits.len()) {
        at -= 1;
        if let (Some(place), Some(digit)) = (digits.get_mut(at), b"0123456789abcdef".get(left & 15))
        {
            *place = *digit;
        }
        left >>= 4;
    }
    out.extend_from_slice(digits.get(at..).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}

/// Room for lines of a connection's own.
const EXTRA: usize = 64;

fn size(headers: &HeaderMap) -> usize {
    let lines = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    lines.sum::<usize>() + 128
}

/// Fields that say how a body is framed.
pub const FRAMES: [HeaderName; 2] = [header::TRANSFER_ENCODING, header::CONTENT_LENGTH];

fn passed(out: &mut Vec<u8>, name: &HeaderName, value: &[u8], framing: Framing) {
    let ours = *name == header::TRANSFER_ENCODING
        || (*name == header::CONTENT_LENGTH && framing != Framing::AsTold);
    if !ours {
        field(out, name, value);
    }
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn frame(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::Exact(bytes) => {
            out.extend_from_slice(b"content-length: ");
            out.extend_from_slice(itoa::Buffer::new().format(bytes).as_bytes());
            out.extend_from_slice(b"\r\n\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n"),
        Framing::Silent | Framing::AsTold => out.extend_from_slice(b"\r\n"),
    }
}
