//! The matcher against tables and against an oracle that tries every route in order.

use std::time::Duration;

use proptest::prelude::*;
use topology::gateway::{Auth, RoutePolicy, UpstreamId};
use topology::units::{Place, RouteName};

use super::*;

pub(crate) fn route(hosts: &[&str], path: &str, methods: &[&str]) -> Route {
    let host = |text: &&str| match text.strip_prefix('*') {
        Some(suffix) => HostPattern::Suffix(suffix.to_owned()),
        None => HostPattern::Exact((*text).to_owned()),
    };
    Route {
        name: RouteName::new(path),
        hosts: hosts.iter().map(host).collect(),
        path: match path.strip_suffix("/*") {
            Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
            None => PathPattern::Exact(path.to_owned()),
        },
        methods: methods.iter().map(|&m| m.to_owned()).collect(),
        policy: RoutePolicy { auth: Auth::None, scopes: vec![], limits: vec![], cors: None },
        to: UpstreamId(0),
        sunset: None,
        timeout: Duration::from_secs(15),
        response_headers: vec![],
        place: Place::default(),
    }
}

fn find(routes: &[Route], host: &str, path: &str, method: &str) -> Found {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    Matcher::new(routes).find(host, path, &method)
}

/// G11: exact before prefix, longest prefix, whole segments only.
#[test]
fn the_most_specific_path_wins() {
    let routes = [
        route(&[], "/*", &[]),
        route(&[], "/api/user/*", &[]),
        route(&[], "/api/*", &[]),
        route(&[], "/api/user/me", &[]),
    ];
    let cases = [
        ("/", 0),
        ("/apix", 0),
        ("/api", 2),
        ("/api/x", 2),
        ("/api/user", 1),
        ("/api/user/", 1),
        ("/api/user/98765", 1),
        ("/api/users", 2),
        ("/api/user/me", 3),
        ("/api/user/me/x", 1),
    ];
    for (path, expected) in cases {
        let found = find(&routes, "h", path, "GET");
        assert_eq!(found.candidate, Candidate::Route(RouteId(expected)), "{path}");
    }
}

/// G11: exact host, longest suffix, any host; a host without the path falls through.
#[test]
fn the_most_specific_host_wins() {
    let routes = [
        route(&[], "/*", &[]),
        route(&["*.example"], "/*", &[]),
        route(&["*.api.example"], "/*", &[]),
        route(&["v1.api.example"], "/only", &[]),
    ];
    let cases = [
        ("other", "/only", 0),
        ("example", "/only", 0),
        ("a.example", "/only", 1),
        ("a.b.example", "/only", 1),
        ("v2.api.example", "/only", 2),
        ("v1.api.example", "/only", 3),
        ("v1.api.example", "/else", 2),
        (".example", "/", 0),
    ];
    for (host, path, expected) in cases {
        let found = find(&routes, host, path, "GET");
        assert_eq!(found.candidate, Candidate::Route(RouteId(expected)), "{host}{path}");
    }
}

/// G11: another method is told what the path takes; a shorter prefix that takes it wins over 405.
#[test]
fn methods_are_matched_last() {
    let routes = [
        route(&[], "/a/*", &["POST", "PUT"]),
        route(&[], "/a/b", &["DELETE"]),
        route(&[], "/a/*", &["GET"]),
    ];
    assert_eq!(find(&routes, "h", "/a/b", "GET").candidate, Candidate::Route(RouteId(2)));
    let refused = find(&routes, "h", "/a/b", "PATCH");
    assert_eq!(refused.candidate, Candidate::OtherMethod(RouteId(1)));
    assert_eq!(refused.allow.expect("allow"), "DELETE, GET, POST, PUT");
    assert_eq!(find(&routes, "h", "/b", "GET").candidate, Candidate::Unmatched);
}

/// The rule as a person would write it: all that match, ordered by precedence.
fn oracle(routes: &[Route], host: &str, path: &str, method: &Method) -> Option<RouteId> {
    let host_rank = |route: &Route| {
        if route.hosts.is_empty() {
            return Some((0, 0));
        }
        let rank = |pattern: &HostPattern| match pattern {
            HostPattern::Exact(name) => (name == host).then_some((2, 0)),
            HostPattern::Suffix(suffix) => {
                (host.len() > suffix.len() && host.ends_with(suffix)).then_some((1, suffix.len()))
            }
        };
        route.hosts.iter().filter_map(rank).max()
    };
    let path_rank = |route: &Route| match &route.path {
        PathPattern::Exact(text) => (text == path).then_some((1, 0)),
        PathPattern::Prefix(text) => {
            let below = path.strip_prefix(text.as_str());
            below
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                .then_some((0, text.len()))
        }
    };
    let ranked = routes.iter().enumerate().filter_map(|(index, route)| {
        let named = route.methods.iter().any(|m| m == method.as_str());
        if !named && !route.methods.is_empty() {
            return None;
        }
        Some((host_rank(route)?, path_rank(route)?, named, std::cmp::Reverse(index)))
    });
    ranked.max().map(|best| RouteId(best.3.0))
}

fn routes() -> impl Strategy<Value = Vec<Route>> {
    let host = prop::sample::select(vec!["a", "b.a", "*.a", "*.b.a", "c.b.a"]);
    let path = prop::sample::select(vec!["/*", "/x", "/x/*", "/x/y", "/x/y/*", "/x/y/z", "/xy/*"]);
    let method = prop::sample::select(vec!["GET", "POST", "PUT"]);
    let one = (prop::collection::vec(host, 0..3), path, prop::collection::vec(method, 0..3));
    prop::collection::vec(one.prop_map(|(h, p, m)| route(&h, p, &m)), 0..12)
}

proptest! {
    /// G11: the compiled matcher agrees with trying every route.
    #[test]
    fn the_matcher_is_the_oracle(
        routes in routes(),
        host in "([abc]\\.){0,3}[abc]",
        path in "(/(x|y|z|xy)?){1,4}",
        method in prop::sample::select(vec![Method::GET, Method::POST, Method::DELETE]),
    ) {
        let found = Matcher::new(&routes).find(&host, &path, &method);
        let expected = oracle(&routes, &host, &path, &method);
        let got = match found.candidate {
            Candidate::Route(id) => Some(id),
            Candidate::OtherMethod(_) | Candidate::Unmatched => None,
        };
        prop_assert_eq!(got, expected);
        prop_assert_eq!(found.allow.is_some(), matches!(found.candidate, Candidate::OtherMethod(_)));
    }
}
