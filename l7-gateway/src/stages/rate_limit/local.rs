//! Counters in this process: a sharded table that never grows beyond its bounds. Not for the
//! arithmetic (`budget`) nor for counters that instances share (`redis`). Called by the stage when
//! no limit store is configured, or while it is away and each instance spends its share.
//!
//! Invariant: a key that is pushed out is one that had the most left among those looked at, so a
//! flood of new keys pushes out itself and not the keys that are near their limit.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use topology::gateway::LimitId;

use super::budget::{Budget, Counter, Standing, Verdict};

/// Whose budget is charged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A client's network: the address itself, of IPv6 its /64. Made by [`Subject::address`].
    Address(IpAddr),
    /// A verified user, told apart by issuer where there are several.
    User(Arc<str>),
    /// A route by its name.
    Route(Arc<str>),
    /// Everybody.
    All,
}

impl Subject {
    /// The subject of a client's address. An IPv6 client owns a whole /64, so that is what is
    /// counted; an IPv4 address written as IPv6 counts as what it is.
    pub fn address(client: IpAddr) -> Self {
        Self::Address(match client.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        })
    }
}

/// One limit to charge for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Which limit; part of the counter's key.
    pub limit: LimitId,
    /// Whose counter.
    pub subject: Subject,
    /// What it may spend.
    pub budget: Budget,
}

/// How large a table may grow, all shards together.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most keys.
    pub keys: usize,
    /// Most bytes of admission times that sliding windows keep.
    pub bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { keys: 200_000, bytes: 64 << 20 }
    }
}

/// The counters of one process.
#[derive(Debug)]
pub struct Table {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

impl Table {
    /// An empty table.
    pub fn new(bounds: Bounds) -> Self {
        let shard =
            Bounds { keys: (bounds.keys / SHARDS).max(1), bytes: (bounds.bytes / SHARDS).max(1) };
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::new(shard))).collect();
        Self { shards, hasher: RandomState::new() }
    }

    /// Charges all limits of one request, or none of them. `now` is in microseconds of a clock that
    /// never goes back. One standing per charge, in their order.
    pub fn charge(&self, charges: &[Charge], now: u64) -> Vec<Standing> {
        let mut taken: Vec<(Standing, u64)> =
            charges.iter().map(|charge| self.shard(charge).charge(charge, now)).collect();
        if taken.iter().any(|(standing, _)| standing.verdict == Verdict::Refuse) {
            for (charge, (standing, at)) in charges.iter().zip(&mut taken) {
                if standing.verdict == Verdict::Admit {
                    *standing = self.shard(charge).refund(charge, *at).unwrap_or(*standing);
                }
            }
        }
        taken.into_iter().map(|(standing, _)| standing).collect()
    }

    /// Keys held at the moment.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).entries.len()).sum()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, charge: &Charge) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one((charge.limit, &charge.subject));
        lock(&self.shards[hash as usize % SHARDS])
    }
}

/// A panic elsewhere leaves a counter at worst one unit off: no reason to stop counting.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

const SHARDS: usize = 16;

/// Entries looked at to find one to push out.
const SAMPLE: usize = 8;

type Key = (LimitId, Subject);

#[derive(Debug)]
struct Entry {
    key: Key,
    budget: Budget,
    counter: Counter,
}

#[derive(Debug)]
struct Shard {
    bounds: Bounds,
    index: HashMap<Key, usize>,
    entries: Vec<Entry>,
    bytes: usize,
    /// Where the next look for something to push out begins.
    hand: usize,
    /// The latest time seen: two workers may arrive in another order than they looked at the clock.
    latest: u64,
}

impl Shard {
    fn new(bounds: Bounds) -> Self {
        Self { bounds, index: HashMap::new(), entries: Vec::new(), bytes: 0, hand: 0, latest: 0 }
    }

    /// The standing, and the time at which it was charged.
    fn charge(&mut self, charge: &Charge, now: u64) -> (Standing, u64) {
        self.latest = self.latest.max(now);
        let now = self.latest;
        let key = (charge.limit, charge.subject.clone());
        let at = match self.index.get(&key) {
            Some(at) => *at,
            None => self.insert(key, charge.budget, now),
        };
        let Some(entry) = self.entries.get_mut(at) else {
            return (Standing { verdict: Verdict::Refuse, remaining: 0, next: 0 }, now);
        };
        let before = entry.counter.heap();
        entry.budget = charge.budget;
        let standing = entry.budget.charge(&mut entry.counter, now);
        self.bytes = self.bytes + entry.counter.heap() - before;
        if self.bytes > self.bounds.bytes {
            self.push_out(now, Some(at));
        }
        (standing, now)
    }

    fn refund(&mut self, charge: &Charge, now: u64) -> Option<Standing> {
        let at = *self.index.get(&(charge.limit, charge.subject.clone()))?;
        let entry = self.entries.get_mut(at)?;
        Some(entry.budget.refund(&mut entry.counter, now))
    }

    fn insert(&mut self, key: Key, budget: Budget, now: u64) -> usize {
        self.sweep(now);
        while self.entries.len() >= self.bounds.keys {
            self.push_out(now, None);
        }
        let at = self.entries.len();
        self.index.insert(key.clone(), at);
        self.entries.push(Entry { key, budget, counter: budget.fresh(now) });
        at
    }

    /// Every new key looks at two old ones, so that keys no longer used go as fast as new ones come.
    fn sweep(&mut self, now: u64) {
        for _ in 0..2 {
            let Some(at) = self.step() else { return };
            let entry = &mut self.entries[at];
            entry.budget.settle(&mut entry.counter, now);
            if entry.budget.is_idle(&entry.counter) {
                self.remove(at);
            }
        }
    }

    /// Removes, of a few entries, the one whose loss gives away least.
    fn push_out(&mut self, now: u64, keep: Option<usize>) {
        let mut best: Option<(u64, usize)> = None;
        for _ in 0..SAMPLE {
            let Some(at) = self.step() else { return };
            let entry = &mut self.entries[at];
            entry.budget.settle(&mut entry.counter, now);
            let spent = entry.budget.most() - entry.budget.remaining(&entry.counter);
            if Some(at) != keep && best.is_none_or(|(least, _)| spent < least) {
                best = Some((spent, at));
            }
        }
        if let Some((_, at)) = best {
            self.remove(at);
        }
    }

    fn step(&mut self) -> Option<usize> {
        self.hand = (self.hand + 1).checked_rem(self.entries.len())?;
        Some(self.hand)
    }

    fn remove(&mut self, at: usize) {
        let gone = self.entries.swap_remove(at);
        self.index.remove(&gone.key);
        self.bytes -= gone.counter.heap();
        if let Some(moved) = self.entries.get(at) {
            self.index.insert(moved.key.clone(), at);
        }
    }
}

#[cfg(test)]
mod tests;
