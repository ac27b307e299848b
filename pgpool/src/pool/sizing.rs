//! How many servers a pool connects, when, and when it closes them. Not for how: that is
//! `server::connect`. Called whenever somebody waits, a server is closed, or time has passed.
//!
//! Invariant: a refused connection is followed by a pause that doubles, so that a dead server meets
//! no storm; who waited meanwhile is told once the next try has failed too.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pgpool_wire::startup::Replication;
use tokio::time::{Instant, timeout};
use topology::pool::{HostOrder, ServerAddress, Settings};

use super::Pool;
use super::whole::{Connect, Permit};
use crate::events::{ServerConnected, ServerFailed};
use crate::family::{Role, watch};
use crate::fatal::Refusal;
use crate::relay::link::Conversation;
use crate::server::connect::{self, Asked, ConnectError, Ready};
use crate::server::{Facts, Server, ServerPhase, prelude};
use crate::snapshot::Held;
use crate::worker::{Message, Worker};

/// Connects of one pool at a time: a burst of clients must not become a burst of logins.
pub(super) const MOST_CONNECTING: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Whether a connect begins or has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    Yes,
    No,
}

/// Where a pool stands with its connects.
#[derive(Default)]
pub struct Sizing {
    connecting: usize,
    /// Which of several equal servers is next.
    next: usize,
    /// Which of several equal servers connections go to, by `load-balance-hosts: disable`.
    stay: usize,
    /// Servers that have let nobody connect lately, each until when it comes last.
    shunned: Vec<(ServerAddress, Instant)>,
    pub(super) retry: Retry,
    armed: bool,
}

/// When a connect may be tried again: the pauses grow while it fails.
#[derive(Default)]
pub(super) struct Retry {
    pause: Duration,
    /// `None`: at once.
    pub(super) at: Option<Instant>,
}

impl Retry {
    pub(super) fn failed(&mut self, now: Instant, longest: Duration) {
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE.min(longest), longest);
        self.at = Some(now + self.pause);
    }

    /// Nothing speaks against the next try.
    pub(super) fn worked(&mut self) {
        *self = Self::default();
    }
}

impl Sizing {
    /// One more connect is under way, or one less.
    pub(super) fn count(&mut self, begins: Begins) {
        match begins {
            Begins::Yes => self.connecting += 1,
            Begins::No => self.connecting -= 1,
        }
    }

    /// Connects under way.
    pub fn connecting(&self) -> usize {
        self.connecting
    }
}

/// Places in the limits of a database and a user.
pub type Places = (Held, Held);

/// How a connection was made.
pub(super) struct Made {
    /// After which `RECONNECT`.
    pub(super) generation: u64,
    /// For what.
    pub(super) replication: Replication,
}

impl Pool {
    /// Connects as many servers as are wanted and allowed.
    pub fn grow(&self) {
        let Some(worker) = self.worker.upgrade() else { return };
        while let Some(most) = self.wants_more(&worker) {
            let now = worker.now();
            if !self.knows_servers() {
                return;
            }
            let retry = self.sizing.borrow().retry.at.filter(|at| *at > now);
            if let Some(at) = retry {
                return self.arm(at);
            }
            let Some(permit) = Permit::enter(&self.whole, most) else { return };
            let Some(turn) = Connect::enter(&self.whole, MOST_CONNECTING) else { return };
            let Some(places) = self.places() else { return };
            self.sizing.borrow_mut().connecting += 1;
            let pool = self.me();
            let generation = self.whole.generation();
            tokio::task::spawn_local(async move {
                Rc::clone(&pool).connect((places, permit), generation).await;
                pool.next_turn(turn);
                pool.grow();
            });
        }
    }

    /// Whether it is known which server to connect to; where it is not, the watch is asked.
    pub(super) fn knows_servers(&self) -> bool {
        let Some(membership) = self.membership() else { return true };
        watch::tend(&self.me());
        !membership.family.serving(membership.role).is_empty()
    }

    /// Up to how many servers of the whole pool one more is to be connected here; `None`: none is.
    fn wants_more(&self, worker: &Worker) -> Option<usize> {
        let sizing = self.sizing.borrow();
        let settings = &*worker.settings();
        let apart = self.whole.apart();
        let total = self.whole.held() + apart;
        let waiting = self.waiters.borrow().len();
        let size = self.size();
        let most = match waiting > sizing.connecting {
            true if total < size => size,
            true => size + self.opened(settings, worker),
            false if self.can_log_in() => self.least(settings).min(size),
            false => 0,
        };
        let may = total < most && !self.paused.get();
        may.then(|| most.saturating_sub(apart))
    }

    /// How much of the reserve is open: all of it once somebody has waited for too long.
    fn opened(&self, settings: &Settings, worker: &Worker) -> usize {
        let (reserve, opens) = (self.reserve(settings), settings.reserve_pool_timeout);
        let open = reserve > 0 && !opens.is_zero() && self.oldest_wait(worker.now()) >= opens;
        if open { reserve } else { 0 }
    }

    /// Whether a server would let us in without a client's help.
    pub fn can_log_in(&self) -> bool {
        let user = self.user.borrow();
        !matches!(user.credential, crate::snapshot::Credential::Scram(_))
            || user.password().is_some()
            || !self.whole.caught.is_empty()
    }

    /// More servers than the pool's size, once the reserve is not needed any more.
    pub(super) fn is_too_many(&self) -> bool {
        let apart = self.whole.apart();
        let unwanted =
            || self.waiters.borrow().is_empty() && !self.whole.waits_elsewhere(self.seat);
        (apart > 0 || unwanted()) && self.whole.live() + apart > self.size()
    }

    /// Whether a server of it is on its way out.
    pub fn is_closing(&self) -> bool {
        self.facts.borrow().iter().any(|facts| facts.phase.get() == ServerPhase::Closing)
    }

    /// Places in the limits of database and user; an idle server of another pool makes room.
    pub(super) fn places(&self) -> Option<Places> {
        let enter = || {
            let database = Held::enter(&self.database().connections)?;
            Some((database, Held::enter(&self.user().standing.connections)?))
        };
        enter().or_else(|| {
            let worker = self.worker.upgrade()?;
            worker.make_room(self);
            enter().or_else(|| {
                worker.ask_for_room(self);
                None
            })
        })
    }

    /// Tries again when the pause is over.
    fn arm(&self, at: Instant) {
        let mut sizing = self.sizing.borrow_mut();
        if std::mem::replace(&mut sizing.armed, true) {
            return;
        }
        let pool = self.me();
        tokio::task::spawn_local(async move {
            tokio::time::sleep_until(at).await;
            pool.sizing.borrow_mut().armed = false;
            if let Some(worker) = pool.worker.upgrade() {
                worker.tick();
            }
            pool.grow();
        });
    }

    async fn connect(self: Rc<Self>, (places, permit): (Places, Permit), generation: u64) {
        let Some(worker) = self.worker.upgrade() else { return };
        let outcome = self.try_each(&worker, Asked::default()).await;
        worker.tick();
        let now = worker.now();
        self.sizing.borrow_mut().connecting -= 1;
        match outcome {
            Ok((address, ready)) => {
                self.sizing.borrow_mut().retry.worked();
                self.meters.sign.give();
                self.whole.say(&ready.welcome);
                let made = Made { generation, replication: Replication::No };
                self.put(self.enrol(&worker, &address, ready, ((places, permit), made)));
            }
            Err(fault) => {
                drop((places, permit));
                let longest = worker.snapshot().settings.server_login_retry;
                self.sizing.borrow_mut().retry.failed(now, longest);
                self.failed(&worker, &fault);
            }
        }
    }

    /// A connect is over: where another shard has waited for its turn, that one looks.
    pub(super) fn next_turn(&self, turn: Connect) {
        if let Some(worker) = self.worker.upgrade()
            && turn.end(MOST_CONNECTING)
        {
            worker.tell_others(|| Message::Look);
        }
    }

    /// One server after the other until one lets us in, beginning with the least used. Each has the whole
    /// `server_connect_timeout`: one that does not answer must not keep us from those that do.
    pub(crate) async fn try_each(
        &self,
        worker: &Worker,
        asked: Asked<'_>,
    ) -> Result<(ServerAddress, Ready), ConnectError> {
        let mut last = ConnectError::NoPrimary;
        let most = worker.snapshot().settings.server_connect_timeout;
        for address in self.by_load() {
            let tried = timeout(most, self.try_one(worker, &address, asked)).await;
            match tried.unwrap_or(Err(ConnectError::Timeout)) {
                Ok(ready) => {
                    self.sizing.borrow_mut().shunned.retain(|(other, _)| *other != address);
                    return Ok((address, ready));
                }
                Err(fault) => {
                    worker.observer.emit(ServerFailed {
                        database: &self.database().name,
                        user: &self.user().name,
                        address: &address,
                        cause: &fault,
                    });
                    self.pass_over(worker, &address);
                    last = fault;
                }
            }
        }
        Err(last)
    }

    /// Connects and logs in, and asks who it is where that matters: a server that does not say that it
    /// is the primary, on the newest timeline, gets no writes.
    async fn try_one(
        &self,
        worker: &Worker,
        address: &ServerAddress,
        asked: Asked<'_>,
    ) -> Result<Ready, ConnectError> {
        let ready = match self.log_in(worker, address, asked).await {
            Ok(ready) => self.prepare(ready, asked).await,
            fault => fault,
        };
        let Some(membership) = self.membership() else { return ready };
        let away = ready.as_ref().is_err_and(|fault| !fault.is_refusal());
        if away {
            membership.family.suspect();
        }
        // Physical replication understands no SQL.
        if membership.role == Role::Replica || asked.replication == Replication::Physical {
            return ready;
        }
        let mut ready = ready?;
        match watch::who(&mut ready.io).await {
            Some(said) if membership.family.admits(&said) => Ok(ready),
            _ => {
                membership.family.suspect();
                Err(ConnectError::NoPrimary)
            }
        }
    }

    /// Runs what the database says is to be run first. Physical replication understands no SQL.
    async fn prepare(&self, mut ready: Ready, asked: Asked<'_>) -> Result<Ready, ConnectError> {
        let database = self.database();
        if let Some(sql) = &database.prelude.query
            && asked.replication != Replication::Physical
        {
            prelude::run(&mut ready, sql).await?;
        }
        Ok(ready)
    }

    /// Connects and logs in.
    ///
    /// # Errors
    /// The server cannot be reached or does not let us in.
    pub async fn log_in(
        &self,
        worker: &Worker,
        address: &ServerAddress,
        asked: Asked<'_>,
    ) -> Result<Ready, ConnectError> {
        let (database, user) = (self.database(), self.user());
        let attempt = async |way| {
            let try_once = async || {
                let (dialled, lead) = worker.dial(address).await?;
                dialled.io.keep_alive(&worker.snapshot().settings.keepalive)?;
                let secured = database.security.secure(dialled, address, way).await?;
                let caught = &self.whole.caught;
                let ready = connect::login_for(secured, &database, &user, (caught, asked)).await;
                ready.map(|ready| Ready { lead, ..ready })
            };
            match try_once().await {
                Err(ConnectError::OldProtocol) => {
                    self.whole.caught.speak_old();
                    try_once().await
                }
                outcome => outcome,
            }
        };
        database.security.try_ways(address, attempt).await
    }

    /// The database's addresses: fewest connections of this pool first, in turn among equals. Those that have
    /// let nobody connect lately come last, the longest ago first.
    fn by_load(&self) -> Vec<ServerAddress> {
        let mut all = self.candidates();
        if self.database().order == HostOrder::Sticky {
            let stay = self.sizing.borrow().stay % all.len().max(1);
            all.rotate_left(stay);
            return all;
        }
        let start = self.sizing.borrow().next;
        self.sizing.borrow_mut().next = start.wrapping_add(1);
        let turn = start % all.len().max(1);
        all.rotate_left(turn);
        let facts = self.facts.borrow();
        let (sizing, now) = (self.sizing.borrow(), Instant::now());
        let shunned = |address: &ServerAddress| {
            let found =
                sizing.shunned.iter().find(|(other, until)| other == address && *until > now);
            found.map(|(_, until)| *until)
        };
        let used = |address: &ServerAddress| facts.iter().filter(|f| f.address == *address).count();
        all.sort_by_cached_key(|address| (shunned(address), used(address)));
        all
    }

    /// A server has let nobody connect: others come before it until `server_login_retry` is over, and where one is
    /// stayed with, it is the next from now on.
    fn pass_over(&self, worker: &Worker, address: &ServerAddress) {
        let database = self.database();
        let all = &database.servers;
        let (now, retry) = (Instant::now(), worker.settings().server_login_retry);
        let mut sizing = self.sizing.borrow_mut();
        sizing.shunned.retain(|(other, until)| other != address && *until > now);
        sizing.shunned.push((address.clone(), now + retry));
        if all.get(sizing.stay % all.len().max(1)) == Some(address) {
            sizing.stay = sizing.stay.wrapping_add(1);
        }
    }

    /// Servers that are what the pool is for.
    fn candidates(&self) -> Vec<ServerAddress> {
        let Some(membership) = self.membership() else { return self.database().servers.clone() };
        let family = &membership.family;
        let serving = family.serving(membership.role).into_iter();
        serving.filter_map(|at| family.members.get(at).cloned()).collect()
    }

    /// Makes one of the pool's servers of a connection.
    pub(super) fn enrol(
        &self,
        worker: &Worker,
        address: &ServerAddress,
        ready: Ready,
        ((places, mut permit), made): ((Places, Permit), Made),
    ) -> Box<Server> {
        let now = worker.now();
        permit.begin();
        // The name may have been found to lead elsewhere meanwhile.
        let astray = !ready.lead.holds();
        let facts = Rc::new(Facts {
            id: worker.next_server(),
            address: address.clone(),
            member: self.member(address),
            security: Arc::clone(&self.database().security),
            peer: ready.peer,
            lead: ready.lead,
            local: ready.local,
            key: ready.key,
            cipher: ready.io.cipher(),
            prepared: Cell::new(0),
            born: now,
            used: Cell::new(now),
            checked: Cell::new(now),
            phase: Cell::new(ServerPhase::Idle),
            client: Cell::new(None),
            cancels: Cell::new(0),
            settled: tokio::sync::Notify::new(),
            generation: made.generation,
            replication: made.replication,
            condemned: Cell::new(astray),
            welcome: RefCell::new(Vec::new()),
        });
        self.facts.borrow_mut().push(Rc::clone(&facts));
        let talk = Conversation {
            variables: ready.variables.clone().into(),
            initial: ready.variables,
            primed: self.database().prelude.query.is_some(),
            ..Conversation::default()
        };
        worker.observer.emit(ServerConnected {
            database: &self.database().name,
            user: &self.user().name,
            address,
            server: &facts,
        });
        Box::new(Server {
            io: ready.io,
            talk,
            carry: Vec::new(),
            out: Default::default(),
            facts,
            places,
            permit,
        })
    }

    /// What clients are told of servers that do not let us in.
    pub fn unavailable(&self, fault: &ConnectError) -> Refusal {
        let (database, reason) = (self.database().name.as_str().into(), fault.told().into());
        Refusal::Unavailable { database, reason }
    }

    /// Nobody let us in: who waits is told, unless other servers of the pool still work.
    pub fn failed(&self, worker: &Worker, fault: &ConnectError) {
        // Where another server may take over, clients wait for it as long as they would for a free one.
        let keeps = self.database().membership.is_some() && !fault.is_refusal();
        let connecting = self.sizing.borrow().connecting();
        let none = self.facts.borrow().is_empty() && self.whole.live() == 0;
        if none && connecting == 0 && !keeps {
            self.waiters.borrow_mut().fail(&self.unavailable(fault));
            self.show();
        }
        worker.count_error();
    }

    /// Closes what is old, unused or dead; opens the reserve. Called about ten times a second.
    pub fn sweep(&self, now: Instant) {
        let Some(worker) = self.worker.upgrade() else { return };
        watch::tend(&self.me());
        self.follow_family();
        self.follow_names(&worker);
        let most = self.lifetime();
        self.oldest.set((!most.is_zero()).then(|| now.checked_sub(most)).flatten());
        let most_idle = worker.snapshot().settings.server_idle_timeout;
        let keep = self.least(&worker.snapshot().settings);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        let (mut stay, mut close) = (Vec::with_capacity(idle.len()), Vec::new());
        let mut check = Vec::new();
        for mut server in idle {
            let rested = now.saturating_duration_since(server.facts.used.get());
            let unused = !most_idle.is_zero() && rested > most_idle;
            let stays = super::reset::is_quiet(&mut server, &mut cx)
                && self.is_welcome(&server)
                && !(unused && server.permit.end_above(keep));
            let list = match stays {
                false => &mut close,
                true if super::reset::is_due(&worker, &server, now) => &mut check,
                true => &mut stay,
            };
            list.push(server);
        }
        *self.idle.borrow_mut() = stay;
        self.show();
        close.into_iter().for_each(|server| self.discard(server));
        check.into_iter().for_each(|server| super::reset::check(self.me(), server));
        self.apart.tell();
        self.grow();
        self.spare();
        // Who was asked and has said nothing since, or had nothing, is asked again.
        self.ask_anew();
        self.ask();
    }

    /// Closes all idle servers, and what listens, if it is paused.
    pub fn close_when_paused(&self) {
        if self.paused.get() {
            self.apart.set_closing(true);
            self.tell_apart();
            self.close_idle();
        }
    }

    /// Closes the longest unused server, to make room in a limit that pools share.
    pub fn give_up_one(&self) -> bool {
        if self.idle.borrow().is_empty() {
            return false;
        }
        let server = self.idle.borrow_mut().remove(0);
        self.show();
        self.discard(server);
        true
    }
}
