//! What others may see of a client and do to it: cancel its query, end it, show it. Not its
//! session, which only its own task touches. Kept by the worker under the client's number.
//!
//! Invariant: an ending is set once and wakes the client's task, wherever it waits.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::SystemTime;

use pgpool_wire::startup::Replication;
use tokio::time::Instant;

use super::source::Source;
use crate::server::Facts;

/// Why a client is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The instance drains, or `SHUTDOWN`.
    ShuttingDown,
    /// `KILL`.
    Killed,
    /// Its database or user is no longer in the configuration.
    Removed,
    /// Its server is no longer the primary.
    Fenced,
    /// `query_wait_timeout`.
    QueryWait,
    /// `query_timeout`.
    QueryTimeout,
    /// `idle_transaction_timeout`.
    IdleTransaction,
    /// `transaction_timeout`.
    TransactionTimeout,
    /// `server_fast_close`.
    Reconnected,
    /// Notifications for it were lost.
    Deaf,
    /// `client_idle_timeout`.
    ClientIdle,
}

/// What a client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientPhase {
    /// Logging in.
    Login,
    /// Has no server and needs none.
    Idle,
    /// Waits for a server.
    Waiting,
    /// Has a server.
    Active,
}

impl ClientPhase {
    /// PgBouncer's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Active => "active",
        }
    }
}

/// A client as others see it.
pub struct Entry {
    /// What it takes for its server's process id.
    pub pid: u32,
    /// Proves that a cancel request comes from it.
    pub secret: Box<[u8]>,
    /// As it named it.
    pub database: Rc<str>,
    /// As it named it.
    pub user: Rc<str>,
    /// Who its servers take it for.
    pub role: Rc<str>,
    /// What it calls itself.
    pub application: RefCell<Rc<str>>,
    /// From where.
    pub source: Source,
    /// Our end of its connection; `None`: a socket of this host.
    pub local: Option<SocketAddr>,
    /// The cipher suite, if bytes travel encrypted.
    pub cipher: Option<&'static str>,
    /// What it is here for.
    pub replication: Replication,
    /// Statements that it has named.
    pub prepared: Cell<usize>,
    /// Cancel requests of its own that are being carried out.
    pub claims: Cell<u32>,
    /// When it came.
    pub connected: SystemTime,
    /// When it last began something.
    pub requested: Cell<Instant>,
    /// Since when it waits for a server.
    pub waiting: Cell<Option<Instant>>,
    phase: Cell<ClientPhase>,
    deadline: Cell<Option<(Instant, Ending)>>,
    ending: Cell<Option<Ending>>,
    /// When it is to be told that it waits; then, that it is time.
    nudge: Cell<Nudge>,
    waker: RefCell<Option<Waker>>,
    server: RefCell<Option<Rc<Facts>>>,
    busy: Cell<Busy>,
}

/// What is known of a client when it is entered.
pub struct Who {
    /// Its database.
    pub database: Rc<str>,
    /// Its user.
    pub user: Rc<str>,
    /// Who its servers take it for.
    pub role: Rc<str>,
    /// What it calls itself.
    pub application: Rc<str>,
    /// From where.
    pub source: Source,
    /// Our end of its connection; `None`: a socket of this host.
    pub local: Option<SocketAddr>,
    /// The cipher suite, if bytes travel encrypted.
    pub cipher: Option<&'static str>,
    /// What it is here for.
    pub replication: Replication,
}

impl Entry {
    /// A client that logs in.
    pub fn new(pid: u32, secret: Box<[u8]>, who: Who, now: Instant) -> Self {
        Self {
            pid,
            secret,
            database: who.database,
            user: who.user,
            application: RefCell::new(who.application),
            source: who.source,
            role: who.role,
            local: who.local,
            cipher: who.cipher,
            replication: who.replication,
            prepared: Cell::new(0),
            claims: Cell::new(0),
            connected: SystemTime::now(),
            requested: Cell::new(now),
            waiting: Cell::new(None),
            phase: Cell::new(ClientPhase::Login),
            deadline: Cell::new(None),
            ending: Cell::new(None),
            nudge: Cell::new(Nudge::No),
            waker: RefCell::new(None),
            server: RefCell::new(None),
            busy: Cell::new(Busy::No),
        }
    }

    /// What it is doing.
    pub fn phase(&self) -> ClientPhase {
        self.phase.get()
    }

    /// It does something else now, until a deadline if there is one.
    pub fn enter(&self, phase: ClientPhase, deadline: Option<(Instant, Ending)>) {
        self.phase.set(phase);
        self.deadline.set(deadline);
    }

    /// Changes the deadline alone.
    pub fn limit(&self, deadline: Option<(Instant, Ending)>) {
        self.deadline.set(deadline);
    }

    /// It has been given a server, or has given it back.
    pub fn link(&self, server: Option<Rc<Facts>>) {
        self.mark_busy(Busy::No);
        *self.server.borrow_mut() = server;
    }

    /// The server that it has.
    pub fn server(&self) -> Option<Rc<Facts>> {
        self.server.borrow().clone()
    }

    /// Whether its server works for it right now.
    pub fn mark_busy(&self, busy: Busy) {
        if self.busy.replace(busy) == Busy::Prepared && busy != Busy::Prepared {
            self.server().inspect(|facts| facts.settled.notify_waiters());
        }
    }

    /// The server that works for it: what a cancel request may hit. While that is made the client's own,
    /// the client's query has not begun, and ours must not be hit in its place: waits for the end of it.
    pub async fn running(&self) -> Option<Rc<Facts>> {
        loop {
            match self.busy.get() {
                Busy::No => return None,
                Busy::Yes => return self.server(),
                Busy::Prepared => self.server()?.settled.notified().await,
            }
        }
    }

    /// Ends it.
    pub fn end(&self, ending: Ending) {
        if self.ending.get().is_none() {
            self.ending.set(Some(ending));
            self.wake();
        }
    }

    /// Makes its task look again.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// It begins to wait, and is to be told so at a time.
    pub fn nudge_at(&self, at: Option<Instant>) {
        self.nudge.set(at.map_or(Nudge::No, Nudge::At));
    }

    /// Whether it is to be told now that it waits; once.
    pub fn is_nudged(&self) -> bool {
        self.nudge.get() == Nudge::Now && self.nudge.replace(Nudge::No) == Nudge::Now
    }

    /// Ends it if its time is over.
    pub fn check(&self, now: Instant) {
        if matches!(self.nudge.get(), Nudge::At(at) if now >= at) {
            self.nudge.set(Nudge::Now);
            self.wake();
        }
        if let Some((deadline, ending)) = self.deadline.get()
            && now >= deadline
        {
            self.end(ending);
        }
    }

    /// Whether it is to end; otherwise its task will be woken when it is.
    pub fn ending(&self, cx: &Context<'_>) -> Option<Ending> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.ending.get()
    }
}

/// Whether a client that waits has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nudge {
    No,
    At(Instant),
    Now,
}

/// Whether a server works for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// It owes replies to queries of ours, the client's come after them.
    Prepared,
    /// It owes replies.
    Yes,
    /// It owes nothing.
    No,
}
