//! One worker's connections to one service, kept and reused. Not for what they speak (`connection`),
//! for choosing endpoints (`service`) or for trying again (`retry`). Called by `dispatch`.
//!
//! Invariant: a connection is reused only after its answer was read to the end; behind a balancer
//! it is also capped by requests and age, oldest first, so that the balancer gets to choose again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use common::service::InFlight;
use http::{Request, Response};
use tokio::time::{Instant, timeout};
use topology::gateway::Via;

use self::connection::{Connection, Unanswered, UpstreamBody};
use super::service::Upstream;
use crate::body::RequestBody;

pub use self::body::{Pace, ServiceBody};

mod body;
pub mod connection;
pub mod http1;
pub mod stream;

/// Connections of one worker to one service.
#[derive(Debug)]
pub struct Pool {
    /// The service.
    pub upstream: Arc<Upstream>,
    idle: Vec<RefCell<VecDeque<Kept>>>,
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

/// A connection with what it has done.
#[derive(Debug)]
struct Kept {
    wire: Connection,
    opened: Instant,
    idle_since: Instant,
    requests: u32,
}

/// A connection lent to one request.
#[derive(Debug)]
pub struct Lease {
    pool: Rc<Pool>,
    kept: Kept,
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
    /// It could not be made within `limit`.
    pub async fn checkout(
        self: &Rc<Self>,
        endpoint: usize,
        reuse: Reuse,
        limit: Duration,
    ) -> io::Result<Lease> {
        let target = self.upstream.service.endpoints.get(endpoint);
        let target = target.ok_or(io::ErrorKind::NotFound)?;
        // Counted from here, so that least connections sees connects that hang.
        let in_flight = target.state.enter();
        let known = if reuse == Reuse::Allowed { self.known(endpoint).await } else { None };
        let kept = match known {
            Some(kept) => kept,
            None => {
                let made = Connection::open(target.address, self.upstream.tls.as_ref());
                Kept::new(timeout(limit, made).await.map_err(|_| io::ErrorKind::TimedOut)??)
            }
        };
        Ok(Lease { pool: Rc::clone(self), kept, endpoint, in_flight })
    }

    /// A kept connection that still lives.
    async fn known(&self, endpoint: usize) -> Option<Kept> {
        let idle = self.idle.get(endpoint)?;
        loop {
            let next = match self.upstream.model.via {
                // The hottest one: its buffers are in the caches.
                Via::Endpoints => idle.borrow_mut().pop_back(),
                Via::Balancer => idle.borrow_mut().pop_front(),
            };
            let kept = next?;
            if self.worn(&kept, Instant::now()) || kept.wire.is_closed() {
                continue;
            }
            // Given back within this turn of the event loop: its task has not seen the end yet.
            if !kept.wire.is_ready() {
                tokio::task::yield_now().await;
            }
            // Otherwise it is still sending the body of a request that was answered early, as
            // slowly as its client likes.
            if kept.wire.is_ready() {
                return Some(kept);
            }
        }
    }

    fn keep(&self, endpoint: usize, mut kept: Kept) {
        let now = Instant::now();
        kept.idle_since = now;
        if kept.wire.is_closed() || self.worn(&kept, now) {
            return;
        }
        if let Some(idle) = self.idle.get(endpoint) {
            let mut idle = idle.borrow_mut();
            idle.push_back(kept);
            if idle.len() > MAX_IDLE {
                idle.pop_front();
            }
        }
    }

    /// Whether a connection has done its part.
    fn worn(&self, kept: &Kept, now: Instant) -> bool {
        let model = &self.upstream.model;
        let requests =
            model.max_requests_per_connection.is_some_and(|max| kept.requests >= max.get());
        let age = model.max_connection_age.is_some_and(|max| now - kept.opened >= max);
        requests || age || now - kept.idle_since >= MAX_IDLE_TIME
    }

    /// Closes what nobody needs; called every few seconds.
    pub fn sweep(&self) {
        let now = Instant::now();
        for idle in &self.idle {
            idle.borrow_mut().retain(|c| !c.wire.is_closed() && !self.worn(c, now));
        }
    }
}

/// Idle connections kept per endpoint and worker.
const MAX_IDLE: usize = 128;
/// Longer than this a kept connection is more likely dead than useful.
const MAX_IDLE_TIME: Duration = Duration::from_secs(50);
impl Kept {
    fn new(wire: Connection) -> Self {
        let now = Instant::now();
        Self { wire, opened: now, idle_since: now, requests: 0 }
    }
}

impl Lease {
    /// Whether it was used before.
    pub fn reused(&self) -> bool {
        self.kept.requests > 0
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// The connection broke, or what came was no answer.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<UpstreamBody>, Unanswered> {
        self.kept.requests += 1;
        self.kept.wire.send(request).await
    }

    /// Keeps only the count of the request in flight: the connection belongs to a tunnel now.
    pub fn into_tunnel(self) -> InFlight {
        self.in_flight
    }

    fn give_back(self) {
        let Self { pool, kept, endpoint, in_flight } = self;
        drop(in_flight);
        pool.keep(endpoint, kept);
    }
}
