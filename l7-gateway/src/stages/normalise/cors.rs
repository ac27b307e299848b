//! Cross-origin rules of a route (Fetch standard, "HTTP-CORS protocol"), their headers made once.
//! Not for authentication: a preflight carries none. Called by stage 2 on both sides.
//!
//! Invariant: an origin that the rules do not name gets no header.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, request::Parts};
use topology::gateway::{Cors, Credentials};

/// The rules of one route, compiled.
#[derive(Debug)]
pub struct CorsRules {
    origins: Origins,
    credentials: Credentials,
    methods: HeaderValue,
    headers: HeaderValue,
    max_age: HeaderValue,
    exposed: Option<HeaderValue>,
}

#[derive(Debug)]
enum Origins {
    Any,
    Listed(Vec<Known>),
}

/// An origin of the list.
#[derive(Debug)]
enum Known {
    /// This one.
    Exact(String),
    /// All whose host is below a name: scheme and what ends them, with its dot.
    Below(String, String),
}

impl Known {
    fn new(text: &str) -> Self {
        match text.split_once("://*.") {
            Some((scheme, name)) => Self::Below(format!("{scheme}://"), format!(".{name}")),
            None => Self::Exact(text.to_owned()),
        }
    }

    fn is(&self, origin: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == origin,
            Self::Below(scheme, name) => {
                let rest = origin.strip_prefix(scheme.as_bytes());
                let label = rest.and_then(|rest| rest.strip_suffix(name.as_bytes()));
                let lawful = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
                label.is_some_and(|label| !label.is_empty() && label.iter().all(lawful))
            }
        }
    }
}

impl CorsRules {
    /// `None` if a name in the rules cannot stand in a header.
    pub fn new(rules: &Cors) -> Option<Self> {
        let origins = match rules.origins.as_slice() {
            [any] if any == "*" => Origins::Any,
            listed => Origins::Listed(listed.iter().map(|text| Known::new(text)).collect()),
        };
        Some(Self {
            origins,
            credentials: rules.credentials,
            methods: HeaderValue::from_str(&rules.methods.join(", ")).ok()?,
            headers: HeaderValue::from_str(&rules.headers.join(", ")).ok()?,
            max_age: HeaderValue::from(rules.max_age.as_secs()),
            exposed: match rules.exposed.as_slice() {
                [] => None,
                names => Some(HeaderValue::from_str(&names.join(", ")).ok()?),
            },
        })
    }

    /// Adds what every answer of the route carries, so that caches do not take one for another: also
    /// answers to who names no origin.
    pub fn respond(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        // A service behind us must not widen the rules.
        for name in [
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            headers.remove(name);
        }
        let allowed = match &self.origins {
            Origins::Any => HeaderValue::from_static("*"),
            Origins::Listed(listed) => {
                headers.append(header::VARY, HeaderValue::from_static("Origin"));
                let known =
                    |origin: &&HeaderValue| listed.iter().any(|known| known.is(origin.as_bytes()));
                let Some(origin) = origin.filter(known) else { return };
                origin.clone()
            }
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if let Some(names) = &self.exposed {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, names.clone());
        }
        if self.credentials == Credentials::Allowed {
            headers
                .insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    /// What a preflight answer says beside [`respond`](Self::respond).
    pub fn preflight(&self) -> [(HeaderName, HeaderValue); 3] {
        [
            (header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone()),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, self.headers.clone()),
            (header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone()),
        ]
    }
}

/// The method that a preflight asks for; `None`: it is none.
pub fn preflight_for(head: &Parts) -> Option<Method> {
    let asked = head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let preflight = head.method == Method::OPTIONS && head.headers.contains_key(header::ORIGIN);
    preflight.then(|| Method::from_bytes(asked.as_bytes()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G13: a host below a name is one whose last labels it is, over the same scheme and port, and nothing else.
    #[test]
    fn origins_below_a_name_are_known() {
        for (known, origin, is) in [
            ("https://*.shop.example", "https://a.shop.example", true),
            ("https://*.shop.example", "https://a.b.shop.example", true),
            ("https://*.shop.example", "https://shop.example", false),
            ("https://*.shop.example", "https://.shop.example", false),
            ("https://*.shop.example", "https://evilshop.example", false),
            ("https://*.shop.example", "http://a.shop.example", false),
            ("https://*.shop.example", "https://a.shop.example:8443", false),
            ("https://*.shop.example", "https://evil.example/.shop.example", false),
            ("https://*.shop.example", "https://evil.example:1@.shop.example", false),
            ("https://*.shop.example", "https://a.shop.example.evil", false),
            ("https://*.shop.example:8443", "https://a.shop.example:8443", true),
            ("https://shop.example", "https://shop.example", true),
            ("https://shop.example", "https://a.shop.example", false),
            ("https://*.shop.example", "null", false),
        ] {
            assert_eq!(Known::new(known).is(origin.as_bytes()), is, "{known} {origin}");
        }
    }
}
