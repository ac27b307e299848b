//! Maglev consistent hashing (Eisenbud et al., NSDI 2016, §3.4), weighted, keyed. Not for
//! remembering flows. Called by `Balancer::select`.
//!
//! Invariant: the table depends on names, weights and key alone, never on the order of endpoints or
//! on which of them live. A client whose endpoint lives is never moved by the death of another.

use super::{Choice, HashKey};
use crate::service::Service;

/// The lookup table of one service: 128 KiB, built in milliseconds.
pub struct Maglev {
    table: Box<[u16]>,
    key: HashKey,
}

impl Maglev {
    /// Slots: a prime; large enough that removing one of N moves at most 0.6 % beyond its share.
    pub const SLOTS: usize = 65_537;

    /// The table over all endpoints of the service (at most 65 535), dead ones included.
    pub fn new(service: &Service, key: HashKey) -> Self {
        let endpoints = service.endpoints.iter().enumerate().take(usize::from(u16::MAX));
        let mut walks: Vec<Walk> = endpoints
            .map(|(index, e)| Walk::new(index as u16, e.name.as_str(), e.weight.0.max(1), key))
            .collect();
        walks.sort_by(|a, b| a.name.cmp(&b.name));
        Self { table: fill(&mut walks), key }
    }

    /// The owner of the hash's slot when all endpoints live.
    pub fn owner(&self, hash: u64) -> Option<usize> {
        self.table.get(slot(hash)).map(|&index| usize::from(index))
    }

    /// Slots per endpoint, for reporting the measured share.
    pub fn shares(&self) -> Vec<usize> {
        let mut shares = Vec::new();
        for &index in &self.table {
            let index = usize::from(index);
            if shares.len() <= index {
                shares.resize(index + 1, 0);
            }
            if let Some(share) = shares.get_mut(index) {
                *share += 1;
            }
        }
        shares
    }

    /// The owner, or, where it is not allowed, the owner of a further slot that the same hash leads
    /// to: so a dead endpoint's clients spread over the others by weight, and nobody else moves.
    pub(super) fn select(&self, choice: &Choice<'_>, hash: u64) -> Option<usize> {
        let mut hash = hash;
        for _ in 0..PROBES {
            let index = self.owner(hash)?;
            if choice.allows(index) {
                return Some(index);
            }
            hash = self.key.hash(&hash.to_be_bytes());
        }
        // Nearly all are dead: the next slot of a living one, or any endpoint without a slot.
        let (before, after) = self.table.split_at(slot(hash));
        let slots = after.iter().chain(before).map(|&index| usize::from(index));
        let mut last = usize::MAX;
        let mut changed = slots.filter(|&index| std::mem::replace(&mut last, index) != index);
        changed.find(|&index| choice.allows(index)).or_else(|| choice.from(0).next())
    }
}

impl std::fmt::Debug for Maglev {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maglev").field("shares", &self.shares()).finish()
    }
}

/// An endpoint's own order of all slots, and how far it has walked.
struct Walk {
    index: u16,
    name: String,
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
            name: name.to_owned(),
            weight: u32::from(weight),
            place: (first % Maglev::SLOTS as u64) as usize,
            skip: (second % (Maglev::SLOTS as u64 - 1)) as usize + 1,
            saved: 0,
        }
    }

    /// The next slot in its order.
    fn step(&mut self) -> usize {
        let place = self.place;
        self.place = (self.place + self.skip) % Maglev::SLOTS;
        place
    }
}

/// Endpoints take turns, the heaviest in every round and the others in proportion, each taking the
/// first free slot of its own order.
fn fill(walks: &mut [Walk]) -> Box<[u16]> {
    let mut table = vec![FREE; Maglev::SLOTS];
    let Some(heaviest) = walks.iter().map(|w| w.weight).max() else { return Box::default() };
    let mut left = Maglev::SLOTS;
    loop {
        for walk in &mut *walks {
            walk.saved += walk.weight;
            if walk.saved < heaviest {
                continue;
            }
            walk.saved -= heaviest;
            // SLOTS is prime, so a walk meets every slot, and a free one while `left` is not 0.
            while let Some(slot) = table.get_mut(walk.step()) {
                if *slot == FREE {
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

/// Which slot a hash falls in.
fn slot(hash: u64) -> usize {
    (hash % Maglev::SLOTS as u64) as usize
}

/// No endpoint has this index.
const FREE: u16 = u16::MAX;

/// Further slots tried at random before the table is walked.
const PROBES: usize = 24;
