//! Proof of who the caller is. Not for finding it out: that is the rest of `authn`. Read by every
//! later stage.
//!
//! Invariant: only `authn` makes one, and its user fits in a header.

use std::time::{Duration, SystemTime};

use http::HeaderValue;
use topology::gateway::IssuerId;
use topology::units::Scope;

/// A verified caller.
#[derive(Clone, Debug)]
pub struct Identity {
    user: HeaderValue,
    issuer: IssuerId,
    scopes: Vec<Scope>,
    expires: u64,
}

impl Identity {
    /// `expires` is the token's `exp` in milliseconds. `None` if the user cannot stand in a header as visible
    /// ASCII.
    pub(super) fn new(
        user: &str,
        issuer: IssuerId,
        scopes: Vec<Scope>,
        expires: u64,
    ) -> Option<Self> {
        let visible = !user.is_empty() && user.bytes().all(|b| b.is_ascii_graphic());
        let user = visible.then(|| HeaderValue::from_str(user).ok()).flatten()?;
        Some(Self { user, issuer, scopes, expires })
    }

    /// As text.
    pub fn user(&self) -> &str {
        self.user.to_str().unwrap_or_default()
    }

    /// As the value of `X-User-Id`.
    pub fn user_header(&self) -> &HeaderValue {
        &self.user
    }

    /// Who vouches for it.
    pub fn issuer(&self) -> IssuerId {
        self.issuer
    }

    /// What it may do.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// When it ends, the issuer's leeway not counted.
    pub fn expires(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.expires)
    }

    /// The same in milliseconds since the epoch.
    pub(super) fn expires_at(&self) -> u64 {
        self.expires
    }
}
