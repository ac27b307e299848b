//! Which route is meant by host, path and method, compiled once per snapshot. Not for whether the
//! caller may take it. Called by stage 2 (which policy holds), stage 6 (the route itself) and
//! `aqueduct explain`.
//!
//! Precedence is that of the Kubernetes Gateway API: exact host, longest host suffix, any host; then
//! exact path, longest prefix; then a route that names methods; then the order of the file.
//!
//! Invariant: the cost of a lookup depends on the request and on the longest pattern, never on the
//! number of routes.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use http::{HeaderValue, Method};
use topology::gateway::Route;
use topology::units::{HostPattern, PathPattern};

use crate::exchange::{Candidate, RouteId};
use crate::stages::normalise::path;

type Table<V> = HashMap<Box<str>, V, RandomState>;

/// The routes of a group, compiled.
#[derive(Debug, Default)]
pub struct Matcher {
    exact: Table<Paths>,
    suffix: Table<Paths>,
    any: Paths,
}

/// What a lookup found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The route, or why there is none.
    pub candidate: Candidate,
    /// Value of `Allow` where the path exists for other methods only.
    pub allow: Option<HeaderValue>,
}

impl Matcher {
    /// Compiles routes; their indices become their ids.
    pub fn new(routes: &[Route]) -> Self {
        let mut matcher = Self::default();
        for (index, route) in routes.iter().enumerate() {
            let entry = Entry { id: RouteId(index), methods: methods(&route.methods) };
            if route.hosts.is_empty() {
                matcher.any.add(&route.path, &entry);
            }
            for host in &route.hosts {
                matcher.host(host).add(&route.path, &entry);
            }
        }
        matcher
    }

    fn host(&mut self, pattern: &HostPattern) -> &mut Paths {
        let (table, key) = match pattern {
            HostPattern::Exact(host) => (&mut self.exact, host),
            HostPattern::Suffix(suffix) => (&mut self.suffix, suffix),
        };
        table.entry(key.to_ascii_lowercase().into()).or_default()
    }

    /// The route for a canonical host and path.
    pub fn find(&self, host: &str, path: &str, method: &Method) -> Found {
        let mut other = OtherMethods::default();
        for paths in self.tables(host) {
            if let Some(id) = paths.find(path, method, &mut other) {
                return Found { candidate: Candidate::Route(id), allow: None };
            }
        }
        let candidate = other.first.map_or(Candidate::Unmatched, Candidate::OtherMethod);
        Found { candidate, allow: other.allow() }
    }

    /// The path tables that answer for a host, most specific first.
    fn tables<'m>(&'m self, host: &'m str) -> impl Iterator<Item = &'m Paths> {
        let suffixes = host.match_indices('.').filter(|(at, _)| *at > 0);
        let suffixes = suffixes.filter_map(|(at, _)| self.suffix.get(&host[at..]));
        let exact = self.exact.get(host);
        exact.into_iter().chain(suffixes).chain(std::iter::once(&self.any))
    }
}

/// The routes of one host pattern by path.
#[derive(Debug, Default)]
struct Paths {
    exact: Table<Vec<Entry>>,
    prefix: Table<Vec<Entry>>,
    /// Bytes of the longest prefix: longer ones are not looked up.
    longest: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    id: RouteId,
    /// Empty: all.
    methods: Vec<Method>,
}

impl Entry {
    fn takes(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }
}

impl Paths {
    fn add(&mut self, pattern: &PathPattern, entry: &Entry) {
        let entries = match pattern {
            PathPattern::Exact(text) => {
                self.exact.entry(path::canonical_pattern(text)).or_default()
            }
            PathPattern::Prefix(text) => {
                let text = path::canonical_pattern(text);
                self.longest = self.longest.max(text.len());
                self.prefix.entry(text).or_default()
            }
        };
        // Stable: routes that name methods first, each kind in the order of the file.
        let at = if entry.methods.is_empty() {
            entries.len()
        } else {
            entries.partition_point(|other| !other.methods.is_empty())
        };
        entries.insert(at, entry.clone());
    }

    fn find(&self, path: &str, method: &Method, other: &mut OtherMethods) -> Option<RouteId> {
        let exact = self.exact.get(path).into_iter();
        let prefixes = prefixes(path, self.longest).filter_map(|prefix| self.prefix.get(prefix));
        for entries in exact.chain(prefixes) {
            if let Some(entry) = entries.iter().find(|entry| entry.takes(method)) {
                return Some(entry.id);
            }
            other.note(entries);
        }
        None
    }
}

/// `/a/b/c`, `/a/b`, `/a` and the empty text: whole segments from the longest, none over `longest`.
fn prefixes(path: &str, longest: usize) -> impl Iterator<Item = &str> {
    let whole = (path.len() <= longest).then_some(path);
    let window = &path[..path.floor_char_boundary(longest.saturating_add(1))];
    whole.into_iter().chain(window.rmatch_indices('/').map(|(at, _)| &path[..at]))
}

/// What the path would take if only the method were another one.
#[derive(Debug, Default)]
struct OtherMethods {
    first: Option<RouteId>,
    methods: Vec<Method>,
}

impl OtherMethods {
    fn note(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.first.get_or_insert(entry.id);
            for method in &entry.methods {
                if !self.methods.contains(method) {
                    self.methods.push(method.clone());
                }
            }
        }
    }

    fn allow(mut self) -> Option<HeaderValue> {
        self.first?;
        self.methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        let names: Vec<&str> = self.methods.iter().map(Method::as_str).collect();
        HeaderValue::from_str(&names.join(", ")).ok()
    }
}

fn methods(names: &[String]) -> Vec<Method> {
    names.iter().filter_map(|name| Method::from_bytes(name.as_bytes()).ok()).collect()
}

#[cfg(test)]
mod tests;
