//! API keys: where they are written down, where a request holds one. Not which routes accept them:
//! `policy`.
//!
//! Invariant: every source has a header or a query parameter.

use std::time::Duration;

use crate::identity::{
    Allow, ApiKeys, Authorize, Denylist, DeviceCookie, Introspection, SignedIdentity, UnansweredIs,
};
use crate::raw::{self, Entry, Findings, Spot, Text, Typed};
use crate::resolve::certificates::Certificates;
use crate::resolve::names::{self, Names};
use crate::resolve::store::{self, Who};
use crate::resolve::{gateway, or, policy, positive, secret, time};
use crate::units::{ApiKeysName, At, is_token};

/// Headers that mean something else.
const OTHERS: [&str; 6] =
    ["authorization", "cookie", "host", "connection", "content-length", "transfer-encoding"];

/// How headers begin that the gateway writes itself, or that concern a message and not its meaning.
const OURS: [&str; 13] = [
    "x-user",
    "x-consumer",
    "x-client",
    "x-scopes",
    "x-forwarded",
    "x-real",
    "x-request-id",
    "x-aqueduct",
    "forwarded",
    "trace",
    "content-",
    "te",
    "upgrade",
];

/// Names that `auth` reads otherwise.
const TAKEN: [&str; 2] = ["none", "certificate"];

/// Notes a name that `auth` would read as something else.
pub(super) fn free(kind: &str, name: &str, at: &Spot, out: &mut Findings) {
    names::lawful(kind, name, at, out);
    if TAKEN.contains(&name) {
        let article = if kind.starts_with(['a', 'A', 'i']) { "an" } else { "a" };
        out.error(at, format!("`{name}` cannot be {article} {kind}'s name"))
            .allowed("any other name");
    }
}

/// One source of keys.
pub(super) fn api_keys(
    entry: Entry<raw::ApiKeys>,
    names: &Names,
    out: &mut Findings,
) -> Option<(ApiKeys, Spot)> {
    let Entry { name, spot, value: raw } = entry;
    free("API key source", &name, &spot, out);
    let header = raw.header.map(|typed| header(&typed, out));
    let query = raw.query.map(|typed| query(&typed, out));
    let who = Who { user: raw.user, password: raw.password, ca: raw.ca };
    let default = || query.is_none().then(|| "x-api-key".to_owned());
    let keys = ApiKeys {
        name: ApiKeysName::new(&name),
        header: header.or_else(default),
        query,
        keep: positive(raw.keep, Duration::from_secs(30), out),
        from: store::keys(raw.from?, who, raw.tls, names, out)?,
        place: spot.extent.place,
    };
    Some((keys, spot))
}

/// One rule of who may do what.
pub(super) fn allow(raw: raw::Allow, certificates: Certificates, out: &mut Findings) -> Allow {
    let nothing = raw.scopes.is_none() && raw.roles.is_none() && raw.when.is_none();
    if nothing && raw.methods.is_none() && !out.wrong(&raw.spot) {
        out.error(&raw.spot, "this rule says nothing").allowed("methods, scopes, roles, when");
    }
    raw.when.iter().for_each(|rule| certificates.judge(rule, out));
    Allow {
        methods: policy::methods(raw.methods.as_deref().unwrap_or_default(), out),
        scopes: raw.scopes.unwrap_or_default().into_iter().map(|typed| typed.value).collect(),
        roles: raw.roles.unwrap_or_default().into_iter().map(|typed| typed.value.0).collect(),
        when: raw.when.map(|typed| typed.value),
    }
}

/// A proof towards services.
pub(super) fn signed(
    raw: raw::SignedIdentity,
    names: &Names,
    out: &mut Findings,
) -> Option<SignedIdentity> {
    if let Some(lifetime) = &raw.lifetime
        && !(Duration::from_secs(1)..=Duration::from_secs(300)).contains(&lifetime.value.0)
    {
        out.error(&lifetime.spot, "a proof that lives so long is no proof of the moment")
            .allowed("1s to 5m");
    }
    Some(SignedIdentity {
        key: secret(raw.key?, names),
        lifetime: time(raw.lifetime, Duration::from_secs(30)),
    })
}

/// The cookie that names a device.
pub(super) fn device_cookie(
    raw: raw::DeviceCookie,
    names: &Names,
    out: &mut Findings,
) -> Option<DeviceCookie> {
    let name = raw.name.map(|typed| {
        if !is_token(&typed.value.0) {
            out.error(&typed.spot, format!("`{}` is no name of a cookie", typed.value.0))
                .allowed("letters, digits, - and _");
        }
        typed.value.0
    });
    Some(DeviceCookie {
        key: secret(raw.key?, names),
        name: name.unwrap_or_else(|| "__Host-device".to_owned()),
        lifetime: positive(raw.lifetime, Duration::from_secs(365 * 86_400), out),
    })
}

/// How an issuer is asked about tokens.
pub(super) fn introspection(
    raw: raw::Introspection,
    names: &Names,
    out: &mut Findings,
) -> Option<Introspection> {
    Some(Introspection {
        url: url(raw.url?, out),
        client: raw.client?.value.0,
        secret: secret(raw.secret?, names),
        keep: positive(raw.keep, Duration::from_secs(30), out),
        timeout: positive(raw.timeout, Duration::from_secs(1), out),
    })
}

/// The address of somebody who is asked over HTTP.
pub(super) fn url(typed: Typed<Text>, out: &mut Findings) -> At<String> {
    let text = &typed.value.0;
    let rest = text.strip_prefix("http://").or(text.strip_prefix("https://"));
    let host = rest.and_then(|rest| rest.split(['/', '?']).next()).unwrap_or_default();
    if host.is_empty() || host.contains('@') || text.contains([' ', '#']) {
        out.error(&gateway::hidden(&typed.spot, host.contains('@')), "nobody can be asked there")
            .allowed("http://HOST:PORT/PATH, https://HOST/PATH");
    }
    At { value: typed.value.0, place: typed.spot.extent.place }
}

/// Who else is asked whether a request may go on.
pub(super) fn authorize(raw: raw::Authorize, out: &mut Findings) -> Option<Authorize> {
    let url = url(raw.url?, out);
    let mut headers = Vec::new();
    for typed in raw.headers.unwrap_or_default() {
        let name = typed.value.0.to_ascii_lowercase();
        if !is_token(&name) || OTHERS.contains(&name.as_str()) && name != "cookie" {
            out.error(&typed.spot, format!("`{name}` cannot be passed on"))
                .allowed("headers of requests: Cookie, Accept-Language");
        }
        headers.push(name);
    }
    let answer_headers = raw.answer_headers.unwrap_or_default().into_iter();
    let answer_headers = answer_headers.map(|typed| told(&typed, out)).collect();
    Some(Authorize {
        url,
        answer_headers,
        timeout: positive(raw.timeout, Duration::from_millis(200), out),
        when_away: or(raw.when_away, UnansweredIs::Refused),
        headers,
    })
}

/// A header of an authorizer's answer that a service is told.
fn told(typed: &Typed<Text>, out: &mut Findings) -> String {
    let name = typed.value.0.to_ascii_lowercase();
    let ours = OURS.iter().any(|begin| name.starts_with(begin));
    if !is_token(&name) || ours || OTHERS.contains(&name.as_str()) {
        out.error(&typed.spot, format!("`{name}` cannot be told to a service"))
            .allowed("headers that neither the gateway nor HTTP itself writes: X-Tenant");
    }
    name
}

/// The denylist.
pub(super) fn denylist(raw: raw::Denylist, names: &Names, out: &mut Findings) -> Option<Denylist> {
    let who = Who { user: raw.user, password: raw.password, ca: raw.ca };
    let (redis, tls) = store::redis(raw.redis?, out);
    Some(Denylist {
        redis,
        login: who.at_redis(tls, names, out),
        longest_stale: positive(raw.longest_stale, Duration::from_secs(3600), out),
    })
}

fn header(typed: &Typed<Text>, out: &mut Findings) -> String {
    let name = typed.value.0.to_ascii_lowercase();
    if !is_token(&name) || OTHERS.contains(&name.as_str()) {
        out.error(&typed.spot, format!("`{name}` cannot hold a key"))
            .allowed("a header of its own, X-API-Key");
    }
    name
}

fn query(typed: &Typed<Text>, out: &mut Findings) -> String {
    let name = typed.value.0.clone();
    let lawful = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    if !name.bytes().all(lawful) {
        out.error(&typed.spot, format!("`{name}` is no name of a query parameter"))
            .allowed("letters, digits, - . _ ~");
    }
    name
}
