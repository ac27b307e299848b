//! HTTP/1.1 to a service by our codec, driven by the exchange that has the connection: no task, no
//! channel. Not for keeping connections (`upstream`). Called by its pool.
//!
//! Invariant: a connection is ready for another request only if this one was sent whole, its answer was
//! read to its end, and nothing more has come.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::io::ReadBuf;
use tokio::task::unconstrained;
use tokio_util::task::AbortOnDropHandle;

use super::connection::{Outgoing, Unanswered};
use super::stream::Stream;
use crate::body::{BodyFault, RequestBody};
use crate::codec::body::{Decoder, Piece};
use crate::codec::head::{self, HeadLimits};
use crate::codec::response;
use crate::codec::write::{self, Framing};
use crate::codec::{BodyLength, Fault, Persistence};
use crate::hints::{Endless, Interim};
use crate::link::Link;

/// What an answer's head may cost.
const LIMITS: HeadLimits = HeadLimits { bytes: 128 * 1024, target: 128 * 1024, headers: 200 };

/// A connection.
#[derive(Clone, Debug)]
pub struct Http1(Rc<RefCell<Wire>>);

/// What an answer's body and its connection share.
#[derive(Debug)]
struct Wire {
    link: Link<Stream>,
    /// How far the head that is coming was looked at.
    scanned: usize,
    /// Of the body that is coming.
    decoder: Decoder,
    /// A request that is not sent yet.
    sending: Option<Sending>,
    /// Whether it may serve another request.
    fate: Fate,
}

#[derive(Debug)]
struct Sending {
    body: RequestBody,
    framing: Framing,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It serves on.
    Serves,
    /// It ends with this answer.
    Last,
    /// It is of no use any more.
    Broken,
}

/// The connection broke, or what came was no HTTP.
#[derive(Clone, Copy, Debug)]
struct Broken;

impl From<Fault> for Broken {
    fn from(_: Fault) -> Self {
        Self
    }
}

impl Http1 {
    /// Over a stream on which nothing was said.
    pub fn new(stream: Stream) -> Self {
        let (link, decoder) = (Link::new(stream), Decoder::NONE);
        let wire = Wire { link, scanned: 0, decoder, sending: None, fate: Fate::Serves };
        Self(Rc::new(RefCell::new(wire)))
    }

    /// Whether it is of no use: it has ended, a request is still on its way, or something came that
    /// nobody asked for.
    pub fn is_closed(&self) -> bool {
        let mut wire = self.0.borrow_mut();
        wire.fate != Fate::Serves || !wire.is_idle() || wire.has_stirred()
    }

    /// Sends a request and waits for the head of its answer; dropping the future leaves the
    /// connection of no use.
    ///
    /// # Errors
    /// The connection broke, or what came was no answer.
    pub async fn send(&self, request: Outgoing) -> Result<Response<Http1Body>, Unanswered> {
        if self.is_closed() {
            return Err(Unanswered { unsent: Some(request), refused: false });
        }
        let Outgoing { head, body, hints } = request;
        let framing = framing(&head.method, &body);
        {
            let mut wire = self.0.borrow_mut();
            let out = wire.link.output();
            write::request(out, &head.method, &head.uri, &head.headers, framing);
            wire.sending = (!body.is_end_stream()).then_some(Sending { body, framing });
            // Until its answer was read.
            wire.fate = Fate::Broken;
        }
        let mut interim = Interim::new(hints);
        let answered = poll_fn(|cx| self.0.borrow_mut().poll_head(cx, &head.method, &mut interim));
        match answered.await {
            Ok(response) => Ok(response.map(|()| Http1Body::new(&self.0))),
            Err(Broken) => Err(Unanswered::lost()),
        }
    }
}

/// How a request's body is told; none where the method means none (RFC 9110 §8.6).
fn framing(method: &Method, body: &RequestBody) -> Framing {
    let meant = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE);
    match body.size_hint().exact() {
        Some(0) if !meant => Framing::Silent,
        Some(bytes) => Framing::Exact(bytes),
        None => Framing::Chunked,
    }
}

impl Wire {
    fn is_idle(&self) -> bool {
        self.decoder.is_done() && self.is_sent()
    }

    /// Whether nothing of the request is left to send.
    fn is_sent(&self) -> bool {
        self.sending.is_none() && !self.link.has_output()
    }

    /// Whether bytes or an end have come. Costs no system call while nothing has.
    fn has_stirred(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        let link = &mut self.link;
        // Beside the task's budget, without which there would be silence whatever has come.
        let read = unconstrained(poll_fn(|cx| link.poll_read(cx, &mut ReadBuf::new(&mut byte))));
        let stirred = pin!(read).poll(&mut cx).is_ready();
        stirred || !self.link.input.is_empty()
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        interim: &mut Interim,
    ) -> Poll<Result<Response<()>, Broken>> {
        self.poll_send(cx)?;
        loop {
            match head::end(&self.link.input, &mut self.scanned, LIMITS)? {
                None => {
                    if !matches!(ready!(self.link.poll_fill(cx)), Ok(1..)) {
                        return Poll::Ready(Err(Broken));
                    }
                }
                Some(length) => {
                    // In memory of its own: fields may be kept for longer than a large buffer should.
                    let head = self.link.input.get(..length).unwrap_or_default();
                    let bytes = Bytes::copy_from_slice(head);
                    self.link.input.advance(length);
                    self.scanned = 0;
                    let head = response::parse(&bytes, method, LIMITS.headers)?;
                    let status = head.parts.status;
                    if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                        return Poll::Ready(Ok(self.begin(head)));
                    }
                    interim.came(status, head.parts.headers).map_err(|Endless| Broken)?;
                }
            }
        }
    }

    /// The final answer's head has come.
    fn begin(&mut self, head: response::Head) -> Response<()> {
        let status = head.parts.status;
        self.decoder = head.body.into();
        self.fate = match (head.persistence, head.body) {
            _ if status == StatusCode::SWITCHING_PROTOCOLS => Fate::Last,
            (Persistence::Close, _) | (_, BodyLength::UntilClose) => Fate::Last,
            (Persistence::Keep, _) => Fate::Serves,
        };
        Response::from_parts(head.parts, ())
    }

    /// Ready when the request was sent whole, or can be sent no further.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_send(cx).is_err() {
            self.fail();
            // The service learns that no more comes, short of what it was told; whoever reads its
            // answer then learns what it makes of that.
            let _told = self.link.poll_shutdown(cx);
        }
        let waits = self.fate != Fate::Broken && (self.sending.is_some() || self.link.has_output());
        if waits { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Sends as much of the request as there is and as the service takes. An answer may come before it
    /// was sent whole; a service that takes no more may still have answered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        loop {
            if self.link.is_full() && !self.flush(cx) {
                return Ok(());
            }
            let Some(Sending { body, framing }) = &mut self.sending else { break };
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if *framing == Framing::Chunked && !data.is_empty() {
                        write::chunk(self.link.output(), data.len());
                        self.link.put(data, b"\r\n");
                    } else {
                        self.link.put(data, b"");
                    }
                }
                Poll::Ready(None) => {
                    if *framing == Framing::Chunked {
                        write::trailers(self.link.output(), None);
                    }
                    self.sending = None;
                }
                // Never a short body that looks whole: the connection ends in the middle of it.
                Poll::Ready(Some(Err(_))) => return Err(Broken),
            }
        }
        self.flush(cx);
        Ok(())
    }

    /// Whether all that was put has left.
    fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        matches!(self.link.poll_flush(cx), Poll::Ready(Ok(())))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        loop {
            match self.decoder.next(&mut self.link.input) {
                Ok(Piece::Data(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(Piece::Trailers(map)) => return Poll::Ready(Some(Ok(Frame::trailers(map)))),
                Ok(Piece::End) => {
                    self.link.shrink();
                    return Poll::Ready(None);
                }
                Ok(Piece::More) => {}
                Err(_) => return Poll::Ready(Some(Err(self.fail()))),
            }
            match ready!(self.link.poll_fill(cx)) {
                Ok(1..) => {}
                Ok(0) if self.decoder.ends_with_connection() => {
                    self.decoder = Decoder::NONE;
                    return Poll::Ready(None);
                }
                Ok(_) | Err(_) => return Poll::Ready(Some(Err(self.fail()))),
            }
        }
    }

    fn fail(&mut self) -> BodyFault {
        self.fate = Fate::Broken;
        BodyFault::Broken
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct Http1Body {
    wire: Rc<RefCell<Wire>>,
    /// Sends the rest of a request that was answered early; in a task of its own, for a client that
    /// sends may not read meanwhile.
    _upload: Option<AbortOnDropHandle<()>>,
}

impl Http1Body {
    fn new(wire: &Rc<RefCell<Wire>>) -> Self {
        let early = !wire.borrow().is_sent();
        let _upload = early.then(|| {
            let wire = Rc::clone(wire);
            let upload = poll_fn(move |cx| wire.borrow_mut().poll_upload(cx));
            AbortOnDropHandle::new(tokio::task::spawn_local(upload))
        });
        Self { wire: Rc::clone(wire), _upload }
    }

    /// After a 101: the stream, and what was read of the other protocol. `None`: the connection is
    /// still somebody's.
    pub fn into_stream(self) -> Option<(Stream, Bytes)> {
        let wire = Rc::try_unwrap(self.wire).ok()?.into_inner();
        let (stream, early) = wire.link.into_parts();
        Some((stream, early.freeze()))
    }
}

impl Body for Http1Body {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.wire.borrow_mut().poll_body(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.wire.borrow().decoder.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        self.wire.borrow().decoder.left().map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
