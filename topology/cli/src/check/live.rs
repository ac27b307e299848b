//! What only the world can tell of a file: whether what it names is there, addresses can be listened on, names
//! are known, Redis, PostgreSQL and issuers answer as the file says. Not for starting anything. Called by `check --live`.
//!
//! Invariant: all are tried side by side and each for [`PATIENCE`] at most; nothing is changed anywhere.

mod files;
mod issuers;
mod postgres;

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use common::net::bind::{self, Reuse};
use futures_util::future::join_all;
use l7_gateway::redis_server::{self, RedisServer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use topology::gateway::{self, KeySource, Login};
use topology::l4::{ListenAt, Protocol};
use topology::model::{Discover, DiscoverSource, Probe};
use topology::problem::{Problem, Severity};
use topology::units::At;
use topology::{Place, Topology};

use crate::fetch;

/// So long each thing may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// One thing that is tried; what it finds.
pub(super) type Trial<'t> = Pin<Box<dyn Future<Output = Vec<Problem>> + 't>>;

/// Tries everything; what is wrong, in the file's order.
pub(super) async fn problems(topology: &Topology) -> Vec<Problem> {
    let mut trials: Vec<Trial<'_>> = Vec::new();
    listeners(topology, &mut trials);
    services(topology, &mut trials);
    for group in &topology.gateways {
        stores(group, &mut trials);
        issuers::trials(group, &mut trials);
    }
    for group in &topology.pools {
        postgres::trials(topology, group, &mut trials);
    }
    let mut all: Vec<Problem> = join_all(trials).await.into_iter().flatten().collect();
    all.extend(files::problems(topology));
    all.sort_by(|a, b| (a.at, &a.what).cmp(&(b.at, &b.what)));
    all.dedup();
    all
}

/// Whatever does not answer in time is told so.
pub(super) async fn bounded<T, E: std::fmt::Display>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match timeout(PATIENCE, work).await {
        Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

pub(super) fn wrong(at: Place, what: impl Into<String>, hint: &str) -> Problem {
    found(at, Severity::Error, what.into(), hint)
}

pub(super) fn odd(at: Place, what: impl Into<String>, hint: &str) -> Problem {
    found(at, Severity::Warning, what.into(), hint)
}

fn found(at: Place, severity: Severity, what: String, hint: &str) -> Problem {
    let hint = Some(hint.to_owned());
    Problem { at, width: 1, path: String::new(), what, allowed: None, hint, severity }
}

/// A place where an instance listens.
struct Ear {
    address: SocketAddr,
    protocol: Protocol,
    at: Place,
    /// Of the instance that may be running already.
    admin: Option<SocketAddr>,
}

fn listeners<'t>(topology: &'t Topology, trials: &mut Vec<Trial<'t>>) {
    let mut ears = Vec::new();
    let mut add = |address, protocol, at, admin: Option<&At<SocketAddr>>| {
        ears.push(Ear { address, protocol, at, admin: admin.map(|at| at.value) });
    };
    for group in &topology.nlbs {
        for one in &group.instances {
            for listener in &group.listeners {
                let place = match listener.at.value {
                    ListenAt::Instance(_) => one.place,
                    ListenAt::Address(_) => listener.at.place,
                };
                let address = listener.at.value.on(one);
                add(address, listener.protocol, place, one.admin.as_ref());
            }
        }
    }
    for one in topology.gateways.iter().flat_map(|group| &group.instances) {
        add(one.listen.value, Protocol::Tcp, one.listen.place, one.admin.as_ref());
    }
    for one in topology.pools.iter().flat_map(|group| &group.instances) {
        for at in &one.listen {
            if let Some(address) = at.value.ip() {
                add(address, Protocol::Tcp, at.place, one.admin.as_ref());
            }
        }
    }
    let nlbs = topology.nlbs.iter().flat_map(|group| &group.instances).map(|one| &one.admin);
    let gateways = topology.gateways.iter().flat_map(|g| &g.instances).map(|one| &one.admin);
    let pools = topology.pools.iter().flat_map(|g| &g.instances).map(|one| &one.admin);
    for admin in nlbs.chain(gateways).chain(pools).flatten() {
        let (address, at) = (admin.value, admin.place);
        ears.push(Ear { address, protocol: Protocol::Tcp, at, admin: Some(address) });
    }
    trials.extend(ears.into_iter().map(|ear| Box::pin(listen(ear)) as Trial<'_>));
}

async fn listen(ear: Ear) -> Vec<Problem> {
    let address = ear.address;
    let tried = match ear.protocol {
        Protocol::Tcp => bind::tcp(address, Reuse::No).map(drop),
        Protocol::Udp => bind::udp(address, Reuse::No).map(drop),
    };
    let Err(error) = tried else { return Vec::new() };
    let problem = match error.kind() {
        // Another host's.
        ErrorKind::AddrNotAvailable => None,
        ErrorKind::AddrInUse => {
            let ours = match ear.admin {
                Some(admin) => fetch::get(admin, "/livez").await.is_ok(),
                None => false,
            };
            let hint = "see who has it with `ss -lntup`, or choose another address";
            (!ours).then(|| {
                wrong(ear.at, format!("{address} cannot be listened on: it is busy"), hint)
            })
        }
        ErrorKind::PermissionDenied => {
            let hint = "give the program CAP_NET_BIND_SERVICE, or a port over 1023";
            Some(wrong(ear.at, format!("{address} cannot be listened on: not permitted"), hint))
        }
        _ => {
            let hint = "choose another address";
            Some(wrong(ear.at, format!("{address} cannot be listened on: {error}"), hint))
        }
    };
    problem.into_iter().collect()
}

/// Endpoints that should answer, and names that should be known.
fn services<'t>(topology: &'t Topology, trials: &mut Vec<Trial<'t>>) {
    for service in &topology.services {
        let datagrams = topology.nlbs.iter().flat_map(|group| &group.listeners).any(|listener| {
            listener.protocol == Protocol::Udp
                && listener.services().any(|to| to.name == service.name)
        });
        let probed = service.health.as_ref().map(|health| &health.probe);
        let speaks = if datagrams || matches!(probed, Some(Probe::Udp { .. })) {
            Protocol::Udp
        } else {
            Protocol::Tcp
        };
        if speaks == Protocol::Tcp {
            for endpoint in &service.endpoints {
                trials.push(Box::pin(reachable(endpoint.address, endpoint.place)));
            }
        }
        if let Some(At { value, place }) = &service.discover {
            trials.push(Box::pin(named(value, *place, speaks)));
        }
    }
}

/// A source that must name at least one endpoint; who is named must answer as the file's own must. Asked
/// as instances ask it: a resolver of the file's own, or the system's.
async fn named(discover: &Discover, at: Place, speaks: Protocol) -> Vec<Problem> {
    let source = &discover.source;
    let hint = match source {
        DiscoverSource::Dns { .. } | DiscoverSource::Srv { .. } => {
            "correct the name or its resolver, or make the record; instances would wait for it"
        }
        _ => "start it, or correct what the file says of it; instances would wait for it",
    };
    let endpoints = match discovery::ask_once(discover, PATIENCE).await {
        Ok(endpoints) => endpoints,
        Err(why) => return vec![wrong(at, format!("{source} gives no answer: {why}"), hint)],
    };
    if endpoints.is_empty() {
        return vec![odd(at, format!("{source} names no endpoint"), "start the service's servers")];
    }
    if speaks == Protocol::Udp {
        return Vec::new();
    }
    let tried = endpoints.iter().take(MOST_NAMED).map(|one| reachable(one.address, at));
    join_all(tried).await.into_iter().flatten().collect()
}

/// So many of the endpoints that a source names are tried: each takes a descriptor.
const MOST_NAMED: usize = 100;

async fn reachable(address: SocketAddr, at: Place) -> Vec<Problem> {
    let tried = bounded(TcpStream::connect(address)).await;
    let hint = "start it, or look at its address and the firewall in between";
    let told = |why: String| odd(at, format!("{address} is not reached: {why}"), hint);
    tried.err().map(told).into_iter().collect()
}

/// A name that DNS must know.
pub(super) async fn known(host: &str, port: u16, at: Place) -> Vec<Problem> {
    let hint = "correct the name, or make the record; `getent ahosts NAME` asks the same";
    let tried = bounded(tokio::net::lookup_host((host, port))).await;
    match tried.map(Iterator::count) {
        Ok(0) => vec![wrong(at, format!("DNS knows no address of {host}"), hint)],
        Ok(_) => Vec::new(),
        Err(why) => vec![wrong(at, format!("DNS knows no {host}: {why}"), hint)],
    }
}

/// Redis in all its parts.
fn stores<'t>(group: &'t gateway::Group, trials: &mut Vec<Trial<'t>>) {
    if let Some(store) = &group.limit_store {
        trials.extend(store.redis.iter().map(|at| Box::pin(redis(at, &store.login)) as Trial<'_>));
    }
    if let Some(list) = &group.denylist {
        trials.push(Box::pin(redis(&list.redis, &list.login)));
    }
    for source in &group.api_keys {
        match &source.from {
            KeySource::Redis(at, login) => trials.push(Box::pin(redis(at, login))),
            KeySource::Postgres(at, ..) => trials.push(Box::pin(database(at))),
            KeySource::File(_) => {}
        }
    }
}

async fn redis(at: &At<String>, login: &Login) -> Vec<Problem> {
    let hint = "start it, or correct its address, user, password or authority";
    let told =
        |why: String| vec![wrong(at.place, format!("Redis does not let us in: {why}"), hint)];
    let server = match RedisServer::new(&at.value, login) {
        Ok(server) => server,
        Err(error) => return told(error.to_string()),
    };
    let config = redis_server::patient();
    match bounded(server.connect(&config)).await {
        Ok(_) => Vec::new(),
        Err(why) => told(why),
    }
}

/// `postgres://USER@HOST:PORT/DATABASE`, as far as somebody listens there.
async fn database(at: &At<String>) -> Vec<Problem> {
    let place = at.value.split_once("://").map_or(at.value.as_str(), |(_, rest)| rest);
    let place = place.split(['/', '?']).next().unwrap_or_default();
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let place = if place.contains(':') { place.to_owned() } else { format!("{place}:5432") };
    let hint = "start it, or correct its address";
    let told = |why| wrong(at.place, format!("the store of API keys is not reached: {why}"), hint);
    bounded(TcpStream::connect(&place)).await.err().map(told).into_iter().collect()
}
