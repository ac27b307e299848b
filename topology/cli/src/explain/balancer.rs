//! What a balancer does with a flow: who listens, what the gate says, which endpoint the table names. The
//! deciding is `l4-nlb`'s. Called by `mod` for flows and by `http` for both balancers of a request.
//!
//! Invariant: an endpoint is named only where the flow alone decides; else all candidates are.

use std::net::SocketAddr;

use l4_nlb::gate::Refusal;
use l4_nlb::preview::{Foreseen, Preview};
use l4_nlb::select::FlowKey;
use l4_nlb::tcp::hello::Hello;
use serde_json::{Value, json};
use topology::l4::{Balance, Group, HashTable, Instance, Listener, ProxyVersion, TlsMatch};
use topology::{Service, Topology};

use super::question::Flow;
use super::tree::{Explained, Step, Tone};

/// A listener of a balancer, on one of its instances.
#[derive(Clone, Copy, Debug)]
pub(super) struct Door<'t> {
    pub(super) group: &'t Group,
    pub(super) instance: &'t Instance,
    pub(super) listener: &'t Listener,
}

impl<'t> Door<'t> {
    /// All of them, on the first instance of each group: the others do the same.
    pub(super) fn all(topology: &'t Topology) -> impl Iterator<Item = Self> {
        topology.nlbs.iter().filter_map(|group| Some((group, group.instances.first()?))).flat_map(
            |(group, instance)| {
                group.listeners.iter().map(move |listener| Self { group, instance, listener })
            },
        )
    }

    /// GROUP/LISTENER.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.group.name, self.listener.name)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.listener.at.value.on(self.instance)
    }

    pub(super) fn protocol(&self) -> &'static str {
        protocol(self.listener.protocol)
    }
}

pub(super) fn protocol(protocol: topology::l4::Protocol) -> &'static str {
    match protocol {
        topology::l4::Protocol::Tcp => "tcp",
        topology::l4::Protocol::Udp => "udp",
    }
}

/// Where a flow goes from here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Onward<'t> {
    pub(super) service: &'t Service,
    /// Where only the flow decides.
    pub(super) endpoint: Option<usize>,
}

/// Explains one flow through a listener; `None`: it ends here.
pub(super) fn pass<'t>(
    topology: &'t Topology,
    door: &Door<'t>,
    client: SocketAddr,
    hello: Option<&Hello>,
) -> (Step, Option<Onward<'t>>) {
    let Door { group, instance, listener } = *door;
    let others: Vec<_> = group.instances.iter().skip(1).map(|one| one.name.as_str()).collect();
    let others = if others.is_empty() {
        String::new()
    } else {
        format!(" (or {}, which does the same)", others.join(", "))
    };
    let mut step = Step::place(format!(
        "{} · l4-nlb {}{others} · listener {} on {} {}",
        group.name,
        instance.name,
        listener.name,
        door.protocol(),
        door.address(),
    ));
    let preview = Preview::new(topology, group, instance);
    let flow = FlowKey { client, local: door.address() };
    let Some(foreseen) = preview.ask(&listener.name, flow, hello) else {
        step.add(Tone::Refused, "no such listener");
        return (step, None);
    };
    if let Some(refusal) = foreseen.refused {
        step.add(Tone::Refused, format!("refused: {}", why(refusal, listener, client)));
        routes(&mut step, listener, hello, None);
        return (step, None);
    }
    bounds(&mut step, listener);
    routes(&mut step, listener, hello, foreseen.target);
    if let Some(version) = listener.proxy_protocol {
        let version = if version == ProxyVersion::V1 { "v1" } else { "v2" };
        step.plain(format!("tells {client} in a PROXY header {version}"));
    }
    let service = listener.services().find(|one| Some(&one.name) == foreseen.service.as_ref());
    let Some(service) = service else { return (step, None) };
    choice(&mut step, (&preview, &foreseen), listener, service, client);
    (step, Some(Onward { service, endpoint: foreseen.endpoint }))
}

fn why(refusal: Refusal, listener: &Listener, client: SocketAddr) -> String {
    let list = |all: &[_]| {
        let all: Vec<String> = all.iter().map(ToString::to_string).collect::<Vec<_>>();
        all.join(", ")
    };
    match refusal {
        Refusal::Denied if listener.deny.iter().any(|net| net.contains(&client.ip())) => {
            format!("{} is in deny: {}", client.ip(), list(&listener.deny))
        }
        Refusal::Denied => format!("{} is not in allow: {}", client.ip(), list(&listener.allow)),
        Refusal::Sni => {
            "no target is for this TLS name and protocol, and none for everybody".into()
        }
        other => other.reason().to_owned(),
    }
}

/// Bounds that a client may meet.
fn bounds(step: &mut Step, listener: &Listener) {
    let mut all = vec![format!("{} flows", listener.max_flows)];
    all.extend(listener.max_flows_per_source.map(|most| format!("{most} of one client")));
    all.extend(listener.new_flows.map(|rate| format!("{rate} new ones")));
    all.extend(listener.new_flows_per_source.map(|rate| format!("{rate} new ones of one client")));
    all.extend(listener.packets_per_source.map(|rate| format!("{rate} datagrams of one client")));
    step.plain(format!("lets in at most {}", all.join(", ")));
}

/// The targets for certain TLS clients, and which one is meant.
fn routes(step: &mut Step, listener: &Listener, hello: Option<&Hello>, taken: Option<usize>) {
    if listener.targets.iter().all(|target| target.when.is_none()) {
        return;
    }
    for (index, one) in listener.targets.iter().enumerate() {
        let to = &one.to.name;
        let Some(when) = &one.when else {
            match taken == Some(index) {
                true => step.plain(format!("everybody else goes to {to}")),
                false => step.add(Tone::Not, format!("{to}: for everybody else")),
            };
            continue;
        };
        if taken == Some(index) {
            step.plain(format!("TLS {} goes to {to}", wants(when)));
        } else if taken.is_some_and(|taken| taken < index) {
            step.add(Tone::Not, format!("{to}: for {}, and one before it fits", wants(when)));
        } else {
            step.add(
                Tone::Not,
                format!("{to}: for {}, and the client {}", wants(when), says(hello)),
            );
        }
    }
}

fn wants(when: &TlsMatch) -> String {
    let names: Vec<_> = when.names.iter().map(ToString::to_string).collect();
    let (names, alpn) = (names.join(", "), when.alpn.join(", "));
    match (names.is_empty(), alpn.is_empty()) {
        (false, true) => format!("for {names}"),
        (true, false) => format!("with {alpn}"),
        _ => format!("for {names} with {alpn}"),
    }
}

fn says(hello: Option<&Hello>) -> String {
    let Some(hello) = hello else { return "speaks no TLS".to_owned() };
    let spoken: Vec<_> = hello.protocols.iter().map(|one| String::from_utf8_lossy(one)).collect();
    let name =
        hello.name.as_deref().map_or("names nobody".to_owned(), |name| format!("asks for {name}"));
    if spoken.is_empty() { name } else { format!("{name} with {}", spoken.join(", ")) }
}

fn choice(
    step: &mut Step,
    (preview, foreseen): (&Preview, &Foreseen),
    listener: &Listener,
    service: &Service,
    client: SocketAddr,
) {
    let table = match listener.hash {
        HashTable::Maglev => "Maglev table",
        HashTable::Rendezvous => "rendezvous table",
    };
    let by = match listener.balance {
        Balance::ClientAddress => format!("hash of {} in a {table}", client.ip()),
        Balance::FiveTuple => format!("hash of both ends in a {table}"),
        Balance::RoundRobin => "in turn".to_owned(),
        Balance::LeastConnections => "fewest connections".to_owned(),
        Balance::TwoChoices => "the less loaded of two".to_owned(),
    };
    let mut to = Step::new(Tone::Plain, format!("to {}, {by}", service.name));
    for (index, endpoint) in service.endpoints.iter().enumerate() {
        let share = foreseen.shares.as_ref().and_then(|shares| shares.get(index));
        let share = share
            .map_or(String::new(), |share| format!(" ({:.1} % of all clients)", share * 100.0));
        let text = format!("{}{share}", called(endpoint));
        match foreseen.endpoint {
            Some(taken) if taken == index => to.plain(format!("{text} is its endpoint")),
            Some(_) => to.add(Tone::Not, text),
            None => to.plain(format!("perhaps {text}")),
        };
    }
    if let Some(why) = preview.keyless.as_ref().filter(|_| foreseen.shares.is_some()) {
        to.add(Tone::Doubt, format!("which one cannot be told without the key of the hash: {why}"));
    }
    if let Some(discover) = &service.discover {
        to.add(Tone::Doubt, format!("more endpoints are found by {}", discover.value.source));
    }
    step.below.push(to);
}

/// Name and address, once where they are the same.
pub(super) fn called(endpoint: &topology::Endpoint) -> String {
    let (name, address) = (endpoint.name.as_str(), endpoint.address.to_string());
    if name == address { address } else { format!("{name} {address}") }
}

/// The candidates, for programs.
pub(super) fn facts(explained: &mut Explained, onward: &Onward<'_>) {
    let name = |endpoint: &topology::Endpoint| json!(endpoint.address.to_string());
    let all: Vec<Value> = onward.service.endpoints.iter().map(name).collect();
    explained.fact("service", onward.service.name.as_str());
    explained.fact("candidates", all);
    if let Some(endpoint) = onward.endpoint.and_then(|at| onward.service.endpoints.get(at)) {
        explained.fact("endpoint", endpoint.address.to_string());
    }
}

/// A flow that is asked about for itself.
pub(super) fn flow(
    topology: &Topology,
    to: Option<&str>,
    flow: &Flow,
    explained: &mut Explained,
) -> anyhow::Result<()> {
    let doors = Door::all(topology).filter(|door| door.listener.protocol == flow.protocol);
    let doors: Vec<Door<'_>> = doors.collect();
    let door = one(&doors, to, protocol(flow.protocol))?;
    let hello = (flow.sni.is_some() || !flow.alpn.is_empty()).then(|| Hello {
        name: flow.sni.clone(),
        protocols: flow.alpn.iter().map(|one| one.clone().into_bytes()).collect(),
    });
    let (step, onward) = pass(topology, &door, flow.from, hello.as_ref());
    explained.fact("listener", door.name());
    explained.steps.push(step);
    match &onward {
        Some(onward) => facts(explained, onward),
        None => explained.fact("refused", true),
    }
    Ok(())
}

/// The listener that is meant.
fn one<'t>(doors: &[Door<'t>], to: Option<&str>, kind: &str) -> anyhow::Result<Door<'t>> {
    let names = || {
        let all: Vec<_> = doors.iter().map(Door::name).collect();
        all.join(", ")
    };
    match (to, doors) {
        (Some(to), _) => doors.iter().find(|door| door.name() == to).copied().ok_or_else(|| {
            anyhow::anyhow!("no {kind} listener is called {to}: there are {}", names())
        }),
        (None, []) => anyhow::bail!("the file has no {kind} listener"),
        (None, [only]) => Ok(*only),
        (None, _) => {
            anyhow::bail!("several listeners take {kind}: say which with --to: {}", names())
        }
    }
}
