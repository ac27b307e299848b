//! The files of who may log in how, read for a snapshot. Not for what they mean: that is `hba`. Called by
//! `snapshot`.
//!
//! Invariant: a topology's files are read to the letter; of PgBouncer's, what cannot be used is told, and a file that
//! cannot be read lets nobody in.

use std::path::Path;

use common::secret::{self, SecretError};
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
            .map(|at| Rules::parse(&rules_text(at)?).map_err(|what| strict(at, what)));
        let maps = group
            .ident
            .as_ref()
            .map(|at| Maps::parse(&rules_text(at)?).map_err(|what| strict(at, what)));
        return Ok((rules.transpose()?, maps.transpose()?.unwrap_or_default(), Vec::new()));
    };
    let mut all = process.texts.doubts.clone();
    let told = |at: &At<SecretRef>, notes: Vec<String>| {
        notes.into_iter().map(|note| format!("{}: {note}", at.value)).collect::<Vec<_>>()
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
        let (read, notes) = match opened(at, "hba") {
            Ok(text) => Rules::like_pgbouncer(&text, &folder),
            Err(away) => {
                all.push(format!("{away}: no rule lets anybody in"));
                Default::default()
            }
        };
        all.extend(told(at, notes));
        rules = Some(read);
    }
    if let Some(at) = &group.ident {
        let (read, notes) = match opened(at, "ident") {
            Ok(text) => Maps::like_pgbouncer(&text),
            Err(away) => {
                all.push(format!("{away}: no map leads to anybody"));
                Default::default()
            }
        };
        all.extend(told(at, notes));
        maps = read;
    }
    Ok((rules, maps, all))
}

/// The text of one of PgBouncer's files; bytes that are no UTF-8 are in comments mostly, and a name with one is nobody's.
/// A start does not end by one that cannot be read, nor does a RELOAD keep what was in it before: both leave the same
/// behind them, as PgBouncer's do.
fn opened(at: &At<SecretRef>, kind: &str) -> Result<String, String> {
    secret::read(&at.value)
        .map(|secret| String::from_utf8_lossy(secret.as_bytes()).into_owned())
        .map_err(|fault| match fault {
            SecretError::File { path, source } => {
                format!("could not open {kind} config file {}: {source}", path.display())
            }
            other => format!("could not open {kind} config file: {other}"),
        })
}

fn unusable(at: &At<SecretRef>, what: String) -> SnapshotError {
    SnapshotError::Rules { reference: at.value.to_string(), place: at.place, what }
}

fn rules_text(at: &At<SecretRef>) -> Result<String, SnapshotError> {
    let secret = secret::read(&at.value).map_err(|source| unusable(at, source.to_string()))?;
    let text = std::str::from_utf8(secret.as_bytes());
    let text = text.map_err(|_| unusable(at, "no text".to_owned()))?;
    Ok(text.to_owned())
}
