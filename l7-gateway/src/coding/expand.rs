//! A whole body out of its compressed form, within a bound. Not for streams: nobody here looks into them.
//! Called by `transform`.
//!
//! Invariant: not more than the bound is ever written, however small the compressed form is.

use std::io::{self, Read};

use super::Coding;

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is larger than the bound.
    TooLarge,
    /// It is not of this form, or cut short.
    Malformed,
}

/// What a compressed body stands for, up to so many bytes.
///
/// # Errors
/// See [`Fault`].
pub fn expand(coding: Coding, bytes: &[u8], most: u64) -> Result<Vec<u8>, Fault> {
    match coding {
        Coding::Gzip => read(flate2::read::MultiGzDecoder::new(bytes), most),
        Coding::Brotli => read(brotli::Decompressor::new(bytes, 4096), most),
        Coding::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::new(bytes).map_err(|_| Fault::Malformed)?;
            // 8 MiB, as browsers have it (RFC 9659).
            decoder.window_log_max(23).map_err(|_| Fault::Malformed)?;
            read(decoder, most)
        }
    }
}

fn read(from: impl Read, most: u64) -> Result<Vec<u8>, Fault> {
    let mut all = Vec::new();
    let outcome: io::Result<usize> = from.take(most.saturating_add(1)).read_to_end(&mut all);
    outcome.map_err(|_| Fault::Malformed)?;
    if all.len() as u64 > most { Err(Fault::TooLarge) } else { Ok(all) }
}
