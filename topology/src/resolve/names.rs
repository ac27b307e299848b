//! Every name that something can be sent to, and what it stands for. Not for names inside of one
//! group (issuers, limits): the group's own module.
//!
//! Invariant: a name that was noted as taken twice stands for its first owner.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::l4::{ListenAt, Protocol};
use crate::model::{Dependency, Endpoint, HealthCheck, Probe, Service};
use crate::raw::{self, Findings, Spot};
use crate::resolve::entries;
use crate::units::{
    At, DatabaseName, EndpointName, GroupName, ListenerName, Percent, ServiceName, Weight,
};

/// What names stand for.
pub(super) struct Names {
    /// Where relative paths start.
    pub(super) folder: PathBuf,
    /// The `services:` section.
    pub(super) services: Vec<Service>,
    /// Listeners of all balancer groups.
    pub(super) listeners: Vec<Listener>,
    /// Gateway groups, each as a service of its instances.
    pub(super) gateways: Vec<Service>,
    databases: Vec<(String, String)>,
    /// Where each name is found, as references write it.
    index: HashMap<String, Index>,
}

/// Position of what a name stands for, in the list of its kind.
#[derive(Clone, Copy)]
enum Index {
    Service(usize),
    Gateway(usize),
    Listener(usize),
    Database(usize),
}

/// A balancer's listener as something to send to.
pub(super) struct Listener {
    pub(super) group: String,
    pub(super) name: String,
    pub(super) protocol: Protocol,
    /// The service or gateway group behind it as it is typed, of several the one for everybody;
    /// may be unknown.
    pub(super) to: String,
    pub(super) endpoints: Vec<Endpoint>,
}

/// What a `to:` may lead to.
#[derive(Clone, Copy)]
pub(super) enum Destination<'n> {
    Service(&'n Service),
    Gateway(&'n Service),
    Listener(&'n Listener),
}

impl Names {
    /// Takes the names of the whole file; notes those that are used twice.
    pub(super) fn collect(
        folder: &Path,
        services: Vec<Service>,
        file: &raw::File,
        out: &mut Findings,
    ) -> Self {
        let mut names = Self {
            folder: folder.to_owned(),
            services,
            listeners: listeners(file),
            gateways: gateways(file),
            databases: databases(file),
            index: HashMap::new(),
        };
        names.index = names.indexed();
        unique(file, out);
        for (index, entry) in entries(file.services.as_ref()).iter().enumerate() {
            let uses = names.uses(&entry.value, out);
            if let Some(service) = names.services.get_mut(index) {
                service.uses = uses;
            }
        }
        names
    }

    fn uses(&self, service: &raw::Service, out: &mut Findings) -> Vec<At<Dependency>> {
        let mut all = Vec::new();
        for typed in service.uses.iter().flatten() {
            match self.dependency(&typed.value.0) {
                Some(value) => all.push(At { value, place: typed.spot.extent.place }),
                None => self.unknown(&typed.spot, &typed.value.0, Wanted::Anything, out),
            }
        }
        all
    }

    /// What a name in `uses:` stands for.
    pub(super) fn dependency(&self, text: &str) -> Option<Dependency> {
        if let Some(Index::Database(index)) = self.index.get(text) {
            let (group, name) = self.databases.get(*index)?;
            return Some(Dependency::Database(GroupName::new(group), DatabaseName::new(name)));
        }
        Some(match self.destination(text)? {
            Destination::Service(service) => Dependency::Service(service.name.clone()),
            Destination::Gateway(group) => Dependency::Gateway(GroupName::new(group.name.as_str())),
            Destination::Listener(listener) => Dependency::Listener(
                GroupName::new(&listener.group),
                ListenerName::new(&listener.name),
            ),
        })
    }

    /// What a `to:` leads to.
    pub(super) fn destination(&self, text: &str) -> Option<Destination<'_>> {
        match *self.index.get(text)? {
            Index::Service(index) => self.services.get(index).map(Destination::Service),
            Index::Gateway(index) => self.gateways.get(index).map(Destination::Gateway),
            Index::Listener(index) => self.listeners.get(index).map(Destination::Listener),
            Index::Database(_) => None,
        }
    }

    /// The first owner of a name keeps it.
    fn indexed(&self) -> HashMap<String, Index> {
        let services = self.services.iter().map(|service| service.name.to_string());
        let gateways = self.gateways.iter().map(|group| group.name.to_string());
        let listeners = self.listeners.iter().map(|l| format!("{}/{}", l.group, l.name));
        let databases = self.databases.iter().map(|(group, name)| format!("{group}/{name}"));
        let mut all = HashMap::new();
        let named = (services.enumerate().map(|(n, name)| (name, Index::Service(n))))
            .chain(gateways.enumerate().map(|(n, name)| (name, Index::Gateway(n))))
            .chain(listeners.enumerate().map(|(n, name)| (name, Index::Listener(n))))
            .chain(databases.enumerate().map(|(n, name)| (name, Index::Database(n))));
        for (name, index) in named {
            all.entry(name).or_insert(index);
        }
        all
    }

    /// Notes that a reference leads nowhere.
    pub(super) fn unknown(&self, at: &Spot, text: &str, wanted: Wanted, out: &mut Findings) {
        let mut known: Vec<String> = Vec::new();
        known.extend(self.services.iter().chain(&self.gateways).map(|s| s.name.to_string()));
        known.extend(self.listeners.iter().map(|l| format!("{}/{}", l.group, l.name)));
        if wanted == Wanted::Anything {
            known.extend(self.databases.iter().map(|(group, name)| format!("{group}/{name}")));
        }
        let kind = if text.contains('/') { "GROUP/LISTENER" } else { "service or gateway group" };
        out.unknown(at, kind, text, known.iter().map(String::as_str));
    }

    /// The service's name at the end of the chain, for records.
    pub(super) fn behind(&self, listener: &Listener) -> ServiceName {
        let mut listener = listener;
        // A circle of listeners is an error of its own; here it must only come to an end.
        for _ in 0..=self.listeners.len() {
            match self.destination(&listener.to) {
                Some(Destination::Listener(next)) => listener = next,
                Some(Destination::Service(service) | Destination::Gateway(service)) => {
                    return service.name.clone();
                }
                None => break,
            }
        }
        ServiceName::new(&listener.to)
    }
}

/// What a reference may lead to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Services, gateway groups and listeners.
    Traffic,
    /// Databases too.
    Anything,
}

/// Notes a name that is not made of letters, digits and `-_.`, or is too long.
pub(super) fn lawful(kind: &str, name: &str, at: &Spot, out: &mut Findings) {
    let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !first || name.len() > 63 || !name.chars().all(letter) {
        out.error(at, format!("`{name}` is no name of a {kind}"))
            .allowed("a letter or digit, then letters, digits, - _ and ., at most 63");
    }
}

/// Notes names that would make a reference ambiguous, and instances that share one name.
fn unique(file: &raw::File, out: &mut Findings) {
    let mut plain: Vec<(&str, &str, &Spot)> = Vec::new();
    let mut before_slash = Vec::new();
    let mut instances = Vec::new();
    plain.extend(entries(file.services.as_ref()).iter().map(|e| ("service", &*e.name, &e.spot)));
    for e in entries(file.gateways.as_ref()) {
        plain.push(("gateway group", &e.name, &e.spot));
        instances.extend(entries(e.value.instances.as_ref()).iter().map(instance));
    }
    for e in entries(file.nlbs.as_ref()) {
        before_slash.push(("balancer group", &*e.name, &e.spot));
        instances.extend(entries(e.value.instances.as_ref()).iter().map(instance));
    }
    for e in entries(file.pools.as_ref()) {
        before_slash.push(("pool group", &e.name, &e.spot));
        instances.extend(entries(e.value.instances.as_ref()).iter().map(instance));
    }
    for mut list in [plain, before_slash, instances] {
        list.sort_by_key(|(_, _, at)| at.extent.place);
        let mut taken: HashMap<&str, (&str, u32)> = HashMap::new();
        for (kind, name, at) in list {
            if kind != "service" {
                lawful(kind, name, at, out);
            }
            if let Some((other, line)) = taken.get(name) {
                let what = format!("`{name}` is already the name of the {other} on line {line}");
                out.error(at, what).hint("give one of them another name".to_owned());
            } else {
                taken.insert(name, (kind, at.extent.place.line));
            }
        }
    }
}

fn instance<T>(entry: &raw::Entry<T>) -> (&'static str, &str, &Spot) {
    ("instance", &entry.name, &entry.spot)
}

fn listeners(file: &raw::File) -> Vec<Listener> {
    let mut all = Vec::new();
    for group in entries(file.nlbs.as_ref()) {
        for listener in entries(group.value.listeners.as_ref()) {
            let raw = &listener.value;
            let (protocol, at) = match (&raw.tcp, &raw.udp) {
                (_, Some(at)) => (Protocol::Udp, at),
                (Some(at), None) => (Protocol::Tcp, at),
                (None, None) => continue,
            };
            let instances = entries(group.value.instances.as_ref());
            all.push(Listener {
                group: group.name.clone(),
                name: listener.name.clone(),
                protocol,
                to: destination(raw).map_or(String::new(), |to| to.value.0.clone()),
                endpoints: on_instances(instances, at.value, raw),
            });
        }
    }
    all
}

/// Whom a listener sends to; of several the one for everybody, else the first.
fn destination(listener: &raw::Listener) -> Option<&raw::Typed<raw::Text>> {
    let route = || listener.tls_routes.iter().flatten().find_map(|route| route.to.as_ref());
    listener.to.as_ref().or_else(route)
}

/// A listener's addresses as endpoints, one per instance unless it has a fixed one.
fn on_instances(
    instances: &[raw::Entry<raw::NlbInstance>],
    at: ListenAt,
    listener: &raw::Listener,
) -> Vec<Endpoint> {
    let place = listener.spot.extent.place;
    let mut all: Vec<Endpoint> = Vec::new();
    for instance in instances {
        let address = match (at, &instance.value.address) {
            (ListenAt::Address(address), _) => address,
            (ListenAt::Instance(port), Some(ip)) => SocketAddr::new(ip.value, port),
            (ListenAt::Instance(_), None) => continue,
        };
        let name = EndpointName::new(&instance.name);
        if !all.iter().any(|endpoint| endpoint.address == address) {
            all.push(Endpoint { name, address, weight: Weight::default(), zone: None, place });
        }
    }
    all
}

fn gateways(file: &raw::File) -> Vec<Service> {
    let groups = entries(file.gateways.as_ref()).iter();
    let endpoint = |entry: &raw::Entry<raw::GatewayInstance>| {
        let listen = entry.value.listen.as_ref()?;
        let (name, place) = (EndpointName::new(&entry.name), listen.spot.extent.place);
        let (address, weight) = (listen.value, Weight::default());
        Some(Endpoint { name, address, weight, zone: None, place })
    };
    groups
        .map(|group| Service {
            name: ServiceName::new(&group.name),
            endpoints: entries(group.value.instances.as_ref())
                .iter()
                .filter_map(endpoint)
                .collect(),
            discover: None,
            panic_threshold: Percent(0),
            slow_start: None,
            health: Some(accepts()),
            run: None,
            uses: Vec::new(),
            place: group.spot.extent.place,
        })
        .collect()
}

/// The check of one tier by another: a connection is accepted.
pub(super) fn accepts() -> HealthCheck {
    let second = Duration::from_secs(1);
    HealthCheck { probe: Probe::Tcp, interval: second, timeout: second, rise: 2, fall: 3 }
}

fn databases(file: &raw::File) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for group in entries(file.pools.as_ref()) {
        for database in entries(group.value.databases.as_ref()) {
            all.push((group.name.clone(), database.name.clone()));
            if database.value.replicas.as_ref().is_some_and(|r| !r.is_empty()) {
                all.push((group.name.clone(), super::pool::alias(database)));
            }
        }
    }
    all
}
