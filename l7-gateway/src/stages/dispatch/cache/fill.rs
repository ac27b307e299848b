//! An answer that is kept while it is sent: read once, at the service's pace, into memory that the
//! client reads from. Not for whether it may be kept. Called by `cache`.
//!
//! Invariant: only an answer that was read to its end goes into the store; one that breaks off breaks
//! off for the client too. At most `max_body` bytes are read ahead of the client.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::store::{Entry, Room, Ticket};
use crate::body::{AnswerBody, BodyFault};

/// What was read so far.
#[derive(Debug, Default)]
struct Read {
    chunks: Vec<Bytes>,
    bytes: u64,
    then: Then,
    waker: Option<Waker>,
    /// Given back with what it holds.
    _room: Option<Room>,
}

/// What comes behind it.
#[derive(Debug, Default)]
enum Then {
    /// More, soon.
    #[default]
    More,
    /// The end, with these fields.
    End(Option<HeaderMap>),
    /// Nothing: it broke off.
    Fault(BodyFault),
    /// More than is kept: the reader goes on by itself.
    Rest(Box<AnswerBody>),
}

impl Read {
    fn finish(&mut self, then: Then) {
        self.then = then;
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The client's end.
#[derive(Debug)]
pub struct Reader {
    read: Rc<RefCell<Read>>,
    next: usize,
    /// The rest, once it goes on by itself.
    rest: Option<Box<AnswerBody>>,
    /// Bytes that are left, where that was told.
    left: Option<u64>,
}

/// Begins to read; goes on when the client has gone. `entry` is kept under `ticket` once its body is
/// whole, if that is at most so many bytes.
pub fn begin(body: AnswerBody, entry: Entry, mut ticket: Ticket, most: u64) -> Reader {
    let left = body.size_hint().exact();
    let read = Rc::new(RefCell::new(Read { _room: ticket.room(), ..Read::default() }));
    let reader = Reader { read: Rc::clone(&read), next: 0, rest: None, left };
    tokio::task::spawn_local(async move { pump(body, entry, ticket, most, &read).await });
    reader
}

async fn pump(
    mut body: AnswerBody,
    mut entry: Entry,
    ticket: Ticket,
    most: u64,
    read: &RefCell<Read>,
) {
    loop {
        let frame = match body.frame().await {
            Some(Err(fault)) => return read.borrow_mut().finish(Then::Fault(fault)),
            Some(Ok(frame)) => frame,
            None => {
                // In the store first: who reads the end may ask again at once.
                entry.body = read.borrow().chunks.concat().into();
                ticket.put(Arc::new(entry));
                return read.borrow_mut().finish(Then::End(None));
            }
        };
        let mut read = read.borrow_mut();
        match frame.into_data() {
            Ok(data) => {
                read.bytes += data.len() as u64;
                read.chunks.push(data);
                read.wake();
                if read.bytes > most {
                    ticket.give_up(Instant::now());
                    return read.finish(Then::Rest(Box::new(body)));
                }
            }
            // With fields behind it an answer is more than what would be kept.
            Err(frame) => {
                ticket.give_up(Instant::now());
                return read.finish(Then::End(frame.into_trailers().ok()));
            }
        }
    }
}

impl Body for Reader {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        if let Some(rest) = &mut this.rest {
            return Pin::new(&mut **rest).poll_frame(cx);
        }
        let mut read = this.read.borrow_mut();
        if let Some(chunk) = read.chunks.get(this.next) {
            this.next += 1;
            this.left = this.left.map(|left| left.saturating_sub(chunk.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        match &mut read.then {
            Then::More => {
                read.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Then::End(fields) => Poll::Ready(fields.take().map(|f| Ok(Frame::trailers(f)))),
            Then::Fault(fault) => Poll::Ready(Some(Err(*fault))),
            Then::Rest(body) => {
                let rest = std::mem::replace(&mut **body, AnswerBody::Empty);
                read.chunks.clear();
                drop(read);
                Pin::new(&mut **this.rest.insert(Box::new(rest))).poll_frame(cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        if let Some(rest) = &self.rest {
            return rest.is_end_stream();
        }
        let read = self.read.borrow();
        matches!(read.then, Then::End(None)) && self.next >= read.chunks.len()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.rest, self.left) {
            (Some(rest), _) => rest.size_hint(),
            (None, Some(left)) => SizeHint::with_exact(left),
            (None, None) => SizeHint::new(),
        }
    }
}
