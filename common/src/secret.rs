//! Reading what the topology file only names: `file:PATH`, `env:NAME`. Not for keeping secrets:
//! whoever reads one holds it no longer than needed.
//!
//! Invariant: a secret is never printed; its `Debug` says `***`, and its memory is wiped on drop.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use topology::{At, Place, SecretRef, Topology};
use zeroize::Zeroizing;

/// No secret is larger; what is larger is a wrong file.
const MAX_BYTES: u64 = 1 << 20;

/// Bytes that must not be shown.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// Why a secret could not be read; says where it was looked for, never what it holds.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no secret.
    #[error("{path} is larger than 1 MiB, which no key or secret is", path = path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// The variable is not there.
    #[error("the environment variable {name} is not set: set it, or name a file with file:PATH")]
    Env {
        /// Which variable.
        name: String,
    },
    /// Bytes where text is asked for.
    #[error("is not UTF-8 text")]
    NotText,
}

/// Reads the secret behind a reference, at most 1 MiB. Blocking: for start and reload, not for a
/// worker.
///
/// # Errors
/// When it is not there, unreadable or too large.
pub fn read(reference: &SecretRef) -> Result<Secret, SecretError> {
    match reference {
        SecretRef::File(path) => read_file(path),
        SecretRef::Env(name) => std::env::var_os(name)
            .map(|value| Secret(Zeroizing::new(value.into_encoded_bytes())))
            .ok_or_else(|| SecretError::Env { name: name.clone() }),
        SecretRef::Given(given) => Ok(Secret::new(given.reveal().as_bytes().to_vec())),
    }
}

/// Why a secret that the topology file names cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {source}")]
pub struct Missing {
    /// The key that names it.
    pub key: &'static str,
    /// Where it is named.
    pub place: Place,
    /// Why.
    pub source: SecretError,
}

/// What admin listeners of every tier ask for; `None`: nothing, which the file allows on loopback
/// alone.
///
/// # Errors
/// With the place of the reference.
pub fn admin_token(topology: &Topology) -> Result<Option<Secret>, Missing> {
    named(topology.admin_token.as_ref(), "admin-token")
}

/// The secret of an optional key.
///
/// # Errors
/// With the place of the reference.
pub fn named(
    reference: Option<&At<SecretRef>>,
    key: &'static str,
) -> Result<Option<Secret>, Missing> {
    let Some(At { value, place }) = reference else { return Ok(None) };
    read(value).map(Some).map_err(|source| Missing { key, place: *place, source })
}

fn read_file(path: &std::path::Path) -> Result<Secret, SecretError> {
    let fault = |source| SecretError::File { path: path.to_owned(), source };
    let mut bytes = Zeroizing::new(Vec::new());
    let file = File::open(path).map_err(fault)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(SecretError::TooLarge { path: path.to_owned() });
    }
    Ok(Secret(bytes))
}

impl Secret {
    /// Wraps bytes that came another way.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// All bytes, as they were read.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As text without the white space around it (editors end files with a line feed).
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn as_str(&self) -> Result<&str, SecretError> {
        std::str::from_utf8(&self.0).map(str::trim).map_err(|_| SecretError::NotText)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_and_shown_never() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("key");
        std::fs::write(&path, "s3cret\n").expect("write");
        let secret = read(&SecretRef::File(path)).expect("readable");
        assert_eq!(secret.as_bytes(), b"s3cret\n");
        assert_eq!(secret.as_str().expect("text"), "s3cret");
        assert_eq!(format!("{secret:?}"), "***");
    }

    #[test]
    fn what_is_missing_is_named() {
        let fault = read(&SecretRef::File("/nonexistent/key".into())).expect_err("missing");
        assert!(fault.to_string().contains("/nonexistent/key"));
        let fault = read(&SecretRef::Env("AQUEDUCT_NO_SUCH_VARIABLE".into())).expect_err("missing");
        assert!(fault.to_string().contains("AQUEDUCT_NO_SUCH_VARIABLE"));
    }

    #[test]
    fn a_file_over_the_bound_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("big");
        std::fs::write(&path, vec![0; (1 << 20) + 1]).expect("write");
        let fault = read(&SecretRef::File(path)).expect_err("too large");
        assert!(matches!(fault, SecretError::TooLarge { .. }));
    }
}
