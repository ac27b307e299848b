//! Whether the instance is ready: which databases have a server that answers, and the question put to those from which
//! nothing is heard otherwise. Not for who is the primary: that is `family`. Driven by the first worker, shown by
//! `inspect`, kept by the snapshot from one to the next (decision 41).
//!
//! Invariant: once ready, an instance stays so until a database has been silent for `server_away_after` and was then
//! asked in vain; a server that answers clients is not asked at all.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::observe::{Event, Observer};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use topology::pool::{ReadyWhen, ServerAddress};
use tracing::Level;

use crate::server::connect::ConnectError;
use crate::server::knock::knock;
use crate::snapshot::{Database, Snapshot};
use crate::worker::Worker;

/// Servers that are asked at a time.
const MOST_ASKED: usize = 8;
/// An answer takes no longer.
const LONGEST: Duration = Duration::from_secs(3);
/// Between two rounds while something is missing.
const SOON: Duration = Duration::from_millis(500);
/// Between two rounds otherwise, at most.
const LATE: Duration = Duration::from_secs(5);

/// That a server of a database has answered since somebody looked.
#[derive(Debug, Default)]
pub struct Sign(AtomicBool);

impl Sign {
    /// It has. For every query: writes only what nobody has written yet, so that workers share the line.
    pub fn give(&self) {
        if !self.0.load(Ordering::Relaxed) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// What is known of all databases that the file names.
#[derive(Debug)]
pub struct Readiness {
    known: Mutex<BTreeMap<String, Known>>,
    /// Whether all have answered once, or had the time to.
    opened: watch::Sender<bool>,
}

#[derive(Debug)]
struct Known {
    /// When a server answered last; before it has, since when it is asked.
    since: Instant,
    answered: bool,
    /// Why none answered when it was asked last.
    fault: Option<String>,
    /// What was told of it last.
    told_away: bool,
}

impl Known {
    fn new(now: Instant) -> Self {
        Self { since: now, answered: false, fault: None, told_away: false }
    }

    fn seen(&mut self, now: Instant) {
        (self.since, self.answered, self.fault) = (now, true, None);
    }

    fn is_late(&self, now: Instant, bound: Duration) -> bool {
        now.saturating_duration_since(self.since) >= bound
    }

    fn is_away(&self, now: Instant, bound: Duration) -> bool {
        self.fault.is_some() && self.is_late(now, bound)
    }

    fn reason(&self, name: &str) -> String {
        let fault = self.fault.as_deref().unwrap_or("not asked yet");
        format!("database {name}: no server answers: {fault}")
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self { known: Mutex::default(), opened: watch::Sender::new(false) }
    }
}

impl Readiness {
    /// This process goes on where another was: nobody is to hear of a pause.
    pub fn take_over(&self) {
        self.opened.send_replace(true);
    }

    /// Waits until all databases have answered once, or had the time to.
    pub async fn opened(&self) {
        let mut opened = self.opened.subscribe();
        // Its sender lives as long as `self`.
        let _opened = opened.wait_for(|opened| *opened).await;
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which servers have answered clients, and which databases have come and gone.
    fn follow(&self, snapshot: &Snapshot, now: Instant) -> MutexGuard<'_, BTreeMap<String, Known>> {
        let mut all = self.known();
        all.retain(|name, _| snapshot.databases.contains_key(name));
        for (name, database) in &snapshot.databases {
            let known = match all.get_mut(name) {
                Some(known) => known,
                None => all.entry(name.clone()).or_insert_with(|| Known::new(now)),
            };
            if database.sign.take() {
                known.seen(now);
            }
        }
        all
    }

    /// Why the instance is not ready; nothing: it is.
    fn judge(&self, snapshot: &Snapshot, now: Instant) -> Vec<String> {
        let settings = &snapshot.settings;
        if settings.ready_when == ReadyWhen::Running {
            self.opened.send_if_modified(|opened| !std::mem::replace(opened, true));
            return Vec::new();
        }
        let (all, bound) = (self.follow(snapshot, now), settings.server_away_after);
        let reasons = |of: &dyn Fn(&Known) -> bool| -> Vec<String> {
            let meant = all.iter().filter(|(_, known)| of(known));
            meant.map(|(name, known)| known.reason(name)).collect()
        };
        if !*self.opened.borrow() {
            let missing = reasons(&|known| !known.answered && !known.is_late(now, bound));
            if !missing.is_empty() {
                return missing;
            }
            self.opened.send_replace(true);
        }
        // One that came with a reload is not missed before it had its time.
        let away = reasons(&|known| known.is_away(now, bound));
        let enough = settings.ready_when == ReadyWhen::SomeDatabase && away.len() < all.len();
        if enough { Vec::new() } else { away }
    }
}

impl Snapshot {
    /// Why the instance is not ready, as far as databases are concerned; nothing: it is.
    pub fn unready(&self) -> Vec<String> {
        self.readiness.judge(self, Instant::now())
    }
}

/// Asks the databases' servers again and again, until the instance has stopped.
pub async fn watch(worker: Rc<Worker>) {
    let shutdown = worker.lifecycle.shutdown();
    loop {
        let pause = tokio::select! {
            () = shutdown.stopped() => return,
            pause = round(&worker) => pause,
        };
        tokio::select! {
            () = shutdown.stopped() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One round; how long until the next.
pub async fn round(worker: &Rc<Worker>) -> Duration {
    let snapshot = worker.snapshot();
    let (settings, readiness) = (&snapshot.settings, &snapshot.readiness);
    let bound = settings.server_away_after;
    let pace = (bound / 3).min(LATE);
    if settings.ready_when == ReadyWhen::Running {
        snapshot.unready();
        return pace;
    }
    let asked = Instant::now();
    let silent = silent(&snapshot, asked, pace);
    let answers = ask(worker, &silent, (bound / 2).min(LONGEST)).await;
    let now = Instant::now();
    let mut all = readiness.follow(&snapshot, now);
    for database in &silent {
        let Some(known) = all.get_mut(&database.name) else { continue };
        let mut faults = Vec::new();
        for place in places(database) {
            match answers.get(&place) {
                Some(Ok(())) => {
                    known.seen(now);
                    faults.clear();
                    break;
                }
                Some(Err(fault)) => faults.push(fault.clone()),
                None => {}
            }
        }
        // It may have answered a client meanwhile.
        if known.since <= asked && !faults.is_empty() {
            known.fault = faults.into_iter().next();
        }
    }
    for (name, known) in all.iter_mut() {
        let away = known.is_away(now, bound);
        if std::mem::replace(&mut known.told_away, away) != away {
            let away = known.fault.as_deref().filter(|_| away);
            worker.observer.emit(DatabaseSeen { database: name, away });
        }
    }
    drop(all);
    if snapshot.unready().is_empty() { pace } else { SOON.min(pace) }
}

/// Databases from which nothing was heard since the last round.
fn silent(snapshot: &Snapshot, now: Instant, pace: Duration) -> Vec<Arc<Database>> {
    let all = snapshot.readiness.follow(snapshot, now);
    let quiet =
        |known: &Known| !known.answered || known.fault.is_some() || known.is_late(now, pace);
    let quiet = |(name, _): &(&String, &Arc<Database>)| all.get(*name).is_none_or(quiet);
    snapshot.databases.iter().filter(quiet).map(|(_, database)| Arc::clone(database)).collect()
}

/// Where any server of a database is; of a family all, because a primary may be any of them.
fn places(database: &Database) -> Vec<ServerAddress> {
    match &database.membership {
        Some(membership) => membership.family.members.clone(),
        None => database.servers.clone(),
    }
}

type Answers = BTreeMap<ServerAddress, Result<(), String>>;

/// Asks each address once, few at a time.
async fn ask(worker: &Rc<Worker>, databases: &[Arc<Database>], longest: Duration) -> Answers {
    let mut asked: BTreeMap<ServerAddress, Arc<Database>> = BTreeMap::new();
    for database in databases {
        for place in places(database) {
            asked.entry(place).or_insert_with(|| Arc::clone(database));
        }
    }
    let lanes = asked.len().min(MOST_ASKED);
    let queue = Rc::new(RefCell::new(asked));
    let mut tasks = JoinSet::new();
    for _lane in 0..lanes {
        let (worker, queue) = (Rc::clone(worker), Rc::clone(&queue));
        tasks.spawn_local(async move {
            let mut answers = Answers::new();
            loop {
                let next = queue.borrow_mut().pop_first();
                let Some((address, database)) = next else { return answers };
                let answer = timeout(longest, knock(&worker, &database.security, &address)).await;
                let answer = answer.unwrap_or(Err(ConnectError::Timeout));
                answers.insert(address, answer.map_err(|fault| fault.told()));
            }
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// No server of a database answers, or one does again.
struct DatabaseSeen<'a> {
    /// Which.
    database: &'a str,
    /// Why none does; `None`: one does.
    away: Option<&'a str>,
}

impl Event for DatabaseSeen<'_> {
    fn emit(&self, to: &Observer) {
        let help = "Whether no server of a database answers, where readiness asks for it.";
        let gauge =
            to.metrics.gauge("aqueduct_pg_database_away", help, &[("database", self.database)]);
        gauge.set(if self.away.is_some() { 1.0 } else { 0.0 });
        let (instance, database) = (&*to.instance, self.database);
        match self.away {
            Some(cause) => {
                tracing::event!(Level::WARN, instance, database, cause, "no server answers");
            }
            None => tracing::event!(Level::INFO, instance, database, "its servers answer again"),
        }
    }
}
