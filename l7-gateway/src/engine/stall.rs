//! A connection whose peer must keep taking bytes: a write that makes no progress for too long ends
//! it, so that a client that asks and never reads holds nothing. Not for reads: those have their own
//! timers. Called by `connection` around every stream.
//!
//! Invariant: the timer runs only while a write waits.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use common::net::relay::Wire;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// The connection.
#[derive(Debug)]
pub struct Stall<IO> {
    io: IO,
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    abort: fn(&mut IO),
}

impl<IO> Stall<IO> {
    /// Writes may wait for `limit`.
    pub fn new(io: IO, limit: Duration) -> Self
    where
        IO: Wire,
    {
        Self { io, limit, timer: None, abort: IO::abort }
    }

    /// Of a stream whose drop is its reset, as a stream of HTTP/2.
    pub fn of_stream(io: IO, limit: Duration) -> Self {
        Self { io, limit, timer: None, abort: |_| {} }
    }

    /// Passes a write's outcome on, or an error when it has waited too long.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.timer = None;
            return polled;
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Stall<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, out)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Stall<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.watch(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.watch(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.watch(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire for Stall<IO> {
    fn abort(&mut self) {
        (self.abort)(&mut self.io);
    }
}
