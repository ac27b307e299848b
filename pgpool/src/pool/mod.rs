//! The server connections of one database and user: exact limits, fair queue, direct hand-over. A pool that is
//! spread over workers has one of these, a shard, on each. Not for how a connection is made and not for what is
//! said on it. Owned by its worker; called by clients (`checkout`, `checkin`), by the worker's sweep and by the
//! admin database.
//!
//! Invariant: connected and connecting servers of all shards together never exceed the pool's size plus its open
//! reserve, and a server is in exactly one place.

pub mod apart;
mod checkout;
pub mod lending;
pub mod meters;
pub mod reset;
pub mod sizing;
pub mod terms;
pub mod waiters;
pub mod whole;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use pgpool_wire::startup::Replication;
use tokio::time::Instant;

use crate::client::entry::Ending;
use crate::ear::Ear;
use crate::events::ServerClosed;
use crate::family::{Family, Membership, Role};
use crate::server::{Facts, Server, ServerPhase};
use crate::snapshot::{Database, User};
use crate::variables::{Value, Variables, is_theirs};
use crate::worker::{Message, Worker};
use apart::Apart;
pub use meters::{Counters, Meters, PERIOD, Periods, Totals, add};
use sizing::Sizing;
use waiters::Waiters;
use whole::{Said, Whole};

/// The pool of one database and user.
pub struct Pool {
    /// Finds itself again from tasks.
    me: Weak<Pool>,
    database: RefCell<Arc<Database>>,
    user: RefCell<Arc<User>>,
    /// Where it lives.
    pub worker: Weak<Worker>,
    /// What it has in common with its other shards.
    pub whole: Arc<Whole>,
    /// Which worker that is: its place among the shards.
    seat: usize,
    /// A neighbour was asked for a server and has not answered yet.
    asked: Cell<bool>,
    /// Those that have had none to spare since the last sweep.
    spared: RefCell<Vec<usize>>,
    /// Servers from before this time are over their lifetime; as of the last sweep.
    oldest: Cell<Option<Instant>>,
    /// What it counts.
    pub meters: Meters,
    #[expect(
        clippy::vec_box,
        reason = "a server changes hands several times per query, and is large"
    )]
    idle: RefCell<Vec<Box<Server>>>,
    waiters: RefCell<Waiters>,
    sizing: RefCell<Sizing>,
    /// All its servers, for SHOW SERVERS and for cancels.
    facts: RefCell<Vec<Rc<Facts>>>,
    paused: Cell<bool>,
    /// LISTEN for its clients.
    pub ear: Ear,
    /// Clients that wait for a server of their own.
    apart: Apart,
    /// With what it was made of.
    welcome: RefCell<Option<(Said, Rc<Welcome>)>>,
    /// Settings that clients began with lately.
    initial: RefCell<Vec<Rc<Variables>>>,
    /// The last change of its family that it has followed.
    epoch: Cell<u64>,
    /// The last change of names that it has followed.
    named: Cell<u64>,
    /// Since when its database has had nobody; `None`: it has somebody.
    deserted: Cell<Option<Instant>>,
    /// Counters at the ends of the last two periods.
    periods: Cell<[Counters; 2]>,
}

/// What servers of a pool say of themselves, told to clients that log in.
pub struct Welcome {
    /// All that was reported.
    pub parameters: Vec<(String, String)>,
    /// What of that clients may change.
    pub variables: Variables,
}

impl Welcome {
    fn of(said: &[(String, String)]) -> Self {
        let mut variables = Variables::default();
        for (name, value) in said.iter().filter(|(name, _)| is_theirs(name)) {
            variables.set(name, Value::Reported(value.as_str().into()));
        }
        Self { parameters: said.to_vec(), variables }
    }
}

/// Ways to begin that are remembered; clients of more kinds have settings of their own.
const MOST_ALIKE: usize = 16;

/// How many servers and waiters a pool has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Working for a client.
    pub active: usize,
    /// In the pool.
    pub idle: usize,
    /// Of these, for one who replicates.
    pub apart: usize,
    /// Being cleaned.
    pub cleaning: usize,
    /// Being connected.
    pub connecting: usize,
    /// Clients that wait.
    pub waiting: usize,
    /// Connections that listen.
    pub listening: usize,
}

impl Load {
    /// Servers that are there, come or go.
    pub fn servers(&self) -> usize {
        self.active + self.idle + self.cleaning + self.connecting + self.listening
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            active: self.active + other.active,
            idle: self.idle + other.idle,
            apart: self.apart + other.apart,
            cleaning: self.cleaning + other.cleaning,
            connecting: self.connecting + other.connecting,
            waiting: self.waiting + other.waiting,
            listening: self.listening + other.listening,
        }
    }
}

impl Pool {
    /// An empty pool.
    pub fn new(
        worker: &Rc<Worker>,
        database: Arc<Database>,
        user: Arc<User>,
        (meters, whole): (Meters, Arc<Whole>),
    ) -> Rc<Self> {
        let seat = worker.id.0;
        whole.join(seat);
        Rc::new_cyclic(|me| Self {
            me: me.clone(),
            database: RefCell::new(database),
            user: RefCell::new(user),
            worker: Rc::downgrade(worker),
            meters,
            whole,
            seat,
            asked: Cell::new(false),
            spared: RefCell::default(),
            oldest: Cell::default(),
            idle: RefCell::default(),
            waiters: RefCell::default(),
            sizing: RefCell::default(),
            facts: RefCell::default(),
            paused: Cell::new(false),
            ear: Ear::default(),
            apart: Apart::default(),
            welcome: RefCell::default(),
            initial: RefCell::default(),
            epoch: Cell::new(0),
            named: Cell::new(0),
            deserted: Cell::new(None),
            periods: Cell::default(),
        })
    }

    /// The database.
    pub fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database.borrow())
    }

    /// The user.
    pub fn user(&self) -> Arc<User> {
        Arc::clone(&self.user.borrow())
    }

    /// Goes by another configuration of the same database and user. Servers that would be another
    /// one now, or be logged in to otherwise, are closed when they are free.
    pub fn follow(&self, database: &Arc<Database>, user: &Arc<User>) {
        let same = self.database().reaches_as(database) && self.user().logs_in_as(user);
        *self.database.borrow_mut() = Arc::clone(database);
        *self.user.borrow_mut() = Arc::clone(user);
        if !same {
            // Changes of another family count from the beginning.
            self.epoch.set(0);
            self.reconnect();
        }
        self.grow();
    }

    /// Its place in a family of a primary and replicas.
    pub fn membership(&self) -> Option<Membership> {
        self.database.borrow().membership.clone()
    }

    /// Whether the server is still what the pool is for: the primary, or a replica that is fit.
    fn serves(&self, facts: &Facts) -> bool {
        match (self.membership(), self.member(&facts.address)) {
            (Some(membership), Some(member)) => membership.family.serves(membership.role, member),
            (Some(_), None) => false,
            (None, _) => facts.member.is_none(),
        }
    }

    /// The roles of servers may have changed: what does not serve any more is closed, clients that
    /// write to what is no longer the primary are ended, and who waits gets another.
    pub fn follow_family(&self) {
        let Some(membership) = self.membership() else { return };
        let epoch = membership.family.epoch();
        if self.epoch.replace(epoch) == epoch {
            return;
        }
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        let (stay, go): (Vec<_>, Vec<_>) =
            idle.into_iter().partition(|server| self.is_welcome(server));
        *self.idle.borrow_mut() = stay;
        self.show();
        go.into_iter().for_each(|server| self.discard(server));
        if membership.role == Role::Primary {
            self.end_fenced(&membership.family);
        }
        self.sizing.borrow_mut().retry.worked();
        self.grow();
    }

    /// Ends who writes to a server of the family that is not the primary. What nobody was asked about yet, or is
    /// not of the family any more, is closed when it is free: its generation is over.
    fn end_fenced(&self, family: &Family) {
        let Some(worker) = self.worker.upgrade().filter(|_| family.is_checked()) else { return };
        let fenced = |facts: &&Rc<Facts>| {
            let member = self.member(&facts.address);
            member.is_some_and(|at| !family.serves(Role::Primary, at))
        };
        for facts in self.facts.borrow().iter().filter(fenced) {
            if let Some(entry) = facts.client.get().and_then(|pid| worker.client(pid)) {
                entry.end(Ending::Fenced);
            }
        }
    }

    /// Whether the configuration still has it.
    pub fn is_served(&self) -> bool {
        let Some(worker) = self.worker.upgrade() else { return false };
        worker.pools().iter().any(|pool| std::ptr::eq(&raw const **pool, self))
    }

    /// Takes a server back from a client. Only a clean one is given to anybody else; a worn one is
    /// cleaned first; everything else is closed.
    pub fn checkin(&self, server: Box<Server>) {
        server.facts.client.set(None);
        if server.facts.cancels.get() > 0 {
            reset::after_cancel(self.me(), server);
        } else if !server.is_clean() {
            self.discard(server);
        } else if server.is_worn() {
            reset::clean(self.me(), server);
        } else {
            self.put(server);
        }
    }

    /// Takes a server back whose client left in the middle of something: what it runs is cancelled and
    /// answered, a transaction is rolled back, and only then somebody else gets it.
    pub fn abandon(&self, server: Box<Server>) {
        server.facts.client.set(None);
        if server.is_clean() {
            self.checkin(server);
        } else if server.is_settled() {
            reset::roll_back(self.me(), server);
        } else if server.is_tractable() {
            reset::drain(self.me(), server);
        } else {
            reset::cancel(self, &server);
            self.discard(server);
        }
    }

    /// Hands a clean server to the next waiter, or keeps it.
    fn put(&self, server: Box<Server>) {
        debug_assert!(server.is_clean(), "only clean servers are handed on");
        let now = self.now();
        if !self.is_welcome(&server) || self.is_too_many() {
            self.discard(server);
            return;
        }
        server.facts.used.set(now);
        self.offer(server);
    }

    /// Hands a server that was idle to the next waiter, or keeps it: nobody has used it.
    fn restore(&self, server: Box<Server>) {
        if self.is_welcome(&server) && server.is_clean() {
            self.offer(server);
        } else {
            self.discard(server);
        }
    }

    fn offer(&self, server: Box<Server>) {
        server.facts.phase.set(ServerPhase::Idle);
        if let Some(to) = self.owes() {
            return self.lend(server, to);
        }
        let server =
            if self.paused.get() { Some(server) } else { self.waiters.borrow_mut().give(server) };
        if let Some(server) = server {
            self.idle.borrow_mut().push(server);
        }
        self.show();
        self.spare();
    }

    /// Closes a server. Its places are free when it has gone as well: PostgreSQL never sees more
    /// connections than the limits say.
    fn discard(&self, mut server: Box<Server>) {
        server.permit.end();
        if let Some(worker) = self.worker.upgrade() {
            worker.observer.emit(ServerClosed {
                database: &self.database().name,
                user: &self.user().name,
                server: &server.facts,
                cause: self.cause(&server),
            });
        }
        server.facts.phase.set(ServerPhase::Closing);
        reset::close(self.me(), server);
    }

    /// Why a server is closed, in PgBouncer's words.
    fn cause(&self, server: &Server) -> &'static str {
        if server.facts.replication != Replication::No {
            "replication client disconnected"
        } else if server.talk.dying {
            "server conn crashed?"
        } else if !server.is_clean() {
            "unclean server"
        } else if !self.is_current(&server.facts) || !server.facts.lead.holds() {
            "database configuration changed"
        } else if self.is_welcome(server) {
            "server idle timeout"
        } else {
            "server lifetime over"
        }
    }

    /// A server that was closed is gone.
    fn gone(&self, server: Box<Server>) {
        self.facts.borrow_mut().retain(|facts| !Rc::ptr_eq(facts, &server.facts));
        drop(server);
        // Another pool, or another shard, may have waited for its places.
        if let Some(worker) = self.worker.upgrade() {
            worker.look();
            let bounded = self.database().connections.most() > 0
                || self.user().standing.connections.most() > 0;
            if bounded || self.whole.is_shared() {
                worker.tell_others(|| Message::Look);
            }
        }
    }

    /// Whether the server may go on: not condemned, of this generation, not too old.
    fn is_welcome(&self, server: &Server) -> bool {
        let old = self.oldest.get().is_some_and(|oldest| server.facts.born < oldest);
        !old && !server.talk.retire
            && !server.facts.condemned.get()
            && self.is_current(&server.facts)
            && self.serves(&server.facts)
    }

    /// The settings of a login, once for all clients that begin alike.
    pub fn shared(&self, initial: Variables) -> Rc<Variables> {
        let mut known = self.initial.borrow_mut();
        if let Some(same) = known.iter().find(|other| ***other == initial) {
            return Rc::clone(same);
        }
        let fresh = Rc::new(initial);
        known.truncate(MOST_ALIKE - 1);
        known.insert(0, Rc::clone(&fresh));
        fresh
    }

    /// What servers said at the last login, once there was one in any shard.
    pub fn welcome(&self) -> Option<Rc<Welcome>> {
        let said = self.whole.said()?;
        let mut known = self.welcome.borrow_mut();
        if let Some((_, welcome)) = known.as_ref().filter(|(of, _)| Arc::ptr_eq(of, &said)) {
            return Some(Rc::clone(welcome));
        }
        let welcome = Rc::new(Welcome::of(&said));
        *known = Some((said, Rc::clone(&welcome)));
        Some(welcome)
    }

    /// How many of what there are.
    pub fn load(&self) -> Load {
        let mut load = Load {
            waiting: self.waiters.borrow().len(),
            connecting: self.sizing.borrow().connecting(),
            listening: usize::from(self.ear.is_connected()),
            ..Load::default()
        };
        for facts in self.facts.borrow().iter() {
            match facts.phase.get() {
                ServerPhase::Idle => load.idle += 1,
                ServerPhase::Active => {
                    load.active += 1;
                    load.apart += usize::from(facts.replication != Replication::No);
                }
                ServerPhase::Cleaning | ServerPhase::Closing => load.cleaning += 1,
            }
        }
        load
    }

    /// Whether no server is there, comes or goes. One between two shards is in neither's load.
    pub fn is_bare(&self) -> bool {
        self.load().servers() + self.whole.held() == 0
    }

    /// All servers, for those who show them.
    pub fn servers(&self) -> Vec<Rc<Facts>> {
        self.facts.borrow().clone()
    }

    /// How long the first in the queue has waited.
    pub fn oldest_wait(&self, now: Instant) -> std::time::Duration {
        let oldest = self.waiters.borrow().oldest();
        oldest.map_or_else(Default::default, |since| now.saturating_duration_since(since))
    }

    /// `PAUSE`, `RESUME`: paused, servers are given to nobody.
    pub fn pause(&self, paused: Pause) {
        self.paused.set(paused == Pause::Paused);
        self.show();
        if paused == Pause::Running {
            self.apart.set_closing(false);
            let idle = std::mem::take(&mut *self.idle.borrow_mut());
            idle.into_iter().for_each(|server| self.put(server));
            self.grow();
            self.ask();
        }
    }

    /// Another `stats_period` is over.
    pub fn end_period(&self) {
        let [_, last] = self.periods.get();
        self.periods.set([last, self.meters.totals.all()]);
    }

    /// What the last whole period has brought.
    pub fn recent(&self) -> Counters {
        let [before, last] = self.periods.get();
        last.since(&before)
    }

    /// Whether a server was connected since the last `RECONNECT`.
    pub fn is_current(&self, facts: &Facts) -> bool {
        facts.generation == self.whole.generation()
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused.get()
    }

    /// Every server is closed when it is next free.
    pub fn reconnect(&self) {
        self.whole.renew();
        self.close_stale();
    }

    /// `RECONNECT`: the same, for a command that all shards hear, which counts once. What a shard has connected since
    /// another one has heard it stays.
    pub fn reconnect_for(&self, round: u64) {
        self.whole.renew_for(round);
        self.close_stale();
    }

    /// Closes what was connected before the last `RECONNECT` and is idle; what works is closed when it is free.
    fn close_stale(&self) {
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        let (stay, go): (Vec<_>, Vec<_>) =
            idle.into_iter().partition(|server| self.is_current(&server.facts));
        *self.idle.borrow_mut() = stay;
        self.show();
        go.into_iter().for_each(|server| self.discard(server));
        if let Some(worker) = self.worker.upgrade() {
            self.hurry(&worker);
        }
    }

    /// Closes all idle servers.
    pub fn close_idle(&self) {
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        self.show();
        idle.into_iter().for_each(|server| self.discard(server));
    }

    fn me(&self) -> Rc<Self> {
        self.me.upgrade().expect("invariant: a pool is called through an Rc of itself")
    }

    fn now(&self) -> Instant {
        self.worker.upgrade().map_or_else(Instant::now, |worker| worker.now())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.whole.part(self.seat);
    }
}

/// Whether a pool gives servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// It does not.
    Paused,
    /// It does.
    Running,
}
