//! Stage 3: who is it? Not for what they may do: that is `authz`. Called by `pipeline`.
//!
//! Invariant: `Identity` is made here alone, after a signature was verified; where a policy asks
//! for a token, the token goes no further than this stage.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, header};
use tokio::time::Instant;
use topology::gateway::{Auth, IssuerId};

use self::cache::Cache;
pub use self::identity::Identity;
pub use self::jwks::{Keys, KeysError};
pub use self::jwt::JwtFault;
use self::jwt::{Token, Verified};
use crate::exchange::{Caller, Exchange, Identified, Normalised, Stage};
use crate::halt::Halt;
use crate::pipeline::Filter;
use crate::trace::Trace;

pub mod cache;
pub mod events;
pub mod fetch;
mod identity;
pub mod json;
pub mod jwks;
pub mod jwt;
pub mod key;
pub mod key_file;

/// Why nobody could be identified. `halt` says which status each one is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthnError {
    /// No credentials (RFC 6750 §3.1: then the challenge has no error code).
    #[error("a token is needed")]
    Missing,
    /// More than one `Authorization`, or one that is not `Bearer` and a token.
    #[error("the credentials are not one Bearer token")]
    Malformed,
    /// The token is not believed.
    #[error(transparent)]
    Token(#[from] JwtFault),
    /// The issuer's keys have not been had yet, or are too old.
    #[error("the issuer's keys are not available")]
    KeysDown,
}

/// The stage, one per worker.
#[derive(Debug)]
pub struct Authn {
    keys: Arc<Keys>,
    /// Ends with this snapshot, so no token outlives the configuration it was verified under.
    cache: RefCell<Cache>,
}

/// What the stage will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The policy asks nobody; a token that came passes untouched.
    Anonymous,
    /// The request cannot be identified.
    Refuse(AuthnError),
    /// This `Authorization` value holds a token to verify.
    Verify(HeaderValue),
}

impl Authn {
    /// For one worker.
    pub fn new(keys: Arc<Keys>) -> Self {
        Self { keys, cache: RefCell::default() }
    }

    async fn identify(
        &self,
        token: &[u8],
        allowed: &[IssuerId],
        now: u64,
    ) -> Result<Rc<Identity>, AuthnError> {
        if let Some(known) = self.recall(token, allowed, now)? {
            return Ok(known);
        }
        let parsed = Token::parse(token)?;
        let (id, source) = self.keys.select(&parsed, allowed)?;
        let (mut outcome, mut keys) = source.verify(&parsed, now).ok_or(AuthnError::KeysDown)?;
        let perhaps_new = outcome.as_ref().is_err_and(|fault| parsed.may_need_new_keys(fault));
        if perhaps_new && source.renew(Instant::now()).await {
            (outcome, keys) = source.verify(&parsed, now).ok_or(AuthnError::KeysDown)?;
        }
        let Verified { user, scopes, expires } = outcome?;
        let identity = Identity::new(&user, id, scopes, expires);
        let identity = Rc::new(identity.ok_or(JwtFault::Unusable("user"))?);
        self.cache.borrow_mut().insert(token, Rc::clone(&identity), keys);
        Ok(identity)
    }

    /// A token this worker has verified before, if what that rested on still holds.
    fn recall(
        &self,
        token: &[u8],
        allowed: &[IssuerId],
        now: u64,
    ) -> Result<Option<Rc<Identity>>, AuthnError> {
        let generation = |id: IssuerId| self.keys.source(id)?.generation();
        let Some(known) = self.cache.borrow_mut().find(token, generation) else {
            return Ok(None);
        };
        // Another route may accept other issuers, or this one under another name.
        if !allowed.contains(&known.issuer()) {
            return Ok(None);
        }
        let leeway = self.keys.source(known.issuer()).map_or(0, jwks::Source::leeway);
        jwt::check_expiry(known.expires_at(), leeway, now)?;
        Ok(Some(known))
    }
}

impl Filter for Authn {
    const STAGE: Stage = Stage::Authn;
    type In = Normalised;
    type Out = Identified;
    type Plan = Plan;

    fn plan(&self, _x: &Exchange, input: &Normalised, trace: &mut impl Trace) -> Plan {
        if input.policy.auth == Auth::None {
            trace.note(Stage::Authn, || "auth: none, nobody is asked".to_owned());
            return Plan::Anonymous;
        }
        match credentials(&input.request.headers) {
            Ok(value) => {
                trace.note(Stage::Authn, || "a Bearer token is verified".to_owned());
                Plan::Verify(value.clone())
            }
            Err(error) => {
                trace.note(Stage::Authn, || error.to_string());
                Plan::Refuse(error)
            }
        }
    }

    async fn request(&self, x: &mut Exchange, mut input: Normalised) -> Result<Identified, Halt> {
        let caller = match (self.plan(x, &input, &mut crate::trace::Silent), &input.policy.auth) {
            (Plan::Refuse(error), _) => return Err(error.into()),
            (Plan::Verify(value), Auth::Token(allowed)) => {
                let identity = self
                    .identify(bearer(&value).unwrap_or_default(), allowed, millis(x.wall))
                    .await?;
                x.record.user = Some(identity.user_header().clone());
                input.request.headers.remove(header::AUTHORIZATION);
                Caller::Known(identity)
            }
            _ => Caller::Anonymous,
        };
        let Normalised { request, policy } = input;
        Ok(Identified { request, policy, caller })
    }
}

/// The one `Authorization` value, if it is `Bearer` and a token (RFC 6750 §2.1).
fn credentials(headers: &HeaderMap) -> Result<&HeaderValue, AuthnError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => Err(AuthnError::Missing),
        (Some(value), None) if bearer(value).is_some() => Ok(value),
        _ => Err(AuthnError::Malformed),
    }
}

/// The token of a `Bearer` value; the scheme's name is compared without case (RFC 9110 §11.1).
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, rest) = value.as_bytes().split_at_checked(6)?;
    let token = rest.trim_ascii_start();
    let separate = token.len() < rest.len();
    let plain = !token.is_empty() && !token.contains(&b' ');
    (scheme.eq_ignore_ascii_case(b"bearer") && separate && plain).then_some(token)
}

/// Milliseconds since the epoch; a clock before it reads as 0, when every token is still to come.
fn millis(wall: SystemTime) -> u64 {
    wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, jwt::millis)
}

#[cfg(test)]
#[path = "../../../tests/it/forge.rs"]
mod forge;

#[cfg(test)]
mod tests;
