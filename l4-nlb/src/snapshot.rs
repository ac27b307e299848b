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
use topology::Endpoint;
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

/// On whose behalf lanes are built: the group's key, where the instance stands, and its name.
pub type Own<'o> = (HashKey, Option<&'o ZoneName>, &'o InstanceName);

impl Snapshot {
    /// The group's listeners; what `before` knows of a listener or an endpoint is kept.
    pub fn build(group: &Group, own: Own<'_>, metrics: &Metrics, before: Option<&Self>) -> Self {
        let mut builder = Builder::new(own, metrics, before);
        Self { lanes: group.listeners.iter().filter_map(|rules| builder.lane(rules)).collect() }
    }

    /// The same with the endpoints that are `known` of services now; `None`: they have these already. A lane
    /// whose services have not changed stays the one that it is: a thousand listeners pay nothing for the change
    /// of one.
    pub fn following<'k>(
        &self,
        known: impl Fn(&topology::Service) -> Option<&'k [Endpoint]>,
        own: Own<'_>,
        metrics: &Metrics,
    ) -> Option<Self> {
        let news = |to: &topology::Service| known(to).filter(|known| *known != to.endpoints);
        let mut builder = Builder::new(own, metrics, Some(self));
        let mut changed = false;
        let lane = |lane: &Arc<Lane>| {
            if !lane.rules.services().any(|to| news(to).is_some()) {
                return Arc::clone(lane);
            }
            changed = true;
            let mut rules = lane.rules.clone();
            for target in &mut rules.targets {
                if let Some(endpoints) = news(&target.to) {
                    target.to.endpoints = endpoints.to_vec();
                }
            }
            builder.lane(&rules).unwrap_or_else(|| Arc::clone(lane))
        };
        let lanes = self.lanes.iter().map(lane).collect();
        changed.then_some(Self { lanes })
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

/// Builds the lanes of one snapshot.
struct Builder<'b> {
    own: Own<'b>,
    metrics: &'b Metrics,
    before: &'b [Arc<Lane>],
    /// The services of those.
    former: Vec<(&'b Arc<Service>, &'b topology::Service)>,
    /// Listeners that send to one service share what is known about it.
    services: Vec<Arc<Service>>,
}

impl<'b> Builder<'b> {
    fn new(own: Own<'b>, metrics: &'b Metrics, before: Option<&'b Snapshot>) -> Self {
        let former = before.map(Snapshot::services).unwrap_or_default();
        let before = before.map(|before| before.lanes.as_slice()).unwrap_or_default();
        Self { own, metrics, before, former, services: Vec::new() }
    }

    fn service(&mut self, to: &topology::Service) -> Arc<Service> {
        if let Some(known) = self.services.iter().find(|known| known.name == to.name) {
            return Arc::clone(known);
        }
        let former = self.former.iter().find(|(former, _)| former.name == to.name);
        let service = match former {
            Some((former, model)) if is_same(model, to) => Arc::clone(former),
            Some((former, _)) => former.update(to),
            None => Service::new(to),
        };
        self.services.push(Arc::clone(&service));
        service
    }

    /// `None`: it sends to nobody.
    fn lane(&mut self, rules: &Listener) -> Option<Arc<Lane>> {
        let to = rules.to()?;
        let (key, zone, instance) = self.own;
        let old = self.before.iter().find(|lane| lane.rules.name == rules.name);
        // A listener that has another name now still has its connections.
        let same = |lane: &&Arc<Lane>| {
            lane.rules.protocol == rules.protocol && lane.rules.at.value == rules.at.value
        };
        let akin = old.or_else(|| self.before.iter().find(same));
        let connections = akin.map(|lane| lane.connections.clone());
        let service = self.service(to);
        let before = old.map(|lane| (&lane.selector, &*lane.service));
        let before = before.filter(|(_, former)| former.name == service.name);
        let selector = Selector::new(rules, &service, (key, zone), before);
        let for_tls = |target: &Target| {
            let (when, service) = (target.when.clone()?, self.service(&target.to));
            let selector = Selector::new(rules, &service, (key, zone), None);
            Some(TlsRoute { when, service, selector })
        };
        let tls_routes = rules.targets.iter().filter_map(for_tls).collect();
        let own = (instance, self.metrics);
        let recorder = Recorder::of(rules, own, old.and_then(|lane| lane.recorder.as_ref()));
        let meters = || Arc::new(Meters::new(self.metrics, rules.name.as_str()));
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
    }
}

/// Whether nothing of a service changes that traffic goes by.
fn is_same(one: &topology::Service, other: &topology::Service) -> bool {
    one.endpoints == other.endpoints
        && (one.panic_threshold, one.slow_start) == (other.panic_threshold, other.slow_start)
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

#[cfg(test)]
mod tests {
    use common::observe::Observer;
    use topology::{Place, ServiceName};

    use super::*;
    use crate::testing::{listener, service};

    /// Listeners `a` and `b` with a service each, and `c` with both.
    fn group() -> Group {
        let of = |name: &str, services: &[(&str, u16)]| {
            let mut rules = listener("tcp", &[]);
            rules.name = topology::units::ListenerName::new(name);
            rules.targets = services
                .iter()
                .enumerate()
                .map(|(at, (name, port))| {
                    let mut to = service(&[*port]);
                    to.name = ServiceName::new(name);
                    let (names, alpn, place) = (Vec::new(), Vec::new(), Place::default());
                    let when = (at > 0).then_some(TlsMatch { names, alpn, place });
                    Target { when, to }
                })
                .collect();
            rules
        };
        let both = [("x", 1), ("y", 2)];
        crate::testing::group(vec![of("a", &both[..1]), of("b", &both[1..]), of("c", &both)])
    }

    /// D2, D3: a change of one service builds the lanes of that service anew and leaves the others as they are; states
    /// of endpoints that stay are kept, and listeners go on sharing what is known of a service.
    #[test]
    fn only_what_changed_is_built_anew() {
        let metrics = Observer::new("nlb-1").metrics;
        let name = InstanceName::new("nlb-1");
        let own = (HashKey::from_names(["edge"]), None, &name);
        let before = Snapshot::build(&group(), own, &metrics, None);
        assert!(before.following(|_| None, own, &metrics).is_none());
        let named = service(&[1, 3]).endpoints;
        let known = |to: &topology::Service| (to.name.as_str() == "x").then_some(&named[..]);
        let after = before.following(known, own, &metrics).expect("news");
        let same = |at: usize| Arc::ptr_eq(&before.lanes[at], &after.lanes[at]);
        assert_eq!([same(0), same(1), same(2)], [false, true, false]);
        let [a, b, c] = after.lanes.as_slice() else { panic!("{after:?}") };
        assert_eq!((a.service.endpoints.len(), a.rules.targets[0].to.endpoints.len()), (2, 2));
        let states = |lane: &Lane| Arc::as_ptr(&lane.service.endpoints[0].state);
        assert_eq!(states(a), states(&before.lanes[0]));
        assert!(
            Arc::ptr_eq(&a.service, &c.service)
                && Arc::ptr_eq(&b.service, &c.tls_routes[0].service)
        );
        assert!(after.following(known, own, &metrics).is_none(), "it has these already");
    }
}
