//! What the shards of one pool have in common, one shard to each worker that has clients of it: places, which
//! `RECONNECT` holds, what clients' logins have shown, who rests and who waits where. Not for servers: each is owned by one shard (`lending` moves
//! it). Kept by the snapshot from one configuration to the next.
//!
//! Invariant: there are never more places than a pool may have servers, whichever shards they are in; what shards
//! show each other is shown before they look, so that of two that change at the same time one sees the other.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::server::auth::Caught;

/// A database and the role that its servers see.
pub type Key = (String, String);

/// One pool, all shards together.
#[derive(Debug)]
pub struct Whole {
    /// Which pool it is.
    pub key: Key,
    /// Keys for logging in to servers.
    pub caught: Caught,
    /// Servers that are there, come or go.
    held: AtomicU32,
    /// Of these, who is there.
    live: AtomicU32,
    /// And who goes.
    closing: AtomicU32,
    /// Connects under way.
    connecting: AtomicU32,
    /// Clients that wait for a server of their own.
    apart: AtomicU32,
    /// Servers that session state ties to their clients.
    pinned: AtomicU32,
    generation: AtomicU64,
    /// The last `RECONNECT` that has counted.
    round: AtomicU64,
    shards: AtomicU32,
    /// By worker.
    seats: Box<[Seat]>,
    /// What its servers say of themselves.
    said: Mutex<Option<Said>>,
    born: Instant,
}

/// All that a server reports at a login.
pub type Said = Arc<[(String, String)]>;

/// What one shard shows the others; apart from theirs in memory, as each writes its own often.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Seat {
    there: AtomicBool,
    /// Servers that rest.
    idle: AtomicU32,
    /// Clients that wait.
    waiting: AtomicU32,
    /// Since when the first of them has waited, in microseconds.
    since: AtomicU64,
    /// Servers on their way to it.
    coming: AtomicU32,
    /// Its share of what metrics show.
    shown: [AtomicU32; SHOWN],
}

/// Numbers that metrics show of a pool.
pub const SHOWN: usize = 5;

/// How much longer a neighbour's first client may have waited than one's own before it comes first: half as long
/// again, and this.
const UNFAIR: Duration = Duration::from_micros(500);

impl Whole {
    /// A pool without shards.
    pub fn new(key: Key, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            key,
            caught: Caught::default(),
            held: AtomicU32::new(0),
            live: AtomicU32::new(0),
            closing: AtomicU32::new(0),
            connecting: AtomicU32::new(0),
            apart: AtomicU32::new(0),
            pinned: AtomicU32::new(0),
            generation: AtomicU64::new(0),
            round: AtomicU64::new(0),
            shards: AtomicU32::new(0),
            seats: (0..workers.max(1)).map(|_| Seat::default()).collect(),
            said: Mutex::default(),
            born: Instant::now(),
        })
    }

    /// A worker has a shard of it from now on.
    pub(super) fn join(&self, at: usize) {
        if let Some(seat) = self.seats.get(at)
            && !seat.there.swap(true, Ordering::SeqCst)
        {
            self.shards.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A worker has none any more.
    pub(super) fn part(&self, at: usize) {
        let Some(seat) = self.seats.get(at) else { return };
        seat.idle.store(0, Ordering::SeqCst);
        seat.waiting.store(0, Ordering::SeqCst);
        if seat.there.swap(false, Ordering::SeqCst) {
            self.shards.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// How many workers have a shard of it.
    pub fn shards(&self) -> usize {
        self.shards.load(Ordering::SeqCst) as usize
    }

    /// Whether there is more than one.
    pub fn is_shared(&self) -> bool {
        self.shards.load(Ordering::Relaxed) > 1
    }

    /// The workers beside one that have a shard of it.
    pub fn neighbours(&self, own: usize) -> impl Iterator<Item = usize> {
        self.others(own).map(|(at, _)| at)
    }

    fn others(&self, own: usize) -> impl Iterator<Item = (usize, &Seat)> {
        let others = self.seats.iter().enumerate().filter(move |(at, _)| *at != own);
        others.filter(|(_, seat)| seat.there.load(Ordering::SeqCst))
    }

    /// Servers that are there, come or go.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst) as usize
    }

    /// Servers that are there.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst) as usize
    }

    /// Clients that wait for a server of their own.
    pub fn apart(&self) -> usize {
        self.apart.load(Ordering::SeqCst) as usize
    }

    /// Whether one of those needs a place that neither is free, of `size`, nor about to be: an idle server must go.
    pub(super) fn lacks_place(&self, size: usize) -> bool {
        let closing = self.closing.load(Ordering::SeqCst) as usize;
        self.apart() > size.saturating_sub(self.held()) + closing
    }

    /// One more of these, or one less.
    pub(super) fn count_apart(&self, waits: bool) {
        match waits {
            true => self.apart.fetch_add(1, Ordering::SeqCst),
            false => self.apart.fetch_sub(1, Ordering::SeqCst),
        };
    }

    /// One more server is tied to its client; `false`: there are as many as may be (0: no bound).
    pub(super) fn pin(&self, most: u32) -> bool {
        let pin = |now: u32| (most == 0 || now < most).then_some(now + 1);
        self.pinned.fetch_update(Ordering::SeqCst, Ordering::SeqCst, pin).is_ok()
    }

    /// One less.
    pub(super) fn unpin(&self) {
        self.pinned.fetch_sub(1, Ordering::SeqCst);
    }

    /// How often its servers were told to go.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    pub(super) fn renew(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// The same by a command that all shards hear: counts once. `false`: it has counted.
    pub(super) fn renew_for(&self, round: u64) -> bool {
        let first = self.round.fetch_max(round, Ordering::SeqCst) < round;
        if first {
            self.renew();
        }
        first
    }

    /// What its servers say of themselves, once there was one: the same value until one says something else.
    pub fn said(&self) -> Option<Said> {
        lock(&self.said).clone()
    }

    pub(super) fn say(&self, said: &[(String, String)]) {
        let mut known = lock(&self.said);
        if known.as_deref() != Some(said) {
            *known = Some(said.into());
        }
    }

    /// Shows the others how a shard stands.
    pub(super) fn show(&self, own: usize, idle: usize, (waiting, since): (usize, Option<Instant>)) {
        let Some(seat) = self.seats.get(own) else { return };
        let since = since.map_or(0, |since| since.saturating_duration_since(self.born).as_micros());
        seat.since.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::SeqCst);
        seat.waiting.store(u32::try_from(waiting).unwrap_or(u32::MAX), Ordering::SeqCst);
        seat.idle.store(u32::try_from(idle).unwrap_or(u32::MAX), Ordering::SeqCst);
    }

    /// The neighbour whose first client has waited longest, of those that have more clients waiting than servers
    /// coming.
    pub(super) fn neediest(&self, own: usize) -> Option<(usize, Instant)> {
        let needs = |seat: &Seat| {
            let waiting = seat.waiting.load(Ordering::SeqCst);
            waiting > 0 && waiting > seat.coming.load(Ordering::SeqCst)
        };
        let all = self.others(own).filter(|(_, seat)| needs(seat));
        let all = all.map(|(at, seat)| (seat.since.load(Ordering::SeqCst), at));
        let (since, at) = all.min()?;
        Some((at, self.born + Duration::from_micros(since)))
    }

    /// The neighbour to which a server that is free now goes although a client has waited here since `own`: its
    /// first client has waited much longer.
    pub(super) fn unfair(&self, own: usize, since: Instant, now: Instant) -> Option<usize> {
        let (at, theirs) = self.neediest(own)?;
        let waited = |since: Instant| now.saturating_duration_since(since);
        (waited(theirs) > waited(since) * 3 / 2 + UNFAIR).then_some(at)
    }

    /// The neighbour with most servers that rest, but for those that have just said that there is none to spare.
    pub(super) fn idlest(&self, own: usize, but: &[usize]) -> Option<usize> {
        let others = self.others(own).filter(|(at, _)| !but.contains(at));
        let all = others.map(|(at, seat)| (seat.idle.load(Ordering::SeqCst), at));
        all.max().filter(|(idle, _)| *idle > 0).map(|(_, at)| at)
    }

    /// Whether clients wait in other shards.
    pub(super) fn waits_elsewhere(&self, own: usize) -> bool {
        self.others(own).any(|(_, seat)| seat.waiting.load(Ordering::SeqCst) > 0)
    }

    /// Servers on their way to a shard.
    pub(super) fn coming(&self, own: usize) -> usize {
        self.seats.get(own).map_or(0, |seat| seat.coming.load(Ordering::SeqCst) as usize)
    }

    /// Servers between two shards.
    pub fn moving(&self) -> usize {
        (0..self.seats.len()).map(|at| self.coming(at)).sum()
    }

    /// What metrics show of the whole, of which this is one shard's share.
    pub fn sums(&self, own: usize, share: [usize; SHOWN]) -> [f64; SHOWN] {
        if let Some(seat) = self.seats.get(own) {
            for (shown, now) in seat.shown.iter().zip(share) {
                shown.store(u32::try_from(now).unwrap_or(u32::MAX), Ordering::Relaxed);
            }
        }
        let mut sums = [0.0; SHOWN];
        for seat in &self.seats {
            for (sum, shown) in sums.iter_mut().zip(&seat.shown) {
                *sum += f64::from(shown.load(Ordering::Relaxed));
            }
        }
        sums
    }
}

/// A place among a pool's servers, whichever shard has it; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    whole: Arc<Whole>,
    stage: Stage,
}

/// What the server of a place does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Coming,
    There,
    Going,
}

/// One more, unless there are `most` already.
fn count_up(count: &AtomicU32, most: usize) -> bool {
    let more = |now: u32| ((now as usize) < most).then_some(now + 1);
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
}

impl Permit {
    /// `None`: there are `most` already.
    pub fn enter(whole: &Arc<Whole>, most: usize) -> Option<Self> {
        count_up(&whole.held, most).then(|| Self { whole: Arc::clone(whole), stage: Stage::Coming })
    }

    /// Its server is there.
    pub(super) fn begin(&mut self) {
        if self.stage == Stage::Coming {
            self.stage = Stage::There;
            self.whole.live.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Its server goes.
    pub(super) fn end(&mut self) {
        if self.stage == Stage::There {
            self.go();
            self.whole.live.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Its server goes if there are more than `least`, all shards together; whether it does.
    pub(super) fn end_above(&mut self, least: usize) -> bool {
        let less = |live: u32| (live as usize > least).then(|| live - 1);
        let goes = self.stage == Stage::There
            && self.whole.live.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
        if goes {
            self.go();
        }
        goes
    }

    fn go(&mut self) {
        self.stage = Stage::Going;
        self.whole.closing.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.end();
        // First the place: there may seem to be one more for a moment, never one less.
        self.whole.held.fetch_sub(1, Ordering::SeqCst);
        if self.stage == Stage::Going {
            self.whole.closing.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// A connect under way, whichever shard makes it; over when dropped.
#[derive(Debug)]
pub(super) struct Connect(Arc<Whole>);

impl Connect {
    /// `None`: there are `most` already.
    pub(super) fn enter(whole: &Arc<Whole>, most: usize) -> Option<Self> {
        count_up(&whole.connecting, most).then(|| Self(Arc::clone(whole)))
    }

    /// It is over; whether others may have waited for that.
    pub(super) fn end(self, most: usize) -> bool {
        self.0.is_shared() && self.0.connecting.load(Ordering::SeqCst) as usize >= most
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        self.0.connecting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A server on its way to a shard.
#[derive(Debug)]
pub(super) struct Coming(Arc<Whole>, usize);

impl Coming {
    pub(super) fn new(whole: &Arc<Whole>, to: usize) -> Self {
        if let Some(seat) = whole.seats.get(to) {
            seat.coming.fetch_add(1, Ordering::SeqCst);
        }
        Self(Arc::clone(whole), to)
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if let Some(seat) = self.0.seats.get(self.1) {
            seat.coming.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// All pools that have shards.
#[derive(Debug, Default)]
pub struct Wholes(Mutex<HashMap<Key, Weak<Whole>>>);

/// Pools beyond which those are forgotten that are no more.
const MOST: usize = 1000;

impl Wholes {
    /// The one of this name; made when it is first asked for.
    pub fn of(&self, key: &Key, workers: usize) -> Arc<Whole> {
        let mut all = lock(&self.0);
        if let Some(whole) = all.get(key).and_then(Weak::upgrade) {
            return whole;
        }
        if all.len() >= MOST {
            all.retain(|_, whole| whole.strong_count() > 0);
        }
        let whole = Whole::new(key.clone(), workers);
        all.insert(key.clone(), Arc::downgrade(&whole));
        whole
    }

    /// A pool is gone from the configuration: one of its name is another one. One that has come since stays: workers
    /// follow one after the other.
    pub fn forget(&self, whole: &Arc<Whole>) {
        let mut all = lock(&self.0);
        if all.get(&whole.key).is_some_and(|known| std::ptr::eq(known.as_ptr(), &raw const **whole))
        {
            all.remove(&whole.key);
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair() -> Arc<Whole> {
        let whole = Whole::new(("shop".to_owned(), "app".to_owned()), 3);
        whole.join(0);
        whole.join(2);
        whole
    }

    proptest! {
        /// P2: whatever shards take and give back at the same time, there are never more places than there may be,
        /// and all that were given back can be taken again.
        #[test]
        fn places_are_exact(most in 1usize..8, turns in proptest::collection::vec(0u32..5, 4..40)) {
            let whole = pair();
            let worst = Mutex::new(0);
            std::thread::scope(|scope| {
                for part in turns.chunks(turns.len().div_ceil(4)) {
                    let (whole, worst) = (&whole, &worst);
                    scope.spawn(move || {
                        let mut own = Vec::new();
                        for turn in part {
                            for _ in 0..*turn {
                                own.extend(Permit::enter(whole, most));
                                own.iter_mut().for_each(Permit::begin);
                            }
                            let seen = whole.held().max(whole.live());
                            let mut worst = lock(worst);
                            *worst = seen.max(*worst);
                            drop(worst);
                            own.pop();
                        }
                    });
                }
            });
            prop_assert!(*lock(&worst) <= most);
            prop_assert_eq!((whole.held(), whole.live()), (0, 0));
            let all: Vec<_> = (0..most).filter_map(|_| Permit::enter(&whole, most)).collect();
            prop_assert_eq!(all.len(), most);
            prop_assert!(Permit::enter(&whole, most).is_none());
        }
    }

    /// P2: a free server goes to a neighbour only if that waits without one on its way, and, where clients wait here
    /// too, if it has waited much longer.
    #[tokio::test(start_paused = true)]
    async fn who_comes_first() {
        let whole = pair();
        let (ms, began) = (Duration::from_millis, Instant::now());
        assert_eq!(whole.neediest(0), None);
        whole.show(2, 0, (1, Some(began + ms(10))));
        assert_eq!(whole.neediest(0).map(|(at, _)| at), Some(2));
        assert_eq!(whole.neediest(2), None, "itself");
        let coming = Coming::new(&whole, 2);
        assert_eq!((whole.neediest(0), whole.moving()), (None, 1));
        drop(coming);
        let now = began + ms(30);
        assert_eq!(whole.unfair(0, began + ms(12), now), None, "20 ms are not much more than 18");
        assert_eq!(whole.unfair(0, began + ms(20), now), Some(2), "20 ms are more than 10");
        whole.show(2, 3, (0, None));
        assert_eq!((whole.idlest(0, &[]), whole.idlest(2, &[])), (Some(2), None));
        assert_eq!(whole.idlest(0, &[2]), None, "it has said that it has none");
        whole.part(2);
        assert_eq!((whole.idlest(0, &[]), whole.is_shared()), (None, false));
    }

    /// P2: a pool that comes back after it was gone is another one.
    #[test]
    fn pools_are_one_for_all_workers() {
        let (all, key) = (Wholes::default(), ("shop".to_owned(), "app".to_owned()));
        let whole = all.of(&key, 2);
        assert!(Arc::ptr_eq(&whole, &all.of(&key, 2)));
        all.forget(&whole);
        let next = all.of(&key, 2);
        assert!(!Arc::ptr_eq(&whole, &next));
        // A worker that follows late means the first one.
        all.forget(&whole);
        assert!(Arc::ptr_eq(&next, &all.of(&key, 2)));
    }

    /// P2: however many shards close what is idle at the same time, as many as there must be stay; and how many connect
    /// at a time counts for all of them.
    #[test]
    fn the_least_stay() {
        let whole = pair();
        let mut all: Vec<_> = (0..5).filter_map(|_| Permit::enter(&whole, 5)).collect();
        all.iter_mut().for_each(Permit::begin);
        let closed: usize = std::thread::scope(|scope| {
            let parts: Vec<_> = all
                .chunks_mut(2)
                .map(|part| {
                    scope.spawn(|| {
                        part.iter_mut().filter_map(|it| it.end_above(3).then_some(())).count()
                    })
                })
                .collect();
            parts.into_iter().map(|part| part.join().expect("no panic")).sum()
        });
        assert_eq!((closed, whole.live(), whole.held()), (2, 3, 5));
        drop(all);
        assert_eq!((whole.live(), whole.held(), whole.closing.load(Ordering::SeqCst)), (0, 0, 0));

        let (first, second) = (Connect::enter(&whole, 2), Connect::enter(&whole, 2));
        assert!(Connect::enter(&whole, 2).is_none());
        assert!(first.expect("one").end(2), "somebody may have waited for it");
        assert!(!second.expect("two").end(2));
        assert!(Connect::enter(&whole, 2).is_some());
    }

    /// P2: for each who wants a server of its own at most one idle server goes, however often it is asked for.
    #[test]
    fn one_place_is_made_for_one() {
        let whole = pair();
        let mut all: Vec<_> = (0..3).filter_map(|_| Permit::enter(&whole, 3)).collect();
        all.iter_mut().for_each(Permit::begin);
        assert!(!whole.lacks_place(3));
        whole.count_apart(true);
        assert!(whole.lacks_place(3));
        all[0].end();
        assert!(!whole.lacks_place(3), "one goes already");
        all.remove(0);
        assert!(!whole.lacks_place(3), "it has gone");
        whole.count_apart(true);
        assert!(whole.lacks_place(3), "another one wants one too");
    }

    /// P6: a command that every shard hears counts once; what servers say is one value until they say otherwise.
    #[test]
    fn what_is_said_once_counts_once() {
        let whole = pair();
        assert_eq!([7, 7, 8].map(|round| whole.renew_for(round)), [true, false, true]);
        assert_eq!(whole.generation(), 2);
        let say = |zone: &str| {
            whole.say(&[("TimeZone".to_owned(), zone.to_owned())]);
            whole.said().expect("said")
        };
        let first = say("UTC");
        assert!(Arc::ptr_eq(&first, &say("UTC")));
        assert!(!Arc::ptr_eq(&first, &say("Asia/Tokyo")));
    }
}
