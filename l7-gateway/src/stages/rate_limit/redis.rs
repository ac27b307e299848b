//! Counters that all instances share, in Redis: one script, one round trip, all limits of a request
//! or none. Not for what happens while it is away: that is `mod`. Called by `mod`.
//!
//! Invariant: a request waits for Redis no longer than the store's timeout, and not at all while it
//! is known to be away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, RedisError, Script};
use common::observe::Observer;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use topology::gateway::{LimitStore, WhenAway};

use super::budget::{Budget, Standing, Verdict};
use super::events::{LimitStoreAway, LimitStoreBack};

/// For connecting, logging in and loading the script.
const CONNECT: Duration = Duration::from_secs(1);

/// Between two attempts to connect: first and longest wait.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Most decisions of one worker that wait for Redis at once.
const MOST_WAITING: usize = 4096;

/// Why the store made no decision.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address is not one of Redis.
    #[error("{address} is not an address of Redis: {source}")]
    Address {
        /// As the file has it, without what stands before `@`.
        address: String,
        /// Why.
        source: RedisError,
    },
    /// There is no connection at the moment.
    #[error("Redis is away")]
    Away,
    /// No answer in time.
    #[error("Redis did not answer in time")]
    Timeout,
    /// Redis answers with an error, or the connection broke.
    #[error("Redis: {0}")]
    Failed(#[from] RedisError),
    /// The answer is not the script's.
    #[error("Redis answered something else than was asked")]
    Odd,
}

/// How to reach the store and what to run there; shared by all workers.
#[derive(Debug)]
pub struct Store {
    client: Client,
    script: Script,
    timeout: Duration,
    when_away: WhenAway,
}

impl Store {
    /// For the store of a topology; connects to nothing yet.
    pub fn new(model: &LimitStore) -> Result<Self, StoreError> {
        let address = model.redis.value.as_str();
        let client = Client::open(address).map_err(|source| StoreError::Address {
            address: address.rsplit('@').next().unwrap_or_default().to_owned(),
            source,
        })?;
        let script = Script::new(include_str!("charge.lua"));
        Ok(Self { client, script, timeout: model.timeout, when_away: model.when_away })
    }

    /// What happens to requests while it is away.
    pub fn when_away(&self) -> WhenAway {
        self.when_away
    }

    /// A connection on the calling runtime, logged in and with the script loaded.
    pub async fn connect(&self) -> Result<MultiplexedConnection, StoreError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(MOST_WAITING)
            .set_concurrency_limit(MOST_WAITING);
        let connected = async {
            let client = &self.client;
            let mut connection =
                client.get_multiplexed_async_connection_with_config(&config).await?;
            self.script.load_async(&mut connection).await?;
            Ok(connection)
        };
        timeout(CONNECT, connected).await.map_err(|_| StoreError::Timeout)?
    }

    /// Runs the script; loads it again where Redis has lost it. `now` is for tests: in microseconds,
    /// `None` means Redis's own clock.
    pub async fn charge(
        &self,
        connection: &mut MultiplexedConnection,
        charges: &[(String, Budget)],
        now: Option<u64>,
    ) -> Result<Vec<Standing>, StoreError> {
        let mut invocation = self.script.prepare_invoke();
        invocation.arg(now.unwrap_or(0));
        for (key, budget) in charges {
            invocation.key(key);
            match *budget {
                Budget::TokenBucket { fill, cost, capacity } => {
                    invocation.arg("b").arg(fill).arg(cost).arg(capacity)
                }
                Budget::LeakyBucket { fill, cost, capacity } => {
                    invocation.arg("l").arg(fill).arg(cost).arg(capacity)
                }
                Budget::FixedWindow { count, per } => {
                    invocation.arg("f").arg(count).arg(per).arg(0)
                }
                Budget::SlidingWindow { count, per } => {
                    invocation.arg("w").arg(count).arg(per).arg(0)
                }
            };
        }
        let answer: Vec<u64> = invocation.invoke_async(connection).await?;
        standings(&answer, charges.len())
    }
}

fn standings(answer: &[u64], expected: usize) -> Result<Vec<Standing>, StoreError> {
    let (each, rest) = answer.as_chunks::<4>();
    if each.len() != expected || !rest.is_empty() {
        return Err(StoreError::Odd);
    }
    let standing = |&[admits, remaining, next, wait]: &[u64; 4]| {
        let verdict = if admits == 1 { Verdict::Admit } else { Verdict::Refuse };
        Standing { verdict, remaining, next, wait }
    };
    Ok(each.iter().map(standing).collect())
}

/// One worker's connection to the store. Its driver runs on that worker's runtime.
#[derive(Clone, Debug)]
pub struct Link {
    store: Arc<Store>,
    observer: Observer,
    line: Arc<Mutex<Line>>,
    /// Whether the first attempt to connect has ended, well or not.
    tried: Arc<watch::Sender<bool>>,
}

/// What is known of the connection; locked for an instant, never across an await.
#[derive(Debug)]
struct Line {
    connection: Option<MultiplexedConnection>,
    /// Counts connections, so that a late failure of an old one does not end a new one.
    number: u64,
    /// Before the next attempt; back to the first after a decision that worked.
    wait: Duration,
    lost: Instant,
    told: bool,
}

impl Link {
    /// Begins to connect on the calling runtime. Decisions wait for the end of this first attempt, a
    /// second at most, so that a worker that has just started counts where all others do.
    pub fn new(store: Arc<Store>, observer: Observer) -> Self {
        let line = Line {
            connection: None,
            number: 0,
            wait: Duration::ZERO,
            lost: Instant::now(),
            told: false,
        };
        let line = Arc::new(Mutex::new(line));
        let link = Self { store, observer, line, tried: Arc::new(watch::Sender::new(false)) };
        link.reconnect();
        link
    }

    /// One decision on all of these counters. Cancel safe; what was charged stays charged.
    pub async fn charge(&self, charges: &[(String, Budget)]) -> Result<Vec<Standing>, StoreError> {
        if !*self.tried.borrow() {
            // An error means that nobody tries any more: then there is no connection either.
            let _ = self.tried.subscribe().wait_for(|ended| *ended).await;
        }
        let (connection, number) = {
            let line = self.line();
            (line.connection.clone(), line.number)
        };
        let mut connection = connection.ok_or(StoreError::Away)?;
        let decision = self.store.charge(&mut connection, charges, None);
        let outcome = match timeout(self.store.timeout, decision).await {
            Ok(outcome) => outcome,
            Err(_) => Err(StoreError::Timeout),
        };
        match &outcome {
            Ok(_) => self.line().wait = BACKOFF.0,
            Err(fault) => self.lose(number, fault),
        }
        outcome
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        lock(&self.line)
    }

    /// Gives a connection up, unless that has already happened.
    fn lose(&self, number: u64, fault: &StoreError) {
        let mut line = self.line();
        if line.number != number || line.connection.take().is_none() {
            return;
        }
        line.lost = Instant::now();
        drop(line);
        self.tell(fault);
        self.reconnect();
    }

    fn tell(&self, fault: &StoreError) {
        if std::mem::replace(&mut self.line().told, true) {
            return;
        }
        let policy = match self.store.when_away {
            WhenAway::FailOpen => "requests pass uncounted",
            WhenAway::FailClosed => "requests are refused",
            WhenAway::LocalShare => "each instance spends its share",
        };
        self.observer.emit(LimitStoreAway { cause: &fault.to_string(), policy });
    }

    /// Tries in the background until a connection stands or nobody holds this link any more.
    fn reconnect(&self) {
        let line = Arc::downgrade(&self.line);
        let (store, observer) = (Arc::clone(&self.store), self.observer.clone());
        let tried = Arc::clone(&self.tried);
        tokio::spawn(async move {
            loop {
                let Some(wait) = line.upgrade().map(|line| lock(&line).wait) else { return };
                sleep(wait).await;
                let outcome = store.connect().await;
                let Some(line) = line.upgrade() else { return };
                let (store, observer) = (Arc::clone(&store), observer.clone());
                let link = Self { store, observer, line, tried: Arc::clone(&tried) };
                if link.connected(outcome) {
                    return;
                }
            }
        });
    }

    /// Draws the conclusion from an attempt; answers whether a connection stands.
    fn connected(&self, outcome: Result<MultiplexedConnection, StoreError>) -> bool {
        let stands = self.keep(outcome);
        self.tried.send_replace(true);
        stands
    }

    fn keep(&self, outcome: Result<MultiplexedConnection, StoreError>) -> bool {
        let fault = {
            let mut line = self.line();
            line.wait = (line.wait * 2).clamp(BACKOFF.0, BACKOFF.1);
            match outcome {
                Ok(connection) => {
                    line.connection = Some(connection);
                    line.number += 1;
                    if std::mem::take(&mut line.told) {
                        let after = line.lost.elapsed();
                        drop(line);
                        self.observer.emit(LimitStoreBack { after });
                    }
                    return true;
                }
                Err(fault) => fault,
            }
        };
        self.tell(&fault);
        false
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
