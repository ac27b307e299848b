//! One downstream connection from its first byte: PROXY header, handshake, engine; and one call of
//! the pipeline per request on it. Not for accepting (`server`). Called by `server` for sockets, by
//! tests for in-memory streams.
//!
//! Invariant: who the peer is was settled before its first request, by a trusted PROXY header or by the
//! socket; stage 2 may learn the client behind it.

use std::cell::{Cell, RefCell, RefMut};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::lifecycle::Shutdown;
use common::net::proxy_protocol;
use common::net::relay::Wire;
use common::observe::Observer;
use common::snapshot::Published;
use http::request::Parts;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::{Instant, timeout};

use crate::access_log::{Record, Sink, Stats};
use crate::body::{BodyLimits, BodySource, RequestBody};
use crate::codec::Fault;
use crate::date::Date;
use crate::engine::Engine as _;
use crate::engine::frames::Abuse;
use crate::engine::http1::Http1;
use crate::engine::http2::Http2;
use crate::engine::stall::Stall;
use crate::events::{HandshakeRefused, Http2Abused, ProxyHeaderRefused};
use crate::exchange::{Exchange, Peer, Received, Stage, Transport};
use crate::hints::Hints;
use crate::ids::{RequestId, TraceParent};
use crate::pipeline::Pipeline;
use crate::snapshot::Snapshot;
use crate::stages::emit::Emitted;
use crate::stages::tls::{self, Protocol};

/// What serves on one thread: the pipeline of the current snapshot and everything that threads do
/// not share.
#[derive(Debug)]
pub struct Worker {
    published: Arc<Published<Snapshot>>,
    site: RefCell<Rc<Site>>,
    stats: Rc<Stats>,
    sink: Rc<Sink>,
    observer: Observer,
    rng: RefCell<SmallRng>,
    scratch: RefCell<Box<[u8]>>,
    date: RefCell<Date>,
    /// Another time than it is, and since when.
    clock: Cell<Option<(SystemTime, Instant)>>,
}

/// What connections read into while nothing of them is kept.
const SCRATCH: usize = 16 * 1024;

/// A snapshot with this worker's pipeline for it.
#[derive(Debug)]
pub struct Site {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// The stages.
    pub pipeline: Pipeline,
}

impl Site {
    fn build(
        snapshot: Arc<Snapshot>,
        stats: &Rc<Stats>,
        observer: &Observer,
        before: Option<&Self>,
    ) -> Rc<Self> {
        let pipeline =
            Pipeline::build(&snapshot, stats, observer, before.map(|site| &site.pipeline));
        Rc::new(Self { snapshot, pipeline })
    }
}

impl Worker {
    /// For this thread; must be called inside its runtime.
    pub fn new(
        published: Arc<Published<Snapshot>>,
        sink: Rc<Sink>,
        observer: Observer,
    ) -> Rc<Self> {
        let stats = Stats::new(&observer.metrics);
        let site = RefCell::new(Site::build(published.load_full(), &stats, &observer, None));
        let rng = RefCell::new(SmallRng::from_os_rng());
        let scratch = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
        Rc::new(Self {
            published,
            site,
            stats,
            sink,
            observer,
            rng,
            scratch,
            date: RefCell::default(),
            clock: Cell::default(),
        })
    }

    /// From now on it is so late, and the wall clock goes on as the runtime's does: for tests.
    pub fn pretend(&self, wall: SystemTime) {
        self.clock.set(Some((wall, Instant::now())));
    }

    fn wall(&self) -> SystemTime {
        self.clock.get().map_or_else(SystemTime::now, |(wall, since)| wall + since.elapsed())
    }

    /// The site of the snapshot in force; built anew after a change, while exchanges that were begun
    /// keep theirs.
    pub fn site(&self) -> Rc<Site> {
        let current = self.published.load();
        let mut site = self.site.borrow_mut();
        if !Arc::ptr_eq(&current, &site.snapshot) {
            let before = Some(&**site);
            *site = Site::build(Arc::clone(&current), &self.stats, &self.observer, before);
        }
        Rc::clone(&site)
    }

    /// Serves one connection that came from `from` to its end. Dropping the future ends everything
    /// on it at once; the records are written nevertheless.
    pub async fn serve<IO>(self: &Rc<Self>, mut io: IO, from: SocketAddr, shutdown: Shutdown)
    where
        IO: Wire + 'static,
    {
        let site = self.site();
        let group = &site.snapshot.group;
        let limit = group.front.handshake_timeout;
        let believed = trusted(&site.snapshot, from.ip());
        let mut connection_id = None;
        let client = if believed {
            match Box::pin(timeout(limit, proxy_protocol::read(&mut io))).await {
                // A balancer's own connection (LOCAL, UNKNOWN) has no client behind it.
                Ok(Ok(header)) => {
                    let client = header.addresses.map_or(from, |addresses| addresses.source);
                    let id = header.field(proxy_protocol::UNIQUE_ID);
                    connection_id = id.map(|id| id.escape_ascii().to_string().into());
                    client
                }
                Ok(Err(fault)) => return self.observer.emit(ProxyHeaderRefused { from, fault }),
                Err(_) => return,
            }
        } else {
            from
        };
        let io = Stall::new(io, group.front.body_idle_timeout);
        let config = site.snapshot.front.as_ref().map(|front| Arc::clone(&front.config));
        // A connection may outlive many snapshots, and keeps none.
        drop(site);
        match config {
            None => {
                let peer = Peer::new(client, Transport::Plain, connection_id);
                let line = Line::new(self, peer, None);
                self.speak(Protocol::Http1, io, line, shutdown).await;
            }
            Some(config) => {
                // Boxed, like the engines: a connection that waits is not to carry what it has left.
                let accepted = match Box::pin(tls::accept(&config, io, limit)).await {
                    Ok(accepted) => accepted,
                    Err(fault) => return self.observer.emit(HandshakeRefused { client, fault }),
                };
                let peer = Peer::new(client, accepted.transport, connection_id);
                let line = Line::new(self, peer, Some(accepted.took));
                self.speak(accepted.protocol, accepted.stream, line, shutdown).await;
            }
        }
    }

    async fn speak<IO>(&self, protocol: Protocol, io: IO, line: Rc<Line>, shutdown: Shutdown)
    where
        IO: Wire + 'static,
    {
        match protocol {
            Protocol::Http1 => {
                let engine = Http1::new(&self.site().snapshot.group.front);
                Box::pin(engine.serve(io, line, shutdown)).await;
            }
            Protocol::Http2 => {
                let engine = Http2::new(&self.site().snapshot.group.front);
                Box::pin(engine.serve(io, line, shutdown)).await;
            }
        }
    }
}

/// Whether a PROXY header is required from this peer; from others one is a malformed request.
fn trusted(snapshot: &Snapshot, peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    snapshot.group.trust_proxy_protocol_from.iter().any(|network| network.contains(&peer))
}

/// One connection as its engine sees it.
#[derive(Debug)]
pub struct Line {
    worker: Rc<Worker>,
    peer: Rc<Peer>,
    /// Told with its first exchange.
    handshake: Cell<Option<Duration>>,
}

impl Line {
    fn new(worker: &Rc<Worker>, peer: Peer, handshake: Option<Duration>) -> Rc<Self> {
        let (worker, handshake) = (Rc::clone(worker), Cell::new(handshake));
        Rc::new(Self { worker, peer: Rc::new(peer), handshake })
    }

    /// The worker's memory to read into; nothing stays in it.
    pub fn scratch(&self) -> RefMut<'_, [u8]> {
        RefMut::map(self.worker.scratch.borrow_mut(), |bytes| &mut **bytes)
    }

    /// `Date` of an answer that has none, as a line (RFC 9110 §6.6.1).
    pub fn date(&self, out: &mut Vec<u8>) {
        self.worker.date.borrow_mut().write(self.worker.wall(), out);
    }

    /// Its client was cut off.
    pub fn abused(&self, abuse: Abuse) {
        let client = self.peer.client;
        self.worker.observer.emit(Http2Abused { client, abuse });
    }

    /// One request from its head to the answer to send. Dropping the future (the client has gone)
    /// abandons it; its record is written.
    pub async fn exchange(
        &self,
        head: Box<Parts>,
        body: BodySource,
        fault: Option<Fault>,
        hints: Option<Hints>,
    ) -> Emitted {
        let site = self.worker.site();
        let front = &site.snapshot.group.front;
        let limits = BodyLimits { bytes: front.max_body_bytes, idle: front.body_idle_timeout };
        let ids = {
            let mut rng = self.worker.rng.borrow_mut();
            let sample = site.snapshot.group.telemetry.sample;
            (RequestId::new(&mut rng), TraceParent::start(&mut rng, sample))
        };
        let record = Record::new(&self.worker.sink);
        let peer = Rc::clone(&self.peer);
        let mut x = Exchange::new(peer, Instant::now(), self.worker.wall(), ids, record);
        x.hints = hints.map(|hints| hints.without(&site.pipeline.internal));
        if let Some(took) = self.handshake.take() {
            x.progress.enter(Stage::Tls);
            x.progress.spend(Stage::Tls, took);
        }
        let received = Received { head, body: RequestBody::new(body, limits), fault };
        site.pipeline.serve(Box::new(x), received).await
    }
}
