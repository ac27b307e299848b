//! An HTTP/2 connection whose frames are counted under the library that speaks the protocol. Who
//! sends too much that is of no use is told to calm down and cut off. Not for what is too much:
//! `frames`. Put by `http2` around its stream.
//!
//! Invariant: bytes pass unchanged until the end.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frames::{Abuse, Budget, DATA, Frames, goaway};

/// The connection.
#[derive(Debug)]
pub struct Watched<IO> {
    io: IO,
    inbound: Frames,
    outbound: Frames,
    budget: Budget,
    /// The highest stream that the client has begun.
    last: u32,
    found: Rc<Cell<Option<Abuse>>>,
}

impl<IO> Watched<IO> {
    /// From its first byte; what it was cut off for is left in `found`.
    pub fn new(io: IO, found: Rc<Cell<Option<Abuse>>>) -> Self {
        Self {
            io,
            inbound: Frames::of_client(),
            outbound: Frames::of_server(),
            budget: Budget::new(Instant::now()),
            last: 0,
            found,
        }
    }

    fn heard(&mut self, bytes: &[u8]) -> Option<Abuse> {
        let Self { inbound, budget, last, .. } = self;
        let (now, mut found) = (Instant::now(), None);
        inbound.feed(bytes, |frame| {
            *last = frame.stream.max(*last);
            found = found.or_else(|| budget.spend(frame, now));
        });
        found
    }

    fn said(&mut self, bytes: &[u8]) {
        let Self { outbound, budget, .. } = self;
        outbound.feed(bytes, |frame| {
            if frame.kind == DATA {
                budget.sent_data();
            }
        });
    }
}

impl<IO: AsyncWrite + Unpin> Watched<IO> {
    /// Says why, as far as the client takes it at once.
    fn farewell(&mut self, cx: &mut Context<'_>) {
        if self.outbound.between() {
            let bytes = goaway(self.last);
            let _best = Pin::new(&mut self.io).poll_write(cx, &bytes);
            let _effort = Pin::new(&mut self.io).poll_flush(cx);
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = out.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, out))?;
        let new = out.filled().get(before..).unwrap_or_default();
        if let Some(abuse) = this.heard(new) {
            this.found.set(Some(abuse));
            this.farewell(cx);
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.said(bytes.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        let mut rest = count;
        for slice in slices {
            let part = slice.get(..rest.min(slice.len())).unwrap_or_default();
            self.said(part);
            rest -= part.len();
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
