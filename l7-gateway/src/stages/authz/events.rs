//! What an operator must hear of those who are asked whether requests may go on. Not for their answers:
//! refusals are in the access log. Emitted by `authorizer`.
//!
//! Invariant: told once per worker when it begins and once when it ends.

use common::observe::{Event, Observer};
use tracing::Level;

/// It does not answer, or not as it should.
#[derive(Debug)]
pub struct AuthorizerAway<'a> {
    /// Its address.
    pub url: &'a str,
    /// What happened.
    pub cause: &'a str,
}

/// It answers again.
#[derive(Debug)]
pub struct AuthorizerBack<'a> {
    /// Its address.
    pub url: &'a str,
}

impl Event for AuthorizerAway<'_> {
    fn emit(&self, to: &Observer) {
        let help = "Times that workers found an authorizer away.";
        let labels = [("url", self.url)];
        to.metrics.counter("aqueduct_http_authorizer_away_total", help, &labels).increment(1);
        let (instance, url, cause) = (&*to.instance, self.url, self.cause);
        tracing::event!(Level::WARN, instance, url, cause, "authorizer away");
    }
}

impl Event for AuthorizerBack<'_> {
    fn emit(&self, to: &Observer) {
        tracing::event!(
            Level::INFO,
            instance = &*to.instance,
            url = self.url,
            "authorizer is back"
        );
    }
}
