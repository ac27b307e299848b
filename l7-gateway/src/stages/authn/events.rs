//! What an operator must hear about issuers' keys. Not for refused tokens: those are in the access
//! log and counted there. Emitted by `jwks`.
//!
//! Invariant: labels are names from the topology file.

use common::observe::{Event, Observer};
use tracing::Level;

/// A key set came and differs from the last one.
#[derive(Debug)]
pub struct KeysChanged<'a> {
    /// The issuer's name.
    pub issuer: &'a str,
    /// Usable keys in it.
    pub keys: usize,
}

/// A key set could not be had; the last one stays in use.
#[derive(Debug)]
pub struct KeysUnavailable<'a> {
    /// The issuer's name.
    pub issuer: &'a str,
    /// What happened.
    pub cause: &'a str,
}

/// A key of a set is not used.
#[derive(Debug)]
pub struct KeyRefused<'a> {
    /// The issuer's name.
    pub issuer: &'a str,
    /// Its position in the set, from 0.
    pub position: usize,
    /// What is wrong with it.
    pub cause: &'a str,
}

/// The last key set has not been confirmed for so long that it is no longer believed.
#[derive(Debug)]
pub struct KeysTooOld<'a> {
    /// The issuer's name.
    pub issuer: &'a str,
}

impl Event for KeysChanged<'_> {
    fn emit(&self, to: &Observer) {
        count(to, self.issuer, "changed");
        tracing::event!(
            Level::INFO,
            instance = &*to.instance,
            issuer = self.issuer,
            keys = self.keys,
            "key set changed"
        );
    }
}

impl Event for KeysUnavailable<'_> {
    fn emit(&self, to: &Observer) {
        count(to, self.issuer, "failed");
        tracing::event!(
            Level::WARN,
            instance = &*to.instance,
            issuer = self.issuer,
            cause = self.cause,
            "key set unavailable"
        );
    }
}

impl Event for KeyRefused<'_> {
    fn emit(&self, to: &Observer) {
        let help = "Keys of issuers' sets that are not used.";
        let labels = [("issuer", self.issuer)];
        to.metrics.counter("aqueduct_http_keys_refused_total", help, &labels).increment(1);
        let (issuer, position, cause) = (self.issuer, self.position, self.cause);
        tracing::event!(
            Level::WARN,
            instance = &*to.instance,
            issuer,
            position,
            cause,
            "key not used"
        );
    }
}

impl Event for KeysTooOld<'_> {
    fn emit(&self, to: &Observer) {
        count(to, self.issuer, "dropped");
        tracing::event!(
            Level::ERROR,
            instance = &*to.instance,
            issuer = self.issuer,
            "key set too old: tokens can no longer be checked"
        );
    }
}

fn count(to: &Observer, issuer: &str, outcome: &str) {
    let help = "Key sets that changed, could not be had, or grew too old.";
    let labels = [("issuer", issuer), ("outcome", outcome)];
    to.metrics.counter("aqueduct_http_key_sets_total", help, &labels).increment(1);
}
