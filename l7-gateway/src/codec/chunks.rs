//! The grammar of chunked bodies (RFC 9112 §7.1), byte by byte, data in one step. Called by `body`.
//!
//! Invariant: nothing is held but trailers, and those are bounded.

use super::Fault;

/// Where in a chunked body the reader is.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    at: At,
    left: u64,
    /// Digits of a size, or bytes of an extension.
    seen: usize,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    LastLf,
    End,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All of them were taken in; more are needed.
    More,
    /// So many were taken in, then come so many bytes of data, none of them taken in.
    Data {
        /// Bytes before the data.
        skip: usize,
        /// Bytes of data that are there.
        size: usize,
    },
    /// So many were taken in, then the body has ended.
    End(usize),
}

/// Sixteen digits could overflow.
const MAX_SIZE_DIGITS: usize = 15;
const MAX_EXTENSION: usize = 256;
const MAX_TRAILERS: usize = 8 * 1024;

impl Chunks {
    /// Takes in the next bytes of the connection up to data or the end. Data that it names is the
    /// caller's and is not to be shown again.
    ///
    /// # Errors
    /// They are malformed.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, Fault> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.at {
                At::Data => {
                    let there = bytes.len() - at;
                    let size = usize::try_from(self.left).map_or(there, |left| left.min(there));
                    self.left -= size as u64;
                    if self.left == 0 {
                        self.at = At::DataCr;
                    }
                    return Ok(Step::Data { skip: at, size });
                }
                At::End => return Ok(Step::End(at)),
                _ => {
                    self.byte(byte)?;
                    at += 1;
                }
            }
        }
        Ok(if self.at == At::End { Step::End(at) } else { Step::More })
    }

    /// The lines behind the last chunk, each with its CRLF.
    pub fn take_trailers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.trailers)
    }

    /// One byte outside of data.
    fn byte(&mut self, byte: u8) -> Result<(), Fault> {
        self.at = match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(byte)?,
            (At::Size, b';') if self.seen > 0 => {
                self.seen = 0;
                At::Extension
            }
            (At::Size, b'\r') if self.seen > 0 => At::SizeLf,
            (At::Extension, b'\r') => At::SizeLf,
            (At::Extension, b'\t' | b' '..=b'~') => self.count(MAX_EXTENSION, At::Extension)?,
            (At::SizeLf, b'\n') => {
                self.seen = 0;
                if self.left == 0 { At::TrailerStart } else { At::Data }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size,
            (At::TrailerStart, b'\r') => At::LastLf,
            (At::TrailerStart | At::Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                self.trailer(byte, At::Trailer)?
            }
            (At::Trailer, b'\r') => self.trailer(byte, At::TrailerLf)?,
            (At::TrailerLf, b'\n') => self.trailer(byte, At::TrailerStart)?,
            (At::LastLf, b'\n') => At::End,
            _ => return Err(Fault::Chunk),
        };
        Ok(())
    }

    fn digit(&mut self, byte: u8) -> Result<At, Fault> {
        let value = char::from(byte).to_digit(16).ok_or(Fault::Chunk)?;
        self.left = if self.seen == 0 { 0 } else { self.left } << 4 | u64::from(value);
        self.count(MAX_SIZE_DIGITS, At::Size)
    }

    fn count(&mut self, most: usize, next: At) -> Result<At, Fault> {
        self.seen += 1;
        if self.seen > most { Err(Fault::Chunk) } else { Ok(next) }
    }

    fn trailer(&mut self, byte: u8, next: At) -> Result<At, Fault> {
        self.trailers.push(byte);
        if self.trailers.len() > MAX_TRAILERS { Err(Fault::Chunk) } else { Ok(next) }
    }
}
