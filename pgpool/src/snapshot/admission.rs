//! The files of who may log in how, read for a snapshot. Not for what they mean: that is `hba`. Called by
//! `snapshot`.
//!
//! Invariant: a topology's files are read to the letter; of PgBouncer's, what cannot be used is told.

use std::path::Path;

use common::secret;
use topology::pool::Group;
use topology::units::SecretRef;
use topology::{At, Form, Topology};

use super::SnapshotError;
use crate::hba::{HbaError, Maps, Rules};

/// Rules, maps, and what an operator should know of them.
type Admission = (Option<Rules>, Maps, Vec<String>);

/// Who may log in how, by the files that are named; those of PgBouncer as it reads them.
pub(super) fn admission(topology: &Topology, group: &Group) -> Result<Admission, SnapshotError> {
    let Form::PgBouncer(process) = &topology.source.form else {
        let strict = |at: &At<SecretRef>, what: HbaError| unusable(at, what.to_string());
        let rules = group
            .hba
            .as_ref()
            .map(|at| Rules::parse(&rules_text(at, Bytes::Text)?).map_err(|what| strict(at, what)));
        let maps = group
            .ident
            .as_ref()
            .map(|at| Maps::parse(&rules_text(at, Bytes::Text)?).map_err(|what| strict(at, what)));
        return Ok((rules.transpose()?, maps.transpose()?.unwrap_or_default(), Vec::new()));
    };
    let mut all = process.texts.doubts.clone();
    let mut told = |at: &At<SecretRef>, notes: Vec<String>| {
        all.extend(notes.iter().map(|note| format!("{}: {note}", at.value)));
    };
    let (mut rules, mut maps) = (None, Maps::default());
    if let Some(at) = &group.hba {
        let folder = match &at.value {
            SecretRef::File(path) => path.parent().unwrap_or(Path::new("")).to_owned(),
            // It was read by another user.
            _ => {
                let said = process.said.get("auth_hba_file").map(Path::new);
                let path = topology.source.folder.join(said.unwrap_or(Path::new("")));
                path.parent().unwrap_or(Path::new("")).to_owned()
            }
        };
        let (read, notes) = Rules::like_pgbouncer(&rules_text(at, Bytes::Any)?, &folder);
        told(at, notes);
        rules = Some(read);
    }
    if let Some(at) = &group.ident {
        let (read, notes) = Maps::like_pgbouncer(&rules_text(at, Bytes::Any)?);
        told(at, notes);
        maps = read;
    }
    Ok((rules, maps, all))
}

/// Whether bytes that are no UTF-8 may be in a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bytes {
    Text,
    /// In comments mostly; a name with one is nobody's.
    Any,
}

fn unusable(at: &At<SecretRef>, what: String) -> SnapshotError {
    SnapshotError::Rules { reference: at.value.to_string(), place: at.place, what }
}

fn rules_text(at: &At<SecretRef>, bytes: Bytes) -> Result<String, SnapshotError> {
    let secret = secret::read(&at.value).map_err(|source| unusable(at, source.to_string()))?;
    match std::str::from_utf8(secret.as_bytes()) {
        Err(_) if bytes == Bytes::Text => Err(unusable(at, "no text".to_owned())),
        _ => Ok(String::from_utf8_lossy(secret.as_bytes()).into_owned()),
    }
}
