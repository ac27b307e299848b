//! What changes a running instance as a whole: reading the configuration again, and handing over to a new
//! process. Not for what a worker does with either. Called on SIGHUP and SIGUSR2, by the admin database and
//! by tests.
//!
//! Invariant: a change is made whole or not at all, and one at a time.

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use common::lifecycle::{Lifecycle, Phase};
use common::observe::Observer;
use common::snapshot::Published;
use common::upgrade::Peer;
use discovery::register::{Board, Registrar};
use sd_notify::NotifyState;
use tokio::sync::{Mutex, oneshot, watch};
use topology::{Form, SourceFile, Topology, pgbouncer};

use crate::admin::report::{Detail, Report};
use crate::admin::setting;
use crate::admin::verbs::Command;
use crate::cancel::Side;
use crate::events::{HandedOver, Noted, ReloadRefused, Reloaded, TakenOver, UpgradeFailed};
use crate::parting::Wait;
use crate::snapshot::Snapshot;
use crate::sockets::Claim;
use crate::upgrade::UpgradeError;
use crate::upgrade::giving::{self, Spares, To};
use crate::upgrade::link::{Link, Said};
use crate::worker::{Message, Peers};
use crate::{StartError, build};

/// Between two looks at whether the instance may end.
const PARTING_LOOK: Duration = Duration::from_millis(200);
/// So long the last clients may take to hear that it ends.
const LONGEST_GOODBYE: Duration = Duration::from_secs(1);

/// How a running instance is asked to go by a changed file; cheap to clone, of no use once it has
/// ended.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    published: Arc<Published<Snapshot>>,
    peers: Peers,
    observer: Observer,
    lifecycle: Lifecycle,
    instance: String,
    /// As it was read last.
    file: watch::Sender<Arc<SourceFile>>,
    /// Held while a change is made.
    turn: Mutex<()>,
    /// The control runtime.
    runtime: tokio::runtime::Handle,
    spares: std::sync::Mutex<Spares>,
    /// The way to the process that this one has taken over from.
    former: watch::Sender<Option<Link>>,
    /// Whether there was one: its clients may be on other workers than their numbers name.
    taken: AtomicBool,
    /// All that was to be said on such ways.
    said: std::sync::Mutex<Vec<Said>>,
    registration: Registration,
    /// What the end of the instance waits for, if it ends by itself.
    parting: std::sync::Mutex<Option<Wait>>,
}

/// How the instance is entered in registries.
struct Registration {
    registrar: Registrar,
    /// Where it listens for the network first.
    address: Option<SocketAddr>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "handle of {}", self.0.instance)
    }
}

impl Handle {
    /// For an instance that is about to run.
    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        peers: Peers,
        options: &common::cli::Options,
        (file, address): (Arc<SourceFile>, Option<SocketAddr>),
    ) -> Self {
        let instance = snapshot.instance.clone();
        let published = Arc::new(Published::of(snapshot));
        let look = Arc::clone(&published);
        // Until it is to drain.
        let ready = move || look.load().unready().is_empty();
        let registrar = Registrar::new(&options.observer, &options.lifecycle, ready);
        Self(Arc::new(Shared {
            instance,
            published,
            peers,
            observer: options.observer.clone(),
            lifecycle: options.lifecycle.clone(),
            file: watch::Sender::new(file),
            turn: Mutex::new(()),
            runtime: tokio::runtime::Handle::current(),
            spares: Default::default(),
            former: watch::Sender::new(None),
            taken: AtomicBool::new(false),
            said: Default::default(),
            registration: Registration { registrar, address },
            parting: Default::default(),
        }))
    }

    /// Is entered in registries as this file says.
    pub(crate) fn register(&self, topology: &Topology) {
        let Shared { registration, instance, .. } = &*self.0;
        let Some((group, own)) = topology.pool(instance) else { return };
        let at = own.advertise.or(registration.address);
        registration.registrar.follow(group.register.as_ref(), at);
    }

    /// What operators see of that.
    pub(crate) fn registrations(&self) -> Board {
        self.0.registration.registrar.board()
    }

    /// All workers.
    pub(crate) fn peers(&self) -> &Peers {
        &self.0.peers
    }

    /// Looks at, or changes, the other descriptors of what the process listens on.
    pub(crate) fn with_spares<T>(&self, look: impl FnOnce(&mut Spares) -> T) -> T {
        look(&mut lock(&self.0.spares))
    }

    /// The way to the process that this one has taken over from.
    pub(crate) fn former(&self) -> Option<Link> {
        self.0.former.borrow().clone()
    }

    /// Whether there is one, also after so long.
    pub(crate) async fn has_former(&self, grace: Duration) -> bool {
        let mut former = self.0.former.subscribe();
        tokio::time::timeout(grace, former.wait_for(Option::is_none)).await.is_err()
    }

    /// That process has ended, or the way to it.
    pub(crate) fn forget_former(&self) {
        self.0.former.send_replace(None);
    }

    /// Whether this process has taken over from another one, which may have ended.
    pub(crate) fn has_taken(&self) -> bool {
        self.0.taken.load(Ordering::Acquire)
    }

    /// Where events go.
    pub(crate) fn observer(&self) -> &Observer {
        &self.0.observer
    }

    /// This process has taken over from another one, to which there is this way.
    pub(crate) fn succeed(&self, peer: Peer) {
        self.0.taken.store(true, Ordering::Release);
        // Without threads the other one's clients are told that it ends.
        self.0.former.send_modify(|former| {
            // Its end, which forgets it, waits for this to be done.
            if let Ok((link, said)) = Link::start(peer, Side::Former, self.clone()) {
                *former = Some(link);
                lock(&self.0.said).push(said);
            }
        });
        self.with_spares(|spares| spares.claims.iter().for_each(Claim::take));
        self.0.observer.emit(TakenOver);
    }

    /// Hands over to a new process of the program that runs, with the same arguments: it has the
    /// listeners, and clients move to it as they need nothing. What came of it is told as an event; when
    /// it was done this process drains.
    pub async fn upgrade(&self) {
        self.hand_over(To::Program).await;
    }

    /// The same, to a process that asks for it at the other end of a socket, and whose number this is.
    /// Goes on by itself.
    pub fn yield_to(&self, stream: UnixStream, process: u32) {
        let handle = self.clone();
        let given = async move { handle.hand_over(To::Process(stream, process)).await };
        drop(self.0.runtime.spawn(given));
    }

    async fn hand_over(&self, to: To) {
        let Shared { turn, lifecycle, observer, .. } = &*self.0;
        let _turn = turn.lock().await;
        let given = match lifecycle.phase() {
            Phase::Running if !lifecycle.is_leaving() => giving::give(self, to).await,
            _ => Err(UpgradeError::Ending),
        };
        match given {
            Ok((process, said)) => {
                lock(&self.0.said).extend(said);
                observer.emit(HandedOver { process });
                // The new process is entered in registries where this one was.
                lifecycle.hand_over();
            }
            Err(cause) => observer.emit(UpgradeFailed { cause: &cause }),
        }
    }

    /// Tells systemd, if there is one, that the instance is ready: once the databases have answered for the first
    /// time, or had the time to.
    pub async fn announce(&self) {
        let readiness = Arc::clone(&self.snapshot().readiness);
        let shutdown = self.0.lifecycle.shutdown();
        tokio::select! {
            () = readiness.opened() => {
                let own = NotifyState::MainPid(std::process::id());
                // Without systemd there is nobody to tell.
                let _told = sd_notify::notify(&[own, NotifyState::Ready]);
            }
            () = shutdown.draining() => {}
        }
    }

    /// Waits until every client that moves is on its way. Only when the workers have ended.
    pub(crate) async fn all_said(&self) {
        self.forget_former();
        let said = std::mem::take(&mut *lock(&self.0.said));
        for said in said {
            let _ended = said.await;
        }
    }

    /// The configuration in force.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.0.published.load_full()
    }

    /// Goes by a changed file: databases, users, secrets, limits, times, TLS. Open connections stay;
    /// clients of a database or user that is gone are told so, and servers that would be reached or
    /// logged in to otherwise are closed when they are free. Returns when every worker goes by it.
    ///
    /// # Errors
    /// When the instance is not in the file or something it names cannot be read; then nothing has
    /// changed.
    pub async fn publish(&self, topology: Arc<Topology>) -> Result<(), StartError> {
        let _turn = self.0.turn.lock().await;
        self.go_by(topology).await
    }

    /// As [`Handle::publish`], when its turn has come.
    async fn go_by(&self, topology: Arc<Topology>) -> Result<(), StartError> {
        let Shared { published, observer, lifecycle, instance, .. } = &*self.0;
        if lifecycle.phase() > Phase::Running {
            return Err(StartError::Ended);
        }
        let before = published.load_full();
        let snapshot = Arc::new(build(&topology, instance, Some(&before))?);
        snapshot.notes.iter().for_each(|what| observer.emit(Noted { what }));
        let waiting = if snapshot.addresses == before.addresses { &[][..] } else { &["listen"] };
        self.spread(snapshot).await;
        self.register(&topology);
        observer.emit(Reloaded { waiting });
        Ok(())
    }

    /// Tells every worker.
    pub async fn tell(&self, command: &Command) {
        for peer in self.0.peers.iter() {
            let (to, from) = oneshot::channel();
            if peer.send(Message::Command(command.clone(), to)).is_ok() {
                // A worker that has ended has nothing to do it to.
                let _ended = from.await;
            }
        }
    }

    /// Lets nobody new in, and ends the instance when what is waited for has gone. Goes on by itself; said
    /// again, it waits for what was said last.
    pub async fn part(&self, wait: Wait) {
        let first = lock(&self.0.parting).replace(wait).is_none();
        // A socket that somebody holds goes on taking connections.
        self.with_spares(|spares| spares.listeners.clear());
        self.tell(&Command::Part(wait)).await;
        if first {
            let handle = self.clone();
            drop(self.0.runtime.spawn(async move { handle.end_alone().await }));
        }
    }

    /// Whether the instance ends by itself.
    pub fn is_parting(&self) -> bool {
        lock(&self.0.parting).is_some()
    }

    /// Ends the instance when what is waited for has gone.
    async fn end_alone(&self) {
        let Shared { lifecycle, parting, .. } = &*self.0;
        loop {
            let servers = *lock(parting) == Some(Wait::Servers);
            if !servers && self.snapshot().clients.now() == 0 {
                return lifecycle.stop();
            }
            if servers && self.is_bare().await {
                break;
            }
            if servers {
                self.tell(&Command::CloseIdle(None)).await;
            }
            tokio::time::sleep(PARTING_LOOK).await;
        }
        // Who is left has no server, and is told.
        lifecycle.drain();
        let gone = async {
            while self.snapshot().clients.now() > 0 {
                tokio::time::sleep(PARTING_LOOK).await;
            }
        };
        let _late = tokio::time::timeout(LONGEST_GOODBYE, gone).await;
        lifecycle.stop();
    }

    /// The file in force, and each that takes its place.
    pub(crate) fn files(&self) -> watch::Receiver<Arc<SourceFile>> {
        self.0.file.subscribe()
    }

    /// Tells an operator.
    pub(crate) fn note(&self, what: &str) {
        self.0.observer.emit(Noted { what });
    }

    /// What all workers have, without a row for each client and server.
    pub async fn report(&self) -> Report {
        Report::all_with(&self.0.peers, Detail::Counts).await
    }

    /// Whether no worker has a server, none comes and none goes.
    async fn is_bare(&self) -> bool {
        for peer in self.0.peers.iter() {
            let (to, from) = oneshot::channel();
            // A worker that has ended has none.
            if peer.send(Message::Bare(to)).is_ok() && !from.await.unwrap_or(true) {
                return false;
            }
        }
        true
    }

    async fn spread(&self, snapshot: Arc<Snapshot>) {
        self.0.published.replace(Arc::clone(&snapshot));
        for peer in self.0.peers.iter() {
            let (to, from) = oneshot::channel();
            if peer.send(Message::Snapshot(Arc::clone(&snapshot), to)).is_ok() {
                // A worker that has ended has nothing to change.
                let _ended = from.await;
            }
        }
    }

    /// Changes one setting until the file is read again; a time in seconds.
    ///
    /// # Errors
    /// What is wrong with the key or the value; nothing has changed.
    pub async fn set(&self, key: &str, value: &str) -> Result<(), String> {
        let _turn = self.0.turn.lock().await;
        let file = Arc::clone(&self.0.file.borrow());
        if let Form::PgBouncer(process) = &file.form {
            let loaded = pgbouncer::with(process, key, value).map_err(|fault| fault.to_string())?;
            let file = Arc::clone(&loaded.topology.source);
            let gone_by = self.go_by(Arc::new(loaded.topology)).await;
            gone_by.map_err(|fault| fault.to_string())?;
            self.0.file.send_replace(file);
            return Ok(());
        }
        let mut snapshot = (*self.snapshot()).clone();
        setting::set(&mut snapshot.settings, key, value)?;
        self.spread(Arc::new(snapshot)).await;
        Ok(())
    }

    /// Reads the file again and goes by it, whole (T9); or says what is wrong with it, and what ran
    /// before goes on.
    ///
    /// # Errors
    /// What is wrong; it has been logged.
    pub async fn reload(&self) -> Result<(), String> {
        let before = Arc::clone(&self.0.file.borrow());
        let outcome = match topology::reload(&before) {
            Ok(topology) => {
                let file = Arc::clone(&topology.source);
                let published = self.publish(Arc::new(topology)).await;
                published
                    .map(|()| drop(self.0.file.send_replace(file)))
                    .map_err(|fault| fault.to_string())
            }
            Err(problems) => Err(problems.to_string()),
        };
        if let Err(cause) = &outcome {
            self.0.observer.emit(ReloadRefused { cause });
        }
        outcome
    }
}

fn lock<T>(of: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
