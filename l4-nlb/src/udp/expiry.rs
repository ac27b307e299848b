//! The coarse clock of a worker, and lists ordered by it. Not for timers: one sweep per worker
//! looks at the old end of each list. Called by `flow` and the worker loop.
//!
//! Invariant: an index is in at most one list at a time (the caller's duty); every step is O(1).

use std::time::Duration;

/// Tenths of a second since the worker's start; enough for 13 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u32);

impl Tick {
    /// The length of a tick.
    pub const LENGTH: Duration = Duration::from_millis(100);

    /// So long after the worker's start.
    pub fn after(start: Duration) -> Self {
        Self(Self::count(start))
    }

    /// Whole ticks in a duration.
    pub fn count(duration: Duration) -> u32 {
        u32::try_from(duration.as_millis() / Self::LENGTH.as_millis()).unwrap_or(u32::MAX)
    }

    /// Time since an earlier one, as exact as ticks are.
    pub fn time_since(self, earlier: Self) -> Duration {
        Self::LENGTH * self.since(earlier)
    }

    /// Ticks since an earlier one.
    pub fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A doubly linked list of indexes whose links live with the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List {
    oldest: Option<u32>,
    youngest: Option<u32>,
}

/// An entry's links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Linked {
    older: Option<u32>,
    younger: Option<u32>,
}

impl Linked {
    /// The next one towards the young end.
    pub fn younger(self) -> Option<u32> {
        self.younger
    }
}

/// Where entries keep their links.
pub trait Links {
    /// The links of an entry.
    fn links(&mut self, index: u32) -> Option<&mut Linked>;
}

impl List {
    /// The one pushed longest ago.
    pub fn oldest(&self) -> Option<u32> {
        self.oldest
    }

    /// Puts an index at the young end.
    pub fn push(&mut self, index: u32, entries: &mut impl Links) {
        if let Some(own) = entries.links(index) {
            *own = Linked { older: self.youngest, younger: None };
        }
        match self.youngest.and_then(|former| entries.links(former)) {
            Some(former) => former.younger = Some(index),
            None => self.oldest = Some(index),
        }
        self.youngest = Some(index);
    }

    /// Takes an index out.
    pub fn remove(&mut self, index: u32, entries: &mut impl Links) {
        let own = entries.links(index).map(std::mem::take);
        let Some(Linked { older, younger }) = own else { return };
        match older.and_then(|neighbour| entries.links(neighbour)) {
            Some(neighbour) => neighbour.younger = younger,
            None => self.oldest = younger,
        }
        match younger.and_then(|neighbour| entries.links(neighbour)) {
            Some(neighbour) => neighbour.older = older,
            None => self.youngest = older,
        }
    }
}
