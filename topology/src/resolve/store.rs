//! Stores that gateways log in at, Redis and PostgreSQL: addresses, and who we are there. Not what they are
//! for.
//!
//! Invariant: no password is in an address, so that a line with one is never shown.

use crate::identity::{KeySource, Login, PostgresTls};
use crate::raw::{Findings, Spot, Text, Typed};
use crate::resolve::gateway::hidden;
use crate::resolve::names::Names;
use crate::resolve::secret;
use crate::units::{At, SecretRef};

/// As written at a store.
#[derive(Debug, Default)]
pub(super) struct Who {
    pub(super) user: Option<Typed<Text>>,
    pub(super) password: Option<Typed<SecretRef>>,
    pub(super) ca: Option<Typed<SecretRef>>,
}

impl Who {
    /// To a Redis; `tls`: it is spoken to over TLS.
    pub(super) fn at_redis(self, tls: bool, names: &Names, out: &mut Findings) -> Login {
        if let (Some(user), None) = (&self.user, &self.password) {
            out.error(&user.spot, "a name alone proves nothing").hint("add its `password`");
        }
        if let Some(ca) = self.ca.as_ref().filter(|_| !tls) {
            out.error(&ca.spot, "a server without TLS shows no certificate")
                .allowed("`ca` beside rediss://HOST:PORT");
        }
        self.login(names)
    }

    fn login(self, names: &Names) -> Login {
        Login {
            user: self.user.map(|typed| typed.value.0),
            password: self.password.map(|typed| secret(typed, names)),
            ca: self.ca.map(|typed| secret(typed, names)),
        }
    }
}

/// One Redis; notes an address that is none. With it, whether it is spoken to over TLS.
pub(super) fn redis(typed: Typed<Text>, out: &mut Findings) -> (At<String>, bool) {
    let text = typed.value.0;
    if !redis_url(&text) {
        let spot = hidden(&typed.spot, text.contains('@'));
        out.error(&spot, "this is no Redis URL that can be used")
            .allowed("redis://HOST:PORT or redis://HOST:PORT/DATABASE, rediss:// over TLS; a name and a password in `user` and `password`");
    }
    let tls = text.starts_with("rediss://");
    (At { value: text, place: typed.spot.extent.place }, tls)
}

fn redis_url(text: &str) -> bool {
    let rest = text.strip_prefix("redis://").or(text.strip_prefix("rediss://"));
    let Some(rest) = rest else { return false };
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let Some((host, port)) = authority.rsplit_once(':') else { return false };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let lawful = |b: u8| b.is_ascii_alphanumeric() || b".-_[]:".contains(&b);
    let host = !host.is_empty() && host.bytes().all(lawful);
    host && port.parse::<u16>().is_ok_and(|port| port > 0) && digits(database) && database.len() < 6
}

/// Where API keys are written down.
pub(super) fn keys(
    typed: Typed<Text>,
    who: Who,
    tls: Option<Typed<PostgresTls>>,
    names: &Names,
    out: &mut Findings,
) -> Option<KeySource> {
    let (text, place) = (typed.value.0.as_str(), typed.spot.extent.place);
    let postgres = text.starts_with("postgres://");
    if let Some(tls) = tls.as_ref().filter(|_| !postgres) {
        out.error(&tls.spot, "only PostgreSQL is told so")
            .allowed("rediss://HOST:PORT for Redis over TLS");
    }
    if let Ok(SecretRef::File(path)) = text.parse() {
        let spots =
            [who.user.map(|it| it.spot), who.password.map(|it| it.spot), who.ca.map(|it| it.spot)];
        for spot in spots.iter().flatten() {
            out.error(spot, "a file asks nobody who it is").allowed("Redis and PostgreSQL alone");
        }
        return Some(KeySource::File(At { value: names.folder.join(path), place }));
    }
    if redis_url(text) {
        let (at, tls) = redis(typed, out);
        return Some(KeySource::Redis(at, who.at_redis(tls, names, out)));
    }
    if postgres_url(text) {
        if let Some(user) = &who.user {
            out.error(&user.spot, "PostgreSQL's user stands in its address")
                .allowed("postgres://USER@HOST:PORT/DATABASE");
        }
        let tls = postgres_tls(tls, who.ca.as_ref().map(|ca| &ca.spot), out);
        let at = At { value: text.to_owned(), place };
        return Some(KeySource::Postgres(at, who.login(names), tls));
    }
    let spot = hidden(&typed.spot, text.contains('@'));
    out.error(&spot, "this is no place of API keys").allowed(
        "file:PATH, redis://HOST:PORT[/DATABASE], rediss://…, postgres://USER@HOST:PORT/DATABASE (a password in `password`)",
    );
    None
}

fn postgres_tls(
    tls: Option<Typed<PostgresTls>>,
    ca: Option<&Spot>,
    out: &mut Findings,
) -> PostgresTls {
    match (tls.map(|typed| typed.value), ca) {
        (Some(PostgresTls::Disable), Some(ca)) => {
            out.error(ca, "a server without TLS shows no certificate")
                .allowed("`tls: verify-full`");
            PostgresTls::Disable
        }
        (Some(tls), _) => tls,
        (None, Some(_)) => PostgresTls::VerifyFull,
        (None, None) => PostgresTls::Disable,
    }
}

/// `postgres://USER@HOST:PORT/DATABASE`, nothing else: a password does not belong in this file.
fn postgres_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("postgres://") else { return false };
    let Some((user, rest)) = rest.split_once('@') else { return false };
    let Some((authority, database)) = rest.split_once('/') else { return false };
    let Some((host, port)) = authority.rsplit_once(':') else { return false };
    let word = |text: &str| {
        let lawful = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        !text.is_empty() && text.bytes().all(lawful)
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host =
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    word(user) && host && port.parse::<u16>().is_ok_and(|port| port > 0) && word(database)
}
