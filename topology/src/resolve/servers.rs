//! What of a database is about its servers: how they are reached and logged in to, and what they are told first.
//!
//! Invariant: a text that goes to a server has no control character in it.

use std::collections::HashSet;

use crate::pool::{Prelude, ServerAddress, ServerLogin, ServerTls, SslMode, SslNegotiation};
use crate::raw::{self, Findings, Text, Typed};
use crate::resolve::names::Names;
use crate::resolve::pool::identifier;
use crate::resolve::{or, secret};
use crate::tls::Certificate;
use crate::units::{At, UserName};
use crate::upstream::UpstreamTls;

/// The servers beside the primary that do the same; all that a database names are looked at.
pub(super) fn also(
    raw: &mut raw::Database,
    replicas: &[Typed<ServerAddress>],
    out: &mut Findings,
) -> Vec<Typed<ServerAddress>> {
    let also = raw.also_at.take().unwrap_or_default();
    let mut servers = HashSet::new();
    for server in raw.primary.iter().chain(&also).chain(replicas) {
        if server.value.port() == 0 {
            out.error(&server.spot, "a server needs a port").allowed("1 to 65535");
        }
        if raw.run.is_some() && server.value.ip().is_none() {
            out.error(&server.spot, "`up` starts servers by number")
                .allowed("ADDRESS:PORT beside `run`");
        }
        if !servers.insert(server.value.clone()) {
            let what = format!("{} is already a server of this database", server.value);
            out.error(&server.spot, what).allowed("each server once");
        }
    }
    if let Some(first) = also.first() {
        if !replicas.is_empty() {
            out.error(&first.spot, "a database with replicas has one primary")
                .hint("name it by `primary`, and the others among `replicas`".to_owned());
        }
        if raw.run.is_some() {
            out.error(&first.spot, "`up` starts one primary, and replicas of it")
                .hint("leave `also-at` or `run` out".to_owned());
        }
    } else if let Some(typed) = &raw.load_balance_hosts {
        out.warning(&typed.spot, "`load-balance-hosts` is about several servers, but there is one")
            .hint("add `also-at: [ADDRESS:PORT]`, or leave it out".to_owned());
    }
    also
}

/// TLS towards servers.
pub(super) fn server_tls(
    raw: Option<raw::ServerTls>,
    names: &Names,
    out: &mut Findings,
) -> ServerTls {
    let credentials = UpstreamTls { ca: None, name: None, certificate: None };
    let (mode, negotiation) = (SslMode::Prefer, SslNegotiation::Postgres);
    let Some(raw) = raw else { return ServerTls { mode, negotiation, credentials } };
    let mode = raw.mode.map_or(mode, |typed| typed.value);
    let asks = matches!(mode, SslMode::Disable | SslMode::Allow | SslMode::Prefer);
    if let Some(typed) =
        raw.negotiation.as_ref().filter(|typed| typed.value == SslNegotiation::Direct)
        && asks
    {
        out.error(&typed.spot, "a server that is not asked first must know TLS")
            .hint("write `mode: require` or more beside it".to_owned());
    }
    let name =
        |typed: Typed<raw::Text>| At { place: typed.spot.extent.place, value: typed.value.0 };
    let pair = raw.certificate.and_then(|pair| {
        Some(Certificate { chain: secret(pair.chain?, names), key: secret(pair.key?, names) })
    });
    ServerTls {
        mode,
        negotiation: or(raw.negotiation, negotiation),
        credentials: UpstreamTls {
            ca: raw.ca.map(|typed| secret(typed, names)),
            name: raw.name.map(name),
            certificate: pair,
        },
    }
}

/// Who logs in to them.
pub(super) fn login(raw: raw::ServerLogin, names: &Names, out: &mut Findings) -> ServerLogin {
    if let Some(typed) = &raw.user {
        identifier("user", &typed.value.0, &typed.spot, out);
    }
    ServerLogin {
        user: raw.user.map(|typed| UserName::new(&typed.value.0)),
        password: raw.password.map(|typed| secret(typed, names)),
    }
}

/// What they are told before anybody uses them. Takes its keys out of the database's.
pub(super) fn prelude(raw: &mut raw::Database, out: &mut Findings) -> Prelude {
    let mut prelude = Prelude::default();
    let all = [
        ("application_name", raw.application_name.take()),
        ("client_encoding", raw.client_encoding.take()),
        ("datestyle", raw.datestyle.take()),
        ("timezone", raw.timezone.take()),
    ];
    for (name, typed) in all {
        let Some(typed) = typed else { continue };
        if typed.value.0.chars().any(char::is_control) || typed.value.0.len() > LONGEST {
            out.error(&typed.spot, "this is no value of a setting").allowed("a line of text");
        }
        prelude.settings.push((name.to_owned(), typed.value.0));
    }
    prelude.query = raw.connect_query.take().map(|typed: Typed<Text>| {
        if typed.value.0.contains('\0') || typed.value.0.trim().is_empty() {
            out.error(&typed.spot, "this is no query").allowed("SQL");
        }
        typed.value.0
    });
    prelude
}

/// A setting that is longer is none.
const LONGEST: usize = 1024;
