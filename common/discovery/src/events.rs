//! What an operator must hear of a source of endpoints. Told by `keep`.
//!
//! Invariant: labels are names from the topology file and fixed words.

use std::time::{Duration, SystemTime};

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

/// A source says that there are no endpoints any more, and is not believed yet; told once.
#[derive(Debug)]
pub struct EmptyDoubted<'a> {
    /// Whose endpoints.
    pub service: &'a str,
    /// It must go on saying so for so long.
    pub believed_after: Duration,
}

/// A part of an answer is of no use; told once per cause.
#[derive(Debug)]
pub struct EntriesLeftOut<'a> {
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

impl Event for EmptyDoubted<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, service) = (&*to.instance, self.service);
        let believed_after_ms = self.believed_after.as_millis() as u64;
        tracing::event!(
            Level::WARN,
            instance,
            service,
            believed_after_ms,
            "the source names no endpoint any more, last endpoints stay for now"
        );
    }
}

impl Event for EntriesLeftOut<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, service, cause) = (&*to.instance, self.service, self.cause);
        tracing::event!(Level::WARN, instance, service, cause, "entries of a source left out");
    }
}

/// Counts a question to a source.
pub(crate) fn asked(to: &Observer, service: &str, outcome: &'static str) {
    if outcome == "ok" {
        let help = "When the service's source of endpoints answered last, in seconds since 1970.";
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let name = "aqueduct_discovery_last_success_timestamp_seconds";
        to.metrics.gauge(name, help, &[("service", service)]).set(since.as_secs_f64());
    }
    let labels = [("service", service), ("outcome", outcome)];
    let help = "Questions to the service's source of endpoints, by outcome.";
    to.metrics.counter("aqueduct_lookups_total", help, &labels).increment(1);
}
