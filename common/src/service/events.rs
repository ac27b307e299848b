//! What an operator must hear about endpoints: up, down, ejected. Not for per-flow counts. Emitted
//! by `health` and by the tiers' data paths.
//!
//! Invariant: labels are names from the topology file.

use std::time::Duration;

use tracing::Level;

use crate::observe::{Event, Observer};

/// An endpoint answers again.
#[derive(Debug)]
pub struct EndpointUp<'a> {
    /// Its service.
    pub service: &'a str,
    /// Its name.
    pub endpoint: &'a str,
}

/// An active check took an endpoint out.
#[derive(Debug)]
pub struct EndpointDown<'a> {
    /// Its service.
    pub service: &'a str,
    /// Its name.
    pub endpoint: &'a str,
    /// What the last check met.
    pub cause: &'a str,
}

/// Failures on the data path took an endpoint out for a while.
#[derive(Debug)]
pub struct EndpointEjected<'a> {
    /// Its service.
    pub service: &'a str,
    /// Its name.
    pub endpoint: &'a str,
    /// What the last flow met.
    pub cause: &'a str,
    /// Until it is tried again.
    pub length: Duration,
}

impl Event for EndpointUp<'_> {
    fn emit(&self, to: &Observer) {
        up(to, self.service, self.endpoint, 1.0);
        let (instance, service, endpoint) = (&*to.instance, self.service, self.endpoint);
        tracing::event!(Level::INFO, instance, service, endpoint, "endpoint up");
    }
}

impl Event for EndpointDown<'_> {
    fn emit(&self, to: &Observer) {
        up(to, self.service, self.endpoint, 0.0);
        let (instance, service, endpoint) = (&*to.instance, self.service, self.endpoint);
        tracing::event!(
            Level::WARN,
            instance,
            service,
            endpoint,
            cause = self.cause,
            "endpoint down"
        );
    }
}

impl Event for EndpointEjected<'_> {
    fn emit(&self, to: &Observer) {
        let labels = [("service", self.service), ("endpoint", self.endpoint)];
        let help = "Times an endpoint was taken out by failures on the data path.";
        to.metrics.counter("aqueduct_endpoint_ejections_total", help, &labels).increment(1);
        let (instance, service, endpoint) = (&*to.instance, self.service, self.endpoint);
        let (cause, for_ms) = (self.cause, self.length.as_millis() as u64);
        tracing::event!(
            Level::WARN,
            instance,
            service,
            endpoint,
            cause,
            for_ms,
            "endpoint ejected"
        );
    }
}

/// An endpoint that was ejected did what it was asked.
#[derive(Debug)]
pub struct EndpointReturned<'a> {
    /// Its service.
    pub service: &'a str,
    /// Its name.
    pub endpoint: &'a str,
}

impl Event for EndpointReturned<'_> {
    fn emit(&self, to: &Observer) {
        let labels = [("service", self.service), ("endpoint", self.endpoint)];
        let help = "Times an ejected endpoint proved to be well again.";
        to.metrics.counter("aqueduct_endpoint_returns_total", help, &labels).increment(1);
        let (instance, service, endpoint) = (&*to.instance, self.service, self.endpoint);
        tracing::event!(Level::INFO, instance, service, endpoint, "endpoint returned");
    }
}

/// An operator changed how an endpoint is used.
#[derive(Debug)]
pub struct EndpointAdjusted<'a> {
    /// Whose.
    pub service: &'a str,
    /// Which.
    pub endpoint: &'a str,
    /// `drain`, `enable` or `weight`.
    pub wish: &'static str,
    /// The weight that was set.
    pub weight: Option<u16>,
}

impl Event for EndpointAdjusted<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, service, endpoint) = (&*to.instance, self.service, self.endpoint);
        let (wish, weight) = (self.wish, self.weight);
        tracing::event!(
            Level::WARN,
            instance,
            service,
            endpoint,
            wish,
            weight,
            "endpoint adjusted"
        );
    }
}

/// Counts an active check.
pub(crate) fn checked(to: &Observer, service: &str, endpoint: &str, outcome: &'static str) {
    let labels = [("service", service), ("endpoint", endpoint), ("outcome", outcome)];
    let help = "Active checks of the endpoint, by outcome.";
    to.metrics.counter("aqueduct_endpoint_checks_total", help, &labels).increment(1);
}

/// Sets the gauge that dashboards watch.
pub(crate) fn up(to: &Observer, service: &str, endpoint: &str, value: f64) {
    let labels = [("service", service), ("endpoint", endpoint)];
    let help = "1 while the endpoint's active check passes.";
    to.metrics.gauge("aqueduct_endpoint_up", help, &labels).set(value);
}
