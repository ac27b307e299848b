//! Request ids: made here, printed and parsed here, and trace contexts beside them. Not for deciding whom
//! to believe: stage 2 does. Called by `connection` and `stages/normalise`.
//!
//! Invariant: an id is never all zeros and always prints as lower-case hexadecimal.

use std::fmt;

use bytes::Bytes;
pub use common::trace_parent::{Sampled, TraceParent};
use common::trace_parent::{ascii, hex};
use http::HeaderValue;
use rand::Rng;
use rand::rngs::SmallRng;

/// 128 random bits, printed as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(u128);

impl RequestId {
    /// A new one.
    pub fn new(rng: &mut SmallRng) -> Self {
        Self(rng.random::<u128>() | 1)
    }

    /// The 32 digits.
    pub fn hex(self) -> [u8; 32] {
        hex(self.0.to_be_bytes())
    }
}

/// Both ids as headers' values, in one piece of memory.
pub fn headers(id: RequestId, trace: TraceParent) -> (HeaderValue, HeaderValue) {
    let mut text = [0; 32 + 55];
    text[..32].copy_from_slice(&id.hex());
    text[32..].copy_from_slice(&trace.text());
    let text = Bytes::copy_from_slice(&text);
    (ascii(text.slice(..32)), ascii(text.slice(32..)))
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
