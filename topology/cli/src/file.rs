//! The topology as the commands read it: a file, or a ready stack by its name. Not for `up`, which changes the text, nor
//! for what only some commands say of problems: `check` tells them in other forms too. Called by commands.
//!
//! Invariant: a file with problems is told whole, once.

use std::io::Write;
use std::path::Path;

use topology::Topology;
use topology::problem::LoadError;

use crate::stacks;
use crate::up::folder::Folder;

/// The topology; `None` when it has problems, which have been told.
pub(crate) fn load(path: &Path) -> anyhow::Result<Option<Topology>> {
    match read(path)? {
        Ok(topology) => Ok(Some(topology)),
        Err(LoadError::Problems(problems)) => {
            writeln!(std::io::stderr().lock(), "{problems}")?;
            Ok(None)
        }
        Err(error @ (LoadError::Io { .. } | LoadError::Foreign(_))) => anyhow::bail!("{error}"),
    }
}

/// The topology of this path or name. What a ready stack names is in the folder that `up` keeps for it.
///
/// # Errors
/// There is none of that name.
pub(crate) fn read(path: &Path) -> anyhow::Result<Result<Topology, LoadError>> {
    let Some(stack) = stacks::named(path)? else { return Ok(topology::load(path)) };
    let folder = Folder::named(None, stack.name)?;
    let parsed = topology::parse(&stack.shown(), stack.text, folder.root());
    Ok(parsed.map_err(LoadError::Problems))
}
