//! Chooses an endpoint of a service. Not for remembering the choice (the flow table does) and not
//! for making the hash (`key`). Called once per new flow, request or connection.
//!
//! Invariant: what hashes is a pure function of the names, the weights, the key and the set of
//! selectable endpoints; so every instance with the same view makes the same choice.

mod costs;
mod key;
mod least_conn;
mod maglev;
mod p2c;
mod rendezvous;
mod round_robin;
mod table;
mod zone;

pub use costs::{Answered, Costs};
pub use key::HashKey;
pub use table::Table;

use std::sync::Arc;

use tokio::time::Instant;
use topology::Balance;
use topology::l4::HashTable;
use topology::units::ZoneName;

use crate::rng::Rng;
use crate::service::{Endpoint, Service};

/// How an endpoint is chosen; one per listener, route or service.
#[derive(Debug)]
pub struct Balancer {
    way: Way,
    /// Where we stand, if endpoints of the same zone come first.
    near: Option<zone::Near>,
    rng: Rng,
}

#[derive(Debug)]
enum Way {
    /// In turn, by weight.
    RoundRobin(round_robin::Turns),
    /// Fewest in flight for its weight.
    LeastConnections,
    /// The less loaded of two random ones.
    TwoChoices,
    /// Consistent hash.
    Hash(Table),
}

impl Balancer {
    /// For the endpoints and weights that `service` has now; a service whose endpoints or weights
    /// change needs a new one.
    pub fn new(balance: Balance, service: &Service, key: HashKey) -> Self {
        Self::with(balance, HashTable::Maglev, service, key)
    }

    /// The same with a choice of table where the balance hashes.
    pub fn with(balance: Balance, table: HashTable, service: &Service, key: HashKey) -> Self {
        let way = match (balance, table) {
            (Balance::RoundRobin, _) => Way::RoundRobin(round_robin::Turns::new(service)),
            (Balance::LeastConnections, _) => Way::LeastConnections,
            (Balance::TwoChoices, _) => Way::TwoChoices,
            (Balance::ClientAddress | Balance::FiveTuple, HashTable::Maglev) => {
                Way::Hash(Table::new(service, key, maglev::fill))
            }
            (Balance::ClientAddress | Balance::FiveTuple, HashTable::Rendezvous) => {
                Way::Hash(Table::new(service, key, rendezvous::fill))
            }
        };
        Self { way, near: None, rng: Rng::from_os() }
    }

    /// Prefers endpoints of this zone while enough of them can be selected. Where the balance hashes
    /// it changes nothing: instances in different zones must agree.
    pub fn near(self, zone: Option<ZoneName>) -> Self {
        Self { near: zone.map(zone::Near::new), ..self }
    }

    /// Takes the place of `before`, which was made for the `old` endpoints: clients that neither
    /// this process nor another knows follow the former table for [`Table::GRACE`].
    pub fn after(mut self, before: &Self, (old, new): (&Service, &Service), now: Instant) -> Self {
        if let (Way::Hash(table), Way::Hash(former)) = (&mut self.way, &before.way) {
            table.succeed(former, (old, new), now);
        }
        self
    }

    /// The table, where the balance hashes.
    pub fn table(&self) -> Option<&Table> {
        match &self.way {
            Way::Hash(table) => Some(table),
            _ => None,
        }
    }

    /// The index of an endpoint that can be selected now and is not in `avoid` (those already
    /// tried); `None` when nothing is left. When too few endpoints can be selected, all of them
    /// count as selectable: a check that is wrong must not end the service. `hash` matters where
    /// the balance hashes alone.
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
        self.select_by(service, Wish { hash, avoid, costs: None }, now)
    }

    /// The same by what answers cost, for those who measure it. Beside least connections, which looks
    /// at every endpoint, the work does not grow with their number.
    pub fn select_by(&self, service: &Service, wish: Wish<'_>, now: Instant) -> Option<usize> {
        let start = self.rng.below(service.endpoints.len());
        let all = service.panics(start, now);
        let Wish { hash, avoid, costs } = wish;
        let whole = Choice { service, avoid, costs, now, all, side: Side::Both };
        let Way::Hash(table) = &self.way else {
            let Some(near) = self.near.as_ref().filter(|_| !all) else { return self.draw(&whole) };
            let zone = &near.zone;
            let keeps = near.keeps(service, now, &self.rng);
            let side = if keeps { Side::Inside(zone) } else { Side::Outside(zone) };
            // What one side has not, the other may have.
            return self.draw(&Choice { side, ..whole }).or_else(|| self.draw(&whole));
        };
        table.select(&whole, hash)
    }

    fn draw(&self, choice: &Choice<'_>) -> Option<usize> {
        match &self.way {
            Way::RoundRobin(turns) => turns.select(choice, &self.rng),
            Way::LeastConnections => least_conn::select(choice, &self.rng),
            Way::TwoChoices => p2c::select(choice, &self.rng),
            Way::Hash(table) => table.select(choice, 0),
        }
    }
}

/// Who is to be chosen for.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Of whoever asks; matters where the balance hashes.
    pub hash: u64,
    /// Indices of endpoints that were tried.
    pub avoid: &'a [usize],
    /// What their answers cost; matters to two choices.
    pub costs: Option<&'a Costs>,
}

/// What may be chosen at this moment.
#[derive(Clone, Copy)]
struct Choice<'a> {
    service: &'a Service,
    avoid: &'a [usize],
    costs: Option<&'a Costs>,
    now: Instant,
    /// The service is panicking.
    all: bool,
    side: Side<'a>,
}

/// Of which zone an endpoint must be.
#[derive(Clone, Copy)]
enum Side<'a> {
    Inside(&'a ZoneName),
    Outside(&'a ZoneName),
    Both,
}

impl<'a> Choice<'a> {
    fn endpoint(&self, index: usize) -> Option<&'a Arc<Endpoint>> {
        self.service.endpoints.get(index)
    }

    fn allows(&self, index: usize) -> bool {
        let Some(endpoint) = self.endpoint(index) else { return false };
        let here = match self.side {
            Side::Inside(zone) => endpoint.zone.as_ref() == Some(zone),
            Side::Outside(zone) => endpoint.zone.as_ref() != Some(zone),
            Side::Both => true,
        };
        let state = &endpoint.state;
        here && !self.avoid.contains(&index)
            && self.service.rules.admits(state)
            // One that cannot be connected to is no help in a panic either.
            && if self.all { !state.unreachable(self.now) } else { state.selectable(self.now) }
    }

    /// The allowed ones, beginning at `start` and around.
    fn from(&self, start: usize) -> impl Iterator<Item = usize> {
        let count = self.service.endpoints.len();
        (0..count).map(move |step| (start + step) % count).filter(|&index| self.allows(index))
    }

    /// In flight per weight, times what an answer costs; compared without division. One more is counted so that of two idle
    /// endpoints the heavier comes first.
    fn lighter(&self, a: usize, b: usize) -> usize {
        let load = |index: usize| {
            let weight = |e: &Arc<Endpoint>| e.load_weight(self.service.slow_start, self.now);
            self.endpoint(index)
                .map_or((0, 1), |e| (u64::from(e.state.active()) + 1, weight(e).max(1)))
        };
        let ((load_a, weight_a), (load_b, weight_b)) = (load(a), load(b));
        if let Some(costs) = self.costs {
            let (cost_a, cost_b) = costs.pair(a, b, self.now);
            let (a_all, b_all) = ((load_a * weight_b) as f64, (load_b * weight_a) as f64);
            return if b_all * cost_b < a_all * cost_a { b } else { a };
        }
        if load_b * weight_a < load_a * weight_b { b } else { a }
    }

    /// Whether an endpoint whose turn it is takes it: one that starts slowly lets some pass.
    fn takes_turn(&self, index: usize, rng: &Rng) -> bool {
        let (Some(_), Some(endpoint)) = (self.service.slow_start, self.endpoint(index)) else {
            return true;
        };
        let (now, whole) = (endpoint.load_weight(self.service.slow_start, self.now), 1000);
        let whole = whole * u64::from(endpoint.weight());
        now >= whole || (rng.below(whole as usize) as u64) < now
    }
}

#[cfg(test)]
mod tests;
