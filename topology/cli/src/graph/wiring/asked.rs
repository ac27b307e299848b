//! Whom gateways, balancers and poolers ask beside those that they lead to: counters, keys, whoever says
//! what may go on, registries, collectors. Not for traffic. Called by `wiring`.
//!
//! Invariant: who is a box of the file already gets no second one.

use topology::Topology;
use topology::effective::without_secrets;
use topology::gateway::{Group, IssuerKeys, KeySource};
use topology::model::{Discover, DiscoverSource};
use topology::register::Register;
use topology::{l4, pool};

use super::{Column, End, Row, Wiring};
use crate::up::plan::asks::addressed;

impl Wiring {
    /// What a gateway asks.
    pub(super) fn asked(&mut self, topology: &Topology, id: &str, group: &Group) {
        let mut ask = |kind: &str, title: &str, what: &str, url: &str| {
            self.ask(topology, id, [kind, title, what], url);
        };
        for redis in group.limit_store.iter().flat_map(|store| &store.redis) {
            ask("store", "limits", "Redis", &redis.value);
        }
        for issuer in &group.issuers {
            let url = match &issuer.keys {
                IssuerKeys::Url(url) => &url.value,
                IssuerKeys::Asked(asked) => &asked.url.value,
                IssuerKeys::JwksFile(_) | IssuerKeys::Key(_) => continue,
            };
            ask("issuer", issuer.name.as_str(), "issuer", url);
        }
        for keys in &group.api_keys {
            match &keys.from {
                KeySource::Redis(at, _) => ask("store", keys.name.as_str(), "Redis", &at.value),
                KeySource::Postgres(at, ..) => {
                    ask("store", keys.name.as_str(), "PostgreSQL", &at.value);
                }
                KeySource::File(_) => {}
            }
        }
        if let Some(list) = &group.denylist {
            ask("store", "denylist", "Redis", &list.redis.value);
        }
        let policies = group.routes.iter().map(|route| &route.policy).chain(&group.unmatched);
        for one in policies.filter_map(|policy| policy.authorize.as_ref()) {
            ask("authorizer", "authorizer", "asked for leave", &one.url.value);
        }
        let of_routes = group.routes.iter().map(|route| &route.external);
        let of_upstreams = group.upstreams.iter().map(|upstream| &upstream.external);
        let of_consumers = group.consumers.iter().map(|consumer| &consumer.external);
        let filters = of_routes.chain(of_upstreams).chain(of_consumers).chain([&group.external]);
        for one in filters.flatten() {
            ask("filter", "filter", "external", &one.url.value);
        }
        if let Some(collector) = &group.telemetry.otlp {
            ask("collector", "traces", "collector", &collector.value);
        }
        for found in group.upstreams.iter().filter_map(|upstream| upstream.discover.as_ref()) {
            self.found(topology, id, &found.value);
        }
        self.registered(topology, id, group.register.as_ref());
    }

    /// Registries that a balancer asks.
    pub(super) fn asked_by_nlb(&mut self, topology: &Topology, id: &str, group: &l4::Group) {
        let services = group.listeners.iter().flat_map(l4::Listener::services);
        for found in services.filter_map(|service| service.discover.as_ref()) {
            self.found(topology, id, &found.value);
        }
    }

    /// What a pooler tells others.
    pub(super) fn asked_by_pool(&mut self, topology: &Topology, id: &str, group: &pool::Group) {
        if let Some(collector) = &group.telemetry.otlp {
            self.ask(topology, id, ["collector", "traces", "collector"], &collector.value);
        }
        self.registered(topology, id, group.register.as_ref());
    }

    fn found(&mut self, topology: &Topology, id: &str, discover: &Discover) {
        let mut ask = |what: &str, url: &str| {
            self.ask(topology, id, ["registry", what, "registry"], url);
        };
        match &discover.source {
            DiscoverSource::Eureka(one) => ask("Eureka", &one.registry.address),
            DiscoverSource::Consul(one) => ask("Consul", &one.registry.address),
            DiscoverSource::Etcd(one) => one.servers.iter().for_each(|at| ask("etcd", at)),
            DiscoverSource::Eds(one) => ask("EDS", &one.registry.address),
            DiscoverSource::Kubernetes(one) => {
                one.api.iter().for_each(|at| ask("Kubernetes", at));
            }
            DiscoverSource::Dns { .. } | DiscoverSource::Srv { .. } => {
                let own = discover.resolver.map(|at| format!("dns://{at}"));
                own.iter().for_each(|at| ask("DNS", at));
            }
            DiscoverSource::File { .. } => {}
        }
    }

    fn registered(&mut self, topology: &Topology, id: &str, register: Option<&Register>) {
        let Some(register) = register else { return };
        let consul = register.consul.iter().map(|one| ("Consul", &one.registry.address));
        let eureka = register.eureka.iter().map(|one| ("Eureka", &one.registry.address));
        let etcd = register.etcd.iter().flat_map(|one| &one.servers).map(|at| ("etcd", at));
        for (title, url) in consul.chain(eureka).chain(etcd) {
            self.ask(topology, id, ["registry", title, "registry"], url);
        }
    }

    /// A line to whoever is at this address: a box of the file, else one of its own.
    fn ask(&mut self, topology: &Topology, from: &str, words: [&str; 3], url: &str) {
        let [kind, title, what] = words;
        let to = here(topology, url).unwrap_or_else(|| {
            let shown = without_secrets(url);
            // One address may be asked for several things; an issuer is known by its name.
            let id = if kind == "issuer" { title } else { &shown };
            let id = format!("{kind}:{id}");
            let rows = vec![Row::new("", &shown)];
            self.push(&id, Column::Internal, title, what.to_owned(), rows);
            End::whole(&id)
        });
        if to.of != from {
            self.join(End::whole(from), to);
        }
    }
}

/// What of the file is at the address of a URL.
fn here(topology: &Topology, url: &str) -> Option<End> {
    let at = addressed(url)?;
    let mut services = topology.services.iter();
    if let Some(one) = services.find(|one| one.endpoints.iter().any(|e| e.address == at)) {
        return Some(End::whole(&format!("service:{}", one.name)));
    }
    if let Some(end) = super::listener_at(topology, at) {
        return Some(end);
    }
    let mut gateways = topology.gateways.iter();
    if let Some(one) = gateways.find(|one| one.instances.iter().any(|i| i.listen.value == at)) {
        return Some(End::whole(&format!("gateway:{}", one.name)));
    }
    let mut pools = topology.pools.iter();
    let pool = pools.find(|one| one.instances.iter().any(|i| i.tcp() == Some(at)))?;
    Some(End::whole(&format!("pool:{}", pool.name)))
}
