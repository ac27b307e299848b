//! The way from a gateway: through a balancer where one stands in between, to a service or to the next
//! gateway, and what that one gets. Not for its stages. Called by `gateway`.
//!
//! Invariant: what the next gateway takes for the client is the one before it.

use std::net::SocketAddr;

use anyhow::Context as _;
use common::tls::principal::Principal;
use common::tls::{TlsError, store};
use http::Uri;
use l4_nlb::tcp::hello::Hello;
use l7_gateway::preview::Foreseen;
use serde_json::{Value, json};
use topology::Topology;
use topology::gateway::{Group, Instance, RouteTo, Via};
use topology::l4::Protocol;
use topology::upstream::{Upstream, UpstreamTls};

use super::entry::{self, Arrival};
use crate::explain::balancer::{self, Door};
use crate::explain::question::Request;
use crate::explain::tree::{Explained, Step, Tone};

/// A request at the door of the next gateway.
pub(super) struct Inner<'t> {
    pub(super) arrival: Arrival<'t>,
    pub(super) request: Request,
}

/// The way to the service, or to the next gateway.
pub(super) fn go<'t>(
    topology: &'t Topology,
    group: &Group,
    instance: &Instance,
    foreseen: &Foreseen,
    explained: &mut Explained,
) -> anyhow::Result<Option<Inner<'t>>> {
    let upstream = match foreseen.to {
        Some(RouteTo::Service(id)) => group.upstreams.get(id.0),
        _ => None,
    };
    let Some(upstream) = upstream else { return Ok(None) };
    explained.fact("service", upstream.service.as_str());
    explained.fact("candidates", addresses(&upstream.endpoints));
    let taken = foreseen.endpoint.and_then(|at| upstream.endpoints.get(at));
    if let Some(endpoint) = taken {
        explained.fact("endpoint", endpoint.address.to_string());
    }
    // The gateway's own end of the connection; its port is the system's choice.
    let client = SocketAddr::new(instance.listen.value.ip(), 0);
    let arrival = if upstream.via == Via::Balancer {
        let to = |door: &Door<'_>| upstream.endpoints.iter().any(|e| e.address == door.address());
        let tcp = |door: &Door<'_>| door.listener.protocol == Protocol::Tcp;
        match Door::all(topology).filter(tcp).find(to) {
            None => None,
            Some(door) => {
                let hello = upstream.tls.as_ref().map(|tls| hello(tls, door.address()));
                let (step, onward) = balancer::pass(topology, &door, client, hello.as_ref());
                explained.steps.push(step);
                let Some(onward) = onward else { return Ok(None) };
                explained.fact("candidates", addresses(&onward.service.endpoints));
                entry::behind(topology, door, &onward, client)
            }
        }
    } else {
        let name = upstream.service.as_str();
        let next = topology.gateways.iter().find(|group| group.name.as_str() == name);
        next.and_then(|group| entry::direct(group, client, taken.map(|one| one.address)))
    };
    match arrival {
        Some(arrival) => {
            let principal = match principal(upstream, arrival.group) {
                Ok(principal) => principal,
                Err(error) => {
                    let name = &arrival.group.name;
                    let text = format!(
                        "what {name} does with it depends on the certificate that it is shown: {error}"
                    );
                    explained.steps.push(Step::new(Tone::Doubt, text));
                    return Ok(None);
                }
            };
            let mut request = request(upstream, &arrival, foreseen, client)?;
            request.principal = principal;
            Ok(Some(Inner { arrival, request }))
        }
        None => {
            service(topology, upstream, explained);
            Ok(None)
        }
    }
}

fn addresses(all: &[topology::Endpoint]) -> Vec<Value> {
    all.iter().map(|one| json!(one.address.to_string())).collect()
}

/// What a gateway says first where it speaks TLS.
fn hello(tls: &UpstreamTls, address: SocketAddr) -> Hello {
    let name = tls.name.as_ref().map(|name| name.value.to_ascii_lowercase());
    let named = name.or_else(|| Some(address.ip().to_string()));
    let name = named.filter(|name| name.parse::<std::net::IpAddr>().is_err());
    Hello { name, protocols: vec![b"h2".to_vec(), b"http/1.1".to_vec()] }
}

/// What the next gateway is sent.
fn request(
    upstream: &Upstream,
    arrival: &Arrival<'_>,
    foreseen: &Foreseen,
    from: SocketAddr,
) -> anyhow::Result<Request> {
    let sent = foreseen.sent.as_ref().context("a request that goes on was made")?;
    let at = arrival.instance.listen.value;
    let named = upstream.tls.as_ref().and_then(|tls| tls.name.as_ref());
    let authority = named.map_or(at.to_string(), |name| format!("{}:{}", name.value, at.port()));
    let scheme = if upstream.tls.is_some() { "https" } else { "http" };
    let path = sent.uri.path_and_query().map_or("/", |path| path.as_str());
    let url: Uri = format!("{scheme}://{authority}{path}").parse()?;
    let headers = sent.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    Ok(Request { method: sent.method.clone(), url, headers, api_key: None, principal: None, from })
}

/// Whom the certificate names that the next gateway is shown, where it asks for one.
///
/// # Errors
/// It is not on this host.
fn principal(upstream: &Upstream, group: &Group) -> Result<Option<Principal>, TlsError> {
    let shown = upstream.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
    let Some(certificate) = shown.filter(|_| super::asks(group)) else { return Ok(None) };
    let loaded = store::load(certificate)?;
    Ok(Principal::of(&loaded.leaf().into()))
}

fn service(topology: &Topology, upstream: &Upstream, explained: &mut Explained) {
    let service = topology.services.iter().find(|one| one.name == upstream.service);
    let Some(service) = service else { return };
    let mut step = Step::place(format!("service {}", service.name));
    for endpoint in &service.endpoints {
        step.plain(balancer::called(endpoint));
    }
    for uses in &service.uses {
        use topology::model::Dependency;
        let text = match &uses.value {
            Dependency::Database(group, name) => {
                let at = crate::explain::sql::entrance(topology, group.as_str());
                let at = at.map_or(String::new(), |at| format!(" at {at}"));
                format!("may ask database {name} through {group}{at}; see --sql")
            }
            Dependency::Listener(group, listener) => format!("may call {group}/{listener}"),
            Dependency::Gateway(name) => format!("may call gateway {name}"),
            Dependency::Service(name) => format!("may call service {name}"),
        };
        step.plain(text);
    }
    explained.steps.push(step);
}
