//! A service as all workers of the instance share it: its model, the state of its endpoints, the
//! choice among them. Not for connections: each worker has its own (`upstream`). Called by
//! `snapshot` (build) and by each worker's pool.
//!
//! Invariant: the endpoints' order is that of the topology file, so an index means the same
//! everywhere.

use std::sync::Arc;

use common::balance::{Balancer, HashKey};
use common::service::Service;
use tokio::time::Instant;
use topology::gateway::{self, Unplaced as _};

/// Where routes lead.
#[derive(Debug)]
pub struct Upstream {
    /// What the topology file says.
    pub model: gateway::Upstream,
    /// Endpoints with their state.
    pub service: Arc<Service>,
    balancer: Balancer,
}

impl Upstream {
    /// Every endpoint starts healthy; what `before` knows of one that is still there is kept.
    pub fn new(model: &gateway::Upstream, before: &[Arc<Self>]) -> Arc<Self> {
        let same = |old: &&Arc<Self>| old.model.unplaced() == model.unplaced();
        if let Some(known) = before.iter().find(same) {
            return Arc::clone(known);
        }
        let akin =
            |old: &&Arc<Self>| old.model.service == model.service && old.model.via == model.via;
        let service = topology::Service {
            name: model.service.clone(),
            endpoints: model.endpoints.clone(),
            discover: None,
            panic_threshold: topology::units::Percent::default(),
            slow_start: None,
            health: model.health.clone(),
            run: None,
            uses: Vec::new(),
            place: model.endpoints.first().map(|e| e.place).unwrap_or_default(),
        };
        let service = before
            .iter()
            .find(akin)
            .map_or_else(|| Service::new(&service), |old| old.service.update(&service));
        let names = model.endpoints.iter().map(|endpoint| endpoint.name.as_str());
        let balancer = Balancer::new(model.balance, &service, HashKey::from_names(names));
        Arc::new(Self { model: model.clone(), service, balancer })
    }

    /// The endpoint for the next attempt: one that was not tried yet, else any again.
    pub fn select(&self, tried: &[usize], now: Instant) -> Option<usize> {
        let again = || self.balancer.select_at(&self.service, 0, &[], now);
        self.balancer.select_at(&self.service, 0, tried, now).or_else(again)
    }
}
