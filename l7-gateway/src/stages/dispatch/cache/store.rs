//! Kept answers of one instance, shared by its workers. Not for what may be kept (`judge`) and not for
//! fetching (`cache`). Called by `cache`, `fill` and, when a snapshot is built, by `snapshot`.
//!
//! Invariant: never more than its size, and an answer goes in only under a ticket that nothing has
//! voided since it was fetched. A lock is held for a look, never while anybody waits.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use common::observe::Metrics;
use foldhash::fast::FixedState;
use http::{HeaderMap, HeaderName, StatusCode};
use metrics::{Counter, Gauge};
use tokio::sync::watch;
use tokio::time::Instant;
use topology::gateway::CacheStore;

use super::judge::{self, Terms};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// `scheme://authority/path?query`.
    pub uri: Arc<str>,
    /// By which route.
    pub scope: Scope,
}

/// A route in one state of its configuration, and the service that a split chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Changes with the route.
    pub generation: u64,
    /// Index of the service.
    pub to: usize,
    /// What the service is told of experiments.
    pub told: u64,
}

/// A kept answer.
#[derive(Debug)]
pub struct Entry {
    /// By which route it came.
    pub scope: Scope,
    /// Its status.
    pub status: StatusCode,
    /// Its end-to-end headers, without `Age` and `Content-Length`.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
    /// What the request said in the fields that `Vary` names.
    pub asked: Vec<(HeaderName, Option<Vec<u8>>)>,
    /// How long it holds.
    pub terms: Terms,
    /// When it came.
    pub came: Instant,
    /// Whether somebody asked for it since it was last looked at for room.
    wanted: AtomicBool,
    number: u64,
}

impl Entry {
    /// An answer to this request, without its body, of a number of its own.
    pub fn new(
        number: u64,
        key: &Key,
        request: &HeaderMap,
        (status, headers): (StatusCode, HeaderMap),
        (terms, came): (Terms, Instant),
    ) -> Self {
        let names = judge::vary(&headers).unwrap_or_default();
        let said = |name: HeaderName| {
            let value = judge::said(request, &name);
            (name, value)
        };
        let asked = names.into_iter().map(said).collect();
        let (scope, body, wanted) = (key.scope, Bytes::new(), AtomicBool::new(false));
        Self { scope, status, headers, body, asked, terms, came, wanted, number }
    }

    /// How old it is (RFC 9111 §4.2.3).
    pub fn age(&self, now: Instant) -> Duration {
        self.terms.age.saturating_add(now.saturating_duration_since(self.came))
    }

    fn answers(&self, scope: Scope, request: &HeaderMap) -> bool {
        self.scope == scope
            && self.asked.iter().all(|(name, value)| judge::said(request, name) == *value)
    }

    fn same_request(&self, other: &Self) -> bool {
        self.scope == other.scope && self.asked == other.asked
    }

    fn size(&self, uri: &str) -> u64 {
        let headers =
            self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64);
        let asked = self.asked.iter().map(|(_, value)| value.as_ref().map_or(0, Vec::len) + 64);
        let all = headers.sum::<usize>() + asked.sum::<usize>() + self.body.len() + 2 * uri.len();
        all as u64 + 512
    }
}

/// Kept answers.
#[derive(Debug)]
pub struct Store {
    /// Its section of the file.
    pub model: CacheStore,
    shards: Box<[Mutex<Shard>]>,
    hash: FixedState,
    numbers: AtomicU64,
    fetching: AtomicU64,
    /// What became of requests.
    pub counts: Counts,
}

/// What operators see of it.
#[derive(Debug)]
pub struct Counts {
    hits: Counter,
    stale: Counter,
    revalidated: Counter,
    misses: Counter,
    bypassed: Counter,
    bytes: Gauge,
    entries: Gauge,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered out of the store.
    Hit,
    /// Answered out of it, stale.
    Stale,
    /// Answered out of it after its service had been asked.
    Revalidated,
    /// Answered by the service, and perhaps kept.
    Miss,
    /// None of the store's business.
    Bypass,
}

impl Counts {
    fn new(metrics: &Metrics) -> Self {
        let help = "Requests to routes with a cache, by what became of them";
        let count = |outcome| {
            metrics.counter("aqueduct_http_cache_requests_total", help, &[("outcome", outcome)])
        };
        Self {
            hits: count("hit"),
            stale: count("stale"),
            revalidated: count("revalidated"),
            misses: count("miss"),
            bypassed: count("bypass"),
            bytes: metrics.gauge("aqueduct_http_cache_bytes", "Bytes of kept answers", &[]),
            entries: metrics.gauge("aqueduct_http_cache_entries", "Kept answers", &[]),
        }
    }

    /// One more.
    pub fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Hit => &self.hits,
            Outcome::Stale => &self.stale,
            Outcome::Revalidated => &self.revalidated,
            Outcome::Miss => &self.misses,
            Outcome::Bypass => &self.bypassed,
        };
        counter.increment(1);
    }
}

/// A part of the store with a lock of its own.
#[derive(Debug, Default)]
struct Shard {
    slots: HashMap<Arc<str>, Slot>,
    /// In the order in which room is looked for; may name answers that are gone.
    order: VecDeque<(Arc<str>, u64)>,
    bytes: u64,
    entries: usize,
    /// Requests whose answers could not be kept, and until when nobody waits for such.
    hopeless: HashMap<Key, Instant>,
}

/// Everything about one URI.
#[derive(Debug, Default)]
struct Slot {
    entries: Vec<Arc<Entry>>,
    flights: Vec<Flight>,
}

/// A fetch under way; dropping the sender tells those who wait.
#[derive(Debug)]
struct Flight {
    scope: Scope,
    number: u64,
    told: watch::Sender<()>,
}

/// Who fetches.
#[derive(Debug)]
pub enum Turn {
    /// Who asked; the answer may be kept under this ticket.
    Own(Ticket),
    /// Somebody else: wait for it, then look again.
    Wait(watch::Receiver<()>),
    /// Who asked, for itself alone.
    Alone,
}

/// The right to put one answer in, until something voids it. Dropping it lets those who wait go on.
#[derive(Debug)]
pub struct Ticket {
    store: Arc<Store>,
    key: Key,
    number: u64,
    room: Option<Room>,
}

/// Memory for one answer that is read ahead of its client; bounded in number, so that those who do not
/// read hold no more than the store itself.
#[derive(Debug)]
pub struct Room(Arc<Store>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetching.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many answers that somebody asked for are passed over each time room is made: who puts one in
/// holds the lock meanwhile.
const MOST_CHANCES: usize = 256;
/// Answers to one URI, by `Vary` and route.
const MOST_VARIANTS: usize = 16;
const SHARDS: usize = 8;
/// How long nobody waits for an answer that could not be kept.
const HOPELESS: Duration = Duration::from_secs(10);
/// Of how many this is remembered, in each shard.
const MOST_HOPELESS: usize = 1024;

impl Store {
    /// Empty.
    pub fn new(model: &CacheStore, metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            model: model.clone(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hash: FixedState::with_seed(rand::random()),
            numbers: AtomicU64::new(1),
            fetching: AtomicU64::new(0),
            counts: Counts::new(metrics),
        })
    }

    /// A number that was never given before.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self, uri: &str) -> MutexGuard<'_, Shard> {
        let hash = std::hash::BuildHasher::hash_one(&self.hash, uri);
        let at = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        let shard = self.shards.get(at).expect("invariant: less than the number of shards");
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kept answer to a request, fresh or not.
    pub fn find(&self, key: &Key, request: &HeaderMap) -> Option<Arc<Entry>> {
        let shard = self.shard(&key.uri);
        let entries = &shard.slots.get(&key.uri)?.entries;
        // RFC 9111 §4.1: of several that fit, the latest.
        let entry = entries.iter().rev().find(|entry| entry.answers(key.scope, request))?;
        entry.wanted.store(true, Ordering::Relaxed);
        Some(Arc::clone(entry))
    }

    /// Who is to fetch.
    pub fn turn(self: &Arc<Self>, key: &Key, now: Instant) -> Turn {
        let mut shard = self.shard(&key.uri);
        let hopeless = shard.hopeless.get(key).is_some_and(|until| now < *until);
        let slot = shard.slots.entry(Arc::clone(&key.uri)).or_default();
        if let Some(flight) = slot.flights.iter().find(|flight| flight.scope == key.scope) {
            return if hopeless { Turn::Alone } else { Turn::Wait(flight.told.subscribe()) };
        }
        // As many as would fill the store at their largest.
        let most = (self.model.size / self.model.max_body).max(1);
        if self.fetching.load(Ordering::Relaxed) >= most {
            shard.tidy(&key.uri);
            return Turn::Alone;
        }
        self.fetching.fetch_add(1, Ordering::Relaxed);
        let room = Some(Room(Arc::clone(self)));
        let number = self.number();
        let (told, _) = watch::channel(());
        slot.flights.push(Flight { scope: key.scope, number, told });
        Turn::Own(Ticket { store: Arc::clone(self), key: key.clone(), number, room })
    }

    /// Forgets everything about a URI, and voids what is being fetched (RFC 9111 §4.4).
    pub fn forget(&self, uri: &str) {
        let mut shard = self.shard(uri);
        if let Some(slot) = shard.slots.remove(uri) {
            for entry in &slot.entries {
                self.left(&mut shard, uri, entry);
            }
        }
    }

    /// Forgets everything about the URIs that are meant, and voids what is being fetched; how many answers
    /// there were.
    pub fn purge(&self, meant: impl Fn(&str) -> bool) -> usize {
        let mut count = 0;
        for shard in &self.shards {
            let mut guard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let uris: Vec<_> = guard.slots.keys().filter(|uri| meant(uri)).cloned().collect();
            for uri in uris {
                let Some(slot) = guard.slots.remove(&uri) else { continue };
                count += slot.entries.len();
                for entry in &slot.entries {
                    self.left(&mut guard, &uri, entry);
                }
            }
        }
        count
    }

    /// An answer is no longer in a shard.
    fn left(&self, shard: &mut Shard, uri: &str, entry: &Entry) {
        let size = entry.size(uri);
        shard.bytes = shard.bytes.saturating_sub(size);
        shard.entries = shard.entries.saturating_sub(1);
        self.counts.bytes.decrement(as_f64(size));
        self.counts.entries.decrement(1.0);
    }

    fn put(&self, ticket: &Ticket, entry: Arc<Entry>) -> bool {
        let uri = &ticket.key.uri;
        let size = entry.size(uri);
        let room = self.model.size / SHARDS as u64;
        let mut guard = self.shard(uri);
        let shard = &mut *guard;
        let Some(slot) = shard.slots.get_mut(uri) else { return false };
        let valid = slot.flights.iter().any(|flight| flight.number == ticket.number);
        if !valid || size > room {
            return false;
        }
        let mut gone = Vec::new();
        if let Some(at) = slot.entries.iter().position(|old| old.same_request(&entry)) {
            gone.push(slot.entries.remove(at));
        } else if slot.entries.len() >= MOST_VARIANTS {
            gone.push(slot.entries.remove(0));
        }
        shard.order.push_back((Arc::clone(uri), entry.number));
        slot.entries.push(entry);
        shard.bytes += size;
        shard.entries += 1;
        self.counts.bytes.increment(as_f64(size));
        self.counts.entries.increment(1.0);
        for old in gone {
            self.left(shard, uri, &old);
        }
        self.make_room(shard, room);
        true
    }

    /// Takes out what nobody asked for since it was last looked at, the oldest first.
    fn make_room(&self, shard: &mut Shard, room: u64) {
        let mut chances = MOST_CHANCES;
        while shard.bytes > room {
            let Some((uri, number)) = shard.order.pop_front() else { return };
            let Some(slot) = shard.slots.get_mut(&uri) else { continue };
            let Some(at) = slot.entries.iter().position(|e| e.number == number) else { continue };
            let asked_for =
                slot.entries.get(at).is_some_and(|e| e.wanted.swap(false, Ordering::Relaxed));
            if asked_for && chances > 0 {
                chances -= 1;
                shard.order.push_back((uri, number));
                continue;
            }
            let entry = slot.entries.remove(at);
            self.left(shard, &uri, &entry);
            shard.tidy(&uri);
        }
        if shard.order.len() > 2 * shard.entries + 64 {
            let slots = &shard.slots;
            let there = |(uri, number): &(Arc<str>, u64)| {
                slots.get(uri).is_some_and(|slot| slot.entries.iter().any(|e| e.number == *number))
            };
            shard.order.retain(there);
        }
    }

    /// Bytes and answers that are kept.
    #[cfg(test)]
    fn holds(&self) -> (u64, usize) {
        let each = self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner));
        each.fold((0, 0), |sum, shard| (sum.0 + shard.bytes, sum.1 + shard.entries))
    }
}

/// For gauges.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

impl Shard {
    /// A slot with nothing in it goes.
    fn tidy(&mut self, uri: &str) {
        let empty = |slot: &Slot| slot.entries.is_empty() && slot.flights.is_empty();
        if self.slots.get(uri).is_some_and(empty) {
            self.slots.remove(uri);
        }
    }
}

impl Ticket {
    /// Puts an answer in, unless something has voided it; whether it did.
    pub fn put(&self, entry: Arc<Entry>) -> bool {
        self.store.put(self, entry)
    }

    /// For who reads ahead; it may outlive the ticket.
    pub fn room(&mut self) -> Option<Room> {
        self.room.take()
    }

    /// The answer cannot be kept: for a while nobody waits for such.
    pub fn give_up(self, now: Instant) {
        let mut shard = self.store.shard(&self.key.uri);
        if shard.hopeless.len() >= MOST_HOPELESS {
            shard.hopeless.retain(|_, until| now < *until);
        }
        if shard.hopeless.len() >= MOST_HOPELESS {
            shard.hopeless.clear();
        }
        shard.hopeless.insert(self.key.clone(), now + HOPELESS);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut shard = self.store.shard(&self.key.uri);
        if let Some(slot) = shard.slots.get_mut(&self.key.uri) {
            slot.flights.retain(|flight| flight.number != self.number);
        }
        shard.tidy(&self.key.uri);
    }
}

#[cfg(test)]
mod tests;
