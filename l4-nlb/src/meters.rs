//! The counters of one listener, registered once and moved on the data path without a look-up. Not
//! for what happens rarely: `events` has that. Held by the lane, read by the admin listener.
//!
//! Invariant: labels are names from the topology file and fixed words.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::observe::{Latency, Metrics};
use metrics::{Counter, Gauge};

use crate::gate::Refusal;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to endpoint.
    Up,
    /// Endpoint to client.
    Down,
}

/// A number shown by Prometheus and by the summary.
struct Count {
    shown: Counter,
    total: AtomicU64,
}

impl Count {
    fn new(shown: Counter) -> Self {
        Self { shown, total: AtomicU64::new(0) }
    }

    fn add(&self, more: u64) {
        if more > 0 {
            self.shown.increment(more);
            self.total.fetch_add(more, Ordering::Relaxed);
        }
    }

    fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// All counters of one listener.
pub struct Meters {
    connections: Count,
    datagrams: [Counter; 2],
    work: AtomicU64,
    bytes: [Counter; 2],
    refused: [Count; Refusal::ALL.len()],
    evicted: Count,
    moved: Counter,
    strangers: Counter,
    lost: Counter,
    flows: Gauge,
    connect: Arc<Latency>,
}

impl Meters {
    /// Registers the series of a listener.
    pub fn new(metrics: &Metrics, listener: &str) -> Self {
        let own = [("listener", listener)];
        let plain = |name, help| metrics.counter(name, help, &own);
        let both = |name, help| {
            ["up", "down"].map(|direction| {
                metrics.counter(name, help, &[("listener", listener), ("direction", direction)])
            })
        };
        let refused = |refusal: Refusal| {
            let labels = [("listener", listener), ("reason", refusal.reason())];
            let help = "Connections and datagrams turned away.";
            Count::new(metrics.counter("aqueduct_l4_refused_total", help, &labels))
        };
        Self {
            connections: Count::new(plain(
                "aqueduct_l4_connections_total",
                "TCP connections accepted.",
            )),
            datagrams: both("aqueduct_l4_datagrams_total", "UDP datagrams passed on."),
            work: AtomicU64::new(0),
            bytes: both(
                "aqueduct_l4_bytes_total",
                "Bytes passed on; towards UDP endpoints with our PROXY headers.",
            ),
            refused: Refusal::ALL.map(refused),
            evicted: Count::new(plain(
                "aqueduct_l4_evicted_total",
                "UDP flows that made room in a full table.",
            )),
            moved: plain(
                "aqueduct_l4_moved_total",
                "UDP flows that changed endpoint because theirs died.",
            ),
            strangers: plain(
                "aqueduct_l4_strangers_total",
                "Datagrams to an upstream socket that belong to no flow.",
            ),
            lost: plain("aqueduct_l4_lost_total", "Datagrams that the kernel did not take."),
            flows: metrics.gauge("aqueduct_l4_flows", "Flows now.", &own),
            connect: metrics.latency(
                "aqueduct_l4_connect_seconds",
                "Time until a TCP client had its endpoint, other endpoints tried before included.",
                &own,
            ),
        }
    }

    /// A TCP connection was accepted.
    pub fn connection(&self) {
        self.connections.add(1);
    }

    /// A TCP client has its endpoint, so long after one was looked for.
    pub fn connected(&self, after: Duration) {
        self.connect.record(after);
    }

    /// The time that this share of the TCP clients waited less than for an endpoint.
    pub fn connect_quantile(&self, quantile: f64) -> Option<Duration> {
        self.connect.quantile(quantile)
    }

    /// The same in counts, each with the time in µs that it stands for.
    pub fn connect_counts(&self) -> Vec<(u64, u64)> {
        self.connect.counts()
    }

    /// Datagrams were passed on.
    pub fn datagrams(&self, direction: Direction, count: u64, bytes: u64) {
        let [up, down] = &self.datagrams;
        let counter = if direction == Direction::Up { up } else { down };
        counter.increment(count);
        self.work.fetch_add(count, Ordering::Relaxed);
        self.bytes(direction, bytes);
    }

    /// Bytes were passed on.
    pub fn bytes(&self, direction: Direction, bytes: u64) {
        let [up, down] = &self.bytes;
        if direction == Direction::Up { up } else { down }.increment(bytes);
    }

    /// A client was turned away.
    pub fn refused(&self, refusal: Refusal) {
        let at = Refusal::ALL.iter().position(|&r| r == refusal);
        if let Some(count) = at.and_then(|at| self.refused.get(at)) {
            count.add(1);
        }
    }

    /// A flow made room for another.
    pub fn evicted(&self) {
        self.evicted.add(1);
    }

    /// Flows that made room since the start.
    pub fn evicted_total(&self) -> u64 {
        self.evicted.total()
    }

    /// A flow changed endpoint.
    pub fn moved(&self) {
        self.moved.increment(1);
    }

    /// A datagram that no flow waits for.
    pub fn stranger(&self) {
        self.strangers.increment(1);
    }

    /// Datagrams that could not be sent.
    pub fn lost(&self, count: u64) {
        self.lost.increment(count);
    }

    /// Shows how many flows there are.
    pub fn show_flows(&self, flows: u32) {
        self.flows.set(f64::from(flows));
    }

    /// Connections accepted since the start.
    pub fn connections_total(&self) -> u64 {
        self.connections.total()
    }

    /// Datagrams passed on since the start, both ways.
    pub fn datagrams_total(&self) -> u64 {
        self.work.load(Ordering::Relaxed)
    }

    /// Connections and datagrams turned away for this since the start.
    pub fn refused_total(&self, refusal: Refusal) -> u64 {
        let mut all = Refusal::ALL.iter().zip(&self.refused);
        all.find(|(known, _)| **known == refusal).map_or(0, |(_, count)| count.total())
    }

    /// Clients turned away since the start by something that is not their own doing.
    pub fn errors_total(&self) -> u64 {
        let ours = [Refusal::Full, Refusal::Ports, Refusal::Endpoint];
        let all = Refusal::ALL.iter().zip(&self.refused);
        all.filter(|(refusal, _)| ours.contains(refusal)).map(|(_, count)| count.total()).sum()
    }
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meters").field("datagrams", &self.datagrams_total()).finish_non_exhaustive()
    }
}
