//! The client's side of a connection: its heads, and its bodies piece by piece as somebody asks for
//! them. Not for answers: `answer`. Called by `http1`, and through [`Intake`] by whoever reads a body.
//!
//! Invariant: a body that was not read to its end when its exchange has ended can be read no more.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::{HeaderMap, StatusCode, Version};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::Connection;
use crate::body::{BodyFault, BodySource, Intake};
use crate::codec::body::{Decoder, Piece};
use crate::codec::head::{self, HeadLimits};
use crate::codec::request::{self, Expect, Head};
use crate::codec::write::{self, Framing};
use crate::codec::{BodyLength, Fault};
use crate::hints::{self, Hearer, Hints};
use crate::link::Link;

/// What came instead of silence: a request, or something that is none.
pub(super) type Came = Result<Head, Fault>;

/// The client's connection.
pub(super) struct Client<IO> {
    pub(super) link: Link<IO>,
    limits: HeadLimits,
    /// How far the head that is coming was looked at.
    scanned: usize,
    /// Of the body that is coming.
    decoder: Decoder,
    word: Word,
    /// Waits for the end of the body that is coming.
    watcher: Option<Waker>,
    /// Of the exchange under way.
    number: u64,
    /// Interim answers that it may still be told before its answer.
    hints: u32,
}

impl<IO> fmt::Debug for Client<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("decoder", &self.decoder).finish_non_exhaustive()
    }
}

impl<IO> Client<IO> {
    pub(super) fn new(io: IO, limits: HeadLimits) -> Self {
        let link = Link::new(io);
        let (decoder, word) = (Decoder::NONE, Word::Said);
        Self { link, limits, scanned: 0, decoder, word, watcher: None, number: 0, hints: 0 }
    }

    /// Whether a part of a head is there.
    pub(super) fn has_begun(&self) -> bool {
        !self.link.input.is_empty()
    }

    /// Nothing is under way.
    pub(super) fn rest(&mut self) {
        self.link.rest();
    }

    /// Drops what has come of a body that nobody reads any more; true if it has come whole.
    pub(super) fn discard(&mut self) -> bool {
        loop {
            match self.decoder.next(&mut self.link.input) {
                Ok(Piece::Data(_)) => {}
                Ok(Piece::End | Piece::Trailers(_)) => return true,
                // A client that waits may send its body or not (RFC 9110 §10.1.1).
                Ok(Piece::More) | Err(_) => return false,
            }
        }
    }

    /// Whether the request has come whole.
    pub(super) fn is_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// The final answer begins: nothing is said before it any more.
    pub(super) fn answering(&mut self) {
        self.word = Word::Said;
        self.hints = 0;
    }

    fn read(&mut self, bytes: &Bytes) -> Came {
        self.scanned = 0;
        let head = request::parse(bytes, self.limits)?;
        self.decoder = head.body.into();
        self.word = match head.expect {
            Expect::Continue => Word::Awaited,
            Expect::Nothing => Word::Said,
        };
        self.number += 1;
        // RFC 9110 §15.2: HTTP/1.0 knows none.
        let knows = head.parts.version == Version::HTTP_11;
        self.hints = if knows { hints::MOST } else { 0 };
        Ok(head)
    }
}

impl<IO: AsyncRead + Unpin> Client<IO> {
    /// The next head; `None` at the connection's end. `scratch` is used up to the return.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<Option<Came>> {
        if self.link.input.is_empty() {
            match ready!(self.poll_first(cx, scratch)) {
                Ok(None) => {}
                Ok(came) => return Poll::Ready(came),
                Err(Gone) => return Poll::Ready(None),
            }
        }
        loop {
            let input = &mut self.link.input;
            // RFC 9112 §2.2: one empty line before a request line is ignored.
            if self.scanned == 0 && input.starts_with(b"\r\n") {
                input.advance(2);
            }
            match head::end(input, &mut self.scanned, self.limits) {
                Ok(Some(length)) => {
                    let bytes = input.split_to(length).freeze();
                    return Poll::Ready(Some(self.read(&bytes)));
                }
                Ok(None) => {}
                Err(fault) => return Poll::Ready(Some(Err(fault))),
            }
            if !matches!(ready!(self.link.poll_fill(cx)), Ok(1..)) {
                return Poll::Ready(None);
            }
        }
    }

    /// Nothing is kept of an idle connection: it reads into the worker's memory, and a head that comes
    /// whole is copied once.
    fn poll_first(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<Result<Option<Came>, Gone>> {
        let mut space = ReadBuf::new(scratch);
        if ready!(self.link.poll_read(cx, &mut space)).is_err() || space.filled().is_empty() {
            return Poll::Ready(Err(Gone));
        }
        let read = space.filled();
        let read = read.strip_prefix(b"\r\n").unwrap_or(read);
        if let Ok(Some(length)) = head::end(read, &mut 0, self.limits) {
            let (head, rest) = read.split_at(length);
            self.link.input.put_slice(rest);
            let bytes = Bytes::copy_from_slice(head);
            return Poll::Ready(Ok(Some(self.read(&bytes))));
        }
        self.link.input.put_slice(read);
        self.scanned = 0;
        Poll::Ready(Ok(None))
    }

    /// Ready when the client has gone while its answer is made. What it sends meanwhile is kept, up to
    /// a bound.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<()> {
        while self.decoder.is_done() && self.link.input.len() < EARLY {
            let mut space = ReadBuf::new(scratch);
            let read = ready!(self.link.poll_read(cx, &mut space));
            if read.is_err() || space.filled().is_empty() {
                return Poll::Ready(());
            }
            self.link.input.put_slice(space.filled());
        }
        if !self.decoder.is_done() {
            // Somebody else reads; when he has done, this is where the end is seen.
            self.watcher = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// The connection has ended.
#[derive(Clone, Copy, Debug)]
struct Gone;

/// Bytes of later requests that are taken in before their turn.
const EARLY: usize = 16 * 1024;

impl<IO: AsyncWrite + Unpin> Client<IO> {
    /// Lets interim answers leave.
    pub(super) fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.link.has_output() { self.link.poll_flush(cx) } else { Poll::Ready(Ok(())) }
    }

    /// Tells a client that waits to go on; false if it cannot be told anything. Nothing else is ever
    /// written by who reads a body: once the answer has begun, its sender alone waits for room.
    fn poll_word(&mut self, cx: &mut Context<'_>) -> bool {
        if self.word == Word::Awaited {
            self.word = Word::Put;
            self.link.output().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if self.word == Word::Put {
            match self.link.poll_flush(cx) {
                Poll::Ready(Ok(())) => self.word = Word::Said,
                Poll::Ready(Err(_)) => return false,
                // What does not leave now leaves with the answer.
                Poll::Pending => {}
            }
        }
        true
    }
}

impl<IO> Hearer for Client<IO> {
    fn hear(&mut self, exchange: u64, status: StatusCode, fields: &HeaderMap) {
        // Never at the cost of memory: who does not read does without.
        if exchange == self.number && self.hints > 0 && !self.link.is_full() {
            self.hints -= 1;
            write::response(self.link.output(), status, fields, Framing::Silent, |_| {});
        }
    }
}

/// The word that a client awaits before it sends its body (RFC 9110 §10.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// It awaits it.
    Awaited,
    /// It is on its way.
    Put,
    /// It is out, or none is awaited.
    Said,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Intake for Client<IO> {
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        number: u64,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if number != self.number {
            return Poll::Ready(Some(Err(BodyFault::Broken)));
        }
        loop {
            let piece = self.decoder.next(&mut self.link.input);
            if self.decoder.is_done()
                && let Some(watcher) = self.watcher.take()
            {
                watcher.wake();
            }
            match piece.map_err(|_| BodyFault::Malformed)? {
                Piece::Data(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Piece::Trailers(map) => return Poll::Ready(Some(Ok(Frame::trailers(map)))),
                Piece::End => return Poll::Ready(None),
                Piece::More => {}
            }
            if !self.poll_word(cx) {
                return Poll::Ready(Some(Err(BodyFault::Broken)));
            }
            if !matches!(ready!(self.link.poll_fill(cx)), Ok(1..)) {
                return Poll::Ready(Some(Err(BodyFault::Broken)));
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin + 'static> Connection<IO> {
    /// The way of interim answers to the request whose head was just read.
    pub(super) fn hints(&self) -> Hints {
        let client = Rc::downgrade(&self.client);
        Hints::new(client, self.client.borrow().number)
    }

    /// The body of the request whose head was just read.
    pub(super) fn body(&self, length: BodyLength) -> BodySource {
        let left = match length {
            BodyLength::Exact(0) => return BodySource::Nothing,
            BodyLength::Exact(bytes) => Some(bytes),
            BodyLength::Chunked | BodyLength::UntilClose => None,
        };
        let (intake, exchange) = (Rc::clone(&self.client) as _, self.client.borrow().number);
        BodySource::Http1 { intake, exchange, left }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    /// RFC 9112 §9.6: closes the writing side first and takes in a little of what still comes, so that
    /// a reset does not destroy the last answer.
    pub(super) async fn close(mut self) {
        let farewell = async {
            poll_fn(|cx| self.link.poll_shutdown(cx)).await?;
            let mut left = 4_usize << 20;
            while left > 0 {
                self.link.input.clear();
                match poll_fn(|cx| self.link.poll_fill(cx)).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            Ok::<_, io::Error>(())
        };
        // However it ends, the connection is dropped.
        let _ended = timeout(LINGER, farewell).await;
    }

    /// The stream, what was read behind the last head, and what waits to be written.
    pub(super) fn into_link(self) -> Link<IO> {
        self.link
    }
}

const LINGER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
