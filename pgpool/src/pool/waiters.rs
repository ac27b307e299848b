//! Clients that wait for a server, first come, first served. Not for what they wait with. Called by
//! the pool's checkout and checkin.
//!
//! Invariant: a server that is given is either taken by its waiter or goes back to the pool; it is
//! never lost and never given twice.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use crate::fatal::Refusal;
use crate::server::Server;

/// A place in the queue.
#[derive(Default)]
pub struct Waiter {
    slot: Cell<Slot>,
    waker: RefCell<Option<Waker>>,
    since: Cell<Option<Instant>>,
}

#[derive(Default)]
enum Slot {
    #[default]
    Empty,
    Given(Box<Server>),
    Failed(Refusal),
    Left,
}

impl Waiter {
    /// What came.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Box<Server>, Refusal>> {
        match self.slot.take() {
            Slot::Given(server) => Poll::Ready(Ok(server)),
            Slot::Failed(refusal) => Poll::Ready(Err(refusal)),
            Slot::Empty | Slot::Left => {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Gives up the place; what was given in the meantime comes back.
    pub fn leave(&self) -> Option<Box<Server>> {
        match self.slot.replace(Slot::Left) {
            Slot::Given(server) => Some(server),
            Slot::Empty | Slot::Failed(_) | Slot::Left => None,
        }
    }

    fn put(&self, slot: Slot) {
        self.slot.set(slot);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn has_left(&self) -> bool {
        let slot = self.slot.take();
        let left = matches!(slot, Slot::Left);
        self.slot.set(slot);
        left
    }
}

/// The queue of one pool.
#[derive(Default)]
pub struct Waiters {
    queue: VecDeque<Rc<Waiter>>,
    /// Places of those who have been served, for the next ones.
    used: Vec<Rc<Waiter>>,
}

/// Used places that are kept.
const MOST_USED: usize = 64;

impl Waiters {
    /// Joins at the end, and waits from now on.
    pub fn join(&mut self, now: Instant) -> Rc<Waiter> {
        let waiter = self.used.pop().unwrap_or_default();
        waiter.since.set(Some(now));
        self.queue.push_back(Rc::clone(&waiter));
        waiter
    }

    /// Takes back the place of somebody who was served, or has left; whether it stood in the queue still.
    pub fn part(&mut self, waiter: &Rc<Waiter>) -> bool {
        let queued = Rc::strong_count(waiter) > 1;
        if queued {
            self.tidy();
        }
        if self.used.len() < MOST_USED {
            waiter.slot.set(Slot::Empty);
            *waiter.waker.borrow_mut() = None;
            self.used.push(Rc::clone(waiter));
        }
        queued
    }

    /// Comes first again: what was given to it is of no use.
    pub fn rejoin(&mut self, waiter: Rc<Waiter>) {
        self.queue.push_front(waiter);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Removes who has left.
    fn tidy(&mut self) {
        self.queue.retain(|waiter| !waiter.has_left());
    }

    /// Since when the first has waited.
    pub fn oldest(&self) -> Option<Instant> {
        self.queue.front().and_then(|waiter| waiter.since.get())
    }

    /// Gives the server to who has waited longest, or back.
    pub fn give(&mut self, server: Box<Server>) -> Option<Box<Server>> {
        while let Some(waiter) = self.queue.pop_front() {
            if !waiter.has_left() {
                waiter.put(Slot::Given(server));
                return None;
            }
        }
        Some(server)
    }

    /// Tells everybody that there will be none.
    pub fn fail(&mut self, refusal: &Refusal) {
        for waiter in self.queue.drain(..) {
            if !waiter.has_left() {
                waiter.put(Slot::Failed(refusal.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place is another's only when nobody waits at it any more and the queue has forgotten it.
    #[tokio::test]
    async fn places_are_used_again_when_they_are_free() {
        let (mut waiters, now) = (Waiters::default(), Instant::now());
        let first = waiters.join(now);
        let second = waiters.join(now);
        assert!(!Rc::ptr_eq(&first, &second));
        assert!(first.leave().is_none());
        assert!(waiters.part(&first), "it stood in the queue");
        assert_eq!(waiters.len(), 1);
        let known = Rc::as_ptr(&first);
        drop(first);
        let third = waiters.join(now);
        assert!(std::ptr::eq(known, Rc::as_ptr(&third)));
        assert!(!third.has_left(), "it waits anew");
        assert_eq!(waiters.len(), 2);
        waiters.fail(&Refusal::Killed);
        assert!(!waiters.part(&second), "it has been told");
    }
}
