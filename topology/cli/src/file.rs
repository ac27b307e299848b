//! The topology file as the commands read it. Not for `check`, which tells its problems in other forms too, nor for
//! `up`, which changes the file. Called by commands.
//!
//! Invariant: a file with problems is told whole, once.

use std::io::Write;
use std::path::Path;

use topology::Topology;
use topology::problem::LoadError;

/// The file; `None` when it has problems, which have been told.
pub(crate) fn load(path: &Path) -> anyhow::Result<Option<Topology>> {
    match topology::load(path) {
        Ok(topology) => Ok(Some(topology)),
        Err(LoadError::Problems(problems)) => {
            writeln!(std::io::stderr().lock(), "{problems}")?;
            Ok(None)
        }
        Err(error @ (LoadError::Io { .. } | LoadError::Foreign(_))) => anyhow::bail!("{error}"),
    }
}
