//! Bodies as streams: a client's on its way to a service ([`RequestBody`]) and an answer's on its
//! way to the client ([`AnswerBody`]). Never collected, so back-pressure is the reader's pace. Not
//! for counting or logging answers: stage 10 wraps them. Called by `engine`, `stages` and `halt`.
//!
//! Invariant: a body that ends early ends as an error, never as a shorter body.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use common::service::InFlight;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;
use tokio::time::{Instant, Sleep};

use crate::coding::compress::Compressed;
use crate::grpc_web::Enveloped;
use crate::stages::dispatch::cache::fill::Reader;
use crate::stages::dispatch::files::body::FileBody;
use crate::stages::dispatch::upstream::ServiceBody;
use crate::stages::dispatch::upstream::http1::Http1Body;
use crate::transcode::stream::Lines;

/// Why a body ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BodyFault {
    /// More bytes than the listener takes.
    #[error("the body is larger than the limit of this gateway")]
    TooLarge,
    /// Nothing came for too long.
    #[error("the body stopped coming")]
    Idle,
    /// Its framing is no HTTP (RFC 9112 §7.1).
    #[error("a chunk is malformed")]
    Malformed,
    /// The exchange took longer than it may.
    #[error("the exchange took too long")]
    Late,
    /// The connection or stream broke.
    #[error("the body broke off")]
    Broken,
}

/// What the body has done so far, readable while somebody else sends it.
#[derive(Debug, Default)]
pub struct BodyProgress {
    bytes: Cell<u64>,
    started: Cell<bool>,
    ended: Cell<bool>,
    fault: Cell<Option<BodyFault>>,
}

impl BodyProgress {
    /// Bytes that passed.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether a reader has asked for data: then it cannot be sent a second time.
    pub fn started(&self) -> bool {
        self.started.get()
    }

    /// Whether its last byte was taken.
    pub fn ended(&self) -> bool {
        self.ended.get()
    }

    /// Why it ended early, if it did.
    pub fn fault(&self) -> Option<BodyFault> {
        self.fault.get()
    }
}

/// How much of a body is taken, and how slowly it may come.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Most bytes.
    pub bytes: u64,
    /// Longest wait for the next bytes.
    pub idle: Duration,
}

/// A connection that can be asked for the next piece of the body under way on it.
pub trait Intake: fmt::Debug {
    /// The next piece of the body of this exchange, counted from the connection's first.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        exchange: u64,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>>;
}

/// Where a client's body comes from.
#[derive(Debug)]
pub enum BodySource {
    /// There is none.
    Nothing,
    /// HTTP/1.1: the connection, where it stands.
    Http1 {
        /// The connection.
        intake: Rc<RefCell<dyn Intake>>,
        /// Which exchange on it.
        exchange: u64,
        /// Bytes that are still to come, where that was told.
        left: Option<u64>,
    },
    /// HTTP/2, by hyper's server.
    Hyper(Incoming),
}

impl From<Incoming> for BodySource {
    fn from(incoming: Incoming) -> Self {
        Self::Hyper(incoming)
    }
}

impl Body for BodySource {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match &mut *self {
            Self::Nothing => Poll::Ready(None),
            Self::Http1 { intake, exchange, left } => {
                let polled = intake.borrow_mut().poll_body(cx, *exchange);
                if let (Some(left), Poll::Ready(Some(Ok(frame)))) = (left, &polled) {
                    let size = frame.data_ref().map_or(0, Bytes::len) as u64;
                    *left = left.saturating_sub(size);
                }
                polled
            }
            Self::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(|_| BodyFault::Broken),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Http1 { left, .. } => *left == Some(0),
            Self::Hyper(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Http1 { left, .. } => left.map_or_else(SizeHint::new, SizeHint::with_exact),
            Self::Hyper(body) => body.size_hint(),
        }
    }
}

/// A client's body. Boxed, for every stage and every attempt hands it on.
pub struct RequestBody(Box<Reading>);

/// A body that is coming.
struct Reading {
    source: Option<BodySource>,
    /// Taken from the source before, and given back.
    returned: VecDeque<Bytes>,
    /// Of a stream of messages: as much and as slowly as its ends like.
    streams: bool,
    limits: BodyLimits,
    progress: Rc<BodyProgress>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when the client is waited for; `None`: the service is.
    waiting: Option<Instant>,
    /// How long it was waited for before.
    waited: Duration,
    tape: Option<Rc<Tape>>,
}

/// What was read of a body, as long as it is small.
#[derive(Debug)]
pub struct Tape {
    most: usize,
    size: Cell<usize>,
    pieces: RefCell<Vec<Bytes>>,
}

impl Tape {
    fn keep(&self, piece: &Bytes) {
        self.size.set(self.size.get().saturating_add(piece.len()));
        if self.size.get() <= self.most {
            self.pieces.borrow_mut().push(Bytes::copy_from_slice(piece));
        } else {
            self.pieces.borrow_mut().clear();
        }
    }
}

impl RequestBody {
    /// No body.
    pub fn empty() -> Self {
        Self::of(None, BodyLimits { bytes: 0, idle: Duration::ZERO })
    }

    /// The body of a request that an engine parsed.
    pub fn new(source: BodySource, limits: BodyLimits) -> Self {
        let source = (!source.is_end_stream()).then_some(source);
        Self::of(source, limits)
    }

    fn of(source: Option<BodySource>, limits: BodyLimits) -> Self {
        let (progress, waited) = (Rc::<BodyProgress>::default(), Duration::ZERO);
        progress.ended.set(source.is_none());
        let returned = VecDeque::new();
        let tape = None;
        Self(Box::new(Reading {
            source,
            returned,
            streams: false,
            limits,
            progress,
            timer: None,
            waiting: None,
            waited,
            tape,
        }))
    }

    /// What it has done so far.
    pub fn progress(&self) -> Rc<BodyProgress> {
        Rc::clone(&self.0.progress)
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.0.source.is_none() && self.0.returned.is_empty()
    }

    /// Takes back everything that was read of it, for a service that has refused the request unseen:
    /// now it is as if nobody had read it.
    pub fn give_back(&mut self, frames: Vec<Bytes>) {
        let size: usize = frames.iter().map(Bytes::len).sum();
        let progress = &self.0.progress;
        progress.bytes.set(progress.bytes.get().saturating_sub(size as u64));
        progress.started.set(false);
        progress.ended.set(frames.is_empty() && self.0.source.is_none());
        self.0.returned = frames.into();
    }

    /// Bytes that stand in for what came.
    pub fn whole(bytes: Bytes, limits: BodyLimits) -> Self {
        let mut body = Self::of(None, limits);
        if !bytes.is_empty() {
            body.give_back(vec![bytes]);
        }
        body
    }

    /// It is a stream of messages: no bound to its size or its pace, but nobody holds it in silence for
    /// longer than `idle`.
    pub fn stream(&mut self, idle: Duration) {
        self.0.limits = BodyLimits { bytes: u64::MAX, idle };
        self.0.streams = true;
    }

    /// No more than so many bytes of it.
    pub fn bound(&mut self, bytes: u64) {
        self.0.limits.bytes = bytes;
    }

    /// The limits it is read under.
    pub fn limits(&self) -> BodyLimits {
        self.0.limits
    }

    /// Keeps what is read of it, up to `most` bytes, so that it can be sent again.
    pub fn record(&mut self, most: usize) -> Rc<Tape> {
        let tape = Rc::new(Tape { most, size: Cell::new(0), pieces: RefCell::default() });
        self.0.tape = Some(Rc::clone(&tape));
        tape
    }

    /// A body that was kept whole, once more; `None`: it was too large, or its end had not come.
    pub fn replay(tape: &Tape, progress: &BodyProgress) -> Option<Self> {
        if tape.size.get() > tape.most || !progress.ended() || progress.fault().is_some() {
            return None;
        }
        let limits = BodyLimits { bytes: tape.most as u64, idle: Duration::MAX };
        let mut body = Self::of(None, limits);
        body.give_back(tape.pieces.borrow().clone());
        Some(body)
    }
}

impl Reading {
    fn fail(&mut self, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.source = None;
        self.progress.fault.set(Some(fault));
        Poll::Ready(Some(Err(fault)))
    }

    /// Waits for the client; ready when it has taken too long. Its time runs only while there is
    /// nothing to read: a slow service is not its fault.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let idle = self.limits.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        if self.waiting.is_none() {
            let now = Instant::now();
            self.waiting = Some(now);
            timer.as_mut().reset(now + idle);
        }
        timer.as_mut().poll(cx)
    }

    /// Whether so few bytes have come in so long a time of waiting that somebody is dripping them.
    fn drips(&mut self, total: u64) -> bool {
        if let Some(since) = self.waiting.take() {
            self.waited += since.elapsed();
        }
        !self.streams && self.waited > self.limits.idle && total < self.waited.as_secs() * SLOWEST
    }
}

/// Bytes per second, counted once a client was waited for longer than its idle time.
const SLOWEST: u64 = 240;

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self.0;
        if let Some(again) = this.returned.pop_front() {
            if let Some(tape) = &this.tape {
                tape.keep(&again);
            }
            this.progress.started.set(true);
            this.progress.bytes.set(this.progress.bytes.get() + again.len() as u64);
            this.progress.ended.set(this.returned.is_empty() && this.source.is_none());
            return Poll::Ready(Some(Ok(Frame::data(again))));
        }
        // An end that was a fault stays one.
        if let Some(fault) = this.progress.fault.get() {
            return Poll::Ready(Some(Err(fault)));
        }
        let Some(source) = &mut this.source else { return Poll::Ready(None) };
        this.progress.started.set(true);
        match Pin::new(&mut *source).poll_frame(cx) {
            Poll::Pending => {
                ready!(this.poll_idle(cx));
                this.fail(BodyFault::Idle)
            }
            Poll::Ready(None) => {
                this.source = None;
                this.progress.ended.set(true);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(fault))) => this.fail(fault),
            Poll::Ready(Some(Ok(frame))) => {
                let ended = frame.is_trailers() || source.is_end_stream();
                let size = frame.data_ref().map_or(0, Buf::remaining) as u64;
                let total = this.progress.bytes.get() + size;
                this.progress.bytes.set(total);
                if total > this.limits.bytes {
                    return this.fail(BodyFault::TooLarge);
                }
                if this.drips(total) {
                    return this.fail(BodyFault::Idle);
                }
                this.progress.ended.set(ended);
                // Trailers of requests are dropped: nothing behind may trust them (RFC 9110 §6.5.1).
                if let (Some(tape), Some(piece)) = (&this.tape, frame.data_ref()) {
                    tape.keep(piece);
                }
                if frame.is_trailers() {
                    this.source = None;
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.returned.is_empty() && self.0.source.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint =
            self.0.source.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let returned: usize = self.0.returned.iter().map(Bytes::len).sum();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + returned as u64);
        }
        hint.set_lower(hint.lower() + returned as u64);
        hint
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("progress", &self.0.progress).finish_non_exhaustive()
    }
}

/// An answer's body.
#[derive(Debug)]
pub enum AnswerBody {
    /// None.
    Empty,
    /// Made by us.
    Whole(Bytes),
    /// A service's, streamed.
    Service(Box<ServiceBody>),
    /// Out of a file.
    File(Box<FileBody>),
    /// A service's, that is kept meanwhile.
    Kept(Box<Reader>),
    /// Messages of a call, as lines or events.
    Lines(Box<Lines>),
    /// Messages of a call for a browser.
    Enveloped(Box<Enveloped>),
    /// One of these in a compressed form.
    Compressed(Box<Compressed>),
    /// No body: the connection changes its protocol (RFC 9110 §15.2.2).
    Tunnel(Box<Tunnel>),
}

/// The upstream half of a connection that changes its protocol.
#[derive(Debug)]
pub struct Tunnel {
    /// The service's connection, after its 101.
    pub upstream: Http1Body,
    /// Counts at its endpoint while it lives.
    pub in_flight: InFlight,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match &mut *self {
            Self::Empty | Self::Tunnel(_) => Poll::Ready(None),
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Service(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::File(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Kept(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Lines(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Enveloped(body) => Pin::new(&mut **body).poll_frame(cx),
            Self::Compressed(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Tunnel(_) => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Service(body) => body.is_end_stream(),
            Self::File(body) => body.is_end_stream(),
            Self::Kept(body) => body.is_end_stream(),
            Self::Lines(body) => body.is_end_stream(),
            Self::Enveloped(body) => body.is_end_stream(),
            Self::Compressed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Tunnel(_) => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Service(body) => body.size_hint(),
            Self::File(body) => body.size_hint(),
            Self::Kept(body) => body.size_hint(),
            Self::Lines(body) => body.size_hint(),
            Self::Enveloped(body) => body.size_hint(),
            Self::Compressed(body) => body.size_hint(),
        }
    }
}
