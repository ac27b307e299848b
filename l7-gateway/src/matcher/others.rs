//! Why a route is not the one that a request means, told by the look-up's own tables. Not for choosing.
//! Called by `preview`, once per route of the group.
//!
//! Invariant: it agrees with the look-up: a route that lacks nothing is taken, or a more specific one is.

use http::Method;
use topology::gateway::{Predicate, Route};

use super::{Entry, Looked, Matcher, OtherMethods, Paths, methods};
use crate::exchange::RouteId;
use crate::predicate::{self, Asked};

/// What first keeps a request from a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// It is for other hosts.
    Host,
    /// It is for other paths.
    Path,
    /// Not this: an index into the route's predicates.
    Predicate(Predicate),
    /// It is for other methods.
    Method,
    /// Nothing: another one says more, or comes first.
    Nothing,
}

/// What the request lacks for this route, in the order in which the look-up asks.
pub fn lack(route: &Route, asked: &Asked<'_>) -> Lack {
    if !route.hosts.is_empty() {
        let mut hosts = Matcher::default();
        for host in &route.hosts {
            let _paths = hosts.host(host);
        }
        // One of the tables is for any host.
        if hosts.tables(asked.host).count() < 2 {
            return Lack::Host;
        }
    }
    let mut paths = Paths::default();
    paths.add(
        &route.path,
        &Entry { id: RouteId(0), methods: Vec::new(), when: Vec::new(), looks: Looked::default() },
    );
    paths.compile();
    if paths.find(asked, &mut OtherMethods::default()).is_none() {
        return Lack::Path;
    }
    if let Some(missing) = route.when.iter().find(|when| !predicate::holds(when, asked)) {
        return Lack::Predicate(missing.clone());
    }
    let methods: Vec<Method> = methods(&route.methods);
    if !methods.is_empty() && !methods.contains(asked.method) {
        return Lack::Method;
    }
    Lack::Nothing
}
