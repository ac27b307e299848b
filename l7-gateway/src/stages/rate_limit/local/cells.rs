//! Counters that are one number each: found and changed without a lock, by one compare-and-swap. Only
//! a key that is new takes one. Not for what the numbers mean (`budget`). Called by `local`.
//!
//! The table begins small and grows by whole generations: those that were there stay where they are
//! and are looked at too, so nothing is ever moved.
//!
//! Invariant: never more than its bound; a key that is pushed out is one that had the most left among
//! those looked at, so a flood of new keys pushes out itself and not the keys that are near their limit.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::Hash;
use crate::stages::rate_limit::budget::Budget;

/// The counters of one process.
#[derive(Debug)]
pub struct Cells {
    budgets: Vec<Budget>,
    generations: Vec<OnceLock<Generation>>,
    /// Cells of each generation, whether it is there or not.
    sizes: Vec<usize>,
    /// For keys that are new: nobody else puts the same one in meanwhile.
    locks: Vec<Mutex<()>>,
}

#[derive(Debug)]
struct Generation {
    buckets: Box<[Bucket]>,
    /// Cells that were ever taken.
    used: AtomicUsize,
}

/// One cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([Cell; CELLS]);

#[derive(Debug, Default)]
struct Cell {
    /// Whose it is: a part of the key's hash, and which limit.
    tag: AtomicU64,
    counter: AtomicU64,
}

const CELLS: usize = 4;
const LOCKS: usize = 64;
/// Cells of the first generation; each one after it has eight times as many.
const FIRST: usize = 4096;
const GROWTH: usize = 8;

/// Nobody's.
const EMPTY: u64 = 0;
/// About to be somebody's.
const BUSY: u64 = 1;

impl Cells {
    /// For these limits; at most about so many keys.
    pub fn new(budgets: Vec<Budget>, keys: usize) -> Self {
        let mut sizes = Vec::new();
        let (mut all, mut next) = (0, FIRST);
        while all < keys {
            let size = next.min((keys - all).next_power_of_two()).max(CELLS);
            sizes.push(size);
            (all, next) = (all + size, next * GROWTH);
        }
        let generations = sizes.iter().map(|_| OnceLock::new()).collect();
        let locks = (0..LOCKS).map(|_| Mutex::default()).collect();
        Self { budgets, generations, sizes, locks }
    }

    /// Changes a counter by `change`, which is asked again when somebody else was faster.
    pub fn update<T>(&self, key: Hash, now: u64, mut change: impl FnMut(u64) -> (u64, T)) -> T {
        loop {
            let Some(cell) = self.find(key) else {
                self.insert(key, now);
                continue;
            };
            let counter = cell.counter.load(Ordering::Acquire);
            // Pushed out while we looked at it.
            if cell.tag.load(Ordering::Acquire) != key.tag {
                continue;
            }
            let (after, told) = change(counter);
            let same = after == counter;
            if same || swapped(&cell.counter, counter, after) {
                return told;
            }
        }
    }

    /// The same, for a key that may have been pushed out.
    pub fn revise<T>(&self, key: Hash, mut change: impl FnMut(u64) -> (u64, T)) -> Option<T> {
        loop {
            let cell = self.find(key)?;
            let counter = cell.counter.load(Ordering::Acquire);
            let (after, told) = change(counter);
            if swapped(&cell.counter, counter, after) {
                return Some(told);
            }
        }
    }

    /// Keys that are held and say anything.
    #[cfg(test)]
    fn len(&self, now: u64) -> usize {
        let there = self.generations.iter().filter_map(OnceLock::get);
        let cells = there.flat_map(|one| one.buckets.iter()).flat_map(|bucket| &bucket.0);
        cells.filter(|cell| self.worth(cell, now).is_some_and(|spent| spent > 0)).count()
    }

    fn find(&self, key: Hash) -> Option<&Cell> {
        let there = self.generations.iter().rev().filter_map(OnceLock::get);
        there.flat_map(|one| one.both(key)).find(|cell| cell.tag.load(Ordering::Acquire) == key.tag)
    }

    fn insert(&self, key: Hash, now: u64) {
        let lock = self.locks.get(key.place as usize % LOCKS);
        let _alone = lock.map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
        while self.find(key).is_none() {
            let Some(cell) = self.room(key, now) else { continue };
            let fresh = self.budget(key.tag).map_or(0, |budget| budget.fresh(now));
            cell.counter.store(fresh, Ordering::Release);
            cell.tag.store(key.tag, Ordering::Release);
        }
    }

    /// A cell that nobody else takes from now on; `None`: somebody was faster.
    fn room(&self, key: Hash, now: u64) -> Option<&Cell> {
        let last = self.generations.iter().rposition(|one| one.get().is_some()).unwrap_or(0);
        let mut generation = self.generation(last)?;
        let crowded = generation.used.load(Ordering::Relaxed) * 5 > self.sizes.get(last)? * 3;
        let worth = |cell: &&Cell| self.worth(cell, now).unwrap_or(u64::MAX);
        let mut cell = generation.both(key).min_by_key(worth)?;
        if (crowded || worth(&cell) > 0) && last + 1 < self.sizes.len() {
            generation = self.generation(last + 1)?;
            cell = generation.both(key).min_by_key(worth)?;
        }
        let old = cell.tag.load(Ordering::Acquire);
        let won = old != BUSY && swapped(&cell.tag, old, BUSY);
        if won && old == EMPTY {
            generation.used.fetch_add(1, Ordering::Relaxed);
        }
        won.then_some(cell)
    }

    fn generation(&self, at: usize) -> Option<&Generation> {
        let size = *self.sizes.get(at)?;
        let make = || Generation {
            buckets: (0..size / CELLS).map(|_| Bucket::default()).collect(),
            used: AtomicUsize::new(0),
        };
        Some(self.generations.get(at)?.get_or_init(make))
    }

    /// What would be given away with a cell; `None`: it is about to be somebody's.
    fn worth(&self, cell: &Cell, now: u64) -> Option<u64> {
        match cell.tag.load(Ordering::Acquire) {
            EMPTY => Some(0),
            BUSY => None,
            tag => {
                let counter = cell.counter.load(Ordering::Acquire);
                let spent = |budget: &Budget| match budget.is_idle(counter, now) {
                    true => 0,
                    false => budget.spent(counter, now).max(1),
                };
                Some(self.budget(tag).map_or(0, spent))
            }
        }
    }

    fn budget(&self, tag: u64) -> Option<&Budget> {
        self.budgets.get(Hash::limit(tag))
    }
}

impl Generation {
    /// Where a key may be.
    fn both(&self, key: Hash) -> impl Iterator<Item = &Cell> {
        let mask = self.buckets.len() - 1;
        let (one, other) = (key.place as usize & mask, (key.place >> 32) as usize & mask);
        [one, other].into_iter().filter_map(|at| self.buckets.get(at)).flat_map(|bucket| &bucket.0)
    }
}

fn swapped(cell: &AtomicU64, old: u64, new: u64) -> bool {
    cell.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

#[cfg(test)]
mod tests;
