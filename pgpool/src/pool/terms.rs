//! What holds for one pool: its user's own terms, or else its database's, or else those of all. Not for what
//! is done by them. Called by the pool and its clients.
//!
//! Invariant: a term is looked up when it is needed, so that a reload and `SET` change it at once.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use topology::pool::{PoolMode, Settings};

use super::Pool;
use crate::fatal::Refusal;
use crate::server::Server;
use crate::worker::Worker;

/// Times that hold for the clients of a pool; zero: none.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `query_timeout`.
    pub query: Duration,
    /// `transaction_timeout`.
    pub transaction: Duration,
    /// `idle_transaction_timeout`.
    pub idle_transaction: Duration,
    /// `client_idle_timeout`.
    pub client_idle: Duration,
}

/// A server that session state ties to its client; counted until it is dropped.
pub struct Pinned(Rc<Pool>);

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.whole.unpin();
    }
}

impl Pool {
    /// Counts a server that is tied to its client from now on.
    ///
    /// # Errors
    /// There are `max_pinned`.
    pub fn pin(&self, worker: &Worker) -> Result<Pinned, Refusal> {
        let most = worker.snapshot().settings.max_pinned;
        if !self.whole.pin(most) {
            return Err(Refusal::TooManyPinned(most));
        }
        Ok(Pinned(self.me()))
    }

    /// Takes a server back between two transactions; by `server_reset_query_always` it is cleaned in full.
    pub fn release(&self, mut server: Box<Server>) {
        let worker = self.worker.upgrade();
        if worker.is_some_and(|worker| worker.settings().server_reset_query_always) {
            server.talk.ended = true;
        }
        self.checkin(server);
    }

    /// When a server connection goes back: as its user has it, or else its database.
    pub fn mode(&self) -> PoolMode {
        self.user.borrow().standing.terms.mode.unwrap_or(self.database.borrow().mode)
    }

    /// A name may lead elsewhere: servers that rest on an address which is its no more are closed when they are
    /// free, and the others are tried at once.
    pub(super) fn follow_names(&self, worker: &Worker) {
        let changes = worker.snapshot().names.changes();
        if self.named.replace(changes) == changes {
            return;
        }
        let astray: Vec<_> =
            self.servers().into_iter().filter(|facts| !facts.lead.holds()).collect();
        astray.iter().for_each(|facts| facts.condemned.set(true));
        self.sizing.borrow_mut().retry.worked();
        if !astray.is_empty() {
            self.hurry(worker);
        }
    }

    /// Since when its database has had no client and no server, looked at from time to time.
    pub fn is_deserted_since(&self, now: Instant) -> Option<Instant> {
        let idle = self.waiters.borrow().is_empty()
            && self.sizing.borrow().connecting() == 0
            && self.database.borrow().is_deserted();
        let since = idle.then(|| self.deserted.get().unwrap_or(now));
        self.deserted.set(since);
        since
    }

    /// `server_fast_close`: those who have a server look whether it is to go.
    pub(super) fn hurry(&self, worker: &Worker) {
        if worker.settings().server_fast_close && self.mode() == PoolMode::Session {
            let theirs = self.servers().into_iter().filter_map(|facts| facts.client.get());
            theirs.filter_map(|pid| worker.client(pid)).for_each(|entry| entry.wake());
        }
    }

    /// Times that hold for its clients.
    pub fn limits(&self, worker: &Worker) -> Limits {
        let user = self.user.borrow();
        let (terms, settings) = (&user.standing.terms, worker.settings());
        Limits {
            query: terms.query_timeout.unwrap_or(settings.query_timeout),
            transaction: terms.transaction_timeout.unwrap_or(settings.transaction_timeout),
            idle_transaction: terms
                .idle_transaction_timeout
                .unwrap_or(settings.idle_transaction_timeout),
            client_idle: self.client_idle(worker),
        }
    }

    /// Of these, the one that holds between two transactions.
    pub fn client_idle(&self, worker: &Worker) -> Duration {
        let own = self.user.borrow().standing.terms.client_idle_timeout;
        own.unwrap_or_else(|| worker.settings().client_idle_timeout)
    }

    /// `server_lifetime`; zero: for ever.
    pub(super) fn lifetime(&self) -> Duration {
        let own = self.database.borrow().terms.server_lifetime;
        own.or_else(|| Some(self.worker.upgrade()?.settings().server_lifetime)).unwrap_or_default()
    }

    /// `pool_size`: as its user has it, or else its database.
    pub fn size(&self) -> usize {
        let (database, user) = (self.database.borrow(), self.user.borrow());
        let own = user.standing.terms.pool_size.map_or(database.pool_size, NonZeroU32::get);
        own.min(database.most_per_user) as usize
    }

    pub(super) fn reserve(&self, settings: &Settings) -> usize {
        let own = self.user.borrow().standing.terms.reserve_pool_size;
        let own = own.or(self.database.borrow().terms.reserve_pool_size);
        own.unwrap_or(settings.reserve_pool_size) as usize
    }

    pub(super) fn least(&self, settings: &Settings) -> usize {
        // The process that takes over keeps them.
        if self.worker.upgrade().is_some_and(|worker| worker.successor().is_some()) {
            return 0;
        }
        self.database().terms.min_pool_size.unwrap_or(settings.min_pool_size) as usize
    }
}
