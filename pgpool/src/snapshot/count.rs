//! Bounded numbers that all workers share: clients, server connections. Not for what they count. Kept by
//! the snapshot, from one to the next.
//!
//! Invariant: nobody enters beyond the bound, and who is dropped has left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A bounded number that all workers share.
#[derive(Debug)]
pub struct Count {
    now: AtomicU32,
    most: AtomicU32,
    /// Of those now, who only listen.
    ears: AtomicU32,
}

/// One of a [`Count`]; given back when dropped.
#[derive(Debug)]
pub struct Held(Arc<Count>);

/// One that listens, beside its [`Held`]: all of these together leave one place to others.
#[derive(Debug)]
pub struct Beside(Arc<Count>);

impl Count {
    /// At most `most`; 0: no bound.
    pub fn new(most: u32) -> Arc<Self> {
        let (now, ears) = (AtomicU32::new(0), AtomicU32::new(0));
        Arc::new(Self { now, most: AtomicU32::new(most), ears })
    }

    /// One more, unless the bound is reached.
    pub fn enter(&self) -> bool {
        let most = self.most();
        let enter = |now: u32| (most == 0 || now < most).then_some(now + 1);
        self.now.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).is_ok()
    }

    /// One less.
    pub fn leave(&self) {
        self.now.fetch_sub(1, Ordering::AcqRel);
    }

    /// How many there are.
    pub fn now(&self) -> u32 {
        self.now.load(Ordering::Acquire)
    }

    /// The bound; 0: none.
    pub fn most(&self) -> u32 {
        self.most.load(Ordering::Acquire)
    }
}

/// Bounds that a file gives to counts that are in use: they hold once all of it was read.
#[derive(Default)]
pub(super) struct Bounds(Vec<(Arc<Count>, u32)>);

impl Bounds {
    /// The same count, which is to have another bound, or a new one: whoever is counted stays counted.
    pub(super) fn again(&mut self, before: Option<&Arc<Count>>, most: u32) -> Arc<Count> {
        let Some(count) = before else { return Count::new(most) };
        self.0.push((Arc::clone(count), most));
        Arc::clone(count)
    }

    /// The bound that a count has, or is to have.
    pub(super) fn most(&self, of: &Arc<Count>) -> u32 {
        let next = self.0.iter().rev().find(|(count, _)| Arc::ptr_eq(count, of));
        next.map_or_else(|| of.most(), |(_, most)| *most)
    }

    /// They hold from now on.
    pub(super) fn hold(self) {
        self.0.iter().for_each(|(count, most)| count.most.store(*most, Ordering::Release));
    }
}

impl Held {
    /// Takes one; `None`: the bound is reached.
    pub fn enter(of: &Arc<Count>) -> Option<Self> {
        of.enter().then(|| Self(Arc::clone(of)))
    }

    /// Takes one for who has had one elsewhere, whatever the bound.
    pub fn keep(of: &Arc<Count>) -> Self {
        of.now.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(of))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Beside {
    /// `None`: nobody else would have a place.
    pub fn enter(of: &Arc<Count>) -> Option<Self> {
        let most = of.most();
        let enter = |ears: u32| (most == 0 || ears + 1 < most).then_some(ears + 1);
        let entered = of.ears.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter);
        entered.is_ok().then(|| Self(Arc::clone(of)))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.ears.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact() {
        let count = Count::new(2);
        assert!(count.enter() && count.enter() && !count.enter());
        count.leave();
        assert!(count.enter());
        assert!((0..100).all(|_| Count::new(0).enter()));
    }

    /// T9: a bound that a file gives holds when the file does, and is told to those that go by it before.
    #[test]
    fn bounds_hold_when_all_was_read() {
        let count = Count::new(1);
        let mut refused = Bounds::default();
        refused.again(Some(&count), 2);
        assert_eq!((count.most(), refused.most(&count)), (1, 2));
        drop(refused);
        assert_eq!(count.most(), 1);
        let mut read = Bounds::default();
        assert!(Arc::ptr_eq(&read.again(Some(&count), 3), &count));
        read.hold();
        assert_eq!(count.most(), 3);
    }

    /// P2: however many listen, one place is left to those who work.
    #[test]
    fn ears_leave_a_place() {
        let count = Count::new(3);
        let (first, second) = (Beside::enter(&count), Beside::enter(&count));
        assert!(first.is_some() && second.is_some() && Beside::enter(&count).is_none());
        drop(first);
        assert!(Beside::enter(&count).is_some());
        assert!(Beside::enter(&Count::new(1)).is_none() && Beside::enter(&Count::new(0)).is_some());
    }
}
