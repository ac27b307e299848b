//! How many requests are under way at a time, to one service or to all of them; a few more wait in
//! line, and others are told at once to come again. Not for rates: that is `rate_limit`. Shared by all
//! workers; called by `dispatch` before it asks.
//!
//! Invariant: who came first goes first, and a place in the line is given up with its request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use topology::gateway::Concurrency;

/// A bound with its line.
#[derive(Debug)]
pub struct Gate {
    rules: Concurrency,
    slots: Arc<Slots>,
}

#[derive(Debug)]
struct Slots {
    free: Arc<Semaphore>,
    /// Places that there are, free or not.
    bound: AtomicUsize,
    /// As many as a smaller bound would have taken, had they not been in use.
    owed: AtomicUsize,
    waiting: AtomicU32,
}

/// There is no place: come again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shed;

/// A request under way, from here to the last byte of its answer.
#[derive(Debug)]
pub struct Pass {
    slots: Arc<Slots>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Gate {
    /// By these rules; those who are in by `before` are counted further. Until it [opens](Self::open)
    /// it lets in as many as `before` did.
    pub fn new(rules: Concurrency, before: Option<&Self>) -> Arc<Self> {
        let most = rules.requests.get() as usize;
        let slots = match before {
            None => Arc::new(Slots {
                free: Arc::new(Semaphore::new(most)),
                bound: AtomicUsize::new(most),
                owed: AtomicUsize::new(0),
                waiting: AtomicU32::new(0),
            }),
            Some(before) => Arc::clone(&before.slots),
        };
        Arc::new(Self { rules, slots })
    }

    /// Its bound holds from now on: what it was built for is in force.
    pub fn open(&self) {
        self.slots.change(self.rules.requests.get() as usize);
    }

    /// How many stand in the line, where there is one.
    pub fn waiting(&self) -> Option<u32> {
        (self.rules.queue > 0).then(|| self.slots.waiting.load(Ordering::Relaxed))
    }

    /// Lets a request in, at once or after a while in the line.
    ///
    /// # Errors
    /// The line is full, or the request has stood in it for as long as it may.
    pub async fn enter(&self, deadline: Instant) -> Result<Pass, Shed> {
        let slots = &self.slots;
        // It fails while others wait: free places are theirs.
        if let Ok(permit) = Arc::clone(&slots.free).try_acquire_owned() {
            return Ok(Pass { slots: Arc::clone(slots), permit: Some(permit) });
        }
        let _place = Place::take(slots, self.rules.queue).ok_or(Shed)?;
        let until = deadline.min(Instant::now() + self.rules.wait);
        match timeout_at(until, Arc::clone(&slots.free).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Pass { slots: Arc::clone(slots), permit: Some(permit) }),
            _ => Err(Shed),
        }
    }
}

impl Slots {
    fn change(&self, to: usize) {
        let from = self.bound.swap(to, Ordering::Relaxed);
        let (more, fewer) = (to.saturating_sub(from), from.saturating_sub(to));
        let paid = self.pay(more);
        self.free.add_permits(more - paid);
        let taken = self.free.forget_permits(fewer);
        self.owed.fetch_add(fewer - taken, Ordering::Relaxed);
    }

    /// Pays what is owed with at most so many places; says how many.
    fn pay(&self, most: usize) -> usize {
        let less = |owed: usize| Some(owed - owed.min(most));
        let before = self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        before.unwrap_or_default().min(most)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && self.slots.owed.load(Ordering::Relaxed) > 0
            && self.slots.pay(1) == 1
        {
            permit.forget();
        }
    }
}

/// A place in the line.
struct Place<'a>(&'a Slots);

impl<'a> Place<'a> {
    fn take(slots: &'a Slots, most: u32) -> Option<Self> {
        let place = Self(slots);
        (slots.waiting.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;
    use std::time::Duration;

    fn rules(requests: u32, queue: u32) -> Concurrency {
        let requests = NonZeroU32::new(requests).expect("not 0");
        Concurrency { requests, queue, wait: Duration::from_millis(100) }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    /// G18: so many at a time, so many in line, in the order in which they came; the next one is told at
    /// once, and who waits for too long in the end.
    #[tokio::test(start_paused = true)]
    async fn a_line_is_short_and_fair() {
        let gate = Gate::new(rules(1, 2), None);
        let first = gate.enter(soon()).await.expect("free");
        let began = Instant::now();
        let (a, b) = (gate.enter(soon()), gate.enter(soon()));
        tokio::pin!(a, b);
        assert!(
            futures_util::poll!(&mut a).is_pending() && futures_util::poll!(&mut b).is_pending()
        );
        assert_eq!(gate.waiting(), Some(2));
        assert_eq!(gate.enter(soon()).await.err(), Some(Shed));
        assert_eq!(began.elapsed(), Duration::ZERO, "at once");
        drop(first);
        assert!(futures_util::poll!(&mut b).is_pending(), "it came later");
        let second = a.await.expect("its turn");
        assert_eq!(b.await.err(), Some(Shed));
        assert_eq!(began.elapsed(), Duration::from_millis(100));
        drop(second);
        assert!(gate.enter(soon()).await.is_ok());
    }

    /// G18: a changed bound counts those who are in.
    #[tokio::test(start_paused = true)]
    async fn a_bound_may_change_while_requests_are_under_way() {
        let wide = Gate::new(rules(3, 0), None);
        assert_eq!(wide.waiting(), None, "it has no line");
        let mut inside = Vec::new();
        for _ in 0..3 {
            inside.push(wide.enter(soon()).await.expect("free"));
        }
        let narrow = Gate::new(rules(1, 0), Some(&wide));
        narrow.open();
        for _ in 0..2 {
            inside.pop();
            assert!(narrow.enter(soon()).await.is_err());
        }
        inside.pop();
        let _one = narrow.enter(soon()).await.expect("free");
        assert!(narrow.enter(soon()).await.is_err());
        let wide = Gate::new(rules(2, 0), Some(&narrow));
        wide.open();
        let _two = wide.enter(soon()).await.expect("free");
        assert!(wide.enter(soon()).await.is_err());
    }

    /// T9: a gate that was built for a file that is refused changes nothing, however often.
    #[tokio::test(start_paused = true)]
    async fn a_refused_bound_changes_nothing() {
        let gate = Gate::new(rules(2, 0), None);
        for _ in 0..3 {
            let _refused = Gate::new(rules(1, 0), Some(&gate));
        }
        let _one = gate.enter(soon()).await.expect("free");
        let _two = gate.enter(soon()).await.expect("free");
        assert!(gate.enter(soon()).await.is_err());
        // The same bound twice is the same bound.
        let more = Gate::new(rules(3, 0), Some(&gate));
        more.open();
        Gate::new(rules(3, 0), Some(&more)).open();
        let _three = more.enter(soon()).await.expect("free");
        assert!(more.enter(soon()).await.is_err());
    }
}
