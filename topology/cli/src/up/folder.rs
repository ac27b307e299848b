//! The folder where `aqueduct up` keeps what it makes: certificates, keys, secrets, databases,
//! logs. Not for what stands in those files. Used by every part of `up`, and by `token`.
//!
//! Invariant: at most one `up` works in a folder at a time: it holds the lock while it runs.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::whole;

/// A folder and its layout.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    root: PathBuf,
}

/// Held while an `up` works in the folder.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing the file gives the lock back")] File);

impl Folder {
    /// `explicit`, or the place for a stack of this name: `/var/lib/aqueduct/NAME` for root, else
    /// `$XDG_STATE_HOME/aqueduct/NAME` or `~/.local/state/aqueduct/NAME`.
    pub(crate) fn named(explicit: Option<&Path>, name: &str) -> anyhow::Result<Self> {
        let root = match explicit {
            Some(path) => std::path::absolute(path)?,
            None => base()?.join(name),
        };
        Ok(Self { root })
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A file or folder in it.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// Where the keys of a token issuer are: of all but a stack's first one in a folder of its host's name.
    pub(crate) fn keys(&self, issuer: &str) -> PathBuf {
        let own = self.further_keys(issuer);
        if own.is_dir() { own } else { self.path("keys") }
    }

    /// That folder.
    pub(crate) fn further_keys(&self, issuer: &str) -> PathBuf {
        let (_, host) = issuer.split_once("://").unwrap_or(("", issuer));
        let name: String =
            host.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')).collect();
        self.path("keys").join(name)
    }

    /// Where a part's output goes.
    pub(crate) fn log(&self, part: &str) -> PathBuf {
        self.root.join("logs").join(format!("{part}.log"))
    }

    /// Makes what is missing. Secrets and keys are for the owner alone; the folder itself may be
    /// entered by the unprivileged user that runs PostgreSQL.
    pub(crate) fn make(&self) -> anyhow::Result<()> {
        for (name, mode) in [
            ("", 0o755),
            ("pki", 0o755),
            ("keys", 0o700),
            ("secrets", 0o700),
            ("pools", 0o700),
            ("logs", 0o755),
        ] {
            let path = self.root.join(name);
            let fault = || {
                format!("cannot make the folder {}: choose another with --state", path.display())
            };
            if path.is_dir() {
                continue;
            }
            std::fs::create_dir_all(&path).with_context(fault)?;
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).with_context(fault)?;
        }
        Ok(())
    }

    /// Takes the lock, or says that another `up` has it.
    pub(crate) fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.root.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => bail!(
                "another `aqueduct up` runs in {}: stop it, or choose another folder with --state",
                self.root.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }
}

fn base() -> anyhow::Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/aqueduct"));
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    if let Some(path) = absolute("XDG_STATE_HOME") {
        return Ok(path.join("aqueduct"));
    }
    let home = absolute("HOME").context("HOME is not set: name a folder with --state")?;
    Ok(home.join(".local/state/aqueduct"))
}

/// Writes a file that only its owner may read; replaces one that exists, in one step.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    whole::write(path, content, 0o600)
}

/// Writes a file that everybody may read; replaces one that exists, in one step.
pub(crate) fn write_public(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    whole::write(path, content, 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T2: two `up` never work on the same databases.
    #[test]
    fn a_folder_is_locked_while_it_is_used() {
        let scratch = tempfile::tempdir().expect("a folder");
        let folder = Folder::named(Some(scratch.path()), "x").expect("absolute");
        folder.make().expect("made");
        let held = folder.lock().expect("free");
        let refusal = folder.lock().expect_err("held").to_string();
        assert!(refusal.contains("another `aqueduct up` runs in"), "{refusal}");
        drop(held);
        assert!(folder.lock().is_ok());
    }

    #[test]
    fn a_private_file_is_for_its_owner() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("a/b");
        write_private(&path, b"x").expect("written");
        write_private(&path, b"y").expect("replaced");
        assert_eq!(std::fs::read(&path).expect("read"), b"y");
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
    }
}
