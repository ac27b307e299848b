//! `auth_user`, `auth_query` and `auth_dbname`, of all databases or of one. Not for asking: that is the
//! crate `pgpool`. Used by `pgbouncer` alone.
//!
//! Invariant: without `auth_user` nobody is looked up, as in PgBouncer.

use super::quoted;

/// Where roles are looked up that are not in the user list.
#[derive(Clone, Default)]
pub(super) struct Lookup {
    user: Option<String>,
    query: Option<String>,
    database: Option<String>,
}

impl Lookup {
    /// Takes the three keys out of where they stand.
    pub(super) fn of(mut take: impl FnMut(&str) -> Option<String>) -> Self {
        let mut value = |key| take(key).filter(|value| !value.is_empty());
        Self {
            user: value("auth_user"),
            query: value("auth_query"),
            database: value("auth_dbname"),
        }
    }

    /// With what a database says itself.
    pub(super) fn or(&self, own: Self) -> Self {
        Self {
            user: own.user.or_else(|| self.user.clone()),
            query: own.query.or_else(|| self.query.clone()),
            database: own.database.or_else(|| self.database.clone()),
        }
    }

    pub(super) fn is_some(&self) -> bool {
        self.user.is_some()
    }

    /// As a topology file has it.
    pub(super) fn text(&self) -> String {
        let parts = [("user", &self.user), ("query", &self.query), ("database", &self.database)];
        let parts = parts.into_iter().filter_map(|(key, value)| {
            value.as_ref().map(|value| format!("{key}: {}", quoted(value)))
        });
        format!("lookup: {{ {} }}", parts.collect::<Vec<_>>().join(", "))
    }
}
