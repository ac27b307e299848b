//! What an operator must hear of programs that see requests on their way. Not for what they say. Emitted by `mod`.
//!
//! Invariant: told once per worker when it begins and once when it ends.

use common::observe::{Event, Observer};
use tracing::Level;

/// It does not answer, or not as it should.
#[derive(Debug)]
pub struct ExternalAway<'a> {
    /// Its address.
    pub url: &'a str,
    /// What happened.
    pub cause: &'a str,
}

/// It answers again.
#[derive(Debug)]
pub struct ExternalBack<'a> {
    /// Its address.
    pub url: &'a str,
}

impl Event for ExternalAway<'_> {
    fn emit(&self, to: &Observer) {
        let help = "Times that workers found an external filter away.";
        let labels = [("url", self.url)];
        to.metrics.counter("aqueduct_http_external_away_total", help, &labels).increment(1);
        let (instance, url, cause) = (&*to.instance, self.url, self.cause);
        tracing::event!(Level::WARN, instance, url, cause, "external filter away");
    }
}

impl Event for ExternalBack<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, url) = (&*to.instance, self.url);
        tracing::event!(Level::INFO, instance, url, "external filter is back");
    }
}
