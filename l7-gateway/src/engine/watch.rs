//! An HTTP/2 connection whose frames are counted under the library that speaks the protocol. Who
//! sends too much that is of no use is told to calm down and cut off. Not for what is too much:
//! `frames`. Put by `http2` around its stream, and by stage 8 around those to services.
//!
//! Invariant: bytes pass unchanged until the end.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::frames::{Abuse, Budget, Frame, Frames, GOAWAY, SETTINGS, Side, goaway};

/// The connection.
#[derive(Debug)]
pub struct Watched<IO> {
    io: IO,
    inbound: Frames,
    outbound: Frames,
    budget: Budget,
    /// The highest stream that a client has begun.
    last: u32,
    pulse: Rc<Pulse>,
}

/// What was seen of the peer, for who does not hold the connection.
#[derive(Debug)]
pub struct Pulse {
    /// What it was cut off for.
    pub found: Cell<Option<Abuse>>,
    /// When it last sent something.
    pub heard: Cell<Instant>,
    /// It takes no further streams (RFC 9113 §6.8).
    pub leaving: Cell<bool>,
    greeted: Cell<bool>,
    greeting: Notify,
}

impl Pulse {
    /// Of a new connection.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            found: Cell::new(None),
            heard: Cell::new(Instant::now()),
            leaving: Cell::new(false),
            greeted: Cell::new(false),
            greeting: Notify::new(),
        })
    }

    /// Returns once its first settings are here: then it does speak HTTP/2.
    pub async fn greeted(&self) {
        while !self.greeted.get() {
            self.greeting.notified().await;
        }
    }

    fn note(&self, frame: Frame) {
        match frame.kind {
            SETTINGS if !self.greeted.replace(true) => self.greeting.notify_waiters(),
            GOAWAY => self.leaving.set(true),
            _ => {}
        }
    }
}

impl<IO> Watched<IO> {
    /// From its first byte.
    pub fn new(io: IO, side: Side, pulse: Rc<Pulse>) -> Self {
        let (inbound, outbound) = match side {
            Side::Client => (Frames::of_client(), Frames::of_server()),
            Side::Service => (Frames::of_server(), Frames::of_client()),
        };
        let budget = Budget::new(side, Instant::now());
        Self { io, inbound, outbound, budget, last: 0, pulse }
    }

    fn heard(&mut self, bytes: &[u8]) -> Option<Abuse> {
        let Self { inbound, budget, last, pulse, .. } = self;
        let (now, mut found) = (Instant::now(), None);
        pulse.heard.set(now);
        inbound.feed(bytes, |frame| {
            pulse.note(frame);
            *last = frame.stream.max(*last);
            found = found.or_else(|| budget.spend(frame, now));
        });
        found
    }

    fn said(&mut self, bytes: &[u8]) {
        let Self { outbound, budget, .. } = self;
        outbound.feed(bytes, |frame| budget.said(frame));
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
            this.pulse.found.set(Some(abuse));
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
