//! One connection's bytes: what was read and not used yet, what is to be written. Not for what they
//! mean: `codec`. Called by `engine/http1` for clients and by `stages/dispatch` for services.
//!
//! Invariant: bytes leave in the order in which they were put.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use common::net::relay::Wire;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// The connection.
#[derive(Debug)]
pub struct Link<IO> {
    io: IO,
    /// Read, not used yet.
    pub input: BytesMut,
    /// Bytes to read at once: grows while reads fill it.
    room: usize,
    output: Vec<u8>,
    /// Bytes of `output` that have left.
    left: usize,
    /// Comes behind `output`, without a copy.
    large: Bytes,
    /// Comes behind `large`.
    tail: &'static [u8],
}

/// Room for a first read of a body, and at most.
const LEAST_ROOM: usize = 8 * 1024;
const MOST_ROOM: usize = 128 * 1024;
/// Up to this size data is copied behind what waits, so that it leaves in the same call.
const COPIED: usize = 16 * 1024;
/// More than this waiting is written before anything is added.
const HIGH: usize = 64 * 1024;

impl<IO> Link<IO> {
    /// Of a connection on which nothing has been read or written.
    pub fn new(io: IO) -> Self {
        let (input, output) = (BytesMut::new(), Vec::new());
        Self { io, input, room: LEAST_ROOM, output, left: 0, large: Bytes::new(), tail: b"" }
    }

    /// The stream, and what was read of it and not used.
    pub fn into_parts(self) -> (IO, BytesMut) {
        (self.io, self.input)
    }

    /// Where heads are written to; nothing may be added while the link [is full](Self::is_full).
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Adds data, and `tail` behind it; nothing may be added while the link [is full](Self::is_full).
    pub fn put(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= COPIED {
            self.output.reserve(data.len() + tail.len());
            self.output.extend_from_slice(&data);
            self.output.extend_from_slice(tail);
        } else {
            self.large = data;
            self.tail = tail;
        }
    }

    /// Whether it must be flushed before anything is added.
    pub fn is_full(&self) -> bool {
        !self.large.is_empty() || self.output.len() - self.left >= HIGH
    }

    /// Whether something waits to be written.
    pub fn has_output(&self) -> bool {
        !self.large.is_empty() || !self.output.is_empty()
    }

    /// Gives a large buffer back that is empty, and begins small again.
    pub fn shrink(&mut self) {
        if self.input.is_empty() && self.room > LEAST_ROOM {
            self.input = BytesMut::new();
            self.room = LEAST_ROOM;
        }
        if self.output.is_empty() && self.output.capacity() > LEAST_ROOM {
            self.output = Vec::new();
        }
    }

    /// Gives buffers back that are empty.
    pub fn rest(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        if self.output.is_empty() {
            self.output = Vec::new();
        }
        self.room = LEAST_ROOM;
    }
}

impl<IO: AsyncRead + Unpin> Link<IO> {
    /// Reads more behind `input`; zero at the connection's end.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // A piece that somebody keeps holds its buffer: one is left only when it is half used.
        if self.input.capacity() - self.input.len() < self.room / 2 {
            self.input.reserve(self.room);
        }
        let space = self.input.capacity() - self.input.len();
        let read = ready!(pin!(self.io.read_buf(&mut self.input)).poll(cx))?;
        if read >= self.room.min(space) {
            self.room = (self.room * 4).min(MOST_ROOM);
        }
        Poll::Ready(Ok(read))
    }

    /// Reads into somebody else's buffer, past `input`, which must be empty.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, space)
    }
}

impl<IO: AsyncWrite + Unpin> Link<IO> {
    /// Writes all that waits.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.has_output() {
            let io = Pin::new(&mut self.io);
            let output = self.output.get(self.left..).unwrap_or_default();
            let count = if self.large.is_empty() {
                ready!(io.poll_write(cx, output))?
            } else {
                let slices =
                    [IoSlice::new(output), IoSlice::new(&self.large), IoSlice::new(self.tail)];
                let empty = usize::from(output.is_empty());
                let slices = slices.get(empty..).unwrap_or_default();
                ready!(io.poll_write_vectored(cx, slices))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written(count);
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn written(&mut self, count: usize) {
        let first = count.min(self.output.len() - self.left);
        self.left += first;
        if self.left == self.output.len() {
            self.output.clear();
            self.left = 0;
        } else if self.left >= HIGH {
            self.output.drain(..self.left);
            self.left = 0;
        }
        let second = (count - first).min(self.large.len());
        self.large.advance(second);
        let rest = count - first - second;
        if self.large.is_empty() && !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.output.extend_from_slice(tail.get(rest..).unwrap_or_default());
        }
    }

    /// Makes its end a reset.
    pub fn abort(&mut self)
    where
        IO: Wire,
    {
        self.io.abort();
    }

    /// Ends the writing side.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
