//! What an operator must hear of a source of endpoints. Told by `dns`.
//!
//! Invariant: labels are names from the topology file and fixed words.

use common::observe::{Event, Observer};
use tracing::Level;

/// A source gave another set.
#[derive(Debug)]
pub struct EndpointsFound<'a> {
    /// Whose endpoints.
    pub service: &'a str,
    /// How many there are now.
    pub count: usize,
}

/// A source could not be asked; told once per cause until it answers again.
#[derive(Debug)]
pub struct LookupFailed<'a> {
    /// Whose endpoints.
    pub service: &'a str,
    /// Why.
    pub cause: &'a str,
}

impl Event for EndpointsFound<'_> {
    fn emit(&self, to: &Observer) {
        let labels = [("service", self.service)];
        let help = "Endpoints that the service's source named last.";
        let count = self.count;
        to.metrics.gauge("aqueduct_discovered_endpoints", help, &labels).set(count as f64);
        let (instance, service) = (&*to.instance, self.service);
        tracing::event!(Level::INFO, instance, service, count, "endpoints found");
    }
}

impl Event for LookupFailed<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, service, cause) = (&*to.instance, self.service, self.cause);
        tracing::event!(
            Level::WARN,
            instance,
            service,
            cause,
            "lookup failed, last endpoints stay"
        );
    }
}

/// Counts a question to a source.
pub(crate) fn asked(to: &Observer, service: &str, outcome: &'static str) {
    let labels = [("service", service), ("outcome", outcome)];
    let help = "Questions to the service's source of endpoints, by outcome.";
    to.metrics.counter("aqueduct_lookups_total", help, &labels).increment(1);
}
