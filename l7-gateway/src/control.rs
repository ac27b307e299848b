//! What runs beside the workers, on the control runtime: changed files, health checks, key sets. Not
//! for traffic. Started by `lib`, once per instance.
//!
//! Invariant: it alone changes what is published; a change is made whole or not at all.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::cli::Options;
use common::health::Checks;
use common::lifecycle::{Phase, Shutdown};
use common::observe::Observer;
use common::reload;
use common::snapshot::Published;
use discovery::found::Found;
use discovery::register::Registrar;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};
use topology::Topology;
use topology::gateway::{Group, Instance};

use crate::StartError;
use crate::access_log::Reopener;
use crate::change::{Change, Connected};
use crate::crew::{Crew, Listener, Share};
use crate::events::{Draining, LogReopened, Reloaded};
use crate::server::Connections;
use crate::snapshot::Snapshot;
use crate::stages::authn::api_key::directory::Directory;
use crate::stages::authn::denylist::Denylist;
use crate::stages::authn::jwks::Source;

/// What is asked of a running instance: to go by this file from now on.
#[derive(Debug)]
pub(crate) struct Order {
    topology: Arc<Topology>,
    reply: oneshot::Sender<Result<Change, StartError>>,
}

/// How a running instance is asked for changes; cheap to clone, of no use once it has ended.
#[derive(Clone, Debug)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
    observer: Observer,
    log: Option<Reopener>,
}

impl Handle {
    /// A handle, and where its orders arrive.
    pub(crate) fn new(observer: &Observer, log: Option<Reopener>) -> (Self, mpsc::Receiver<Order>) {
        let (orders, inbox) = mpsc::channel(1);
        (Self { orders, observer: observer.clone(), log }, inbox)
    }

    /// Goes by a changed file: listener, routes, policies, services, weights, certificates, keys.
    /// Requests that have begun end as they began; the next one on any connection goes by the new
    /// file. Endpoint
    /// health, fetched keys, counters of limits and connections to services stay where the file says
    /// the same of them. Cancelling it does not stop the change.
    ///
    /// # Errors
    /// When the instance is not in the file or something it names cannot be read; then nothing has
    /// changed.
    pub async fn publish(&self, topology: Arc<Topology>) -> Result<Change, StartError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.orders.send(Order { topology, reply }).await;
        sent.map_err(|_| StartError::ended())?;
        answer.await.unwrap_or_else(|_| Err(StartError::ended()))
    }

    /// Reads the file again and goes by it, whole (T9); or says what is wrong with it, and what ran
    /// before goes on.
    pub async fn reload(&self, file: &Path) {
        reload::from_file(file, &self.observer, async |topology| self.publish(topology).await)
            .await;
    }

    /// Opens the access log's file anew, after it was moved away; or says why that cannot be, and the
    /// former one stays in use. No line is lost by it.
    pub fn reopen_log(&self) {
        let Some(log) = &self.log else { return };
        let fault = log.reopen().err();
        self.observer.emit(LogReopened { path: log.path(), fault });
    }
}

/// The control side of an instance.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) topology: Arc<Topology>,
    pub(crate) instance: String,
    pub(crate) published: Arc<Published<Snapshot>>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) options: Options,
    pub(crate) checks: Checks,
    pub(crate) keepers: Keepers,
    pub(crate) found: Found,
    pub(crate) registrar: Registrar,
    pub(crate) crew: Crew,
    pub(crate) listener: Listener,
    /// What ends by itself: drains of former listeners and terms, former snapshots.
    pub(crate) phases: JoinSet<()>,
    /// When a listener was given up last.
    pub(crate) retired: Option<Instant>,
}

impl Control {
    /// Until the instance has stopped.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        self.watch();
        let shutdown = self.options.lifecycle.shutdown();
        let (mut draining, mut stopped) =
            (std::pin::pin!(shutdown.draining()), std::pin::pin!(shutdown.stopped()));
        let mut told = false;
        loop {
            tokio::select! {
                biased;
                () = &mut draining, if !told => {
                    told = true;
                    let connections = self.connections.open();
                    self.options.observer.emit(Draining { connections });
                }
                () = &mut stopped => return,
                Some(_ended) = self.phases.join_next() => {}
                () = self.found.changed() => self.follow_found(),
                Some(Order { topology, reply }) = orders.recv() => {
                    let change = self.publish(topology).await;
                    // Who asked may have gone; the change stands.
                    let _gone = reply.send(change);
                }
            }
        }
    }

    async fn publish(&mut self, topology: Arc<Topology>) -> Result<Change, StartError> {
        if self.options.lifecycle.phase() > Phase::Running {
            return Err(StartError::ended());
        }
        let (group, own) = crate::part(&topology, &self.instance)?;
        let before = self.published.load_full();
        let observer = &self.options.observer;
        let snapshot =
            crate::build(&topology, group, own, observer, Some(Arc::clone(&before))).await?;
        let fresh = self.fresh(&topology, own).await?;
        // From here on nothing fails.
        let change = Change {
            listen: fresh.as_ref().map(|(listener, _)| listener.address),
            waiting: self.waiting(&topology),
            ..Change::between(&before, &snapshot)
        };
        self.connections.bound(group.front.max_connections.get());
        snapshot.open_gates();
        self.published.publish(snapshot);
        self.follow(fresh, &change, group.drain);
        self.topology = topology.clone();
        self.discover();
        self.register(group, own);
        self.watch();
        self.options.observer.emit(Reloaded { change: &change });
        // Its last user frees it, which takes a while: no worker is to be that.
        self.phases.spawn(async move {
            while Arc::strong_count(&before) > 1 {
                sleep(SECOND).await;
            }
        });
        Ok(change)
    }

    /// A listener where the file says another address than before. One that was given up a moment ago
    /// may still be closing: it is waited for.
    async fn fresh(
        &self,
        topology: &Topology,
        own: &Instance,
    ) -> Result<Option<(Listener, Vec<Share>)>, StartError> {
        if own.listen.value == self.listener.listen {
            return Ok(None);
        }
        loop {
            let bound = crate::listen(&topology.source, &own.listen, self.crew.len());
            let closing = self.retired.is_some_and(|at| at.elapsed() < CLOSING);
            if !(closing && bound.as_ref().is_err_and(StartError::is_busy)) {
                return bound.map(Some);
            }
            sleep(CLOSING / 50).await;
        }
    }

    /// Goes over to a new listener; or has those leave who came under former terms.
    fn follow(&mut self, fresh: Option<(Listener, Vec<Share>)>, change: &Change, limit: Duration) {
        let whole = self.options.lifecycle.shutdown();
        if let Some((listener, shares)) = fresh {
            let former = std::mem::replace(&mut self.listener, listener);
            self.retired = Some(Instant::now());
            self.crew.open(shares);
            self.phases.spawn(former.retire(limit, whole));
        } else if change.terms == Connected::Leave {
            self.phases.spawn(self.listener.renew(limit, whole));
        }
    }

    /// Keys that cannot change while it runs.
    fn waiting(&self, next: &Topology) -> Vec<&'static str> {
        let own = |topology: &Topology| {
            let (group, own) = topology.gateway(&self.instance)?;
            let admin = own.admin.as_ref().map(|admin| admin.value);
            Some((admin, group.access_log.clone(), group.drain))
        };
        let token = |t: &Topology| t.admin_token.as_ref().map(|token| token.value.clone());
        let mut keys = Vec::new();
        if let (Some(old), Some(new)) = (own(&self.topology), own(next)) {
            keys.extend((old.0 != new.0).then_some("admin"));
            keys.extend((old.1 != new.1).then_some("access-log"));
            keys.extend((old.2 != new.2).then_some("drain"));
        }
        keys.extend((token(&self.topology) != token(next)).then_some("admin-token"));
        keys
    }

    /// Asks where endpoints are for exactly the services that there are now.
    pub(crate) fn discover(&mut self) {
        let snapshot = self.published.load_full();
        let named = snapshot.upstreams.iter().map(|upstream| &upstream.model);
        let named = named.filter_map(|model| Some((&model.service, model.discover.as_ref()?)));
        self.found.follow(named, &self.options.observer);
        self.follow_found();
    }

    /// Is entered in registries as the file says, with the address of the listener that there is now.
    pub(crate) fn register(&self, group: &Group, own: &Instance) {
        let at = own.advertise.unwrap_or(self.listener.address);
        self.registrar.follow(group.register.as_ref(), Some(at));
    }

    /// Goes by the endpoints that sources have named. Nothing else of what is published changes, so that
    /// other services do not notice.
    fn follow_found(&mut self) {
        let snapshot = self.published.load_full();
        for upstream in snapshot.upstreams.iter().filter(|u| u.model.discover.is_some()) {
            if let Some(named) = self.found.known(&upstream.model.service) {
                upstream.follow(named);
            }
        }
        self.check(&snapshot);
    }

    /// Checks the endpoints that there are now.
    fn check(&mut self, snapshot: &Snapshot) {
        let checked = snapshot.upstreams.iter().filter(|u| u.model.health.is_some());
        let checked: Vec<_> =
            checked.map(|u| (Arc::clone(&u.roster().service), &u.model.health)).collect();
        let checked =
            checked.iter().filter_map(|(service, check)| Some((service, check.as_ref()?)));
        self.checks.update(checked, &self.options.observer);
    }

    /// Keeps the key sets that there are now.
    fn watch(&mut self) {
        let snapshot = self.published.load_full();
        let vouchers = &snapshot.vouchers;
        let sets = vouchers.keys.fetched().map(|source| Kept::Keys(Arc::clone(source)));
        let asked = vouchers.directories.iter().filter(|directory| directory.is_asked());
        let asked = asked.map(|directory| Kept::Directory(Arc::clone(directory)));
        let list = vouchers.denylist.iter().map(|list| Kept::Denylist(Arc::clone(list)));
        self.keepers.update(sets.chain(asked).chain(list), &self.options);
    }
}

/// The tasks that keep fetched key sets fresh and ask stores of API keys. Dropping it ends them.
#[derive(Debug, Default)]
pub(crate) struct Keepers {
    running: Vec<(Kept, AbortHandle)>,
    tasks: JoinSet<()>,
}

/// What somebody must look after while it is in force.
#[derive(Clone, Debug)]
enum Kept {
    Keys(Arc<Source>),
    Directory(Arc<Directory>),
    Denylist(Arc<Denylist>),
}

impl Kept {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Keys(one), Self::Keys(other)) => Arc::ptr_eq(one, other),
            (Self::Directory(one), Self::Directory(other)) => Arc::ptr_eq(one, other),
            (Self::Denylist(one), Self::Denylist(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    async fn keep(self, observer: Observer, shutdown: Shutdown) {
        match self {
            Self::Keys(source) => source.keep(observer, shutdown).await,
            Self::Directory(directory) => directory.keep(observer, shutdown).await,
            Self::Denylist(list) => list.keep(observer, shutdown).await,
        }
    }
}

impl Keepers {
    /// Keeps exactly these from now on.
    fn update(&mut self, all: impl Iterator<Item = Kept>, options: &Options) {
        let mut former = std::mem::take(&mut self.running);
        for kept in all {
            let at = former.iter().position(|(known, _)| known.is(&kept));
            let running = at.map(|at| former.swap_remove(at)).unwrap_or_else(|| {
                let (observer, shutdown) = (options.observer.clone(), options.lifecycle.shutdown());
                let task = self.tasks.spawn(kept.clone().keep(observer, shutdown));
                (kept, task)
            });
            self.running.push(running);
        }
        former.into_iter().for_each(|(_, task)| task.abort());
        while self.tasks.try_join_next().is_some() {}
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// A listener that was given up is gone within so long: it takes late comers first.
const CLOSING: Duration = Duration::from_secs(1);
