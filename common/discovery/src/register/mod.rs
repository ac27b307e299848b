//! Registering ourselves: an instance of a tier is entered in the registries that its group names, with
//! whether it is ready, and leaves them before it drains. Not for finding others. Called by the tiers when they
//! start and when the file changes; runs on the control runtime.
//!
//! Invariant: no registry delays starting, serving or, beyond a bound, draining.

pub(crate) mod consul;
pub(crate) mod etcd;
pub(crate) mod eureka;
pub mod events;
mod hold;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::lifecycle::Lifecycle;
use common::observe::Observer;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use topology::register::{Register, RegisterConsul, RegisterEtcd, RegisterEureka};

use crate::fault::Fault;
use crate::register::hold::hold;

/// Enters an instance in registries. Cheap to clone; when the last clone is gone, no sign of life is given
/// any more.
#[derive(Clone, Debug)]
pub struct Registrar {
    wanted: Arc<Wanted>,
    board: Board,
    instance: Arc<str>,
}

/// What is to be entered, by registry.
#[derive(Debug)]
struct Wanted {
    consul: watch::Sender<Option<Target<RegisterConsul>>>,
    etcd: watch::Sender<Option<Target<RegisterEtcd>>>,
    eureka: watch::Sender<Option<Target<RegisterEureka>>>,
}

impl Registrar {
    /// Of an instance that is `ready` when that says so. Enters nothing yet. Needs a tokio runtime.
    pub fn new(
        observer: &Observer,
        lifecycle: &Lifecycle,
        ready: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let board = Board::default();
        let who = Who {
            lifecycle: lifecycle.clone(),
            ready: Arc::new(ready),
            observer: observer.clone(),
            board: board.clone(),
        };
        let wanted = Wanted {
            consul: watch::Sender::new(None),
            etcd: watch::Sender::new(None),
            eureka: watch::Sender::new(None),
        };
        // They end with their senders, or with the instance.
        tokio::spawn(hold::<consul::Consul>(wanted.consul.subscribe(), who.clone()));
        tokio::spawn(hold::<etcd::Etcd>(wanted.etcd.subscribe(), who.clone()));
        tokio::spawn(hold::<eureka::Eureka>(wanted.eureka.subscribe(), who));
        Self { wanted: Arc::new(wanted), board, instance: Arc::from(&*observer.instance) }
    }

    /// Is entered exactly so from now on, with this address; `None`: nowhere. What stays the same is not
    /// touched.
    pub fn follow(&self, register: Option<&Register>, address: Option<SocketAddr>) {
        let entry = register.zip(address).map(|(register, address)| Entry {
            instance: Arc::clone(&self.instance),
            address,
            zone: register.zone.clone(),
            version: register.version.clone(),
            linger: register.linger,
        });
        let Wanted { consul, etcd, eureka } = &*self.wanted;
        change(consul, entry.as_ref(), register.and_then(|register| register.consul.as_ref()));
        change(etcd, entry.as_ref(), register.and_then(|register| register.etcd.as_ref()));
        change(eureka, entry.as_ref(), register.and_then(|register| register.eureka.as_ref()));
    }

    /// What operators see.
    pub fn board(&self) -> Board {
        self.board.clone()
    }
}

fn change<S: Clone + PartialEq>(
    wanted: &watch::Sender<Option<Target<S>>>,
    entry: Option<&Entry>,
    settings: Option<&S>,
) {
    let next = entry
        .zip(settings)
        .map(|(entry, settings)| Target { settings: settings.clone(), entry: entry.clone() });
    wanted.send_if_modified(|known| {
        let differs = *known != next;
        *known = next;
        differs
    });
}

/// What others learn of the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    instance: Arc<str>,
    address: SocketAddr,
    zone: Option<String>,
    version: Option<String>,
    linger: Duration,
}

impl Entry {
    /// What readers look at beside the address.
    fn metadata(&self) -> Value {
        let told = [("zone", &self.zone), ("version", &self.version)];
        told.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect()
    }
}

/// An entry, and where it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target<S> {
    settings: S,
    entry: Entry,
}

/// Whether the instance takes traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Ready,
    Unready,
}

/// A registry that is told of one instance.
pub(crate) trait Registry: Sized + Send + 'static {
    /// What the file says of it.
    type Settings: Clone + PartialEq + fmt::Display + Send + Sync + 'static;
    /// Its name in metrics and in what operators see.
    const KIND: &'static str;

    /// Tells nobody yet.
    fn new(target: &Target<Self::Settings>) -> Self;

    /// How long it believes a silent instance.
    fn ttl(settings: &Self::Settings) -> Duration;

    /// Whether an entry would take another's place, so that none must be taken back.
    fn replaces(next: &Target<Self::Settings>, former: &Target<Self::Settings>) -> bool;

    /// Enters the instance, or gives a sign of life where it is entered: with this health. What the registry has
    /// forgotten it is told anew. Cancelling leaves open whether it was told.
    fn tell(&mut self, health: Health) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Takes the entry back, if there may be one; a registry may answer that there is none (404).
    fn leave(&mut self) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// On whose behalf.
#[derive(Clone)]
struct Who {
    lifecycle: Lifecycle,
    ready: Arc<dyn Fn() -> bool + Send + Sync>,
    observer: Observer,
    board: Board,
}

/// What operators see of all registrations. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<BTreeMap<&'static str, Row>>>);

#[derive(Debug)]
struct Row {
    place: String,
    address: SocketAddr,
    /// What the registry was told last; `None`: nothing, or it has left.
    told: Option<Health>,
    succeeded: Option<Instant>,
    fault: Option<(Instant, String)>,
}

impl Board {
    /// As JSON, a list.
    pub fn show(&self) -> Value {
        let now = Instant::now();
        let ago = |at: Instant| now.saturating_duration_since(at).as_millis() as u64;
        let row = |row: &Row| {
            json!({
                "registry": row.place,
                "address": row.address.to_string(),
                "told": match row.told {
                    Some(Health::Ready) => "ready",
                    Some(Health::Unready) => "not ready",
                    None => "nothing",
                },
                "last_success_ago_ms": row.succeeded.map(ago),
                "last_error": row.fault.as_ref().map(|(_, cause)| cause),
                "last_error_ago_ms": row.fault.as_ref().map(|(at, _)| ago(*at)),
            })
        };
        self.rows().values().map(row).collect()
    }

    fn begin(&self, kind: &'static str, place: String, address: SocketAddr) {
        let row = Row { place, address, told: None, succeeded: None, fault: None };
        self.rows().insert(kind, row);
    }

    fn change(&self, kind: &'static str, change: impl FnOnce(&mut Row)) {
        if let Some(row) = self.rows().get_mut(kind) {
            change(row);
        }
    }

    fn forget(&self, kind: &'static str) {
        self.rows().remove(kind);
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<&'static str, Row>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(3);
