//! The running configuration: one lane per listener, built aside and published by a pointer swap
//! each. Not for sockets: those outlive snapshots. Loaded by the workers per connection or batch.
//!
//! Invariant: gates, counters and endpoint states are carried over, so that a change of
//! configuration forgets nothing.

use std::sync::Arc;

use common::balance::HashKey;
use common::observe::Metrics;
use common::service::Service;
use common::snapshot::Published;
use topology::l4::{Group, Listener, Target, TlsMatch};
use topology::units::{InstanceName, ZoneName};

use crate::gate::Gate;
use crate::meters::Meters;
use crate::recorder::Recorder;
use crate::select::Selector;
use crate::tcp::roster::Rosters;

/// What runs.
#[derive(Debug)]
pub struct Snapshot {
    /// In the order of the group's listeners.
    pub lanes: Vec<Arc<Lane>>,
}

/// One listener with everything that a flow through it needs.
#[derive(Debug)]
pub struct Lane {
    /// As the topology file has it.
    pub rules: Listener,
    /// Whom it sends to: the service for everybody, else the first one.
    pub service: Arc<Service>,
    /// How it chooses among them.
    pub selector: Selector,
    /// Services for certain TLS clients, in the file's order (N7).
    pub tls_routes: Vec<TlsRoute>,
    /// Who may have a flow.
    pub gate: Gate,
    /// What is counted.
    pub meters: Arc<Meters>,
    /// The TCP connections there are.
    pub connections: Arc<Rosters>,
    /// What passes is recorded there; `None`: it is not.
    pub(crate) recorder: Option<Arc<Recorder>>,
}

/// A service for certain TLS clients.
#[derive(Debug)]
pub struct TlsRoute {
    /// Which.
    pub when: TlsMatch,
    /// Whom it sends to.
    pub service: Arc<Service>,
    /// How it chooses.
    pub selector: Selector,
}

impl Snapshot {
    /// The group's listeners; what `before` knows of a listener or an endpoint is kept.
    pub fn build(
        group: &Group,
        (key, zone, instance): (HashKey, Option<&ZoneName>, &InstanceName),
        metrics: &Metrics,
        before: Option<&Self>,
    ) -> Self {
        let mut services: Vec<Arc<Service>> = Vec::new();
        let lanes = group.listeners.iter().filter_map(|rules| {
            let to = rules.to()?;
            let lanes = before.map(|before| before.lanes.as_slice()).unwrap_or_default();
            let old = lanes.iter().find(|lane| lane.rules.name == rules.name);
            // A listener that has another name now still has its connections.
            let same = |lane: &&Arc<Lane>| {
                lane.rules.protocol == rules.protocol && lane.rules.at.value == rules.at.value
            };
            let akin = old.or_else(|| lanes.iter().find(same));
            let connections = akin.map(|lane| lane.connections.clone());
            // Listeners that send to one service share what is known about it.
            let mut service_of = |to: &topology::Service| {
                let known = services.iter().find(|s| s.name == to.name).cloned();
                known.unwrap_or_else(|| {
                    let of_old = before
                        .and_then(|b| b.services().into_iter().find(|(s, _)| s.name == to.name))
                        .map(|(service, _)| service.update(to));
                    let service = of_old.unwrap_or_else(|| Service::new(to));
                    services.push(service.clone());
                    service
                })
            };
            let service = service_of(to);
            let own = (key, zone);
            let before = old.map(|lane| (&lane.selector, &*lane.service));
            let before = before.filter(|(_, former)| former.name == service.name);
            let selector = Selector::new(rules, &service, own, before);
            let for_tls = |target: &Target| {
                let (when, service) = (target.when.clone()?, service_of(&target.to));
                let selector = Selector::new(rules, &service, own, None);
                Some(TlsRoute { when, service, selector })
            };
            let tls_routes = rules.targets.iter().filter_map(for_tls).collect();
            let own = (instance, metrics);
            let recorder = Recorder::of(rules, own, old.and_then(|lane| lane.recorder.as_ref()));
            let meters = || Arc::new(Meters::new(metrics, rules.name.as_str()));
            Some(Arc::new(Lane {
                rules: rules.clone(),
                service,
                selector,
                tls_routes,
                gate: Gate::new(rules, old.map(|lane| &lane.gate)),
                meters: old.map_or_else(meters, |lane| lane.meters.clone()),
                connections: connections.unwrap_or_default(),
                recorder,
            }))
        });
        Self { lanes: lanes.collect() }
    }

    /// Each service once, with what the topology file says of it.
    pub fn services(&self) -> Vec<(&Arc<Service>, &topology::Service)> {
        let mut services: Vec<(&Arc<Service>, &topology::Service)> = Vec::new();
        for lane in &self.lanes {
            let of_routes = lane.tls_routes.iter().map(|route| &route.service);
            for service in std::iter::once(&lane.service).chain(of_routes) {
                let model = lane.rules.services().find(|model| model.name == service.name);
                let known = services.iter().any(|(known, _)| Arc::ptr_eq(known, service));
                if let (Some(model), false) = (model, known) {
                    services.push((service, model));
                }
            }
        }
        services
    }
}

/// What a listener's sockets go by: its lane, now and after changes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LaneSource(Arc<Published<Lane>>);

impl LaneSource {
    /// Follows what is published there.
    pub fn new(published: Arc<Published<Lane>>) -> Self {
        Self(published)
    }

    /// The lane in force.
    pub fn lane(&self) -> Arc<Lane> {
        self.0.load_full()
    }

    /// The lane in force if it is not `known`.
    pub fn changed(&self, known: &Arc<Lane>) -> Option<Arc<Lane>> {
        let lane = self.0.load();
        (!Arc::ptr_eq(&lane, known)).then(|| Arc::clone(&lane))
    }
}
