//! Reading a changed file while an instance runs. Not for going by it: each tier's control side does
//! that. Called by the tiers' handles.
//!
//! Invariant: a file with a problem changes nothing, and the log says what is wrong with it.

pub mod events;

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use topology::Topology;

use crate::observe::Observer;
use events::ReloadRefused;

/// Reads the file again and has the tier go by it, whole (T9); or tells what is wrong with it, and
/// what ran before goes on. Cancelling it before the file was given to `publish` changes nothing.
pub async fn from_file<C, E: Display>(
    file: &Path,
    observer: &Observer,
    publish: impl AsyncFnOnce(Arc<Topology>) -> Result<C, E>,
) {
    let applied = match topology::load(file) {
        Ok(topology) => publish(Arc::new(topology)).await.map_err(|fault| fault.to_string()),
        Err(problems) => Err(problems.to_string()),
    };
    if let Err(cause) = applied {
        observer.emit(ReloadRefused { cause: &cause });
    }
}
