//! How a request gets to a gateway: the balancer in front of it, and what the gateway knows of the client
//! then. Not for the stages. Called by `gateway`.
//!
//! Invariant: a listener is only guessed where one alone fits the URL.

use std::net::{IpAddr, SocketAddr};

use l4_nlb::tcp::hello::Hello;
use topology::Topology;
use topology::gateway::{Group, Instance};
use topology::l4::Protocol;

use crate::explain::balancer::{self, Door, Onward};
use crate::explain::question::Request;
use crate::explain::tree::Step;

/// A request at a gateway's door.
pub(super) struct Arrival<'t> {
    pub(super) door: Option<Door<'t>>,
    pub(super) group: &'t Group,
    /// The one that stands for all.
    pub(super) instance: &'t Instance,
    /// Those that it may be.
    pub(super) among: Vec<&'t Instance>,
    /// Whom the gateway takes for the client.
    pub(super) client: SocketAddr,
    /// Why it takes nobody's word.
    pub(super) mistold: Option<String>,
}

/// A place where requests come in.
#[derive(Clone, Copy)]
enum Way<'t> {
    Door(Door<'t>),
    Group(&'t Group),
}

/// Finds the way in and follows it to a gateway; the balancer's step where there is one.
pub(super) fn arrive<'t>(
    topology: &'t Topology,
    to: Option<&str>,
    request: &Request,
) -> anyhow::Result<(Option<Step>, Option<Arrival<'t>>)> {
    match choose(topology, to, request)? {
        Way::Group(group) => Ok((None, direct(group, request.from, None))),
        Way::Door(door) => {
            let hello = hello(request);
            let (step, onward) = balancer::pass(topology, &door, request.from, hello.as_ref());
            let arrival = onward.and_then(|onward| behind(topology, door, &onward, request.from));
            Ok((Some(step), arrival))
        }
    }
}

/// Who comes to a gateway without a balancer in between, perhaps to one address of it.
pub(super) fn direct(
    group: &Group,
    client: SocketAddr,
    taken: Option<SocketAddr>,
) -> Option<Arrival<'_>> {
    let among: Vec<&Instance> = of(group, taken);
    let instance = *among.first()?;
    let mistold = trusts(group, client.ip()).then(|| {
        format!("{} is in trust-proxy-protocol-from and sends no PROXY header", client.ip())
    });
    Some(Arrival { door: None, group, instance, among, client, mistold })
}

/// Who comes to a gateway through a balancer; `None`: it leads to none.
pub(super) fn behind<'t>(
    topology: &'t Topology,
    door: Door<'t>,
    onward: &Onward<'t>,
    from: SocketAddr,
) -> Option<Arrival<'t>> {
    let name = onward.service.name.as_str();
    let group = topology.gateways.iter().find(|group| group.name.as_str() == name)?;
    let taken = onward.endpoint.and_then(|at| onward.service.endpoints.get(at));
    let among = of(group, taken.map(|taken| taken.address));
    let instance = *among.first()?;
    let (client, mistold) = told(&door, group, from);
    Some(Arrival { door: Some(door), group, instance, among, client, mistold })
}

/// Its instances, or the one that listens there.
fn of(group: &Group, taken: Option<SocketAddr>) -> Vec<&Instance> {
    let fits = |one: &&Instance| taken.is_none_or(|taken| taken == one.listen.value);
    group.instances.iter().filter(fits).collect()
}

/// Whom the gateway takes for the client, and why it would take nobody's word.
fn told(door: &Door<'_>, group: &Group, client: SocketAddr) -> (SocketAddr, Option<String>) {
    let listener = door.listener;
    let balancer = SocketAddr::new(door.instance.address, 0);
    let peer = if listener.transparent { client } else { balancer };
    let trusted = trusts(group, peer.ip());
    match (listener.proxy_protocol.is_some(), trusted) {
        (true, true) => (client, None),
        (false, false) => (peer, None),
        (true, false) => {
            let what = "sends a PROXY header, and trust-proxy-protocol-from lacks it: refused";
            (peer, Some(format!("{} at {} {what}", door.instance.name, peer.ip())))
        }
        (false, true) => {
            let what = "is in trust-proxy-protocol-from and sends no PROXY header: refused";
            (peer, Some(format!("{} at {} {what}", door.instance.name, peer.ip())))
        }
    }
}

fn trusts(group: &Group, peer: IpAddr) -> bool {
    group.trust_proxy_protocol_from.iter().any(|network| network.contains(&peer))
}

fn hello(request: &Request) -> Option<Hello> {
    let secure = request.url.scheme_str() == Some("https");
    let host = request.url.host().unwrap_or_default();
    let name = host.parse::<IpAddr>().is_err().then(|| host.to_ascii_lowercase());
    secure.then(|| Hello { name, protocols: vec![b"h2".to_vec(), b"http/1.1".to_vec()] })
}

/// The way that is meant.
fn choose<'t>(
    topology: &'t Topology,
    to: Option<&str>,
    request: &Request,
) -> anyhow::Result<Way<'t>> {
    let ways = all(topology);
    let name = |way: &Way<'_>| match way {
        Way::Door(door) => door.name(),
        Way::Group(group) => group.name.to_string(),
    };
    let names = |ways: &[Way<'_>]| ways.iter().map(name).collect::<Vec<_>>().join(", ");
    if let Some(to) = to {
        let group = topology.gateways.iter().find(|group| group.name.as_str() == to);
        let found = ways.iter().find(|way| name(way) == to).copied();
        return found.or(group.map(Way::Group)).ok_or_else(|| {
            anyhow::anyhow!("no way in is called {to}: there are {}", names(&ways))
        });
    }
    let mut left = ways;
    anyhow::ensure!(!left.is_empty(), "the file has no gateway: requests are not looked into");
    let secure = request.url.scheme_str() == Some("https");
    let port = request.url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let host = request.url.host().unwrap_or_default().to_ascii_lowercase();
    narrow(&mut left, |way| match way {
        Way::Door(door) => door.address().port() == port,
        Way::Group(group) => group.instances.iter().any(|one| one.listen.value.port() == port),
    });
    let groups = |way: &Way<'t>| -> Vec<&'t Group> {
        match way {
            Way::Group(group) => vec![*group],
            Way::Door(door) => led(topology, door).collect(),
        }
    };
    narrow(&mut left, |way| groups(way).iter().any(|group| group.tls.is_some() == secure));
    narrow(&mut left, |way| groups(way).iter().any(|group| serves(group, &host)));
    match left[..] {
        [only] => Ok(only),
        _ => anyhow::bail!(
            "several ways lead in for {}: say which with --to: {}",
            request.url,
            names(&left)
        ),
    }
}

/// Keeps those that fit, if any do.
fn narrow<T: Copy>(left: &mut Vec<T>, fits: impl Fn(&T) -> bool) {
    let kept: Vec<T> = left.iter().filter(|one| fits(one)).copied().collect();
    if !kept.is_empty() {
        *left = kept;
    }
}

fn serves(group: &Group, host: &str) -> bool {
    use topology::units::HostPattern;
    group.routes.iter().any(|route| {
        route.hosts.is_empty()
            || route.hosts.iter().any(|pattern| match pattern {
                HostPattern::Exact(exact) => exact == host,
                HostPattern::Suffix(suffix) => host.ends_with(suffix),
            })
    })
}

/// Listeners that lead to gateways, and gateways that none leads to.
fn all(topology: &Topology) -> Vec<Way<'_>> {
    let doors: Vec<Door<'_>> = Door::all(topology)
        .filter(|door| door.listener.protocol == Protocol::Tcp)
        .filter(|door| led(topology, door).next().is_some())
        .collect();
    let behind = |group: &Group| {
        doors.iter().any(|door| led(topology, door).any(|one| one.name == group.name))
    };
    let open = topology.gateways.iter().filter(|group| !behind(group)).map(Way::Group);
    doors.iter().copied().map(Way::Door).chain(open).collect()
}

/// The gateway groups that a listener leads to.
fn led<'t>(topology: &'t Topology, door: &Door<'t>) -> impl Iterator<Item = &'t Group> {
    let names: Vec<&str> = door.listener.services().map(|to| to.name.as_str()).collect();
    topology.gateways.iter().filter(move |group| names.contains(&group.name.as_str()))
}
