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
pub mod events;
pub mod family;
pub mod fatal;
pub mod hba;
mod inspect;
pub mod listener;
pub mod lookup;
pub mod pool;
pub mod prepared;
pub mod preview;
pub mod query;
pub mod relay;
pub mod route;
pub mod scram;
pub mod server;
pub mod snapshot;
pub mod sockets;
pub mod stream;
pub mod telemetry;
pub mod variables;
pub mod worker;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

pub use common::cli::Options;
use common::net::bind;
use common::observe::admin::Admin;
use common::secret::{self, Secret};
use common::telemetry::{Exporter, Exporting};
use common::workers::{self, WorkerPanic, Workers};
use sockets::{Beside, Bound, Seat, SocketFile};
use tokio::sync::mpsc;
use topology::pool::ListenAddress;
use topology::{Place, Topology};

use control::Handle;
use events::Listening;
use inspect::Inspection;
use snapshot::{Snapshot, SnapshotError};
use worker::{Message, Network, Parts, Peers, Tally, Worker};

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
    lifecycle: common::lifecycle::Lifecycle,
    handle: Handle,
    exporting: Exporting,
    admin_task: Option<tokio::task::JoinHandle<()>>,
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
    start_beside(topology, instance, options, Beside::Nobody).await
}

/// As [`start`], beside the process that this one replaces.
///
/// # Errors
/// As [`start`].
pub async fn start_beside(
    topology: Arc<Topology>,
    instance: &str,
    options: Options,
    beside: Beside,
) -> Result<Running, StartError> {
    let file = topology.source.name.clone();
    let snapshot = build(&topology, instance, None)?;
    let Some((_, found)) = topology.pool(instance) else { return Err(StartError::Ended) };
    let token = secret::admin_token(&topology).map_err(SnapshotError::from);
    let token = token.map_err(|source| StartError::Snapshot {
        file: file.clone(),
        place: source.place(),
        source,
    })?;
    let mut count = options.workers.unwrap_or_else(workers::available);
    if found.peer_id.is_some() {
        count = count.min(NonZeroUsize::new(cancel::MOST_WORKERS).unwrap_or(count));
    }
    let bind_error = |place, address| {
        let file = file.clone();
        move |source| StartError::Bind { file, place, address, source }
    };
    let Bound { seats, addresses, files } = sockets::bind(found, count, beside)
        .map_err(|fault| bind_error(fault.place, fault.address)(fault.source))?;
    let admin = match &found.admin {
        Some(at) => {
            let address = ListenAddress::Ip(at.value);
            Some(bind::tcp(at.value, bind::Reuse::No).map_err(bind_error(at.place, address))?)
        }
        None => None,
    };
    let admin_address = admin.as_ref().and_then(|l| l.local_addr().ok());
    let tally = Arc::new(Tally::default());
    let snapshot = Arc::new(snapshot);
    let (peers, inboxes) = channels(count);
    let source = Arc::clone(&topology.source);
    let handle = Handle::new(Arc::clone(&snapshot), Arc::clone(&peers), &options, source);
    let exporter = Exporter::new("pgpool", count.get(), &options.observer);
    let says = handle.clone();
    let threads = spawn(count, &handle, &options, (&peers, inboxes, seats, &exporter), &tally)?;
    let exporting = exporter.start(move || telemetry::wants(&says.snapshot()));
    for address in &addresses {
        options.observer.emit(Listening { address, workers: count.get() });
    }
    for file in &files {
        let address = format!("unix:{}", file.path().display());
        options.observer.emit(Listening { address: &address, workers: count.get() });
    }
    let lifecycle = options.lifecycle.clone();
    let inspection = Inspection { handle: handle.clone(), peers, tally, lifecycle };
    let admin_task = admin.map(|listener| serve_admin(listener, inspection, token, &options));
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

fn serve_admin(
    listener: std::net::TcpListener,
    inspection: Inspection,
    token: Option<Secret>,
    options: &Options,
) -> tokio::task::JoinHandle<()> {
    let admin = Admin {
        lifecycle: options.lifecycle.clone(),
        metrics: options.observer.metrics.clone(),
        inspect: Arc::new(inspection),
        token,
        log_level: options.log_level.clone(),
    };
    let shutdown = options.lifecycle.shutdown();
    tokio::spawn(async move {
        if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
            admin.serve(listener, shutdown).await;
        }
    })
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
        self.exporting.end().await;
        self.lifecycle.stop();
        if let Some(task) = self.admin_task {
            // It ends by itself when the instance has stopped.
            let _ = task.await;
        }
        outcome
    }
}
