//! Fills a table by Maglev hashing (Eisenbud et al., NSDI 2016, §3.4), weighted: even shares to a
//! fraction of a percent. Not for looking anything up. Called when a balancer is made.
//!
//! Invariant: names, weights and key alone decide.

use super::HashKey;
use super::table::{NOBODY, Table};
use crate::service::Endpoint;

/// Endpoints take turns, the heaviest in every round and the others in proportion, each taking the
/// first free slot of its own order. They come sorted by name.
pub(super) fn fill(endpoints: &[(u16, &Endpoint)], key: HashKey) -> Box<[u16]> {
    let walk = |&(index, endpoint): &(u16, &Endpoint)| {
        Walk::new(index, endpoint.name.as_str(), endpoint.weight().max(1), key)
    };
    let mut walks: Vec<Walk> = endpoints.iter().map(walk).collect();
    let mut table = vec![NOBODY; Table::SLOTS];
    let Some(heaviest) = walks.iter().map(|w| w.weight).max() else { return Box::default() };
    let mut left = Table::SLOTS;
    loop {
        for walk in &mut walks {
            walk.saved += walk.weight;
            if walk.saved < heaviest {
                continue;
            }
            walk.saved -= heaviest;
            // SLOTS is prime, so a walk meets every slot, and a free one while `left` is not 0.
            while let Some(slot) = table.get_mut(walk.step()) {
                if *slot == NOBODY {
                    *slot = walk.index;
                    break;
                }
            }
            left -= 1;
            if left == 0 {
                return table.into_boxed_slice();
            }
        }
    }
}

/// An endpoint's own order of all slots, and how far it has walked.
struct Walk {
    index: u16,
    weight: u32,
    place: usize,
    skip: usize,
    /// Weight saved up for its next turn.
    saved: u32,
}

impl Walk {
    fn new(index: u16, name: &str, weight: u16, key: HashKey) -> Self {
        let first = key.hash(name.as_bytes());
        let second = key.hash(&first.to_be_bytes());
        Self {
            index,
            weight: u32::from(weight),
            place: (first % Table::SLOTS as u64) as usize,
            skip: (second % (Table::SLOTS as u64 - 1)) as usize + 1,
            saved: 0,
        }
    }

    /// The next slot in its order.
    fn step(&mut self) -> usize {
        let place = self.place;
        self.place = (self.place + self.skip) % Table::SLOTS;
        place
    }
}
