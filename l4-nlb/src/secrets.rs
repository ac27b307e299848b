//! The secrets that an instance reads when it starts and when its file changes. Not for keeping
//! them. Called by `lib` and `control`.
//!
//! Invariant: a secret that cannot be read is told with the place that names it.

use common::balance::HashKey;
use common::secret::{self, Secret};
use topology::Topology;
use topology::l4::Group;

use crate::fault::{Spot, StartError};

/// The group's secret, else a key that every instance of the group derives from its name.
pub(crate) fn hash_key(topology: &Topology, group: &Group) -> Result<HashKey, StartError> {
    let secret = secret::named(group.hash_key.as_ref(), "hash-key");
    let secret = secret.map_err(|fault| missing(topology, fault))?;
    Ok(match secret {
        Some(secret) => HashKey::from_secret(secret.as_bytes()),
        None => HashKey::from_names([group.name.as_str()]),
    })
}

/// What admin listeners ask for.
pub(crate) fn admin_token(topology: &Topology) -> Result<Option<Secret>, StartError> {
    secret::admin_token(topology).map_err(|fault| missing(topology, fault))
}

fn missing(topology: &Topology, fault: secret::Missing) -> StartError {
    let secret::Missing { key, place, source } = fault;
    StartError::Secret { at: Spot::new(&topology.source, place), key, source }
}
