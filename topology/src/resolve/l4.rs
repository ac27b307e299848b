//! The `nlbs:` section.
//!
//! Invariant: every listener of the result has one protocol and leads to at least one endpoint.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;

use crate::l4::{Balance, Group, Instance, ListenAt, Listener, Protocol};
use crate::model::{Endpoint, Service};
use crate::raw::{self, Entry, Findings, Spot, Typed};
use crate::resolve::names::{self, Destination, Names, Wanted, accepts};
use crate::resolve::{count, drain, filled, or, positive, secret};
use crate::units::{At, GroupName, InstanceName, ListenerName, ServiceName};

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
        admin: entry.value.admin.map(Typed::at),
        place: entry.spot.extent.place,
    }
}

fn listener(entry: Entry<raw::Listener>, names: &Names, out: &mut Findings) -> Option<Listener> {
    names::lawful("listener", &entry.name, &entry.spot, out);
    let (protocol, at) = transport(&entry, out)?;
    let raw = entry.value;
    let to = destination(&raw, protocol, names, out);
    let (balance, idle) = match protocol {
        Protocol::Udp => (Balance::ClientAddress, Duration::from_secs(120)),
        Protocol::Tcp => (Balance::RoundRobin, Duration::from_secs(350)),
    };
    Some(Listener {
        name: ListenerName::new(&entry.name),
        protocol,
        at,
        to: to?,
        balance: or(raw.balance, balance),
        idle: positive(raw.idle, idle, out),
        max_flows: count(raw.max_flows, 50_000),
        max_flows_per_source: raw.max_flows_per_source.map(|typed| typed.value),
        proxy_protocol: raw.proxy_protocol.map(|typed| typed.value),
        accept_proxy_from: networks(raw.accept_proxy_from),
        connect_timeout: positive(raw.connect_timeout, Duration::from_secs(1), out),
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
        let header = raw.proxy_protocol.as_ref().map(|typed| &typed.spot);
        let believed = raw.accept_proxy_from.as_ref().and_then(|list| list.first());
        for spot in header.into_iter().chain(believed.map(|typed| &typed.spot)) {
            out.error(spot, "datagrams carry no PROXY header").allowed("on `tcp` listeners only");
        }
    }
    Some((protocol, at.clone().at()))
}

/// Whom a listener sends to, as a service.
fn destination(
    raw: &raw::Listener,
    protocol: Protocol,
    names: &Names,
    out: &mut Findings,
) -> Option<Service> {
    let to = raw.to.as_ref()?;
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
