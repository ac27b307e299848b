//! One HTTP/2 connection to an endpoint, shared by as many requests as it has room for. Not for choosing
//! among connections (`pool`) or for sending bodies (`upload`). Called by `pool` and `connection`.
//!
//! Invariant: a request comes back as unsent only if the service has said that it never looked at it
//! (RFC 9113 §8.7), or if it was never handed to the connection.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::{Outgoing, Unanswered};
use super::upload::Upload;
use crate::body::BodyFault;
use crate::engine::frames::Side;
use crate::engine::watch::{Pulse, Watched};
use crate::grpc;
use crate::hints::{Endless, Interim};

/// The connection.
#[derive(Debug)]
pub struct Http2 {
    send: RefCell<SendRequest<Bytes>>,
    scheme: Scheme,
    pulse: Rc<Pulse>,
    load: Rc<Load>,
    /// When it was made.
    pub opened: Instant,
    /// Requests that it has carried.
    pub requests: Cell<u32>,
    idle_since: Cell<Instant>,
}

/// Requests under way.
#[derive(Debug, Default)]
struct Load {
    open: Cell<usize>,
    begun: Notify,
}

/// The seat of one request on a connection.
#[derive(Debug)]
pub struct Seat(Rc<Http2>);

impl Drop for Seat {
    fn drop(&mut self) {
        let Self(http2) = self;
        let open = http2.load.open.get().saturating_sub(1);
        http2.load.open.set(open);
        if open == 0 {
            http2.idle_since.set(Instant::now());
        }
    }
}

/// Flow-control windows. All streams together fit into the connection's, so that clients that read
/// slowly never hold up the others on it.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;
/// Most requests at a time, whatever a service allows.
const MAX_STREAMS: usize = 100;
/// Uncompressed header list of an answer (RFC 9113 §6.5.2).
const MAX_HEADER_LIST: u32 = 128 * 1024;
/// Bytes of request bodies waiting per stream.
const SEND_BUFFER: usize = 128 * 1024;
/// Streams that broke the protocol.
const MAX_LOCAL_RESETS: usize = 256;
/// Silence of a service that owes answers, after which it is asked whether it lives, and the time that
/// it has to say so.
const PING_AFTER: Duration = Duration::from_secs(5);
const PING_WAIT: Duration = Duration::from_secs(5);
/// After two pings to which only pongs came: more often than this some gRPC servers take for abuse.
const PING_SELDOM: Duration = Duration::from_secs(300);

impl Http2 {
    /// Begins to speak; returns when the service's settings are here, so that nothing is sent to one
    /// that speaks something else.
    ///
    /// # Errors
    /// What came was no HTTP/2.
    pub async fn begin<IO>(io: IO, scheme: Scheme) -> io::Result<Rc<Self>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let pulse = Pulse::new();
        let watched = Watched::new(io, Side::Service, Rc::clone(&pulse));
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_send_buffer_size(SEND_BUFFER)
            .max_local_error_reset_streams(Some(MAX_LOCAL_RESETS));
        let (send, connection) = builder.handshake(watched).await.map_err(io::Error::other)?;
        let load = Rc::new(Load::default());
        let driver = drive(connection, Rc::clone(&pulse), Rc::clone(&load));
        let driver = tokio::task::spawn_local(driver);
        let mut greeted = std::pin::pin!(pulse.greeted());
        let mut ended = std::pin::pin!(driver);
        tokio::select! {
            biased;
            () = &mut greeted => {}
            _ended = &mut ended => return Err(io::ErrorKind::InvalidData.into()),
        }
        let now = Instant::now();
        let http2 = Self {
            send: RefCell::new(send),
            scheme,
            pulse: Rc::clone(&pulse),
            load,
            opened: now,
            requests: Cell::new(0),
            idle_since: Cell::new(now),
        };
        Ok(Rc::new(http2))
    }

    /// A seat for one more request, if there is one among `most`.
    pub fn enter(self: &Rc<Self>, most: usize) -> Option<Seat> {
        let open = self.load.open.get();
        if self.is_closed() || open >= most.min(self.room()) {
            return None;
        }
        self.load.open.set(open + 1);
        self.requests.set(self.requests.get() + 1);
        if open == 0 {
            self.load.begun.notify_one();
        }
        Some(Seat(Rc::clone(self)))
    }

    /// Requests that it takes at a time.
    pub fn room(&self) -> usize {
        self.send.borrow().current_max_send_streams().min(MAX_STREAMS)
    }

    /// Whether it takes no further requests.
    pub fn is_closed(&self) -> bool {
        self.pulse.leaving.get()
    }

    /// Since when nothing is under way, if so.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.load.open.get() == 0).then(|| self.idle_since.get())
    }

    /// The request as HTTP/2 says it (RFC 9113 §8.3.1), without its body.
    fn head(&self, asked: &Outgoing) -> Option<Request<()>> {
        let mut request = Request::new(());
        request.method_mut().clone_from(&asked.head.method);
        request.headers_mut().clone_from(&asked.head.headers);
        let host = request.headers_mut().remove(header::HOST)?;
        let authority = Authority::try_from(host.as_bytes()).ok()?;
        let path = asked.head.uri.path_and_query().cloned();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(authority);
        parts.path_and_query = Some(path.unwrap_or(PathAndQuery::from_static("/")));
        *request.uri_mut() = Uri::from_parts(parts).ok()?;
        *request.version_mut() = Version::HTTP_2;
        // Some services take its absence for a proxy that drops trailers.
        if grpc::is_content(request.headers()) {
            request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        }
        if let Some(length) = asked.body.size_hint().exact()
            && (length > 0 || payload(request.method()))
        {
            request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        Some(request)
    }
}

/// Whether a body is expected, so that its absence is worth saying (RFC 9110 §8.6).
fn payload(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

impl Seat {
    /// Whether the connection was used before.
    pub fn reused(&self) -> bool {
        self.0.requests.get() > 1
    }

    /// Sends a request and waits for the head of its answer. Dropping the future resets the stream.
    ///
    /// # Errors
    /// The service refused it, or the stream or the connection broke.
    pub async fn send(&self, request: Outgoing) -> Result<Response<Http2Body>, Unanswered> {
        let Self(http2) = self;
        // Says whether the connection still takes requests; until the next wait nothing changes that.
        if poll_fn(|cx| http2.send.borrow_mut().poll_ready(cx)).await.is_err() {
            return Err(Unanswered { unsent: Some(request), refused: false });
        }
        let said = http2.head(&request).ok_or_else(Unanswered::lost)?;
        let Outgoing { head, body, hints } = request;
        let ends = body.is_end_stream();
        let sent = http2.send.borrow_mut().send_request(said, ends);
        let (mut answer, to) = sent.map_err(|_| Unanswered::lost())?;
        let upload = if ends { Upload::none(body) } else { Upload::begin(body, to) };
        let mut interim = Interim::new(hints.clone());
        match poll_fn(|cx| poll_answer(cx, &mut answer, &mut interim)).await? {
            Ok(response) => {
                let upload = upload.answered();
                let left = length(&response);
                Ok(response.map(|incoming| Http2Body {
                    incoming,
                    left,
                    _upload: upload,
                    done: false,
                }))
            }
            Err(error) if unseen(&error) => {
                let unsent = upload.take_back().map(|body| Outgoing { head, body, hints });
                Err(Unanswered { unsent, refused: true })
            }
            Err(_) => Err(Unanswered::lost()),
        }
    }
}

/// The final answer; interim ones are passed on before it.
fn poll_answer(
    cx: &mut Context<'_>,
    answer: &mut ResponseFuture,
    interim: &mut Interim,
) -> Poll<Result<Result<Response<RecvStream>, h2::Error>, Unanswered>> {
    while let Poll::Ready(Some(Ok(response))) = answer.poll_informational(cx) {
        let (head, ()) = response.into_parts();
        interim.came(head.status, head.headers).map_err(|Endless| Unanswered::lost())?;
    }
    Pin::new(answer).poll(cx).map(Ok)
}

/// What is to come; the library below holds the service to it.
fn length(response: &Response<RecvStream>) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// RFC 9113 §8.7: the service guarantees that it has not acted upon it. The library below gives the
/// error of a GOAWAY only to streams above its last one.
fn unseen(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (error.is_go_away() || refused)
}

/// Reads and writes until the connection ends, or nobody answers at the other end.
async fn drive<IO>(mut connection: Connection<Watched<IO>, Bytes>, pulse: Rc<Pulse>, load: Rc<Load>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let pings = connection.ping_pong();
    tokio::select! {
        biased;
        // Its end is seen by the streams, which say more.
        _ended = connection => {}
        () = watch_over(pings, &pulse, &load) => {}
    }
    pulse.leaving.set(true);
}

/// Returns when a service that owes answers is silent for too long.
async fn watch_over(pings: Option<PingPong>, pulse: &Pulse, load: &Load) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    let (mut unheard, mut pong) = (0_u32, Instant::now());
    loop {
        if load.open.get() == 0 {
            load.begun.notified().await;
            unheard = 0;
        }
        let since = pulse.heard.get();
        if since > pong {
            unheard = 0;
        }
        let wait = if unheard < 2 { PING_AFTER } else { PING_SELDOM };
        // A connection that was idle has been silent for no reason to worry: it is asked in a while.
        let due = since.max(Instant::now() - PING_AFTER) + wait;
        sleep_until(due.max(Instant::now() + PING_AFTER / 5)).await;
        if load.open.get() == 0 || pulse.heard.get() > since {
            continue;
        }
        unheard += 1;
        match timeout(PING_WAIT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => pong = pulse.heard.get(),
            // Something else came: it lives, and only its pong is late.
            Err(_) if pulse.heard.get() > since => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// The body of an answer.
pub struct Http2Body {
    incoming: RecvStream,
    /// Bytes to come, if that was told.
    left: Option<u64>,
    /// The request's body may still be on its way; it ends with the answer.
    _upload: Upload,
    done: bool,
}

impl std::fmt::Debug for Http2Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2Body").field("done", &self.done).finish_non_exhaustive()
    }
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        if this.done {
            return Poll::Ready(None);
        }
        match ready!(this.incoming.poll_data(cx)) {
            Some(Ok(data)) => {
                this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                // Whoever takes it holds it from here on: the service may send as much again.
                let released = this.incoming.flow_control().release_capacity(data.len());
                Poll::Ready(Some(
                    released.map(|()| Frame::data(data)).map_err(|_| BodyFault::Broken),
                ))
            }
            Some(Err(_)) => Poll::Ready(Some(Err(BodyFault::Broken))),
            None => {
                let trailers = ready!(this.incoming.poll_trailers(cx));
                this.done = true;
                let frame = trailers.map_err(|_| BodyFault::Broken).transpose();
                Poll::Ready(frame.map(|trailers| trailers.map(Frame::trailers)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.done || self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}
