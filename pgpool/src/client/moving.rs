//! A client's move from process to process, while it needs nothing: what it has becomes a parcel, and of a
//! parcel becomes a client again. Not for how parcels travel: that is `upgrade::link`. Called by the session
//! of a process that drains, and by the worker that a parcel reaches.
//!
//! Invariant: the client notices nothing: its cancel key, settings, prepared statements and identity are as
//! they were, and not a byte of it is lost.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgpool_wire::startup::Replication;
use tokio::time::Instant;

use super::entry::{Entry, Who};
use super::startup::Listed;
use super::{Client, Inside, Still, goodbye};
use crate::events::ClientTaken;
use crate::fatal::Refusal;
use crate::pool::Pool;
use crate::prepared::Statement;
use crate::query;
use crate::relay::link::Memory;
use crate::relay::outbox::Outbox;
use crate::snapshot::{Credential, Held};
use crate::stream::Stream;
use crate::upgrade::parcel::{Hidden, Octets, Parcel, Prepared, Proof, Setting};
use crate::variables::Variables;
use crate::worker::Worker;

/// A client that another process has served until now.
pub struct Mover {
    /// What it has.
    pub parcel: Box<Parcel>,
    /// Its parked socket.
    pub io: Stream,
    /// Its place among the instance's clients.
    pub place: Held,
}

impl Client {
    /// Goes on in the process that takes over; what it is told if it cannot.
    pub(super) async fn move_on(&mut self) -> Option<Refusal> {
        let refusal = Some(Refusal::ShuttingDown);
        let Some(link) = self.worker.successor() else { return refusal };
        // Packed all at once they would be there twice.
        let ending = std::future::poll_fn(|cx| match self.entry.ending(cx) {
            Some(ending) => Poll::Ready(ending),
            None => Poll::Pending,
        });
        let room = tokio::select! {
            biased;
            ending = ending => return Some(self.refusal(ending)),
            room = link.room() => room,
        };
        let Some(room) = room else { return refusal };
        let Some(parcel) = self.pack() else { return refusal };
        let socket = match self.io.give_away() {
            Ok(Some(socket)) => socket,
            Ok(None) => return refusal,
            // It is closed.
            Err(_) => return None,
        };
        match link.send(parcel, socket, room) {
            Ok(()) => None,
            Err(socket) => {
                self.io = Stream::given(socket, self.entry.source);
                self.armed = false;
                self.io.revive().ok().and(refusal)
            }
        }
    }

    /// What must be the same in another process; `None`: it cannot go there.
    fn pack(&self) -> Option<Box<Parcel>> {
        let memory = &self.memory;
        // What is said on its channels while it moves would be lost without a word.
        let listens = memory.listening.as_ref().is_some_and(|listening| !listening.is_empty());
        let tied = memory.tie.is_some() || listens;
        let idle = !tied && memory.pending.is_empty() && memory.left == 0;
        if !idle || !self.carry.is_empty() || !self.out.is_empty() {
            return None;
        }
        let names = &memory.names;
        let named = |(name, it): (&[u8], &Rc<Statement>)| Some((Octets(name.into()), pack(it)?));
        let entry = &self.entry;
        let since = entry.connected.duration_since(UNIX_EPOCH).unwrap_or_default();
        let snapshot = self.worker.snapshot();
        let learned = snapshot.learned(&entry.database, &entry.user);
        let caught = self.home.whole.caught.known();
        let parcel = Parcel {
            pid: entry.pid,
            secret: Octets(entry.secret.to_vec()),
            database: entry.database.to_string(),
            user: entry.user.to_string(),
            application: entry.application.borrow().to_string(),
            source: entry.source.into(),
            connected: u64::try_from(since.as_micros()).unwrap_or_default(),
            initial: settings(&memory.initial),
            variables: settings(&memory.variables),
            named: names.iter().map(named).collect::<Option<_>>()?,
            unnamed: match &names.unnamed {
                Some(statement) => Some(pack(statement)?),
                None => None,
            },
            wrote: self.written.is_some(),
            proof: caught.map(|(salt, iterations, keys)| Proof {
                salt,
                iterations,
                keys: Hidden(keys.text()),
            }),
            learned: learned.and_then(|known| known.text()).map(Hidden),
        };
        parcel.is_lawful().then(|| Box::new(parcel))
    }
}

fn settings(all: &Variables) -> Vec<Setting> {
    all.iter().map(|(name, value)| Setting::of(name, value)).collect()
}

/// `None`: its text was too large to keep.
fn pack(statement: &Statement) -> Option<Prepared> {
    let rest = statement.rest.as_deref()?;
    Some(Prepared { rest: Octets(rest.to_vec()), terms: statement.terms() })
}

/// Serves a client that another process has served until now.
pub async fn settle(worker: Rc<Worker>, mover: Box<Mover>) {
    let Mover { parcel, mut io, place } = *mover;
    if io.revive().is_err() {
        return;
    }
    // Its database or user may be gone: the file was read anew.
    let Some(pool) = pool_of(&worker, &parcel) else {
        return Box::pin(goodbye(&mut io, &Refusal::Removed)).await;
    };
    let mut inside = take_in(&worker, &parcel, (io, pool, place));
    drop(parcel);
    worker.observer.emit(ClientTaken { client: &inside.client.entry });
    let ended = inside.client.session().await;
    Box::pin(inside.client.part(ended)).await;
}

/// Where its servers come from, with what its login has shown.
fn pool_of(worker: &Rc<Worker>, parcel: &Parcel) -> Option<Rc<Pool>> {
    let snapshot = worker.snapshot();
    let (database, user) = (parcel.database.as_str(), parcel.user.as_str());
    let learned = parcel.learned.as_ref().and_then(|known| Credential::kept(&known.0));
    if let Some(credential) = learned.filter(|_| snapshot.learned(database, user).is_none()) {
        snapshot.learn(database, user, credential);
    }
    let pool = worker.pool(database, user)?;
    if let Some(proof) = &parcel.proof
        && let Some(keys) = proof.keys()
        && pool.whole.caught.is_empty()
    {
        pool.whole.caught.keep(&proof.salt, proof.iterations, Arc::new(keys));
    }
    Some(pool)
}

fn take_in(
    worker: &Rc<Worker>,
    parcel: &Parcel,
    (io, pool, place): (Stream, Rc<Pool>, Held),
) -> Inside {
    let snapshot = worker.snapshot();
    let (database, user) = (parcel.database.as_str(), parcel.user.as_str());
    let who = Who {
        database: worker.name(database),
        user: worker.name(user),
        role: worker.name(&pool.user().name),
        application: worker.name(&parcel.application),
        source: parcel.source.source(),
        local: io.local(),
        cipher: None,
        replication: Replication::No,
    };
    let (secret, now) = (parcel.secret.0.as_slice().into(), worker.now());
    let entry = worker.enter(parcel.pid, |pid| {
        let mut entry = Entry::new(pid, secret, who, now);
        entry.connected = SystemTime::UNIX_EPOCH + Duration::from_micros(parcel.connected);
        entry
    });
    let listed = Listed::new(Rc::clone(&entry), Rc::clone(worker));
    let client = Client {
        io,
        entry,
        worker: Rc::clone(worker),
        pool: Rc::clone(&pool),
        // What the others are, nobody knows yet: as if it had written just now.
        written: parcel.wrote.then(Instant::now),
        way: None,
        in_vain: false,
        waited: Duration::ZERO,
        memory: remember(worker, parcel, |all| pool.shared(all)),
        carry: Vec::new(),
        out: Outbox::default(),
        discard: 0,
        still: Still::default(),
        armed: false,
        home: Rc::clone(&pool),
    };
    Inside {
        client: Box::new(client),
        _listed: listed,
        _place: place,
        _shares: snapshot.readmit(&pool.database(), user),
    }
}

/// Its session.
fn remember(
    worker: &Worker,
    parcel: &Parcel,
    share: impl FnOnce(Variables) -> Rc<Variables>,
) -> Memory {
    let all = |settings: &[Setting]| {
        let mut all = Variables::default();
        for setting in settings {
            all.set(&setting.0, setting.value());
        }
        all
    };
    let initial = share(all(&parcel.initial));
    let variables = all(&parcel.variables);
    let same = variables == *initial;
    let variables = if same { Rc::clone(&initial) } else { Rc::new(variables) };
    let mut memory = Memory { initial, variables, ..Memory::default() };
    let mut statements = worker.statements.borrow_mut();
    let mut unpack = |it: &Prepared| match it.terms {
        Some(terms) => statements.intern(&it.rest.0, terms, || query::judge(it.sql())),
        None => statements.make(Some(it.rest.0.as_slice().into()), query::judge(it.sql())),
    };
    for (name, statement) in &parcel.named {
        // The parcel keeps the bounds.
        let _fits = memory.names.insert(&name.0, unpack(statement));
    }
    memory.names.unnamed = parcel.unnamed.as_ref().map(unpack);
    memory
}
