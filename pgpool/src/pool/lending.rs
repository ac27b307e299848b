//! How the shards of one pool help each other: a server that is free here goes to a worker where clients wait,
//! socket, settings and places with it. Not for places alone: those are `whole`. Called by the pool whenever a
//! server gets free or a client begins to wait, and by the worker for what its neighbours say.
//!
//! Invariant: a server moves only while it is proved clean and nothing of a client is on it but settings, which
//! move with it; it is in one shard, or on its way to one, and keeps its place throughout.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use pgpool_wire::startup::{CancelKey, Replication};
use tokio::time::Instant;
use topology::pool::ServerAddress;

use super::sizing::Places;
use super::whole::{Coming, Permit, Whole};
use super::{Pool, reset};
use crate::ear::far::{Ask, Told};
use crate::names::Lead;
use crate::relay::link::Conversation;
use crate::server::tls::Security;
use crate::server::{Facts, Server, ServerPhase};
use crate::snapshot::{Database, User};
use crate::stream::Stream;
use crate::upgrade::parcel::Setting;
use crate::variables::Variables;
use crate::worker::{Message, TICK, Worker};

/// What a shard says to another one of the same pool.
pub struct Word {
    /// Which pool: one of the same name may be another one.
    pub pool: Arc<Whole>,
    /// What.
    pub says: Says,
}

/// See [`Word`].
pub enum Says {
    /// So many clients wait at this worker without a server.
    Ask(usize, usize),
    /// There is none to spare at this worker.
    Nothing(usize),
    /// A server.
    Lent(Box<Moved>),
    /// A client of another shard waits for a place that an idle server has.
    Close,
    /// A client of a worker, by its number there, to the pool's ear.
    Ear(usize, u64, Ask),
    /// The pool's ear to a client here.
    Told(u64, Told),
}

/// A worker has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended;

/// A clean server between two workers.
pub struct Moved {
    /// Its parked socket.
    io: Stream,
    initial: Vec<Setting>,
    variables: Vec<Setting>,
    plain: Plain,
    /// How it was reached and logged in to: its next shard must know it so.
    database: Arc<Database>,
    user: Arc<User>,
    places: Places,
    permit: Permit,
    _coming: Coming,
}

/// What of a server's facts is the same everywhere.
struct Plain {
    id: u64,
    address: ServerAddress,
    security: Arc<Security>,
    peer: ServerAddress,
    lead: Lead,
    local: Option<SocketAddr>,
    key: Option<CancelKey>,
    cipher: Option<&'static str>,
    prepared: usize,
    born: Instant,
    used: Instant,
    checked: Instant,
    generation: u64,
}

impl Pool {
    /// Shows the other shards how this one stands.
    pub(super) fn show(&self) {
        if !self.whole.is_shared() {
            return;
        }
        let waiters = self.waiters.borrow();
        let (idle, waiting) = match self.is_paused() {
            true => (0, 0),
            false => (self.idle.borrow().len(), waiters.len()),
        };
        self.whole.show(self.seat, idle, (waiting, waiters.oldest()));
    }

    /// The neighbour to which a server that is free now goes before anybody here.
    pub(super) fn owes(&self) -> Option<usize> {
        if !self.whole.is_shared() || self.is_paused() {
            return None;
        }
        match self.waiters.borrow().oldest() {
            Some(since) => self.whole.unfair(self.seat, since, self.now()),
            None => self.whole.neediest(self.seat).map(|(at, _)| at),
        }
    }

    /// Gives idle servers to neighbours where clients wait, while none do here.
    pub(super) fn spare(&self) {
        if !self.whole.is_shared() || self.is_paused() {
            return;
        }
        while self.waiters.borrow().is_empty()
            && let Some((to, _)) = self.whole.neediest(self.seat)
            && self.give_idle(to)
        {}
    }

    /// Asks the neighbour with most idle servers for some, where more clients wait than servers are about to come.
    pub(super) fn ask(&self) {
        let Some(worker) = self.worker.upgrade() else { return };
        if !self.whole.is_shared() || self.is_paused() || self.asked.get() {
            return;
        }
        // A connect that takes its time is not waited for.
        let late = self.oldest_wait(worker.now()) >= TICK;
        let connecting = if late { 0 } else { self.sizing.borrow().connecting() };
        let sure = connecting + self.whole.coming(self.seat);
        let wanted = self.waiters.borrow().len().saturating_sub(sure);
        if wanted > 0
            && let Some(at) = self.whole.idlest(self.seat, &self.spared.borrow())
        {
            let asked = worker.say(at, self.word(Says::Ask(wanted, self.seat)));
            self.asked.set(asked.is_ok());
        }
    }

    /// Neighbours may have some again: they are asked when it is time.
    pub(super) fn ask_anew(&self) {
        self.asked.set(false);
        self.spared.borrow_mut().clear();
    }

    /// One who waits for a place would have that of an idle server, but there is none here.
    pub(super) fn ask_to_close(&self) {
        let Some(worker) = self.worker.upgrade() else { return };
        if let Some(at) = self.whole.idlest(self.seat, &[]) {
            // A worker that has ended has none.
            let _ended = worker.say(at, self.word(Says::Close));
        }
    }

    /// What another shard says.
    pub fn hear(&self, says: Says) {
        match says {
            Says::Ask(wanted, to) => {
                let free = !self.is_paused() && self.waiters.borrow().is_empty();
                let given = (0..wanted).take_while(|_| free && self.give_idle(to)).count();
                if given == 0
                    && let Some(worker) = self.worker.upgrade()
                {
                    // Without clients there nobody waits for it.
                    let _ended = worker.say(to, self.word(Says::Nothing(self.seat)));
                }
            }
            Says::Nothing(from) => {
                self.asked.set(false);
                self.spared.borrow_mut().push(from);
                self.ask();
            }
            Says::Lent(moved) => {
                self.ask_anew();
                self.adopt(*moved);
                self.ask();
            }
            // It is said again until there is a place: one server for each who waits is enough.
            Says::Close if self.whole.lacks_place(self.size()) => {
                self.give_up_one();
            }
            Says::Close => {}
            Says::Told(id, told) => self.ear.told(id, told),
            // Heard before, as it may be the first thing that is said here.
            Says::Ear(..) => {}
        }
    }

    /// Something has changed elsewhere that this shard may wait for.
    pub fn look(&self) {
        self.follow_family();
        self.show();
        self.apart.tell();
        self.grow();
        self.spare();
        self.ask();
    }

    /// Says something to another shard.
    ///
    /// # Errors
    /// Its worker has ended.
    pub fn say(&self, to: usize, says: Says) -> Result<(), Ended> {
        let worker = self.worker.upgrade().ok_or(Ended)?;
        worker.say(to, self.word(says)).map_err(|_| Ended)
    }

    /// The worker that this shard is on.
    pub fn seat(&self) -> usize {
        self.seat
    }

    fn word(&self, says: Says) -> Message {
        Message::Shard(Box::new(Word { pool: Arc::clone(&self.whole), says }))
    }

    /// Gives the server that has rested longest; `false`: there is none.
    fn give_idle(&self, to: usize) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        loop {
            if self.idle.borrow().is_empty() {
                return false;
            }
            let mut server = self.idle.borrow_mut().remove(0);
            self.show();
            if reset::is_quiet(&mut server, &mut cx) && self.is_welcome(&server) {
                self.lend(server, to);
                return true;
            }
            self.discard(server);
        }
    }

    /// Gives a clean server to a neighbour. Our statements stay behind: their names mean nothing there.
    pub(super) fn lend(&self, server: Box<Server>, to: usize) {
        let coming = Coming::new(&self.whole, to);
        if server.talk.holdings.has_left() {
            return reset::forget(self.me(), server, (to, coming));
        }
        self.hand(server, (to, coming));
    }

    /// The same, of one that holds no statement.
    pub(super) fn hand(&self, mut server: Box<Server>, (to, coming): (usize, Coming)) {
        let Some(worker) = self.worker.upgrade() else { return };
        if server.is_worn() {
            return self.checkin(server);
        }
        if self.is_paused() || !server.is_clean() || !self.is_welcome(&server) {
            return self.restore(server);
        }
        if server.io.park().is_err() {
            return self.discard(server);
        }
        self.facts.borrow_mut().retain(|facts| !Rc::ptr_eq(facts, &server.facts));
        let moved = Box::new(self.pack(*server, coming));
        if let Err(Message::Shard(word)) = worker.say(to, self.word(Says::Lent(moved)))
            && let Says::Lent(moved) = word.says
        {
            // That worker has ended.
            self.whole.part(to);
            self.adopt(*moved);
        }
    }

    fn pack(&self, server: Server, coming: Coming) -> Moved {
        let Server { io, talk, facts, places, permit, .. } = server;
        let all = |of: &Variables| of.iter().map(|(name, it)| Setting::of(name, it)).collect();
        Moved {
            io,
            initial: all(&talk.initial),
            variables: all(&talk.variables),
            plain: Plain {
                id: facts.id,
                address: facts.address.clone(),
                security: Arc::clone(&facts.security),
                peer: facts.peer.clone(),
                lead: facts.lead.clone(),
                local: facts.local,
                key: facts.key.clone(),
                cipher: facts.cipher,
                prepared: facts.prepared.get(),
                born: facts.born,
                used: facts.used.get(),
                checked: facts.checked.get(),
                generation: facts.generation,
            },
            database: self.database(),
            user: self.user(),
            places,
            permit,
            _coming: coming,
        }
    }

    /// Takes a server over. One that this shard would reach or log in to otherwise is closed.
    fn adopt(&self, moved: Moved) {
        let Some(worker) = self.worker.upgrade() else { return };
        self.learn(&worker, &moved.user);
        let known =
            self.database().reaches_as(&moved.database) && self.user().logs_in_as(&moved.user);
        let Some(server) = self.unpack(moved) else {
            // Its place is free.
            worker.look();
            return worker.tell_others(|| Message::Look);
        };
        match known {
            true => self.restore(server),
            false => self.discard(server),
        }
    }

    /// A role that is looked up may have another verifier by now, which only its last login has shown.
    fn learn(&self, worker: &Worker, other: &User) {
        if self.user().logs_in_as(other) {
            return;
        }
        let known = self.database();
        let role = self.user().name.clone();
        if let Some(user) = worker.snapshot().server_user(&known, &role) {
            *self.user.borrow_mut() = user;
        }
    }

    /// `None`: its socket was lost on the way.
    fn unpack(&self, moved: Moved) -> Option<Box<Server>> {
        let Moved { mut io, initial, variables, plain, places, permit, _coming, .. } = moved;
        io.revive().ok()?;
        let all = |of: &[Setting]| {
            let mut all = Variables::default();
            for setting in of {
                all.set(&setting.0, setting.value());
            }
            all
        };
        let facts = Rc::new(Facts {
            id: plain.id,
            member: self.member(&plain.address),
            address: plain.address,
            security: plain.security,
            peer: plain.peer,
            condemned: Cell::new(!plain.lead.holds()),
            lead: plain.lead,
            local: plain.local,
            key: plain.key,
            cipher: plain.cipher,
            prepared: Cell::new(plain.prepared),
            born: plain.born,
            used: Cell::new(plain.used),
            checked: Cell::new(plain.checked),
            phase: Cell::new(ServerPhase::Idle),
            client: Cell::new(None),
            cancels: Cell::new(0),
            settled: tokio::sync::Notify::new(),
            generation: plain.generation,
            replication: Replication::No,
            welcome: RefCell::new(Vec::new()),
        });
        self.facts.borrow_mut().push(Rc::clone(&facts));
        let talk = Conversation {
            variables: all(&variables).into(),
            initial: all(&initial),
            primed: self.database().prelude.query.is_some(),
            ..Conversation::default()
        };
        let (carry, out) = (Vec::new(), Default::default());
        Some(Box::new(Server { io, talk, carry, out, facts, places, permit }))
    }
}
