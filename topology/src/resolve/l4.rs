//! The `nlbs:` section.
//!
//! Invariant: every listener of the result has one protocol and leads to at least one endpoint.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;

use crate::l4::{
    Balance, Group, HashTable, Instance, ListenAt, Listener, OnDown, Protocol, ProxyVersion,
    Target, TlsMatch,
};
use crate::model::{Endpoint, Service};
use crate::raw::{self, Entry, Findings, Flag, Spot, Text, Typed};
use crate::resolve::names::{self, Destination, Names, Wanted, accepts};
use crate::resolve::telemetry::recording;
use crate::resolve::{count, drain, filled, or, positive, secret};
use crate::units::{At, GroupName, InstanceName, ListenerName, Percent, ServiceName, ZoneName};

/// One balancer group.
pub(super) fn group(entry: Entry<raw::NlbGroup>, names: &Names, out: &mut Findings) -> Group {
    let Entry { name, spot, value: raw } = entry;
    filled(raw.instances.as_ref().map(|named| &*named.0), "instances", &spot, out);
    filled(raw.listeners.as_ref().map(|named| &*named.0), "listeners", &spot, out);
    let listeners = raw.listeners.unwrap_or_default().into_iter();
    Group {
        name: GroupName::new(&name),
        instances: raw.instances.unwrap_or_default().into_iter().map(instance).collect(),
        listeners: listeners.filter_map(|entry| listener(entry, names, out)).collect(),
        hash_key: raw.hash_key.map(|key| secret(key, names)),
        drain: drain(raw.drain),
        place: spot.extent.place,
    }
}

fn instance(entry: Entry<raw::NlbInstance>) -> Instance {
    Instance {
        name: InstanceName::new(&entry.name),
        // Without an address a problem was noted and the group is not used.
        address: or(entry.value.address, IpAddr::V4(Ipv4Addr::LOCALHOST)),
        zone: entry.value.zone.map(|zone| ZoneName::new(&zone.value.0)),
        admin: entry.value.admin.map(Typed::at),
        place: entry.spot.extent.place,
    }
}

fn listener(entry: Entry<raw::Listener>, names: &Names, out: &mut Findings) -> Option<Listener> {
    names::lawful("listener", &entry.name, &entry.spot, out);
    let (protocol, at) = transport(&entry, out)?;
    let raw = entry.value;
    let targets = targets(&raw, &entry.spot, protocol, names, out)?;
    let (balance, idle, on_down) = match protocol {
        Protocol::Udp => (Balance::ClientAddress, Duration::from_secs(120), OnDown::Rehash),
        Protocol::Tcp => (Balance::RoundRobin, Duration::from_secs(350), OnDown::Keep),
    };
    Some(Listener {
        name: ListenerName::new(&entry.name),
        protocol,
        at,
        targets,
        balance: hashing(raw.balance, raw.hash.as_ref(), balance, out),
        hash: or(raw.hash, HashTable::default()),
        on_down: or(raw.on_down, on_down),
        idle: positive(raw.idle, idle, out),
        max_flows: count(raw.max_flows, 50_000),
        max_flows_per_source: raw.max_flows_per_source.map(|typed| typed.value),
        new_flows: raw.new_flows.map(|typed| typed.value),
        new_flows_per_source: raw.new_flows_per_source.map(|typed| typed.value),
        packets_per_source: raw.packets_per_source.map(|typed| typed.value),
        transparent: or(raw.transparent, Flag(false)).0,
        proxy_protocol: raw.proxy_protocol.map(|typed| typed.value),
        accept_proxy_from: networks(raw.accept_proxy_from),
        connect_timeout: positive(raw.connect_timeout, Duration::from_secs(1), out),
        record: raw.record.and_then(|raw| {
            if protocol == Protocol::Tcp {
                out.error(&entry.spot, "connections are not recorded, datagrams are".to_owned())
                    .hint("`record` of a gateway group records requests");
            }
            if let Some(digests) = raw.digests.as_ref().filter(|digests| digests.value.0) {
                out.error(&digests.spot, "a datagram has no answer to digest".to_owned())
                    .hint("`record` of a gateway group knows answers");
            }
            recording(raw, names, out)
        }),
        allow: networks(raw.allow),
        deny: networks(raw.deny),
        place: entry.spot.extent.place,
    })
}

/// Values of a list of networks.
pub(super) fn networks(list: Option<Vec<Typed<IpNet>>>) -> Vec<IpNet> {
    list.unwrap_or_default().into_iter().map(|typed| typed.value).collect()
}

fn transport(entry: &Entry<raw::Listener>, out: &mut Findings) -> Option<(Protocol, At<ListenAt>)> {
    let raw = &entry.value;
    let (protocol, at) = match (&raw.tcp, &raw.udp) {
        (Some(at), None) => (Protocol::Tcp, at),
        (None, Some(at)) => (Protocol::Udp, at),
        (None, None) if out.wrong(&entry.spot) => return None,
        _ => {
            let what = "a listener has one protocol";
            out.error(&raw.spot, what)
                .allowed("exactly one of `tcp: \"*:PORT\"`, `udp: \"*:PORT\"`");
            return None;
        }
    };
    if protocol == Protocol::Udp {
        if let Some(header) = raw.proxy_protocol.as_ref().filter(|v| v.value == ProxyVersion::V1) {
            out.error(&header.spot, "datagrams carry the binary PROXY header alone").allowed("v2");
        }
        if let Some(route) = raw.tls_routes.as_ref().and_then(|routes| routes.first()) {
            out.error(&route.spot, "TLS routes are for connections").allowed("on `tcp` listeners");
        }
    } else if let Some(packets) = &raw.packets_per_source {
        out.error(&packets.spot, "connections are not counted in datagrams")
            .allowed("on `udp` listeners; `new-flows-per-source` bounds connections");
    }
    Some((protocol, at.clone().at()))
}

/// The balancing; a table without a hash is told.
fn hashing(
    typed: Option<Typed<Balance>>,
    table: Option<&Typed<HashTable>>,
    default: Balance,
    out: &mut Findings,
) -> Balance {
    let balance = or(typed, default);
    let hashes = matches!(balance, Balance::ClientAddress | Balance::FiveTuple);
    if let Some(table) = table.filter(|_| !hashes) {
        out.error(&table.spot, "this listener does not hash")
            .allowed("with `balance: client-address` or `balance: five-tuple`");
    }
    balance
}

/// Whom a listener sends to, in order.
fn targets(
    raw: &raw::Listener,
    at: &Spot,
    protocol: Protocol,
    names: &Names,
    out: &mut Findings,
) -> Option<Vec<Target>> {
    let mut all = Vec::new();
    for route in raw.tls_routes.iter().flatten() {
        let when = tls_match(route, out);
        if let Some(to) = route.to.as_ref().and_then(|to| destination(to, protocol, names, out)) {
            all.push(Target { when: Some(when), to });
        }
    }
    if let Some(to) = &raw.to {
        let to = destination(to, protocol, names, out)?;
        all.push(Target { when: None, to });
    } else if raw.tls_routes.as_ref().is_none_or(Vec::is_empty) && !out.wrong(at) {
        out.error(at, "this listener leads nowhere").allowed("`to: SERVICE`");
    }
    (!all.is_empty()).then_some(all)
}

fn tls_match(route: &raw::TlsRoute, out: &mut Findings) -> TlsMatch {
    let names: Vec<_> =
        route.sni.iter().flat_map(|list| &list.0).map(|n| n.value.clone()).collect();
    let alpn: Vec<_> = route.alpn.iter().flat_map(|list| &list.0).collect();
    if names.is_empty() && alpn.is_empty() && !out.wrong(&route.spot) {
        out.error(&route.spot, "this route fits every TLS client")
            .allowed("`sni` or `alpn`; what fits none goes to the listener's own `to`");
    }
    for protocol in alpn.iter().filter(|typed| typed.value.0.len() > 255) {
        out.error(&protocol.spot, "the protocol's name is too long").allowed("255 bytes");
    }
    let alpn = alpn.into_iter().map(|typed| typed.value.0.clone()).collect();
    TlsMatch { names, alpn, place: route.spot.extent.place }
}

/// A name to send to, as a service.
fn destination(
    to: &Typed<Text>,
    protocol: Protocol,
    names: &Names,
    out: &mut Findings,
) -> Option<Service> {
    let (text, at) = (to.value.0.as_str(), &to.spot);
    let Some(destination) = names.destination(text) else {
        names.unknown(at, text, Wanted::Traffic, out);
        return None;
    };
    let service = match destination {
        Destination::Service(service) => return Some(service.clone()),
        Destination::Gateway(group) => {
            if protocol == Protocol::Udp {
                let what = format!("the gateway group `{text}` takes no datagrams");
                out.error(at, what).allowed("a service");
            }
            Some(group.clone())
        }
        Destination::Listener(listener) => {
            if listener.protocol != protocol {
                let what = format!("the listener `{text}` has another protocol than this one");
                out.error(at, what).allowed("tcp to tcp, udp to udp");
            }
            Some(Service {
                name: ServiceName::new(text),
                endpoints: listener.endpoints.clone(),
                discover: None,
                panic_threshold: Percent(0),
                slow_start: None,
                health: (protocol == Protocol::Tcp).then(accepts),
                run: None,
                uses: Vec::new(),
                place: at.extent.place,
            })
        }
    }?;
    reachable(&service.endpoints, at, out);
    Some(service)
}

/// Warns of processes that listen on every address: nobody can send to that.
pub(super) fn reachable(endpoints: &[Endpoint], at: &Spot, out: &mut Findings) {
    if let Some(endpoint) = endpoints.iter().find(|e| e.address.ip().is_unspecified()) {
        let what = format!("{} listens on {}", endpoint.name, endpoint.address.ip());
        out.warning(at, format!("{what}, which nobody on another host can send to"))
            .hint("give it the address that others reach it by".to_owned());
    }
}
