//! The `discover:` section of a service. Not for asking anybody: that is the crate `discovery`.
//!
//! Invariant: a source that is returned names exactly one thing to ask.

use std::path::Path;
use std::time::Duration;

use crate::model::{
    Consul, Discover, DiscoverSource, Eds, Etcd, Eureka, Kubernetes, Registry, ServicePort,
};
use crate::raw::{self, Findings, Text, Typed};
use crate::resolve::{positive, web_address};
use crate::units::{At, SecretRef};

/// Where endpoints are learned from.
pub(super) fn discover(
    raw: &raw::Discover,
    folder: &Path,
    out: &mut Findings,
) -> Option<At<Discover>> {
    let mut sources = Vec::new();
    sources.extend(raw.dns.as_ref().map(|dns| host_and_port(dns, out)));
    sources.extend(raw.srv.as_ref().map(|srv| records(srv, out)));
    sources.extend(raw.file.as_ref().map(|file| list(file, folder, out)));
    sources.extend(raw.consul.as_ref().map(|raw| consul(raw, folder, out)));
    sources.extend(raw.etcd.as_ref().map(|raw| etcd(raw, folder, out)));
    sources.extend(raw.eureka.as_ref().map(|raw| eureka(raw, folder, out)));
    sources.extend(raw.kubernetes.as_ref().map(|raw| kubernetes(raw, folder, out)));
    sources.extend(raw.eds.as_ref().map(|raw| eds(raw, folder, out)));
    if sources.len() != 1 {
        if !out.wrong(&raw.spot) {
            out.error(&raw.spot, "endpoints are learned from one source").allowed(
                "exactly one of `dns`, `srv`, `file`, `consul`, `etcd`, `eureka`, `kubernetes`, `eds`",
            );
        }
        return None;
    }
    let source = sources.pop()??;
    let dns = matches!(source, DiscoverSource::Dns { .. } | DiscoverSource::Srv { .. });
    let mut only = |spot: Option<&raw::Spot>, wanted: bool, what: &str, allowed: &str| {
        if let Some(spot) = spot.filter(|_| !wanted) {
            out.error(spot, what).allowed(allowed);
        }
    };
    let beside = "beside `dns` or `srv`";
    let what = "this source is not asked by way of DNS";
    only(raw.resolver.as_ref().map(|typed| &typed.spot), dns, what, beside);
    only(raw.refresh_floor.as_ref().map(|typed| &typed.spot), dns, what, beside);
    let version = raw.version.as_ref().map(|typed| &typed.spot);
    let (what, allowed) = ("DNS knows no versions", "another source, or no `version`");
    only(version, !dns, what, allowed);
    let slices = matches!(source, DiscoverSource::Kubernetes(_));
    let (what, allowed) =
        ("slices of Kubernetes have no versions", "a service there for each version");
    only(version, !slices, what, allowed);
    let (what, allowed) =
        ("an empty answer of DNS is never believed", "another source, or no `empty-after`");
    only(raw.empty_after.as_ref().map(|typed| &typed.spot), !dns, what, allowed);
    let value = Discover {
        source,
        resolver: raw.resolver.as_ref().map(|typed| typed.value),
        floor: positive(raw.refresh_floor.clone(), Duration::from_secs(1), out),
        version: raw.version.as_ref().map(|typed| typed.value.0.clone()),
        empty_after: positive(raw.empty_after.clone(), Duration::from_secs(120), out),
    };
    Some(At { value, place: raw.spot.extent.place })
}

fn consul(raw: &raw::Consul, folder: &Path, out: &mut Findings) -> Option<DiscoverSource> {
    let registry = registry(raw.address.as_ref(), raw.ca.as_ref(), folder, out);
    Some(DiscoverSource::Consul(Consul {
        registry: registry?,
        service: name(raw.service.as_ref(), out)?,
        tag: raw.tag.as_ref().map(|typed| typed.value.0.clone()),
        datacenter: raw.datacenter.as_ref().map(|typed| typed.value.0.clone()),
        token: raw.token.as_ref().map(|typed| secret(typed, folder)),
        zone: raw.zone.as_ref().map_or_else(|| "zone".to_owned(), |typed| typed.value.0.clone()),
    }))
}

fn etcd(raw: &raw::Etcd, folder: &Path, out: &mut Findings) -> Option<DiscoverSource> {
    let servers = raw.servers.as_ref()?;
    let known: Vec<String> =
        servers.iter().filter_map(|typed| web_address(typed, REGISTRY, out)).collect();
    let login = login(raw.user.as_ref(), raw.password.as_ref(), folder, out);
    let prefix = raw.prefix.as_ref()?;
    if servers.is_empty() || prefix.value.0.is_empty() {
        let what = "without a server and a prefix nothing can be asked";
        out.error(&prefix.spot, what)
            .allowed("servers: [http://HOST:2379], prefix: /services/user/");
    }
    if !prefix.value.0.is_empty() && !prefix.value.0.ends_with('/') {
        let what = "keys of others may begin with this prefix, too";
        out.warning(&prefix.spot, what).allowed("a prefix that ends with `/`, /services/user/");
    }
    let ca = raw.ca.as_ref().map(|typed| secret(typed, folder));
    let prefix = prefix.value.0.clone();
    Some(DiscoverSource::Etcd(Etcd { servers: known, prefix, login: login?, ca }))
}

fn eureka(raw: &raw::Eureka, folder: &Path, out: &mut Findings) -> Option<DiscoverSource> {
    let registry = registry(raw.address.as_ref(), raw.ca.as_ref(), folder, out);
    let login = login(raw.user.as_ref(), raw.password.as_ref(), folder, out);
    let interval = positive(raw.interval.clone(), Duration::from_secs(5), out);
    let application = name(raw.application.as_ref(), out)?;
    let (registry, login) = (registry?, login?);
    Some(DiscoverSource::Eureka(Eureka { registry, application, login, interval }))
}

fn kubernetes(raw: &raw::Kubernetes, folder: &Path, out: &mut Findings) -> Option<DiscoverSource> {
    let of_account = |name: &str| SecretRef::File(Path::new(ACCOUNT).join(name));
    let inside = raw.api.is_none();
    let given = |typed: Option<&Typed<SecretRef>>| typed.map(|typed| secret(typed, folder));
    let token = given(raw.token.as_ref()).or_else(|| inside.then(|| of_account("token")));
    let ca = given(raw.ca.as_ref()).or_else(|| inside.then(|| of_account("ca.crt")));
    let api = raw.api.as_ref().map(|typed| web_address(typed, "an API server", out).ok_or(()));
    let service = label(raw.service.as_ref(), out);
    let namespace = label(raw.namespace.as_ref(), out);
    let port = raw.port.as_ref().map(|typed| service_port(typed, out).ok_or(()));
    let (api, port) = (api.transpose().ok()?, port.transpose().ok()?);
    let (service, namespace) = (service?, namespace?);
    Some(DiscoverSource::Kubernetes(Kubernetes { api, service, namespace, port, token, ca }))
}

fn eds(raw: &raw::Eds, folder: &Path, out: &mut Findings) -> Option<DiscoverSource> {
    let registry = registry(raw.address.as_ref(), raw.ca.as_ref(), folder, out);
    let registry = registry.and_then(|known| at_no_path(known, raw.address.as_ref(), out));
    let ours = |typed: Option<&Typed<Text>>, out: &mut Findings| match typed {
        None => Some(OURS.to_owned()),
        typed => name(typed, out),
    };
    let (node, group) = (ours(raw.node.as_ref(), out), ours(raw.group.as_ref(), out));
    let service = name(raw.service.as_ref(), out);
    let token = raw.token.as_ref().map(|typed| secret(typed, folder));
    let (registry, service) = (registry?, service?);
    let (node, group) = (node?, group?);
    Some(DiscoverSource::Eds(Eds { registry, service, node, group, token }))
}

/// Who we are to a control plane that is told nothing else.
const OURS: &str = "aqueduct";

/// Paths of gRPC are names of its methods, from the root on.
fn at_no_path(
    registry: Registry,
    typed: Option<&Typed<Text>>,
    out: &mut Findings,
) -> Option<Registry> {
    let rest = registry.address.split_once("://").map_or("", |(_, rest)| rest);
    if rest.contains('/') {
        let what = "a control plane is asked over gRPC, which has no path before its own";
        out.error(&typed?.spot, what).allowed("http://HOST:PORT or https://HOST:PORT");
        return None;
    }
    Some(registry)
}

/// What pods have of their service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A name as Kubernetes has them (RFC 1123).
fn label(typed: Option<&Typed<Text>>, out: &mut Findings) -> Option<String> {
    let typed = typed?;
    let name = typed.value.0.as_str();
    if !is_label(name) {
        out.error(&typed.spot, format!("`{name}` is no name of Kubernetes"))
            .allowed("up to 63 of a-z, 0-9 and `-`, neither first nor last a `-`");
        return None;
    }
    Some(name.to_owned())
}

fn service_port(typed: &Typed<Text>, out: &mut Findings) -> Option<ServicePort> {
    let text = typed.value.0.as_str();
    match text.parse::<u16>() {
        Ok(number) if number != 0 => Some(ServicePort::Number(number)),
        Err(_) if is_label(text) && text.bytes().any(|b| b.is_ascii_lowercase()) => {
            Some(ServicePort::Name(text.to_owned()))
        }
        _ => {
            out.error(&typed.spot, format!("`{text}` is no port"))
                .allowed("a port's name, or a number from 1 to 65535");
            None
        }
    }
}

fn is_label(name: &str) -> bool {
    let lawful = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let (first, last) = (name.as_bytes().first(), name.as_bytes().last());
    let ends = [first, last].iter().all(|end| end.is_some_and(|b| *b != b'-'));
    ends && name.len() <= 63 && name.bytes().all(lawful)
}

const REGISTRY: &str = "a registry";

pub(super) fn registry(
    typed: Option<&Typed<Text>>,
    ca: Option<&Typed<SecretRef>>,
    folder: &Path,
    out: &mut Findings,
) -> Option<Registry> {
    let ca = ca.map(|typed| secret(typed, folder));
    Some(Registry { address: web_address(typed?, REGISTRY, out)?, ca })
}

/// A name that is not empty.
pub(super) fn name(typed: Option<&Typed<Text>>, out: &mut Findings) -> Option<String> {
    let typed = typed?;
    if typed.value.0.is_empty() {
        out.error(&typed.spot, "this name is empty").allowed("a name");
        return None;
    }
    Some(typed.value.0.clone())
}

/// A user and a password, both or neither; `None`: one of them.
#[expect(clippy::option_option, reason = "neither is lawful, and one alone is not")]
pub(super) fn login(
    user: Option<&Typed<Text>>,
    password: Option<&Typed<SecretRef>>,
    folder: &Path,
    out: &mut Findings,
) -> Option<Option<(String, SecretRef)>> {
    match (user, password) {
        (None, None) => Some(None),
        (Some(user), Some(password)) => {
            Some(Some((user.value.0.clone(), secret(password, folder))))
        }
        (Some(Typed { spot, .. }), None) | (None, Some(Typed { spot, .. })) => {
            out.error(spot, "half a login proves nothing").allowed("`user` with `password`");
            None
        }
    }
}

pub(super) fn secret(typed: &Typed<SecretRef>, folder: &Path) -> SecretRef {
    match &typed.value {
        SecretRef::File(path) => SecretRef::File(folder.join(path)),
        other => other.clone(),
    }
}

fn records(srv: &Typed<Text>, out: &mut Findings) -> Option<DiscoverSource> {
    let name = srv.value.0.trim_end_matches('.').to_ascii_lowercase();
    if !name.starts_with('_') || !is_host(&name) {
        let what = format!("`{}` is no name of SRV records", srv.value.0);
        out.error(&srv.spot, what).allowed("_SERVICE._PROTOCOL.DOMAIN, _game._udp.example");
        return None;
    }
    Some(DiscoverSource::Srv { name })
}

fn list(file: &Typed<Text>, folder: &Path, out: &mut Findings) -> Option<DiscoverSource> {
    let path = Path::new(&file.value.0);
    if path.file_name().is_none() || file.value.0.contains('\0') {
        let what = format!("`{}` is no path of a file", file.value.0.escape_debug());
        out.error(&file.spot, what).allowed("a path, endpoints/user.yaml");
        return None;
    }
    Some(DiscoverSource::File { path: folder.join(path) })
}

fn host_and_port(dns: &Typed<Text>, out: &mut Findings) -> Option<DiscoverSource> {
    let text = dns.value.0.as_str();
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    match port.parse::<u16>() {
        Ok(port) if port != 0 && is_host(&host) => Some(DiscoverSource::Dns { host, port }),
        _ => {
            let what = format!("`{text}` is no host with a port");
            out.error(&dns.spot, what).allowed("HOST:PORT, game.internal:7801");
            None
        }
    }
}

/// Labels of letters, digits, `-` and `_`; no address.
fn is_host(name: &str) -> bool {
    let lawful = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let label = |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(lawful);
    let address = name.parse::<std::net::IpAddr>().is_ok();
    !address && name.len() <= 253 && name.split('.').all(label)
}
