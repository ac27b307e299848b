//! Counters that all instances share, in Redis: one script, one round trip, all limits of a request
//! or none. Not for what happens while it is away: that is `mod`. Called by `mod`.
//!
//! Invariant: a request waits for Redis no longer than the store's timeout, and not at all while it
//! is known to be away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::observe::Observer;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use topology::gateway::WhenAway;

use self::store::{Connection, Decision};
pub use self::store::{Store, StoreError};
use super::budget::{Budget, Standing};
use super::events::{LimitStoreAway, LimitStoreBack};

pub mod store;

/// Between two attempts to connect: first and longest wait.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A node of a cluster that nobody has missed for so long is back.
const QUIET: Duration = Duration::from_secs(10);

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
    connection: Option<Connection>,
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

    /// One decision on all of these counters, in their order; `None` for those of which a cluster said
    /// nothing. Cancel safe; what was charged stays charged.
    ///
    /// # Errors
    /// There is no decision at all.
    pub async fn charge(
        &self,
        charges: &[(String, Budget)],
    ) -> Result<Vec<Option<Standing>>, StoreError> {
        if !*self.tried.borrow() {
            // An error means that nobody tries any more: then there is no connection either.
            let _ = self.tried.subscribe().wait_for(|ended| *ended).await;
        }
        let (connection, number) = {
            let line = self.line();
            (line.connection.clone(), line.number)
        };
        let mut connection = connection.ok_or(StoreError::Away)?;
        let Decision { standings, fault } = self.store.charge(&mut connection, charges, None).await;
        match fault {
            None => self.answered(),
            Some(fault) if standings.iter().all(Option::is_none) => {
                self.lose(number, &fault);
                return Err(fault);
            }
            // The cluster lacks a node: others count on.
            Some(fault) => {
                self.line().lost = Instant::now();
                self.tell(&fault);
            }
        }
        Ok(standings)
    }

    fn answered(&self) {
        let mut line = self.line();
        line.wait = BACKOFF.0;
        // Where a node is away, most decisions do not ask it: it is back when none has missed it.
        if line.told && line.lost.elapsed() > QUIET {
            line.told = false;
            let after = line.lost.elapsed();
            drop(line);
            self.observer.emit(LimitStoreBack { after });
        }
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
        let policy = match self.store.when_away() {
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
    fn connected(&self, outcome: Result<Connection, StoreError>) -> bool {
        let stands = self.keep(outcome);
        self.tried.send_replace(true);
        stands
    }

    fn keep(&self, outcome: Result<Connection, StoreError>) -> bool {
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
