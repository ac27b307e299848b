//! Bytes that a socket did not take yet. Not a buffer that collects: it is empty nearly always.
//! Used for clients and servers alike.
//!
//! Invariant: nothing new is read for a side while its outbox holds something, so it stays small.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// What is still to be written.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    at: usize,
    /// TLS has taken bytes that the socket has not.
    inside: bool,
}

impl Outbox {
    /// Whether everything was written.
    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len() && !self.inside
    }

    /// Keeps bytes for later.
    pub fn keep(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// For messages of our own.
    pub fn fill(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        fill(&mut self.bytes);
    }

    /// Writes `bytes` after what is kept; keeps what the socket does not take.
    pub fn send<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
        mut bytes: &[u8],
    ) -> io::Result<()> {
        if self.is_empty() {
            if bytes.is_empty() {
                return Ok(());
            }
            while !bytes.is_empty() {
                match Pin::new(&mut *socket).poll_write(cx, bytes) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(count)) => bytes = bytes.get(count..).unwrap_or_default(),
                    Poll::Ready(Err(fault)) => return Err(fault),
                    Poll::Pending => break,
                }
            }
            if bytes.is_empty() {
                return self.flush(socket, cx);
            }
        }
        self.keep(bytes);
        Ok(())
    }

    /// Plain sockets have nothing to flush; TLS may.
    fn flush<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        let flushed = Pin::new(socket).poll_flush(cx);
        self.inside = flushed.is_pending();
        if let Poll::Ready(outcome) = flushed { outcome } else { Ok(()) }
    }

    /// Writes what is kept. Ready when nothing is left and the socket has flushed.
    pub fn poll_empty<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(bytes) = self.bytes.get(self.at..).filter(|bytes| !bytes.is_empty()) {
            match Pin::new(&mut *socket).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => self.at += count,
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                Poll::Pending => return Poll::Pending,
            }
        }
        // Given back at once: an idle client holds no buffer.
        self.bytes = Vec::new();
        self.at = 0;
        self.flush(socket, cx)?;
        if self.inside { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}
