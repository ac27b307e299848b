//! One thread's share of an instance: the pools that are at home here, the clients that use them,
//! and the scratch memory that they share. Not for sockets: it is given streams. Started by `lib`,
//! driven by tests with streams in memory and a paused clock.
//!
//! Invariant: everything here is used by one thread alone; other workers send messages.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use common::lifecycle::{Lifecycle, Phase};
use common::observe::{Observer, Recent};
use common::telemetry::Outbox;
use common::workers::WorkerId;
use pgpool_wire::startup::{CancelKey, Startup};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use topology::pool::{ServerAddress, Settings};

use crate::admin::report::{Detail, Report};
use crate::admin::seat::{Abort, Visitor};
use crate::admin::verbs::Command;
use crate::admin::verbs::Hold;
use crate::cancel::{Numbers, Waiting};
use crate::client::entry::{Ending, Entry};
use crate::client::moving::Mover;
use crate::client::source::Source;
use crate::lookup::{Answer, Lookups, Question};
use crate::neighbours::Asking;
use crate::parting::Parting;
use crate::pool::lending::Word;
use crate::pool::{Meters, Pause, Periods, Pool};
use crate::prepared::Statements;
use crate::server::connect::{self, Dialled};
use crate::snapshot::{Held, Snapshot};
use crate::stream::Stream;
use crate::tally::Tally;
use crate::upgrade::link::Link;

/// What workers send each other.
pub enum Message {
    /// A client whose database is at home here.
    Client(Box<Arrival>),
    /// A cancel request for one of the clients here; whoever waits is let go when it was forwarded.
    Cancel(Waiting, CancelKey),
    /// A client that another process has served until now.
    Mover(Box<Mover>),
    /// The way to the process that takes over: clients without work go there from now on.
    Successor(Link, oneshot::Sender<()>),
    /// How far numbers of clients have been given.
    Count(oneshot::Sender<u32>),
    /// From where on they are to be given.
    CountFrom(u32),
    /// A role to be looked up by who is at home here.
    Lookup(Question, oneshot::Sender<Answer>),
    /// Somebody wants to see what is here.
    Report(Detail, oneshot::Sender<Report>),
    /// Somebody waits until no pool has a server.
    Bare(oneshot::Sender<bool>),
    /// A configuration to go by from now on.
    Snapshot(Arc<Snapshot>, oneshot::Sender<()>),
    /// A command of the admin database; how many it concerned comes back.
    Command(Command, oneshot::Sender<usize>),
    /// For the shard of a pool that is here, from another one.
    Shard(Box<Word>),
    /// A pool wants room in a limit that it shares with others.
    Room(Box<Asking>),
    /// Something has changed that pools here may wait for.
    Look,
}

/// A client that has said which database and user it wants.
pub struct Arrival {
    /// Its parked socket.
    pub io: Stream,
    /// From where.
    pub source: Source,
    /// What it said.
    pub startup: Startup,
    /// Its place among the instance's clients.
    pub place: Held,
    /// When its login must be done.
    pub until: Instant,
}

/// How servers are reached; tests put something in memory in its place.
pub trait Dial: Send + Sync {
    /// Connects.
    fn dial(&self, address: &ServerAddress) -> Dialing;
}

/// A connection being made.
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<Dialled>>>>;

/// The network.
pub struct Network;

impl Dial for Network {
    fn dial(&self, address: &ServerAddress) -> Dialing {
        Box::pin(connect::dial(address.clone()))
    }
}

/// The senders of all workers, by index.
pub type Peers = Arc<[mpsc::UnboundedSender<Message>]>;

/// Memory that whoever runs right now may use; empty of meaning between two turns.
pub struct Scratch {
    /// What was just read.
    pub read: Box<[u8]>,
    /// What is to be written instead.
    pub edit: Vec<u8>,
}

/// Names of databases, users and applications that are remembered.
const MOST_NAMES: usize = 32;

/// A larger buffer is not kept for the next.
const LARGEST_SPARE: usize = 4 << 10;

/// Buffers that are kept: for as many clients whose messages wait for a server at the same time.
const MOST_SPARE: usize = 64;

/// Bytes read at a time.
pub const SCRATCH: usize = 64 << 10;

/// One thread's share.
pub struct Worker {
    /// Which one.
    pub id: WorkerId,
    snapshot: RefCell<Arc<Snapshot>>,
    /// Where events go.
    pub observer: Observer,
    /// Phases of the instance.
    pub lifecycle: Lifecycle,
    /// How servers are reached.
    pub dialer: Arc<dyn Dial>,
    /// All workers.
    pub peers: Peers,
    /// Who reads the configuration again.
    pub handle: Option<crate::control::Handle>,
    /// Where spans go.
    pub outbox: Option<Arc<Outbox>>,
    /// Statement texts.
    pub statements: RefCell<Statements>,
    /// Shared memory.
    pub scratch: RefCell<Scratch>,
    spare: RefCell<Vec<Vec<u8>>>,
    names: RefCell<VecDeque<Rc<str>>>,
    /// What the instance counts for its summary.
    pub tally: Arc<Tally>,
    /// Records of queries, for who looks.
    pub recent: Arc<Recent>,
    pools: RefCell<HashMap<(String, String), Rc<Pool>>>,
    /// Who may log in that is not among the users.
    pub lookups: Lookups,
    clients: RefCell<HashMap<u32, Rc<Entry>>>,
    /// Consoles, in the same numbers.
    consoles: RefCell<HashMap<u32, Visitor>>,
    now: Cell<Instant>,
    servers: Cell<u64>,
    pids: Cell<u32>,
    /// Consoles that have come, all in all.
    visits: Cell<u64>,
    /// Counts clients that were sent to shards.
    pub(crate) turn: Cell<usize>,
    /// When others were last asked for room in a limit.
    pub(crate) asked_at: Cell<Option<Instant>>,
    draining: Cell<bool>,
    /// The process that takes over.
    successor: RefCell<Option<Link>>,
    /// What is paused or disabled; an empty name stands for all. It holds for pools that are made
    /// later too.
    held: RefCell<HashSet<(String, Hold)>>,
    /// Whether the clients here are the last.
    pub parting: Parting,
    /// The periods of SHOW STATS.
    pub period: Periods,
}

/// Time between two sweeps: how exact timeouts are.
pub const TICK: Duration = Duration::from_millis(100);

/// What a worker is made of.
pub struct Parts {
    /// Which one.
    pub id: WorkerId,
    /// Configuration.
    pub snapshot: Arc<Snapshot>,
    /// Where events go.
    pub observer: Observer,
    /// Phases.
    pub lifecycle: Lifecycle,
    /// How servers are reached.
    pub dialer: Arc<dyn Dial>,
    /// All workers.
    pub peers: Peers,
    /// The instance's counters.
    pub tally: Arc<Tally>,
    /// Who reads the configuration again.
    pub handle: Option<crate::control::Handle>,
    /// Where spans go.
    pub outbox: Option<Arc<Outbox>>,
}

impl Worker {
    /// A worker without pools and clients.
    pub fn new(parts: Parts) -> Rc<Self> {
        let period = Periods::new(parts.snapshot.period());
        Rc::new(Self {
            id: parts.id,
            snapshot: RefCell::new(parts.snapshot),
            handle: parts.handle,
            outbox: parts.outbox,
            observer: parts.observer,
            lifecycle: parts.lifecycle,
            dialer: parts.dialer,
            peers: parts.peers,
            recent: Arc::clone(&parts.tally.recent),
            tally: parts.tally,
            statements: RefCell::new(Statements::new(parts.id.0)),
            scratch: RefCell::new(Scratch {
                read: vec![0; SCRATCH].into_boxed_slice(),
                edit: Vec::with_capacity(SCRATCH),
            }),
            spare: RefCell::default(),
            names: RefCell::default(),
            pools: RefCell::default(),
            lookups: Lookups::default(),
            clients: RefCell::default(),
            consoles: RefCell::default(),
            now: Cell::new(Instant::now()),
            servers: Cell::new(parts.id.0 as u64 + 1),
            pids: Cell::new(1),
            visits: Cell::new(0),
            turn: Cell::new(parts.id.0),
            asked_at: Cell::new(None),
            draining: Cell::new(false),
            successor: RefCell::default(),
            held: RefCell::default(),
            parting: Parting::default(),
            period,
        })
    }

    /// Serves until the instance has stopped, or has drained and no client is left anywhere in it.
    pub async fn run(self: Rc<Self>, mut inbox: mpsc::UnboundedReceiver<Message>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shutdown = self.lifecycle.shutdown();
        if self.id.0 == 0 && self.handle.is_some() {
            tokio::task::spawn_local(crate::readiness::watch(Rc::clone(&self)));
        }
        loop {
            tokio::select! {
                () = shutdown.stopped() => break,
                message = inbox.recv() => match message {
                    Some(message) => self.receive(message),
                    None => break,
                },
                _ = ticks.tick() => {
                    self.sweep();
                    if self.draining.get() && self.is_deserted() && inbox.is_empty() {
                        break;
                    }
                }
            }
        }
        // The way ends when no worker has more to say.
        *self.successor.borrow_mut() = None;
    }

    /// Whether the instance has no client any more, also none that is about to log in: it may be sent here.
    fn is_deserted(&self) -> bool {
        // A console beyond the limit is not among those that are counted.
        let none = self.clients.borrow().is_empty() && self.consoles.borrow().is_empty();
        none && self.snapshot().clients.now() == 0
    }

    fn receive(self: &Rc<Self>, message: Message) {
        match message {
            Message::Client(arrival) => {
                tokio::task::spawn_local(crate::client::welcome(Rc::clone(self), arrival));
            }
            Message::Cancel(waiting, key) => {
                tokio::task::spawn_local(crate::cancel::reach(Rc::clone(self), waiting, key));
            }
            Message::Mover(mover) => {
                tokio::task::spawn_local(crate::client::moving::settle(Rc::clone(self), mover));
            }
            Message::Successor(link, to) => {
                *self.successor.borrow_mut() = Some(link);
                let _gone = to.send(());
            }
            Message::Count(to) => drop(to.send(self.pids.get())),
            Message::CountFrom(count) => self.pids.set(count),
            Message::Lookup(question, to) => self.lookups.ask(self, question, to),
            Message::Report(detail, to) => drop(to.send(Report::with(self, detail))),
            Message::Bare(to) => drop(to.send(self.pools().iter().all(|pool| pool.is_bare()))),
            Message::Snapshot(snapshot, to) => {
                self.follow(&snapshot);
                // Who asked may have gone; the change stands.
                let _gone = to.send(());
            }
            Message::Command(command, to) => drop(to.send(command.carry_out(self))),
            Message::Shard(word) => self.hear(*word),
            Message::Room(asking) => self.give_room(asking),
            Message::Look => self.look(),
        }
    }

    /// What time alone brings about: timeouts, idle servers, gauges, the drain.
    pub fn sweep(&self) {
        self.tick();
        let now = self.now();
        if !self.draining.get() && self.lifecycle.phase() > Phase::Running {
            self.draining.set(true);
            self.clients.borrow().values().for_each(|entry| entry.wake());
        }
        for entry in self.clients.borrow().values() {
            entry.check(now);
        }
        self.follow_names();
        let pools = self.pools();
        pools.iter().for_each(|pool| pool.sweep(now));
        self.forget_unused(&pools, now);
        if self.draining.get() && self.successor.borrow().is_some() {
            // The process that takes over needs PostgreSQL's places.
            pools.iter().for_each(|pool| pool.close_idle());
        }
        if self.period.is_over(now, self.snapshot().period()) {
            pools.iter().for_each(|pool| pool.end_period());
        }
        crate::admin::report::show_gauges(self);
    }

    /// The configuration in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Limits and times in force; not to be held while anything waits.
    pub fn settings(&self) -> Ref<'_, Settings> {
        Ref::map(self.snapshot.borrow(), |snapshot| &snapshot.settings)
    }

    /// Whether something is to be told of single queries.
    pub fn is_telemetry_wanted(&self) -> bool {
        self.snapshot.borrow().telemetry.is_wanted()
    }

    /// Goes by another configuration: pools of what is gone are closed and their clients told,
    /// servers that would be connected or logged in to otherwise now are closed when they are free.
    fn follow(&self, snapshot: &Arc<Snapshot>) {
        self.period.shorten(snapshot.period());
        *self.snapshot.borrow_mut() = Arc::clone(snapshot);
        let mut gone = Vec::new();
        // Each may look at all others for room.
        let all: Vec<_> = self.pools.borrow().values().cloned().collect();
        for pool in all {
            let (database, user) = &pool.whole.key;
            let found = snapshot.database(database);
            match found.and_then(|d| Some((snapshot.server_user(&d, user)?, d))) {
                Some((user, database)) => pool.follow(&database, &user),
                None => {
                    snapshot.wholes.forget(&pool.whole);
                    self.pools.borrow_mut().remove(&pool.whole.key);
                    gone.push(pool);
                }
            }
        }
        self.lookups.follow(snapshot);
        for pool in gone {
            let (database, user) = (pool.database(), pool.user());
            let its =
                |entry: &Entry| *entry.database == *database.name && *entry.role == *user.name;
            self.end(its, Ending::Removed);
            pool.ear.close(&pool);
            pool.reconnect();
        }
    }

    /// What a client is called, once for all that lately came under the same name.
    pub fn name(&self, name: &str) -> Rc<str> {
        let mut known = self.names.borrow_mut();
        if let Some(same) = known.iter().find(|one| ***one == *name) {
            return Rc::clone(same);
        }
        let fresh: Rc<str> = Rc::from(name);
        known.truncate(MOST_NAMES - 1);
        known.push_front(Rc::clone(&fresh));
        fresh
    }

    /// An empty buffer that somebody has done with, if there is one.
    pub fn spare(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    /// Keeps a buffer for who needs one next.
    pub fn reuse(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if (1..=LARGEST_SPARE).contains(&buffer.capacity()) && spare.len() < MOST_SPARE {
            buffer.clear();
            spare.push(buffer);
        }
    }

    /// Whether clients are to be told goodbye where no transaction is open.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// The time of the last tick: exact to a tenth of a second, and free.
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    /// Looks at the clock.
    pub fn tick(&self) {
        self.now.set(Instant::now());
    }

    /// Numbers servers; a server keeps its number on another worker.
    pub fn next_server(&self) -> u64 {
        let workers = self.peers.len().max(self.id.0 + 1) as u64;
        self.servers.replace(self.servers.get() + workers)
    }

    /// Something went wrong that is not the client's fault.
    pub fn count_error(&self) {
        self.tally.errors.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// The pool of a database and user; made when it is first asked for.
    pub fn pool(self: &Rc<Self>, database: &str, user: &str) -> Option<Rc<Pool>> {
        let snapshot = self.snapshot();
        let role = snapshot.role(database, user);
        let key = (database.to_owned(), role.to_owned());
        if let Some(pool) = self.pools.borrow().get(&key) {
            return Some(Rc::clone(pool));
        }
        let database = snapshot.database(database)?;
        let user = snapshot.server_user(&database, role)?;
        let meters = Meters::of(&self.observer, (&database.name, &database.sign), &user.name);
        let whole = snapshot.wholes.of(&key, self.peers.len().max(self.id.0 + 1));
        let pool = Pool::new(self, database, user, (meters, whole));
        pool.pause(self.pause_of(&key.0));
        self.pools.borrow_mut().insert(key, Rc::clone(&pool));
        if pool.whole.is_shared() {
            // They have not shown themselves while they were alone.
            self.tell_others(|| Message::Look);
        }
        Some(pool)
    }

    /// The pool of a database and role, if it is here.
    pub fn known(&self, key: &(String, String)) -> Option<Rc<Pool>> {
        self.pools.borrow().get(key).cloned()
    }

    /// Forgets a pool that nobody has any more.
    pub(crate) fn forget(&self, key: &(String, String)) {
        self.pools.borrow_mut().remove(key);
    }

    /// Holds a database (an empty name: all) up, or lets it go on; how many pools it concerns. What is held up by
    /// itself and with all goes on when both have ended.
    pub fn hold(&self, database: &str, hold: Hold, on: Pause) -> usize {
        let one = (database.to_owned(), hold);
        let _as_before = match on {
            Pause::Paused => self.held.borrow_mut().insert(one),
            Pause::Running => self.held.borrow_mut().remove(&one),
        };
        let pools = self.pools();
        let concerns = |pool: &&Rc<Pool>| database.is_empty() || pool.database().name == database;
        let concerned = pools.iter().filter(concerns);
        concerned.map(|pool| pool.pause(self.pause_of(&pool.database().name))).count()
    }

    /// Whether a database is held up, by itself or with all.
    pub fn is_held(&self, database: &str, hold: Hold) -> bool {
        let held = self.held.borrow();
        let by = |name: &str| held.contains(&(name.to_owned(), hold));
        by("") || by(database)
    }

    /// All that is held up.
    pub fn held(&self) -> HashSet<(String, Hold)> {
        self.held.borrow().clone()
    }

    /// Whether servers of a database are held up.
    pub fn pause_of(&self, database: &str) -> Pause {
        let is = self.is_held(database, Hold::Paused);
        if is { Pause::Paused } else { Pause::Running }
    }

    /// All pools that are at home here.
    pub fn pools(&self) -> Vec<Rc<Pool>> {
        let mut all: Vec<_> = self.pools.borrow().values().cloned().collect();
        all.extend(self.lookups.pools());
        all
    }

    /// Enters a client by its number. It gets another one if that is somebody else's meanwhile: a cancel key that it
    /// has been told already hits nobody then.
    pub fn enter(&self, pid: u32, make: impl FnOnce(u32) -> Entry) -> Rc<Entry> {
        let pid = self.free(pid);
        let entry = Rc::new(make(pid));
        self.clients.borrow_mut().insert(pid, Rc::clone(&entry));
        entry
    }

    /// Enters a console by its number, or another one, so that cancel requests reach it; its number.
    pub fn seat(&self, pid: u32, console: Visitor) -> u32 {
        let pid = self.free(pid);
        self.consoles.borrow_mut().insert(pid, console);
        self.visits.set(self.visits.get() + 1);
        pid
    }

    /// How many consoles have come so far.
    pub fn visits(&self) -> u64 {
        self.visits.get()
    }

    /// The console with this number.
    pub fn console(&self, pid: u32) -> Option<Rc<Abort>> {
        self.consoles.borrow().get(&pid).map(|visitor| Rc::clone(&visitor.abort))
    }

    /// What is made of each console and its number.
    pub fn each_console<T>(&self, make: impl Fn(u32, &Visitor) -> T) -> Vec<T> {
        self.consoles.borrow().iter().map(|(pid, visitor)| make(*pid, visitor)).collect()
    }

    /// A number for who comes; it names this worker, so that a cancel request finds its way.
    pub fn next_pid(&self) -> u32 {
        let numbers = Numbers::of(&self.snapshot());
        loop {
            let next = self.pids.get();
            self.pids.set(next.wrapping_add(1));
            if let Some(pid) = numbers.make(self.id.0, next).filter(|pid| !self.is_taken(*pid)) {
                return pid;
            }
        }
    }

    fn is_taken(&self, pid: u32) -> bool {
        self.clients.borrow().contains_key(&pid) || self.consoles.borrow().contains_key(&pid)
    }

    fn free(&self, pid: u32) -> u32 {
        if self.is_taken(pid) { self.next_pid() } else { pid }
    }

    /// The process that takes over.
    pub fn successor(&self) -> Option<Link> {
        self.successor.borrow().clone()
    }

    /// A client is gone.
    pub fn leave(&self, pid: u32) {
        self.clients.borrow_mut().remove(&pid);
        self.consoles.borrow_mut().remove(&pid);
    }

    /// The client with this number.
    pub fn client(&self, pid: u32) -> Option<Rc<Entry>> {
        self.clients.borrow().get(&pid).cloned()
    }

    /// All clients here.
    pub fn clients(&self) -> Vec<Rc<Entry>> {
        self.clients.borrow().values().cloned().collect()
    }

    /// Ends clients for which `which` holds; how many there were.
    pub fn end(&self, which: impl Fn(&Entry) -> bool, ending: Ending) -> usize {
        let all = self.clients();
        let ended: Vec<_> = all.iter().filter(|entry| which(entry)).collect();
        ended.iter().for_each(|entry| entry.end(ending));
        ended.len()
    }
}
