//! Whether a request has what a route wants beside host, path and method. Not for choosing among
//! routes: that is `matcher`. Called by it for the few routes that a path may mean.
//!
//! Invariant: nothing is allocated unless a query parameter has escapes.

use http::{HeaderMap, HeaderValue, Method, header};
use topology::gateway::{Client, Expected, Predicate};

/// A request as routes see it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Canonical.
    pub host: &'a str,
    /// Canonical.
    pub path: &'a str,
    /// Without the `?`.
    pub query: Option<&'a str>,
    /// The method, of a preflight the one that it asks for.
    pub method: &'a Method,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// The header that it looks at; `None`: the URL says it.
pub fn header(predicate: &Predicate) -> Option<HeaderValue> {
    match predicate {
        Predicate::Header(name, _) => HeaderValue::from_str(name).ok(),
        Predicate::Cookie(..) => Some(HeaderValue::from_static("Cookie")),
        Predicate::AcceptVersion(_) => Some(HeaderValue::from_static("Accept")),
        Predicate::Client(_) => Some(HeaderValue::from_static("User-Agent")),
        Predicate::Query(..) => None,
    }
}

/// Whether it holds.
pub fn holds(predicate: &Predicate, asked: &Asked<'_>) -> bool {
    match predicate {
        Predicate::Header(name, wanted) => {
            let mut values = asked.headers.get_all(name).iter();
            values.any(|value| fits(wanted, value.as_bytes()))
        }
        Predicate::Query(name, wanted) => {
            let pairs = form_urlencoded::parse(asked.query.unwrap_or_default().as_bytes());
            let mut named = pairs.filter(|(key, _)| key == name);
            named.next().is_some_and(|(_, value)| fits(wanted, value.as_bytes()))
        }
        Predicate::Cookie(name, wanted) => {
            cookie(asked.headers, name).is_some_and(|value| fits(wanted, value.as_bytes()))
        }
        Predicate::AcceptVersion(versions) => versions.iter().any(|version| match version {
            Some(version) => accepts(asked.headers, |named| named == version),
            None => !accepts(asked.headers, |_| true),
        }),
        Predicate::Client(client) => kind(asked.headers) == *client,
    }
}

fn fits(wanted: &Expected, value: &[u8]) -> bool {
    match wanted {
        Expected::Any => true,
        Expected::Exactly(text) => text.as_bytes() == value,
    }
}

/// The first cookie of this name (RFC 6265 §5.4) that is text.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let text = |value: &'a [u8]| std::str::from_utf8(value).ok().filter(|text| text.is_ascii());
    cookies(headers, name).find_map(text)
}

/// All cookies of this name, without the blanks and quotes around them, which most programs take away.
pub fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(header::COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (pair.get(..at)?, pair.get(at + 1..)?);
        (key.trim_ascii() == name.as_bytes()).then(|| unquoted(value.trim_ascii()))
    })
}

fn unquoted(mut value: &[u8]) -> &[u8] {
    while let Some(rest) = value.strip_prefix(b"\"") {
        value = rest;
    }
    while let Some(rest) = value.strip_suffix(b"\"") {
        value = rest;
    }
    value
}

/// Whether a version that is asked for is `wanted`: of `application/json;version=2`, or of a subtype
/// with `v2` as a part of its own, `application/vnd.v2+json`, `application/vnd.api.v2+json` (RFC 6838
/// §3.2, §4.2.8).
fn accepts(headers: &HeaderMap, wanted: impl Fn(&str) -> bool) -> bool {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let subtype = parts.next().and_then(|media| media.split_once('/')).map(|(_, sub)| sub);
        let part = |part: &str| {
            let version = part.strip_prefix(['v', 'V']);
            // `vnd` begins like a version.
            version.is_some_and(|it| it.starts_with(|c: char| c.is_ascii_digit()) && wanted(it))
        };
        let named = subtype.is_some_and(|subtype| {
            subtype.starts_with("vnd.") && subtype.split(['.', '+']).any(part)
        });
        let parameter = |pair: &str| {
            pair.split_once('=').is_some_and(|(key, value)| {
                let value = value.trim().trim_matches('"');
                key.trim().eq_ignore_ascii_case("version") && !value.is_empty() && wanted(value)
            })
        };
        named || parts.any(parameter)
    })
}

fn kind(headers: &HeaderMap) -> Client {
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    if agent.is_some_and(|agent| agent.contains("Mobi")) { Client::Mobile } else { Client::Desktop }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Asked<'a> {
        Asked { host: "h", path: "/", query, method: &Method::GET, headers }
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    /// G11: headers, query and cookies are compared whole; `*` wants them to be there.
    #[test]
    fn values_are_compared_whole() {
        let exactly = |text: &str| Expected::Exactly(text.to_owned());
        let lines = headers(&[
            ("x-country-code", "DE"),
            ("cookie", "a=1; canary=true"),
            ("cookie", "canary=false; empty=; spaced = \"x\""),
        ]);
        let asked = asked(&lines, Some("version=2&version=3&q=a%20b&flag"));
        let header =
            |name: &str, wanted| holds(&Predicate::Header(name.to_owned(), wanted), &asked);
        let query = |name: &str, wanted| holds(&Predicate::Query(name.to_owned(), wanted), &asked);
        let cookie =
            |name: &str, wanted| holds(&Predicate::Cookie(name.to_owned(), wanted), &asked);
        assert!(header("x-country-code", exactly("DE")) && header("x-country-code", Expected::Any));
        assert!(!header("x-country-code", exactly("D")) && !header("x-tenant", Expected::Any));
        assert!(query("version", exactly("2")) && query("q", exactly("a b")));
        assert!(!query("version", exactly("3")), "the first one counts");
        assert!(query("flag", Expected::Any) && !query("fla", Expected::Any));
        assert!(cookie("canary", exactly("true")) && !cookie("canary", exactly("false")));
        assert!(cookie("spaced", exactly("x")));
        assert!(cookie("empty", exactly("")) && !cookie("anary", Expected::Any));
    }

    /// G11: a version is asked for by a parameter or by the subtype.
    #[test]
    fn versions_of_media_types() {
        for (accept, two) in [
            ("application/vnd.api+json;version=2", true),
            ("text/html, application/json; Version=\"2\"", true),
            ("application/vnd.v2+json", true),
            ("application/vnd.api.v2+json;q=0.5", true),
            ("application/vnd.v22+json", false),
            ("application/json;version=20", false),
            ("application/json", false),
            ("v2", false),
            ("*/*;version=", false),
        ] {
            let lines = headers(&[("accept", accept)]);
            let predicate = Predicate::AcceptVersion(vec![Some("2".to_owned())]);
            assert_eq!(holds(&predicate, &asked(&lines, None)), two, "{accept}");
        }
        // The declared default: asked for, or nothing asked for; not where another one is.
        let default = Predicate::AcceptVersion(vec![Some("1".to_owned()), None]);
        for (accept, taken) in [
            ("application/json;version=1", true),
            ("application/vnd.shop+json", true),
            ("*/*;version=", true),
            ("application/json;version=9", false),
            ("application/vnd.v2+json", false),
        ] {
            let lines = headers(&[("accept", accept)]);
            assert_eq!(holds(&default, &asked(&lines, None)), taken, "{accept}");
        }
        assert!(holds(&default, &asked(&headers(&[]), None)));
    }

    /// G11: phones say that they are.
    #[test]
    fn phones_and_others() {
        let phone = headers(&[("user-agent", "Mozilla/5.0 (iPhone) Mobile/15E148 Safari/604.1")]);
        let mobile = Predicate::Client(Client::Mobile);
        assert!(holds(&mobile, &asked(&phone, None)));
        assert!(!holds(&mobile, &asked(&headers(&[]), None)));
        assert!(holds(&Predicate::Client(Client::Desktop), &asked(&headers(&[]), None)));
    }
}
