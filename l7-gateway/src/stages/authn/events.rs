//! What an operator must hear about issuers' keys and stores of API keys. Not for refused tokens: those are in the access
//! log and counted there. Emitted by `jwks`,
//! `api_key` and `denylist`.
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

/// The denylist cannot be heard; the last list stays in force for a while.
#[derive(Debug)]
pub struct DenylistAway<'a> {
    /// What happened.
    pub cause: &'a str,
}

/// It is heard again.
#[derive(Debug)]
pub struct DenylistBack;

/// The last list is too old to be believed: who shows a token or a key is answered 503.
#[derive(Debug)]
pub struct DenylistTooOld;

/// Entries that cannot be read; what they were to end goes on.
#[derive(Debug)]
pub struct DenylistOdd {
    /// How many.
    pub entries: usize,
}

/// Something was revoked.
#[derive(Debug)]
pub struct Revoked {
    /// What kind of thing.
    pub what: &'static str,
}

impl Event for DenylistAway<'_> {
    fn emit(&self, to: &Observer) {
        denylist(to, "away");
        let (instance, cause) = (&*to.instance, self.cause);
        tracing::event!(
            Level::WARN,
            instance,
            cause,
            "denylist away: the last list stays in force"
        );
    }
}

impl Event for DenylistBack {
    fn emit(&self, to: &Observer) {
        denylist(to, "back");
        tracing::event!(Level::INFO, instance = &*to.instance, "denylist is back");
    }
}

impl Event for DenylistTooOld {
    fn emit(&self, to: &Observer) {
        denylist(to, "too_old");
        tracing::event!(
            Level::ERROR,
            instance = &*to.instance,
            "denylist too old: callers can no longer be identified"
        );
    }
}

impl Event for DenylistOdd {
    fn emit(&self, to: &Observer) {
        denylist(to, "odd");
        let (instance, entries) = (&*to.instance, self.entries);
        tracing::event!(Level::ERROR, instance, entries, "entries of the denylist cannot be read");
    }
}

impl Event for Revoked {
    fn emit(&self, to: &Observer) {
        denylist(to, "revoked");
        tracing::event!(Level::INFO, instance = &*to.instance, what = self.what, "revoked");
    }
}

fn denylist(to: &Observer, what: &str) {
    let help = "What happened to the denylist.";
    to.metrics.counter("aqueduct_http_denylist_total", help, &[("what", what)]).increment(1);
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
