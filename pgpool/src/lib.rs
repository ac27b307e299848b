//! `pgpool`, tier 3 for PostgreSQL: hundreds of clients over a handful of server connections, with
//! transactions, prepared statements and settings that follow their client. Not for end users'
//! identities, and not for sharding.
//!
//! One query, top to bottom: [`listener`] takes the client to its home worker; [`client`] waits for
//! its next message; `pgpool_wire::frontend` reads it; [`query`] tells what it leaves behind; [`route`]
//! tells whether a replica may do it, and [`family`] which server is the primary;
//! [`pool`] gives a [`server`]; [`relay`] passes messages both ways until [`server::status`] proves
//! that the server is free.
//!
//! Invariant: a server is given to a client only when nothing of another client is left on it.
#![forbid(unsafe_code)]

pub mod admin;
pub mod cancel;
pub mod client;
pub mod control;
pub mod dropin;
pub mod ear;
pub mod events;
pub mod family;
pub mod fatal;
pub mod hba;
mod inspect;
pub mod listener;
pub mod lookup;
pub mod names;
pub mod neighbours;
pub mod parting;
pub mod pool;
pub mod prepared;
pub mod preview;
pub mod query;
pub mod readiness;
pub mod relay;
pub mod route;
pub mod scram;
pub mod server;
pub mod snapshot;
pub mod sockets;
pub mod stream;
pub mod tally;
pub mod telemetry;
pub mod upgrade;
pub mod variables;
pub mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

pub use common::cli::Options;
use common::lifecycle::{Lifecycle, Shutdown};
use common::net::bind;
use common::observe::admin::Admin;
use common::secret::{self, Secret};
use common::telemetry::{Exporter, Exporting};
use common::upgrade::Fault;
use common::workers::{self, WorkerPanic, Workers};
use sockets::passed::Passed;
use sockets::{Beside, Bound, Seat, SocketFile, Spare};
use tokio::sync::mpsc;
use topology::pool::{Instance, ListenAddress};
use topology::{At, Form, Place, Topology};

use control::Handle;
use events::{Listening, Noted};
use family::marks::MarksError;
use inspect::Inspection;
use snapshot::{Snapshot, SnapshotError};
use tally::Tally;
use upgrade::taking::Estate;
use worker::{Message, Network, Parts, Peers, Worker};

/// A started instance.
#[derive(Debug)]
pub struct Running {
    /// Where its admin listener is.
    pub admin: Option<SocketAddr>,
    /// Its TCP listeners by name.
    pub listeners: Vec<(String, SocketAddr)>,
    /// Its unix sockets; their files go with it.
    pub sockets: Vec<SocketFile>,
    workers: Workers,
    lifecycle: Lifecycle,
    handle: Handle,
    exporting: Exporting,
    admin_task: Option<(tokio::task::JoinHandle<()>, Lifecycle)>,
}

/// Why an instance cannot start; nothing of it is left then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A reference leads nowhere, or to the wrong thing.
    #[error("{}{source}", at(.file, *.place))]
    Snapshot {
        /// The topology file.
        file: String,
        /// Where the reference stands.
        place: Option<Place>,
        /// What is wrong.
        source: SnapshotError,
    },
    /// An address is taken or not ours.
    #[error("{}cannot listen on {address}: {source}; choose another address or end what listens there", at(.file, Some(*.place)))]
    Bind {
        /// The topology file.
        file: String,
        /// Where the address stands.
        place: Place,
        /// The address.
        address: ListenAddress,
        /// Why not.
        source: io::Error,
    },
    /// The instance has ended, or is about to.
    #[error("the instance has ended")]
    Ended,
    /// The system gives no thread.
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
    /// What must be known after a restart cannot be kept, or be read.
    #[error(transparent)]
    Marks(#[from] MarksError),
    /// Sockets that were passed cannot be used.
    #[error("cannot listen on the sockets that were passed: {0}")]
    Passed(io::Error),
    /// There is no address, and nobody has opened a socket for it.
    #[error("nowhere to listen on: the file has no address, and no socket was passed")]
    Nowhere,
    /// The process to take over from did not go on.
    #[error("upgrade: {0} — the old process serves on; see its log")]
    Upgrade(#[from] Fault),
}

fn at(file: &str, place: Option<Place>) -> String {
    place.map_or_else(String::new, |p| format!("{file}:{}:{}: ", p.line, p.column))
}

/// Starts an instance: binds everything first, so that either all runs or nothing is left. Call it
/// on a runtime: the admin listener lives there.
///
/// # Errors
/// With the place in the topology file where there is one.
pub async fn start(
    topology: Arc<Topology>,
    instance: &str,
    options: Options,
) -> Result<Running, StartError> {
    start_after(topology, instance, options, Before::Nobody).await
}

/// What was there before this process.
#[derive(Debug)]
pub enum Before {
    /// Nothing.
    Nobody,
    /// A process that this one replaces, beside which it listens.
    Beside,
    /// A process that hands over to this one.
    Estate(Estate),
}

/// What an instance starts from.
#[derive(Debug)]
pub struct Past {
    /// What was there before this process.
    pub before: Before,
    /// A folder for what must be known after a restart: the newest timeline of each database with replicas.
    /// `None`: it is forgotten.
    pub state: Option<PathBuf>,
    /// Sockets that a service manager has opened for it; where there are any, no other is.
    pub passed: Vec<Passed>,
}

impl From<Before> for Past {
    fn from(before: Before) -> Self {
        Self { before, state: None, passed: Vec::new() }
    }
}

/// As [`start`], with what was there before: sockets of the process before are taken over, and its
/// clients come when this returns.
///
/// # Errors
/// As [`start`]; and when the process before does not go on handing over: it serves on.
pub async fn start_after(
    topology: Arc<Topology>,
    instance: &str,
    options: Options,
    past: impl Into<Past>,
) -> Result<Running, StartError> {
    let Past { before, state, passed } = past.into();
    let (beside, mut estate) = match before {
        Before::Nobody if shares(&topology) => (Beside::Peers, None),
        Before::Nobody => (Beside::Nobody, None),
        Before::Beside => (Beside::Former, None),
        Before::Estate(estate) => (Beside::Nobody, Some(estate)),
    };
    let passed = match &mut estate {
        Some(estate) if passed.is_empty() => estate.take_passed(),
        _ => passed,
    };
    // Shells allow fewer descriptors than there may be clients; where it stays so, accepting tells.
    let _most = common::net::sys::raise_descriptor_limit();
    let snapshot = Arc::new(build(&topology, instance, None)?);
    snapshot.notes.iter().for_each(|what| options.observer.emit(Noted { what }));
    if let Some(folder) = &state {
        snapshot.marks.keep(folder, instance)?;
    }
    let Some((_, found)) = topology.pool(instance) else { return Err(StartError::Ended) };
    let token = admin_token(&topology)?;
    let mut count = options.workers.unwrap_or_else(workers::available);
    if found.peer_id.is_some() {
        count = count.min(NonZeroUsize::new(cancel::MOST_WORKERS).unwrap_or(count));
    }
    tell_unopened(&options, found, &passed);
    let (bound, admin) = bind_all(&topology, found, (count, beside), (estate.as_mut(), passed))?;
    let estate = match estate {
        Some(estate) => Some(estate.arm().await?),
        None => None,
    };
    let Bound { seats, addresses, files, others, spares } = bound;
    let admin_address = admin.as_ref().and_then(|l| l.local_addr().ok());
    let admin = admin.map(|listener| (listener, Lifecycle::new()));
    let tally = Arc::new(Tally::default());
    let (peers, inboxes) = channels(count);
    if let Some(estate) = &estate {
        // It was ready, or said why not for longer than this process can know.
        snapshot.readiness.take_over();
        // Before the first client.
        peers.iter().for_each(|peer| drop(peer.send(Message::CountFrom(estate.first))));
    }
    let way = (Arc::clone(&topology.source), addresses.first().copied());
    let handle = Handle::new(snapshot, Arc::clone(&peers), &options, way);
    keep_spares(&handle, spares, &files, admin.as_ref());
    let exporter = Exporter::new("pgpool", count.get(), &options.observer);
    let says = handle.clone();
    let threads = spawn(count, &handle, &options, (&peers, inboxes, seats, &exporter), &tally)?;
    let exporting = exporter.start(move || telemetry::wants(&says.snapshot()));
    tell_listeners(&options, &addresses, files.iter().map(SocketFile::name).chain(others), count);
    let lifecycle = options.lifecycle.clone();
    let inspection = Inspection { handle: handle.clone(), peers, tally, lifecycle };
    let admin_task = admin.map(|admin| serve_admin(admin, inspection, token, &options));
    tokio::spawn(forget_spares(handle.clone(), options.lifecycle.shutdown()));
    if let Some(estate) = estate {
        match estate.serving() {
            Ok(peer) => handle.succeed(peer),
            Err(fault) => {
                // Nothing of it may be left: the old process serves.
                options.lifecycle.stop();
                let _outcome = threads.join().await;
                return Err(fault.into());
            }
        }
    }
    handle.register(&topology);
    Ok(Running {
        admin: admin_address,
        listeners: addresses.into_iter().map(|address| ("listen".to_owned(), address)).collect(),
        sockets: files,
        workers: threads,
        lifecycle: options.lifecycle,
        handle,
        exporting,
        admin_task,
    })
}

fn admin_token(topology: &Topology) -> Result<Option<Secret>, StartError> {
    let token = secret::admin_token(topology).map_err(SnapshotError::from);
    token.map_err(|source| StartError::Snapshot {
        file: topology.source.name.clone(),
        place: source.place(),
        source,
    })
}

/// Listens on everything: on what the process before has left, or anew.
fn bind_all(
    topology: &Topology,
    found: &Instance,
    (count, beside): (NonZeroUsize, Beside),
    (mut estate, passed): (Option<&mut Estate>, Vec<Passed>),
) -> Result<(Bound, Option<TcpListener>), StartError> {
    let bind_error = |place, address| {
        let file = topology.source.name.clone();
        move |source| StartError::Bind { file, place, address, source }
    };
    let left = |at: &ListenAddress| estate.as_mut()?.take(at);
    let bound = if !passed.is_empty() {
        sockets::adopt(found, count, passed).map_err(StartError::Passed)?
    } else if found.listen.is_empty() {
        return Err(StartError::Nowhere);
    } else {
        sockets::bind(found, count, beside, left)
            .map_err(|fault| bind_error(fault.place, fault.address)(fault.source))?
    };
    let Some(at) = &found.admin else { return Ok((bound, None)) };
    let left = estate.and_then(|estate| estate.take_admin(at.value));
    let admin = left.map_or_else(|| bind::tcp(at.value, bind::Reuse::No), Ok);
    let admin = admin.map_err(bind_error(at.place, ListenAddress::Ip(at.value)))?;
    Ok((bound, Some(admin)))
}

/// For a process that takes over.
fn keep_spares(
    handle: &Handle,
    listeners: Vec<Spare>,
    files: &[SocketFile],
    admin: Option<&(TcpListener, Lifecycle)>,
) {
    let spare = |(listener, own): &(TcpListener, Lifecycle)| {
        Some((listener.as_fd().try_clone_to_owned().ok()?, own.clone()))
    };
    handle.with_spares(|spares| {
        spares.listeners = listeners;
        spares.admin = admin.and_then(spare);
        spares.claims = files.iter().map(SocketFile::claim).collect();
    });
}

fn tell_listeners(
    options: &Options,
    addresses: &[SocketAddr],
    files: impl Iterator<Item = String>,
    count: NonZeroUsize,
) {
    for address in addresses {
        options.observer.emit(Listening { address, workers: count.get() });
    }
    for address in files {
        options.observer.emit(Listening { address: &address, workers: count.get() });
    }
}

/// Tells what the file has and nobody listens on, as sockets were passed.
fn tell_unopened(options: &Options, found: &Instance, passed: &[Passed]) {
    let unopened = |at: &&At<ListenAddress>| !passed.iter().any(|one| one.is_at(&at.value));
    for at in found.listen.iter().filter(|_| !passed.is_empty()).filter(unopened) {
        let at = &at.value;
        let what = format!("sockets passed from service manager: {at} of the file is not opened");
        options.observer.emit(Noted { what: &what });
    }
}

/// Whether PgBouncer's file says that others listen on the same ports.
fn shares(topology: &Topology) -> bool {
    matches!(&topology.source.form, Form::PgBouncer(process) if process.shares)
}

/// The instance's part of the file, checked against the world. Blocking.
pub(crate) fn build(
    topology: &Topology,
    instance: &str,
    before: Option<&Snapshot>,
) -> Result<Snapshot, StartError> {
    let built = Snapshot::build(topology, instance, before);
    built.map(|(snapshot, ..)| snapshot).map_err(|source| StartError::Snapshot {
        file: topology.source.name.clone(),
        place: source.place(),
        source,
    })
}

type Inbox = mpsc::UnboundedReceiver<Message>;

fn channels(count: NonZeroUsize) -> (Peers, Vec<Inbox>) {
    let channel = |_| mpsc::unbounded_channel::<Message>();
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..count.get()).map(channel).unzip();
    (senders.into(), inboxes)
}

fn spawn(
    count: NonZeroUsize,
    handle: &Handle,
    options: &Options,
    (peers, inboxes, seats, exporter): (&Peers, Vec<Inbox>, Vec<Seat>, &Exporter),
    tally: &Arc<Tally>,
) -> Result<Workers, StartError> {
    // Each worker takes its own listener and inbox, once.
    let seats: Vec<_> = inboxes.into_iter().zip(seats).map(|seat| Mutex::new(Some(seat))).collect();
    let seats = Arc::new(seats);
    let outboxes: Vec<_> = (0..count.get()).map(|worker| exporter.outbox(worker)).collect();
    let (handle, options) = (handle.clone(), options.clone());
    let (all, tally) = (Arc::clone(peers), Arc::clone(tally));
    let body = move |id: workers::WorkerId| {
        let seat = seats.get(id.0);
        let seat = seat.and_then(|s| s.lock().unwrap_or_else(PoisonError::into_inner).take());
        let parts = Parts {
            id,
            snapshot: handle.snapshot(),
            observer: options.observer.clone(),
            lifecycle: options.lifecycle.clone(),
            dialer: Arc::new(Network),
            peers: Arc::clone(&all),
            tally: Arc::clone(&tally),
            handle: Some(handle.clone()),
            outbox: outboxes.get(id.0).cloned().flatten(),
        };
        async move {
            let Some((inbox, seat)) = seat else { return };
            let worker = Worker::new(parts);
            for listener in seat.tcp {
                tokio::task::spawn_local(listener::listen(std::rc::Rc::clone(&worker), listener));
            }
            for (listener, port) in seat.unix {
                let worker = std::rc::Rc::clone(&worker);
                tokio::task::spawn_local(listener::listen_unix(worker, listener, port));
            }
            worker.run(inbox).await;
        }
    };
    workers::spawn("pgpool", count, body).map_err(StartError::Thread)
}

/// A socket that somebody holds goes on taking connections: a process that drains holds none.
async fn forget_spares(handle: Handle, shutdown: Shutdown) {
    shutdown.draining().await;
    handle.with_spares(|spares| spares.listeners.clear());
}

fn serve_admin(
    (listener, own): (TcpListener, Lifecycle),
    inspection: Inspection,
    token: Option<Secret>,
    options: &Options,
) -> (tokio::task::JoinHandle<()>, Lifecycle) {
    let admin = Admin {
        lifecycle: options.lifecycle.clone(),
        metrics: options.observer.metrics.clone(),
        inspect: Arc::new(inspection),
        token,
        log_level: options.log_level.clone(),
    };
    let shutdown = own.shutdown();
    let served = tokio::spawn(async move {
        if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
            admin.serve(listener, shutdown).await;
        }
    });
    (served, own)
}

impl Running {
    /// How it is asked to go by a changed file.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until the instance has drained or was stopped.
    ///
    /// # Errors
    /// A worker panicked.
    pub async fn finished(self) -> Result<(), WorkerPanic> {
        let outcome = self.workers.join().await;
        self.handle.all_said().await;
        self.exporting.end().await;
        self.lifecycle.stop();
        if let Some((task, own)) = self.admin_task {
            own.stop();
            // It ends by itself when its phases have.
            let _ = task.await;
        }
        outcome
    }
}
