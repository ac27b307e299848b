//! What an answer says of one service: who is assigned to it, with which weight, and how well. Not for
//! asking. Called by its parent.
//!
//! Invariant: an answer is refused whole or understood whole: nothing of one that has a mistake is used.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use prost::{DecodeError, Message};
use topology::Weight;

use super::messages::{
    ASSIGNMENT, Assignment, Fields, Group, Member, Metadata, Packed, Response, Value, WRAPPED,
    Whereabouts, Wrapped,
};
use crate::fault::short;
use crate::instance::{Instance, Takes};

/// What is said of a service.
#[derive(Debug, PartialEq)]
pub(super) struct Assigned {
    pub(super) instances: Vec<Instance>,
    /// What is lawful and of no use to us.
    pub(super) left_out: Option<String>,
}

impl Assigned {
    /// It has endpoints, or nothing was in the way of its having some.
    pub(super) fn is_useful(&self) -> bool {
        self.left_out.is_none() || !self.instances.is_empty()
    }
}

/// An endpoint that may be used.
struct Candidate {
    instance: Instance,
    /// The best of these are used: how well it is, then the priority that it was given.
    rank: (Class, u32),
    /// Its part of what its locality gets.
    share: u32,
    locality: usize,
    locality_share: Option<u32>,
}

/// How well an endpoint is, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Well,
    Degraded,
    Leaving,
}

/// What an answer says of this service, of its endpoints of this version; `None`: nothing.
///
/// # Errors
/// Why the answer must be refused, in words that the control plane is told.
pub(super) fn read(
    response: &Response,
    service: &str,
    version: Option<&str>,
) -> Result<Option<Assigned>, String> {
    let mut said = None;
    for packed in &response.resources {
        let Some(resource) = unwrapped(packed.clone())? else { continue };
        let assignment = Assignment::decode(resource).map_err(|fault| odd("resource", &fault))?;
        if assignment.cluster_name.is_empty() {
            return Err("an assignment has no cluster_name".to_owned());
        }
        if assignment.cluster_name != service {
            continue;
        }
        if said.replace(assignment).is_some() {
            return Err(format!("`{}` is assigned twice", short(service)));
        }
    }
    said.map(|assignment| assigned(&assignment, version)).transpose()
}

/// The resource itself, of the type that was asked for; `None`: it is said to live on as it was (xDS, "TTL":
/// a heartbeat is an envelope with nothing in it).
fn unwrapped(packed: Bytes) -> Result<Option<Bytes>, String> {
    let mut packed = Packed::decode(packed).map_err(|fault| odd("resource", &fault))?;
    if packed.type_url == WRAPPED {
        let wrapped = Wrapped::decode(packed.value).map_err(|fault| odd("resource", &fault))?;
        let Some(resource) = wrapped.resource else { return Ok(None) };
        packed = resource;
    }
    if packed.type_url != ASSIGNMENT {
        return Err(format!("a resource has the type `{}`", short(&packed.type_url)));
    }
    Ok(Some(packed.value))
}

fn assigned(assignment: &Assignment, version: Option<&str>) -> Result<Assigned, String> {
    let (mut candidates, mut left_out) = (Vec::new(), None);
    for (locality, bytes) in assignment.endpoints.iter().enumerate() {
        let group = Group::decode(bytes.clone()).map_err(|fault| odd("locality", &fault))?;
        if group.priority > LAST_PRIORITY {
            return Err(format!("priority {} is over {LAST_PRIORITY}", group.priority));
        }
        let locality_share = share(group.load_balancing_weight, "locality")?;
        if group.listed.is_some() || group.elsewhere.is_some() {
            let what =
                "a locality has its endpoints elsewhere (LEDS), where they are not looked up";
            left_out.get_or_insert_with(|| what.to_owned());
        }
        let zone = group.locality.map(|place| place.zone).filter(|zone| !zone.is_empty());
        if zone.as_ref().is_some_and(|zone| zone.len() > LONGEST_NAME) {
            return Err(format!("the name of a zone is longer than {LONGEST_NAME} bytes"));
        }
        for bytes in &group.lb_endpoints {
            let member = Member::decode(bytes.clone()).map_err(|fault| odd("endpoint", &fault))?;
            let share = share(member.load_balancing_weight, "endpoint")?.unwrap_or(1);
            let class = class(member.health_status)?;
            let address = match address(&member)? {
                Ok(address) => address,
                Err(cause) => {
                    left_out.get_or_insert(cause);
                    continue;
                }
            };
            let (Some(class), version) = (class, named_version(member.metadata.as_ref())?) else {
                continue;
            };
            let takes = if class == Class::Leaving { Takes::Nothing } else { Takes::New };
            let zone = zone.clone();
            let instance = Instance { zone, version, takes, ..Instance::at(address) };
            let rank = (class, group.priority);
            candidates.push(Candidate { instance, rank, share, locality, locality_share });
        }
    }
    candidates.retain(|one| version.is_none_or(|v| one.instance.version.as_deref() == Some(v)));
    Ok(Assigned { instances: chosen(candidates), left_out })
}

/// The best of all, with their weights, and who is leaving beside them.
fn chosen(candidates: Vec<Candidate>) -> Vec<Instance> {
    let Some(best) = candidates.iter().map(|one| one.rank).min() else { return Vec::new() };
    let (_, priority) = best;
    let (chosen, others): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|one| one.rank == best);
    let leaving = others.into_iter().filter(|one| one.rank == (Class::Leaving, priority));
    let weights = weights(&chosen);
    let weighed = chosen.into_iter().zip(weights);
    let weighed = weighed.map(|(one, weight)| Instance { weight, ..one.instance });
    weighed.chain(leaving.map(|one| one.instance)).collect()
}

/// Where each locality has a weight, an endpoint's is its part of that; else its own alone.
fn weights(chosen: &[Candidate]) -> Vec<Weight> {
    let mut sums: BTreeMap<usize, u128> = BTreeMap::new();
    for one in chosen {
        *sums.entry(one.locality).or_default() += u128::from(one.share);
    }
    let weighed = chosen.iter().all(|one| one.locality_share.is_some());
    let part = |one: &Candidate| {
        let (own, all) = (u128::from(one.share), sums.get(&one.locality).copied());
        match (one.locality_share, all) {
            (Some(locality), Some(all)) if weighed && all > 0 => {
                ((u128::from(locality) * own) << 32) / all
            }
            _ => own,
        }
    };
    let parts: Vec<u128> = chosen.iter().map(part).collect();
    scaled(&parts)
}

/// In small numbers what these are to one another; nobody is left with nothing.
fn scaled(parts: &[u128]) -> Vec<Weight> {
    let common = parts.iter().copied().fold(0, divisor).max(1);
    let most = parts.iter().max().copied().unwrap_or(1) / common;
    let small = |part: u128| {
        let part = part / common;
        let part = if most > HEAVIEST { (part * HEAVIEST + most / 2) / most } else { part };
        Weight(u16::try_from(part.clamp(1, HEAVIEST)).unwrap_or(1))
    };
    parts.iter().map(|part| small(*part)).collect()
}

/// The greatest that divides both.
fn divisor(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn share(weight: Option<super::messages::Number>, whose: &str) -> Result<Option<u32>, String> {
    match weight.map(|weight| weight.value) {
        Some(0) => Err(format!("the weight of a {whose} is 0")),
        weight => Ok(weight),
    }
}

/// `HealthStatus`; `None`: it serves nobody.
fn class(status: i32) -> Result<Option<Class>, String> {
    match status {
        // UNKNOWN, HEALTHY.
        0 | 1 => Ok(Some(Class::Well)),
        // UNHEALTHY, TIMEOUT.
        2 | 4 => Ok(None),
        // DRAINING.
        3 => Ok(Some(Class::Leaving)),
        // DEGRADED.
        5 => Ok(Some(Class::Degraded)),
        other => Err(format!("there is no health status {other}")),
    }
}

/// Where an endpoint is; or why that is lawful and of no use.
fn address(member: &Member) -> Result<Result<SocketAddr, String>, String> {
    if member.endpoint_name.is_some() {
        return Ok(Err("an endpoint stands elsewhere by its name".to_owned()));
    }
    let server = member.endpoint.as_ref().ok_or("an endpoint has no address")?;
    let place = server.address.as_ref().ok_or("an endpoint has no address")?;
    let socket = match place {
        Whereabouts { socket_address: Some(socket), .. } => socket,
        Whereabouts { pipe: Some(_), .. } => {
            return Ok(Err("an endpoint is a socket in a file system".to_owned()));
        }
        Whereabouts { envoy_internal_address: Some(_), .. } => {
            return Ok(Err("an endpoint is a listener inside Envoy".to_owned()));
        }
        Whereabouts { .. } => return Err("an endpoint has no address".to_owned()),
    };
    let text = short(&socket.address);
    let ip: IpAddr = socket.address.parse().map_err(|_| format!("`{text}` is no IP address"))?;
    match (socket.port_value, &socket.named_port) {
        (_, Some(name)) => {
            Ok(Err(format!("{text} has the port `{}`, which is no number", short(name))))
        }
        (Some(port), None) if (1..=65_535).contains(&port) => {
            let port = u16::try_from(port).map_err(|fault| fault.to_string())?;
            Ok(Ok(SocketAddr::new(ip, port)))
        }
        (port, None) => Err(format!("{text} has the port {}", port.unwrap_or_default())),
    }
}

/// `version` of the metadata that load balancers go by, if it is a text.
fn named_version(metadata: Option<&Metadata>) -> Result<Option<String>, String> {
    let Some(fields) = metadata.and_then(|all| all.filter_metadata.get("envoy.lb")) else {
        return Ok(None);
    };
    let fields = Fields::decode(&fields[..]).map_err(|fault| odd("metadata", &fault))?;
    let Some(value) = fields.fields.get("version") else { return Ok(None) };
    let value = Value::decode(&value[..]).map_err(|fault| odd("metadata", &fault))?;
    Ok(value.string_value.filter(|text| text.len() <= LONGEST_NAME))
}

fn odd(what: &str, fault: &DecodeError) -> String {
    format!("a {what} cannot be read: {}", short(&fault.to_string()))
}

/// As Envoy bounds them.
const LAST_PRIORITY: u32 = 128;

/// Of a zone or a version.
const LONGEST_NAME: usize = 253;

/// The most that an endpoint weighs.
const HEAVIEST: u128 = 1000;
