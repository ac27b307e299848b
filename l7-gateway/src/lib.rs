//! Tier 2 of Aqueduct: TLS, identity, limits, routing and observability for HTTP. A library with a
//! thin binary, so that tests start it in process.
//!
//! Invariant: one request runs through ten stages in one order, which `pipeline` alone knows.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

pub use common::cli::Options;
use common::health::Checks;
use common::net::bind;
use common::observe::Observer;
use common::observe::admin::Admin;
use common::secret::{Missing, Secret};
use common::snapshot::Published;
use common::workers::{self, WorkerPanic, Workers};
use discovery::found::{Board, Found};
use discovery::register::Registrar;
use thiserror::Error;
use tokio::task::JoinSet;
use topology::gateway::{AccessLog, Group, Instance};
use topology::{At, Place, SourceFile, Topology};

use crate::access_log::{Fate, Sink, Totals, Writer, trouble};
pub use crate::change::{Change, Connected};
use crate::connection::Worker;
pub use crate::control::Handle;
use crate::control::{Control, Keepers};
use crate::crew::{Listener, Share};
use crate::events::{Started, Stopped};
use crate::inspect::Inspection;
use crate::server::Connections;
use crate::snapshot::{BuildError, Snapshot};
use crate::telemetry::{Exporter, Exporting, Wants};

pub mod access_log;
pub mod attached;
pub mod body;
pub mod cache_control;
pub mod change;
pub mod codec;
pub mod coding;
pub mod connection;
pub mod contract;
pub mod control;
mod crew;
pub mod date;
pub mod engine;
pub mod events;
pub mod exchange;
pub use common::fetch;
pub mod external;
pub mod forwarded;
pub mod grpc;
pub mod grpc_web;
pub mod halt;
pub mod hints;
pub mod hops;
pub mod ids;
pub mod inspect;
pub mod link;
pub mod matcher;
pub mod media;
pub mod order;
pub mod pipeline;
pub mod predicate;
pub mod preview;
pub mod query;
pub mod recorder;
pub mod redis_server;
pub mod server;
pub mod snapshot;
pub mod stages;
pub mod strict;
pub mod telemetry;
pub mod trace;
pub mod trace_context;
pub mod traffic;
pub mod transcode;
pub mod transform;
pub mod usage;
pub mod variance;

#[cfg(test)]
#[path = "../tests/it/servers.rs"]
#[expect(dead_code, reason = "the integration tests use more of it")]
mod servers;

/// Why an instance could not start: what, where in the topology file, what to do.
#[derive(Debug)]
pub struct StartError {
    at: String,
    why: Why,
}

#[derive(Debug, Error)]
enum Why {
    #[error("no gateway instance has the name '{0}': `aqueduct check` lists the names")]
    Instance(String),
    #[error("the instance has ended")]
    Ended,
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(
        "{address} cannot be listened on: {source} — see who has it with `ss -ltnp`, or change the address"
    )]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Secret(#[from] Missing),
    #[error("the access log cannot be opened: {0} — check the path and its rights")]
    Log(io::Error),
    #[error("worker threads cannot be started: {0} — check the limit of processes")]
    Threads(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.at, self.why)
    }
}

impl std::error::Error for StartError {}

impl StartError {
    /// The instance has ended, or is ending.
    pub(crate) fn ended() -> Self {
        Self { at: String::new(), why: Why::Ended }
    }

    /// Somebody listens there.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(&self.why, Why::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }

    fn new(source: &SourceFile, place: Place, why: impl Into<Why>) -> Self {
        let Place { line, column } = place;
        Self { at: format!("{}:{line}:{column}", source.name), why: why.into() }
    }
}

/// A running instance. Dropping it leaves the workers to their lifecycle.
#[derive(Debug)]
pub struct Running {
    /// Where the admin listener is.
    pub admin: Option<SocketAddr>,
    /// Name and address of each listener: the instance's only one.
    pub listeners: Vec<(String, SocketAddr)>,
    workers: Workers,
    control: JoinSet<()>,
    writer: Option<Writer>,
    observer: Observer,
    handle: Handle,
    exporting: Exporting,
}

impl Running {
    /// For asking for changes while something else waits for the end.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Returns after a drain or stop, when every worker has ended and the log is written.
    ///
    /// # Errors
    /// A worker ended in a panic.
    pub async fn finished(mut self) -> Result<(), WorkerPanic> {
        let ended = self.workers.join().await;
        self.control.abort_all();
        drop(self.writer.take());
        self.exporting.end().await;
        self.observer.emit(Stopped);
        ended
    }
}

/// Starts an instance: binds and checks everything first, so that either all of it runs or nothing
/// is left. Must be called inside a runtime, which becomes the instance's control runtime.
///
/// # Errors
/// What is wrong, where it stands in the topology file, and what to do about it.
pub async fn start(
    topology: Arc<Topology>,
    instance: &str,
    options: Options,
) -> Result<Running, StartError> {
    let source = Arc::clone(&topology.source);
    let fault = |place: Place, why: Why| StartError::new(&source, place, why);
    let (group, model) = part(&topology, instance)?;
    // Shells allow fewer descriptors than there may be connections; where it stays so, accepting tells.
    let _most = common::net::sys::raise_descriptor_limit();
    let count = options.workers.unwrap_or_else(workers::available);
    let snapshot = build(&topology, group, model, &options.observer, None).await?;
    let bound = listen(&source, &model.listen, count.get())?;
    let admin = admin(&source, model)?;
    let help = "Lines of the access log that were lost: its writer was behind, or its disk full";
    let lost = options.observer.metrics.counter("aqueduct_http_log_dropped_total", help, &[]);
    let fate = Fate::new(&lost);
    let place = match &group.access_log {
        AccessLog::File(path) => path.place,
        AccessLog::Stdout | AccessLog::Off => group.place,
    };
    let writer = Writer::start(&group.access_log, count.get(), &fate)
        .map_err(|why| fault(place, Why::Log(why)))?;
    let token = common::secret::admin_token(&topology);
    let token = token.map_err(|missing| fault(missing.place, missing.into()))?;
    let all = Arc::clone(&topology);
    serve(Plan { all, group, model, count, options, snapshot, bound, admin, writer, fate, token })
        .map_err(|why| fault(model.place, Why::Threads(why)))
}

/// The instance's part of the file.
pub(crate) fn part<'t>(
    topology: &'t Topology,
    instance: &str,
) -> Result<(&'t Group, &'t Instance), StartError> {
    topology.gateway(instance).ok_or_else(|| {
        let why = Why::Instance(instance.to_owned());
        StartError::new(&topology.source, Place::default(), why)
    })
}

/// What it runs, checked against the world.
pub(crate) async fn build(
    topology: &Topology,
    group: &Group,
    own: &Instance,
    observer: &Observer,
    before: Option<Arc<Snapshot>>,
) -> Result<Snapshot, StartError> {
    let fault = |why: BuildError| StartError::new(&topology.source, why.place(), why);
    let (group, name, observer) = (group.clone(), own.name.clone(), observer.clone());
    // Files are read and descriptions compiled: the control runtime has others to serve.
    let build = move || Snapshot::build(&group, &name, &observer, before.as_deref());
    let built = tokio::task::spawn_blocking(build).await;
    let built = built.unwrap_or_else(|gone| std::panic::resume_unwind(gone.into_panic()));
    let snapshot = built.map_err(fault)?;
    snapshot.limits.reach().await.map_err(|why| fault(why.into()))?;
    Ok(snapshot)
}

/// Binds a listener; nothing is served on it yet.
pub(crate) fn listen(
    source: &SourceFile,
    at: &At<SocketAddr>,
    workers: usize,
) -> Result<(Listener, Vec<Share>), StartError> {
    Listener::bind(at.value, workers).map_err(|source_of| {
        let why = Why::Listen { address: at.value, source: source_of };
        StartError::new(source, at.place, why)
    })
}

/// The admin listener, and where it is.
fn admin(
    source: &SourceFile,
    model: &Instance,
) -> Result<Option<(std::net::TcpListener, SocketAddr)>, StartError> {
    let Some(at) = &model.admin else { return Ok(None) };
    let listener = bind::tcp(at.value, bind::Reuse::No).map_err(|source_of| {
        let why = Why::Listen { address: at.value, source: source_of };
        StartError::new(source, at.place, why)
    })?;
    let address = listener.local_addr().unwrap_or(at.value);
    Ok(Some((listener, address)))
}

/// Everything that is needed to serve, checked.
struct Plan<'t> {
    all: Arc<Topology>,
    group: &'t Group,
    model: &'t Instance,
    count: NonZeroUsize,
    options: Options,
    snapshot: Snapshot,
    bound: (Listener, Vec<Share>),
    admin: Option<(std::net::TcpListener, SocketAddr)>,
    writer: Option<Writer>,
    fate: Arc<Fate>,
    token: Option<Secret>,
}

/// What the file in force says of a collector.
fn wants(published: Arc<Published<Snapshot>>) -> impl Fn() -> Wants {
    move || {
        let snapshot = published.load();
        let telemetry = &snapshot.group.telemetry;
        Wants {
            collector: telemetry.otlp.as_ref().map(|at| at.value.clone()),
            records: telemetry.records,
            group: snapshot.group.name.to_string(),
        }
    }
}

/// Enters the instance in registries: ready, as the admin listener says it.
fn registrar(options: &Options, published: &Arc<Published<Snapshot>>, board: &Board) -> Registrar {
    let (published, board) = (Arc::clone(published), board.clone());
    let ready =
        move || published.load().vouchers.waiting().is_empty() && board.unready().is_empty();
    Registrar::new(&options.observer, &options.lifecycle, ready)
}

/// Who answers operators.
fn attendant(options: &Options, inspect: Inspection, token: Option<Secret>) -> Admin {
    Admin {
        lifecycle: options.lifecycle.clone(),
        metrics: options.observer.metrics.clone(),
        inspect: Arc::new(inspect),
        token,
        log_level: options.log_level.clone(),
    }
}

fn serve(plan: Plan<'_>) -> io::Result<Running> {
    let Plan { all, group, model, count, options, snapshot, bound, admin, writer, fate, token } =
        plan;
    let Options { observer, lifecycle, .. } = &options;
    let published = Arc::new(Published::new(snapshot));
    let totals = Arc::new(Totals::default());
    let connections = Connections::new(group.front.max_connections.get(), observer);
    let rings: Vec<_> = (0..count.get()).map(|i| writer.as_ref().and_then(|w| w.ring(i))).collect();
    let exporter = Exporter::new("l7-gateway", count.get(), observer);
    let outboxes: Vec<_> = (0..count.get()).map(|i| exporter.outbox(i)).collect();
    let exporting = exporter.start(wants(Arc::clone(&published)));
    let (name, ears) = (model.name.clone(), observer.clone());
    let (of_workers, sums) = (Arc::clone(&published), Arc::clone(&totals));
    let (crew, workers) = crew::start(count, &options, &connections, move |index| {
        let ring = rings.get(index).cloned().flatten();
        let sink = Sink::new(&name, ring, Arc::clone(&sums), &ears.metrics);
        outboxes.get(index).cloned().flatten().into_iter().for_each(|outbox| sink.collect(outbox));
        Worker::new(Arc::clone(&of_workers), sink, ears.clone())
    })?;
    let (listener, shares) = bound;
    let listen = listener.address;
    crew.open(shares);
    let mut control = JoinSet::new();
    let reopener = writer.as_ref().and_then(Writer::reopener);
    let (handle, orders) = Handle::new(observer, reopener);
    control.spawn(trouble::watch(fate, observer.clone()));
    let found = Found::default();
    let board = found.board();
    let registrar = registrar(&options, &published, &board);
    let registrations = registrar.board();
    let mut side = Control {
        topology: all,
        instance: model.name.to_string(),
        published: Arc::clone(&published),
        connections: Arc::clone(&connections),
        options: options.clone(),
        checks: Checks::default(),
        keepers: Keepers::default(),
        found,
        registrar,
        crew,
        listener,
        phases: JoinSet::new(),
        retired: None,
    };
    // Before anybody can ask whether it is ready.
    side.discover();
    side.register(group, model);
    control.spawn(side.run(orders));
    let admin_at = admin.as_ref().map(|(_, address)| *address);
    if let Some((listener, _)) = admin {
        let inspect = Inspection::new(&published, &totals, &connections, observer);
        let inspect = inspect.with_sources(board).with_registrations(registrations);
        control.spawn(inspect.measure());
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let admin = attendant(&options, inspect, token);
        control.spawn(admin.serve(listener, lifecycle.shutdown()));
    }
    observer.emit(Started {
        listen,
        group: group.name.as_str(),
        workers: count.get(),
        routes: group.routes.len(),
    });
    let listeners = vec![(model.name.as_str().to_owned(), listen)];
    let observer = options.observer;
    Ok(Running {
        admin: admin_at,
        listeners,
        workers,
        control,
        writer,
        observer,
        handle,
        exporting,
    })
}
