//! Sliding windows: each counter keeps when it admitted, which is what makes it exact. Behind locks,
//! each for a part of the keys. Not for other algorithms: those are `cells`. Called by `local`.
//!
//! Invariant: a key that is pushed out is one that had the most left among those looked at, so a
//! flood of new keys pushes out itself and not the keys that are near their limit.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Hash;
use crate::stages::rate_limit::budget::{Standing, Verdict};

/// At most `count` in any `per` microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How many.
    pub count: u64,
    /// Length in microseconds.
    pub per: u64,
}

/// The counters of one process.
#[derive(Debug)]
pub struct Windows {
    shards: Vec<Mutex<Shard>>,
}

const SHARDS: usize = 16;

/// Entries looked at to find one to push out.
const SAMPLE: usize = 8;

impl Windows {
    /// None yet; at most so many keys, and bytes of admission times.
    pub fn new(keys: usize, bytes: usize) -> Self {
        let (keys, bytes) = ((keys / SHARDS).max(1), (bytes / SHARDS).max(1));
        Self { shards: (0..SHARDS).map(|_| Mutex::new(Shard::new(keys, bytes))).collect() }
    }

    /// Takes one unit if there is one: how it stands, and the time at which it was taken.
    pub fn charge(&self, key: Hash, window: Window, now: u64) -> (Standing, u64) {
        self.shard(key).charge(key, window, now)
    }

    /// Gives back a unit taken at `at`.
    pub fn refund(&self, key: Hash, at: u64) -> Option<Standing> {
        self.shard(key).refund(key, at)
    }

    /// Keys held at the moment.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).entries.len()).sum()
    }

    fn shard(&self, key: Hash) -> MutexGuard<'_, Shard> {
        lock(&self.shards[key.place as usize % SHARDS])
    }
}

/// A panic elsewhere leaves a counter at worst one unit off: no reason to stop counting.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Entry {
    key: Hash,
    window: Window,
    /// When each unit was admitted, oldest first, in microseconds.
    stamps: VecDeque<u64>,
}

impl Entry {
    fn settle(&mut self, now: u64) {
        while self.stamps.front().is_some_and(|oldest| oldest + self.window.per <= now) {
            self.stamps.pop_front();
        }
    }

    fn standing(&self, verdict: Verdict, now: u64) -> Standing {
        let remaining = self.window.count.saturating_sub(self.stamps.len() as u64);
        let next = |oldest: &u64| (oldest + self.window.per).saturating_sub(now);
        Standing { verdict, remaining, next: self.stamps.front().map_or(0, next), wait: 0 }
    }

    fn heap(&self) -> usize {
        self.stamps.capacity() * size_of::<u64>()
    }
}

#[derive(Debug)]
struct Shard {
    most: usize,
    most_bytes: usize,
    index: HashMap<Hash, usize>,
    entries: Vec<Entry>,
    bytes: usize,
    /// Where the next look for something to push out begins.
    hand: usize,
    /// The latest time seen: two workers may arrive in another order than they looked at the clock.
    latest: u64,
}

impl Shard {
    fn new(most: usize, most_bytes: usize) -> Self {
        let (index, entries) = (HashMap::new(), Vec::new());
        Self { most, most_bytes, index, entries, bytes: 0, hand: 0, latest: 0 }
    }

    fn charge(&mut self, key: Hash, window: Window, now: u64) -> (Standing, u64) {
        self.latest = self.latest.max(now);
        let now = self.latest;
        let at = match self.index.get(&key) {
            Some(at) => *at,
            None => self.insert(key, window, now),
        };
        let Some(entry) = self.entries.get_mut(at) else {
            return (Standing { verdict: Verdict::Refuse, remaining: 0, next: 0, wait: 0 }, now);
        };
        let before = entry.heap();
        entry.settle(now);
        let admits = (entry.stamps.len() as u64) < window.count;
        if admits {
            entry.stamps.push_back(now);
        }
        let verdict = if admits { Verdict::Admit } else { Verdict::Refuse };
        let standing = entry.standing(verdict, now);
        self.bytes = self.bytes + entry.heap() - before;
        if self.bytes > self.most_bytes {
            self.push_out(now, Some(at));
        }
        (standing, now)
    }

    fn refund(&mut self, key: Hash, now: u64) -> Option<Standing> {
        let entry = self.entries.get_mut(*self.index.get(&key)?)?;
        if let Some(at) = entry.stamps.iter().rposition(|stamp| *stamp == now) {
            entry.stamps.remove(at);
        }
        Some(entry.standing(Verdict::Admit, now))
    }

    fn insert(&mut self, key: Hash, window: Window, now: u64) -> usize {
        self.sweep(now);
        while self.entries.len() >= self.most {
            self.push_out(now, None);
        }
        let at = self.entries.len();
        self.index.insert(key, at);
        self.entries.push(Entry { key, window, stamps: VecDeque::new() });
        at
    }

    /// Every new key looks at two old ones, so that keys no longer used go as fast as new ones come.
    fn sweep(&mut self, now: u64) {
        for _ in 0..2 {
            let Some(at) = self.step() else { return };
            let entry = &mut self.entries[at];
            entry.settle(now);
            if entry.stamps.is_empty() {
                self.remove(at);
            }
        }
    }

    /// Removes, of a few entries, the one whose loss gives away least.
    fn push_out(&mut self, now: u64, keep: Option<usize>) {
        let mut best: Option<(usize, usize)> = None;
        for _ in 0..SAMPLE {
            let Some(at) = self.step() else { return };
            let entry = &mut self.entries[at];
            entry.settle(now);
            let spent = entry.stamps.len();
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
        self.bytes -= gone.heap();
        if let Some(moved) = self.entries.get(at) {
            self.index.insert(moved.key, at);
        }
    }
}

#[cfg(test)]
mod tests;
