//! Tokens and keys that ended before their time, told to every instance through Redis. Not for tokens
//! that are not believed anyway. Asked by `mod` (workers) for every request that shows one, kept by
//! `control`; written by `aqueduct revoke`.
//!
//! Invariant: what was told is in force on this instance from the moment the message came, for tokens
//! verified before too; without a list that can be believed nobody passes.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::lifecycle::Shutdown;
use common::observe::Observer;
use futures_util::StreamExt as _;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError};
use tokio::time::{Instant, sleep, timeout};
use topology::gateway::{Denylist as Model, Unplaced as _};
use topology::units::Place;

pub use self::entry::{Entry, Subject};
use self::list::List;
use super::events::{DenylistAway, DenylistBack, DenylistOdd, DenylistTooOld, Revoked};
use crate::redis_server::{RedisServer, RedisServerError, patient};

mod entry;
mod list;

/// Where the list is: a sorted set whose members are entries in JSON and whose scores say until when
/// (in seconds since the epoch) they must be remembered. News are published on a channel of that name.
pub const PLACE: &str = "denylist";

/// Between two looks at the whole list: what a lost message costs at most.
const REFRESH: Duration = Duration::from_secs(30);

/// For connecting, and for one answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Before the next attempt to connect: first and longest wait.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Most entries that are believed; of more, those that must be remembered longest.
const MOST: isize = 1_000_000;

/// Why it cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("denylist: {source}")]
pub struct DenylistError {
    /// Where the address stands.
    pub place: Place,
    source: RedisServerError,
}

/// Why a caller does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It was revoked.
    Revoked,
    /// Nobody knows whether it was.
    Unknown,
}

/// The list of one instance, shared by all workers.
#[derive(Debug)]
pub struct Denylist {
    model: Model,
    server: RedisServer,
    list: RwLock<List>,
    /// Changes after the list has; 0: there is none that can be believed.
    generation: AtomicU64,
}

impl Denylist {
    /// Connects to nothing yet. What `before` has heard is kept if the file says the same of it. Blocking:
    /// it reads secrets.
    ///
    /// # Errors
    /// When the address is none, or a secret is not there.
    pub fn new(model: &Model, before: Option<&Arc<Self>>) -> Result<Arc<Self>, DenylistError> {
        let server = RedisServer::new(&model.redis.value, &model.login);
        let server = server.map_err(|source| DenylistError { place: model.redis.place, source })?;
        let same =
            |old: &&Arc<Self>| old.model.unplaced() == model.unplaced() && old.server == server;
        if let Some(known) = before.filter(same) {
            return Ok(Arc::clone(known));
        }
        let (list, generation) = (RwLock::default(), AtomicU64::new(0));
        Ok(Arc::new(Self { model: model.clone(), server, list, generation }))
    }

    /// Looks somebody up: a load where nothing was told since it was `cleared`, else a look at the list.
    pub fn check(&self, who: &Subject<'_>, cleared: &Cell<u64>) -> Result<(), Denied> {
        let generation = self.generation.load(Ordering::Acquire);
        if generation == 0 {
            return Err(Denied::Unknown);
        }
        if cleared.get() == generation {
            return Ok(());
        }
        if self.list.read().unwrap_or_else(PoisonError::into_inner).denies(who) {
            return Err(Denied::Revoked);
        }
        cleared.set(generation);
        Ok(())
    }

    /// How many times it has changed; 0: there is no list that can be believed.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn write(&self, change: impl FnOnce(&mut List)) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut list);
        // Never back to 0, and never a number that was there before.
        let next = list.next_generation();
        self.generation.store(next, Ordering::Release);
    }

    /// Hears what is told until the instance stops. For the control runtime.
    pub async fn keep(self: Arc<Self>, observer: Observer, shutdown: Shutdown) {
        let mut kept = Kept { heard: Instant::now(), wait: BACKOFF.0, away: false };
        loop {
            let fault = tokio::select! {
                () = shutdown.stopped() => return,
                fault = self.listen(&mut kept, &observer) => fault,
            };
            if !std::mem::replace(&mut kept.away, true) {
                observer.emit(DenylistAway { cause: &fault });
            }
            if kept.heard.elapsed() >= self.model.longest_stale && self.generation() != 0 {
                observer.emit(DenylistTooOld);
                self.generation.store(0, Ordering::Release);
            }
            tokio::select! {
                () = shutdown.stopped() => return,
                () = sleep(kept.wait) => {}
            }
            kept.wait = (kept.wait * 2).min(BACKOFF.1);
        }
    }

    /// Subscribes, then takes the whole list, so that nothing is missed in between; then applies what
    /// is told. Returns why that ended.
    async fn listen(&self, kept: &mut Kept, observer: &Observer) -> String {
        let begun = async {
            let mut news = self.server.listen().await?;
            news.subscribe(PLACE).await?;
            let line = self.server.connect(&patient()).await?;
            Ok::<_, RedisError>((news, line))
        };
        let (news, mut line) = match timeout(PATIENCE, begun).await {
            Ok(Ok(both)) => both,
            Ok(Err(fault)) => return fault.to_string(),
            Err(_) => return "no answer within 2 s".to_owned(),
        };
        let mut news = news.into_on_message();
        loop {
            match timeout(PATIENCE, self.take_all(&mut line, observer)).await {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => return fault.to_string(),
                Err(_) => return "no answer within 2 s".to_owned(),
            }
            kept.heard = Instant::now();
            kept.wait = BACKOFF.0;
            if std::mem::take(&mut kept.away) {
                observer.emit(DenylistBack);
            }
            let again = sleep(REFRESH);
            tokio::pin!(again);
            loop {
                tokio::select! {
                    () = &mut again => break,
                    told = news.next() => match told {
                        Some(told) => self.take(told.get_payload_bytes(), observer),
                        None => return "the connection ended".to_owned(),
                    },
                }
            }
        }
    }

    /// Replaces the list by the one in Redis.
    async fn take_all(
        &self,
        line: &mut MultiplexedConnection,
        observer: &Observer,
    ) -> Result<(), RedisError> {
        let all: Vec<String> = redis::cmd("ZREVRANGEBYSCORE")
            .arg(PLACE)
            .arg("+inf")
            .arg(seconds())
            .arg("LIMIT")
            .arg(0)
            .arg(MOST)
            .query_async(line)
            .await?;
        let mut fresh = List::default();
        let odd = all.iter().filter(|text| match serde_json::from_str(text) {
            Ok(entry) => {
                fresh.add(&entry);
                false
            }
            Err(_) => true,
        });
        let odd = odd.count();
        if odd > 0 {
            observer.emit(DenylistOdd { entries: odd });
        }
        let same = self.generation() != 0
            && self.list.read().unwrap_or_else(PoisonError::into_inner).says_as(&fresh);
        if !same {
            self.write(|list| list.replace(fresh));
        }
        Ok(())
    }

    /// Adds one entry.
    fn take(&self, text: &[u8], observer: &Observer) {
        match serde_json::from_slice::<Entry>(text) {
            Ok(entry) => {
                self.write(|list| list.add(&entry));
                observer.emit(Revoked { what: entry.kind() });
            }
            Err(_) => observer.emit(DenylistOdd { entries: 1 }),
        }
    }
}

/// What the keeper remembers.
struct Kept {
    /// When the whole list was had last.
    heard: Instant,
    wait: Duration,
    away: bool,
}

/// Adds an entry to the list in Redis, to be remembered for so long, and tells every instance.
///
/// # Errors
/// When it was perhaps not added.
pub async fn revoke(
    server: &RedisServer,
    entry: &Entry,
    remember: Duration,
) -> Result<(), RedisError> {
    let mut line = server.connect(&AsyncConnectionConfig::new()).await?;
    let text = serde_json::to_string(entry).unwrap_or_default();
    let now = seconds();
    redis::pipe()
        .atomic()
        .cmd("ZADD")
        .arg(PLACE)
        .arg("GT")
        .arg(now + remember.as_secs())
        .arg(&text)
        .ignore()
        .cmd("ZREMRANGEBYSCORE")
        .arg(PLACE)
        .arg("-inf")
        .arg(format!("({now}"))
        .ignore()
        .cmd("PUBLISH")
        .arg(PLACE)
        .arg(&text)
        .ignore()
        .query_async(&mut line)
        .await
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
