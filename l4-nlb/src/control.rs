//! What runs beside the data path, on the control runtime: changes of configuration, health checks,
//! gauges, reports. Not for traffic. Started by `lib` once per instance.
//!
//! Invariant: it alone changes what is published, one change at a time; a change is made whole or
//! not at all.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use common::balance::HashKey;
use common::cli::Options;
use common::health::Checks;
use common::lifecycle::Lifecycle;
use common::snapshot::Published;
use common::upgrade::blocking;
use common::upgrade::events::{HandedOver, UpgradeFailed};
use discovery::found::Found;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use topology::Topology;
use topology::l4::Protocol;

use crate::crew::{Crew, Socket};
use crate::events::{Draining, Listening, Reloaded};
use crate::fault::{Spot, StartError};
use crate::found;
use crate::listener::{Place, Running, Sockets};
use crate::reports::Reports;
use crate::snapshot::Snapshot;
use crate::talkers;
use crate::udp::handover::{Ask, Gone, Pause};
use crate::upgrade;
use crate::upgrade::giving::{self, Gift};

/// What is asked of a running instance.
#[derive(Debug)]
pub(crate) enum Order {
    /// Go by this file from now on.
    Publish(Arc<Topology>, oneshot::Sender<Result<Change, StartError>>),
    /// Hand everything over to a new process.
    Upgrade,
    /// Say which flows carried most, at most so many.
    Talkers(usize, oneshot::Sender<serde_json::Value>),
}

/// What a change of configuration did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Listeners that are new.
    pub added: Vec<String>,
    /// Listeners that take nothing new; what they have may finish within the group's drain time.
    pub removed: Vec<String>,
    /// Listeners that go on, by their new rules.
    pub kept: Vec<String>,
    /// Keys whose change waits for a restart.
    pub waiting: Vec<&'static str>,
}

/// The control side of an instance.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) topology: Arc<Topology>,
    pub(crate) instance: String,
    pub(crate) key: HashKey,
    pub(crate) published: Arc<Published<Snapshot>>,
    pub(crate) listeners: Vec<Running>,
    pub(crate) crew: Option<Crew>,
    pub(crate) options: Options,
    pub(crate) checks: Checks,
    pub(crate) found: Found,
    /// Told when an operator has set a weight.
    pub(crate) reweighed: Arc<Notify>,
    /// Another descriptor of the admin listener, and its own phases.
    pub(crate) admin: Option<(OwnedFd, Lifecycle)>,
    /// Drains of single listeners that have a deadline.
    pub(crate) phases: JoinSet<()>,
    /// When a listener was closed last.
    pub(crate) retired: Option<Instant>,
}

impl Control {
    /// Until the instance has stopped.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        self.check();
        let mut tick = interval(SECOND);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut reports = Reports::default();
        let reweighed = self.reweighed.clone();
        let shutdown = self.options.lifecycle.shutdown();
        let (mut draining, mut stopped) =
            (std::pin::pin!(shutdown.draining()), std::pin::pin!(shutdown.stopped()));
        loop {
            tokio::select! {
                // In order: a drain that ends at once is told all the same.
                biased;
                () = &mut draining, if self.crew.is_some() => {
                    self.drain();
                    let flows = flows(&self.published.load());
                    self.options.observer.emit(Draining { flows });
                }
                () = &mut stopped => break,
                Some(order) = orders.recv() => self.obey(order).await,
                () = self.found.changed() => self.follow_found(),
                () = reweighed.notified() => self.rebuild(),
                Some(_ended) = self.phases.join_next() => {}
                _ = tick.tick() => reports.show(&self.published.load(), &self.options.observer),
            }
        }
        reports.show(&self.published.load(), &self.options.observer);
        self.listeners.iter().for_each(|running| running.lifecycle.stop());
        if let Some((_, admin)) = &self.admin {
            admin.stop();
        }
        while self.phases.join_next().await.is_some() {}
    }

    /// Nothing new on any listener. The duplicates go first: a socket that somebody holds goes on
    /// taking connections.
    fn drain(&mut self) {
        self.crew = None;
        for running in &mut self.listeners {
            running.spare.clear();
            running.lifecycle.drain();
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Publish(topology, reply) => {
                let change = self.publish_once_free(topology).await;
                // Who asked may have gone; the change stands.
                let _gone = reply.send(change);
            }
            Order::Upgrade => match self.upgrade().await {
                Ok(process) => {
                    self.options.observer.emit(HandedOver { process });
                    self.options.lifecycle.drain();
                }
                Err(cause) => self.options.observer.emit(UpgradeFailed { cause: &cause }),
            },
            Order::Talkers(most, reply) => {
                let asked = |running: &Running| (running.lane.load_full(), running.asks.clone());
                let asked = self.listeners.iter().map(asked).collect();
                // Beside everything else: a busy worker holds nobody up.
                self.phases.spawn(async move {
                    let _gone = reply.send(talkers::collect(asked, most).await);
                });
            }
        }
    }

    /// Goes by another file. A listener that was closed a moment ago may still be closing: its address
    /// is waited for.
    async fn publish_once_free(&mut self, topology: Arc<Topology>) -> Result<Change, StartError> {
        loop {
            let change = self.publish(Arc::clone(&topology));
            let closing = self.retired.is_some_and(|at| at.elapsed() < CLOSING);
            if !(closing && change.as_ref().is_err_and(StartError::is_busy)) {
                return change;
            }
            sleep(CLOSING / 50).await;
        }
    }

    /// Goes by another file.
    fn publish(&mut self, topology: Arc<Topology>) -> Result<Change, StartError> {
        let (group, _) = crate::part(&topology, &self.instance)?;
        let key = crate::secrets::hash_key(&topology, group)?;
        crate::may_be_transparent(&topology, group)?;
        let change = self.apply(topology, key)?;
        self.options.observer.emit(Reloaded { change: &change });
        Ok(change)
    }

    /// Goes by the same file with the weights that are wanted now; nothing of it is read
    /// again. A draining instance has no use for them.
    fn rebuild(&mut self) {
        let _draining = self.apply(self.topology.clone(), self.key);
    }

    /// Goes by the endpoints that sources have named; listeners to which they are no news go on as they are. A
    /// draining instance has no use for them.
    fn follow_found(&mut self) {
        let Ok((_, own)) = crate::part(&self.topology, &self.instance) else { return };
        if self.crew.is_none() {
            return;
        }
        let before = self.published.load_full();
        let known = |to: &topology::Service| {
            to.discover.as_ref()?;
            self.found.known(&to.name).map(|known| &**known)
        };
        let own = (self.key, own.zone.as_ref(), &own.name);
        let next = before.following(known, own, &self.options.observer.metrics);
        let Some(snapshot) = next else { return };
        for (lane, former) in snapshot.lanes.iter().zip(&before.lanes) {
            let running = self.listeners.iter_mut().find(|running| running.name == lane.rules.name);
            if let (Some(running), false) = (running, Arc::ptr_eq(lane, former)) {
                running.change(lane.clone());
            }
        }
        self.published.publish(snapshot);
        self.check();
    }

    /// Binds what is new, publishes all lanes, retires what is gone.
    fn apply(&mut self, topology: Arc<Topology>, key: HashKey) -> Result<Change, StartError> {
        let Some(workers) = self.crew.as_ref().and_then(|crew| NonZeroUsize::new(crew.len()))
        else {
            return Err(StartError::Draining);
        };
        let (group, own) = crate::part(&topology, &self.instance)?;
        let places: Vec<Place> = group.listeners.iter().map(|l| Place::of(l, own)).collect();
        let mut fresh = Vec::new();
        for (listener, place) in group.listeners.iter().zip(&places) {
            if !self.listeners.iter().any(|running| running.place == *place) {
                let at = Spot::new(&topology.source, listener.at.place);
                let sockets = Sockets::new(place.clone(), workers)
                    .map_err(|fault| StartError::listener(at, listener, place.address, fault))?;
                fresh.push(sockets);
            }
        }
        // From here on nothing fails.
        found::follow(&mut self.found, group, &self.options.observer);
        let group = &found::fill(&self.found, group);
        let mut change = Change { waiting: self.waiting(&topology), ..Change::default() };
        let before = self.published.load_full();
        let metrics = &self.options.observer.metrics;
        let snapshot =
            Snapshot::build(group, (key, own.zone.as_ref(), &own.name), metrics, Some(&before));
        let retired = self.listeners.extract_if(.., |running| !places.contains(&running.place));
        let retired: Vec<Running> = retired.collect();
        for (lane, place) in snapshot.lanes.iter().zip(&places) {
            let name = lane.rules.name.to_string();
            if let Some(running) = self.listeners.iter_mut().find(|r| r.place == *place) {
                running.change(lane.clone());
                change.kept.push(name);
            } else if let Some(at) = fresh.iter().position(|sockets| sockets.place == *place) {
                let sockets = fresh.swap_remove(at);
                self.open(sockets, lane.clone());
                change.added.push(name);
            }
        }
        for running in retired {
            change.removed.push(running.name.to_string());
            self.retire(running, group.drain);
        }
        self.key = key;
        self.topology = topology;
        self.published.publish(snapshot);
        self.check();
        Ok(change)
    }

    /// Starts a new process and gives it everything (N11). Until that process serves nothing is
    /// lost here: on any fault the workers go on.
    async fn upgrade(&mut self) -> Result<u32, upgrade::Fault> {
        let gift = |running: &Running| Gift {
            place: running.place.clone(),
            sockets: running.spare.iter().filter_map(Socket::duplicate).collect(),
        };
        let gifts: Vec<Gift> = self.listeners.iter().map(gift).collect();
        let admin = self.admin.as_ref().and_then(|(admin, _)| admin.try_clone().ok());
        let endpoints = upgrade::endpoints::known(&self.published.load(), &self.found);
        let armed = blocking(move || giving::offer(&gifts, admin.as_ref(), endpoints)).await?;
        let mut verdicts = Vec::new();
        let mut shards = Vec::new();
        for running in &self.listeners {
            let mut of_listener = Vec::new();
            for ask in running.asks.iter().filter(|_| running.place.protocol == Protocol::Udp) {
                let (reply, answer) = oneshot::channel();
                let (verdict, outcome) = oneshot::channel();
                // A share that has ended has nothing to say.
                let _ended = ask.send(Ask::Pause(Pause { reply, verdict: outcome })).await;
                of_listener.push(answer.await.unwrap_or_default());
                verdicts.push(verdict);
            }
            shards.push(of_listener);
        }
        let process = blocking(move || giving::give(armed, &shards)).await?;
        for verdict in verdicts {
            let _ended = verdict.send(Gone);
        }
        if let Some((_, admin)) = self.admin.take() {
            admin.stop();
        }
        Ok(process)
    }

    /// Gives a listener to the workers.
    pub(crate) fn open(&mut self, sockets: Sockets, lane: Arc<crate::snapshot::Lane>) {
        let Some(crew) = &self.crew else { return };
        let udp = lane.rules.protocol == Protocol::Udp;
        self.options.observer.emit(Listening {
            listener: lane.rules.name.as_str(),
            address: sockets.address,
            service: lane.service.name.as_str(),
            plane: if udp { "user-space" } else { "proxy" },
        });
        let (running, shares) = Running::new(sockets, lane);
        crew.open(shares);
        self.listeners.push(running);
    }

    /// Takes nothing new on a listener; what it has may finish within the drain time.
    fn retire(&mut self, mut running: Running, drain: Duration) {
        self.retired = Some(Instant::now());
        running.spare.clear();
        running.lifecycle.drain();
        let whole = self.options.lifecycle.shutdown();
        self.phases.spawn(async move {
            // Both outcomes end it: the deadline, or the instance's own end.
            let _ = timeout(drain, whole.stopped()).await;
            running.lifecycle.stop();
        });
    }

    /// Keys that cannot change while it runs.
    fn waiting(&self, next: &Topology) -> Vec<&'static str> {
        let admin = |topology: &Topology| {
            let own = topology.nlb(&self.instance).map(|(_, own)| own.admin.clone())?;
            own.map(|admin| admin.value)
        };
        let token = |t: &Topology| t.admin_token.as_ref().map(|token| token.value.clone());
        let mut keys = Vec::new();
        let drain = |t: &Topology| t.nlb(&self.instance).map(|(group, _)| group.drain);
        keys.extend((drain(&self.topology) != drain(next)).then_some("drain"));
        keys.extend((admin(&self.topology) != admin(next)).then_some("admin"));
        keys.extend((token(&self.topology) != token(next)).then_some("admin-token"));
        keys
    }

    /// Asks the endpoints that there are now.
    fn check(&mut self) {
        let snapshot = self.published.load_full();
        let services = snapshot.services();
        let checked =
            services.into_iter().filter_map(|(s, model)| Some((s, model.health.as_ref()?)));
        self.checks.update(checked, &self.options.observer);
    }
}

/// Flows of all listeners.
pub(crate) fn flows(snapshot: &Snapshot) -> u64 {
    snapshot.lanes.iter().map(|lane| u64::from(lane.gate.flows())).sum()
}

const SECOND: Duration = Duration::from_secs(1);

/// A closed listener is gone within so long: its workers see to it between two batches.
const CLOSING: Duration = Duration::from_secs(1);
