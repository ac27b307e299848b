//! The topology as the commands read it: a file, or a ready stack by its name. Not for `up`, which changes the text, nor
//! for what only some commands say of problems: `check` tells them in other forms too. Called by commands.
//!
//! Invariant: a file with problems is told whole, once.

use std::io::Write;
use std::path::Path;

use topology::problem::LoadError;
use topology::units::Given;
use topology::{SecretRef, Topology};

use crate::stacks;
use crate::up::folder::Folder;
use crate::up::source::Source;

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

/// The same with what `up` has made in its folder: `state`, or of a ready stack its own.
pub(crate) fn load_made(path: &Path, state: Option<&Path>) -> anyhow::Result<Option<Topology>> {
    let ready = stacks::named(path)?;
    if state.is_none() && ready.is_none() {
        return load(path);
    }
    let source = Source::open(Some(path))?;
    let folder = Folder::named(state, &source.stack)?;
    anyhow::ensure!(
        state.is_none() || folder.root().is_dir(),
        "there is no folder {}: name the one that `up --state` was given",
        folder.root().display()
    );
    match topology::parse(&source.shown, &source.adapted(), folder.root()) {
        Ok(mut topology) => {
            take_made_key(&mut topology, &folder);
            Ok(Some(topology))
        }
        Err(problems) => {
            writeln!(std::io::stderr().lock(), "{problems}")?;
            Ok(None)
        }
    }
}

/// What `up` gives balancers in a variable that nobody else sets.
fn take_made_key(topology: &mut Topology, folder: &Folder) {
    let Ok(made) = std::fs::read_to_string(folder.path("hash-key")) else { return };
    let keys = topology.nlbs.iter_mut().filter_map(|group| group.hash_key.as_mut());
    for key in keys {
        if matches!(&key.value, SecretRef::Env(name) if std::env::var_os(name).is_none()) {
            key.value = SecretRef::Given(Given::new(made.trim()));
        }
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
