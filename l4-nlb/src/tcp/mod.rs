//! Connections of one listener on one worker: accept → settle whose it is and where it goes →
//! connect → relay. Not for choosing endpoints (`select`) and not for connecting (`connect`). Run by
//! `listener`.
//!
//! Invariant: a connection is in exactly one task, counted by exactly one pass, and ends with the
//! instance at the latest.

pub mod connect;
pub mod hello;
pub(crate) mod opening;
pub mod roster;

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use common::lifecycle::Shutdown;
use common::net::accept::Acceptor;
use common::net::relay::{End, Relay, Scratch};
use common::net::tcp::Socket;
use common::observe::Observer;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval};
use topology::l4::ProxyVersion;

use crate::events::AcceptStalled;
use crate::gate::{Pass, Refusal};
use crate::select::FlowKey;
use crate::snapshot::{Lane, LaneSource};
use connect::{Connect, Connected, Dial, ToEndpoint};
use opening::Greeting;
use roster::{Entry, Roster, Word};

/// One worker's part of a TCP listener.
#[derive(Debug)]
pub struct Worker {
    source: LaneSource,
    observer: Observer,
    scratch: Scratch,
    roster: Arc<Roster>,
    /// A connection could not be served for want of ports, descriptors or memory.
    short: Cell<bool>,
    /// When that was last told.
    told: Cell<Option<Instant>>,
}

/// Where a connection came from and to, as the socket has it.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The peer: the client, or a balancer before us.
    pub peer: SocketAddr,
    /// Our side.
    pub local: SocketAddr,
}

/// How a connection ended.
#[derive(Debug)]
pub enum Outcome {
    /// It was turned away and reset.
    Refused(Refusal),
    /// It was served.
    Served(End),
    /// Its endpoint died and the file wants such connections reset.
    Down,
    /// The instance stopped.
    Stopped,
}

impl Worker {
    /// Connections of one worker share a scratch buffer and a roster.
    pub fn new(source: LaneSource, observer: Observer) -> Self {
        let lane = source.lane();
        let roster = lane.connections.open(lane.meters.clone());
        Self {
            source,
            observer,
            scratch: Scratch::default(),
            roster,
            short: Cell::new(false),
            told: Cell::new(None),
        }
    }

    /// Accepts until the instance drains, then lets what runs finish until it stops. Cancelling it
    /// ends all connections.
    pub async fn run(self, mut acceptor: Acceptor, shutdown: Shutdown) {
        let worker = Rc::new(self);
        let _last = Last(&worker.roster);
        let lane = worker.source.lane();
        // Without these options a dead peer is noticed when it is idle for too long.
        let _unknown = acceptor.set_vigilance(vigilance(&lane));
        drop(lane);
        tokio::select! {
            biased;
            () = shutdown.draining() => {}
            () = worker.watch(&shutdown) => {}
            () = worker.accept_all(&mut acceptor) => {}
        }
        // What the kernel has already shaken hands with is served too; only then it is refused.
        while let Some((stream, peer)) = acceptor.waiting() {
            worker.take(stream, peer, acceptor.local());
        }
        drop(acceptor);
        tokio::select! {
            () = worker.watch(&shutdown) => {}
            () = worker.roster.emptied() => {}
        }
        worker.roster.emptied().await;
    }

    /// Every connection that comes, in a task of its own. Never ends.
    async fn accept_all(self: &Rc<Self>, acceptor: &mut Acceptor) {
        let bound = acceptor.local();
        loop {
            if self.short.take() {
                // Who waits in the kernel is better off than who is reset.
                acceptor.pause();
            }
            let (stream, peer) = acceptor.next(|cause| self.tell_stalled(cause)).await;
            self.take(stream, peer, bound);
        }
    }

    /// A connection in a task of its own.
    fn take(self: &Rc<Self>, mut stream: TcpStream, peer: SocketAddr, bound: SocketAddr) {
        let worker = self.clone();
        let entry = self.roster.enter();
        tokio::task::spawn_local(async move {
            let any = bound.ip().is_unspecified();
            let local = if any { stream.local_addr().unwrap_or(bound) } else { bound };
            let outcome =
                worker.carry(&mut stream, Ends { peer, local }, &ToEndpoint, &entry).await;
            tracing::debug!(id = %entry.id(), %peer, ?outcome, "connection ended");
        });
    }

    /// At most once in [`QUIET`]: descriptors may be lacking at every connection.
    fn tell_stalled(&self, cause: &std::io::Error) {
        let now = Instant::now();
        if self.told.get().is_none_or(|told| now.saturating_duration_since(told) >= QUIET) {
            self.told.set(Some(now));
            let lane = self.source.lane();
            self.observer.emit(AcceptStalled { listener: lane.rules.name.as_str(), cause });
        }
    }

    /// Sweeps the roster until the instance stops; then all connections are told so.
    async fn watch(&self, shutdown: &Shutdown) {
        let mut tick = interval(roster::PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut stopped = std::pin::pin!(shutdown.stopped());
        loop {
            tokio::select! {
                biased;
                () = &mut stopped => break,
                now = tick.tick() => self.roster.sweep(&self.source.lane().rules, now),
            }
        }
        self.roster.stop();
    }

    /// Serves one connection to its end. Driven by tests with in-memory streams.
    pub async fn serve<C: Connect>(
        &self,
        mut downstream: impl Socket,
        ends: Ends,
        to: &C,
        shutdown: &Shutdown,
    ) -> Outcome {
        let entry = self.roster.enter();
        let watched = async {
            self.watch(shutdown).await;
            std::future::pending().await
        };
        tokio::select! {
            outcome = self.carry(&mut downstream, ends, to, &entry) => outcome,
            never = watched => never,
        }
    }

    /// One connection to its end.
    async fn carry<C: Connect>(
        &self,
        downstream: &mut impl Socket,
        ends: Ends,
        to: &C,
        entry: &Entry,
    ) -> Outcome {
        let lane = self.source.lane();
        lane.meters.connection();
        let begun = {
            // Boxed, so that a connection does not keep the room that it began in; both parts fit
            // into the allocator's quick lists.
            let mut begin = Box::pin(self.begin(downstream, ends, to, (&lane, entry)));
            let mut waits = None;
            poll_fn(|cx| match entry.poll_word(cx, &mut waits) {
                Poll::Ready(Word::Stop) => Poll::Ready(None),
                _ => begin.as_mut().poll(cx).map(Some),
            })
            .await
        };
        match begun {
            Some(Ok(begun)) => self.pump(downstream, begun, &lane, entry).await,
            Some(Err(refusal)) => {
                if refusal == Refusal::Ports {
                    self.short.set(true);
                }
                lane.meters.refused(refusal);
                // A reset, as a closed port would answer: the client learns that nobody took it.
                downstream.abort();
                Outcome::Refused(refusal)
            }
            None => {
                downstream.abort();
                Outcome::Stopped
            }
        }
    }

    /// Admits the client and connects it to an endpoint.
    async fn begin<C: Connect>(
        &self,
        downstream: &mut impl Socket,
        ends: Ends,
        to: &C,
        (lane, entry): (&Arc<Lane>, &Entry),
    ) -> Result<Begun<C::Wire>, Refusal> {
        let rules = &lane.rules;
        // A trusted peer is no client: its header names the one that the rules are for.
        let (pass, ends, told) = if lane.gate.trusts(ends.peer.ip()) {
            let mut pass = lane.gate.enter()?;
            let header = Box::pin(opening::header(downstream)).await?;
            let ends = opening::ends(&header, ends);
            pass.admit(&lane.gate, ends.peer.ip())?;
            (pass, ends, Some(Box::new(header)))
        } else {
            (lane.gate.admit(ends.peer.ip())?, ends, None)
        };
        let greeting = if lane.tls_routes.is_empty() {
            Greeting::default()
        } else {
            Box::pin(opening::greeting(downstream)).await?
        };
        let hello = greeting.hello.as_ref();
        let route = opening::route(lane, hello)?;
        let announce = |version: ProxyVersion| {
            opening::announce(version, ends, || entry.id(), told.as_deref(), hello)
        };
        let header = rules.proxy_protocol.map(announce).unwrap_or_default();
        let key = FlowKey { client: ends.peer, local: ends.local };
        let dial = Dial { rules, route, key, header: &header };
        let asked = Instant::now();
        let upstream = dial.connect(to, &self.observer).await?;
        lane.meters.connected(asked.elapsed());
        entry.connected(ends.peer, (route.service.clone(), upstream.endpoint.clone()));
        Ok(Begun { upstream, sent: greeting.bytes, _pass: pass })
    }

    /// Copies both ways until the end.
    async fn pump<W: Socket>(
        &self,
        downstream: &mut impl Socket,
        mut begun: Begun<W>,
        lane: &Lane,
        entry: &Entry,
    ) -> Outcome {
        let mut relay = Relay::beginning_with(std::mem::take(&mut begun.sent));
        let mut waits = None;
        loop {
            let upstream = &mut begun.upstream.wire;
            let (mut below, mut below_failed) = downstream.parts();
            let (mut above, mut above_failed) = upstream.parts();
            let word = poll_fn(|cx| {
                if let Poll::Ready(word) = entry.poll_word(cx, &mut waits) {
                    return Poll::Ready(Err(word));
                }
                let polled = relay.poll(cx, &mut below, &mut above, &self.scratch, entry);
                if let Poll::Ready(end) = polled {
                    return Poll::Ready(Ok(end));
                }
                // Who has finished sending is not read any more: its reset is looked for instead.
                if relay.downstream_finished()
                    && let Poll::Ready(error) = Pin::new(&mut below_failed).poll(cx)
                {
                    return Poll::Ready(Ok(End::Downstream(error)));
                }
                if relay.upstream_finished()
                    && let Poll::Ready(error) = Pin::new(&mut above_failed).poll(cx)
                {
                    return Poll::Ready(Ok(End::Upstream(error)));
                }
                Poll::Pending
            })
            .await;
            drop((below, below_failed, above, above_failed));
            let outcome = match word {
                Err(Word::Settle) => {
                    entry.heard();
                    begun.upstream.wire.set_vigilance(vigilance(lane));
                    continue;
                }
                Ok(end) => Outcome::Served(end),
                Err(Word::Idle) => Outcome::Served(End::Idle),
                Err(Word::Down) => Outcome::Down,
                Err(Word::Stop) => Outcome::Stopped,
            };
            let (downstream_too, upstream_too) = reset(&outcome, relay.is_holding());
            if downstream_too {
                downstream.abort();
            }
            if upstream_too {
                begun.upstream.wire.abort();
            }
            return outcome;
        }
    }
}

/// A connection with an endpoint.
struct Begun<W> {
    upstream: Connected<W>,
    /// What the client has sent already.
    sent: Vec<u8>,
    _pass: Pass,
}

/// Ends what is left when the worker's own future is dropped.
struct Last<'a>(&'a Roster);

impl Drop for Last<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Whether the downstream and the upstream are to be reset: what did not arrive whole must not look
/// as if it had. Who has reset or failed needs no answer.
fn reset(outcome: &Outcome, holding: bool) -> (bool, bool) {
    match outcome {
        Outcome::Served(End::Closed) => (false, false),
        Outcome::Served(End::Idle) => (holding, holding),
        Outcome::Served(End::Downstream(_)) => (false, true),
        Outcome::Served(End::Upstream(_)) => (true, false),
        Outcome::Down | Outcome::Stopped | Outcome::Refused(_) => (true, true),
    }
}

/// Within so much a peer that is gone is noticed, whether it owes us an answer or nothing; so is
/// one that takes no byte for as long.
fn vigilance(lane: &Lane) -> Duration {
    lane.rules.idle.min(LONGEST_VIGILANCE)
}

/// Between two reports of one want.
const QUIET: Duration = Duration::from_secs(10);

const LONGEST_VIGILANCE: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests;
