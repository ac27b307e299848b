//! One worker's connections to one endpoint: those that are kept, those that are shared, and those
//! that are being made. Not for what they speak. Called by its pool.
//!
//! Invariant: requests that can share a connection wait for one that is being made, as many as it will
//! have room for; nobody waits longer for one than for his own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared, WeakShared};
use tokio::time::{Instant, timeout};
use topology::gateway::{UpstreamProtocol, Via};

use super::super::attempt::Aim;
use super::super::service::Upstream;
use super::connection::{Offer, Opened};
use super::http1::Http1;
use super::http2::{Http2, Seat};
use super::{Kept, Reuse, Way};

/// The connections.
#[derive(Debug)]
pub(super) struct Slot {
    address: SocketAddr,
    upstream: Arc<Upstream>,
    idle: RefCell<VecDeque<Kept>>,
    shared: RefCell<VecDeque<Rc<Http2>>>,
    opening: RefCell<Vec<Opening>>,
    /// The last new connection was one for one request at a time.
    alone: Cell<bool>,
    /// What the service allowed at a time on the last shared one.
    room: Cell<usize>,
}

/// A shared connection that is being made.
#[derive(Debug)]
struct Opening {
    made: WeakShared<Making>,
    waiting: usize,
}

type Making = LocalBoxFuture<'static, Result<(), io::ErrorKind>>;

/// Idle connections kept per endpoint and worker.
const MAX_IDLE: usize = 128;
/// Shared connections per endpoint and worker that take new requests.
const MAX_SHARED: usize = 64;
/// Longer than this a kept connection is more likely dead than useful.
const MAX_IDLE_TIME: Duration = Duration::from_secs(50);
/// Connections that are opened for one request, if others are faster to fill them.
const OPENINGS: usize = 8;
/// HTTP/2 has so many streams per connection (RFC 9113 §5.1.1), with some to spare.
const MAX_REQUESTS: u32 = 1 << 29;

impl Slot {
    /// Empty.
    pub(super) fn new(address: SocketAddr, upstream: Arc<Upstream>) -> Rc<Self> {
        let alone = Cell::new(upstream.model.protocol == UpstreamProtocol::Http1);
        Rc::new(Self {
            address,
            upstream,
            idle: RefCell::default(),
            shared: RefCell::default(),
            opening: RefCell::default(),
            alone,
            room: Cell::new(usize::MAX),
        })
    }

    /// What a request can go over.
    pub(super) async fn way(self: &Rc<Self>, aim: &Aim<'_>, offer: Offer) -> io::Result<Way> {
        if aim.reuse == Reuse::Allowed {
            if offer == Offer::Usual
                && let Some(seat) = self.seat(aim.now)
            {
                return Ok(Way::Shared(seat));
            }
            if let Some(kept) = self.known(aim.now) {
                return Ok(Way::Alone(kept));
            }
        }
        // Boxed: handshakes are large, and most requests find a connection.
        Box::pin(self.fresh(aim.reuse, offer, aim.times.connect)).await
    }

    /// A new connection, or one that became free meanwhile.
    async fn fresh(
        self: &Rc<Self>,
        reuse: Reuse,
        offer: Offer,
        limit: Duration,
    ) -> io::Result<Way> {
        for _ in 0..OPENINGS {
            if self.alone.get() || offer == Offer::Http1 {
                match self.open(offer, limit).await? {
                    Opened::Alone(wire) => return Ok(Way::Alone(Kept::new(wire))),
                    Opened::Shared(http2) => self.share(http2),
                }
            } else {
                self.opening(limit).await?;
            }
            let seat = match reuse {
                Reuse::Allowed => self.seat(Instant::now()),
                Reuse::Fresh => self.newest(),
            };
            if let Some(seat) = seat {
                return Ok(Way::Shared(seat));
            }
            if self.alone.get()
                && reuse == Reuse::Allowed
                && let Some(kept) = self.known(Instant::now())
            {
                return Ok(Way::Alone(kept));
            }
        }
        // It takes connections and no requests.
        Err(io::ErrorKind::ConnectionRefused.into())
    }

    async fn open(&self, offer: Offer, limit: Duration) -> io::Result<Opened> {
        let made = Opened::new(self.address, &self.upstream, offer);
        timeout(limit, made).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Waits for a connection that is being made and will have room, or makes one.
    async fn opening(self: &Rc<Self>, limit: Duration) -> io::Result<()> {
        let most = self.most().min(self.room.get());
        let known = {
            let mut opening = self.opening.borrow_mut();
            opening.retain(|one| one.made.upgrade().is_some_and(|made| made.peek().is_none()));
            let free = opening.iter_mut().find(|one| one.waiting < most);
            free.and_then(|one| {
                one.waiting += 1;
                one.made.upgrade()
            })
        };
        let made = known.unwrap_or_else(|| self.begin(limit));
        timeout(limit, made).await.map_err(|_| io::ErrorKind::TimedOut)?.map_err(io::Error::from)
    }

    fn begin(self: &Rc<Self>, limit: Duration) -> Shared<Making> {
        let slot = Rc::clone(self);
        let making = async move {
            match slot.open(Offer::Usual, limit).await.map_err(|error| error.kind())? {
                Opened::Shared(http2) if http2.room() == 0 => {
                    return Err(io::ErrorKind::ConnectionRefused);
                }
                Opened::Shared(http2) => slot.share(http2),
                Opened::Alone(wire) => slot.keep_alone(wire),
            }
            Ok(())
        };
        let made = making.boxed_local().shared();
        if let Some(weak) = made.downgrade() {
            self.opening.borrow_mut().push(Opening { made: weak, waiting: 1 });
        }
        made
    }

    fn share(&self, http2: Rc<Http2>) {
        self.alone.set(false);
        self.room.set(http2.room());
        let mut shared = self.shared.borrow_mut();
        shared.push_back(http2);
        if shared.len() > MAX_SHARED {
            // What is under way on it is finished.
            shared.pop_front();
        }
    }

    /// A seat on the connection that was made last and has one.
    fn newest(&self) -> Option<Seat> {
        let most = self.most();
        self.shared.borrow().iter().rev().find_map(|one| one.enter(most))
    }

    /// The service has chosen HTTP/1.1: whoever waits finds the connection among the kept ones.
    fn keep_alone(&self, wire: Http1) {
        self.alone.set(true);
        self.keep(Kept::new(wire));
    }

    /// Requests at a time on a shared connection.
    fn most(&self) -> usize {
        usize::try_from(self.upstream.model.max_streams_per_connection.get()).unwrap_or(1)
    }

    /// A seat on a shared connection.
    fn seat(&self, now: Instant) -> Option<Seat> {
        let most = self.most();
        let mut shared = self.shared.borrow_mut();
        shared.retain(|http2| !http2.is_closed() && !self.spent(http2, now));
        let seats = shared.iter().enumerate();
        let (index, seat) = seats.filter_map(|(n, one)| Some((n, one.enter(most)?))).next()?;
        // Behind a balancer the longest unused comes first; else one is filled before the next.
        if self.upstream.model.via == Via::Balancer
            && let Some(used) = shared.remove(index)
        {
            shared.push_back(used);
        }
        Some(seat)
    }

    /// A kept connection that still lives.
    fn known(&self, now: Instant) -> Option<Kept> {
        loop {
            let next = match self.upstream.model.via {
                // The hottest one: its buffers are in the caches.
                Via::Endpoints => self.idle.borrow_mut().pop_back(),
                Via::Balancer => self.idle.borrow_mut().pop_front(),
            };
            let kept = next?;
            if !self.worn(&kept, now) && !kept.wire.is_closed() {
                return Some(kept);
            }
        }
    }

    /// Keeps a connection for the next request, if it is fit for one.
    pub(super) fn keep(&self, mut kept: Kept) {
        let now = Instant::now();
        kept.idle_since = now;
        if kept.wire.is_closed() || self.worn(&kept, now) {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        idle.push_back(kept);
        if idle.len() > MAX_IDLE {
            idle.pop_front();
        }
    }

    /// Whether a connection has done its part.
    fn worn(&self, kept: &Kept, now: Instant) -> bool {
        self.aged(kept.requests, kept.opened, now) || now - kept.idle_since >= MAX_IDLE_TIME
    }

    /// Whether a shared connection has done its part: what is under way on it is finished.
    fn spent(&self, http2: &Http2, now: Instant) -> bool {
        self.aged(http2.requests.get(), http2.opened, now)
            || http2.requests.get() >= MAX_REQUESTS
            || http2.idle_since().is_some_and(|since| now - since >= MAX_IDLE_TIME)
    }

    fn aged(&self, requests: u32, opened: Instant, now: Instant) -> bool {
        let model = &self.upstream.model;
        model.max_requests_per_connection.is_some_and(|max| requests >= max.get())
            || model.max_connection_age.is_some_and(|max| now - opened >= max)
    }

    /// Closes what nobody needs.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.idle.borrow_mut().retain(|kept| !kept.wire.is_closed() && !self.worn(kept, now));
        self.shared.borrow_mut().retain(|one| !one.is_closed() && !self.spent(one, now));
    }
}
