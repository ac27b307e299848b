//! The `register:` section, and the addresses that instances are entered with. Not for entering them: that is
//! the crate `discovery`.
//!
//! Invariant: without a problem, each instance of a group that registers has an address that can be sent to.

use std::net::SocketAddr;
use std::time::Duration;

use crate::model::Registry;
use crate::raw::{self, Findings, Spot, Text, Typed};
use crate::register::{Register, RegisterConsul, RegisterEtcd, RegisterEureka};
use crate::resolve::discover::{login, name, registry, secret};
use crate::resolve::names::Names;
use crate::resolve::{or, positive, web_address};
use crate::units::Time;

/// Where a group's instances are entered.
pub(super) fn register(
    raw: raw::Register,
    drain: Duration,
    names: &Names,
    out: &mut Findings,
) -> Option<Register> {
    let wrong = out.wrong(&raw.spot);
    if raw.consul.is_none() && raw.etcd.is_none() && raw.eureka.is_none() && !wrong {
        out.error(&raw.spot, "nobody is told of the instances")
            .allowed("at least one of `consul`, `etcd`, `eureka`");
    }
    let spot = raw.linger.as_ref().map_or(raw.spot.clone(), |linger| linger.spot.clone());
    let linger = or(raw.linger, Time(Duration::from_secs(1))).0;
    if linger + LEAVING >= drain {
        let longest = format!("leaving and lingering take up to {}", Time(linger + LEAVING));
        out.error(&spot, format!("{longest}, but a drain ends after {}", Time(drain)))
            .allowed("a `drain` of the group that is longer than `linger` and 3s together");
    }
    let text = |typed: Option<Typed<Text>>| typed.map(|typed| typed.value.0);
    Some(Register {
        consul: raw.consul.and_then(|raw| consul(raw, names, out)),
        etcd: raw.etcd.and_then(|raw| etcd(raw, names, out)),
        eureka: raw.eureka.and_then(|raw| eureka(raw, names, out)),
        zone: text(raw.zone),
        version: text(raw.version),
        linger,
    })
}

/// Registries have so long to let an instance go (`discovery::register`).
const LEAVING: Duration = Duration::from_secs(3);

/// The address that an instance is entered with, where the file names one: beside one that it listens on,
/// or instead of it.
pub(super) fn advertised(
    listen: Option<(SocketAddr, &Spot)>,
    instance: &Spot,
    advertise: Option<Typed<SocketAddr>>,
    registers: bool,
    out: &mut Findings,
) -> Option<SocketAddr> {
    let hint = || "add `advertise: ADDRESS:PORT`, where others reach it".to_owned();
    match (&advertise, listen) {
        (Some(typed), _) if typed.value.ip().is_unspecified() || typed.value.port() == 0 => {
            out.error(&typed.spot, format!("{} is no address to send to", typed.value))
                .allowed("the address and port where others reach it");
        }
        (Some(typed), _) if !registers => {
            out.warning(&typed.spot, "`advertise` means nothing without `register`")
                .hint("add `register` to the group, or leave it out".to_owned());
        }
        (None, Some((at, spot))) if registers && at.ip().is_unspecified() => {
            out.error(spot, format!("{at} is no address to register: others cannot send to it"))
                .hint(hint());
        }
        (None, None) if registers => {
            out.error(instance, "the instance has no address of a network to register")
                .hint(hint());
        }
        _ => {}
    }
    advertise.map(|typed| typed.value)
}

fn consul(raw: raw::RegisterConsul, names: &Names, out: &mut Findings) -> Option<RegisterConsul> {
    let found = registry(raw.address.as_ref(), raw.ca.as_ref(), &names.folder, out);
    let deregister_after = positive(raw.deregister_after.clone(), Duration::from_secs(600), out);
    if let Some(typed) = raw.deregister_after.filter(|_| deregister_after < MINUTE) {
        out.error(&typed.spot, "Consul forgets nothing sooner than after a minute")
            .allowed("1m or more");
    }
    Some(RegisterConsul {
        registry: found?,
        service: name(raw.service.as_ref(), out)?,
        tags: raw.tags.unwrap_or_default().into_iter().map(|typed| typed.value.0).collect(),
        token: raw.token.as_ref().map(|typed| secret(typed, &names.folder)),
        ttl: ttl(raw.ttl, out),
        deregister_after,
    })
}

fn etcd(raw: raw::RegisterEtcd, names: &Names, out: &mut Findings) -> Option<RegisterEtcd> {
    let login = login(raw.user.as_ref(), raw.password.as_ref(), &names.folder, out);
    let (servers, prefix) = (raw.servers?, raw.prefix?);
    let known = servers.iter().filter_map(|typed| web_address(typed, "a registry", out)).collect();
    if servers.is_empty() || prefix.value.0.is_empty() {
        out.error(&prefix.spot, "without a server and a prefix nobody can be told")
            .allowed("servers: [http://HOST:2379], prefix: /services/gateway/");
    } else if !prefix.value.0.ends_with('/') {
        out.warning(&prefix.spot, "the instance's name follows the prefix without a separator")
            .allowed("a prefix that ends with `/`, /services/gateway/");
    }
    Some(RegisterEtcd {
        servers: known,
        prefix: prefix.value.0,
        login: login?,
        ca: raw.ca.as_ref().map(|typed| secret(typed, &names.folder)),
        ttl: ttl(raw.ttl, out),
    })
}

fn eureka(raw: raw::RegisterEureka, names: &Names, out: &mut Findings) -> Option<RegisterEureka> {
    let found: Option<Registry> =
        registry(raw.address.as_ref(), raw.ca.as_ref(), &names.folder, out);
    let login = login(raw.user.as_ref(), raw.password.as_ref(), &names.folder, out);
    let application = name(raw.application.as_ref(), out)?;
    Some(RegisterEureka { registry: found?, application, login: login?, ttl: ttl(raw.ttl, out) })
}

/// How long a registry believes a silent instance.
fn ttl(typed: Option<Typed<Time>>, out: &mut Findings) -> Duration {
    let default = Time(Duration::from_secs(15));
    let Some(typed) = typed else { return default.0 };
    let time = typed.value.0;
    if !(LEAST..=MOST).contains(&time) || time.subsec_nanos() != 0 {
        out.error(&typed.spot, format!("{} is no time that registries count", typed.value))
            .allowed("whole seconds, 3s to 1h");
    }
    time
}

/// Less leaves no time for a sign of life that comes late.
const LEAST: Duration = Duration::from_secs(3);
const MOST: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
