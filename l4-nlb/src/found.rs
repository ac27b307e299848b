//! What sources outside of the file have named, put into a group. Not for asking them or for keeping what
//! they say: that is `discovery`. Called by `control`, which builds a snapshot with it.
//!
//! Invariant: a service that names a source has the endpoints that the source gave last.

use common::observe::Observer;
use discovery::found::{Found, Inherited};
use topology::l4::{Group, Listener};

use crate::upgrade::endpoints::{KnownEndpoint, KnownService};

/// Asks, and meanwhile goes by what another process has found at the same sources.
pub(crate) fn begin(group: &Group, observer: &Observer, known: &[KnownService]) -> Found {
    let inherited = known.iter().filter_map(|service| {
        let endpoints = service.endpoints.iter().map(KnownEndpoint::endpoint).collect();
        let (source, service) =
            (service.source.clone()?, topology::ServiceName::new(&service.name));
        Some(Inherited { service, source, endpoints })
    });
    let mut found = Found::inheriting(inherited.collect());
    follow(&mut found, group, observer);
    found
}

/// Asks for the endpoints of exactly the services of this group that name a source.
pub(crate) fn follow(found: &mut Found, group: &Group, observer: &Observer) {
    let services = group.listeners.iter().flat_map(Listener::services);
    let named = services.filter_map(|service| Some((&service.name, service.discover.as_ref()?)));
    found.follow(named, observer);
}

/// The group with the endpoints that are known now.
pub(crate) fn fill(found: &Found, group: &Group) -> Group {
    let mut group = group.clone();
    for target in group.listeners.iter_mut().flat_map(|listener| &mut listener.targets) {
        if target.to.discover.is_some()
            && let Some(known) = found.known(&target.to.name)
        {
            target.to.endpoints = known.to_vec();
        }
    }
    group
}
