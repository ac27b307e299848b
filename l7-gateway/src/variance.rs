//! What an answer depends on beside its method and URL, so that caches do not take one for another (`Vary`, RFC 9110
//! §12.5.5). Not for what services themselves say, nor for who is asked outside: those say it. Called by stage 9, last
//! of all.
//!
//! Invariant: what the file chooses answers by is told, whatever services and filters say of `Vary`. Parts of a split by
//! address or by chance are the same to caches: no request says which one it is in.

use std::cell::OnceCell;

use http::header::{HeaderMap, HeaderValue, VARY};
use topology::gateway::{Auth, Group, Route, RoutePolicy, RouteTo, Sticky};
use topology::template::{Template, Variable};
use topology::transform::Transform;

use crate::matcher::{Looked, Matcher};

/// For all routes of a group.
#[derive(Debug)]
pub struct Variance {
    /// Made with the first answer of each: a reload is not to hold a worker up.
    routes: Vec<OnceCell<Vec<HeaderValue>>>,
    /// Where no route matches.
    unmatched: bool,
}

impl Variance {
    /// For a group.
    pub fn new(group: &Group) -> Self {
        Self {
            routes: group.routes.iter().map(|_| OnceCell::new()).collect(),
            unmatched: group.unmatched.as_ref().is_some_and(by_origin),
        }
    }

    /// Says it in an answer of a route (`None`: of none), for which these headers were looked at.
    pub fn tell(
        &self,
        (group, matcher): (&Group, &Matcher),
        (route, looked): (Option<usize>, Looked),
        headers: &mut HeaderMap,
    ) {
        match route.and_then(|at| Some((self.routes.get(at)?, group.routes.get(at)?))) {
            Some((known, route)) => {
                let all = known.get_or_init(|| of(group, route));
                all.iter().for_each(|name| told(headers, name));
            }
            None if self.unmatched => told(headers, &ORIGIN),
            None => {}
        }
        if looked.any() {
            let names = matcher.headers().iter().enumerate();
            let names = names.filter(|(index, _)| looked.has(*index));
            names.for_each(|(_, name)| told(headers, name));
        }
    }
}

/// What answers of a route depend on, whatever the request.
fn of(group: &Group, route: &Route) -> Vec<HeaderValue> {
    let mut all = Vec::new();
    let mut add = |name: HeaderValue| {
        if !all.contains(&name) {
            all.push(name);
        }
    };
    if by_origin(&route.policy) {
        add(ORIGIN);
    }
    let owned = |name: &str| HeaderValue::from_bytes(name.as_bytes()).ok();
    // Who calls, and whether anybody who may: of a certificate no cache on the way could know.
    if let Auth::Asked(ways) = &route.policy.auth {
        if !ways.issuers.is_empty() {
            add(HeaderValue::from_static("Authorization"));
        }
        let sources = ways.api_keys.iter().filter_map(|id| group.api_keys.get(id.0));
        sources.filter_map(|source| owned(source.header.as_deref()?)).for_each(&mut add);
    }
    if by_cookie(group, route) {
        add(COOKIE);
    }
    let changes = changes(group, route);
    for change in &changes {
        let renamed = change.request.headers.rename.iter();
        renamed.filter_map(|(from, _)| owned(from)).for_each(&mut add);
        change.templates().flat_map(Template::variables).filter_map(field).for_each(&mut add);
        let told = change.answer.headers.templates().chain(change.answer.body_templates());
        if told.flat_map(Template::variables).any(beyond) {
            add(ANY);
        }
    }
    if let RouteTo::Given(id) = route.to
        && let Some(given) = group.given.get(id.0)
    {
        given.templates().flat_map(Template::variables).filter_map(field).for_each(&mut add);
        if given.templates().flat_map(Template::variables).any(beyond) {
            add(ANY);
        }
    }
    // What depends on everything depends on each.
    if all.contains(&ANY) { vec![ANY] } else { all }
}

/// All changes that exchanges of a route may pass.
fn changes<'g>(group: &'g Group, route: &'g Route) -> Vec<&'g Transform> {
    let parts = route.split.iter().map(|part| part.to).chain(route.to.service());
    let services = parts.filter_map(|to| group.upstreams.get(to.0)?.transform.as_ref());
    let identified = route.policy.auth != Auth::None;
    let consumers = group.consumers.iter().filter(|_| identified);
    let consumers = consumers.filter_map(|consumer| consumer.transform.as_ref());
    group.transform.iter().chain(&route.transform).chain(services).chain(consumers).collect()
}

/// Whether a cookie chooses a part of the route's requests, or a variant.
fn by_cookie(group: &Group, route: &Route) -> bool {
    let sticky = |by: &Sticky| matches!(by, Sticky::Cookie(_));
    let handed = route.split.iter().any(|part| part.cookie.is_some());
    let experiments = route.experiments.iter().filter_map(|id| group.experiments.get(id.0));
    let mut experiments = experiments.map(|one| one.cookie.is_some() || sticky(&one.by));
    (!route.split.is_empty() && (sticky(&route.sticky) || handed)) || experiments.any(|is| is)
}

/// The header of a request that a variable is taken from; who calls is told by how a route asks it.
fn field(variable: &Variable) -> Option<HeaderValue> {
    match variable {
        Variable::Header(name) => HeaderValue::from_bytes(name.as_bytes()).ok(),
        Variable::Cookie(_) => Some(COOKIE),
        _ => None,
    }
}

/// Whether a variable is taken from what no header says (RFC 9110 §12.5.5: "the client's network address").
fn beyond(variable: &Variable) -> bool {
    matches!(variable, Variable::Address | Variable::Principal)
}

const ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
const COOKIE: HeaderValue = HeaderValue::from_static("Cookie");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// Whether the origin chooses what an answer says.
fn by_origin(policy: &RoutePolicy) -> bool {
    policy.cors.as_ref().is_some_and(|rules| rules.origins.iter().all(|one| one != "*"))
}

/// Adds a name, once; what depends on everything depends on that too.
pub fn told(headers: &mut HeaderMap, name: &HeaderValue) {
    let mut before = headers.get_all(VARY).iter().filter_map(|value| value.to_str().ok());
    let known = |one: &str| one == "*" || one.as_bytes().eq_ignore_ascii_case(name.as_bytes());
    if !before.any(|names| names.split(',').map(str::trim).any(known)) {
        headers.append(VARY, name.clone());
    }
}
