//! What roles must prove that are not among the users of the file: asked of a database, PgBouncer's
//! `auth_query`. Not for the proof itself: that is `client::auth`. Asked by a client's login on any worker,
//! answered by the one worker where the question is at home.
//!
//! Invariant: whatever names come from outside, each is asked once at a time, over a few connections that
//! nobody else uses, and what is remembered of them is bounded in number and time.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pgpool_wire::backend::{self, Fields, Status, tag};
use pgpool_wire::frame::{self, Found};
use pgpool_wire::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use crate::client::server_of;
use crate::events::LookupFailed;
use crate::fatal::Refusal;
use crate::neighbours;
use crate::pool::whole::Whole;
use crate::pool::{Meters, Pool};
use crate::scram;
use crate::server::Server;
use crate::snapshot::{Credential, Lookup, Snapshot};
use crate::worker::{Message, Worker};

/// Questions under way and answers that are remembered, per worker.
const MOST_KNOWN: usize = 1000;
/// Connections that ask for one database, at most.
const MOST_ASKING: u32 = 4;
/// Databases that are asked, per worker; clients may invent their names where there is a `*`.
const MOST_POOLS: usize = 64;
/// A role that is not there may be made at any time.
const LONGEST_NO: Duration = Duration::from_secs(1);
/// A server that has not answered by then does not.
const LONGEST: Duration = Duration::from_secs(15);
/// A row with a verifier is short.
const MOST_BYTES: usize = 16 << 10;

/// A role that wants a database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Which database is asked.
    database: String,
    /// Which one the client wants.
    wanted: String,
    role: String,
}

/// What a role must prove.
#[derive(Clone)]
pub enum Answer {
    /// This.
    Role(Credential),
    /// There is no such role, or it may not log in.
    Nobody,
    /// Nobody knows.
    Failed(Refusal),
}

/// One worker's questions.
#[derive(Default)]
pub struct Lookups {
    known: RefCell<HashMap<Question, Entry>>,
    /// Counts configurations: an answer to a question of an earlier one is not remembered.
    epoch: Cell<u64>,
    /// By database and who asks it.
    pools: RefCell<HashMap<(String, String), Rc<Pool>>>,
}

enum Entry {
    Asking(Vec<oneshot::Sender<Answer>>),
    Known(Answer, Instant),
}

/// What a role must prove that is not among the users; `None`: it may not log in.
///
/// # Errors
/// Nobody knows.
pub async fn find(
    worker: &Worker,
    database: &str,
    role: &str,
) -> Result<Option<Credential>, Refusal> {
    let snapshot = worker.snapshot();
    // PostgreSQL has no longer names, and none with a zero byte.
    let lookup = snapshot.lookup(database, role).filter(|_| role.len() <= 63);
    let Some(lookup) = lookup else { return Ok(None) };
    let asked = lookup.database.as_deref().unwrap_or(database).to_owned();
    let home = neighbours::home(&snapshot, &asked, &lookup.user.name, worker.peers.len());
    let question = Question { database: asked, wanted: database.to_owned(), role: role.to_owned() };
    let (to, from) = oneshot::channel();
    let sent = worker.peers.get(home).map(|peer| peer.send(Message::Lookup(question, to)));
    match (sent, from.await) {
        (Some(Ok(())), Ok(Answer::Role(credential))) => Ok(Some(credential)),
        (Some(Ok(())), Ok(Answer::Nobody)) => Ok(None),
        (Some(Ok(())), Ok(Answer::Failed(refusal))) => Err(refusal),
        _ => Err(Refusal::ShuttingDown),
    }
}

impl Lookups {
    /// Answers a question that is at home here, now or later.
    pub fn ask(&self, worker: &Rc<Worker>, question: Question, to: oneshot::Sender<Answer>) {
        let now = worker.now();
        let mut known = self.known.borrow_mut();
        // Who asked may have gone.
        match known.get_mut(&question) {
            Some(Entry::Known(answer, until)) if *until > now => {
                return drop(to.send(answer.clone()));
            }
            Some(Entry::Asking(waiting)) => return waiting.push(to),
            Some(Entry::Known(..)) | None => {}
        }
        if known.len() >= MOST_KNOWN {
            known.retain(|_, entry| !matches!(entry, Entry::Known(_, until) if *until <= now));
        }
        if known.len() >= MOST_KNOWN {
            // Names that somebody invents must not keep out the others.
            let until = |entry: &Entry| match entry {
                Entry::Known(_, until) => Some(*until),
                Entry::Asking(_) => None,
            };
            let oldest =
                known.iter().filter_map(|(question, entry)| Some((until(entry)?, question)));
            let oldest =
                oldest.min_by_key(|(until, _)| *until).map(|(_, question)| question.clone());
            oldest.map(|question| known.remove(&question));
        }
        if known.len() >= MOST_KNOWN {
            let busy = Refusal::Lookup("too many names at a time");
            return drop(to.send(Answer::Failed(busy)));
        }
        known.insert(question.clone(), Entry::Asking(vec![to]));
        drop(known);
        let (worker, epoch) = (Rc::clone(worker), self.epoch.get());
        tokio::task::spawn_local(async move {
            let (answer, holds) = answer(&worker, &question).await;
            let current = worker.lookups.epoch.get() == epoch;
            let holds = if current { holds } else { Duration::ZERO };
            worker.lookups.settle(&worker, question, &answer, holds);
        });
    }

    /// Tells all who wait, and remembers for as long as the answer holds.
    fn settle(&self, worker: &Worker, question: Question, answer: &Answer, holds: Duration) {
        worker.tick();
        let mut known = self.known.borrow_mut();
        if let Some(Entry::Asking(waiting)) = known.remove(&question) {
            for to in waiting {
                drop(to.send(answer.clone()));
            }
        }
        if !holds.is_zero() {
            known.insert(question, Entry::Known(answer.clone(), worker.now() + holds));
        }
    }

    /// The pools that ask.
    pub fn pools(&self) -> Vec<Rc<Pool>> {
        self.pools.borrow().values().cloned().collect()
    }

    /// Goes by another configuration.
    pub fn follow(&self, snapshot: &Arc<Snapshot>) {
        self.epoch.set(self.epoch.get() + 1);
        self.known.borrow_mut().retain(|_, entry| matches!(entry, Entry::Asking(_)));
        let mut gone = Vec::new();
        self.pools.borrow_mut().retain(|(database, role), pool| {
            let lookup = snapshot.asking(database, role);
            let found = snapshot.database(database).zip(lookup);
            match &found {
                Some((database, lookup)) => {
                    pool.follow(&Arc::new(database.asked(MOST_ASKING)), &lookup.user);
                }
                None => gone.push(Rc::clone(pool)),
            }
            found.is_some()
        });
        gone.iter().for_each(|pool| pool.reconnect());
    }

    /// The pool that asks a database.
    fn pool(
        &self,
        worker: &Rc<Worker>,
        database: &str,
        lookup: &Lookup,
    ) -> Result<Rc<Pool>, Refusal> {
        let key = (database.to_owned(), lookup.user.name.clone());
        if let Some(pool) = self.pools.borrow().get(&key) {
            return Ok(Rc::clone(pool));
        }
        let snapshot = worker.snapshot();
        if self.pools.borrow().len() >= MOST_POOLS {
            let used = |pool: &Pool| pool.load() != Default::default();
            self.pools.borrow_mut().retain(|_, pool| used(pool));
        }
        if self.pools.borrow().len() >= MOST_POOLS {
            return Err(Refusal::Lookup("too many databases at a time"));
        }
        let missing = || Refusal::NoSuchDatabase(database.to_owned());
        let found = Arc::new(snapshot.database(database).ok_or_else(missing)?.asked(MOST_ASKING));
        // Names that clients invent are not shown by metrics.
        let label = if snapshot.databases.contains_key(database) { database } else { "*" };
        let meters = Meters::of(&worker.observer, (label, &found.sign), &lookup.user.name);
        // Its connections are its own, and all are here.
        let whole = Whole::new(key.clone(), worker.peers.len().max(worker.id.0 + 1));
        let pool = Pool::new(worker, found, Arc::clone(&lookup.user), (meters, whole));
        pool.pause(worker.pause_of(database));
        self.pools.borrow_mut().insert(key, Rc::clone(&pool));
        Ok(pool)
    }
}

/// Asks, and says how long the answer holds.
async fn answer(worker: &Rc<Worker>, question: &Question) -> (Answer, Duration) {
    let lookup = worker.snapshot().lookup(&question.wanted, &question.role);
    let Some(lookup) = lookup else { return (Answer::Nobody, Duration::ZERO) };
    let outcome = ask(worker, question, &lookup).await;
    match outcome {
        Ok(Some(credential)) => (Answer::Role(credential), lookup.cache),
        Ok(None) => (Answer::Nobody, lookup.cache.min(LONGEST_NO)),
        Err(refusal) => (Answer::Failed(refusal), Duration::ZERO),
    }
}

async fn ask(
    worker: &Rc<Worker>,
    question: &Question,
    lookup: &Lookup,
) -> Result<Option<Credential>, Refusal> {
    let pool = worker.lookups.pool(worker, &question.database, lookup)?;
    let mut server = server_of(worker, &pool).await?;
    let said = timeout(LONGEST, exchange(&mut server, &lookup.query, &question.role)).await;
    let said = said.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    match &said {
        Ok(_) => pool.checkin(server),
        Err(_) => {
            server.talk.ledger.doubt();
            pool.abandon(server);
        }
    }
    let outcome = match said {
        Ok(rows) => read(rows, &question.role, worker.snapshot().seed).await,
        Err(cause) => Err(cause),
    };
    outcome.map_err(|cause| {
        worker.observer.emit(LookupFailed { database: &question.database, cause: &cause });
        worker.count_error();
        Refusal::Lookup("the query failed")
    })
}

type Row = Zeroizing<Vec<Option<String>>>;

/// What the answer to the query means.
async fn read(rows: Vec<Row>, role: &str, seed: [u8; 32]) -> Result<Option<Credential>, String> {
    let row = match rows.as_slice() {
        [] => return Ok(None),
        [row] => row,
        _ => return Err("the query has given more than one row".to_owned()),
    };
    let [name, secret] = row.as_slice() else {
        return Err("the query must give two columns: a name and a verifier".to_owned());
    };
    // A function that found nothing returns one row without a name, as the one of PgBouncer's manual; a role
    // without a secret cannot log in.
    let none = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
    let Some(secret) = secret.as_ref().filter(|secret| !secret.is_empty() && !none(name)) else {
        return Ok(None);
    };
    if name.as_deref() != Some(role) {
        return Err("the query has answered for another role".to_owned());
    }
    let secret = Zeroizing::new(secret.clone());
    // Of a password that is no verifier one is made.
    let salt = scram::salt_of(&seed, role.as_bytes());
    let stored = tokio::task::spawn_blocking(move || Credential::stored(&secret, salt)).await;
    match stored {
        Ok(Some(credential)) => Ok(Some(credential)),
        _ => Err("the query has given a verifier that is none".to_owned()),
    }
}

/// Runs the query with the role as its parameter: never as a part of its text.
async fn exchange(server: &mut Server, query: &str, role: &str) -> Result<Vec<Row>, String> {
    let mut out = Vec::new();
    frontend::put_parse(&mut out, b"", &[query.as_bytes(), b"\0\0\0"].concat());
    frontend::put_bind_head(&mut out, b"", b"", u32::try_from(role.len()).unwrap_or(0) + 10);
    // No formats; one parameter; no formats of columns.
    out.extend_from_slice(&[0, 0, 0, 1]);
    out.extend_from_slice(&u32::try_from(role.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(role.as_bytes());
    out.extend_from_slice(&[0, 0]);
    frontend::put_execute(&mut out, b"");
    frontend::put_empty(&mut out, frontend::tag::SYNC);
    server.talk.holdings.unnamed = None;
    server.io.write_all(&out).await.map_err(|fault| fault.to_string())?;
    // Never moved, so that no copy of a verifier stays behind.
    let mut input = Zeroizing::new(Vec::<u8>::with_capacity(MOST_BYTES));
    let (mut rows, mut refused, mut at) = (Vec::new(), None, 0);
    loop {
        while let Found::Whole(frame) =
            frame::next(input.get(at..).unwrap_or_default(), MOST_BYTES as u32)
                .map_err(|fault| fault.to_string())?
        {
            at += frame.raw.len();
            match frame.tag {
                tag::DATA_ROW => {
                    let row =
                        backend::nullable_row(frame.body).map_err(|fault| fault.to_string())?;
                    rows.push(Zeroizing::new(row));
                }
                tag::ERROR => refused = Some(Fields::new(frame.body).message()),
                tag::READY if backend::ready(frame.body) == Ok(Status::Idle) => {
                    return refused.map_or(Ok(rows), Err);
                }
                tag::READY => return Err("the query leaves a transaction open".to_owned()),
                _ => {}
            }
        }
        if input.len() >= MOST_BYTES {
            return Err("the answer is too long".to_owned());
        }
        let room = MOST_BYTES - input.len();
        let mut part = (&mut server.io).take(room as u64);
        match part.read_buf(&mut *input).await {
            Ok(count) if count > 0 => {}
            _ => return Err("the server closed the connection".to_owned()),
        }
    }
}
