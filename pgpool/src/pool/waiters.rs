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
    /// A place that begins to wait now.
    pub fn new(now: Instant) -> Rc<Self> {
        Rc::new(Self { since: Cell::new(Some(now)), ..Self::default() })
    }

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
pub struct Waiters(VecDeque<Rc<Waiter>>);

impl Waiters {
    /// Joins at the end.
    pub fn join(&mut self, waiter: Rc<Waiter>) {
        self.0.push_back(waiter);
    }

    /// How many wait. Those who left in the middle count until their turn comes or
    /// [`Waiters::tidy`] is called.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes who has left.
    pub fn tidy(&mut self) {
        self.0.retain(|waiter| !waiter.has_left());
    }

    /// Since when the first has waited.
    pub fn oldest(&self) -> Option<Instant> {
        self.0.front().and_then(|waiter| waiter.since.get())
    }

    /// Gives the server to who has waited longest, or back.
    pub fn give(&mut self, server: Box<Server>) -> Option<Box<Server>> {
        while let Some(waiter) = self.0.pop_front() {
            if !waiter.has_left() {
                waiter.put(Slot::Given(server));
                return None;
            }
        }
        Some(server)
    }

    /// Tells everybody that there will be none.
    pub fn fail(&mut self, refusal: &Refusal) {
        for waiter in self.0.drain(..) {
            if !waiter.has_left() {
                waiter.put(Slot::Failed(refusal.clone()));
            }
        }
    }
}
