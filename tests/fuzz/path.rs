//! Paths as clients write them: what has a canonical form has one, which is its own, leads to the same
//! route, and arrives as it was judged. Run by `make fuzz`.
//!
//! Invariant: a canonical path has no dot segment, no empty segment but the last, and no separator in
//! disguise, however often it is decoded once more.
#![no_main]

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use l7_gateway::codec::head::HeadLimits;
use l7_gateway::codec::{request, write};
use l7_gateway::matcher::Matcher;
use l7_gateway::predicate::Asked;
use l7_gateway::stages::normalise::path::canonical;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static MATCHER: Matcher = matcher();
}

/// Routes of every kind over a small alphabet.
fn matcher() -> Matcher {
    let routes = ["/admin/*", "/a", "/a/*", "/a/b", "/A~/*", "/a/{id}/c", "/{x}/b", "/*"];
    let routes: Vec<_> =
        routes.iter().map(|path| format!("      - {{ path: \"{path}\", to: u }}")).collect();
    let text = format!(
        "aqueduct: 1\nservices:\n  u: {{ endpoints: [127.0.0.1:9] }}\ngateways:\n  app:\n    instances:\n      \
         gw: {{ listen: 127.0.0.1:0 }}\n    routes:\n{}\n",
        routes.join("\n")
    );
    let parsed = topology::parse("fuzz.yaml", &text, std::path::Path::new("/"));
    let topology = parsed.unwrap_or_else(|problems| panic!("{problems}"));
    Matcher::new(&topology.gateway("gw").expect("the instance").0.routes)
}

fuzz_target!(|raw: &str| {
    let Ok(path) = canonical(raw) else { return };
    assert_eq!(canonical(&path).as_deref(), Ok(&*path), "its own form");
    assert!(path.starts_with('/') && path.is_ascii() && !path.contains("//"));
    let lower = path.to_ascii_lowercase();
    assert!(
        !["%2f", "%5c", "%00", "%0a", "%0d", "%7f", "\\", "#", "?"]
            .iter()
            .any(|bad| lower.contains(bad))
    );
    for text in [lower.clone(), lower.replace("%3b", ";").replace("%2e", ".")] {
        let dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
        assert!(!text.split('/').any(dots), "{path}");
    }
    assert_eq!(decoded(raw), decoded(&path), "the same path, but for empty segments");
    let arrived = arrives(&path);
    MATCHER.with(|matcher| {
        let headers = HeaderMap::new();
        let route = |path: &str| {
            let asked =
                Asked { host: "h", path, query: None, method: &Method::GET, headers: &headers };
            format!("{:?}", matcher.find(&asked).candidate)
        };
        let again = canonical(&arrived).expect("canonical").into_owned();
        assert_eq!(route(&path), route(&again), "as it was judged");
    });
});

/// Bytes without escapes, empty segments merged.
fn decoded(path: &str) -> Vec<u8> {
    let (mut out, mut bytes) = (Vec::new(), path.bytes());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let pair = [bytes.next(), bytes.next()].map(|b| b.expect("an escape"));
            let text = String::from_utf8_lossy(&pair).into_owned();
            out.push(u8::from_str_radix(&text, 16).expect("an escape"));
        } else if byte != b'/' || out.last() != Some(&b'/') {
            out.push(byte);
        }
    }
    out
}

/// What is written for a service, as a strict reader has it.
fn arrives(path: &str) -> String {
    let uri: Uri = path.parse().expect("a canonical path is a target");
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("h"));
    let mut out = Vec::new();
    write::request(&mut out, &Method::GET, &uri, &headers, write::Framing::Silent);
    let limits = HeadLimits { bytes: 1 << 20, target: 1 << 20, headers: 100 };
    let head = request::parse(&Bytes::from(out), limits).expect("clean");
    assert_eq!(head.parts.uri.path(), path);
    head.parts.uri.path().to_owned()
}
