//! Who claims which port: two claims of one port are found before anything starts. Not whether a
//! port is busy: that is found when it is bound.
//!
//! Invariant: port 0 is never claimed.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::l4::{ListenAt, Protocol};
use crate::raw::{self, Findings, Spot};
use crate::resolve::entries;
use crate::resolve::names::Names;

/// One process that wants one port.
struct Claim<'f> {
    protocol: Protocol,
    address: SocketAddr,
    /// The host it is on, as far as the file tells: its own address, all loopback ones being one.
    host: IpAddr,
    at: &'f Spot,
    who: String,
}

impl Claim<'_> {
    /// Whether both want the same port. Loopback addresses of two hosts do not meet.
    fn meets(&self, other: &Self) -> bool {
        let (a, b) = (self.address.ip(), other.address.ip());
        let apart = (a.is_loopback() || b.is_loopback()) && self.host != other.host;
        self.protocol == other.protocol
            && self.address.port() == other.address.port()
            && (a == b || covers(a, b) || covers(b, a))
            && !apart
    }
}

/// Whether a socket on `wide` gets what is sent to `narrow`.
fn covers(wide: IpAddr, narrow: IpAddr) -> bool {
    // An IPv6 socket of ours takes no IPv4 (IPV6_V6ONLY).
    wide.is_unspecified() && wide.is_ipv4() == narrow.is_ipv4()
}

/// One name for the host that has an address.
fn host(ip: IpAddr) -> IpAddr {
    if ip.is_loopback() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { ip }
}

/// Notes every claim that meets an earlier one.
pub(super) fn check(file: &raw::File, names: &Names, out: &mut Findings) {
    let mut all = Vec::new();
    nlbs(file, &mut all);
    gateways(file, &mut all);
    pools(file, &mut all);
    started(file, names, &mut all);
    all.retain(|claim| claim.address.port() != 0);
    all.sort_by_key(|claim| claim.at.extent.place);
    let mut earlier: HashMap<u16, Vec<&Claim<'_>>> = HashMap::new();
    for claim in &all {
        let rivals = earlier.entry(claim.address.port()).or_default();
        if let Some(first) = rivals.iter().find(|first| first.meets(claim)) {
            clash(claim, first, out);
        }
        rivals.push(claim);
    }
}

fn clash(claim: &Claim<'_>, first: &Claim<'_>, out: &mut Findings) {
    let (address, line) = (claim.address, first.at.extent.place.line);
    let what = format!("{} and {} (line {line}) both want {address}", claim.who, first.who);
    if address.ip().is_unspecified() || first.address.ip().is_unspecified() {
        // `0.0.0.0` does not tell whether both are on one host.
        out.warning(claim.at, what).hint("fine on two hosts, impossible on one".to_owned());
    } else {
        out.error(claim.at, what).allowed("each address and port once");
    }
}

fn nlbs<'f>(file: &'f raw::File, all: &mut Vec<Claim<'f>>) {
    for group in entries(file.nlbs.as_ref()) {
        for instance in entries(group.value.instances.as_ref()) {
            let own = instance.value.address.as_ref().map(|ip| ip.value);
            admin(instance.value.admin.as_ref(), own, &instance.name, all);
            for listener in entries(group.value.listeners.as_ref()) {
                let raw = &listener.value;
                for (protocol, at) in [(Protocol::Tcp, &raw.tcp), (Protocol::Udp, &raw.udp)] {
                    let Some(at) = at else { continue };
                    let address = match (at.value, &instance.value.address) {
                        (ListenAt::Address(address), _) => address,
                        (ListenAt::Instance(port), Some(ip)) => SocketAddr::new(ip.value, port),
                        (ListenAt::Instance(_), None) => continue,
                    };
                    let who = format!("{}/{} on {}", group.name, listener.name, instance.name);
                    // A fixed address is meant for whichever instance has it.
                    let same = |claim: &Claim<'_>| std::ptr::eq(claim.at, &at.spot);
                    if matches!(at.value, ListenAt::Address(_)) && all.iter().any(same) {
                        continue;
                    }
                    let host = host(own.unwrap_or(address.ip()));
                    all.push(Claim { protocol, address, host, at: &at.spot, who });
                }
            }
        }
    }
}

fn gateways<'f>(file: &'f raw::File, all: &mut Vec<Claim<'f>>) {
    for group in entries(file.gateways.as_ref()) {
        for instance in entries(group.value.instances.as_ref()) {
            let own = instance.value.listen.as_ref().map(|listen| listen.value.ip());
            admin(instance.value.admin.as_ref(), own, &instance.name, all);
            listen(instance.value.listen.as_ref(), &instance.name, all);
        }
    }
}

fn pools<'f>(file: &'f raw::File, all: &mut Vec<Claim<'f>>) {
    for group in entries(file.pools.as_ref()) {
        for instance in entries(group.value.instances.as_ref()) {
            let addresses = instance.value.listen.iter().flat_map(|listen| &listen.0);
            let numbers = addresses.filter_map(|typed| Some((typed.value.ip()?, &typed.spot)));
            let numbers: Vec<_> = numbers.collect();
            let own = numbers.first().map(|(address, _)| address.ip());
            admin(instance.value.admin.as_ref(), own, &instance.name, all);
            for (address, at) in numbers {
                let (host, who) = (host(address.ip()), instance.name.clone());
                all.push(Claim { protocol: Protocol::Tcp, address, host, at, who });
            }
        }
        // What `up` starts listens on this host too.
        for database in entries(group.value.databases.as_ref()) {
            let raw = &database.value;
            let servers = raw.primary.iter().chain(raw.replicas.iter().flatten());
            for server in servers.filter(|_| raw.run.is_some()) {
                let Some(address) = server.value.ip() else { continue };
                let who = format!("a server of database {}", database.name);
                let (host, at) = (host(address.ip()), &server.spot);
                all.push(Claim { protocol: Protocol::Tcp, address, host, at, who });
            }
        }
    }
}

/// Endpoints of services that `up` starts on this host.
fn started<'f>(file: &'f raw::File, names: &Names, all: &mut Vec<Claim<'f>>) {
    let udp = names.listeners.iter().filter(|listener| listener.protocol == Protocol::Udp);
    let udp: HashSet<&str> = udp.map(|listener| listener.to.as_str()).collect();
    for service in entries(file.services.as_ref()) {
        if service.value.run.is_none() {
            continue;
        }
        let datagrams = udp.contains(service.name.as_str());
        let protocol = if datagrams { Protocol::Udp } else { Protocol::Tcp };
        let mut own = HashSet::new();
        for endpoint in service.value.endpoints.iter().flatten() {
            let Some(typed) = &endpoint.0.address else { continue };
            let address = typed.value;
            // The same endpoint twice in one service is told by `service`.
            if own.insert(address) {
                let (at, who) = (&typed.spot, format!("service {}", service.name));
                all.push(Claim { protocol, address, host: host(address.ip()), at, who });
            }
        }
    }
}

fn admin<'f>(
    typed: Option<&'f raw::Typed<SocketAddr>>,
    own: Option<IpAddr>,
    instance: &str,
    all: &mut Vec<Claim<'f>>,
) {
    if let Some(typed) = typed {
        let own = own.unwrap_or(typed.value.ip());
        tcp(typed, own, format!("the admin listener of {instance}"), all);
    }
}

fn listen<'f>(typed: Option<&'f raw::Typed<SocketAddr>>, instance: &str, all: &mut Vec<Claim<'f>>) {
    if let Some(typed) = typed {
        tcp(typed, typed.value.ip(), instance.to_owned(), all);
    }
}

fn tcp<'f>(typed: &'f raw::Typed<SocketAddr>, own: IpAddr, who: String, all: &mut Vec<Claim<'f>>) {
    let (address, at) = (typed.value, &typed.spot);
    all.push(Claim { protocol: Protocol::Tcp, address, host: host(own), at, who });
}
