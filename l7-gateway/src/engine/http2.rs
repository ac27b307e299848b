//! HTTP/2 by hyper's server with explicit limits. Not for header rules: h2 refuses malformed fields,
//! stage 2 judges the rest. Called by `connection`.
//!
//! Invariant: what one connection can make us hold is bounded: streams, header lists, windows, resets;
//! and what it can make us do for nothing: frames are counted (`watch`).

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use common::lifecycle::{Phase, Shutdown};
use common::net::relay::Wire;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;
use topology::gateway::Front;

use super::frames::Side;
use super::watch::{Pulse, Watched};
use super::websocket::WebSocket;
use super::{Engine, NoAnswer, OutBody};
use crate::connection::Line;
use crate::stages::emit::Emitted;

/// The engine.
#[derive(Clone, Copy, Debug)]
pub struct Http2 {
    idle: Duration,
    max_body: u64,
}

/// Requests at a time on a connection (RFC 9113 §5.1.2).
const MAX_STREAMS: u32 = 100;
/// Uncompressed header lists (RFC 9113 §6.5.2): also what a compressed bomb may unfold to.
const MAX_HEADER_LIST: u32 = 32 * 1024;
/// Resets that were not looked at yet (CVE-2023-44487), and resets that we had to send.
const MAX_PENDING_RESETS: usize = 20;
const MAX_LOCAL_RESETS: usize = 256;
/// Flow-control windows: of a stream, of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of answers waiting per stream.
const SEND_BUFFER: usize = 128 * 1024;
/// A peer that does not answer pings is gone.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WAIT: Duration = Duration::from_secs(10);

impl Http2 {
    /// With the limits of a listener.
    pub fn new(front: &Front) -> Self {
        Self { idle: front.idle_timeout, max_body: front.max_body_bytes }
    }

    fn builder(&self) -> http2::Builder<LocalTasks> {
        let mut builder = http2::Builder::new(LocalTasks);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_LOCAL_RESETS)
            .initial_stream_window_size(
                u32::try_from(self.max_body).unwrap_or(u32::MAX).clamp(64 * 1024, STREAM_WINDOW),
            )
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .enable_connect_protocol()
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WAIT);
        builder
    }
}

impl Engine for Http2 {
    async fn serve<IO>(&self, io: IO, line: Rc<Line>, shutdown: Shutdown)
    where
        IO: Wire + 'static,
    {
        let open = Rc::new(Open::default());
        let pulse = Pulse::new();
        let io = TokioIo::new(Watched::new(io, Side::Client, Rc::clone(&pulse)));
        let service = Exchanges { line: Rc::clone(&line), open: Rc::clone(&open) };
        let mut connection = pin!(self.builder().serve_connection(io, service));
        let mut leaving = shutdown.phase() > Phase::Running;
        if leaving {
            connection.as_mut().graceful_shutdown();
        }
        loop {
            tokio::select! {
                biased;
                // Whatever ended it is the peer's to know: each exchange has its record.
                _ended = connection.as_mut() => break,
                () = shutdown.draining(), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = open.idle_for(self.idle), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = shutdown.stopped() => break,
            }
        }
        if let Some(abuse) = pulse.found.get() {
            line.abused(abuse);
        }
    }
}

/// Exchanges that are under way on a connection.
#[derive(Debug, Default)]
struct Open {
    count: Cell<usize>,
    changed: Notify,
}

impl Open {
    /// Returns once nothing was under way for so long. Cancel safe; starts anew when polled anew.
    async fn idle_for(&self, limit: Duration) {
        loop {
            let changed = self.changed.notified();
            if self.count.get() > 0 {
                changed.await;
            } else if tokio::time::timeout(limit, changed).await.is_err() {
                return;
            }
        }
    }
}

/// One exchange under way.
#[derive(Debug)]
struct Mark(Rc<Open>);

impl Mark {
    fn new(open: &Rc<Open>) -> Self {
        open.count.set(open.count.get() + 1);
        open.changed.notify_one();
        Self(Rc::clone(open))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get().saturating_sub(1));
        self.0.changed.notify_one();
    }
}

/// What hyper calls once per stream.
struct Exchanges {
    line: Rc<Line>,
    open: Rc<Open>,
}

impl Service<Request<Incoming>> for Exchanges {
    type Response = Response<OutBody<Option<Mark>>>;
    type Error = NoAnswer;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NoAnswer>>>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let websocket = WebSocket::of(&mut request);
        let mark = Mark::new(&self.open);
        let line = Rc::clone(&self.line);
        let (head, body) = request.into_parts();
        Box::pin(async move {
            match line.exchange(Box::new(head), body.into(), None, None).await {
                // To a client that asked for a tunnel, success means that it has one (RFC 8441 §5).
                Emitted::Answer(response)
                    if websocket.is_some() && response.status().is_success() =>
                {
                    Err(NoAnswer)
                }
                Emitted::Answer(mut response) => {
                    // RFC 9113 §8.2.2: no connection-specific fields in HTTP/2.
                    response.headers_mut().remove(http::header::CONNECTION);
                    Ok(response.map(|body| OutBody { body: Some(body), _mark: Some(mark) }))
                }
                Emitted::Switch(head, tunnel, x) => {
                    let websocket = websocket.ok_or(NoAnswer)?;
                    let answer = websocket.accepted(&head).ok_or(NoAnswer)?;
                    tokio::task::spawn_local(async move {
                        // The stream is under way until the tunnel ends.
                        let _mark = mark;
                        websocket.pass(*tunnel, x).await;
                    });
                    Ok(answer.map(|()| OutBody { body: None, _mark: None }))
                }
                Emitted::Disconnect => Err(NoAnswer),
            }
        })
    }
}

/// Streams run on the worker's own thread.
#[derive(Clone, Copy, Debug)]
struct LocalTasks;

impl<F> Executor<F> for LocalTasks
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
