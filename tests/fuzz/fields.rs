//! Hosts, cookies, `Accept` versions and queries of clients. The first byte chooses which. Run by
//! `make fuzz`.
//!
//! Invariant: what is read of a field stands in it, and is read the same way again.
#![no_main]

use http::header::{ACCEPT, COOKIE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use l7_gateway::predicate::{Asked, cookie, holds};
use l7_gateway::stages::normalise::{host, scrub};
use libfuzzer_sys::fuzz_target;
use topology::gateway::{Expected, Predicate};

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    match choice % 4 {
        0 => hosts(bytes),
        1 => cookies(bytes),
        2 => versions(bytes),
        _ => queries(bytes),
    }
});

fn hosts(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let of = |value: HeaderValue| {
        let request = Request::builder().uri("/").header(HOST, value).body(());
        let (head, ()) = request.expect("a request").into_parts();
        host::authority(&head)
    };
    let Ok(authority) = of(value.clone()) else { return };
    assert_eq!(authority.as_str().as_bytes(), value.as_bytes(), "passed as it came");
    let name = host::name(&authority);
    assert!(!name.is_empty() && !name.contains(['@', '/', '?', '#', '\\', '%', ' ', ',']));
    assert!(
        !name.bytes().any(|b| b.is_ascii_uppercase()) && !name.ends_with('.') && name.is_ascii()
    );
    let again = of(HeaderValue::from_str(&name).expect("text")).expect("a name is a host");
    assert_eq!(host::name(&again), name);
    // A target in absolute form that agrees changes nothing.
    let uri: Result<Uri, _> = format!("http://{}/", authority.as_str()).parse();
    let request = Request::builder().uri(uri.expect("a host")).header(HOST, value).body(());
    let (head, ()) = request.expect("a request").into_parts();
    assert_eq!(host::authority(&head).map(|found| host::name(&found)), Ok(name));
}

fn cookies(bytes: &[u8]) {
    let lines: Vec<_> = bytes
        .split(|b| *b == b'\n')
        .filter_map(|line| HeaderValue::from_bytes(line).ok())
        .collect();
    let mut headers = HeaderMap::new();
    for line in &lines {
        headers.append(COOKIE, line.clone());
    }
    let found = cookie(&headers, "canary").map(str::to_owned);
    if let Some(value) = &found {
        assert!(!value.contains(';') && !value.starts_with('"') && !value.ends_with('"'));
        // Its line may hold what is no text beside it.
        let holds = |line: &HeaderValue| {
            line.as_bytes().windows(value.len().max(1)).any(|part| part == value.as_bytes())
        };
        assert!(value.is_empty() || lines.iter().any(holds));
    }
    // Joined for HTTP/1.1 the first one is still the first, unless a line is no text.
    let text = lines.iter().all(|line| line.to_str().is_ok());
    if scrub::scrub(&mut headers).is_ok() && text {
        assert!(headers.get_all(COOKIE).iter().count() <= 1);
        assert_eq!(cookie(&headers, "canary").map(str::to_owned), found);
    }
}

fn versions(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let text = value.to_str().unwrap_or_default().to_owned();
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, value);
    let asked =
        Asked { host: "h", path: "/", query: None, method: &Method::GET, headers: &headers };
    for version in ["1", "2", "10"] {
        let there = holds(&Predicate::AcceptVersion(vec![Some(version.to_owned())]), &asked);
        assert!(!there || text.contains(version), "{text}");
        // One of the ranges asks for it.
        let ranges = text.split(',').any(|range| {
            let mut one = HeaderMap::new();
            let Ok(range) = HeaderValue::from_str(range) else { return false };
            one.insert(ACCEPT, range);
            holds(
                &Predicate::AcceptVersion(vec![Some(version.to_owned())]),
                &Asked { headers: &one, ..asked },
            )
        });
        assert_eq!(there, ranges, "{text}");
    }
}

fn queries(bytes: &[u8]) {
    let Ok(query) = std::str::from_utf8(bytes) else { return };
    let headers = HeaderMap::new();
    let asked =
        Asked { host: "h", path: "/", query: Some(query), method: &Method::GET, headers: &headers };
    let any = holds(&Predicate::Query("version".to_owned(), Expected::Any), &asked);
    let two = Expected::Exactly("2".to_owned());
    let exactly = holds(&Predicate::Query("version".to_owned(), two), &asked);
    assert!(any || !exactly, "{query}");
    // A parameter that was there first counts.
    let longer = format!("version=2&{query}");
    let asked = Asked { query: Some(&longer), ..asked };
    assert!(holds(
        &Predicate::Query("version".to_owned(), Expected::Exactly("2".to_owned())),
        &asked
    ));
    // What is forwarded is a target as it stands.
    if query.bytes().all(|b| b.is_ascii_graphic())
        && let Ok(uri) = format!("/a?{query}").parse::<Uri>()
    {
        let kept = uri.query().unwrap_or_default();
        assert!(query == kept || query.contains('#'), "{query}");
    }
}
