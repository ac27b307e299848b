//! Connections of one listener on one worker: accept → select → connect → relay. Not for choosing
//! endpoints (`select`) and not for connecting (`connect`). Run by `listener`.
//!
//! Invariant: a connection is in exactly one task, counted by exactly one pass, and ends with the
//! instance at the latest.

pub mod connect;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::lifecycle::Shutdown;
use common::net::accept::Acceptor;
use common::net::proxy_protocol::{self, Addresses};
use common::net::relay::{End, Scratch, Wire, relay};
use common::observe::Observer;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::events::AcceptStalled;
use crate::gate::{self, Pass, Refusal};
use crate::select::FlowKey;
use crate::snapshot::{Lane, LaneSource};
use connect::{Connect, Connected, ToEndpoint};

/// One worker's part of a TCP listener.
#[derive(Clone, Debug)]
pub struct Worker {
    source: LaneSource,
    observer: Observer,
    scratch: Scratch,
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
    /// The instance stopped.
    Stopped,
}

impl Worker {
    /// Connections of one worker share a scratch buffer.
    pub fn new(source: LaneSource, observer: Observer) -> Self {
        Self { source, observer, scratch: Scratch::default() }
    }

    /// Accepts until the instance drains, then lets what runs finish until it stops. Cancelling it
    /// ends all connections.
    pub async fn run(self, mut acceptor: Acceptor, shutdown: Shutdown) {
        let mut connections = JoinSet::new();
        let draining = shutdown.draining();
        let mut draining = std::pin::pin!(draining);
        loop {
            tokio::select! {
                biased;
                () = &mut draining => break,
                Some(_ended) = connections.join_next() => {}
                (stream, peer) = self.accept(&mut acceptor) => {
                    self.spawn(&mut connections, stream, peer, &shutdown);
                }
            }
        }
        // What the kernel has already shaken hands with is served too; only then it is refused.
        while let Some((stream, peer)) = accept_waiting(&self, &mut acceptor).await {
            self.spawn(&mut connections, stream, peer, &shutdown);
        }
        drop(acceptor);
        while connections.join_next().await.is_some() {}
    }

    async fn accept(&self, acceptor: &mut Acceptor) -> (TcpStream, SocketAddr) {
        let listener = || self.source.lane().rules.name.clone();
        let stalled = |cause: &std::io::Error| {
            self.observer.emit(AcceptStalled { listener: listener().as_str(), cause });
        };
        acceptor.next(stalled).await
    }

    fn spawn(
        &self,
        connections: &mut JoinSet<()>,
        stream: TcpStream,
        peer: SocketAddr,
        shutdown: &Shutdown,
    ) {
        let (worker, shutdown) = (self.clone(), shutdown.clone());
        connections.spawn_local(async move {
            let Ok(local) = stream.local_addr() else { return };
            let ends = Ends { peer, local };
            let outcome = worker.serve(stream, ends, &ToEndpoint, &shutdown).await;
            tracing::debug!(%peer, ?outcome, "connection ended");
        });
    }

    /// Serves one connection to its end. Driven by tests with in-memory streams.
    pub async fn serve<C: Connect>(
        &self,
        mut downstream: impl Wire,
        ends: Ends,
        to: &C,
        shutdown: &Shutdown,
    ) -> Outcome {
        let lane = self.source.lane();
        lane.meters.connection();
        let served = async {
            let (upstream, _pass) = self.begin(&mut downstream, ends, to, &lane).await?;
            let Connected { mut wire, in_flight: _in_flight } = upstream;
            let (idle, meters) = (lane.rules.idle, &*lane.meters);
            Ok(relay(&mut downstream, &mut wire, idle, &self.scratch, meters).await)
        };
        let outcome = tokio::select! {
            biased;
            outcome = served => outcome,
            () = shutdown.stopped() => return Outcome::Stopped,
        };
        match outcome {
            Ok(end) => Outcome::Served(end),
            Err(refusal) => {
                lane.meters.refused(refusal);
                // A reset, as a closed port would answer: the client learns that nobody took it.
                downstream.abort();
                Outcome::Refused(refusal)
            }
        }
    }

    /// Admits the client and connects it to an endpoint.
    async fn begin<C: Connect>(
        &self,
        downstream: &mut impl Wire,
        ends: Ends,
        to: &C,
        lane: &Arc<Lane>,
    ) -> Result<(Connected<C::Wire>, Pass), Refusal> {
        // A trusted peer is no client: its header names the one that the rules are for.
        let (pass, ends) = if gate::contains(&lane.rules.accept_proxy_from, ends.peer.ip()) {
            let mut pass = lane.gate.enter(&lane.rules)?;
            let ends = named_by_header(downstream, ends).await?;
            pass.admit(&lane.rules, ends.peer.ip())?;
            (pass, ends)
        } else {
            (lane.gate.admit(&lane.rules, ends.peer.ip())?, ends)
        };
        let key = FlowKey { client: ends.peer, local: ends.local };
        let connected = connect::connect(lane, key, to, &self.observer).await?;
        Ok((connected, pass))
    }
}

/// The client's own address (N6), from the header that a trusted peer must send first.
async fn named_by_header(downstream: &mut impl Wire, ends: Ends) -> Result<Ends, Refusal> {
    let header = timeout(HEADER_TIME, proxy_protocol::read(downstream)).await;
    match header.map_err(|_| Refusal::Header)?.map_err(|_| Refusal::Header)?.addresses {
        Some(Addresses { source, destination }) => Ok(Ends { peer: source, local: destination }),
        None => Ok(ends),
    }
}

/// A connection that waits in the kernel, if one does.
async fn accept_waiting(
    worker: &Worker,
    acceptor: &mut Acceptor,
) -> Option<(TcpStream, SocketAddr)> {
    tokio::select! {
        biased;
        accepted = worker.accept(acceptor) => Some(accepted),
        () = std::future::ready(()) => None,
    }
}

/// How long a trusted peer may take to send its header.
const HEADER_TIME: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
