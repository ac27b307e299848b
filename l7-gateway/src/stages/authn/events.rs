//! What an operator must hear about issuers' keys and stores of API keys. Not for refused tokens: those are in the access
//! log and counted there. Emitted by `jwks`
//! and `api_key`.
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

/// A store of API keys does not answer; known keys stay good for an hour.
#[derive(Debug)]
pub struct KeyStoreAway<'a> {
    /// The source's name.
    pub source: &'a str,
    /// What happened.
    pub cause: &'a str,
}

/// It answers again.
#[derive(Debug)]
pub struct KeyStoreBack<'a> {
    /// The source's name.
    pub source: &'a str,
}

/// What is written of a key cannot be used; the key is nobody's.
#[derive(Debug)]
pub struct KeyRecordOdd<'a> {
    /// The source's name.
    pub source: &'a str,
    /// The key's digest, which does not give the key away.
    pub digest: &'a str,
}

impl Event for KeyStoreAway<'_> {
    fn emit(&self, to: &Observer) {
        let help = "Times that a store of API keys went away.";
        let labels = [("source", self.source)];
        to.metrics.counter("aqueduct_http_key_store_away_total", help, &labels).increment(1);
        tracing::event!(
            Level::WARN,
            instance = &*to.instance,
            source = self.source,
            cause = self.cause,
            "store of API keys away: known keys stay good for an hour"
        );
    }
}

impl Event for KeyStoreBack<'_> {
    fn emit(&self, to: &Observer) {
        tracing::event!(
            Level::INFO,
            instance = &*to.instance,
            source = self.source,
            "store of API keys is back"
        );
    }
}

impl Event for KeyRecordOdd<'_> {
    fn emit(&self, to: &Observer) {
        let help = "Records of API keys that cannot be used.";
        let labels = [("source", self.source)];
        to.metrics.counter("aqueduct_http_key_records_odd_total", help, &labels).increment(1);
        tracing::event!(
            Level::WARN,
            instance = &*to.instance,
            source = self.source,
            digest = self.digest,
            "record of an API key not usable"
        );
    }
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
