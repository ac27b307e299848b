//! Server connections of a pool that are given to nobody: one per client that replicates, and the one that listens
//! for all. Not for what is said on them: that is `client::replication` and `ear`, which call it.
//!
//! Invariant: they count in the limits, and none of them is ever given to anybody else.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use pgpool_wire::startup::Replication;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use topology::pool::ServerAddress;

use super::Pool;
use super::sizing::{Begins, MOST_CONNECTING, Made, Places, Retry};
use super::whole::{Connect, Permit};
use crate::client::entry::Busy;
use crate::fatal::Refusal;
use crate::server::connect::Asked;
use crate::server::{Server, ServerPhase};
use crate::snapshot::Beside;
use crate::worker::Worker;

/// Clients that wait for room for a server of their own.
#[derive(Default)]
pub struct Apart {
    waiting: Cell<usize>,
    freed: Notify,
    /// A server that lets nobody in meets no storm: when the next connect may be tried.
    retry: RefCell<Retry>,
    /// A pause closes what is apart; `SUSPEND` leaves it.
    closes: Cell<bool>,
}

impl Apart {
    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// Whether a pause closes them.
    pub(super) fn set_closing(&self, closes: bool) {
        self.closes.set(closes);
    }

    /// There may be room now.
    pub fn tell(&self) {
        if self.waiting() > 0 {
            self.freed.notify_waiters();
        }
    }
}

/// One of those who wait.
struct Turn<'a>(&'a Pool);

impl<'a> Turn<'a> {
    fn new(of: &'a Pool) -> Self {
        of.apart.waiting.set(of.apart.waiting() + 1);
        of.whole.count_apart(true);
        Self(of)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.apart.waiting.set(self.0.apart.waiting() - 1);
        self.0.whole.count_apart(false);
    }
}

/// A connect under way.
struct Connecting(Rc<Pool>, Option<Connect>);

impl Connecting {
    fn new(pool: Rc<Pool>, turn: Connect) -> Self {
        pool.sizing.borrow_mut().count(Begins::Yes);
        Self(pool, Some(turn))
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.sizing.borrow_mut().count(Begins::No);
        self.1.take().into_iter().for_each(|turn| self.0.next_turn(turn));
        self.0.apart.tell();
    }
}

/// Places of the connection that listens.
pub type EarPlaces = (Places, Beside, Beside);

/// Whether there is room for the connection that listens.
pub enum Room {
    /// There is.
    Here(EarPlaces),
    /// Perhaps soon.
    Later,
    /// There is none while the limits are full.
    Never,
}

impl Pool {
    /// Room for the pool's ear: beside its size, within the limits that it shares.
    pub fn room_to_listen(&self) -> Room {
        if self.is_paused() || !self.knows_servers() {
            return Room::Later;
        }
        // Those who listen leave room for one that works.
        let database = Beside::enter(&self.database().connections);
        let (Some(database), Some(user)) =
            (database, Beside::enter(&self.user().standing.connections))
        else {
            return Room::Never;
        };
        match self.places() {
            Some(places) => Room::Here((places, database, user)),
            None if self.is_closing() || self.give_up_one() => Room::Later,
            None => Room::Never,
        }
    }

    /// Whether a connect may be tried by now: a server that lets nobody in meets no storm.
    pub fn may_connect(&self, now: Instant) -> bool {
        self.sizing.borrow().retry.at.is_none_or(|at| at <= now)
    }

    /// What became of a try to connect the one that listens.
    pub fn tried(&self, worker: &Worker, worked: bool) {
        worker.tick();
        let longest = worker.snapshot().settings.server_login_retry;
        let mut sizing = self.sizing.borrow_mut();
        match worked {
            true => sizing.retry.worked(),
            false => sizing.retry.failed(worker.now(), longest),
        }
    }

    /// How often it was told to `RECONNECT`.
    pub fn generation(&self) -> u64 {
        self.whole.generation()
    }

    /// The number of an address among its family's members.
    pub fn member(&self, address: &ServerAddress) -> Option<usize> {
        self.membership()?.family.members.iter().position(|other| other == address)
    }

    /// Whether what was connected so is still what the pool is for.
    pub fn is_listened_on(&self, member: Option<usize>, generation: u64) -> bool {
        let serves = match (self.membership(), member) {
            (Some(one), Some(member)) => one.family.serves(one.role, member),
            (None, None) => true,
            _ => false,
        };
        serves && generation == self.generation()
    }

    /// Connects a server for one client alone, and tells what it says of itself. Waits for room as long as
    /// queries wait for a server; before them, so that the turn of a server that is freed is seen at all.
    ///
    /// # Errors
    /// What the client must be told. Cancelling gives its turn up.
    pub async fn connect_apart(
        &self,
        worker: &Worker,
        asked: Asked<'_>,
    ) -> Result<(Box<Server>, Vec<(String, String)>), Refusal> {
        let (places, _connecting) = self.room(worker).await?;
        let generation = self.whole.generation();
        let outcome = self.try_each(worker, asked).await;
        worker.tick();
        match outcome {
            Ok((address, ready)) => {
                self.apart.retry.borrow_mut().worked();
                let said = ready.welcome.clone();
                let made = Made { generation, replication: asked.replication };
                let server = self.enrol(worker, &address, ready, (places, made));
                server.facts.phase.set(ServerPhase::Active);
                Ok((server, said))
            }
            Err(fault) => {
                worker.count_error();
                let longest = worker.snapshot().settings.server_login_retry;
                self.apart.retry.borrow_mut().failed(worker.now(), longest);
                Err(self.unavailable(&fault))
            }
        }
    }

    /// Whether these connections are to go: at a `PAUSE`, not at a `SUSPEND`.
    pub fn closes_apart(&self) -> bool {
        self.is_paused() && self.apart.closes.get()
    }

    /// Those who replicate look whether they are to go.
    pub(super) fn tell_apart(&self) {
        let Some(worker) = self.worker.upgrade() else { return };
        let theirs = self.servers().into_iter().filter(|it| it.replication != Replication::No);
        let clients = theirs.filter_map(|facts| worker.client(facts.client.get()?));
        clients.for_each(|entry| entry.wake());
    }

    /// Closes a server of one client alone, who is gone; what it works on is of no use any more.
    pub fn part(&self, server: Box<Server>, works: Busy) {
        server.facts.client.set(None);
        if works == Busy::Yes {
            super::reset::cancel(self, &server);
        }
        self.discard(server);
    }

    /// Waits for a place among the pool's servers and in the limits that it shares.
    async fn room(&self, worker: &Worker) -> Result<((Places, Permit), Connecting), Refusal> {
        let wait = worker.snapshot().settings.query_wait_timeout;
        let retry = self.apart.retry.borrow().at;
        let room = async {
            if let Some(at) = retry {
                tokio::time::sleep_until(at).await;
            }
            let _turn = Turn::new(self);
            loop {
                let freed = self.apart.freed.notified();
                if let Some(room) = self.room_now() {
                    return room;
                }
                freed.await;
            }
        };
        if wait.is_zero() {
            return Ok(room.await);
        }
        timeout(wait, room).await.map_err(|_| Refusal::QueryWait(wait))
    }

    fn room_now(&self) -> Option<((Places, Permit), Connecting)> {
        if self.is_paused() || !self.knows_servers() {
            return None;
        }
        let Some(permit) = Permit::enter(&self.whole, self.size()) else {
            // Its place is free once it has gone.
            if self.whole.lacks_place(self.size()) && !self.give_up_one() {
                self.ask_to_close();
            }
            return None;
        };
        let turn = Connect::enter(&self.whole, MOST_CONNECTING)?;
        Some(((self.places()?, permit), Connecting::new(self.me(), turn)))
    }
}
