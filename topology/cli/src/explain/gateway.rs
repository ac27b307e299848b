//! What becomes of a request: the way in, the ten stages of a gateway, and the way on to a service. The
//! deciding is `l7-gateway`'s. Called by `mod`.
//!
//! Invariant: every stage is told, also that it does not run.

mod entry;
mod onward;
mod stages;

use std::collections::HashMap;
use std::time::SystemTime;

use anyhow::Context as _;
use http::header::{HOST, HeaderValue};
use http::request::Parts;
use l7_gateway::exchange::{Candidate, Transport};
use l7_gateway::order::{Order, Placed};
use l7_gateway::preview::{Foreseen, Preview};
use serde_json::{Value, json};
use topology::Topology;
use topology::gateway::{Group, Instance};
use topology::tls::ClientCertificates;

use self::entry::Arrival;
use self::onward::Inner;
use super::question::Request;
use super::tree::{Explained, Step, Tone};

/// Gateway groups as their instances would run them, each built once.
#[derive(Debug, Default)]
pub(super) struct Previews(HashMap<String, Preview>);

impl Previews {
    fn of(&mut self, group: &Group, instance: &Instance) -> anyhow::Result<&Preview> {
        let name = group.name.to_string();
        if !self.0.contains_key(&name) {
            let preview = Preview::new(group, &instance.name);
            let place = |error: &l7_gateway::snapshot::BuildError| {
                format!("{}:{}", error.place().line, error.place().column)
            };
            let preview = preview.map_err(|error| anyhow::anyhow!("{}: {error}", place(&error)))?;
            self.0.insert(name.clone(), preview);
        }
        self.0.get(&name).context("it was built")
    }
}

/// Explains a request.
pub(super) async fn explain(
    topology: &Topology,
    previews: &mut Previews,
    to: Option<&str>,
    (request, wall): (&Request, SystemTime),
    explained: &mut Explained,
) -> anyhow::Result<()> {
    let (step, arrival) = entry::arrive(topology, to, request)?;
    explained.steps.extend(step);
    let Some(arrival) = arrival else {
        explained.fact("refused", true);
        return Ok(());
    };
    if let Some(door) = &arrival.door {
        explained.fact("listener", door.name());
    }
    if request.principal.is_some() {
        let name = &arrival.group.name;
        anyhow::ensure!(asks(arrival.group), "--principal: gateway {name} asks for no certificate");
    }
    let mut next = pass(topology, previews, (&arrival, request, wall), explained).await?;
    let mut behind = Vec::new();
    // The file has no cycle of gateways that each lead to the next, yet whoever asks must get an answer.
    for _ in 0..topology.gateways.len() {
        let Some(Inner { arrival, request }) = next.take() else { break };
        let mut own = Explained::new(String::new());
        next = pass(topology, previews, (&arrival, &request, wall), &mut own).await?;
        explained.steps.append(&mut own.steps);
        behind.push(Value::Object(own.facts));
    }
    if !behind.is_empty() {
        explained.fact("behind", behind);
    }
    Ok(())
}

/// Leads a request through one gateway; where it goes on to another one, what that one gets.
async fn pass<'t>(
    topology: &'t Topology,
    previews: &mut Previews,
    (arrival, request, wall): (&Arrival<'t>, &Request, SystemTime),
    explained: &mut Explained,
) -> anyhow::Result<Option<Inner<'t>>> {
    let (group, instance) = (arrival.group, arrival.instance);
    explained.fact("gateway", group.name.as_str());
    let among: Vec<Value> = arrival.among.iter().map(|one| json!(one.name.as_str())).collect();
    explained.fact("gateways", among);
    let mut step = place(arrival);
    if let Some(why) = refusal(arrival, request) {
        step.add(Tone::Refused, why);
        explained.fact("refused", true);
        explained.steps.push(step);
        return Ok(None);
    }
    let preview = previews.of(group, instance)?;
    let foreseen = preview.ask(question(group, arrival, request, wall)?).await;
    stages::tell(&mut step, (group, preview), arrival, request, &foreseen);
    step.below.extend(foreseen.order.as_ref().map(order));
    facts(explained, group, &foreseen);
    explained.steps.push(step);
    for (place, what) in &preview.absent {
        let at = format!("{}:{}:{}", topology.source.name, place.line, place.column);
        explained.steps.push(Step::new(Tone::Doubt, format!("not on this host: {at} {what}")));
    }
    match foreseen.halted {
        None => onward::go(topology, group, instance, &foreseen, explained),
        Some(_) => Ok(None),
    }
}

fn place(arrival: &Arrival<'_>) -> Step {
    let Arrival { group, instance, among, .. } = arrival;
    let others: Vec<_> = among.iter().filter(|one| one.name != instance.name).collect();
    let others: Vec<_> = others.iter().map(|one| one.name.as_str()).collect();
    let others = match others.is_empty() {
        true => String::new(),
        false => format!(" (or {}, which does the same)", others.join(", ")),
    };
    let at = instance.listen.value;
    Step::place(format!("{} · l7-gateway {}{others} · on {at}", group.name, instance.name))
}

/// Why no request gets through at all.
fn refusal(arrival: &Arrival<'_>, request: &Request) -> Option<String> {
    let secure = request.url.scheme_str() == Some("https");
    if let Some(why) = &arrival.mistold {
        return Some(why.clone());
    }
    let lacks = asks(arrival.group) && request.principal.is_none();
    let required = arrival
        .group
        .tls
        .as_ref()
        .is_some_and(|tls| tls.client_certificates == ClientCertificates::Required);
    match (secure, arrival.group.tls.is_some()) {
        (false, true) => {
            Some("plain HTTP meets TLS: there is no handshake; ask for https".to_owned())
        }
        (true, false) => {
            Some("TLS meets plain HTTP: there is no handshake; ask for http".to_owned())
        }
        _ if lacks && required => Some(
            "clients must show a certificate: without one there is no handshake; say whom it names with --principal"
                .to_owned(),
        ),
        _ => None,
    }
}

/// Whether clients are asked for a certificate.
fn asks(group: &Group) -> bool {
    group.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
}

fn question(
    group: &Group,
    arrival: &Arrival<'_>,
    request: &Request,
    wall: SystemTime,
) -> anyhow::Result<l7_gateway::preview::Question> {
    let host = request.url.host().unwrap_or_default();
    let sni = host.parse::<std::net::IpAddr>().is_err().then(|| host.to_ascii_lowercase());
    let transport = match group.tls.is_some() {
        true => Transport::Tls { sni, principal: request.principal.clone() },
        false => Transport::Plain,
    };
    let head = head(group, request)?;
    Ok(l7_gateway::preview::Question { client: arrival.client, transport, head, wall })
}

/// The request as the gateway would read it.
fn head(group: &Group, request: &Request) -> anyhow::Result<Parts> {
    let mut path = request.url.path_and_query().map_or("/".to_owned(), ToString::to_string);
    let (mut head, ()) = http::Request::new(()).into_parts();
    let authority = request.url.authority().map_or("", |authority| authority.as_str());
    if !request.headers.iter().any(|(name, _)| name == HOST) {
        head.headers.append(HOST, HeaderValue::from_str(authority).context("the URL's host")?);
    }
    for (name, value) in &request.headers {
        head.headers.append(name, value.clone());
    }
    if let Some(key) = &request.api_key {
        let source = group.api_keys.first();
        let source =
            source.with_context(|| format!("--api-key: gateway {} takes none", group.name))?;
        match (&source.header, &source.query) {
            (Some(name), _) => {
                let name = http::HeaderName::from_bytes(name.as_bytes()).context("--api-key")?;
                let value = HeaderValue::from_str(key);
                head.headers.append(name, value.context("--api-key has odd characters")?);
            }
            (None, name) => {
                let mark = if path.contains('?') { '&' } else { '?' };
                let name = name.as_deref().unwrap_or_default();
                path = format!("{path}{mark}{name}={key}");
            }
        }
    }
    head.method = request.method.clone();
    head.uri = path.parse().with_context(|| format!("the path {path}"))?;
    Ok(head)
}

/// The filters of its route, each at its place.
fn order(order: &Order) -> Step {
    let mut step = Step::new(Tone::Plain, "filters, in their order");
    for (what, all) in [("the request", &order.request), ("its answer", &order.answer)] {
        step.plain(format!("{what} passes {}", listed(all)));
    }
    step
}

/// Filters in one line.
pub(crate) fn listed(all: &[Placed]) -> String {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(" → ") }
}

fn facts(explained: &mut Explained, group: &Group, foreseen: &Foreseen) {
    let route = foreseen.candidate.and_then(Candidate::route);
    let route = route.and_then(|id| group.routes.get(id.0));
    explained.fact("route", route.map(|route| route.name.as_str()));
    let halted = foreseen.halted.map(l7_gateway::exchange::Stage::name);
    explained.fact("halted", halted);
    explained.fact("status", foreseen.halted.map(|_| foreseen.answer.status));
    let keys: Vec<Value> = foreseen.charged.iter().map(|(_, _, key)| json!(key)).collect();
    explained.fact("limit_keys", keys);
    let texts = |all: &[Placed]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    let filters = foreseen.order.as_ref();
    let filters = filters
        .map(|order| json!({ "request": texts(&order.request), "answer": texts(&order.answer) }));
    explained.fact("filters", filters);
}
