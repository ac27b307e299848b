//! What an answer depends on beside its method, host and path, so that caches do not take one for another
//! (`Vary`, RFC 9110 §12.5.5). Not for what services themselves say. Called by stage 9, last of all.
//!
//! Invariant: what the file chooses answers by is told, whatever services and filters say of `Vary`.

use std::cell::OnceCell;

use http::header::{HeaderMap, HeaderValue, VARY};
use topology::gateway::{Group, Predicate, Route, RoutePolicy};
use topology::units::PathPattern;

/// For all routes of a group.
#[derive(Debug)]
pub struct Variance {
    /// Made with the first answer of each: a reload is not to hold a worker up.
    routes: Vec<OnceCell<Vec<Told>>>,
    /// Places of routes that look at headers.
    choosing: Vec<usize>,
    /// Where no route matches.
    unmatched: bool,
}

/// A header that answers of a route depend on.
#[derive(Debug)]
struct Told {
    name: HeaderValue,
    /// Only of requests for such a path; `None`: of all.
    below: Option<Ways>,
}

impl Variance {
    /// For a group.
    pub fn new(group: &Group) -> Self {
        let chooses = |(at, route): (usize, &Route)| names(route).next().map(|_| at);
        Self {
            routes: group.routes.iter().map(|_| OnceCell::new()).collect(),
            choosing: group.routes.iter().enumerate().filter_map(chooses).collect(),
            unmatched: group.unmatched.as_ref().is_some_and(by_origin),
        }
    }

    /// Says it in an answer of a route (`None`: of none) to a request for this path.
    pub fn tell(&self, group: &Group, route: Option<usize>, path: &str, headers: &mut HeaderMap) {
        let Some((at, known)) = route.and_then(|at| Some((at, self.routes.get(at)?))) else {
            if self.unmatched {
                told(headers, &ORIGIN);
            }
            return;
        };
        for one in known.get_or_init(|| self.of(group, at)) {
            if one.below.as_ref().is_none_or(|ways| ways.fit(path)) {
                told(headers, &one.name);
            }
        }
    }

    fn of(&self, group: &Group, at: usize) -> Vec<Told> {
        let mut all = Vec::new();
        let Some(route) = group.routes.get(at) else { return all };
        if by_origin(&route.policy) {
            all.push(Told { name: ORIGIN, below: None });
        }
        all.extend(names(route).map(|name| Told { name, below: None }));
        let own = Ways::of(&route.path);
        let others = self.choosing.iter().filter(|other| **other != at);
        for other in others.filter_map(|at| group.routes.get(*at)) {
            let ways = Ways::of(&other.path);
            if before(other, route) && hosts_meet(other, route) && ways.meet(&own) {
                all.extend(names(other).map(|name| Told { name, below: Some(ways.clone()) }));
            }
        }
        all
    }
}

const ORIGIN: HeaderValue = HeaderValue::from_static("Origin");

/// Whether the origin chooses what an answer says.
fn by_origin(policy: &RoutePolicy) -> bool {
    policy.cors.as_ref().is_some_and(|rules| rules.origins.iter().all(|one| one != "*"))
}

/// Names of headers that a route looks at.
fn names(route: &Route) -> impl Iterator<Item = HeaderValue> {
    route.when.iter().filter_map(|predicate| match predicate {
        Predicate::Header(name, _) => HeaderValue::from_str(name).ok(),
        Predicate::Cookie(..) => Some(HeaderValue::from_static("Cookie")),
        Predicate::AcceptVersion(_) => Some(HeaderValue::from_static("Accept")),
        Predicate::Client(_) => Some(HeaderValue::from_static("User-Agent")),
        Predicate::Query(..) => None,
    })
}

/// Whether a request that could be either's is offered to the first one first, as `matcher` has it.
fn before(one: &Route, other: &Route) -> bool {
    let rank = |route: &Route| match &route.path {
        PathPattern::Exact(_) => (0, 0),
        PathPattern::Template(_) => (1, 0),
        PathPattern::Prefix(text) => (2, usize::MAX - text.len()),
        PathPattern::Regex(_) => (3, 0),
    };
    rank(one) <= rank(other)
}

fn hosts_meet(one: &Route, other: &Route) -> bool {
    one.hosts.is_empty()
        || other.hosts.is_empty()
        || one.hosts.iter().any(|host| other.hosts.contains(host))
}

/// The paths that a pattern may fit, told by segments; of a regular expression more than it does fit.
#[derive(Clone, Debug)]
struct Ways {
    /// `None`: any one.
    segments: Vec<Option<Box<str>>>,
    /// Whether more may follow.
    open: bool,
}

impl Ways {
    fn of(path: &PathPattern) -> Self {
        let (text, open) = match path {
            PathPattern::Exact(text) | PathPattern::Template(text) => (text.as_str(), false),
            PathPattern::Prefix(text) => (text.as_str(), true),
            PathPattern::Regex(text) => (plain(text), true),
        };
        let template = matches!(path, PathPattern::Template(_));
        let segment = |text: &str| (!template || !text.starts_with('{')).then(|| text.into());
        Self { segments: text.split('/').map(segment).collect(), open }
    }

    fn meet(&self, other: &Self) -> bool {
        let (own, theirs) = (self.segments.len(), other.segments.len());
        let long = own == theirs || if own < theirs { self.open } else { other.open };
        let same =
            |(a, b): (&Option<Box<str>>, &Option<Box<str>>)| a.is_none() || b.is_none() || a == b;
        long && self.segments.iter().zip(&other.segments).all(same)
    }

    fn fit(&self, path: &str) -> bool {
        let mut asked = path.split('/');
        let fits = |known: &Option<Box<str>>| {
            asked.next().is_some_and(|own| known.as_deref().is_none_or(|known| known == own))
        };
        self.segments.iter().all(fits) && (self.open || asked.next().is_none())
    }
}

/// Whole segments that everything begins with that an expression fits.
fn plain(text: &str) -> &str {
    if text.contains('|') {
        return "";
    }
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "/-_".contains(c)));
    let begin = text.get(..end.unwrap_or(text.len())).unwrap_or_default();
    begin.rfind('/').and_then(|at| begin.get(..at)).unwrap_or_default()
}

/// Adds a name, once; what depends on everything depends on that too.
pub fn told(headers: &mut HeaderMap, name: &HeaderValue) {
    let mut before = headers.get_all(VARY).iter().filter_map(|value| value.to_str().ok());
    let known = |one: &str| one == "*" || one.as_bytes().eq_ignore_ascii_case(name.as_bytes());
    if !before.any(|names| names.split(',').map(str::trim).any(known)) {
        headers.append(VARY, name.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G11, G13: which paths two patterns may share, and which path is whose.
    #[test]
    fn patterns_meet_where_a_path_may_fit_both() {
        for (one, other, meet) in [
            ("/a", "/a", true),
            ("/a", "/b", false),
            ("/a", "/*", true),
            ("/a", "/a/*", true),
            ("/a", "/a/b/*", false),
            ("/a/{id}", "/a/*", true),
            ("/a/{id}", "/a/7", true),
            ("/a/{id}", "/{x}/b", true),
            ("/a/{id}", "/a", false),
            ("/a/b/*", "/a/*", true),
            ("/a/*", "/b/*", false),
            ("~/v([0-9]+)/.*", "/v2/x", true),
            ("~/v/([0-9]+)", "/w/2", false),
            ("~/v|/w", "/w", true),
        ] {
            let ways = |text: &str| Ways::of(&text.parse().expect("a pattern"));
            assert_eq!(ways(one).meet(&ways(other)), meet, "{one} {other}");
            assert_eq!(ways(other).meet(&ways(one)), meet, "{other} {one}");
        }
        for (pattern, path, fits) in [
            ("/a/*", "/a", true),
            ("/a/*", "/a/b/c", true),
            ("/a/*", "/ab", false),
            ("/*", "/", true),
            ("/a/{id}", "/a/7", true),
            ("/a/{id}", "/a/7/8", false),
            ("/a", "/a", true),
        ] {
            let ways = Ways::of(&pattern.parse().expect("a pattern"));
            assert_eq!(ways.fit(path), fits, "{pattern} {path}");
        }
    }
}
