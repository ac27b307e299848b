//! What an operator must hear of our own entries in registries. Told by `hold`.
//!
//! Invariant: labels are fixed words.

use std::net::SocketAddr;
use std::time::SystemTime;

use common::observe::{Event, Observer};
use tracing::Level;

/// The instance is entered, with this health; told once per change.
#[derive(Debug)]
pub struct Registered {
    /// `consul`, `etcd` or `eureka`.
    pub registry: &'static str,
    /// As what.
    pub address: SocketAddr,
    /// Whether others are to send to it.
    pub ready: bool,
}

/// A registry could not be told; told once per cause until it can.
#[derive(Debug)]
pub struct RegistrationFailed<'a> {
    /// Which.
    pub registry: &'static str,
    /// Why.
    pub cause: &'a str,
}

/// The instance has left a registry, or tried to.
#[derive(Debug)]
pub struct Left<'a> {
    /// Which.
    pub registry: &'static str,
    /// Why its entry must end by itself.
    pub fault: Option<&'a str>,
}

impl Event for Registered {
    fn emit(&self, to: &Observer) {
        is_entered(to, self.registry, self.ready);
        let Self { registry, address, ready } = self;
        let instance = &*to.instance;
        tracing::event!(Level::INFO, instance, registry, %address, ready, "registered");
    }
}

impl Event for RegistrationFailed<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, registry, cause) = (&*to.instance, self.registry, self.cause);
        tracing::event!(Level::WARN, instance, registry, cause, "registration failed, tried again");
    }
}

impl Event for Left<'_> {
    fn emit(&self, to: &Observer) {
        is_entered(to, self.registry, false);
        let (instance, registry) = (&*to.instance, self.registry);
        match self.fault {
            None => tracing::event!(Level::INFO, instance, registry, "left the registry"),
            Some(cause) => tracing::event!(
                Level::WARN,
                instance,
                registry,
                cause,
                "could not leave the registry, the entry ends by itself"
            ),
        }
    }
}

fn is_entered(to: &Observer, registry: &'static str, ready: bool) {
    let help =
        "1: the registry was told that the instance is ready; 0: that it is not, or it has left.";
    let value = if ready { 1.0 } else { 0.0 };
    to.metrics.gauge("aqueduct_registered", help, &[("registry", registry)]).set(value);
}

/// Counts what a registry was told.
pub(super) fn told(to: &Observer, registry: &'static str, outcome: &'static str) {
    if outcome == "ok" {
        let help = "When the registry took our entry or sign of life last, in seconds since 1970.";
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let name = "aqueduct_registration_last_success_timestamp_seconds";
        to.metrics.gauge(name, help, &[("registry", registry)]).set(since.as_secs_f64());
    }
    let labels = [("registry", registry), ("outcome", outcome)];
    let help = "Entries and signs of life that the registry was told, by outcome.";
    to.metrics.counter("aqueduct_registrations_total", help, &labels).increment(1);
}
