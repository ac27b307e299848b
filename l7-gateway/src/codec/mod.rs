//! HTTP/1.1 as bytes: heads read and written, bodies followed from their first byte to their last.
//! Pure: no socket, no clock. Strict in both directions: what two programs could read differently is
//! a fault. Not for meaning: stage 2 judges path, host and headers. Called by `engine/http1` for
//! clients and by `stages/dispatch` for services.
//!
//! Invariant: a body is framed anew from what was read of it; no framing field of a peer is passed on.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use thiserror::Error;

pub mod body;
pub mod chunks;
pub mod head;
pub mod request;
pub mod response;
pub mod write;

/// What is wrong with bytes that should be HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Bytes that are no HTTP/1.1 head (RFC 9112 §2.2: CRLF alone ends a line).
    #[error("the request line or a header line is malformed")]
    Syntax,
    /// Method that a gateway must not forward.
    #[error("CONNECT and TRACE are refused")]
    Method,
    /// HTTP/0.9, 2.0 in clear and the like.
    #[error("only HTTP/1.0 and HTTP/1.1 are spoken here")]
    Version,
    /// RFC 9112 §6.3: both lengths, two lengths, a list or a number that is none.
    #[error("the length of the body is ambiguous")]
    Length,
    /// RFC 9112 §6.1: anything but a single `chunked`, or in HTTP/1.0.
    #[error("the transfer coding is refused")]
    TransferCoding,
    /// RFC 9112 §7.1: a chunk's size line, its end, or trailers.
    #[error("a chunk is malformed")]
    Chunk,
    /// RFC 9110 §10.1.1: anything but `100-continue`.
    #[error("the expectation cannot be met")]
    Expectation,
    /// RFC 9112 §3.2: none, two, or one that is no host.
    #[error("exactly one valid Host is needed")]
    Host,
    /// The target has a byte that no form of target allows.
    #[error("the request target is malformed")]
    Target,
    /// Longer than `max_uri_bytes`.
    #[error("the request target is too long")]
    TargetTooLong,
    /// Longer than `max_head_bytes`.
    #[error("line and headers are too large")]
    HeadTooLarge,
    /// More than `max_headers`.
    #[error("there are too many headers")]
    TooManyHeaders,
    /// Not complete within `header_timeout`.
    #[error("line and headers did not come in time")]
    HeadTimeout,
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes.
    Exact(u64),
    /// Chunks (RFC 9112 §7.1).
    Chunked,
    /// Up to the connection's end; answers alone (RFC 9112 §6.3).
    UntilClose,
}

/// Whether a connection serves on after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It may.
    Keep,
    /// This message is its last.
    Close,
}

/// The header fields that frame a message and its connection, gathered while a head is read.
#[derive(Debug, Default)]
struct Fields {
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    /// What `Connection` says of it; an end wins.
    wish: Option<Persistence>,
    /// An expectation, and whether it is the one that there is.
    expect: Option<bool>,
}

impl Fields {
    fn add(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), Fault> {
        match *name {
            header::HOST => self.hosts += 1,
            header::CONTENT_LENGTH => {
                let known = self.length.replace(length(value)?);
                if known.is_some() {
                    return Err(Fault::Length);
                }
            }
            header::TRANSFER_ENCODING => {
                // RFC 9112 §6.1: nothing but one `chunked` can be undone by everybody.
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::TransferCoding);
                }
                self.chunked = true;
            }
            header::CONNECTION => {
                for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    if option.eq_ignore_ascii_case(b"close") {
                        self.wish = Some(Persistence::Close);
                    } else if option.eq_ignore_ascii_case(b"keep-alive") {
                        self.wish.get_or_insert(Persistence::Keep);
                    }
                }
            }
            header::UPGRADE => self.upgrade = true,
            header::EXPECT => {
                let known = value.eq_ignore_ascii_case(b"100-continue");
                self.expect = Some(known && self.expect != Some(false));
            }
            _ => {}
        }
        Ok(())
    }

    /// The framing that both kinds of message share; `None`: neither length nor coding was named.
    fn body(&self, version: Version) -> Result<Option<BodyLength>, Fault> {
        match (self.length, self.chunked) {
            // RFC 9112 §6.1: both together may be refused; nobody sends them in good faith.
            (Some(_), true) => Err(Fault::Length),
            (None, true) if version == Version::Http10 => Err(Fault::TransferCoding),
            (None, true) => Ok(Some(BodyLength::Chunked)),
            (length, false) => Ok(length.map(BodyLength::Exact)),
        }
    }

    /// RFC 9112 §9.3.
    fn persistence(&self, version: Version) -> Persistence {
        self.wish.unwrap_or(match version {
            Version::Http11 => Persistence::Keep,
            Version::Http10 => Persistence::Close,
        })
    }
}

/// A message's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl Version {
    fn of(minor: Option<u8>) -> Result<Self, Fault> {
        match minor {
            Some(0) => Ok(Self::Http10),
            Some(1) => Ok(Self::Http11),
            _ => Err(Fault::Version),
        }
    }
}

/// RFC 9110 §8.6: digits and nothing else.
fn length(value: &[u8]) -> Result<u64, Fault> {
    let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).ok_or(Fault::Length)
}

/// The tokenised fields of a head or of trailers, sharing its bytes; each one is told to `seen`. There
/// is room for `spare` more: a map that is too large costs more than one that is full.
fn fields(
    bytes: &Bytes,
    tokens: &[httparse::Header<'_>],
    spare: usize,
    mut seen: impl FnMut(&HeaderName, &[u8]) -> Result<(), Fault>,
) -> Result<HeaderMap, Fault> {
    let mut map = HeaderMap::with_capacity(tokens.len() + spare);
    for token in tokens {
        let name = HeaderName::from_bytes(token.name.as_bytes()).map_err(|_| Fault::Syntax)?;
        seen(&name, token.value)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(token.value));
        map.append(name, value.map_err(|_| Fault::Syntax)?);
    }
    Ok(map)
}

/// Most header fields that any configuration gets.
const SLOTS: usize = 256;

#[cfg(test)]
mod tests;
