//! W3C trace context: made here, printed and parsed here. Not for deciding whom to believe: each tier
//! does. Used by the gateway for requests and by the pooler for what SQL comments carry.
//!
//! Invariant: an id is never all zeros and always prints as lower-case hexadecimal.

use std::fmt;

use bytes::Bytes;
use http::HeaderValue;
use rand::Rng;
use rand::rngs::SmallRng;
use topology::telemetry::Sample;

/// `traceparent` (W3C Trace Context, version 00).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    sampled: Sampled,
}

/// The sampled flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sampled {
    /// Bit 0 is set.
    Yes,
    /// Bit 0 is clear.
    No,
}

impl TraceParent {
    /// A new trace that starts here, sampled if it is one of so many.
    pub fn start(rng: &mut SmallRng, sample: Sample) -> Self {
        let (trace, span) = (rng.random::<u128>() | 1, rng.random::<u64>() | 1);
        let sampled = if sample.takes(trace) { Sampled::Yes } else { Sampled::No };
        Self { trace, span, sampled }
    }

    /// A span of ours in a trace that began elsewhere, sampled if it was.
    pub fn within(self, parent: Self) -> Self {
        Self { span: self.span, ..parent }
    }

    /// The n-th span below this one, in the same trace.
    pub fn next_span(self, nth: u64) -> Self {
        Self { span: self.span.wrapping_add(nth).max(1), ..self }
    }

    /// Another span in the same trace.
    pub fn with_span(self, span: u64) -> Self {
        Self { span: span.max(1), ..self }
    }

    /// Reads a header (W3C Trace Context §3.2.2, §4.3). Versions to come are read as far as they are
    /// like 00.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (text, more) = text.split_first_chunk::<55>()?;
        let dashes = [2, 35, 52].iter().all(|&i| text[i] == b'-');
        let version = number(&text[..2])?;
        let known = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.first().is_none_or(|&next| next == b'-'),
        };
        if !dashes || !known {
            return None;
        }
        let trace = number(&text[3..35])?;
        let span = u64::try_from(number(&text[36..52])?).ok()?;
        let flags = number(&text[53..])?;
        let sampled = if flags & 1 == 1 { Sampled::Yes } else { Sampled::No };
        (trace != 0 && span != 0).then_some(Self { trace, span, sampled })
    }

    /// The trace's and the span's id as bytes, most significant first.
    pub fn bytes(self) -> ([u8; 16], [u8; 8]) {
        (self.trace.to_be_bytes(), self.span.to_be_bytes())
    }

    /// Whether its spans are collected.
    pub fn is_sampled(self) -> bool {
        self.sampled == Sampled::Yes
    }

    /// The 16 digits of the span id.
    pub fn span_hex(self) -> [u8; 16] {
        hex(self.span.to_be_bytes())
    }

    /// The 32 digits of the trace id.
    pub fn trace_hex(self) -> [u8; 32] {
        hex(self.trace.to_be_bytes())
    }

    /// As a header's value.
    pub fn header(self) -> HeaderValue {
        ascii(Bytes::copy_from_slice(&self.text()))
    }

    /// As text.
    pub fn text(self) -> [u8; 55] {
        let mut text = [b'-'; 55];
        text[..2].copy_from_slice(b"00");
        text[3..35].copy_from_slice(&self.trace_hex());
        text[36..52].copy_from_slice(&self.span_hex());
        text[53..].copy_from_slice(if self.sampled == Sampled::Yes { b"01" } else { b"00" });
        text
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{:016x}", self.trace, self.span)
    }
}

/// Two lower-case digits for each byte; without a table, so that the compiler does many at once.
pub fn hex<const BYTES: usize, const DIGITS: usize>(bytes: [u8; BYTES]) -> [u8; DIGITS] {
    let digit = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
    let mut out = [0; DIGITS];
    for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    out
}

/// Lower-case hexadecimal digits only, at most 32.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |sum, &d| {
        let value = match d {
            b'0'..=b'9' => d - b'0',
            b'a'..=b'f' => d - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u128::from(value))
    })
}

/// A header value of text that we made.
///
/// # Panics
/// It is not visible ASCII.
pub fn ascii(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text)
        .expect("invariant: hexadecimal digits and dashes are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_trace_parent_reads_back() {
        let mut rng = SmallRng::seed_from_u64(7);
        let made = TraceParent::start(&mut rng, Sample::default());
        assert_eq!(TraceParent::parse(made.header().as_bytes()), Some(made));
    }

    /// G13: what is a `traceparent` and what is none (W3C Trace Context §3.2.2, §4.3).
    #[test]
    fn odd_trace_parents_are_not_believed() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let same = TraceParent::parse(good.as_bytes());
        assert!(same.is_some());
        let later = [
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-will-be",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff",
        ];
        for text in later {
            let read = TraceParent::parse(text.as_bytes()).expect(text);
            assert_eq!(Some(read), same, "{text}");
            assert_eq!(
                read.header(),
                good,
                "written as the version that we know, without other flags"
            );
        }
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.what",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ".0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333G-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-.1",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-010",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
        ] {
            assert_eq!(TraceParent::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
