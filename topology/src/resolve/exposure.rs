//! Private parts that strangers can reach, by their addresses. Not what a firewall does about it:
//! the file cannot tell.
//!
//! Invariant: only an admin listener without a token is an error, all else warnings.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::l4::{Balance, ListenAt};
use crate::raw::{self, Entry, Findings, Typed};
use crate::resolve::names::{Destination, Names};
use crate::resolve::{entries, text};

/// All such warnings.
pub(super) fn check(file: &raw::File, names: &Names, out: &mut Findings) {
    let inner = inner(file, names);
    let token = file.admin_token.is_some();
    let admin = |typed: Option<&Typed<SocketAddr>>, out: &mut Findings| {
        if let Some(typed) = typed.filter(|typed| !token && !typed.value.ip().is_loopback()) {
            let what = "an admin listener off loopback has to ask for a token";
            out.error(&typed.spot, what)
                .allowed("a loopback address, or any address with `admin-token: file:PATH`");
        }
    };
    for group in entries(file.nlbs.as_ref()) {
        let instances = entries(group.value.instances.as_ref());
        for instance in instances {
            admin(instance.value.admin.as_ref(), out);
        }
        for listener in entries(group.value.listeners.as_ref()) {
            let private = inner.contains(&format!("{}/{}", group.name, listener.name));
            nlb_listener(group, listener, private, out);
        }
    }
    for group in entries(file.gateways.as_ref()) {
        for instance in entries(group.value.instances.as_ref()) {
            admin(instance.value.admin.as_ref(), out);
            let listen = instance.value.listen.as_ref().filter(|_| group.value.tls.is_none());
            if let Some(listen) = listen.filter(|listen| public(listen.value.ip())) {
                out.warning(&listen.spot, format!("{}, in plain HTTP", reach(listen.value.ip())))
                    .hint(format!("add `tls` to `gateways.{}`", group.name));
            }
        }
    }
    for group in entries(file.pools.as_ref()) {
        for instance in entries(group.value.instances.as_ref()) {
            admin(instance.value.admin.as_ref(), out);
            for listen in instance.value.listen.iter().flat_map(|listen| &listen.0) {
                let Some(ip) = listen.value.ip().map(|a| a.ip()).filter(|ip| public(*ip)) else {
                    continue;
                };
                let what = format!("a pooler is private, but {}", reach(ip));
                out.warning(&listen.spot, what).hint("use a private address".to_owned());
            }
        }
    }
}

/// Listeners that gateways or services send to.
fn inner(file: &raw::File, names: &Names) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let routes = entries(file.gateways.as_ref()).iter();
    let routes = routes.flat_map(|group| group.value.routes.iter().flatten());
    let routes = routes.filter_map(|route| text(route.to.as_ref()));
    let uses = entries(file.services.as_ref()).iter();
    let uses = uses.flat_map(|service| service.value.uses.iter().flatten());
    for to in routes.map(|(to, _)| to).chain(uses.map(|typed| typed.value.0.as_str())) {
        if let Some(Destination::Listener(_)) = names.destination(to) {
            all.insert(to.to_owned());
        }
    }
    all
}

fn nlb_listener(
    group: &Entry<raw::NlbGroup>,
    listener: &Entry<raw::Listener>,
    private: bool,
    out: &mut Findings,
) {
    let raw = &listener.value;
    let Some(at) = raw.tcp.as_ref().or(raw.udp.as_ref()) else { return };
    let exposed = match at.value {
        ListenAt::Address(address) => Some(address.ip()).filter(|ip| public(*ip)),
        ListenAt::Instance(_) => {
            let instances = entries(group.value.instances.as_ref()).iter();
            let mut own = instances.filter_map(|i| i.value.address.as_ref()).map(|ip| ip.value);
            own.find(|ip| public(*ip))
        }
    };
    let Some(ip) = exposed else { return };
    if private {
        let what = format!("this listener is private, but {}", reach(ip));
        out.warning(&at.spot, what).hint("use a private address".to_owned());
    }
    let usual = if raw.udp.is_some() { Balance::ClientAddress } else { Balance::RoundRobin };
    let balance = raw.balance.as_ref().map_or(usual, |typed| typed.value);
    let hashed = matches!(balance, Balance::ClientAddress | Balance::FiveTuple);
    if hashed && group.value.hash_key.is_none() {
        let what = format!("{}, and without a key clients can choose their endpoint", reach(ip));
        let hint = format!("add `hash-key: env:NAME` to `nlbs.{}`", group.name);
        out.warning(&at.spot, what).hint(hint);
    }
}

/// How an address can be reached, in words.
fn reach(ip: IpAddr) -> String {
    if ip.is_unspecified() {
        format!("{ip} is every address of the host")
    } else {
        format!("{ip} is a public address")
    }
}

/// Whether strangers may reach an address: not loopback, private (RFC 1918), shared (RFC 6598),
/// link-local or unique local (RFC 4193); `0.0.0.0` and `::` count as public.
fn public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(ip.is_loopback() || ip.is_private() || ip.is_link_local() || shared)
        }
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}
