//! The keys of all issuers: read at start, fetched and refreshed on the control runtime, seen by
//! all workers. Not for checking tokens: that is `jwt`. Called by `mod` (workers) and by the start of
//! an instance (`keep`).
//!
//! Invariant: at most one fetch per issuer runs at a time, tokens with unknown keys cause at most
//! one in 30 s, and a set that cannot be refreshed stays in use for 24 h.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use common::lifecycle::Shutdown;
use common::observe::Observer;
use common::rng::Rng;
use common::secret::{self, SecretError};
use common::snapshot::Published;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use topology::gateway::{Issuer, IssuerId, IssuerKeys, Unplaced as _};
use topology::units::{At, IssuerName, Place, SecretRef};

use super::events::{KeyRefused, KeysChanged, KeysTooOld, KeysUnavailable};
use super::introspect::Office;
use super::jwt::{JwtFault, Token, Verified};
use super::key::{KeyFault, KeySet};
use super::key_file::{self, Audience, SetFault};
use crate::fetch::{Fetch, FetchError, HttpFetch};

/// Between two refreshes, give or take a tenth.
pub const REFRESH: Duration = Duration::from_secs(300);

/// Tokens with unknown keys cause at most one fetch in this time.
pub const COOLDOWN: Duration = Duration::from_secs(30);

/// So long a set is believed that cannot be refreshed.
pub const LONGEST_STALE: Duration = Duration::from_secs(24 * 3600);

/// So long a request waits for a fetch that its unknown key caused.
const PATIENCE: Duration = Duration::from_secs(1);

/// First and longest wait after a failed fetch.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Why the keys of an issuer cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file or variable is not there.
    #[error("issuer {issuer}: {source}")]
    Unreadable {
        /// Which issuer.
        issuer: IssuerName,
        /// Where its keys are named.
        place: Place,
        /// Why.
        source: SecretError,
    },
    /// The file is not a usable key.
    #[error("issuer {issuer}: the key cannot be used: {source}")]
    Key {
        /// Which issuer.
        issuer: IssuerName,
        /// Where its key is named.
        place: Place,
        /// Why.
        source: KeyFault,
    },
    /// The file is not a usable key set.
    #[error("issuer {issuer}: the key set cannot be used: {source}")]
    Set {
        /// Which issuer.
        issuer: IssuerName,
        /// Where its set is named.
        place: Place,
        /// Why.
        source: SetFault,
    },
    /// The address cannot be fetched from.
    #[error("issuer {issuer}: {source}")]
    Address {
        /// Which issuer.
        issuer: IssuerName,
        /// Where the address stands.
        place: Place,
        /// Why.
        source: FetchError,
    },
}

impl KeysError {
    /// Where the keys are named in the topology file.
    pub fn place(&self) -> Place {
        match self {
            Self::Unreadable { place, .. }
            | Self::Key { place, .. }
            | Self::Set { place, .. }
            | Self::Address { place, .. } => *place,
        }
    }
}

/// Key sets of all issuers of a group, shared by all workers.
#[derive(Debug)]
pub struct Keys {
    sources: Vec<Arc<Source>>,
}

/// One issuer and its keys of the moment.
#[derive(Debug)]
pub struct Source {
    issuer: Issuer,
    current: Published<Current>,
    /// Where to fetch; `None`: the keys came from a file and do not change.
    from: Option<HttpFetch>,
    /// Who is asked about each token instead.
    office: Option<Arc<Office>>,
    renewal: Renewal,
}

#[derive(Debug)]
struct Current {
    /// Changes whenever the keys do.
    generation: u64,
    keys: Option<KeySet>,
}

/// How workers ask the keeper for a fetch, and learn that one has ended.
#[derive(Debug)]
struct Renewal {
    wanted: Notify,
    /// A fetch was asked for and has not begun.
    pending: AtomicBool,
    running: AtomicBool,
    last: Mutex<Option<Instant>>,
    ended: watch::Sender<u64>,
}

impl Keys {
    /// Reads keys that are in files, and checks addresses; fetches nothing yet. Blocking: for start
    /// and reload.
    ///
    /// A set that `before` has fetched for an issuer of which the file says the same is kept.
    pub fn new(issuers: &[Issuer], before: Option<&Self>) -> Result<Arc<Self>, KeysError> {
        let source = |issuer: &Issuer| {
            let wanted = issuer.unplaced();
            let same =
                |source: &&Arc<Source>| source.from.is_some() && source.issuer.unplaced() == wanted;
            let known = before.and_then(|before| before.sources.iter().find(same));
            known.map_or_else(|| Source::new(issuer).map(Arc::new), |known| Ok(Arc::clone(known)))
        };
        let sources = issuers.iter().map(source).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { sources }))
    }

    /// The sets that are fetched: each is to be kept ([`Source::keep`]).
    pub fn fetched(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.sources.iter().filter(|source| source.from.is_some())
    }

    /// Why tokens cannot be verified yet, one text per issuer without keys; empty: they can.
    pub fn waiting(&self) -> Vec<String> {
        let without = self.sources.iter().filter(|source| source.current.load().keys.is_none());
        without.map(|source| format!("issuer {}: no keys yet", source.issuer.name)).collect()
    }

    /// The source of an issuer.
    pub(super) fn source(&self, id: IssuerId) -> Option<&Source> {
        self.sources.get(id.0).map(|source| &**source)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.sources.len()
    }

    /// Whose keys a token is to be checked with: of the issuers that the route allows, the one it
    /// names; of several with that name, the one with its audience.
    pub(super) fn select(
        &self,
        token: &Token<'_>,
        allowed: &[IssuerId],
    ) -> Result<(IssuerId, &Source), JwtFault> {
        let named = token.issuer().ok_or(JwtFault::Missing("iss"))?;
        let mut matching = allowed
            .iter()
            .filter_map(|id| Some((*id, self.source(*id)?)))
            .filter(|(_, source)| source.issuer.issuer == named);
        let first = matching.next().ok_or(JwtFault::OtherIssuer)?;
        if token.is_for(&first.1.issuer.audiences) {
            return Ok(first);
        }
        Ok(matching.find(|(_, other)| token.is_for(&other.issuer.audiences)).unwrap_or(first))
    }
}

impl Source {
    fn new(issuer: &Issuer) -> Result<Self, KeysError> {
        let name = || issuer.name.clone();
        let mut office = None;
        let (keys, from) = match &issuer.keys {
            IssuerKeys::Asked(asked) => {
                let place = asked.url.place;
                let whom = HttpFetch::new(&asked.url.value)
                    .map_err(|source| KeysError::Address { issuer: name(), place, source })?;
                let secret = read(issuer, &asked.secret)?;
                let unreadable = |source| KeysError::Unreadable {
                    issuer: name(),
                    place: asked.secret.place,
                    source,
                };
                let text = secret.as_str().map_err(unreadable)?;
                office = Office::new(whom, asked, text).map(Arc::new);
                // No key verifies its tokens, and none is waited for.
                (Some(KeySet::new()), None)
            }
            IssuerKeys::Url(At { value, place }) => {
                let from = HttpFetch::new(value).map_err(|source| KeysError::Address {
                    issuer: name(),
                    place: *place,
                    source,
                })?;
                (None, Some(from))
            }
            IssuerKeys::JwksFile(at) => {
                let text = read(issuer, at)?;
                let set = key_file::key_set(text.as_bytes(), &issuer.algorithms, Audience::Private);
                let fault = |source| KeysError::Set { issuer: name(), place: at.place, source };
                (Some(set.map_err(fault)?.keys), None)
            }
            IssuerKeys::Key(at) => {
                let text = read(issuer, at)?;
                let fault = |source| KeysError::Key { issuer: name(), place: at.place, source };
                let mut set = KeySet::new();
                key_file::key_file(text.as_bytes(), &issuer.algorithms)
                    .and_then(|key| set.add(key))
                    .map_err(fault)?;
                (Some(set), None)
            }
        };
        Ok(Self {
            issuer: issuer.clone(),
            current: Published::new(Current { generation: 1, keys }),
            from,
            office,
            renewal: Renewal::default(),
        })
    }

    /// Verifies a token with the keys of the moment; the second value is their generation. `None`:
    /// there are no keys.
    pub(super) fn verify(
        &self,
        token: &Token<'_>,
        now: u64,
    ) -> Option<(Result<Verified, JwtFault>, u64)> {
        let current = self.current.load();
        let keys = current.keys.as_ref()?;
        Some((token.verify(&self.issuer, keys, now), current.generation))
    }

    /// The generation of the keys in use; `None`: there are none.
    pub(super) fn generation(&self) -> Option<u64> {
        let current = self.current.load();
        current.keys.as_ref().map(|_| current.generation)
    }

    /// Who is asked about each of its tokens; `None`: they are verified.
    pub(super) fn office(&self) -> Option<&Arc<Office>> {
        self.office.as_ref()
    }

    /// The issuer.
    pub(super) fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Its issuer's `iss`.
    pub(super) fn iss(&self) -> &str {
        &self.issuer.issuer
    }

    /// Its issuer's tolerance in milliseconds.
    pub(super) fn leeway(&self) -> u64 {
        super::jwt::millis(self.issuer.leeway)
    }

    /// Asks for the keys to be fetched, because a token may have been signed with one not known
    /// yet, and waits for the end of that fetch, a second at most. Does nothing when the last such
    /// fetch is not 30 s ago. Cancel safe. Answers whether a fetch has ended since the call.
    pub(super) async fn renew(&self, now: Instant) -> bool {
        if self.from.is_none() {
            return false;
        }
        let mut ended = self.renewal.ended.subscribe();
        if self.renewal.claim(now) {
            self.renewal.pending.store(true, Ordering::Release);
            self.renewal.wanted.notify_one();
        } else if !self.renewal.under_way() {
            return false;
        }
        timeout(PATIENCE, ended.changed()).await.is_ok()
    }

    /// Keeps the set fresh until the instance stops. For the control runtime.
    pub async fn keep(self: Arc<Self>, observer: Observer, shutdown: Shutdown) {
        if let Some(from) = &self.from {
            self.keep_by(from, &observer, &shutdown).await;
        }
    }

    async fn keep_by(&self, from: &impl Fetch, observer: &Observer, shutdown: &Shutdown) {
        let mut kept = Kept::default();
        let rng = Rng::from_os();
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = shutdown.stopped() => return,
                () = sleep(wait) => {}
                () = self.renewal.wanted.notified() => {}
            }
            self.renewal.running.store(true, Ordering::Release);
            self.renewal.pending.store(false, Ordering::Release);
            let fetched = tokio::select! {
                () = shutdown.stopped() => return,
                fetched = from.fetch(key_file::LARGEST_SET) => fetched,
            };
            let outcome = fetched.map_err(|fault| fault.to_string());
            let outcome = outcome.and_then(|text| self.take(text, &mut kept, observer));
            wait = rng.jitter(self.settle(outcome, &mut kept, observer), 10);
            self.renewal.running.store(false, Ordering::Release);
            self.renewal.ended.send_modify(|count| *count += 1);
        }
    }

    /// Publishes a fetched set if it differs from the last one.
    fn take(&self, text: Bytes, kept: &mut Kept, observer: &Observer) -> Result<(), String> {
        if kept.text.as_ref() == Some(&text) {
            return Ok(());
        }
        let read = key_file::key_set(&text, &self.issuer.algorithms, Audience::Public)
            .map_err(|fault| fault.to_string())?;
        let issuer = self.issuer.name.as_str();
        for (position, fault) in &read.refused {
            // A set also holds keys for other purposes: those are no news.
            if !matches!(fault, KeyFault::OtherUse | KeyFault::OtherAlgorithm) {
                let (position, cause) = (*position, fault.to_string());
                observer.emit(KeyRefused { issuer, position, cause: &cause });
            }
        }
        observer.emit(KeysChanged { issuer, keys: read.keys.len() });
        self.publish(Some(read.keys));
        kept.text = Some(text);
        Ok(())
    }

    /// Draws the conclusion from a fetch: how long until the next one, and whether the keys are
    /// still believed.
    fn settle(
        &self,
        outcome: Result<(), String>,
        kept: &mut Kept,
        observer: &Observer,
    ) -> Duration {
        let Err(cause) = outcome else {
            (kept.confirmed, kept.failures) = (Some(Instant::now()), 0);
            return REFRESH;
        };
        let issuer = self.issuer.name.as_str();
        observer.emit(KeysUnavailable { issuer, cause: &cause });
        if kept.confirmed.is_some_and(|at| at.elapsed() >= LONGEST_STALE) {
            observer.emit(KeysTooOld { issuer });
            self.publish(None);
            *kept = Kept { failures: kept.failures, ..Kept::default() };
        }
        kept.failures = kept.failures.saturating_add(1);
        BACKOFF.1.min(BACKOFF.0.saturating_mul(1 << (kept.failures - 1).min(10)))
    }

    fn publish(&self, keys: Option<KeySet>) {
        let generation = self.current.load().generation + 1;
        self.current.publish(Current { generation, keys });
    }
}

/// What the keeper remembers between two fetches.
#[derive(Debug, Default)]
struct Kept {
    text: Option<Bytes>,
    confirmed: Option<Instant>,
    failures: u32,
}

impl Default for Renewal {
    fn default() -> Self {
        Self {
            wanted: Notify::new(),
            pending: AtomicBool::new(false),
            running: AtomicBool::new(false),
            last: Mutex::new(None),
            ended: watch::Sender::new(0),
        }
    }
}

impl Renewal {
    /// Whether a fetch will end that has been asked for or has begun.
    fn under_way(&self) -> bool {
        self.pending.load(Ordering::Acquire) || self.running.load(Ordering::Acquire)
    }

    /// Whether a token with an unknown key may cause a fetch now.
    fn claim(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|at| now.saturating_duration_since(at) >= COOLDOWN);
        if may {
            *last = Some(now);
        }
        may
    }
}

fn read(issuer: &Issuer, at: &At<SecretRef>) -> Result<secret::Secret, KeysError> {
    secret::read(&at.value).map_err(|source| KeysError::Unreadable {
        issuer: issuer.name.clone(),
        place: at.place,
        source,
    })
}

#[cfg(test)]
mod tests;
