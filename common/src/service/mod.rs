//! A service as the data path sees it: its endpoints and what is known about each, process-wide.
//! Not for choosing one (`balance`) and not for asking whether it lives (`health`). Called by every
//! tier for each flow, request or checkout.
//!
//! Invariant: all workers see one state per endpoint; nothing here locks.

pub mod events;
mod outlier;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::time::Instant;
use topology::{EndpointName, ServiceName, Weight};

use outlier::Outlier;
pub use outlier::Passive;

/// Named servers that do the same work.
#[derive(Debug)]
pub struct Service {
    /// Its name in the topology file.
    pub name: ServiceName,
    /// At least one; the order is the file's and means nothing.
    pub endpoints: Vec<Arc<Endpoint>>,
}

impl Service {
    /// Every endpoint starts healthy: traffic need not wait for the first check.
    pub fn new(model: &topology::Service) -> Arc<Self> {
        Self::build(model, |_| None)
    }

    /// The service after a change of configuration: an endpoint that kept name, address and weight
    /// keeps its state.
    pub fn update(&self, model: &topology::Service) -> Arc<Self> {
        Self::build(model, |wanted| {
            let same = |e: &&Arc<Endpoint>| {
                e.name == wanted.name && e.address == wanted.address && e.weight == wanted.weight
            };
            self.endpoints.iter().find(same).cloned()
        })
    }

    /// True when no endpoint can be selected: then all of them are used (panic threshold).
    pub fn panicking(&self, now: Instant) -> bool {
        !self.endpoints.iter().any(|e| e.state.selectable(now))
    }

    fn build(
        model: &topology::Service,
        known: impl Fn(&topology::Endpoint) -> Option<Arc<Endpoint>>,
    ) -> Arc<Self> {
        let fresh = |e: &topology::Endpoint| {
            Arc::new(Endpoint {
                name: e.name.clone(),
                address: e.address,
                weight: e.weight,
                state: EndpointState::new(Passive::default()),
            })
        };
        let endpoints = model.endpoints.iter().map(|e| known(e).unwrap_or_else(|| fresh(e)));
        Arc::new(Self { name: model.name.clone(), endpoints: endpoints.collect() })
    }
}

/// One address of a service.
#[derive(Debug)]
pub struct Endpoint {
    /// Stable name; hashing depends on it.
    pub name: EndpointName,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share.
    pub weight: Weight,
    /// What is known about it now.
    pub state: EndpointState,
}

/// What an active check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Up,
    /// It does not.
    Down,
}

/// The living part of an endpoint: atomics, shared by all workers.
#[derive(Debug)]
pub struct EndpointState {
    active: Arc<AtomicU32>,
    down: AtomicBool,
    draining: AtomicBool,
    outlier: Outlier,
}

impl EndpointState {
    /// Healthy, idle, not draining.
    pub fn new(passive: Passive) -> Self {
        Self {
            active: Arc::default(),
            down: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            outlier: Outlier::new(passive),
        }
    }

    /// Connections or requests in flight.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Counts one in flight until the guard is dropped.
    pub fn enter(&self) -> InFlight {
        self.active.fetch_add(1, Ordering::Relaxed);
        InFlight(self.active.clone())
    }

    /// What the active check last said; up without one.
    pub fn healthy(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    /// Told by the active check. `Up` ends an ejection too: the check has asked the endpoint itself.
    pub fn set_healthy(&self, health: Health) {
        self.down.store(health == Health::Down, Ordering::Relaxed);
        if health == Health::Up {
            self.outlier.forgive();
        }
    }

    /// Takes no new flows; known ones stay.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Starts draining.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Ends draining.
    pub fn undrain(&self) {
        self.draining.store(false, Ordering::Relaxed);
    }

    /// A sign of life from the data path: ends the row of failures.
    pub fn report_success(&self) {
        self.outlier.success();
    }

    /// A failure seen by the data path (refused, unreachable, reset before an answer). After the
    /// third in a row the endpoint is ejected; then the time until it is tried again is returned,
    /// once, for the caller to emit [`events::EndpointEjected`].
    pub fn report_failure(&self, now: Instant) -> Option<std::time::Duration> {
        self.outlier.failure(now)
    }

    /// Healthy and not ejected: known flows may stay.
    pub fn alive(&self, now: Instant) -> bool {
        self.healthy() && !self.outlier.ejected(now)
    }

    /// Alive and not draining: new flows may come.
    pub fn selectable(&self, now: Instant) -> bool {
        !self.draining() && self.alive(now)
    }
}

/// One connection or request in flight; dropping it ends the count.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicU32>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests;
