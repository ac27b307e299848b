//! The matcher against tables and against an oracle that tries every route in order.

use std::time::Duration;

use http::HeaderMap;
use proptest::prelude::*;
use topology::answers::Word;
use topology::gateway::{Access, Auth, Expected, RoutePolicy, Sticky, UpstreamId};
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
        path: path.parse().expect("a path"),
        methods: methods.iter().map(|&m| m.to_owned()).collect(),
        when: Vec::new(),
        policy: RoutePolicy {
            auth: Auth::None,
            scopes: vec![],
            allow: vec![],
            access: Access::Allow,
            authorize: None,
            limits: vec![],
            cors: None,
        },
        to: topology::gateway::RouteTo::Service(UpstreamId(0)),
        cache: None,
        split: Vec::new(),
        sticky: Sticky::User,
        experiments: Vec::new(),
        mirror: None,
        sunset: None,
        deprecation: topology::answers::Deprecation {
            version: None,
            since: None,
            link: None,
            successor: None,
        },
        maintenance: None,
        security_headers: None,
        max_body_bytes: None,
        compress: Word::Silent,
        timeout: Duration::from_secs(15),
        times: topology::gateway::RouteTimes::default(),
        response_headers: vec![],
        transform: None,
        transcode: None,
        grpc_web: false,
        contract: None,
        external: None,
        place: Place::default(),
    }
}

fn find(routes: &[Route], host: &str, path: &str, method: &str) -> Found {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let headers = HeaderMap::new();
    let asked = Asked { host, path, query: None, method: &method, headers: &headers };
    Matcher::new(routes).find(&asked)
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

/// G11, G23: a route's policy holds however its path is spelt; patterns may name escapes.
#[test]
fn a_path_means_its_route_in_every_spelling() {
    let routes = [
        route(&[], "/users/@me", &[]),
        route(&[], "/users/{id}", &[]),
        route(&[], "/teams/@own/{id}", &[]),
        route(&[], "/a:b/*", &[]),
        route(&[], "~/x/@[a-z]+", &[]),
        route(&[], "~/y/%40[a-z]+", &[]),
    ];
    let cases = [
        ("/users/@me", Some(0)),
        ("/users/%40me", Some(0)),
        ("/users/%40you", Some(1)),
        ("/teams/%40own/7", Some(2)),
        ("/a%3Ab/c", Some(3)),
        ("/x/%40a", Some(4)),
        ("/y/%40a", Some(5)),
        ("/y/@a", None),
        ("/users/%2540me", Some(1)),
    ];
    for (path, expected) in cases {
        let found = find(&routes, "h", path, "GET");
        let expected = expected.map_or(Candidate::Unmatched, |id| Candidate::Route(RouteId(id)));
        assert_eq!(found.candidate, expected, "{path}");
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
    // Of templates the one whose first difference is a plain segment; the one pattern has one rank.
    let path_rank = |route: &Route| match &route.path {
        PathPattern::Exact(text) => (text == path).then_some((3, 0, vec![])),
        PathPattern::Template(text) => {
            let (wanted, given) = (text.split('/'), path.split('/'));
            let fits = |(wanted, given): (&str, &str)| match wanted.starts_with('{') {
                true => !given.is_empty(),
                false => wanted == given,
            };
            let fit = wanted.clone().count() == given.clone().count();
            let plain = wanted.clone().map(|segment| !segment.starts_with('{')).collect();
            (fit && wanted.zip(given).all(fits)).then_some((2, 0, plain))
        }
        PathPattern::Regex(_) => path.starts_with("/x/").then_some((0, 0, vec![])),
        PathPattern::Prefix(text) => {
            let below = path.strip_prefix(text.as_str());
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')).then_some((
                1,
                text.len(),
                vec![],
            ))
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
    let path = prop::sample::select(vec![
        "/*", "/x", "/x/*", "/x/y", "/x/y/*", "/x/y/z", "/xy/*", "/x/{a}", "/{a}/y", "/{b}/{c}",
        "~/x/.*",
    ]);
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
        let headers = HeaderMap::new();
        let (host, path) = (host.as_str(), path.as_str());
        let asked = Asked { host, path, query: None, method: &method, headers: &headers };
        let found = Matcher::new(&routes).find(&asked);
        let expected = oracle(&routes, host, path, &method);
        let got = match found.candidate {
            Candidate::Route(id) => Some(id),
            Candidate::OtherMethod(_) | Candidate::Unmatched => None,
        };
        prop_assert_eq!(got, expected);
        prop_assert_eq!(found.allow.is_some(), matches!(found.candidate, Candidate::OtherMethod(_)));
    }
}

/// G11: templates come after exact paths and before prefixes, regular expressions last; a template
/// that has more plain segments to the left wins.
#[test]
fn templates_and_patterns_have_their_place() {
    let routes = [
        route(&[], "~/api/v[0-9]+/.*", &[]),
        route(&[], "/api/v1/*", &[]),
        route(&[], "/api/{version}/user", &[]),
        route(&[], "/api/{v}/{what}", &[]),
        route(&[], "/api/v1/me", &[]),
        route(&[], "~/api/.*", &["POST"]),
    ];
    for (path, expected) in [
        ("/api/v1/me", Some(4)),
        ("/api/v1/user", Some(2)),
        ("/api/v1/post", Some(3)),
        ("/api/v1/post/7", Some(1)),
        ("/api/v2/post/7", Some(0)),
        ("/api/v/", None),
        ("/api/vx/a/b", None),
        ("/x/api/v2/a/b", None),
    ] {
        let found = find(&routes, "h", path, "GET").candidate;
        let got = if let Candidate::Route(RouteId(id)) = found { Some(id) } else { None };
        assert_eq!(got, expected, "{path}");
    }
    assert_eq!(find(&routes, "h", "/api/vx/a/b", "POST").candidate, Candidate::Route(RouteId(5)));
    let other = find(&routes, "h", "/api/vx/a/b", "GET");
    assert_eq!(other.allow.expect("the other route's method"), "POST");
}

/// G11: every pattern of a file is matched, however much they come to together.
#[test]
fn large_patterns_are_all_matched() {
    let routes: Vec<Route> =
        (0..12).map(|i| route(&[], &format!(r"~/{i}/\w{{1,60}}"), &[])).collect();
    let found = find(&routes, "h", "/7/word", "GET");
    assert_eq!(found.candidate, Candidate::Route(RouteId(7)));
}

/// G11: of routes with one path, one with methods comes first, then one that wants more headers, then
/// more of the query; one whose wishes are not met is as if it were not there.
#[test]
fn more_wishes_come_first() {
    let wish = |when: Vec<Predicate>, methods: &[&str]| Route { when, ..route(&[], "/a", methods) };
    let header = |name: &str| Predicate::Header(name.to_owned(), Expected::Any);
    let query = |name: &str| Predicate::Query(name.to_owned(), Expected::Any);
    let routes = [
        wish(vec![], &[]),
        wish(vec![query("p"), query("q")], &[]),
        wish(vec![header("x")], &[]),
        wish(vec![header("x"), query("p")], &[]),
        wish(vec![header("y")], &["GET"]),
    ];
    let matcher = Matcher::new(&routes);
    let find = |names: &[&'static str], query: Option<&str>| {
        let mut headers = HeaderMap::new();
        names.iter().for_each(|&name| drop(headers.insert(name, HeaderValue::from_static("1"))));
        let method = Method::GET;
        let asked = Asked { host: "h", path: "/a", query, method: &method, headers: &headers };
        matcher.find(&asked).candidate
    };
    for (names, query, expected) in [
        (&[][..], None, 0),
        (&[], Some("p=1"), 0),
        (&[], Some("p=1&q=2"), 1),
        (&["x"], Some("q=1"), 2),
        (&["x"], Some("p=1&q=2"), 3),
        (&["x", "y"], Some("p=1&q=2"), 4),
    ] {
        assert_eq!(find(names, query), Candidate::Route(RouteId(expected)), "{names:?} {query:?}");
    }
}

std::thread_local! {
    /// What the matcher has looked at on this thread.
    pub(super) static STEPS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Routes of every kind, `count` in all: by host, exact, by template and by prefix.
fn many(count: usize) -> Vec<Route> {
    let make = |i: usize| match i % 4 {
        0 => route(&[&format!("h{i}.example")], "/*", &[]),
        1 => route(&[], &format!("/api/s{i}/list"), &["GET"]),
        2 => route(&[], &format!("/t{i}/{{id}}/open"), &[]),
        _ => route(&[], &format!("/svc/s{i}/*"), &["GET", "POST"]),
    };
    (0..count).map(make).collect()
}

/// G11: among five thousand routes no more is looked at than among fifty, found or not.
#[test]
fn a_look_up_costs_the_same_among_many() {
    let looked = |count: usize| -> Vec<u32> {
        let matcher = Matcher::new(&many(count));
        let headers = HeaderMap::new();
        let ask = |(host, path, method): (&str, &str, Method)| {
            let asked = Asked { host, path, query: None, method: &method, headers: &headers };
            STEPS.with(|steps| steps.set(0));
            let found = matcher.find(&asked);
            (STEPS.with(std::cell::Cell::get), found)
        };
        let cases = [
            ("h8.example", "/any/thing", Method::GET, Some(8)),
            ("x", "/api/s5/list", Method::GET, Some(5)),
            ("x", "/api/s5/list", Method::PUT, None),
            ("x", "/t6/77/open", Method::GET, Some(6)),
            ("x", "/svc/s7/deep/er/path", Method::POST, Some(7)),
            ("x", "/nothing/like/this", Method::GET, None),
        ];
        let one = |(host, path, method, expected): (&'static str, &'static str, Method, _)| {
            let (steps, found) = ask((host, path, method));
            let got = match found.candidate {
                Candidate::Route(RouteId(id)) => Some(id),
                _ => None,
            };
            assert_eq!(got, expected, "{host}{path}");
            assert!((1..20).contains(&steps), "{steps} for {host}{path}");
            steps
        };
        cases.into_iter().map(one).collect()
    };
    assert_eq!(looked(50), looked(5000));
}

/// G11: the order that the Kubernetes Gateway API documents for HTTPRoute, line by line (its
/// `HTTPRouteRule.matches` and `HTTPRouteSpec.hostnames`); templates and regular expressions, which it
/// leaves to implementations, have the places that `matcher` documents. In each pair the second is
/// written first in the file, and the first wins.
#[test]
fn precedence_is_that_of_the_gateway_api() {
    let wants = |route: Route, when: &[Predicate]| Route { when: when.to_vec(), ..route };
    let header = |name: &str| Predicate::Header(name.to_owned(), Expected::Any);
    let query = |name: &str| Predicate::Query(name.to_owned(), Expected::Any);
    let path = |text: &str| route(&[], text, &[]);
    let pairs = [
        (
            "exact host before wildcard host",
            route(&["a.b.c"], "/*", &[]),
            route(&["*.b.c"], "/p/q/r", &[]),
        ),
        ("longest wildcard host", route(&["*.b.c"], "/*", &[]), route(&["*.c"], "/p/q/r", &[])),
        ("wildcard host before any", route(&["*.c"], "/*", &[]), path("/p/q/r")),
        ("exact path", path("/p/q/r"), path("/p/q/*")),
        ("exact path before template", path("/p/q/r"), path("/p/q/{x}")),
        ("template before prefix", path("/p/{x}/r"), path("/p/q/*")),
        ("longest prefix by characters", path("/p/q/*"), path("/p/*")),
        ("prefix before regular expression", path("/*"), path("~/p/q/r")),
        ("path before method", path("/p/q/*"), route(&[], "/p/*", &["GET"])),
        (
            "method match",
            route(&[], "/p/*", &["GET"]),
            wants(path("/p/*"), &[header("x"), query("k")]),
        ),
        (
            "most header matches",
            wants(path("/p/*"), &[header("x"), header("y")]),
            wants(path("/p/*"), &[header("x"), query("k"), query("l")]),
        ),
        (
            "most query matches",
            wants(path("/p/*"), &[query("k"), query("l")]),
            wants(path("/p/*"), &[query("k")]),
        ),
        (
            "host before everything else",
            route(&["a.b.c"], "~/p/.*", &[]),
            wants(route(&["*.b.c"], "/p/q/r", &["GET"]), &[header("x")]),
        ),
    ];
    let mut headers = HeaderMap::new();
    headers.insert("x", HeaderValue::from_static("1"));
    headers.insert("y", HeaderValue::from_static("1"));
    let method = Method::GET;
    let asked = Asked {
        host: "a.b.c",
        path: "/p/q/r",
        query: Some("k=1&l=2"),
        method: &method,
        headers: &headers,
    };
    for (line, first, second) in pairs {
        let found = Matcher::new(&[second.clone(), first.clone()]).find(&asked);
        assert_eq!(found.candidate, Candidate::Route(RouteId(1)), "{line}");
        let alone = Matcher::new(&[second]).find(&asked);
        assert_eq!(alone.candidate, Candidate::Route(RouteId(0)), "{line}: the second fits too");
    }
    let twins = [path("/p/*"), path("/p/*")];
    let found = Matcher::new(&twins).find(&asked);
    assert_eq!(found.candidate, Candidate::Route(RouteId(0)), "order in the file");
}
