//! How a client gets a server of its pool: one that is free, or a place in the queue. Not for how one comes back:
//! that is `checkin`. Part of the pool.
//!
//! Invariant: nobody is served before who has waited longer.

use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::waiters::Waiter;
use super::{Pool, add, reset};
use crate::fatal::Refusal;
use crate::server::{Server, ServerPhase};

impl Pool {
    /// A server that is free right now, if nobody is before us.
    pub fn take(&self, cx: &mut Context<'_>, now: Instant) -> Option<Box<Server>> {
        if self.paused.get() || !self.waiters.borrow().is_empty() {
            return None;
        }
        let mut taken = None;
        while let Some(mut server) = self.next_idle() {
            // One that was closed, or that said anything but a notice, is of no use.
            if reset::is_quiet(&mut server, cx) && self.is_welcome(&server) {
                taken = Some(self.assign(server, now));
                break;
            }
            self.discard(server);
        }
        self.show();
        taken
    }

    /// Last in, first out, so that the rest may grow old and be closed; or `server_round_robin`.
    fn next_idle(&self) -> Option<Box<Server>> {
        let mut idle = self.idle.borrow_mut();
        let in_turn = || Some(self.worker.upgrade()?.settings().server_round_robin);
        if idle.len() > 1 && in_turn() == Some(true) {
            return Some(idle.remove(0));
        }
        idle.pop()
    }

    /// A place in the queue; [`Pool::leave`] it in the end.
    pub fn queue(&self, now: Instant) -> Rc<Waiter> {
        let waiter = self.waiters.borrow_mut().join(now);
        self.show();
        self.grow();
        self.ask();
        waiter
    }

    /// Waits for a server in the queue.
    pub fn poll_waiter(
        &self,
        waiter: &Rc<Waiter>,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Poll<Result<Box<Server>, Refusal>> {
        loop {
            match std::task::ready!(waiter.poll(cx)) {
                // Since it was given it may have ceased to be what the pool is for.
                Ok(server) if !self.is_welcome(&server) => {
                    self.waiters.borrow_mut().rejoin(Rc::clone(waiter));
                    self.discard(server);
                    self.show();
                    self.grow();
                    self.ask();
                }
                Ok(server) => return Poll::Ready(Ok(self.assign(server, now))),
                Err(refusal) => return Poll::Ready(Err(refusal)),
            }
        }
    }

    /// Gives up a place, or gives it back after its turn.
    pub fn leave(&self, waiter: &Rc<Waiter>) {
        if let Some(server) = waiter.leave() {
            self.put(server);
        }
        if self.waiters.borrow_mut().part(waiter) {
            self.show();
        }
    }

    fn assign(&self, server: Box<Server>, now: Instant) -> Box<Server> {
        server.facts.phase.set(ServerPhase::Active);
        server.facts.used.set(now);
        add(&self.meters.totals.assignments, 1);
        server
    }
}
