//! A body as it is read from a connection: its framing undone, its end known. Not for limits of size
//! and time: those are `crate::body`'s. Called by `engine/http1` and `stages/dispatch`.
//!
//! Invariant: after the end nothing is taken from the buffer: what follows is the next message's.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::chunks::{Chunks, Step};
use super::{BodyLength, Fault, fields};

/// Follows a body to its end.
#[derive(Clone, Debug)]
pub enum Decoder {
    /// So many bytes are left.
    Exact(u64),
    /// Chunks.
    Chunked(Box<Chunks>),
    /// All that comes.
    UntilClose,
}

/// What was read of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of it.
    Data(Bytes),
    /// The fields behind it (RFC 9110 §6.5); nothing follows.
    Trailers(HeaderMap),
    /// It has ended.
    End,
    /// More must be read first.
    More,
}

impl From<BodyLength> for Decoder {
    fn from(length: BodyLength) -> Self {
        match length {
            BodyLength::Exact(bytes) => Self::Exact(bytes),
            BodyLength::Chunked => Self::Chunked(Box::default()),
            BodyLength::UntilClose => Self::UntilClose,
        }
    }
}

impl Decoder {
    /// Of a message without a body.
    pub const NONE: Self = Self::Exact(0);

    /// Takes the next piece out of what was read.
    ///
    /// # Errors
    /// A chunk or a trailer is malformed; the connection is of no use any more.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, Fault> {
        match self {
            Self::Exact(0) => Ok(Piece::End),
            _ if buffer.is_empty() => Ok(Piece::More),
            Self::UntilClose => Ok(Piece::Data(buffer.split().freeze())),
            Self::Exact(left) => {
                let take = usize::try_from(*left).map_or(buffer.len(), |n| n.min(buffer.len()));
                *left -= take as u64;
                Ok(Piece::Data(buffer.split_to(take).freeze()))
            }
            Self::Chunked(chunks) => match chunks.step(buffer)? {
                Step::More => {
                    buffer.clear();
                    Ok(Piece::More)
                }
                Step::Data { skip, size } => {
                    drop(buffer.split_to(skip));
                    Ok(Piece::Data(buffer.split_to(size).freeze()))
                }
                Step::End(used) => {
                    drop(buffer.split_to(used));
                    let lines = chunks.take_trailers();
                    let end = if lines.is_empty() { Piece::End } else { trailers(lines)? };
                    *self = Self::NONE;
                    Ok(end)
                }
            },
        }
    }

    /// The connection has ended: whether the body has, too.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self, Self::Exact(0) | Self::UntilClose)
    }

    /// Whether nothing more belongs to it.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Exact(0))
    }

    /// Bytes that are left, where that is known.
    pub fn left(&self) -> Option<u64> {
        match self {
            Self::Exact(left) => Some(*left),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }
}

fn trailers(mut lines: Vec<u8>) -> Result<Piece, Fault> {
    lines.extend_from_slice(b"\r\n");
    let lines = Bytes::from(lines);
    let mut slots = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let tokens = match httparse::parse_headers(&lines, &mut slots) {
        Ok(httparse::Status::Complete((length, tokens))) if length == lines.len() => tokens,
        _ => return Err(Fault::Chunk),
    };
    fields(&lines, tokens, 0, |_, _| Ok(())).map(Piece::Trailers)
}

/// Most fields behind a body.
const MAX_TRAILERS: usize = 32;
