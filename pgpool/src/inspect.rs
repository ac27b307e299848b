//! What the admin listener shows of this tier: configuration, readiness, a summary, servers. Not
//! for the admin database. Called by `common`'s admin listener on the control runtime.
//!
//! Invariant: no secret is shown.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::lifecycle::{Lifecycle, Phase};
use common::observe::admin::{Inspect, Summary, Unit};
use serde_json::{Value, json};

use crate::admin::exporter;
use crate::control::Handle;
use crate::snapshot::{Credential, Database};
use crate::tally::Tally;
use crate::worker::Peers;

/// A view of a running instance.
pub(crate) struct Inspection {
    /// Knows the configuration in force.
    pub(crate) handle: Handle,
    /// All workers.
    pub(crate) peers: Peers,
    /// Counters.
    pub(crate) tally: Arc<Tally>,
    /// Phases.
    pub(crate) lifecycle: Lifecycle,
}

impl Inspect for Inspection {
    fn config(&self) -> Value {
        let snapshot = self.handle.snapshot();
        let databases = snapshot.all_databases().into_iter().map(|database| {
            json!({
                "name": database.name,
                "server_name": database.server_name,
                "servers": addresses(&database),
                "role": if database.is_replica { "replica" } else { "primary" },
                "mode": format!("{:?}", database.mode).to_lowercase(),
                "pool_size": database.pool_size,
            })
        });
        let users = snapshot.users.values().map(|user| {
            let kind = match user.credential {
                Credential::Trust => "trust",
                Credential::Scram(_) => "scram verifier",
                Credential::Md5(_) => "md5 hash",
                Credential::Password(..) => "password",
            };
            json!({ "name": user.name, "secret": kind })
        });
        json!({
            "group": snapshot.group,
            "instance": snapshot.instance,
            "databases": databases.collect::<Vec<_>>(),
            "users": users.collect::<Vec<_>>(),
            "tls": snapshot.tls.is_some(),
            "workers": self.peers.len(),
            "settings": format!("{:?}", snapshot.settings),
        })
    }

    fn unready(&self) -> Vec<String> {
        match self.lifecycle.phase() == Phase::Running && !self.handle.is_parting() {
            true => self.handle.snapshot().unready(),
            false => vec!["draining".to_owned()],
        }
    }

    fn registrations(&self) -> Option<Value> {
        Some(self.handle.registrations().show())
    }

    fn summary(&self) -> Summary {
        let snapshot = self.handle.snapshot();
        let micros = |quantile| {
            let time = self.tally.latency.quantile(quantile)?;
            u64::try_from(time.as_micros()).ok()
        };
        Summary {
            unit: Unit::Queries,
            connections: snapshot.clients.now().into(),
            work_total: self.tally.queries.load(Ordering::Relaxed),
            errors_total: self.tally.errors.load(Ordering::Relaxed),
            p50_us: micros(0.5),
            p99_us: micros(0.99),
        }
    }

    fn latency(&self) -> Vec<(u64, u64)> {
        self.tally.latency.counts()
    }

    fn requests(&self, most: usize) -> Option<Vec<Value>> {
        Some(self.tally.recent.look(most))
    }

    fn series(&self) -> Pin<Box<dyn Future<Output = String> + Send>> {
        let handle = self.handle.clone();
        Box::pin(async move { exporter::text(&handle.report().await, &handle.snapshot()) })
    }

    fn endpoints(&self) -> Value {
        let snapshot = self.handle.snapshot();
        let databases = snapshot.all_databases().into_iter().map(|database| {
            json!({
                "service": database.name,
                "role": if database.is_replica { "replica" } else { "primary" },
                "endpoints": addresses(&database),
                "connections": database.connections.now(),
            })
        });
        databases.collect()
    }
}

fn addresses(database: &Database) -> Vec<String> {
    database.servers.iter().map(ToString::to_string).collect()
}
