//! Headers that concern one connection and end with it, those that name what is inside, and those that only we may
//! set. Called by stage 2 for requests, by stage 9 for services' answers, by stage 10 for what follows them, by
//! `hints` for interim ones and by `external`.
//!
//! Invariant: what a peer says about its connection never reaches the next one.

use http::header::{self, HeaderMap, HeaderName};

/// Removes what concerns one connection only (RFC 9110 §7.6.1), in both directions. Looks before it
/// removes: most messages have little or nothing of it.
pub fn hop_by_hop(headers: &mut HeaderMap) {
    let (mut found, mut named) = (Vec::new(), false);
    for (name, value) in headers.iter() {
        if *name == header::CONNECTION {
            named = true;
            let names = value.to_str().unwrap_or_default().split(',').map(str::trim);
            // The options that name no field beside those that go anyway.
            let names = names.filter(|name| !["close", "keep-alive", "upgrade"].contains(name));
            found.extend(names.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()));
        } else if is_hop(name) {
            found.push(name.clone());
        }
    }
    if named {
        headers.remove(header::CONNECTION);
    }
    for name in found {
        headers.remove(name);
    }
}

/// Headers that services may say to us but not to clients.
#[derive(Debug)]
pub struct Internal(Vec<HeaderName>);

impl Internal {
    /// Of these names.
    pub fn new(names: &[String]) -> Self {
        let name = |text: &String| HeaderName::from_bytes(text.as_bytes()).ok();
        Self(names.iter().filter_map(name).collect())
    }

    /// Removes them from an answer. Looks before it removes: most answers have few of them.
    pub fn remove(&self, headers: &mut HeaderMap) {
        let mut found = 0_u64;
        for name in headers.keys() {
            for (at, internal) in self.0.iter().enumerate() {
                found |= u64::from(name == internal) << at.min(63);
            }
        }
        // The last place stands for all behind it too.
        for (at, name) in self.0.iter().enumerate() {
            if found & (1 << at.min(63)) != 0 {
                headers.remove(name);
            }
        }
    }
}

/// Whether a header concerns one connection only.
pub fn is_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
    ) || ["keep-alive", "proxy-connection", "http2-settings"].contains(&name.as_str())
}

/// Whether a service could read the name as one of ours. Gateways to CGI-like interfaces fold every
/// mark to `_`, so all marks are one here.
pub fn only_ours(name: &HeaderName) -> bool {
    let text = name.as_str();
    // All of them begin with one of these letters.
    if !matches!(text.as_bytes().first(), Some(b'x' | b'f' | b't' | b'c' | b'p')) {
        return false;
    }
    let folded: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    OURS.contains(&folded.as_str())
        || (FRAMING.contains(&folded.as_str()) && folded != text)
        || OVERRIDES.contains(&folded.as_str())
        || OUR_FAMILIES.iter().any(|family| folded.starts_with(family))
}

/// Removes from trailers what must not come after a body (RFC 9110 §6.5.1): what frames a message, routes
/// it, says who somebody is, or changes how the body is read. Nobody would look for it there, or somebody
/// would who should not. What names the inside goes as it does from heads.
pub fn trailers(fields: &mut HeaderMap, internal: &Internal) {
    hop_by_hop(fields);
    for name in NOT_BEHIND {
        fields.remove(name);
    }
    internal.remove(fields);
}

const NOT_BEHIND: [HeaderName; 17] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
    header::HOST,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::RETRY_AFTER,
    header::SERVER,
    header::SET_COOKIE,
    header::VARY,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("x-user-id"),
];

/// Who calls, signed.
pub const PROOF: HeaderName = HeaderName::from_static("x-aqueduct-identity");

/// Names that a service may believe because we set them, folded.
const OURS: [&str; 11] = [
    "x-user-id",
    "x-scopes",
    "x-consumer",
    "x-request-id",
    "forwarded",
    "x-real-ip",
    "traceparent",
    "tracestate",
    "x-client-cert",
    "x-client-principal",
    "x-aqueduct",
];

/// Whole families that a service may believe, folded.
const OUR_FAMILIES: [&str; 5] =
    ["x-forwarded-", "x-consumer-", "x-user-", "x-aqueduct-", "x-experiment-"];

/// Headers that make some frameworks see another path or method than was judged here.
const OVERRIDES: [&str; 6] = [
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// What frames a message or ends at one hop; in any other spelling than its own it is a trick on a
/// service that folds marks.
const FRAMING: [&str; 5] = [
    "transfer-encoding",
    "content-length",
    "content-encoding",
    "proxy-authorization",
    "connection",
];
