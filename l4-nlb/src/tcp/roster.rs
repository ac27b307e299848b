//! The connections of one listener on one worker: what is known of each, and the word that ends one
//! from outside. Not for moving bytes. Kept by `tcp::Worker`, shown by the admin listener.
//!
//! Invariant: an entry stands in the roster as long as its connection runs; the data path touches its
//! own entry alone and never waits for the lock.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::net::relay::Meter;
use common::rng::Rng;
use common::service::{Endpoint, Service};
use tokio::sync::Notify;
use tokio::time::Instant;
use topology::l4::{Listener, OnDown};

use crate::meters::{Direction, Meters};

/// All rosters of a listener: one per worker.
#[derive(Debug, Default)]
pub struct Rosters(Mutex<Vec<Weak<Roster>>>);

impl Rosters {
    /// An empty roster that is shown from now on.
    pub(super) fn open(&self, meters: Arc<Meters>) -> Arc<Roster> {
        let roster = Arc::new(Roster::new(meters));
        let mut rosters = lock(&self.0);
        rosters.retain(|roster| roster.strong_count() > 0);
        rosters.push(Arc::downgrade(&roster));
        roster
    }

    /// Every connection that has an endpoint, in no order. Locks each roster for the time of a copy.
    pub fn connections(&self) -> Vec<Seen> {
        let rosters: Vec<Arc<Roster>> = lock(&self.0).iter().filter_map(Weak::upgrade).collect();
        rosters.iter().flat_map(|roster| roster.seen()).collect()
    }
}

/// One connection as an operator sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The id in the PROXY header and in the log.
    pub id: String,
    /// The client.
    pub client: SocketAddr,
    /// Its service.
    pub service: Arc<Service>,
    /// Its endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Bytes from the client.
    pub up: u64,
    /// Bytes to the client.
    pub down: u64,
    /// Since it was accepted.
    pub age: Duration,
    /// Since a byte moved.
    pub quiet: Duration,
}

/// One worker's connections.
#[derive(Debug)]
pub struct Roster {
    /// Random: so that ids of two processes, or of two workers, do not meet.
    seed: u64,
    began: Instant,
    /// Milliseconds since `began`, moved on by [`Roster::sweep`]: what bytes are stamped with.
    clock: AtomicU32,
    places: Mutex<Places>,
    meters: Arc<Meters>,
    /// Told when the last connection has ended.
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Places {
    flows: Vec<Option<Arc<Flow>>>,
    free: Vec<u32>,
    opened: u64,
}

impl Places {
    fn used(&self) -> usize {
        self.flows.len() - self.free.len()
    }
}

impl Roster {
    fn new(meters: Arc<Meters>) -> Self {
        Self {
            meters,
            seed: Rng::from_os().next(),
            began: Instant::now(),
            clock: AtomicU32::new(0),
            places: Mutex::default(),
            emptied: Notify::new(),
        }
    }

    /// Enters a connection; dropping the entry takes it out.
    pub(super) fn enter(self: &Arc<Self>) -> Entry {
        let now = self.clock.load(Ordering::Relaxed);
        let mut places = lock(&self.places);
        places.opened += 1;
        let flow = Arc::new(Flow::new(places.opened, now));
        let place = if let Some(place) = places.free.pop() {
            place
        } else {
            places.flows.push(None);
            places.flows.len() as u32 - 1
        };
        if let Some(empty) = places.flows.get_mut(place as usize) {
            *empty = Some(flow.clone());
        }
        drop(places);
        Entry { roster: self.clone(), flow, place }
    }

    /// Waits until no connection is left. Cancel safe; for one caller at a time.
    pub(super) async fn emptied(&self) {
        while lock(&self.places).used() > 0 {
            self.emptied.notified().await;
        }
    }

    /// Moves the clock on, adds what passed to the listener's counters, and ends what the rules end:
    /// connections idle for too long, and those of a dead endpoint where the file wants that. An
    /// endpoint that only takes no new flows is not dead.
    pub(super) fn sweep(&self, rules: &Listener, now: Instant) {
        let clock = now.saturating_duration_since(self.began).as_millis() as u32;
        self.clock.store(clock, Ordering::Relaxed);
        // A stamp may be one period old.
        let idle = rules.idle.saturating_add(PERIOD).as_millis();
        for flow in lock(&self.places).flows.iter().flatten() {
            flow.report(&self.meters);
            let Some(known) = flow.known.get() else { continue };
            let quiet = clock.wrapping_sub(flow.moved.load(Ordering::Relaxed));
            if u128::from(quiet) >= idle {
                flow.tell(Word::Idle);
            } else if rules.on_down == OnDown::Reset && !known.endpoint.state.alive(now) {
                flow.tell(Word::Down);
            } else if clock.wrapping_sub(flow.since) >= YOUNG {
                flow.tell(Word::Settle);
            }
        }
    }

    /// Ends all connections.
    pub(super) fn stop(&self) {
        for flow in lock(&self.places).flows.iter().flatten() {
            flow.tell(Word::Stop);
        }
    }

    /// Bytes that a connection takes here.
    #[cfg(test)]
    pub(super) fn cost() -> usize {
        size_of::<Flow>() + size_of::<Option<Arc<Flow>>>()
    }

    fn id(&self, flow: &Flow) -> String {
        format!("{:016x}-{:x}", self.seed, flow.number)
    }

    fn seen(&self) -> Vec<Seen> {
        let clock = self.clock.load(Ordering::Relaxed);
        let since = |stamp: u32| Duration::from_millis(clock.wrapping_sub(stamp).into());
        let seen = |flow: &Arc<Flow>| {
            let known = flow.known.get()?;
            Some(Seen {
                id: self.id(flow),
                client: known.client,
                service: known.service.clone(),
                endpoint: known.endpoint.clone(),
                up: flow.up.load(Ordering::Relaxed),
                down: flow.down.load(Ordering::Relaxed),
                age: since(flow.since),
                quiet: since(flow.moved.load(Ordering::Relaxed)),
            })
        };
        lock(&self.places).flows.iter().flatten().filter_map(seen).collect()
    }
}

/// A connection's place.
#[derive(Debug)]
pub(super) struct Entry {
    roster: Arc<Roster>,
    flow: Arc<Flow>,
    place: u32,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut places = lock(&self.roster.places);
        if let Some(place) = places.flows.get_mut(self.place as usize) {
            *place = None;
        }
        self.flow.report(&self.roster.meters);
        places.free.push(self.place);
        if places.used() == 0 {
            self.roster.emptied.notify_one();
        }
    }
}

impl Entry {
    /// Names the connection: in the log, in a PROXY header, to an operator.
    pub(super) fn id(&self) -> String {
        self.roster.id(&self.flow)
    }

    /// From now on it is shown, and ends when it is idle.
    pub(super) fn connected(&self, client: SocketAddr, to: (Arc<Service>, Arc<Endpoint>)) {
        let (service, endpoint) = to;
        self.stamp();
        let _first = self.flow.known.set(Known { client, service, endpoint });
    }

    fn stamp(&self) {
        let now = self.roster.clock.load(Ordering::Relaxed);
        self.flow.moved.store(now, Ordering::Relaxed);
    }

    /// Ready when somebody has a word for the connection; wakes the task then.
    pub(super) fn poll_word(&self, cx: &mut Context<'_>, waits: &mut Option<Waker>) -> Poll<Word> {
        // A task has one waker for all of its life: the lock is taken once.
        if !waits.as_ref().is_some_and(|waits| waits.will_wake(cx.waker())) {
            *waits = Some(cx.waker().clone());
            *lock(&self.flow.waits) = Some(cx.waker().clone());
        }
        match Word::ALL.get(usize::from(self.flow.word.load(Ordering::Relaxed))) {
            Some(Some(word)) => Poll::Ready(*word),
            _ => Poll::Pending,
        }
    }

    /// The word was heard and asks for no end.
    pub(super) fn heard(&self) {
        let (settle, done) = (Word::Settle as u8, Word::SETTLED);
        let order = Ordering::Relaxed;
        let _later_word = self.flow.word.compare_exchange(settle, done, order, order);
    }
}

impl Meter for Entry {
    fn up(&self, bytes: u64) {
        add(&self.flow.up, bytes);
        self.stamp();
    }

    fn down(&self, bytes: u64) {
        add(&self.flow.down, bytes);
        self.stamp();
    }
}

/// What is known of one connection. The counters have one writer: its task.
#[derive(Debug)]
struct Flow {
    number: u64,
    since: u32,
    moved: AtomicU32,
    up: AtomicU64,
    down: AtomicU64,
    /// Of both, what the listener's counters have; moved under the roster's lock.
    told: [AtomicU64; 2],
    word: AtomicU8,
    waits: Mutex<Option<Waker>>,
    known: OnceLock<Known>,
}

#[derive(Debug)]
struct Known {
    client: SocketAddr,
    service: Arc<Service>,
    endpoint: Arc<Endpoint>,
}

impl Flow {
    fn new(number: u64, now: u32) -> Self {
        Self {
            number,
            since: now,
            moved: AtomicU32::new(now),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            told: Default::default(),
            word: AtomicU8::new(0),
            waits: Mutex::new(None),
            known: OnceLock::new(),
        }
    }

    /// Adds what passed since the last report to counters that all workers share: seldom, so that
    /// they do not fight for them.
    fn report(&self, meters: &Meters) {
        let [told_up, told_down] = &self.told;
        for (total, told, direction) in
            [(&self.up, told_up, Direction::Up), (&self.down, told_down, Direction::Down)]
        {
            let total = total.load(Ordering::Relaxed);
            let more = total.saturating_sub(told.swap(total, Ordering::Relaxed));
            if more > 0 {
                meters.bytes(direction, more);
            }
        }
    }

    /// A word replaces none that is graver.
    fn tell(&self, word: Word) {
        if self.word.fetch_max(word as u8, Ordering::Relaxed) < word as u8
            && let Some(waits) = &*lock(&self.waits)
        {
            waits.wake_by_ref();
        }
    }
}

/// What a connection is told from outside, the gravest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Word {
    /// It is no short one: what only long ones need is worth its calls now.
    Settle = 1,
    /// No byte moved for too long.
    Idle = 3,
    /// Its endpoint is dead.
    Down = 4,
    /// The instance ends.
    Stop = 5,
}

impl Word {
    const SETTLED: u8 = 2;
    const ALL: [Option<Self>; 6] =
        [None, Some(Self::Settle), None, Some(Self::Idle), Some(Self::Down), Some(Self::Stop)];
}

/// One writer: no other thread adds in between.
fn add(total: &AtomicU64, more: u64) {
    total.store(total.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Between two sweeps.
pub(super) const PERIOD: Duration = Duration::from_millis(200);
/// Milliseconds after which a connection is no short one.
const YOUNG: u32 = 1000;

#[cfg(test)]
mod tests;
