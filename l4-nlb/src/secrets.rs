//! The secrets that an instance reads when it starts and when its file changes. Not for keeping
//! them. Called by `lib` and `control`.
//!
//! Invariant: a secret that cannot be read is told with the place that names it.

use common::balance::HashKey;
use common::secret::{self, Secret};
use topology::l4::Group;
use topology::{At, SecretRef, Topology};

use crate::fault::{Spot, StartError};

/// The group's secret, else a key that every instance of the group derives from its name.
pub(crate) fn hash_key(topology: &Topology, group: &Group) -> Result<HashKey, StartError> {
    let secret = read(topology, group.hash_key.as_ref(), "hash-key")?;
    Ok(match secret {
        Some(secret) => HashKey::from_secret(secret.as_bytes()),
        None => HashKey::from_names([group.name.as_str()]),
    })
}

/// What admin listeners ask for.
pub(crate) fn admin_token(topology: &Topology) -> Result<Option<Secret>, StartError> {
    read(topology, topology.admin_token.as_ref(), "admin-token")
}

fn read(
    topology: &Topology,
    reference: Option<&At<SecretRef>>,
    key: &'static str,
) -> Result<Option<Secret>, StartError> {
    let Some(reference) = reference else { return Ok(None) };
    secret::read(&reference.value).map(Some).map_err(|source| StartError::Secret {
        at: Spot::new(&topology.source, reference.place),
        key,
        source,
    })
}
