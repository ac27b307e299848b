//! Flow → endpoint: the only place that hashes. Not for remembering the choice (the flow table and
//! the connection do). Called once per new flow by tcp/ and udp/.
//!
//! Invariant: a listener that hashes sends a client to the same endpoint from every worker and
//! every instance of its group that sees the same endpoints alive.

use std::net::SocketAddr;

use common::balance::{Balancer, HashKey, Table};
use common::service::Service;
use tokio::time::Instant;
use topology::Balance;
use topology::l4::Listener;
use topology::units::ZoneName;

/// What a choice may depend on.
#[derive(Clone, Copy, Debug)]
pub struct FlowKey {
    /// The client.
    pub client: SocketAddr,
    /// Where it sent to.
    pub local: SocketAddr,
}

/// How one listener chooses.
#[derive(Debug)]
pub struct Selector {
    by: Balance,
    balancer: Balancer,
    key: HashKey,
}

impl Selector {
    /// For the endpoints that the service has now, on an instance in this zone; `before` is what
    /// chose among the service's former endpoints.
    pub fn new(
        rules: &Listener,
        service: &Service,
        (key, zone): (HashKey, Option<&ZoneName>),
        before: Option<(&Self, &Service)>,
    ) -> Self {
        let by = rules.balance;
        let balancer = Balancer::with(by, rules.hash, service, key).near(zone.cloned());
        let balancer = match before.filter(|(before, _)| before.key == key && before.by == by) {
            Some((before, old)) => balancer.after(&before.balancer, (old, service), Instant::now()),
            None => balancer,
        };
        Self { by, balancer, key }
    }

    /// Which part of all clients each endpoint has while all live, where the listener hashes.
    pub fn shares(&self) -> Option<Vec<f64>> {
        let table = self.balancer.table()?;
        let share = |slots| slots as f64 / Table::SLOTS as f64;
        Some(table.shares().into_iter().map(share).collect())
    }

    /// The index of the flow's endpoint; `avoid` holds those already tried. `None`: none is left.
    pub fn select(&self, service: &Service, flow: FlowKey, avoid: &[usize]) -> Option<usize> {
        let hash = match self.by {
            Balance::ClientAddress => self.key.client(flow.client.ip()),
            Balance::FiveTuple => self.key.flow(flow.client, flow.local),
            Balance::RoundRobin | Balance::LeastConnections | Balance::TwoChoices => 0,
        };
        self.balancer.select(service, hash, avoid)
    }
}
