//! What calls of aggregates were last answered, for when they fail (`on-failure: last-good`). Not a cache: nothing is
//! answered out of it while its service answers. Called by `aggregate`.
//!
//! Invariant: an answer stands in only for the same call of the same caller with the same credentials, as far as its
//! service tells requests apart.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};
use tokio::time::Instant;
use topology::answers::AggregateId;

use super::cache::judge;
use crate::cache_control::Control;
use crate::exchange::Identity;

/// What callers were told last, on one worker.
#[derive(Debug, Default)]
pub(super) struct LastGood {
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
    aggregate: AggregateId,
    call: usize,
    caller: Option<Box<str>>,
    /// What it asks for.
    uri: Box<str>,
    /// What is known of who asks where this gateway has asked nobody, and what services go by beside.
    shown: Vec<Option<Vec<u8>>>,
}

/// Fields by which services know who asks, and for whom.
const SHOWN: [HeaderName; 3] = [header::AUTHORIZATION, header::COOKIE, header::HOST];

/// How long an answer stands in for a newer one.
const FRESH: Duration = Duration::from_secs(600);
/// Bytes of them on one worker, and of a single one.
const ROOM: usize = 4 << 20;
const LARGEST: usize = 64 << 10;
/// Bytes that an entry takes beside its texts, about.
const ENTRY: usize = 256;

impl Key {
    /// Of a call, as it is sent.
    pub(super) fn new(
        aggregate: AggregateId,
        call: usize,
        caller: Option<&Identity>,
        head: &Parts,
    ) -> Self {
        let caller =
            caller.map(|identity| format!("{:?} {}", identity.voucher(), identity.subject()));
        let uri = head.uri.to_string().into();
        let shown = SHOWN.iter().map(|name| judge::said(&head.headers, name)).collect();
        Self { aggregate, call, caller: caller.map(Into::into), uri, shown }
    }

    fn size(&self) -> usize {
        let shown = self.shown.iter().flatten().map(Vec::len).sum::<usize>();
        self.uri.len() + self.caller.as_ref().map_or(0, |caller| caller.len()) + shown
    }
}

impl LastGood {
    /// Keeps what a call was answered, unless its service says that nobody may.
    pub(super) fn keep(&mut self, key: Key, asked: &HeaderMap, told: &HeaderMap, body: &Bytes) {
        let names = judge::vary(told).filter(|_| !Control::of(told).has("no-store"));
        let Some(names) = names.filter(|_| body.len() <= LARGEST) else {
            // Nor is what was told before any longer what it was last told.
            if let Some(old) = self.known.remove(&key) {
                self.bytes -= old.size;
            }
            return;
        };
        let said = |name: HeaderName| {
            let value = judge::said(asked, &name);
            (name, value)
        };
        let asked: Vec<_> = names.into_iter().map(said).collect();
        let said =
            asked.iter().filter_map(|(_, value)| value.as_ref()).map(Vec::len).sum::<usize>();
        let size = ENTRY + key.size() + said + body.len();
        if self.bytes + size > ROOM {
            // Rare, and simpler than an order of ages: everybody begins anew.
            self.known.clear();
            self.bytes = 0;
        }
        self.bytes += size;
        // Copied: it must not hold a larger buffer.
        let body = Bytes::copy_from_slice(body);
        let last = Last { body, since: Instant::now(), asked, size };
        if let Some(old) = self.known.insert(key, last) {
            self.bytes -= old.size;
        }
    }

    /// What it was last told, if that is not too long ago.
    pub(super) fn find(&self, key: &Key, asked: &HeaderMap) -> Option<Bytes> {
        let last = self.known.get(key).filter(|last| last.since.elapsed() < FRESH)?;
        let same = last.asked.iter().all(|(name, value)| judge::said(asked, name) == *value);
        same.then(|| last.body.clone())
    }
}
