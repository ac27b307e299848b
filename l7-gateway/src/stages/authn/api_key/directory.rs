//! Whose a key is: the answers of one source, remembered for a while. Not for asking it: that is
//! `store`. Called by `mod` (workers) and kept by `control`.
//!
//! Invariant: one question per key is under way at a time, what is remembered is bounded, and a key
//! that is known stays good for an hour while its store is away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::lifecycle::Shutdown;
use common::observe::Observer;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use topology::gateway::{ApiKeys, KeySource, Unplaced as _};
use topology::units::Place;

use super::file::{self, FileFault};
use super::recent::Recent;
use super::store::{Store, StoreError};
use super::{Digest, Entry};
use crate::stages::authn::events::{KeyRecordOdd, KeyStoreAway, KeyStoreBack};

/// Most keys, and most texts that are no keys, remembered by one process per source.
const MOST: usize = 64 << 10;

/// So long a known key is good while its store is away.
const LONGEST_STALE: Duration = Duration::from_secs(3600);

/// Most questions to a store under way, and most that wait.
const UNDER_WAY: usize = 64;
const WAITING: usize = 4096;

/// A request waits for an answer no longer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Why keys cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The file cannot be used.
    #[error("API keys: {source}")]
    File {
        /// Where it is named.
        place: Place,
        /// Why.
        source: FileFault,
    },
    /// The store's address or password cannot be used.
    #[error("API keys: {source}")]
    Store {
        /// Where it is named.
        place: Place,
        /// Why.
        source: StoreError,
    },
}

impl DirectoryError {
    /// Where the source is named in the topology file.
    pub fn place(&self) -> Place {
        match self {
            Self::File { place, .. } | Self::Store { place, .. } => *place,
        }
    }
}

/// The store does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away;

type Answer = Result<Option<Arc<Entry>>, Away>;

struct Question {
    digest: Digest,
    reply: oneshot::Sender<Answer>,
}

/// One source of keys, shared by all workers.
pub struct Directory {
    model: ApiKeys,
    kind: Kind,
}

enum Kind {
    /// Everything is here.
    Whole(HashMap<Digest, Arc<Entry>>),
    /// What the store said lately is here.
    Asked(Box<Asked>),
}

struct Asked {
    store: Store,
    heard: Mutex<Heard>,
    questions: mpsc::Sender<Question>,
    inbox: Mutex<Option<mpsc::Receiver<Question>>>,
}

/// Guesses cannot push out what is known: they are remembered apart.
struct Heard {
    keys: Recent<Digest, (Arc<Entry>, Instant)>,
    others: Recent<Digest, Instant>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Directory({})", self.model.name)
    }
}

impl Directory {
    /// Reads a file, or makes ready to ask a store. What `before` has heard from a store is kept if the
    /// file says the same of it. Blocking.
    ///
    /// # Errors
    /// With the place of the reference at fault.
    pub fn new(model: &ApiKeys, before: &[Arc<Self>]) -> Result<Arc<Self>, DirectoryError> {
        let place = model.from.place();
        let kind = if let KeySource::File(at) = &model.from {
            let read = file::read(&at.value);
            Kind::Whole(read.map_err(|source| DirectoryError::File { place, source })?)
        } else {
            let store = Store::new(&model.from)
                .map_err(|source| DirectoryError::Store { place, source })?;
            let same = |old: &&Arc<Self>| {
                let as_before = matches!(&old.kind, Kind::Asked(it) if it.store.is_as(&store));
                as_before && old.model.unplaced() == model.unplaced()
            };
            if let Some(known) = before.iter().find(same) {
                return Ok(Arc::clone(known));
            }
            let (questions, inbox) = mpsc::channel(WAITING);
            let heard = Heard { keys: Recent::new(MOST), others: Recent::new(MOST) };
            let (heard, inbox) = (Mutex::new(heard), Mutex::new(Some(inbox)));
            Kind::Asked(Box::new(Asked { store, heard, questions, inbox }))
        };
        Ok(Arc::new(Self { model: model.clone(), kind }))
    }

    /// Whether somebody must keep it.
    pub fn is_asked(&self) -> bool {
        matches!(self.kind, Kind::Asked(_))
    }

    /// Whose a key is; `None`: nobody's.
    pub(in crate::stages::authn) async fn find(&self, digest: Digest) -> Answer {
        let Asked { heard, questions, .. } = match &self.kind {
            Kind::Whole(all) => return Ok(all.get(&digest).cloned()),
            Kind::Asked(asked) => &**asked,
        };
        let now = Instant::now();
        let known = {
            let mut heard = locked(heard);
            let fresh = |at: Instant| now.saturating_duration_since(at) < self.model.keep;
            if heard.others.find(&digest).is_some_and(fresh) {
                return Ok(None);
            }
            match heard.keys.find(&digest) {
                Some((entry, at)) if fresh(at) => return Ok(Some(entry)),
                known => known,
            }
        };
        let (reply, answer) = oneshot::channel();
        let asked = questions.try_send(Question { digest, reply });
        let answer = match asked {
            Ok(()) => timeout(PATIENCE, answer).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        match (answer.unwrap_or(Err(Away)), known) {
            (Err(Away), Some((entry, at))) if now.saturating_duration_since(at) < LONGEST_STALE => {
                Ok(Some(entry))
            }
            (answer, _) => answer,
        }
    }

    /// Asks the store what workers want to know, until the instance stops. For the control runtime,
    /// once.
    pub async fn keep(self: Arc<Self>, observer: Observer, shutdown: Shutdown) {
        let Kind::Asked(asked) = &self.kind else { return };
        let Asked { store, heard, inbox, .. } = &**asked;
        let Some(mut inbox) = locked(inbox).take() else { return };
        let mut waiting: HashMap<Digest, Vec<oneshot::Sender<Answer>>> = HashMap::new();
        let mut running = FuturesUnordered::new();
        let mut away = false;
        loop {
            tokio::select! {
                () = shutdown.stopped() => return,
                Some(Question { digest, reply }) = inbox.recv(), if running.len() < UNDER_WAY => {
                    let others = waiting.entry(digest).or_default();
                    if others.is_empty() {
                        running.push(async move { (digest, store.find(&digest).await) });
                    }
                    others.push(reply);
                }
                Some((digest, outcome)) = running.next() => {
                    let answer = self.hear(digest, outcome, heard, &mut away, &observer);
                    for reply in waiting.remove(&digest).into_iter().flatten() {
                        // Who asked may have gone.
                        let _gone = reply.send(answer.clone());
                    }
                }
            }
        }
    }

    /// Remembers an answer, and tells when the store goes or comes back.
    fn hear(
        &self,
        digest: Digest,
        outcome: Result<Option<super::Record>, StoreError>,
        heard: &Mutex<Heard>,
        away: &mut bool,
        observer: &Observer,
    ) -> Answer {
        let source = self.model.name.as_str();
        let outcome = outcome.and_then(|record| {
            record.map(|record| Entry::new(&record)).transpose().map_err(|_| StoreError::Odd)
        });
        let outcome = match outcome {
            Err(StoreError::Odd) => {
                observer.emit(KeyRecordOdd { source, digest: &digest.to_string() });
                Ok(None)
            }
            other => other,
        };
        let now = Instant::now();
        match outcome {
            Ok(found) => {
                if std::mem::take(away) {
                    observer.emit(KeyStoreBack { source });
                }
                let mut heard = locked(heard);
                let found = found.map(Arc::new);
                match &found {
                    Some(entry) => {
                        heard.others.remove(&digest);
                        heard.keys.insert(digest, (Arc::clone(entry), now));
                    }
                    None => {
                        heard.keys.remove(&digest);
                        heard.others.insert(digest, now);
                    }
                }
                Ok(found)
            }
            Err(fault) => {
                if !std::mem::replace(away, true) {
                    observer.emit(KeyStoreAway { source, cause: &fault.to_string() });
                }
                Err(Away)
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
