//! What calls of aggregates were last answered, for when they fail (`on-failure: last-good`), for all workers of a
//! process. Not a cache: nothing is answered out of it while its service answers. Called by `aggregate`; no other call
//! comes here, and one that does holds one of several locks for as long as it takes to find an entry.
//!
//! Invariant: an answer stands in only for the same call of the same caller with the same credentials, as far as its
//! service tells requests apart; a changed file never makes it another call's or another caller's.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use common::tls::principal::Principal;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use tokio::time::Instant;
use topology::answers::{AggregateId, Call, Failing};
use topology::gateway::{Group, Route, RouteTo, UpstreamId};

use super::cache::judge;
use crate::cache_control::Control;
use crate::exchange::{Exchange, Identity};
use crate::hops::PROOF;

/// What callers were told last, as one snapshot sees it.
#[derive(Debug)]
pub struct LastGood {
    all: Arc<All>,
    /// What each aggregate is known by.
    marks: HashMap<AggregateId, (Box<str>, Mark)>,
}

/// What all snapshots of a process know.
#[derive(Debug, Default)]
struct All {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    marks: AtomicU64,
}

/// An aggregate that stays the same whatever else of the file changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Mark(u64);

#[derive(Debug, Default)]
struct Shard {
    known: HashMap<Key, Last>,
    bytes: usize,
}

/// An answer.
#[derive(Debug)]
struct Last {
    body: Bytes,
    since: Instant,
    /// What the call said in the fields that its `Vary` names.
    asked: Vec<(HeaderName, Option<Vec<u8>>)>,
    size: usize,
}

/// Which call of whom for what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    aggregate: Mark,
    call: usize,
    /// Who asks, as far as this gateway knows.
    caller: Box<str>,
    /// What it asks for.
    uri: Box<str>,
    /// All that its service is told beside, whoever has put it there: a client, a filter or this gateway.
    told: Box<[u8]>,
    /// What the service's change puts into its answer.
    filled: Box<str>,
}

/// Fields that are another request's whoever asks. What the signed identity says of a caller stands in the key itself.
const OF_ONE: [HeaderName; 4] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    PROOF,
];

/// How long an answer stands in for a newer one.
const FRESH: Duration = Duration::from_secs(600);
/// Parts with a lock of their own; bytes and entries of one of them, and bytes of a single entry.
const SHARDS: usize = 16;
const ROOM: usize = 1 << 20;
const MOST: usize = 1024;
const LARGEST: usize = 64 << 10;
/// Bytes that an entry takes beside its texts, about.
const ENTRY: usize = 256;
/// Of so many entries one goes where there is no room: looking through them is paid once for all that go.
const SHARE: usize = 16;

impl Key {
    fn size(&self) -> usize {
        self.uri.len() + self.caller.len() + self.told.len() + self.filled.len()
    }
}

/// Who asks: more than a name where the same user may come by several ways, and may do less by one of them.
fn described_caller(x: &Exchange, caller: Option<&Identity>) -> Box<str> {
    let identity = caller.map(|one| {
        let may = (one.scopes(), one.roles(), one.plan());
        (one.voucher(), one.subject(), one.consumer(), may)
    });
    format!("{:?} {identity:?}", x.peer.principal().map(Principal::as_str)).into()
}

/// Fields as they are sent, in an order that does not depend on who wrote them first.
fn told(headers: &HeaderMap) -> Box<[u8]> {
    let mut names: Vec<&HeaderName> =
        headers.keys().filter(|name| !OF_ONE.contains(name)).collect();
    names.sort_unstable_by_key(|name| name.as_str());
    let mut all = Vec::new();
    for name in names {
        for value in headers.get_all(name) {
            // Neither stands in a name or a value (RFC 9110 §5.1, §5.5): no two requests are one text.
            all.extend([name.as_str().as_bytes(), b":", value.as_bytes(), b"\n"].concat());
        }
    }
    all.into()
}

impl LastGood {
    /// For a snapshot; what `before` knows of aggregates that stay the same is known on.
    pub fn new(group: &Group, before: Option<&Self>) -> Self {
        let all = before.map_or_else(Arc::default, |before| Arc::clone(&before.all));
        let known = |text: &str| {
            let mut marks = before?.marks.values();
            marks.find(|(known, _)| **known == *text).map(|(_, mark)| *mark)
        };
        let mut marks = HashMap::new();
        for route in &group.routes {
            let RouteTo::Aggregate(id) = route.to else { continue };
            if let Some(text) = described(group, route, id) {
                let fresh = || Mark(all.marks.fetch_add(1, Ordering::Relaxed));
                let mark = known(&text).unwrap_or_else(fresh);
                marks.insert(id, (text.into(), mark));
            }
        }
        Self { all, marks }
    }

    /// The snapshot comes into force: what was known of aggregates that it has not goes.
    pub fn settle(&self) {
        let mine = |mark: Mark| self.marks.values().any(|(_, own)| *own == mark);
        for shard in &self.all.shards {
            hold(shard).retain(|key, _| mine(key.aggregate));
        }
    }

    /// Which call it is, as it is sent, and with what its answer is filled; `None`: nothing is kept of it.
    pub(super) fn key(
        &self,
        (aggregate, call): (AggregateId, usize),
        (x, caller): (&Exchange, Option<&Identity>),
        (head, filled): (&Parts, Box<str>),
    ) -> Option<Key> {
        let (_, aggregate) = self.marks.get(&aggregate)?;
        let (caller, uri) = (described_caller(x, caller), head.uri.to_string().into());
        let told = told(&head.headers);
        Some(Key { aggregate: *aggregate, call, caller, uri, told, filled })
    }

    /// The call's service has another word by now.
    pub(super) fn forget(&self, key: &Key) {
        self.shard(key).remove(key);
    }

    /// Keeps what a call was answered, unless its service says that nobody may.
    pub(super) fn keep(&self, key: Key, asked: &HeaderMap, told: &HeaderMap, body: &Bytes) {
        let names = judge::vary(told).filter(|_| !Control::of(told).has("no-store"));
        let Some(names) = names.filter(|_| body.len() <= LARGEST) else {
            // Nor is what was told before any longer what it was last told.
            return self.forget(&key);
        };
        let said = |name: HeaderName| {
            let value = judge::said(asked, &name);
            (name, value)
        };
        let asked: Vec<_> = names.into_iter().map(said).collect();
        let said =
            asked.iter().filter_map(|(_, value)| value.as_ref()).map(Vec::len).sum::<usize>();
        let size = ENTRY + key.size() + said + body.len();
        // Copied: it must not hold a larger buffer.
        let body = Bytes::copy_from_slice(body);
        let last = Last { body, since: Instant::now(), asked, size };
        self.shard(&key).insert(key, last);
    }

    /// What it was last told, if that is not too long ago.
    pub(super) fn find(&self, key: &Key, asked: &HeaderMap) -> Option<Bytes> {
        let shard = self.shard(key);
        let last = shard.known.get(key).filter(|last| last.since.elapsed() < FRESH)?;
        let same = last.asked.iter().all(|(name, value)| judge::said(asked, name) == *value);
        same.then(|| last.body.clone())
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(self.all.hasher.hash_one(key) % SHARDS as u64);
        let [first, ..] = &self.all.shards;
        hold(index.ok().and_then(|index| self.all.shards.get(index)).unwrap_or(first))
    }
}

fn hold(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn remove(&mut self, key: &Key) {
        if let Some(old) = self.known.remove(key) {
            self.bytes -= old.size;
        }
    }

    fn retain(&mut self, mut stays: impl FnMut(&Key, &Last) -> bool) {
        self.known.retain(|key, last| stays(key, last));
        self.bytes = self.known.values().map(|last| last.size).sum();
    }

    fn insert(&mut self, key: Key, last: Last) {
        self.remove(&key);
        if last.size > ROOM {
            return;
        }
        let full = |shard: &Self| shard.bytes + last.size > ROOM || shard.known.len() >= MOST;
        if full(self) {
            self.retain(|_, old| old.since.elapsed() < FRESH);
        }
        while full(self) {
            // Simpler than an order of ages; nobody outside knows which ones come first.
            let mut few = (self.known.len() / SHARE).max(1);
            self.retain(|_, _| few.checked_sub(1).map(|left| few = left).is_none());
        }
        self.bytes += last.size;
        self.known.insert(key, last);
    }
}

/// All that makes its calls these calls, and callers of its route these callers, and no more: what stands elsewhere in
/// the file may change. `None`: no call's last answer stands in.
fn described(group: &Group, route: &Route, id: AggregateId) -> Option<String> {
    let calls = &group.aggregates.get(id.0)?.calls;
    if !calls.iter().any(|call| call.failing == Failing::LastGood) {
        return None;
    }
    // Services have other numbers in another file.
    let named = |call: &Call| {
        let to = group.upstreams.get(call.to.0)?;
        Some((Call { to: UpstreamId(0), ..call.clone() }, to.service.as_str(), &to.transform))
    };
    let calls: Vec<_> = calls.iter().map(named).collect();
    // Callers are told apart by who says who they are.
    let issuers = group.issuers.iter();
    let issuers: Vec<_> =
        issuers.map(|one| (&one.name, &one.issuer, &one.user_claim, &one.consumer_claim)).collect();
    let keys: Vec<_> = group.api_keys.iter().map(|source| &source.name).collect();
    let consumers: Vec<_> =
        group.consumers.iter().map(|one| (&one.name, &one.claimed, &one.transform)).collect();
    let told = (&group.transform, &route.transform, &group.identity_headers, consumers);
    Some(format!(
        "{:?} {calls:?} {told:?} {:?} {issuers:?} {keys:?}",
        route.name, route.policy.auth
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(call: usize) -> Key {
        let [caller, uri, filled] = ["", "", ""].map(Box::from);
        Key { aggregate: Mark(0), call, caller, uri, told: Box::default(), filled }
    }

    fn last(size: usize) -> Last {
        Last { body: Bytes::new(), since: Instant::now(), asked: Vec::new(), size }
    }

    /// G16: where there is no room a few go, and all others are known on.
    #[test]
    fn a_few_go_where_there_is_no_room() {
        let mut shard = Shard::default();
        for call in 0..10 * MOST {
            shard.insert(key(call), last(ENTRY));
            assert!(shard.known.contains_key(&key(call)), "{call}");
            assert!(shard.known.len() <= MOST, "{call}");
            assert!(
                call < MOST || shard.known.len() > MOST - MOST / SHARE,
                "{}",
                shard.known.len()
            );
            assert_eq!(shard.bytes, shard.known.len() * ENTRY);
        }
        let before = shard.known.len();
        shard.insert(key(0), last(LARGEST));
        assert!(shard.bytes <= ROOM && shard.known.len() <= before + 1);
        for call in 0..100 {
            shard.insert(key(call), last(LARGEST + ENTRY));
            assert!(shard.bytes <= ROOM && shard.known.contains_key(&key(call)), "{call}");
        }
        assert!(shard.known.len() > 10, "{}", shard.known.len());
        let before = shard.known.len();
        shard.insert(key(7000), last(ROOM + 1));
        assert_eq!(shard.known.len(), before);
    }
}
