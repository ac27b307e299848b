//! Which route is meant by host, path and method, compiled once per snapshot. Not for whether the
//! caller may take it. Called by stage 2 (which policy holds), stage 6 (the route itself) and
//! `aqueduct explain`.
//!
//! Precedence is that of the Kubernetes Gateway API: exact host, longest host suffix, any host; then
//! exact path, template, longest prefix, regular expression; then a route that names methods, one that
//! wants more headers (cookies, `Accept` and `User-Agent` are headers), one that wants more of the
//! query; then the order of the file.
//!
//! Invariant: the cost of a lookup depends on the request, on the longest pattern and on how many
//! routes have the very same path, never on the number of routes. Regular expressions of a host are
//! tried at once, and only when nothing else fits.

use std::cell::Cell;
use std::collections::HashMap;

use foldhash::fast::RandomState;
use http::{HeaderValue, Method};
use regex::{RegexSet, RegexSetBuilder};
use topology::gateway::{Predicate, Route};
use topology::units::{HostPattern, PathPattern};

use crate::exchange::{Candidate, RouteId};
use crate::predicate::{self, Asked};
use crate::stages::normalise::path;

pub mod others;

type Table<V> = HashMap<Box<str>, V, RandomState>;

/// The routes of a group, compiled.
#[derive(Debug, Default)]
pub struct Matcher {
    exact: Table<Paths>,
    suffix: Table<Paths>,
    any: Paths,
    /// All headers that routes look at.
    headers: Vec<HeaderValue>,
}

/// What a lookup found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The route, or why there is none.
    pub candidate: Candidate,
    /// Value of `Allow` where the path exists for other methods only.
    pub allow: Option<HeaderValue>,
    /// The headers that were looked at to find it.
    pub looked: Looked,
}

/// Headers by which a route was found or passed over, a bit for each of [`Matcher::headers`]; the last one stands for
/// all from there on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked(u32);

impl Looked {
    fn at(index: usize) -> Self {
        Self(1 << index.min(31))
    }

    /// Whether this one of [`Matcher::headers`] was looked at.
    pub fn has(self, index: usize) -> bool {
        self.0 & Self::at(index).0 != 0
    }

    /// Whether any was.
    pub fn any(self) -> bool {
        self.0 != 0
    }
}

impl Matcher {
    /// Compiles routes; their indices become their ids.
    pub fn new(routes: &[Route]) -> Self {
        let mut matcher = Self::default();
        for (index, route) in routes.iter().enumerate() {
            let entry = Entry {
                id: RouteId(index),
                methods: methods(&route.methods),
                when: route.when.clone(),
                looks: matcher.looks(&route.when),
            };
            if route.hosts.is_empty() {
                matcher.any.add(&route.path, &entry);
            }
            for host in &route.hosts {
                matcher.host(host).add(&route.path, &entry);
            }
        }
        let tables = matcher.exact.values_mut().chain(matcher.suffix.values_mut());
        tables.chain(std::iter::once(&mut matcher.any)).for_each(Paths::compile);
        matcher
    }

    /// The headers that these look at; known from now on.
    fn looks(&mut self, when: &[Predicate]) -> Looked {
        let mut looks = Looked::default();
        for name in when.iter().filter_map(predicate::header) {
            let known = self.headers.iter().position(|known| *known == name);
            let at = known.unwrap_or_else(|| {
                self.headers.push(name);
                self.headers.len() - 1
            });
            looks.0 |= Looked::at(at).0;
        }
        looks
    }

    /// Names of all headers that routes look at.
    pub fn headers(&self) -> &[HeaderValue] {
        &self.headers
    }

    fn host(&mut self, pattern: &HostPattern) -> &mut Paths {
        let (table, key) = match pattern {
            HostPattern::Exact(host) => (&mut self.exact, host),
            HostPattern::Suffix(suffix) => (&mut self.suffix, suffix),
        };
        table.entry(key.to_ascii_lowercase().into()).or_default()
    }

    /// The route for a request.
    pub fn find(&self, asked: &Asked<'_>) -> Found {
        let mut other = OtherMethods::default();
        for paths in self.tables(asked.host) {
            step();
            if let Some(id) = paths.find(asked, &mut other) {
                return Found {
                    candidate: Candidate::Route(id),
                    allow: None,
                    looked: other.looked.get(),
                };
            }
        }
        let candidate = other.first.map_or(Candidate::Unmatched, Candidate::OtherMethod);
        let looked = other.looked.get();
        Found { candidate, allow: other.allow(), looked }
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
    templates: Option<Segments>,
    /// In the order of the file.
    patterns: Vec<(String, Vec<Entry>)>,
    set: RegexSet,
}

#[derive(Clone, Debug)]
struct Entry {
    id: RouteId,
    /// Empty: all.
    methods: Vec<Method>,
    when: Vec<Predicate>,
    looks: Looked,
}

impl Entry {
    fn takes(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }

    fn holds(&self, asked: &Asked<'_>, looked: &Cell<Looked>) -> bool {
        step();
        looked.set(Looked(looked.get().0 | self.looks.0));
        self.when.iter().all(|predicate| predicate::holds(predicate, asked))
    }

    /// More is more specific.
    fn rank(&self) -> (bool, usize, usize) {
        let query = self.when.iter().filter(|p| matches!(p, Predicate::Query(..))).count();
        (!self.methods.is_empty(), self.when.len() - query, query)
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
            PathPattern::Template(text) => self.templates.get_or_insert_default().entries(text),
            PathPattern::Regex(text) => {
                let known = self.patterns.iter().position(|(other, _)| other == text);
                let at = known.unwrap_or_else(|| {
                    self.patterns.push((text.clone(), Vec::new()));
                    self.patterns.len() - 1
                });
                let Some((_, entries)) = self.patterns.get_mut(at) else { return };
                entries
            }
        };
        // Stable: what says more first, equals in the order of the file.
        let at = entries.partition_point(|other| other.rank() >= entry.rank());
        entries.insert(at, entry.clone());
    }

    /// Compiles regular expressions; called once, at the end.
    fn compile(&mut self) {
        let whole = self.patterns.iter().map(|(pattern, _)| PathPattern::whole(pattern));
        // Each is bounded by itself; what they come to together is the file's own affair.
        let set = RegexSetBuilder::new(whole).size_limit(usize::MAX).build();
        self.set = set.expect("invariant: patterns were compiled when the file was read");
    }

    fn find(&self, asked: &Asked<'_>, other: &mut OtherMethods) -> Option<RouteId> {
        let compared = path::compared(asked.path);
        let path = &*compared;
        let exact = self.exact.get(path).map(Vec::as_slice);
        let mut templates = Vec::new();
        if let Some(root) = &self.templates {
            root.find(path.strip_prefix('/'), &mut templates);
        }
        let prefixes = prefixes(path, self.longest).inspect(|_| step());
        let prefixes = prefixes.filter_map(|prefix| self.prefix.get(prefix));
        let plain = exact.into_iter().chain(templates).chain(prefixes.map(Vec::as_slice));
        let patterns = std::iter::once(()).filter(|()| !self.set.is_empty());
        // Regular expressions see the path as it came too: they may name escapes.
        let other_form = (path != asked.path).then_some(asked.path);
        let patterns = patterns.flat_map(|()| {
            let as_it_came = other_form.map(|path| self.set.matches(path));
            self.set.matches(path).into_iter().chain(as_it_came.into_iter().flatten())
        });
        let patterns = patterns.filter_map(|at| Some(self.patterns.get(at)?.1.as_slice()));
        for entries in plain.chain(patterns) {
            let mut meant = entries.iter().filter(|entry| entry.holds(asked, &other.looked));
            if let Some(entry) = meant.find(|entry| entry.takes(asked.method)) {
                return Some(entry.id);
            }
            let seen = Cell::new(Looked::default());
            other.note(entries.iter().filter(|entry| entry.holds(asked, &seen)));
        }
        None
    }
}

/// Templates by their segments.
#[derive(Debug, Default)]
struct Segments {
    plain: Table<Segments>,
    /// Any one segment that is not empty.
    any: Option<Box<Segments>>,
    entries: Vec<Entry>,
}

impl Segments {
    /// The place of a template; the names in braces do not matter.
    fn entries(&mut self, template: &str) -> &mut Vec<Entry> {
        let mut node = self;
        for segment in template.split('/').skip(1) {
            node = if segment.starts_with('{') {
                node.any.get_or_insert_default()
            } else {
                let text = path::canonical_pattern(&format!("/{segment}"));
                node.plain.entry(text.trim_start_matches('/').into()).or_default()
            };
        }
        &mut node.entries
    }

    /// The entries of all templates that match the rest of a path, plain segments before any: at most
    /// as many steps as there are templates.
    fn find<'s>(&'s self, rest: Option<&str>, found: &mut Vec<&'s [Entry]>) {
        step();
        let Some(rest) = rest else {
            if !self.entries.is_empty() {
                found.push(&self.entries);
            }
            return;
        };
        let (segment, rest) =
            rest.split_once('/').map_or((rest, None), |(segment, rest)| (segment, Some(rest)));
        if let Some(next) = self.plain.get(segment) {
            next.find(rest, found);
        }
        if let Some(next) = self.any.as_ref().filter(|_| !segment.is_empty()) {
            next.find(rest, found);
        }
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
    /// By everything that was tried.
    looked: Cell<Looked>,
}

impl OtherMethods {
    fn note<'e>(&mut self, entries: impl Iterator<Item = &'e Entry>) {
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

/// Something was looked at; tests count it.
fn step() {
    #[cfg(test)]
    tests::STEPS.with(|steps| steps.set(steps.get() + 1));
}

#[cfg(test)]
mod tests;
