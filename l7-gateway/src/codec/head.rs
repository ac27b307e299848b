//! Where a head ends. Not for what it says: `request` and `response`. Called by whoever reads from a
//! connection.
//!
//! Invariant: an end is found in the same place however the bytes were cut, and the search goes on where
//! it stopped.

use super::Fault;

/// What a head may cost.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Line and headers together.
    pub bytes: usize,
    /// The target.
    pub target: usize,
    /// Header fields.
    pub headers: usize,
}

/// The length of the head at the start of `bytes`, its empty line included; `scanned` keeps how far
/// was looked.
///
/// # Errors
/// A line ends without CR, or the head is too large already.
pub fn end(bytes: &[u8], scanned: &mut usize, limits: HeadLimits) -> Result<Option<usize>, Fault> {
    let from = (*scanned).min(bytes.len());
    for found in memchr::memchr_iter(b'\n', bytes.get(from..).unwrap_or_default()) {
        let line = bytes.get(..=from + found).unwrap_or_default();
        // RFC 9112 §2.2 lets a recipient take a bare LF; peers behind us may not agree where.
        if !line.ends_with(b"\r\n") {
            return Err(Fault::Syntax);
        }
        if line.ends_with(b"\r\n\r\n") {
            let fits = line.len() <= limits.bytes;
            return if fits { Ok(Some(line.len())) } else { Err(Fault::HeadTooLarge) };
        }
    }
    *scanned = bytes.len();
    if bytes.len() > limits.bytes {
        return Err(Fault::HeadTooLarge);
    }
    // Method, two spaces and the version take less than 64 bytes.
    let most = limits.target.saturating_add(64);
    let first = bytes.get(..bytes.len().min(most.saturating_add(1))).unwrap_or_default();
    let unended = first.len() > most && !first.contains(&b'\n');
    if unended { Err(Fault::TargetTooLong) } else { Ok(None) }
}
