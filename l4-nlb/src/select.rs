//! Flow → endpoint: the only place that hashes. Not for remembering the choice (the flow table and
//! the connection do). Called once per new flow by tcp/ and udp/.
//!
//! Invariant: a listener that hashes sends a client to the same endpoint from every worker and
//! every instance of its group that sees the same endpoints alive.

use std::net::SocketAddr;

use common::balance::{Balancer, HashKey};
use common::service::Service;
use topology::Balance;

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
    /// For the endpoints that the service has now.
    pub fn new(by: Balance, service: &Service, key: HashKey) -> Self {
        Self { by, balancer: Balancer::new(by, service, key), key }
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
