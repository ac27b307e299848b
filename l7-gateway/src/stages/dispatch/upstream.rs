//! One worker's connections to one service, kept and reused, and the bodies that come over them. Not
//! for choosing endpoints (`service`) or for trying again (`retry`). Called by `dispatch`.
//!
//! Invariant: a connection is reused only after its answer was read to the end; behind a balancer
//! it is also capped by requests and age, oldest first, so that the balancer gets to choose again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use common::service::InFlight;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use topology::gateway::Via;

use super::service::{Secured, Upstream};
use crate::body::{BodyFault, RequestBody};

/// Connections of one worker to one service.
#[derive(Debug)]
pub struct Pool {
    /// The service.
    pub upstream: Arc<Upstream>,
    idle: Vec<RefCell<VecDeque<Connection>>>,
}

/// Whether a kept connection will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// A kept one, or a new one.
    Allowed,
    /// A new one: the kept ones may be as dead as the one that failed, and behind a balancer they
    /// may lead to the same server.
    Fresh,
}

/// A connection to an endpoint.
#[derive(Debug)]
struct Connection {
    send: SendRequest<RequestBody>,
    opened: Instant,
    idle_since: Instant,
    requests: u32,
}

/// A connection lent to one request.
#[derive(Debug)]
pub struct Lease {
    pool: Rc<Pool>,
    connection: Connection,
    /// Index into the service's endpoints.
    pub endpoint: usize,
    in_flight: InFlight,
}

impl Pool {
    /// Empty.
    pub fn new(upstream: Arc<Upstream>) -> Rc<Self> {
        let idle = upstream.service.endpoints.iter().map(|_| RefCell::default()).collect();
        Rc::new(Self { upstream, idle })
    }

    /// A connection to an endpoint, kept or new. Dropping the future drops a half-made connection.
    ///
    /// # Errors
    /// It could not be made within the service's `connect_timeout`.
    pub async fn checkout(self: &Rc<Self>, endpoint: usize, reuse: Reuse) -> io::Result<Lease> {
        let target = self.upstream.service.endpoints.get(endpoint);
        let target = target.ok_or(io::ErrorKind::NotFound)?;
        // Counted from here, so that least connections sees connects that hang.
        let in_flight = target.state.enter();
        let kept = if reuse == Reuse::Allowed { self.kept(endpoint).await } else { None };
        let connection = match kept {
            Some(connection) => connection,
            None => {
                let limit = self.upstream.model.connect_timeout;
                let made = connect(target.address, self.upstream.tls.as_ref());
                timeout(limit, made).await.map_err(|_| io::ErrorKind::TimedOut)??
            }
        };
        Ok(Lease { pool: Rc::clone(self), connection, endpoint, in_flight })
    }

    /// A kept connection that still lives.
    async fn kept(&self, endpoint: usize) -> Option<Connection> {
        let idle = self.idle.get(endpoint)?;
        loop {
            let next = match self.upstream.model.via {
                // The hottest one: its buffers are in the caches.
                Via::Endpoints => idle.borrow_mut().pop_back(),
                Via::Balancer => idle.borrow_mut().pop_front(),
            };
            let connection = next?;
            if self.worn(&connection, Instant::now()) || connection.send.is_closed() {
                continue;
            }
            // Given back within this turn of the event loop: its task has not seen the end yet.
            if !connection.send.is_ready() {
                tokio::task::yield_now().await;
            }
            // Otherwise it is still sending the body of a request that was answered early, as
            // slowly as its client likes.
            if connection.send.is_ready() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, endpoint: usize, mut connection: Connection) {
        let now = Instant::now();
        connection.idle_since = now;
        if connection.send.is_closed() || self.worn(&connection, now) {
            return;
        }
        if let Some(idle) = self.idle.get(endpoint) {
            let mut idle = idle.borrow_mut();
            idle.push_back(connection);
            if idle.len() > MAX_IDLE {
                idle.pop_front();
            }
        }
    }

    /// Whether a connection has done its part.
    fn worn(&self, connection: &Connection, now: Instant) -> bool {
        let model = &self.upstream.model;
        let requests =
            model.max_requests_per_connection.is_some_and(|max| connection.requests >= max.get());
        let age = model.max_connection_age.is_some_and(|max| now - connection.opened >= max);
        requests || age || now - connection.idle_since >= MAX_IDLE_TIME
    }

    /// Closes what nobody needs; called every few seconds.
    pub fn sweep(&self) {
        let now = Instant::now();
        for idle in &self.idle {
            idle.borrow_mut().retain(|c| !c.send.is_closed() && !self.worn(c, now));
        }
    }
}

/// Idle connections kept per endpoint and worker.
const MAX_IDLE: usize = 128;
/// Longer than this a kept connection is more likely dead than useful.
const MAX_IDLE_TIME: Duration = Duration::from_secs(50);
/// Most bytes of line and headers of an answer.
const MAX_ANSWER_HEAD: usize = 128 * 1024;

async fn connect(address: std::net::SocketAddr, tls: Option<&Secured>) -> io::Result<Connection> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let send = match tls {
        None => speak(stream).await?,
        // Boxed: a handshake is large, and most services have none.
        Some(tls) => speak(Box::pin(tls.secure(stream, address)).await?).await?,
    };
    let now = Instant::now();
    Ok(Connection { send, opened: now, idle_since: now, requests: 0 })
}

/// HTTP/1.1 on a new connection.
async fn speak<IO>(io: IO) -> io::Result<SendRequest<RequestBody>>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_header_size(MAX_ANSWER_HEAD);
    let (send, task) = builder.handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
    tokio::task::spawn_local(async move {
        // Its end is seen by the sender, which says more.
        let _seen = task.with_upgrades().await;
    });
    Ok(send)
}

impl Lease {
    /// Whether it was used before.
    pub fn reused(&self) -> bool {
        self.connection.requests > 0
    }

    /// The sender.
    pub fn sender(&mut self) -> &mut SendRequest<RequestBody> {
        self.connection.requests += 1;
        &mut self.connection.send
    }

    /// Keeps only the count of the request in flight: the connection belongs to a tunnel now.
    pub fn into_tunnel(self) -> InFlight {
        self.in_flight
    }

    fn give_back(self) {
        let Self { pool, connection, endpoint, in_flight } = self;
        drop(in_flight);
        pool.keep(endpoint, connection);
    }
}

/// A service's answer body; gives its connection back at its end.
#[derive(Debug)]
pub struct ServiceBody {
    incoming: Incoming,
    lease: Option<Lease>,
}

impl ServiceBody {
    /// The body that comes over a lent connection.
    pub fn new(incoming: Incoming, lease: Lease) -> Self {
        Self { incoming, lease: Some(lease) }
    }
}

impl Body for ServiceBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        match polled {
            Poll::Ready(Some(Err(_))) => {
                // A broken connection is dropped, never kept.
                self.lease = None;
                Poll::Ready(Some(Err(BodyFault::Broken)))
            }
            other => other.map_err(|_| BodyFault::Broken),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for ServiceBody {
    fn drop(&mut self) {
        if self.incoming.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}
