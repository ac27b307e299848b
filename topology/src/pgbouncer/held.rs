//! Files that were read as root, for a process that becomes another user: what that user may not read stays as it was
//! read, as in PgBouncer. Not for the ini and the user list: those are `load`'s. Called by `pgpool pgbouncer.ini`.
//!
//! Invariant: a file that can be read is never taken from here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Loaded, Texts};
use crate::model::{Form, SourceFile};
use crate::tls::Certificate;
use crate::units::{Given, SecretRef};
use crate::{At, Topology};

/// No key, certificate or list of rules is longer.
const LONGEST: u64 = 1 << 20;

/// Files by their path.
pub(super) type Held = BTreeMap<PathBuf, Given>;

impl Loaded {
    /// Reads all that the configuration names, before this process becomes another user.
    pub fn hold(&mut self) {
        let mut held = Held::new();
        for group in references(&mut self.topology) {
            for at in group {
                let SecretRef::File(path) = &at.value else { continue };
                let Ok(file) = File::open(path) else { continue };
                let mut bytes = Vec::new();
                if file.take(LONGEST).read_to_end(&mut bytes).is_ok() {
                    held.insert(path.clone(), Given::new(&String::from_utf8_lossy(&bytes)));
                }
            }
        }
        let mut texts = Texts::clone(&self.process.texts);
        texts.held = held;
        let texts = Arc::new(texts);
        let mut source = SourceFile::clone(&self.topology.source);
        if let Form::PgBouncer(process) = &mut source.form {
            process.texts = Arc::clone(&texts);
        }
        self.topology.source = Arc::new(source);
        self.process.texts = texts;
    }

    /// Puts what is held in the place of what this process may not read.
    pub fn lend(&mut self) {
        lend(&mut self.topology, &self.process.texts.held);
    }
}

/// The same; what of it an operator should know when the files are read again.
pub(super) fn lend(topology: &mut Topology, held: &Held) -> Vec<String> {
    let mut notes = Vec::new();
    for group in references(topology) {
        let closed =
            |at: &At<SecretRef>| matches!(&at.value, SecretRef::File(path) if is_closed(path));
        // A certificate and its key belong together: one alone may be a newer one.
        if !group.iter().any(|at| closed(at)) {
            continue;
        }
        for at in group {
            let SecretRef::File(path) = &at.value else { continue };
            if let Some(given) = held.get(path) {
                let name = path.display();
                let why = match is_closed(path) {
                    true => format!("cannot open {name} as this user"),
                    false => format!("{name} belongs to a file that this user cannot open"),
                };
                notes.push(format!("{why}: it stays as it was read at start"));
                at.value = SecretRef::Given(given.clone());
            }
        }
    }
    notes
}

fn is_closed(path: &Path) -> bool {
    fs::File::open(path).is_err_and(|fault| fault.kind() == ErrorKind::PermissionDenied)
}

/// All that is named, those together that belong together.
fn references(topology: &mut Topology) -> Vec<Vec<&mut At<SecretRef>>> {
    fn pair(certificate: &mut Certificate) -> Vec<&mut At<SecretRef>> {
        vec![&mut certificate.chain, &mut certificate.key]
    }
    let mut all: Vec<Vec<_>> = Vec::new();
    all.extend(topology.admin_token.as_mut().map(|at| vec![at]));
    for group in &mut topology.pools {
        let rules = group.hba.iter_mut().chain(&mut group.ident);
        all.extend(rules.map(|at| vec![at]));
        if let Some(tls) = &mut group.tls {
            all.extend(tls.certificates.iter_mut().map(pair));
            all.extend(tls.client_ca.as_mut().map(|at| vec![at]));
        }
        for database in &mut group.databases {
            let credentials = &mut database.tls.credentials;
            all.extend(credentials.certificate.as_mut().map(pair));
            all.extend(credentials.ca.as_mut().map(|at| vec![at]));
        }
    }
    all
}
