//! `l4-nlb`, tier 1 and 3: spreads TCP connections and UDP flows over a service's endpoints. Not for
//! anything above the transport: no TLS, no HTTP, no authentication. Called by `main`, by `aqueduct`
//! and by tests, any number of instances in one process.
//!
//! Invariant: what a client can make us hold is bounded by the listener's limits.
#![forbid(unsafe_code)]

mod control;
pub mod events;
pub mod fault;
pub mod gate;
mod inspect;
mod listener;
pub mod meters;
pub mod select;
pub mod snapshot;
pub mod tcp;
#[cfg(test)]
mod testing;
pub mod udp;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use common::balance::HashKey;
pub use common::cli::Options;
use common::net::{bind, sys};
use common::observe::admin::Admin;
use common::secret::{self, Secret};
use common::snapshot::Published;
use common::workers::{self, WorkerId, WorkerPanic, Workers};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use topology::l4::{Group, Instance, Protocol};
use topology::{At, Balance, SecretRef, Topology};

pub use fault::{Spot, StartError};
use listener::{Share, Socket};
use snapshot::{LaneSource, Snapshot};

/// A running instance.
#[derive(Debug)]
pub struct Running {
    /// Where the admin listener is.
    pub admin: Option<SocketAddr>,
    /// Where each listener is, by name.
    pub listeners: Vec<(String, SocketAddr)>,
    published: Arc<Published<Snapshot>>,
    changes: watch::Sender<u64>,
    key: HashKey,
    instance: String,
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
    let source = &topology.source;
    let (group, own) = topology.nlb(instance).ok_or_else(|| StartError::Instance {
        file: source.name.clone(),
        instance: instance.to_owned(),
    })?;
    let count = options.workers.unwrap_or_else(workers::available);
    let key = hash_key(&topology, group)?;
    may_be_transparent(&topology, group)?;
    let (addresses, shares) =
        listener::bind(group, own, count).map_err(|unbound| StartError::Bind {
            at: Spot::new(source, unbound.listener.at.place),
            what: format!("listener {}", unbound.listener.name),
            address: unbound.address,
            source: unbound.source,
        })?;
    let admin = bind_admin(&topology, own)?;
    let token = read_secret(&topology, topology.admin_token.as_ref(), "admin-token")?;
    let snapshot = Snapshot::build(group, key, &options.observer.metrics, None);
    let published = Arc::new(Published::new(snapshot));
    tell(group, &addresses, count, &options);
    let workers = spawn(group, shares, &published, &options).map_err(StartError::Workers)?;

    let (changes, changed) = watch::channel(0);
    let mut control = JoinSet::new();
    let side = control::Control {
        published: published.clone(),
        observer: options.observer.clone(),
        shutdown: options.lifecycle.shutdown(),
    };
    control.spawn(side.run(changed));
    let admin_at = admin.as_ref().and_then(|listener| listener.local_addr().ok());
    if let Some(listener) = admin {
        let inspect = Arc::new(inspect::View {
            group: group.name.to_string(),
            instance: instance.to_owned(),
            workers: count.get(),
            published: published.clone(),
        });
        let admin = Admin {
            lifecycle: options.lifecycle.clone(),
            metrics: options.observer.metrics.clone(),
            inspect,
            token,
            log_level: options.log_level.clone(),
        };
        control.spawn(admin.serve(listener, options.lifecycle.shutdown()));
    }
    let names = group.listeners.iter().map(|listener| listener.name.to_string());
    Ok(Running {
        admin: admin_at,
        listeners: names.zip(addresses).collect(),
        published,
        changes,
        key,
        instance: instance.to_owned(),
        options,
        workers,
        control,
    })
}

impl Running {
    /// Applies a changed topology with the same listeners: rules, services, endpoints, balancing.
    /// Known flows keep their endpoints as long as those live and are still there.
    ///
    /// # Errors
    /// When the instance is gone or its listeners differ; then nothing has changed.
    pub fn publish(&self, topology: &Topology) -> Result<(), StartError> {
        let (group, _) = topology.nlb(&self.instance).ok_or_else(|| StartError::Instance {
            file: topology.source.name.clone(),
            instance: self.instance.clone(),
        })?;
        let before = self.published.load_full();
        let same = |(lane, listener): (&Arc<snapshot::Lane>, &topology::l4::Listener)| {
            let rules = &lane.rules;
            rules.name == listener.name
                && rules.protocol == listener.protocol
                && rules.at.value == listener.at.value
        };
        let as_many = before.lanes.len() == group.listeners.len();
        if !as_many || !before.lanes.iter().zip(&group.listeners).all(same) {
            return Err(StartError::Listeners {
                at: Spot::new(&topology.source, group.place),
                listener: group.name.to_string(),
            });
        }
        let metrics = &self.options.observer.metrics;
        self.published.publish(Snapshot::build(group, self.key, metrics, Some(&before)));
        self.changes.send_modify(|change| *change += 1);
        Ok(())
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

/// Starts the threads of the data path.
fn spawn(
    group: &Group,
    shares: Vec<Vec<Socket>>,
    published: &Arc<Published<Snapshot>>,
    options: &Options,
) -> std::io::Result<Workers> {
    let count = NonZeroUsize::new(shares.len()).unwrap_or(NonZeroUsize::MIN);
    let udp = group.listeners.iter().filter(|listener| listener.protocol == Protocol::Udp).count();
    // A quarter is left for clients, endpoints and the rest of the process.
    let limit = usize::try_from(sys::raise_descriptor_limit()? / 4 * 3).unwrap_or(usize::MAX);
    let upstream_sockets = (limit.min(UPSTREAM_PORTS) / count / udp.max(1)).max(1);
    let lanes = LaneSource::all(published);
    let shares: Vec<Option<Share>> = shares
        .into_iter()
        .map(|sockets| {
            Some(Share {
                sockets,
                lanes: lanes.clone(),
                upstream_sockets,
                observer: options.observer.clone(),
                shutdown: options.lifecycle.shutdown(),
            })
        })
        .collect();
    let shares = Arc::new(Mutex::new(shares));
    let options = options.clone();
    workers::spawn("l4-nlb", count, move |WorkerId(index)| {
        let mut shares = shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = shares.get_mut(index).and_then(Option::take);
        let options = options.clone();
        async move {
            let Some(share) = share else { return };
            if let Err(cause) = share.run().await {
                options.observer.emit(events::WorkerFailed { cause: &cause });
                options.lifecycle.stop();
            }
        }
    })
}

/// Upstream sockets of all workers and listeners together: the kernel has some 28 000 ports to give
/// them, and others need some too.
const UPSTREAM_PORTS: usize = 24_000;

/// Says what listens where, and what is dangerous about it.
fn tell(group: &Group, addresses: &[SocketAddr], workers: NonZeroUsize, options: &Options) {
    let observer = &options.observer;
    for (listener, &address) in group.listeners.iter().zip(addresses) {
        let hashes = matches!(listener.balance, Balance::ClientAddress | Balance::FiveTuple);
        if hashes && group.hash_key.is_none() && !address.ip().is_loopback() {
            observer.emit(events::HashUnkeyed { listener: listener.name.as_str() });
        }
        observer.emit(events::Listening {
            listener: listener.name.as_str(),
            address,
            service: listener.to().map_or("", |to| to.name.as_str()),
            plane: if listener.protocol == Protocol::Udp { "user-space" } else { "proxy" },
        });
    }
    observer.emit(events::Started { workers: workers.get(), listeners: addresses.len() });
}

/// The group's secret, else a key that every instance of the group derives from its name.
fn hash_key(topology: &Topology, group: &Group) -> Result<HashKey, StartError> {
    let secret = read_secret(topology, group.hash_key.as_ref(), "hash-key")?;
    Ok(match secret {
        Some(secret) => HashKey::from_secret(secret.as_bytes()),
        None => HashKey::from_names([group.name.as_str()]),
    })
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

fn read_secret(
    topology: &Topology,
    reference: Option<&At<SecretRef>>,
    key: &'static str,
) -> Result<Option<Secret>, StartError> {
    let Some(reference) = reference else { return Ok(None) };
    secret::read(&reference.value).map(Some).map_err(|source| StartError::Secret {
        at: Spot::new(&topology.source, reference.place),
        key,
        source,
    })
}

fn bind_admin(topology: &Topology, own: &Instance) -> Result<Option<TcpListener>, StartError> {
    let Some(At { value: address, place }) = own.admin else { return Ok(None) };
    let bound = bind::tcp(address, bind::Reuse::No).and_then(TcpListener::from_std);
    bound.map(Some).map_err(|source| StartError::Bind {
        at: Spot::new(&topology.source, place),
        what: "admin".to_owned(),
        address,
        source,
    })
}
