//! The wiring as a whole: circles, services that nothing leads to, and balancers and gateways that
//! disagree about the PROXY header. Not single references: whoever has one resolves it.
//!
//! Invariant: every circle is told once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::gateway::LimitBy;
use crate::raw::{self, Entry, Findings, Spot};
use crate::resolve::names::{Destination, Names};
use crate::resolve::{entries, text};

/// From one thing to another, as typed.
struct Edge<'f> {
    to: &'f str,
    at: &'f Spot,
}

/// All checks of the wiring.
pub(super) fn check(file: &raw::File, names: &Names, out: &mut Findings) {
    let edges = edges(file);
    circles(&edges, out);
    // A reference that leads nowhere may be the one that is missing.
    let whole = edges.values().flatten().all(|edge| names.dependency(edge.to).is_some());
    if whole && !out.failed() {
        unused(file, &edges, out);
    }
    headers(file, names, out);
}

/// What each thing leads to, by the name that references use.
fn edges(file: &raw::File) -> BTreeMap<String, Vec<Edge<'_>>> {
    let mut all: BTreeMap<String, Vec<Edge<'_>>> = BTreeMap::new();
    for service in entries(file.services.as_ref()) {
        let uses = service.value.uses.iter().flatten();
        let uses = uses.map(|typed| Edge { to: &typed.value.0, at: &typed.spot });
        all.entry(service.name.clone()).or_default().extend(uses);
    }
    for group in entries(file.nlbs.as_ref()) {
        for listener in entries(group.value.listeners.as_ref()) {
            let name = format!("{}/{}", group.name, listener.name);
            let to = destinations(&listener.value).map(|(to, at)| Edge { to, at });
            all.entry(name).or_default().extend(to);
        }
    }
    for group in entries(file.gateways.as_ref()) {
        if all.contains_key(&group.name) {
            // A service has this name too, which was told.
            continue;
        }
        let routes = group.value.routes.iter().flatten();
        let to = routes.flat_map(|route| {
            let parts = route.split.iter().flatten().map(|part| part.to.as_ref());
            let mirror = route.mirror.iter().map(|mirror| mirror.to.as_ref());
            let calls = route.aggregate.iter().flat_map(|raw| &raw.calls).flat_map(|all| &all.0);
            let calls = calls.map(|call| call.value.to.as_ref());
            std::iter::once(route.to.as_ref())
                .chain(parts)
                .chain(mirror)
                .chain(calls)
                .filter_map(text)
        });
        all.entry(group.name.clone()).or_default().extend(to.map(|(to, at)| Edge { to, at }));
    }
    all
}

/// Everything that a listener sends to.
fn destinations(listener: &raw::Listener) -> impl Iterator<Item = (&str, &Spot)> {
    let routes = listener.tls_routes.iter().flatten().map(|route| route.to.as_ref());
    routes.chain([listener.to.as_ref()]).filter_map(text)
}

/// Depth first from every thing; an edge to something on the way that led here closes a circle.
fn circles(edges: &BTreeMap<String, Vec<Edge<'_>>>, out: &mut Findings) {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in edges.keys() {
        // The way from `start`, each with the number of its next edge, and who is on it.
        let mut way: Vec<(&str, usize)> = vec![(start, 0)];
        let mut on_way: BTreeSet<&str> = BTreeSet::from([start.as_str()]);
        while let Some((name, next)) = way.last_mut() {
            let edge = edges.get(*name).and_then(|list| list.get(*next));
            *next += 1;
            let Some(edge) = edge.filter(|_| !done.contains(*name)) else {
                let finished = *name;
                done.insert(finished);
                on_way.remove(finished);
                way.pop();
                continue;
            };
            if on_way.insert(edge.to) {
                way.push((edge.to, 0));
            } else {
                let circle = way.iter().map(|(name, _)| *name).skip_while(|name| *name != edge.to);
                let circle: Vec<&str> = circle.chain([edge.to]).collect();
                let what = format!("this closes a circle: {}", shortened(&circle).join(" → "));
                out.error(edge.at, what).allowed("references that come to an end");
            }
        }
    }
}

/// The ends of a long circle.
fn shortened<'c>(circle: &[&'c str]) -> Vec<&'c str> {
    match circle {
        [first, second, third, .., last] if circle.len() > 12 => {
            vec![first, second, third, "…", last]
        }
        all => all.to_vec(),
    }
}

fn unused(file: &raw::File, edges: &BTreeMap<String, Vec<Edge<'_>>>, out: &mut Findings) {
    let used: BTreeSet<&str> = edges.values().flatten().map(|edge| edge.to).collect();
    // What `up` starts may tell a registry where it is, and be found there.
    let found = entries(file.services.as_ref()).iter().any(|one| one.value.discover.is_some());
    for service in entries(file.services.as_ref()) {
        if found && service.value.run.is_some() {
            continue;
        }
        if !used.contains(service.name.as_str()) {
            out.warning(&service.spot, format!("nothing leads to the service `{}`", service.name))
                .hint("name it in a `to:`, or remove it".to_owned());
        }
    }
}

/// Warns where a balancer writes a PROXY header that the gateway refuses, or the other way round.
fn headers(file: &raw::File, names: &Names, out: &mut Findings) {
    for group in entries(file.nlbs.as_ref()) {
        for listener in entries(group.value.listeners.as_ref()) {
            for (to, _) in destinations(&listener.value) {
                let gateways = entries(file.gateways.as_ref());
                let gateway = gateways.iter().find(|gateway| gateway.name == to);
                if let Some(gateway) = gateway
                    && matches!(names.destination(to), Some(Destination::Gateway(_)))
                    && listener.value.tcp.is_some()
                {
                    header(group, listener, gateway, out);
                }
            }
        }
    }
}

fn header(
    group: &Entry<raw::NlbGroup>,
    listener: &Entry<raw::Listener>,
    gateway: &Entry<raw::GatewayGroup>,
    out: &mut Findings,
) {
    let trusted = |ip: IpAddr| {
        let networks = gateway.value.trust_proxy_protocol_from.iter().flatten();
        networks.into_iter().any(|network| network.value.contains(&ip))
    };
    let instances = entries(group.value.instances.as_ref()).iter();
    let sources = instances.filter_map(|instance| instance.value.address.as_ref());
    for source in sources.map(|typed| typed.value).filter(|ip| !ip.is_unspecified()) {
        let name = &gateway.name;
        match (&listener.value.proxy_protocol, trusted(source)) {
            (Some(typed), false) => {
                let what = format!("`{name}` refuses the PROXY header that {source} writes");
                out.warning(&typed.spot, what)
                    .hint(format!("add {source} to `gateways.{name}.trust-proxy-protocol-from`"));
            }
            (None, false) if counts_addresses(gateway) => {
                let what =
                    format!("`{name}` sees {source} in place of its clients, and limits by it");
                out.warning(&listener.spot, what).hint(format!(
                    "add `proxy-protocol: v2`, and {source} to `gateways.{name}.trust-proxy-protocol-from`"
                ));
            }
            (None, true) => {
                let what = format!("`{name}` waits for a PROXY header from {source}");
                out.warning(&listener.spot, what).hint("add `proxy-protocol: v2`".to_owned());
            }
            _ => {}
        }
    }
}

fn counts_addresses(gateway: &Entry<raw::GatewayGroup>) -> bool {
    let mut by = entries(gateway.value.limits.as_ref()).iter().filter_map(|l| l.value.by.as_ref());
    by.any(|by| by.0.iter().any(|one| one.value == LimitBy::Address))
}
