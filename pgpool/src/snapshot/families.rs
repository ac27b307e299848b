//! Families of primaries and replicas while a file is read: a database and its alias share one. Not for what they
//! do. Used by the snapshot.
//!
//! Invariant: a family whose servers stay the same stays the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use topology::pool::Database;

use super::Snapshot;
use crate::family::marks::Marks;
use crate::family::{Family, Membership, Role};

/// Those of one file.
pub(super) struct Families {
    all: BTreeMap<String, Arc<Family>>,
    marks: Arc<Marks>,
}

impl Families {
    /// None yet.
    pub(super) fn new(marks: &Arc<Marks>) -> Self {
        Self { all: BTreeMap::new(), marks: Arc::clone(marks) }
    }

    /// What a database is to its family; `None`: it has no replicas.
    pub(super) fn membership(
        &mut self,
        database: &Database,
        before: Option<&Snapshot>,
        is_replica: bool,
    ) -> Option<Membership> {
        let replication = database.replication.as_ref()?;
        let name = replication.name.to_string();
        let known = before.and_then(|snapshot| snapshot.databases.get(&name));
        let known = known.and_then(|database| database.membership.as_ref());
        let known = known.map(|membership| &membership.family);
        let make = || Family::of(replication, known, &self.marks);
        let family = Arc::clone(self.all.entry(name).or_insert_with(make));
        Some(Membership {
            family,
            role: if is_replica { Role::Replica } else { Role::Primary },
            alias: replication.alias.to_string(),
            reads: replication.reads,
            max_lag: replication.max_lag,
            check_every: replication.check_every,
        })
    }
}
