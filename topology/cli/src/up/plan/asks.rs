//! Whom the parts of a plan ask beside those that they lead to: stores, issuers, authorizers, registries,
//! collectors. From the model, and from the lists that it names. Not for what waits for what: that is
//! the plan. Called by it.
//!
//! Invariant: every address that the file gives to a tier is in its answer; those that nobody of the plan
//! listens at do no harm.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use topology::gateway::{Group, IssuerKeys, KeySource};
use topology::model::{Dependency, Discover, DiscoverSource, Service};
use topology::register::Register;
use topology::{Topology, l4, list, pool};

/// What a gateway waits for: without it none of its requests can be answered.
pub(super) fn gateway_needs(topology: &Topology, group: &Group) -> Vec<SocketAddr> {
    let upstreams = group.upstreams.iter().flat_map(|upstream| &upstream.endpoints);
    let mut needs: Vec<SocketAddr> = upstreams.map(|endpoint| endpoint.address).collect();
    let found = group.upstreams.iter().filter_map(|upstream| upstream.discover.as_ref());
    needs.extend(found.flat_map(|source| discovered(topology, &source.value)));
    if let Some(store) = &group.limit_store {
        needs.extend(store.redis.iter().filter_map(|at| addressed(&at.value)));
    }
    for issuer in &group.issuers {
        if let IssuerKeys::Url(url) = &issuer.keys {
            needs.extend(addressed(&url.value));
        }
    }
    for keys in &group.api_keys {
        needs.extend(match &keys.from {
            KeySource::Redis(at, _) | KeySource::Postgres(at, ..) => addressed(&at.value),
            KeySource::File(_) => None,
        });
    }
    needs.extend(group.denylist.iter().filter_map(|list| addressed(&list.redis.value)));
    needs
}

/// Whom a gateway asks as well. They may stand behind it, or be asked for some routes alone: they come
/// first where that can be.
pub(super) fn gateway_asks(group: &Group) -> Vec<SocketAddr> {
    let policies = group.routes.iter().map(|route| &route.policy).chain(&group.unmatched);
    let authorizers = policies.filter_map(|policy| policy.authorize.as_ref()).map(|one| &one.url);
    let of_routes = group.routes.iter().map(|route| &route.external);
    let of_upstreams = group.upstreams.iter().map(|upstream| &upstream.external);
    let of_consumers = group.consumers.iter().map(|consumer| &consumer.external);
    let filters = of_routes.chain(of_upstreams).chain(of_consumers).chain([&group.external]);
    let filters = filters.flatten().map(|filter| &filter.url);
    let introspected = group.issuers.iter().filter_map(|issuer| match &issuer.keys {
        IssuerKeys::Asked(asked) => Some(&asked.url),
        IssuerKeys::Url(_) | IssuerKeys::JwksFile(_) | IssuerKeys::Key(_) => None,
    });
    let told = group.telemetry.otlp.iter();
    let all = authorizers.chain(introspected).chain(told).chain(filters);
    let asked = all.filter_map(|at| addressed(&at.value));
    asked.chain(group.register.iter().flat_map(registries)).collect()
}

/// What a balancer waits for: those that it leads to, by the file or by a registry.
pub(super) fn nlb_needs(topology: &Topology, group: &l4::Group) -> Vec<SocketAddr> {
    let services = group.listeners.iter().flat_map(l4::Listener::services);
    let all = services.flat_map(|service| {
        let found = service.discover.iter().flat_map(|at| discovered(topology, &at.value));
        service.endpoints.iter().map(|endpoint| endpoint.address).chain(found)
    });
    all.collect()
}

/// Whom a pooler asks beside its servers.
pub(super) fn pool_asks(group: &pool::Group) -> Vec<SocketAddr> {
    let peers = group.peers.iter().filter_map(|peer| peer.at.ip());
    let told = group.telemetry.otlp.iter().filter_map(|at| addressed(&at.value));
    peers.chain(told).chain(group.register.iter().flat_map(registries)).collect()
}

/// The addresses among a program's words: `--jwks http://127.0.0.1:7900/jwks.json`.
pub(super) fn named_in(words: &[String]) -> Vec<SocketAddr> {
    words.iter().filter_map(|word| addressed(word)).collect()
}

/// Who is asked for endpoints, and who may be among the answers: those that tell a registry of this plan
/// where they are, and those that a list has now.
fn discovered(topology: &Topology, discover: &Discover) -> Vec<SocketAddr> {
    let asked: Vec<SocketAddr> = match &discover.source {
        DiscoverSource::Eureka(eureka) => addressed(&eureka.registry.address).into_iter().collect(),
        DiscoverSource::Consul(consul) => addressed(&consul.registry.address).into_iter().collect(),
        DiscoverSource::Eds(eds) => addressed(&eds.registry.address).into_iter().collect(),
        DiscoverSource::Etcd(etcd) => etcd.servers.iter().filter_map(|at| addressed(at)).collect(),
        DiscoverSource::Kubernetes(one) => one.api.iter().filter_map(|at| addressed(at)).collect(),
        DiscoverSource::Dns { host, port } => {
            addressed(&format!("dns://{host}:{port}")).into_iter().collect()
        }
        DiscoverSource::Srv { .. } => Vec::new(),
        DiscoverSource::File { path } => {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let listed = list::endpoints("", &text).unwrap_or_default();
            listed.into_iter().map(|one| one.address).collect()
        }
    };
    let told = asked.iter().flat_map(|at| tellers(topology, *at)).collect::<Vec<_>>();
    asked.into_iter().chain(discover.resolver).chain(told).collect()
}

/// The servers that tell the registry at this address where they are.
fn tellers(topology: &Topology, registry: SocketAddr) -> Vec<SocketAddr> {
    let is_it = |service: &&Service| service.endpoints.iter().any(|e| e.address == registry);
    let Some(registry) = topology.services.iter().find(is_it) else { return Vec::new() };
    let tells = |service: &&Service| {
        service.uses.iter().any(|used| used.value == Dependency::Service(registry.name.clone()))
    };
    let told = topology.services.iter().filter(tells).flat_map(|service| &service.endpoints);
    told.map(|endpoint| endpoint.address).collect()
}

fn registries(register: &Register) -> Vec<SocketAddr> {
    let consul = register.consul.iter().map(|one| &one.registry.address);
    let eureka = register.eureka.iter().map(|one| &one.registry.address);
    let etcd = register.etcd.iter().flat_map(|one| &one.servers);
    consul.chain(eureka).chain(etcd).filter_map(|at| addressed(at)).collect()
}

/// The number that a URL has for a host, with its port or the scheme's; `None` for a name, which the plan
/// does not ask for.
pub(crate) fn addressed(url: &str) -> Option<SocketAddr> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if let Ok(address) = host.parse() {
        return Some(address);
    }
    let (host, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()?),
        _ => (host, usual_port(scheme)?),
    };
    let ip = match host {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        number => number.trim_matches(['[', ']']).parse::<IpAddr>().ok()?,
    };
    Some(SocketAddr::new(ip, port))
}

fn usual_port(scheme: &str) -> Option<u16> {
    Some(match scheme {
        "http" => 80,
        "https" => 443,
        "redis" | "rediss" => 6379,
        "postgres" | "postgresql" => 5432,
        _ => return None,
    })
}
