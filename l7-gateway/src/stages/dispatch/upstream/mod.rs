//! One worker's connections to one service, kept and reused. Not for what they speak (`connection`,
//! `http2`), for choosing endpoints (`service`) or for trying again (`retry`). Called by `dispatch`.
//!
//! Invariant: a connection for one request at a time is reused only after its answer was read to the
//! end; behind a balancer all are also capped by requests and age, the longest unused first, so that
//! the balancer gets to choose again.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use common::service::{Endpoint, InFlight};
use http::Response;
use tokio::time::Instant;

use self::connection::{Offer, Outgoing, Unanswered, UpstreamBody, of_http1};
use self::http1::Http1;
use self::http2::Seat;
use self::slot::Slot;
use super::alarm::Alarms;
use super::attempt::Aim;
use super::service::{Roster, Upstream};

pub use self::body::{Pace, ServiceBody};

mod body;
pub mod connection;
pub mod http1;
mod http2;
mod slot;
pub mod stream;
mod upload;

/// Connections of one worker to one service.
#[derive(Debug)]
pub struct Pool {
    /// The service.
    pub upstream: Arc<Upstream>,
    /// Its endpoints as they were when this began.
    pub roster: Arc<Roster>,
    /// Timers of the requests to it.
    pub alarms: Alarms,
    slots: Vec<Rc<Slot>>,
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

/// A connection for one request at a time, with what it has done.
#[derive(Debug)]
struct Kept {
    wire: Http1,
    opened: Instant,
    idle_since: Instant,
    requests: u32,
}

impl Kept {
    fn new(wire: Http1) -> Self {
        let now = Instant::now();
        Self { wire, opened: now, idle_since: now, requests: 0 }
    }
}

/// What a request goes over.
#[derive(Debug)]
enum Way {
    /// Its own connection.
    Alone(Kept),
    /// A seat on one.
    Shared(Seat),
}

/// A connection, or a seat on one, lent to one request.
#[derive(Debug)]
pub struct Lease {
    slot: Rc<Slot>,
    way: Way,
    /// Index into the service's endpoints.
    pub endpoint: usize,
    in_flight: InFlight,
}

impl Pool {
    /// Empty.
    pub fn new(upstream: &Arc<Upstream>) -> Rc<Self> {
        let roster = Arc::clone(&upstream.roster());
        let nowhere = vec![None; roster.service.endpoints.len()];
        Rc::new(Self::with(upstream, roster, &nowhere, &[]))
    }

    /// For the endpoints that there are now: connections to those that stay are kept; others go when
    /// what is under way on them has ended. `former` is where each stood before.
    pub fn follow(&self, roster: Arc<Roster>, former: &[Option<usize>]) -> Rc<Self> {
        Rc::new(Self::with(&self.upstream, roster, former, &self.slots))
    }

    fn with(
        upstream: &Arc<Upstream>,
        roster: Arc<Roster>,
        former: &[Option<usize>],
        slots: &[Rc<Slot>],
    ) -> Self {
        let endpoints = roster.service.endpoints.iter().zip(former);
        let slot = |(endpoint, former): (&Arc<Endpoint>, &Option<usize>)| {
            let known = former.and_then(|at| slots.get(at)).map(Rc::clone);
            known.unwrap_or_else(|| Slot::new(endpoint.address, Arc::clone(upstream)))
        };
        let slots = endpoints.map(slot).collect();
        Self { upstream: Arc::clone(upstream), roster, alarms: Alarms::default(), slots }
    }

    /// Whether its service still has these endpoints.
    pub fn is_current(&self) -> bool {
        Arc::ptr_eq(&self.upstream.roster(), &self.roster)
    }

    /// A connection to an endpoint, kept or new. Dropping the future drops a half-made connection.
    ///
    /// # Errors
    /// It could not be made in time.
    pub async fn checkout(&self, aim: &Aim<'_>, offer: Offer) -> io::Result<Lease> {
        let endpoint = aim.endpoint;
        let target = self.roster.service.endpoints.get(endpoint);
        let target = target.ok_or(io::ErrorKind::NotFound)?;
        let slot = self.slots.get(endpoint).ok_or(io::ErrorKind::NotFound)?;
        // Counted from here, so that least connections sees connects that hang.
        let in_flight = target.state.enter();
        let way = slot.way(aim, offer).await?;
        Ok(Lease { slot: Rc::clone(slot), way, endpoint, in_flight })
    }

    /// Closes what nobody needs; called every few seconds.
    pub fn sweep(&self) {
        self.slots.iter().for_each(|slot| slot.sweep());
    }
}

impl Lease {
    /// Whether it was used before.
    pub fn reused(&self) -> bool {
        match &self.way {
            Way::Alone(kept) => kept.requests > 0,
            Way::Shared(seat) => seat.reused(),
        }
    }

    /// Sends a request and waits for the head of its answer. Dropping the future takes the request
    /// back as far as the protocol can.
    ///
    /// # Errors
    /// The connection broke, or what came was no answer.
    pub async fn send(&mut self, request: Outgoing) -> Result<Response<UpstreamBody>, Unanswered> {
        match &mut self.way {
            Way::Alone(kept) => {
                kept.requests += 1;
                Ok(of_http1(kept.wire.send(request).await?))
            }
            // Boxed: HTTP/1.1 is not to carry its size.
            Way::Shared(seat) => Ok(Box::pin(seat.send(request)).await?.map(UpstreamBody::Http2)),
        }
    }

    /// Keeps only the count of the request in flight: the connection belongs to a tunnel now.
    pub fn into_tunnel(self) -> InFlight {
        self.in_flight
    }

    fn give_back(self) {
        let Self { slot, way, in_flight, .. } = self;
        drop(in_flight);
        if let Way::Alone(kept) = way {
            slot.keep(kept);
        }
    }
}
