//! `l4-nlb`, tier 1 and 3: spreads TCP connections and UDP flows over a service's endpoints. Not for
//! anything above the transport: no TLS, no HTTP, no authentication. Called by `main`, by `aqueduct`
//! and by tests, any number of instances in one process.
//!
//! Invariant: what a client can make us hold is bounded by the listener's limits.
#![forbid(unsafe_code)]

mod control;
mod crew;
pub mod events;
pub mod fault;
mod found;
pub mod gate;
mod inspect;
mod listener;
pub mod meters;
pub mod preview;
mod recorder;
mod reports;
mod secrets;
pub mod select;
pub mod snapshot;
mod talkers;
pub mod tcp;
#[cfg(test)]
mod testing;
pub mod udp;
pub mod upgrade;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

pub use common::cli::Options;
use common::health::Checks;
use common::lifecycle::Lifecycle;
use common::net::bind;
use common::observe::Observer;
use common::observe::admin::{Admin, Inspect};
use common::reload;
use common::secret::Secret;
use common::snapshot::Published;
use common::workers::{self, WorkerPanic, Workers};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use topology::l4::{Group, Instance};
use topology::{At, Balance, Topology};

pub use control::Change;
use control::{Control, Order};
pub use fault::{Spot, StartError};
use listener::{Place, Sockets};
use snapshot::Snapshot;
use upgrade::taking::Estate;

/// A running instance.
#[derive(Debug)]
pub struct Running {
    /// Where the admin listener is.
    pub admin: Option<SocketAddr>,
    /// Where each listener was at the start, by name.
    pub listeners: Vec<(String, SocketAddr)>,
    handle: Handle,
    inspect: Arc<inspect::View>,
    options: Options,
    workers: Workers,
    control: JoinSet<()>,
}

/// Starts the instance of this name: either all of it runs or nothing is left. Needs a tokio
/// runtime, which becomes the control runtime; the data path has threads of its own.
///
/// # Errors
/// When the instance is not in the file, a secret is missing, or an address is taken.
pub async fn start(
    topology: Arc<Topology>,
    instance: &str,
    options: Options,
) -> Result<Running, StartError> {
    start_from(topology, instance, options, None).await
}

/// The same with what an old process of the instance left to this one ([`upgrade::taking`]): its
/// sockets are taken over, and its flows go on here when this returns.
///
/// # Errors
/// As [`start`]; and when the old process does not go on handing over: it serves on.
pub async fn start_from(
    topology: Arc<Topology>,
    instance: &str,
    options: Options,
    mut estate: Option<Estate>,
) -> Result<Running, StartError> {
    let (group, own) = part(&topology, instance)?;
    let count = options.workers.unwrap_or_else(workers::available);
    let key = secrets::hash_key(&topology, group)?;
    may_be_transparent(&topology, group)?;
    let mut sockets = bind_all(&topology, group, own, count, estate.as_mut())?;
    let listeners = group.listeners.iter().map(|listener| listener.name.to_string());
    let listeners = listeners.zip(sockets.iter().map(|sockets| sockets.address)).collect();
    let admin = bind_admin(&topology, own, estate.as_mut())?;
    let token = secrets::admin_token(&topology)?;
    let known = estate.as_mut().map(|estate| std::mem::take(&mut estate.endpoints));
    let known = known.unwrap_or_default();
    let found = found::begin(group, &options.observer, &known);
    let board = found.board();
    let group = &found::fill(&found, group);
    let who = (key, own.zone.as_ref(), &own.name);
    let snapshot = Snapshot::build(group, who, &options.observer.metrics, None);
    upgrade::endpoints::adopt(&snapshot, &known);
    let lanes = snapshot.lanes.clone();
    let published = Arc::new(Published::new(snapshot));
    let (crew, workers) = crew::start(count, &options).map_err(StartError::Workers)?;

    if let Some(estate) = &estate {
        estate.flows(&mut sockets).map_err(StartError::Upgrade)?;
    }
    let admin_lifecycle = Lifecycle::new();
    let spare = admin.as_ref().and_then(|admin| admin.as_fd().try_clone_to_owned().ok());
    let mut control = JoinSet::new();
    let mut side = Control {
        topology: topology.clone(),
        instance: instance.to_owned(),
        key,
        published: published.clone(),
        listeners: Vec::new(),
        crew: Some(crew),
        options: options.clone(),
        checks: Checks::default(),
        found,
        reweighed: Arc::default(),
        admin: spare.map(|spare| (spare, admin_lifecycle.clone())),
        phases: JoinSet::new(),
        retired: None,
    };
    warn_of_keys(group, &sockets, &options);
    for (sockets, lane) in sockets.into_iter().zip(lanes) {
        side.open(sockets, lane);
    }
    if let Some(estate) = estate {
        estate.serving().map_err(StartError::Upgrade)?;
        options.observer.emit(common::upgrade::events::TakenOver);
    }
    options
        .observer
        .emit(events::Started { workers: count.get(), listeners: group.listeners.len() });
    let (orders, inbox) = mpsc::channel(1);
    let reweighed = side.reweighed.clone();
    if !known.is_empty() {
        // Its tables know of no weights that were set.
        reweighed.notify_one();
    }
    control.spawn(side.run(inbox));
    let admin_at = admin.as_ref().and_then(|listener| listener.local_addr().ok());
    let inspect = Arc::new(inspect::View {
        group: group.name.to_string(),
        instance: instance.to_owned(),
        workers: count.get(),
        published,
        board,
        observer: options.observer.clone(),
        reweighed,
        orders: orders.clone(),
    });
    if let Some(listener) = admin {
        let admin = serve_admin(&options, inspect.clone(), token);
        control.spawn(admin.serve(listener, admin_lifecycle.shutdown()));
    }
    let handle = Handle { orders, observer: options.observer.clone() };
    Ok(Running { admin: admin_at, listeners, handle, inspect, options, workers, control })
}

fn serve_admin(options: &Options, inspect: Arc<inspect::View>, token: Option<Secret>) -> Admin {
    Admin {
        lifecycle: options.lifecycle.clone(),
        metrics: options.observer.metrics.clone(),
        inspect,
        token,
        log_level: options.log_level.clone(),
    }
}

/// How a running instance is asked for changes; cheap to clone, of no use once it has ended.
#[derive(Clone, Debug)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
    observer: Observer,
}

impl Handle {
    /// Goes by a changed file: listeners come and go, rules, services, endpoints and weights change.
    /// Known flows keep their endpoints as long as those live and are still there; a listener that
    /// is gone takes nothing new, and what it has may finish within the group's drain time.
    /// Cancelling it does not stop the change.
    ///
    /// # Errors
    /// When the instance is not in the file, a secret is missing, an address is taken, or the
    /// instance is ending; then nothing has changed.
    pub async fn publish(&self, topology: Arc<Topology>) -> Result<Change, StartError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.orders.send(Order::Publish(topology, reply)).await;
        sent.map_err(|_| StartError::Draining)?;
        answer.await.unwrap_or(Err(StartError::Draining))
    }

    /// Hands over to a new process of the program that runs, with the same arguments (N11). What
    /// came of it is told as an event; when it was done this process drains.
    pub async fn upgrade(&self) {
        // An instance that has ended hands nothing over.
        let _ended = self.orders.send(Order::Upgrade).await;
    }

    /// Reads the file again and goes by it, whole (T9); or says what is wrong with it, and what ran
    /// before goes on.
    pub async fn reload(&self, file: &Path) {
        reload::from_file(file, &self.observer, async |topology| self.publish(topology).await)
            .await;
    }
}

impl Running {
    /// For asking while something else waits for the end.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Services with their endpoints, as the admin listener shows them.
    pub fn endpoints(&self) -> serde_json::Value {
        self.inspect.endpoints()
    }

    /// Waits until all workers have ended, after a drain or a stop; then everything else is ended
    /// too. Cancelling it leaves the instance running.
    ///
    /// # Errors
    /// When a worker panicked.
    pub async fn finished(mut self) -> Result<(), WorkerPanic> {
        let ended = self.workers.join().await;
        self.options.lifecycle.stop();
        while self.control.join_next().await.is_some() {}
        self.options.observer.emit(events::Stopped);
        ended
    }
}

/// The instance's part of the file.
fn part<'t>(
    topology: &'t Topology,
    instance: &str,
) -> Result<(&'t Group, &'t Instance), StartError> {
    topology.nlb(instance).ok_or_else(|| StartError::Instance {
        file: topology.source.name.clone(),
        instance: instance.to_owned(),
    })
}

fn bind_all(
    topology: &Topology,
    group: &Group,
    own: &Instance,
    workers: NonZeroUsize,
    mut estate: Option<&mut Estate>,
) -> Result<Vec<Sockets>, StartError> {
    let bound = group.listeners.iter().map(|listener| {
        let place = Place::of(listener, own);
        if let Some(sockets) = estate.as_mut().and_then(|estate| estate.take(&place)) {
            return Ok(sockets);
        }
        let address = place.address;
        Sockets::new(place, workers).map_err(|fault| {
            let at = Spot::new(&topology.source, listener.at.place);
            StartError::listener(at, listener, address, fault)
        })
    });
    bound.collect()
}

/// Says which public listeners let clients choose their endpoint.
fn warn_of_keys(group: &Group, sockets: &[Sockets], options: &Options) {
    for (listener, sockets) in group.listeners.iter().zip(sockets) {
        let hashes = matches!(listener.balance, Balance::ClientAddress | Balance::FiveTuple);
        if hashes && group.hash_key.is_none() && !sockets.address.ip().is_loopback() {
            options.observer.emit(events::HashUnkeyed { listener: listener.name.as_str() });
        }
    }
}

/// Whether the kernel lets us do what a transparent listener needs, before any client comes.
fn may_be_transparent(topology: &Topology, group: &Group) -> Result<(), StartError> {
    let Some(listener) = group.listeners.iter().find(|listener| listener.transparent) else {
        return Ok(());
    };
    common::net::tcp::may_impersonate().map_err(|source| StartError::Transparent {
        at: Spot::new(&topology.source, listener.place),
        listener: listener.name.to_string(),
        source,
    })
}

fn bind_admin(
    topology: &Topology,
    own: &Instance,
    estate: Option<&mut Estate>,
) -> Result<Option<TcpListener>, StartError> {
    let Some(At { value: address, place }) = own.admin else { return Ok(None) };
    let inherited = estate.and_then(|estate| estate.take_admin(address));
    let bound = inherited.map_or_else(|| bind::tcp(address, bind::Reuse::No), Ok);
    let bound = bound.and_then(TcpListener::from_std);
    bound.map(Some).map_err(|source| StartError::Bind {
        at: Spot::new(&topology.source, place),
        what: "admin".to_owned(),
        address,
        source,
    })
}
