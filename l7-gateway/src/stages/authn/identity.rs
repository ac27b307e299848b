//! Proof of who the caller is. Not for finding it out: that is the rest of `authn`. Read by every
//! later stage.
//!
//! Invariant: only `authn` makes one, and its subject fits in a header.

use std::cell::Cell;
use std::sync::Arc;

use http::HeaderValue;
use serde_json::{Map, Value};
use topology::gateway::{ApiKeysId, IssuerId};
use topology::units::Scope;

use super::api_key::Digest;

/// A verified caller.
#[derive(Clone, Debug)]
pub struct Identity {
    subject: HeaderValue,
    facts: Facts,
}

/// What is known of a caller beside its name.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Who says so.
    pub(super) voucher: Voucher,
    /// What it may do.
    pub(super) scopes: Arc<[Scope]>,
    /// What it is.
    pub(super) roles: Arc<[Box<str>]>,
    /// Claims of its token that somebody reads.
    pub(super) claims: Map<String, Value>,
    /// The consumer that its token names.
    pub(super) consumer: Option<HeaderValue>,
    /// What its consumer pays for.
    pub(super) plan: Option<Arc<str>>,
    /// When it ends, in milliseconds since the epoch.
    pub(super) expires: u64,
    /// Until when that is believed without asking again, in milliseconds since the epoch.
    pub(super) recheck: u64,
    /// By what else it can be revoked than by its subject.
    pub(super) marks: Marks,
}

impl Facts {
    /// Nothing but who says so.
    pub(super) fn of(voucher: Voucher) -> Self {
        Self {
            voucher,
            scopes: Arc::default(),
            roles: Arc::default(),
            claims: Map::new(),
            consumer: None,
            plan: None,
            expires: u64::MAX,
            recheck: u64::MAX,
            marks: Marks::default(),
        }
    }
}

/// By what a token or a key can be revoked, beside its user.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    /// `jti`.
    pub(super) id: Option<Box<str>>,
    /// `iat`, in milliseconds since the epoch.
    pub(super) issued: Option<u64>,
    /// Of a key.
    pub(super) digest: Option<Digest>,
    /// The list on which it was not, as the list counts its changes.
    pub(super) cleared: Cell<u64>,
}

/// Who says who a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voucher {
    /// A token: the subject is a user.
    Issuer(IssuerId),
    /// An API key: the subject is its consumer.
    ApiKeys(ApiKeysId),
    /// A client certificate: the subject is its principal.
    Certificate,
}

impl Identity {
    /// `None` if the subject cannot stand in a header as visible ASCII.
    pub(super) fn new(subject: &str, facts: Facts) -> Option<Self> {
        let visible = !subject.is_empty() && subject.bytes().all(|b| b.is_ascii_graphic());
        let subject = visible.then(|| HeaderValue::from_str(subject).ok()).flatten()?;
        Some(Self { subject, facts })
    }

    /// Its name among those of its kind: a user, a consumer or a principal.
    pub fn subject(&self) -> &str {
        self.subject.to_str().unwrap_or_default()
    }

    /// The same as a header's value.
    pub fn subject_header(&self) -> &HeaderValue {
        &self.subject
    }

    /// The user, as the value of `X-User-Id`; `None`: it is no user.
    pub fn user(&self) -> Option<&HeaderValue> {
        matches!(self.facts.voucher, Voucher::Issuer(_)).then_some(&self.subject)
    }

    /// The consumer that its API key belongs to, or whom its token names.
    pub fn consumer(&self) -> Option<&str> {
        self.consumer_header()?.to_str().ok()
    }

    /// The same as a header's value.
    pub fn consumer_header(&self) -> Option<&HeaderValue> {
        match self.facts.voucher {
            Voucher::ApiKeys(_) => Some(&self.subject),
            Voucher::Issuer(_) => self.facts.consumer.as_ref(),
            Voucher::Certificate => None,
        }
    }

    /// Who vouches for it.
    pub fn voucher(&self) -> Voucher {
        self.facts.voucher
    }

    /// The issuer of its token.
    pub fn issuer(&self) -> Option<IssuerId> {
        match self.facts.voucher {
            Voucher::Issuer(id) => Some(id),
            Voucher::ApiKeys(_) | Voucher::Certificate => None,
        }
    }

    /// What it may do.
    pub fn scopes(&self) -> &[Scope] {
        &self.facts.scopes
    }

    /// What it is.
    pub fn roles(&self) -> &[Box<str>] {
        &self.facts.roles
    }

    /// A claim of its token, if a rule reads it.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        self.facts.claims.get(name)
    }

    /// A user with these, for tests of other stages.
    #[cfg(test)]
    pub(crate) fn made_up(user: &str, scopes: &[&str], roles: &[&str], claims: Value) -> Self {
        let Value::Object(claims) = claims else { unreachable!("claims are an object") };
        let facts = Facts {
            scopes: scopes.iter().map(|scope| Scope::new(scope)).collect(),
            roles: roles.iter().map(|role| (*role).into()).collect(),
            claims,
            ..Facts::of(Voucher::Issuer(IssuerId(0)))
        };
        Self::new(user, facts).expect("invariant: a test's user is visible")
    }

    /// A consumer of this name, for tests of other stages.
    #[cfg(test)]
    pub(crate) fn consumed(name: &str) -> Self {
        let facts = Facts::of(Voucher::ApiKeys(ApiKeysId(0)));
        Self::new(name, facts).expect("invariant: a test's consumer is visible")
    }

    /// The plan of a consumer.
    pub fn plan(&self) -> Option<&str> {
        self.facts.plan.as_deref()
    }

    /// Until when it is believed without asking again.
    pub(super) fn recheck(&self) -> u64 {
        self.facts.recheck
    }

    /// By what it can be revoked.
    pub(super) fn marks(&self) -> &Marks {
        &self.facts.marks
    }

    /// When it ends in milliseconds since the epoch, the issuer's leeway not counted.
    pub(super) fn expires_at(&self) -> u64 {
        self.facts.expires
    }
}
