//! What a changed file did, for operators and for who asked. Not for doing it: `control` does.
//!
//! Invariant: finding it out takes time in proportion to the file, not to its square.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use common::tls::server::Server;
use topology::gateway::{Experiment, Route, Unplaced as _};

use crate::snapshot::Snapshot;

/// What a change of configuration did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Routes that are new.
    pub added: Vec<String>,
    /// Routes that are gone.
    pub removed: Vec<String>,
    /// Routes of which the file says something else.
    pub changed: Vec<String>,
    /// Services of which it says something else: endpoints, weights, times.
    pub services: Vec<String>,
    /// Experiments of which it says something else.
    pub experiments: Vec<String>,
    /// Certificates that are shown from now on, by their first name.
    pub certificates: Vec<String>,
    /// Where it listens from now on, if elsewhere.
    pub listen: Option<SocketAddr>,
    /// What becomes of who is connected.
    pub terms: Connected,
    /// Keys whose change waits for a restart.
    pub waiting: Vec<&'static str>,
}

/// What becomes of connections that are there when the file changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connected {
    /// They stay.
    #[default]
    Stay,
    /// They leave within `drain`: TLS came or went, or whose certificates are believed has changed.
    Leave,
}

impl Change {
    /// What tells two snapshots apart.
    pub fn between(before: &Snapshot, after: &Snapshot) -> Self {
        let mut change = Self::default();
        let (old, new) = (&before.group, &after.group);
        let mut gone: HashMap<&str, &Route> =
            old.routes.iter().map(|route| (route.name.as_str(), route)).collect();
        for route in &new.routes {
            let name = route.name.to_string();
            match gone.remove(route.name.as_str()) {
                None => change.added.push(name),
                Some(old) if old.unplaced() != route.unplaced() => change.changed.push(name),
                Some(_) => {}
            }
        }
        let left = |route: &&Route| gone.contains_key(route.name.as_str());
        change.removed = old.routes.iter().filter(left).map(|r| r.name.to_string()).collect();
        let mut services: HashMap<&str, Vec<_>> = HashMap::new();
        for upstream in &old.upstreams {
            services.entry(upstream.service.as_str()).or_default().push(upstream.unplaced());
        }
        for upstream in &new.upstreams {
            let known = services.get(upstream.service.as_str());
            if known.is_none_or(|known| !known.contains(&upstream.unplaced())) {
                change.services.push(upstream.service.to_string());
            }
        }
        let known: HashMap<&str, &Experiment> =
            old.experiments.iter().map(|known| (known.name.as_str(), known)).collect();
        let others = new.experiments.iter().filter(|e| known.get(e.name.as_str()) != Some(e));
        change.experiments = others.map(|experiment| experiment.name.clone()).collect();
        let shown = |front: Option<&Server>| -> HashSet<Vec<u8>> {
            let all = front.into_iter().flat_map(Server::certificates);
            all.map(|loaded| loaded.leaf().to_vec()).collect()
        };
        let known = shown(before.front.as_ref());
        let certificates = after.front.iter().flat_map(Server::certificates);
        let fresh = certificates.filter(|loaded| !known.contains(loaded.leaf()));
        change.certificates =
            fresh.map(|loaded| loaded.names.first().cloned().unwrap_or_default()).collect();
        let same = match (&before.front, &after.front) {
            (None, None) => true,
            (Some(before), Some(after)) => before.trusts_as(after),
            _ => false,
        };
        change.terms = if same { Connected::Stay } else { Connected::Leave };
        change
    }
}
