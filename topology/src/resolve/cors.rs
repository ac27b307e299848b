//! Cross-origin rules: what browsers are told that scripts may do.
//!
//! Invariant: what is resolved can stand in headers as it is.

use std::time::Duration;

use crate::answers::{Attached, Word};
use crate::gateway::{Cors, Credentials, Part, RouteTo};
use crate::raw::{self, CorsChoice, Findings, Spot, Text, Typed};
use crate::resolve::policy::{methods, token};
use crate::resolve::positive;
use crate::resolve::upstream::Upstreams;

/// What a place says; its methods are those of a route that names some, where the rules name none.
pub(super) fn cors(
    raw: Option<CorsChoice>,
    (by, route): (Attached, &[String]),
    out: &mut Findings,
) -> Word<Cors> {
    match raw {
        None => Word::Silent,
        Some(CorsChoice::None) => Word::Never,
        Some(CorsChoice::Rules(raw)) => Word::So(rules(*raw, (by, route), out)),
    }
}

fn rules(raw: raw::Cors, (by, route): (Attached, &[String]), out: &mut Findings) -> Cors {
    let allowed = raw.credentials.as_ref().is_some_and(|flag| flag.value.0);
    let credentials = if allowed { Credentials::Allowed } else { Credentials::Refused };
    let mut origins = Vec::new();
    for typed in raw.origins.map_or(Vec::new(), |all| all.0) {
        let text = typed.value.0;
        if text != "*" && !serialised_origin(&text) {
            out.error(&typed.spot, format!("`{text}` is no origin as browsers write it")).allowed(
                "https://app.example, https://*.shop.example, http://localhost:3000, or a single *",
            );
        }
        origins.push(text);
    }
    let any = origins.iter().any(|one| one == "*");
    if any && origins.len() > 1 {
        out.error(&raw.spot, "`*` stands beside other origins").allowed("`*` alone, or without it");
    }
    if any
        && credentials == Credentials::Allowed
        && let Some(typed) = &raw.credentials
    {
        out.error(&typed.spot, "credentials cannot be allowed for any origin")
            .allowed("a list of origins with `credentials: true`");
    }
    let words = |typed: &Typed<Text>| typed.value.0.to_ascii_lowercase();
    let named = raw.headers.as_ref().map(|list| list.iter().map(words).collect());
    for typed in raw.headers.iter().chain(&raw.expose).flatten() {
        let text = &typed.value.0;
        if !token(text) {
            out.error(&typed.spot, format!("`{text}` is no header's name"))
                .allowed("names of headers: x-total, etag");
        } else if text == "*" && allowed {
            // Fetch standard: then it is a header of that name.
            out.error(&typed.spot, "`*` means no header where credentials are allowed")
                .allowed("the names of the headers: content-type, x-total");
        }
    }
    let fallback = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
    let methods = match &raw.methods {
        Some(list) => methods(list, out),
        None if route.is_empty() => fallback(&["GET", "HEAD", "POST"]),
        None => route.to_vec(),
    };
    Cors {
        origins,
        methods,
        exposed: raw.expose.iter().flatten().map(words).collect(),
        headers: named.unwrap_or_else(|| fallback(&["authorization", "content-type"])),
        credentials,
        max_age: positive(raw.max_age, Duration::from_secs(600), out),
        by,
    }
}

/// The rules of a route that has none of its own and leads to a service, perhaps in part to others: a preflight does
/// not tell in which part its request will be, and is answered before anybody is chosen.
pub(super) fn of_service(
    inherited: Option<Cors>,
    (to, split): (Option<RouteTo>, &[Part]),
    (upstreams, at): (&Upstreams, &Spot),
    out: &mut Findings,
) -> Option<Cors> {
    let own = |id| upstreams.cors(id).unwrap_or(&Word::Silent);
    let Some(main) = to.and_then(RouteTo::service).map(own) else { return inherited };
    if split.iter().any(|part| own(part.to) != main) {
        out.error(at, "the services of its parts have different cross-origin rules")
            .allowed("`cors` on the route: a preflight does not tell which part it is for");
    }
    match main {
        Word::Silent => inherited,
        Word::Never => None,
        Word::So(rules) => Some(rules.clone()),
    }
}

/// What browsers must be allowed to say and to read on a route that they call in gRPC.
pub(super) fn for_calls(cors: &mut Cors) {
    let more = |list: &mut Vec<String>, words: &[&str]| {
        for word in words {
            if !list.iter().any(|known| known == word) {
                list.push((*word).to_owned());
            }
        }
    };
    more(&mut cors.methods, &["POST"]);
    more(&mut cors.headers, &["content-type", "grpc-timeout", "x-grpc-web", "x-user-agent"]);
    more(&mut cors.exposed, &["grpc-status", "grpc-message", "grpc-status-details-bin"]);
}

/// `scheme://host[:port]` in lower case, without a path (RFC 6454 §6.2); a host may begin with `*.`, for all below
/// a name of two labels or more.
fn serialised_origin(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let lawful = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_:[]".contains(&b);
    let sound = |rest: &str| !rest.is_empty() && rest.bytes().all(lawful);
    rest.is_some_and(|rest| match rest.strip_prefix("*.") {
        Some(below) => sound(below) && below.trim_matches('.').contains('.'),
        None => sound(rest),
    })
}
