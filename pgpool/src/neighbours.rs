//! What workers do together for pools: where each is at home, over which its clients are spread, and how room in a
//! limit that pools share is found wherever it is. Not for one pool's own shards: that is `pool::lending`. Called by
//! whoever brings a client to its worker, by pools and for messages of other workers.
//!
//! Invariant: a client of a pool that is not spread comes to one worker, whoever accepts it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use crate::ear::far;
use crate::pool::Pool;
use crate::pool::lending::{Says, Word};
use crate::snapshot::{Count, Snapshot};
use crate::worker::{Message, Worker};

/// The worker that a pool is at home on. Limits that several users of a database share keep them
/// together.
pub fn home(snapshot: &Snapshot, database: &str, user: &str, workers: usize) -> usize {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = foldhash::fast::FixedState::with_seed(0).build_hasher();
    let known = snapshot.databases.get(database);
    hasher.write(known.map_or(database, |known| known.family_name()).as_bytes());
    if !snapshot.together {
        hasher.write_u8(0);
        hasher.write(snapshot.role(database, user).as_bytes());
    }
    (hasher.finish() % workers.max(1) as u64) as usize
}

/// The worker that serves a client of a pool: one of those over which it is spread, the next for each `turn`.
pub fn shard(
    snapshot: &Snapshot,
    (database, user): (&str, &str),
    workers: usize,
    turn: usize,
) -> usize {
    let home = home(snapshot, database, user, workers);
    let shards = snapshot.shards(database).clamp(1, workers.max(1));
    (home + turn % shards) % workers.max(1)
}

/// The same for a client whose number names a worker: that one, if it may be.
pub fn shard_again(
    snapshot: &Snapshot,
    (database, user): (&str, &str),
    workers: usize,
    named: usize,
) -> usize {
    let home = home(snapshot, database, user, workers);
    let workers = workers.max(1);
    shard(snapshot, (database, user), workers, (named % workers + workers - home) % workers)
}

/// A pool that wants room in a limit, on its way from worker to worker.
pub struct Asking {
    database: String,
    user: String,
    /// Which of the two is full.
    full: (bool, bool),
    /// Where it began, and which pool it is.
    from: (usize, usize),
}

/// Between two rounds for room: a limit that stays full is asked about no more often.
const ROUNDS: Duration = Duration::from_millis(20);

fn is_full(count: &Arc<Count>) -> bool {
    count.most() > 0 && count.now() >= count.most()
}

impl Asking {
    fn of(pool: &Pool, from: usize) -> Self {
        let (database, user) = (pool.database(), pool.user());
        let full = (is_full(&database.connections), is_full(&user.standing.connections));
        let from = (from, Arc::as_ptr(&pool.whole) as usize);
        Self { database: database.name.clone(), user: user.name.clone(), full, from }
    }

    fn shares(&self, pool: &Pool) -> bool {
        let database = self.full.0 && pool.database().name == self.database;
        let user = self.full.1 && pool.user().name == self.user;
        // Its own shards lend to each other.
        let own = Arc::as_ptr(&pool.whole) as usize == self.from.1;
        !own && (database || user)
    }
}

impl Worker {
    /// Forgets pools of databases that `*` stands for and that have had nobody for `autodb_idle_timeout`, and then
    /// the databases. One that is named again is made again.
    pub(crate) fn forget_unused(&self, pools: &[Rc<Pool>], now: Instant) {
        let (snapshot, most) = (self.snapshot(), self.settings().autodb_idle_timeout);
        if most.is_zero() || !snapshot.has_any() {
            return;
        }
        for pool in pools.iter().filter(|pool| snapshot.is_found(&pool.whole.key.0)) {
            // Who is about to use it has it: the map, this list and nobody else may.
            let unused = pool.is_deserted_since(now).is_some_and(|since| now - since >= most);
            if unused && Rc::strong_count(pool) <= 2 {
                self.forget(&pool.whole.key);
            }
        }
        if self.id.0 == 0 {
            let held = self.held();
            snapshot.forget_found(|name| held.iter().any(|(other, _)| other == name));
        }
    }

    /// Counts clients that are sent to shards.
    pub fn next_turn(&self) -> usize {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn
    }

    /// Says something to another worker, or to itself.
    ///
    /// # Errors
    /// It has ended; what was not said.
    pub fn say(&self, to: usize, message: Message) -> Result<(), Message> {
        let Some(peer) = self.peers.get(to) else { return Err(message) };
        peer.send(message).map_err(|unsent| unsent.0)
    }

    /// Says something to all other workers.
    pub fn tell_others(&self, message: impl Fn() -> Message) {
        let others = self.peers.iter().enumerate().filter(|(at, _)| *at != self.id.0);
        let tell = |(_, peer): (usize, &UnboundedSender<Message>)| peer.send(message());
        // Whoever has ended waits for nothing.
        others.for_each(|other| drop(tell(other)));
    }

    /// A place may be free, or another server the primary: pools look whether they waited for it.
    pub fn look(&self) {
        for pool in self.pools() {
            pool.look();
        }
    }

    /// For the shard that is here.
    pub(crate) fn hear(self: &Rc<Self>, Word { pool, says }: Word) {
        let says = match says {
            Says::Ear(at, id, ask) => return far::hear(self, &pool, (at, id), ask),
            says => says,
        };
        if let Some(known) = self.known(&pool.key).filter(|known| Arc::ptr_eq(&known.whole, &pool))
        {
            return known.hear(says);
        }
        // It has left the configuration; a server that comes now is closed.
        if let Says::Ask(_, to) = says {
            let says = Says::Nothing(self.id.0);
            let _ended = self.say(to, Message::Shard(Box::new(Word { pool, says })));
        }
    }

    /// Closes an idle server of another pool that shares a limit with `asking`.
    pub fn make_room(&self, asking: &Pool) {
        self.close_for(&Asking::of(asking, self.id.0));
    }

    /// Lets other workers do so, one after the other until one has.
    pub(crate) fn ask_for_room(&self, pool: &Pool) {
        let asking = Asking::of(pool, self.id.0);
        let soon = self.asked_at.get().is_some_and(|at| self.now() < at + ROUNDS);
        if soon || self.peers.len() < 2 || asking.full == (false, false) {
            return;
        }
        self.asked_at.set(Some(self.now()));
        self.pass(Box::new(asking));
    }

    pub(crate) fn give_room(&self, asking: Box<Asking>) {
        if asking.from.0 != self.id.0 && !self.close_for(&asking) {
            self.pass(asking);
        }
    }

    /// To the next worker that has not ended.
    fn pass(&self, asking: Box<Asking>) {
        let mut message = Message::Room(asking);
        for step in 1..self.peers.len() {
            match self.say((self.id.0 + step) % self.peers.len(), message) {
                Ok(()) => return,
                Err(unsent) => message = unsent,
            }
        }
    }

    /// Whether a server of those who share the limit is on its way out now.
    fn close_for(&self, asking: &Asking) -> bool {
        let pools = self.pools();
        let others: Vec<_> = pools.iter().filter(|pool| asking.shares(pool)).collect();
        others.iter().any(|pool| pool.is_closing()) || others.iter().any(|pool| pool.give_up_one())
    }
}
