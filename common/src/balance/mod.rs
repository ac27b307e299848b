//! Chooses an endpoint of a service. Not for remembering the choice (the flow table does) and not
//! for making the hash (`key`). Called once per new flow, request or connection.
//!
//! Invariant: what hashes is a pure function of the names, the weights, the key and the set of
//! selectable endpoints; so every instance with the same view makes the same choice.

mod key;
mod least_conn;
mod maglev;
mod p2c;
mod round_robin;

pub use key::HashKey;
pub use maglev::Maglev;

use tokio::time::Instant;

use crate::rng::Rng;
use crate::service::{Endpoint, Service};

/// How an endpoint is chosen; one per listener, route or service and worker, or shared.
#[derive(Debug)]
pub enum Balancer {
    /// In turn, by weight.
    RoundRobin(round_robin::Turns),
    /// Fewest in flight for its weight.
    LeastConnections(Rng),
    /// The less loaded of two random ones.
    TwoChoices(Rng),
    /// Consistent hash.
    Maglev(Maglev),
}

impl Balancer {
    /// For the endpoints that `service` has now; a service whose endpoints change needs a new one.
    pub fn new(balance: topology::Balance, service: &Service, key: HashKey) -> Self {
        match balance {
            topology::Balance::RoundRobin => Self::RoundRobin(round_robin::Turns::new(service)),
            topology::Balance::LeastConnections => Self::LeastConnections(Rng::from_os()),
            topology::Balance::TwoChoices => Self::TwoChoices(Rng::from_os()),
            topology::Balance::ClientAddress | topology::Balance::FiveTuple => {
                Self::Maglev(Maglev::new(service, key))
            }
        }
    }

    /// The index of an endpoint that can be selected now and is not in `avoid` (those already
    /// tried); `None` when nothing is left. When no endpoint can be selected at all, all of them
    /// count as selectable: a check that is wrong must not end the service. `hash` matters to
    /// Maglev alone.
    pub fn select(&self, service: &Service, hash: u64, avoid: &[usize]) -> Option<usize> {
        self.select_at(service, hash, avoid, Instant::now())
    }

    /// The same at a given time: for tests, and for those who have the time at hand.
    pub fn select_at(
        &self,
        service: &Service,
        hash: u64,
        avoid: &[usize],
        now: Instant,
    ) -> Option<usize> {
        let choice = Choice { endpoints: &service.endpoints, avoid, now, all: false };
        let choice = Choice { all: service.panicking(now), ..choice };
        match self {
            Self::RoundRobin(turns) => turns.select(&choice),
            Self::LeastConnections(rng) => least_conn::select(&choice, rng),
            Self::TwoChoices(rng) => p2c::select(&choice, rng),
            Self::Maglev(maglev) => maglev.select(&choice, hash),
        }
    }
}

/// What may be chosen at this moment.
struct Choice<'a> {
    endpoints: &'a [std::sync::Arc<Endpoint>],
    avoid: &'a [usize],
    now: Instant,
    /// The service is panicking.
    all: bool,
}

impl Choice<'_> {
    fn allows(&self, index: usize) -> bool {
        let Some(endpoint) = self.endpoints.get(index) else { return false };
        !self.avoid.contains(&index) && (self.all || endpoint.state.selectable(self.now))
    }

    /// The allowed ones, beginning at `start` and around.
    fn from(&self, start: usize) -> impl Iterator<Item = usize> {
        let count = self.endpoints.len();
        (0..count).map(move |step| (start + step) % count).filter(|&index| self.allows(index))
    }

    /// In flight per weight, compared without division. One more is counted so that of two idle
    /// endpoints the heavier comes first.
    fn lighter(&self, a: usize, b: usize) -> usize {
        let load = |index: usize| {
            let endpoint = self.endpoints.get(index);
            endpoint
                .map_or((0, 1), |e| (u64::from(e.state.active()) + 1, u64::from(e.weight.0.max(1))))
        };
        let ((load_a, weight_a), (load_b, weight_b)) = (load(a), load(b));
        if load_b * weight_a < load_a * weight_b { b } else { a }
    }
}

#[cfg(test)]
mod tests;
