//! Who may have a flow: networks let in or turned away, how many flows at a time and how many new
//! ones, in all and per client. Not for endpoints. Called for each new flow, by all workers.
//!
//! Invariant: the number of passes never exceeds the listener's bounds, whatever the workers do at
//! the same time; what is counted outlives changes of configuration.

pub mod networks;
pub mod packets;
pub mod rate;
mod refusal;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::time::Instant;
use topology::l4::Listener;

use networks::Networks;
use rate::{Bucket, Buckets, Pace, Source};
pub use refusal::Refusal;

/// The bounds of one listener, as the file has them now, over the counts that go on.
#[derive(Debug)]
pub struct Gate {
    allow: Networks,
    deny: Networks,
    trusted: Networks,
    most: NonZeroU32,
    most_per_source: Option<NonZeroU32>,
    pace: Option<Pace>,
    pace_per_source: Option<Pace>,
    counts: Arc<Counts>,
}

/// What is counted, over all workers and over changes of configuration.
#[derive(Debug)]
struct Counts {
    flows: AtomicU32,
    /// Places that a worker asked the others for, having no flow of its own to give up.
    wanted: AtomicU32,
    /// Only touched when flows begin and end, and only where a bound per source is set.
    sources: [Mutex<HashMap<Source, u32>>; SHARDS],
    bucket: Bucket,
    /// Made when a rate per source is first asked for.
    buckets: [OnceLock<Mutex<Buckets>>; SHARDS],
    shard: RandomState,
    start: Instant,
}

impl Gate {
    /// The bounds of a listener; the counts of what was there `before` go on.
    pub fn new(rules: &Listener, before: Option<&Self>) -> Self {
        Self {
            allow: Networks::new(&rules.allow),
            deny: Networks::new(&rules.deny),
            trusted: Networks::new(&rules.accept_proxy_from),
            most: rules.max_flows,
            most_per_source: rules.max_flows_per_source,
            pace: rules.new_flows.map(Pace::new),
            pace_per_source: rules.new_flows_per_source.map(Pace::new),
            counts: before.map(|gate| gate.counts.clone()).unwrap_or_default(),
        }
    }

    /// Flows now.
    pub fn flows(&self) -> u32 {
        self.counts.flows.load(Ordering::Relaxed)
    }

    /// Asks the other workers for a place. They give a few at once.
    pub fn want(&self) {
        let more = |wanted| (wanted < WANTED).then_some(wanted + 1);
        // Enough were asked for already.
        let _enough = self.counts.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Places that others ask for.
    pub fn wanted(&self) -> u32 {
        self.counts.wanted.load(Ordering::Relaxed)
    }

    /// A place that was asked for is free now.
    pub fn granted(&self) {
        let less = |wanted: u32| wanted.checked_sub(1);
        let _none = self.counts.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Whether the PROXY header of this peer is believed, and required.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.contains(peer)
    }

    /// Counts a flow whose client is not known yet.
    pub fn enter(&self) -> Result<Pass, Refusal> {
        let most = self.most.get();
        let more = |now: u32| (now < most).then_some(now + 1);
        let counts = &self.counts;
        counts
            .flows
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map_err(|_| Refusal::Full)?;
        Ok(Pass { counts: counts.clone(), source: None })
    }

    /// Whether a client may ask for a flow at all: the lists and the rates. The lists come first:
    /// who is denied spends nothing; then the client's own rate, so that one greedy client does not
    /// use up what is there for all.
    pub fn screen(&self, client: IpAddr) -> Result<(), Refusal> {
        let outside = !self.allow.is_empty() && !self.allow.contains(client);
        if outside || self.deny.contains(client) {
            return Err(Refusal::Denied);
        }
        if self.pace.is_none() && self.pace_per_source.is_none() {
            return Ok(());
        }
        let now = Instant::now().saturating_duration_since(self.counts.start);
        if let Some(pace) = self.pace_per_source {
            let source = Source::of(client);
            if !self.counts.buckets(source).take(source, pace, now) {
                return Err(Refusal::SourceRate);
            }
        }
        match self.pace {
            Some(pace) if !self.counts.bucket.take(pace, now) => Err(Refusal::Rate),
            _ => Ok(()),
        }
    }

    /// Screens the client and counts a flow of it.
    pub fn admit(&self, client: IpAddr) -> Result<Pass, Refusal> {
        self.screen(client)?;
        self.count(client)
    }

    /// Counts a flow of a client that was screened.
    pub fn count(&self, client: IpAddr) -> Result<Pass, Refusal> {
        let mut pass = self.enter()?;
        pass.count_source(self, client)?;
        Ok(pass)
    }
}

impl Counts {
    fn sources(&self, source: Source) -> MutexGuard<'_, HashMap<Source, u32>> {
        let [first, ..] = &self.sources;
        let shard = self.sources.get(self.shard(source)).unwrap_or(first);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn buckets(&self, source: Source) -> MutexGuard<'_, Buckets> {
        let [first, ..] = &self.buckets;
        let shard = self.buckets.get(self.shard(source)).unwrap_or(first);
        shard.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, source: Source) -> usize {
        self.shard.hash_one(source) as usize % SHARDS
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            flows: AtomicU32::new(0),
            wanted: AtomicU32::new(0),
            sources: Default::default(),
            bucket: Bucket::default(),
            buckets: Default::default(),
            shard: RandomState::new(),
            start: Instant::now(),
        }
    }
}

/// Places that workers give up for others in one go.
const WANTED: u32 = 64;

/// Two workers seldom want the same one.
const SHARDS: usize = 8;

/// One flow's place; dropping it gives it back.
#[derive(Debug)]
pub struct Pass {
    counts: Arc<Counts>,
    source: Option<Source>,
}

impl Pass {
    /// Screens and counts the client of a flow that has entered already.
    pub fn admit(&mut self, gate: &Gate, client: IpAddr) -> Result<(), Refusal> {
        gate.screen(client)?;
        self.count_source(gate, client)
    }

    /// Passes the place of a flow that has ended on to another client, which was screened, so that
    /// no third one gets in between. Refused: the place is given back.
    pub fn hand_over(mut self, gate: &Gate, client: IpAddr) -> Result<Self, Refusal> {
        self.uncount_source();
        self.count_source(gate, client)?;
        Ok(self)
    }

    fn count_source(&mut self, gate: &Gate, client: IpAddr) -> Result<(), Refusal> {
        let Some(most) = gate.most_per_source else { return Ok(()) };
        let source = Source::of(client);
        let mut sources = self.counts.sources(source);
        let count = sources.entry(source).or_insert(0);
        if *count >= most.get() {
            return Err(Refusal::Source);
        }
        *count += 1;
        drop(sources);
        self.source = Some(source);
        Ok(())
    }

    fn uncount_source(&mut self) {
        let Some(source) = self.source.take() else { return };
        let mut sources = self.counts.sources(source);
        if let Some(count) = sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&source);
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.counts.flows.fetch_sub(1, Ordering::Relaxed);
        self.uncount_source();
    }
}

#[cfg(test)]
mod tests;
