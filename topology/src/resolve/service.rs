//! The `services:` section, and what `aqueduct up` starts.
//!
//! Invariant: endpoints of a service have different names and addresses.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use crate::model::{Endpoint, HealthCheck, Probe, Run, Service};
use crate::problem::nearest;
use crate::raw::{self, Findings, Named, Text, Typed};
use crate::resolve::discover::discover;
use crate::resolve::{entries, filled, names, or, positive};
use crate::units::{At, EndpointName, Percent, ServiceName, Weight, ZoneName};

/// All services in the file's order. What they use is filled in by `names`, which knows the rest.
pub(super) fn all(
    services: Option<&Named<raw::Service>>,
    folder: &Path,
    out: &mut Findings,
) -> Vec<Service> {
    entries(services).iter().map(|entry| service(entry, folder, out)).collect()
}

fn service(entry: &raw::Entry<raw::Service>, folder: &Path, out: &mut Findings) -> Service {
    names::lawful("service", &entry.name, &entry.spot, out);
    let raw = &entry.value;
    filled(raw.endpoints.as_deref(), "endpoints", &entry.spot, out);
    let sources = usize::from(raw.endpoints.is_some()) + usize::from(raw.discover.is_some());
    if sources != 1 && !out.wrong(&entry.spot) {
        let what = "a service has one source of endpoints";
        out.error(&entry.spot, what)
            .allowed("exactly one of `endpoints: [ADDRESS:PORT]`, `discover: { dns: HOST:PORT }`");
    }
    Service {
        name: ServiceName::new(&entry.name),
        endpoints: endpoints(raw.endpoints.as_deref().unwrap_or_default(), out),
        discover: raw.discover.as_ref().and_then(|raw| discover(raw, folder, out)),
        panic_threshold: or(raw.panic_threshold.clone(), Percent(0)),
        slow_start: raw.slow_start.clone().map(|typed| positive(Some(typed), SECOND, out)),
        health: raw.health.as_ref().and_then(|health| check(&health.0, out)),
        run: raw.run.as_ref().and_then(|run| program(run, &["demo"], out)),
        uses: Vec::new(),
        place: entry.spot.extent.place,
    }
}

fn endpoints(raw: &[raw::Endpoint], out: &mut Findings) -> Vec<Endpoint> {
    let mut all: Vec<Endpoint> = Vec::with_capacity(raw.len());
    let (mut addresses, mut names) = (HashMap::new(), HashMap::new());
    for raw::Endpoint(raw) in raw {
        let Some(address) = &raw.address else { continue };
        let name = match &raw.name {
            Some(name) => EndpointName::new(&name.value.0),
            None => EndpointName::new(&address.value.to_string()),
        };
        if address.value.port() == 0 {
            out.error(&address.spot, "an endpoint needs a port").allowed("1 to 65535");
        }
        if address.value.ip().is_unspecified() {
            let what = format!("{} is no address to send to", address.value.ip());
            out.error(&address.spot, what).allowed("the server's own address");
        }
        let line = address.spot.extent.place.line;
        let same: Option<u32> = addresses.insert(address.value, line);
        if let Some(first) = names.insert(name.clone(), line).or(same) {
            let what = format!("this endpoint is already on line {first}");
            out.error(&address.spot, what).allowed("each address and each name once");
        }
        let weight = raw.weight.as_ref().map_or(Weight::default(), |weight| weight.value);
        let place = address.spot.extent.place;
        let zone = raw.zone.as_ref().map(|zone| ZoneName::new(&zone.value.0));
        all.push(Endpoint { name, address: address.value, weight, zone, place });
    }
    all
}

fn check(raw: &raw::HealthSection, out: &mut Findings) -> Option<HealthCheck> {
    let given = [&raw.tls, &raw.http, &raw.grpc, &raw.udp].map(Option::is_some);
    let asked = given.iter().filter(|given| **given).count() + usize::from(raw.tcp.is_some());
    if asked > 1 || (asked == 0 && !out.wrong(&raw.spot)) {
        let what = "a check needs one question";
        out.error(&raw.spot, what).allowed(
            "exactly one of `tcp: true`, `tls: true`, `http: /PATH`, `grpc: true`, `udp: TEXT`",
        );
    }
    let interval = positive(raw.interval.clone(), SECOND, out);
    let timeout = positive(raw.timeout.clone(), interval.min(SECOND), out);
    if let Some(typed) = &raw.timeout
        && timeout > interval
    {
        out.error(&typed.spot, "the timeout is longer than the interval")
            .allowed("at most the interval");
    }
    let rise = times(raw.rise.as_ref(), 2, out);
    let fall = times(raw.fall.as_ref(), 3, out);
    Some(HealthCheck { probe: probe(raw, out)?, interval, timeout, rise, fall })
}

fn probe(raw: &raw::HealthSection, out: &mut Findings) -> Option<Probe> {
    if let Some(http) = &raw.http {
        let path = http.value.0.clone();
        if !path.starts_with('/') || path.contains([' ', '#']) {
            out.error(&http.spot, format!("`{path}` is no path"))
                .allowed("a path with a query or without, /healthz");
        }
        return Some(Probe::Http { path });
    }
    if let Some(udp) = &raw.udp {
        return Some(Probe::Udp { request: udp.value.0.clone().into_bytes() });
    }
    if let Some(tls) = &raw.tls {
        let name = asked(tls, "tls", out);
        return Some(Probe::Tls { name: Some(name).filter(|name| !name.is_empty()) });
    }
    if let Some(grpc) = &raw.grpc {
        return Some(Probe::Grpc { service: asked(grpc, "grpc", out) });
    }
    let tcp = raw.tcp.as_ref()?;
    if !tcp.value.0 {
        out.error(&tcp.spot, "`tcp: false` asks nothing")
            .hint("leave `health` out for no active check".to_owned());
    }
    Some(Probe::Tcp)
}

/// `true` asks for nobody in particular, anything else is a name.
fn asked(typed: &Typed<Text>, key: &str, out: &mut Findings) -> String {
    match typed.value.0.as_str() {
        "true" => String::new(),
        "false" => {
            out.error(&typed.spot, format!("`{key}: false` asks nothing"))
                .hint("leave `health` out for no active check".to_owned());
            String::new()
        }
        name => name.to_owned(),
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn times(typed: Option<&Typed<u8>>, default: u8, out: &mut Findings) -> u8 {
    if let Some(typed) = typed
        && typed.value == 0
    {
        out.error(&typed.spot, "0 answers change nothing").allowed("1 to 255");
    }
    or(typed.cloned(), default)
}

/// What `aqueduct up` starts; `kinds` are the first words allowed here.
pub(super) fn program(typed: &Typed<Text>, kinds: &[&str], out: &mut Findings) -> Option<At<Run>> {
    let mut words = typed.value.0.split_whitespace().map(str::to_owned);
    let kind = words.next().unwrap_or_default();
    let rest: Vec<String> = words.collect();
    let value = match (kind.as_str(), rest.is_empty()) {
        ("demo", false) if kinds.contains(&"demo") => Run::Demo(rest),
        ("postgres", true) if kinds.contains(&"postgres") => Run::Postgres,
        _ => {
            let allowed = if kinds.contains(&"demo") { "demo NAME" } else { "postgres" };
            let what = format!("`{}` cannot be started here", typed.value.0);
            let note = out.error(&typed.spot, what).allowed(allowed);
            if let Some(near) = nearest(&kind, kinds.iter().copied()).filter(|near| *near != kind) {
                note.meant(near);
            }
            return None;
        }
    };
    Some(At { value, place: typed.spot.extent.place })
}
