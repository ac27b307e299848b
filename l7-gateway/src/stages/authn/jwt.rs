//! Signed tokens in compact form (RFC 7515, RFC 7519): taken apart, verified against an issuer's
//! keys, their claims checked. Pure: keys and the time are given. Not for finding the token in a
//! request (`mod`), nor for remembering it (`cache`). Called by `mod`.
//!
//! Invariant: nothing that a token says about how to verify it is followed: its `alg` must be one
//! that configuration allows for the key, `kid` only selects, `jku`, `x5u`, `x5c` and `jwk` are not
//! looked at, `crit` is refused.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use topology::gateway::{Algorithm, Issuer};
use topology::units::Scope;

use super::key::{KeySet, algorithm_name};
use crate::strict;

/// Longest token looked at, in bytes.
pub const LONGEST_TOKEN: usize = 8 << 10;

/// Longest `kid` and longest user, in bytes.
const LONGEST_NAME: usize = 255;

/// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// A token taken apart and not yet believed.
#[derive(Debug)]
pub struct Token<'t> {
    /// Header and payload as they were signed.
    signed: &'t [u8],
    signature: Vec<u8>,
    algorithm: String,
    key_id: Option<String>,
    claims: Map<String, Value>,
}

/// What a verified token says, as far as later stages need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The value of the issuer's user claim, 1 to 255 visible ASCII characters.
    pub user: Box<str>,
    /// What the token grants, in its order.
    pub scopes: Vec<Scope>,
    /// What the user is.
    pub roles: Vec<Box<str>>,
    /// `exp` in milliseconds since the epoch.
    pub expires: u64,
    /// `jti`, by which it can be revoked.
    pub id: Option<Box<str>>,
    /// `iat` in milliseconds since the epoch.
    pub issued: Option<u64>,
}

/// Why a token is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtFault {
    /// Longer than [`LONGEST_TOKEN`].
    #[error("the token is longer than 8 KiB")]
    TooLong,
    /// Not three parts of unpadded base64url with strict JSON objects (RFC 7515 §7.1).
    #[error("the token is not a well-formed JWT")]
    Malformed,
    /// `crit`, `b64`, or a `typ` of another kind of token.
    #[error("the token's header asks for something that is not supported")]
    UnsupportedHeader,
    /// `iss` is missing or not one that this route accepts.
    #[error("the token's issuer is not accepted here")]
    OtherIssuer,
    /// `alg` is not allowed for this issuer.
    #[error("the token's algorithm is not accepted")]
    OtherAlgorithm,
    /// `kid` names no key of the issuer.
    #[error("the token is signed with an unknown key")]
    UnknownKey,
    /// No key verifies the signature.
    #[error("the token's signature is not valid")]
    Forged,
    /// A claim is missing.
    #[error("the token has no {0} claim")]
    Missing(&'static str),
    /// A claim is not what it should be.
    #[error("the token's {0} claim is not usable")]
    Unusable(&'static str),
    /// `aud` names none of the issuer's audiences.
    #[error("the token is meant for another audience")]
    OtherAudience,
    /// `exp` has passed.
    #[error("the token expired {by} s ago")]
    Expired {
        /// Seconds since `exp`.
        by: u64,
    },
    /// `nbf` has not come.
    #[error("the token is not valid for another {wait} s")]
    Early {
        /// Seconds until `nbf`.
        wait: u64,
    },
    /// Its issuer was asked, and does not know it or has ended it.
    #[error("the token is not active")]
    Inactive,
    /// `iat` lies in the future.
    #[error("the token was issued in the future")]
    IssuedLater,
}

impl<'t> Token<'t> {
    /// Takes a compact token apart (RFC 7515 §7.1), believing nothing.
    pub fn parse(text: &'t [u8]) -> Result<Self, JwtFault> {
        if text.len() > LONGEST_TOKEN {
            return Err(JwtFault::TooLong);
        }
        let mut dots = text.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(at, _)| at);
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(JwtFault::Malformed);
        };
        let header = object(&text[..first])?;
        let claims = object(&text[first + 1..second])?;
        let signature = decode(&text[second + 1..])?;
        // RFC 7515 §4.1.11: what must be understood and is not. `b64` (RFC 7797) needs `crit`.
        if header.contains_key("crit") || header.contains_key("b64") || !typed(header.get("typ")) {
            return Err(JwtFault::UnsupportedHeader);
        }
        let Some(Value::String(algorithm)) = header.get("alg") else {
            return Err(JwtFault::Malformed);
        };
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) if id.len() <= LONGEST_NAME => Some(id.clone()),
            Some(_) => return Err(JwtFault::Malformed),
        };
        let algorithm = algorithm.clone();
        Ok(Self { signed: &text[..second], signature, algorithm, key_id, claims })
    }

    /// What an issuer that was asked said of a token.
    pub fn told(claims: Map<String, Value>) -> Self {
        let (signature, algorithm) = (Vec::new(), String::new());
        Self { signed: &[], signature, algorithm, key_id: None, claims }
    }

    /// Whether what an issuer said makes the token good (RFC 7662 §2.2): all but `active` is optional, and
    /// must fit where it is there.
    pub fn introspected(&self, issuer: &Issuer, now: u64) -> Result<Verified, JwtFault> {
        if self.claims.get("active") != Some(&Value::Bool(true)) {
            return Err(JwtFault::Inactive);
        }
        if self.claims.contains_key("iss") && self.issuer() != Some(issuer.issuer.as_str()) {
            return Err(JwtFault::OtherIssuer);
        }
        if self.claims.contains_key("aud") && !self.is_for(&issuer.audiences) {
            return Err(JwtFault::OtherAudience);
        }
        let leeway = millis(issuer.leeway);
        let expires = match self.time("exp")? {
            Some(expires) => {
                check_expiry(expires, leeway, now)?;
                expires
            }
            None => u64::MAX,
        };
        match self.time("nbf")? {
            Some(begins) if now + leeway < begins => {
                Err(JwtFault::Early { wait: (begins - now).div_ceil(1000) })
            }
            _ => self.said(issuer, expires),
        }
    }

    /// The `iss` claim, unverified: it only selects whose keys are tried.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// Whether `aud` names one of these (RFC 7519 §4.1.3: a text or a list of texts).
    pub fn is_for(&self, audiences: &[String]) -> bool {
        let accepts =
            |value: &Value| value.as_str().is_some_and(|a| audiences.iter().any(|b| a == b));
        match self.claims.get("aud") {
            Some(Value::Array(list)) => list.iter().any(accepts),
            Some(one) => accepts(one),
            None => false,
        }
    }

    /// Verifies the signature with the issuer's keys, then the claims at `now` (milliseconds since
    /// the epoch).
    pub fn verify(&self, issuer: &Issuer, keys: &KeySet, now: u64) -> Result<Verified, JwtFault> {
        self.verify_signature(&issuer.algorithms, keys)?;
        self.check_claims(issuer, now)
    }

    /// All of [`Token::verify`] but the signature: for `explain`, where keys are not at hand.
    pub fn presume(&self, issuer: &Issuer, now: u64) -> Result<Verified, JwtFault> {
        self.algorithm(&issuer.algorithms)?;
        self.check_claims(issuer, now)
    }

    fn check_claims(&self, issuer: &Issuer, now: u64) -> Result<Verified, JwtFault> {
        if self.issuer() != Some(issuer.issuer.as_str()) {
            return Err(JwtFault::OtherIssuer);
        }
        if !self.claims.contains_key("aud") {
            return Err(JwtFault::Missing("aud"));
        }
        if !self.is_for(&issuer.audiences) {
            return Err(JwtFault::OtherAudience);
        }
        let expires = self.check_times(millis(issuer.leeway), now)?;
        self.said(issuer, expires)
    }

    /// What it says, as far as later stages need it.
    fn said(&self, issuer: &Issuer, expires: u64) -> Result<Verified, JwtFault> {
        Ok(Verified {
            user: self.user(&issuer.user_claim)?,
            scopes: self.scopes(&issuer.scope_claim)?,
            roles: self.roles(&issuer.role_claim)?,
            expires,
            id: self.id()?,
            issued: self.time("iat")?,
        })
    }

    /// Whether a refusal may mean that the issuer has begun to sign with a key not known yet.
    pub fn may_need_new_keys(&self, fault: &JwtFault) -> bool {
        match fault {
            JwtFault::UnknownKey => true,
            JwtFault::Forged => self.key_id.is_none(),
            _ => false,
        }
    }

    fn algorithm(&self, allowed: &[Algorithm]) -> Result<Algorithm, JwtFault> {
        // Compared exactly: `none` in any spelling is nobody's name.
        let algorithm = allowed.iter().find(|a| algorithm_name(**a) == self.algorithm);
        algorithm.copied().ok_or(JwtFault::OtherAlgorithm)
    }

    pub(super) fn verify_signature(
        &self,
        allowed: &[Algorithm],
        keys: &KeySet,
    ) -> Result<(), JwtFault> {
        let algorithm = self.algorithm(allowed)?;
        let id = self.key_id.as_deref();
        if id.is_some_and(|id| !keys.knows(id)) {
            return Err(JwtFault::UnknownKey);
        }
        let mut tried = JwtFault::OtherAlgorithm;
        for key in keys.candidates(id, algorithm) {
            if key.verify(algorithm, self.signed, &self.signature) {
                return Ok(());
            }
            tried = JwtFault::Forged;
        }
        Err(tried)
    }

    /// `exp`, `nbf` and `iat` (RFC 7519 §4.1.4 to §4.1.6); answers `exp`.
    fn check_times(&self, leeway: u64, now: u64) -> Result<u64, JwtFault> {
        let expires = self.time("exp")?.ok_or(JwtFault::Missing("exp"))?;
        check_expiry(expires, leeway, now)?;
        match self.time("nbf")? {
            Some(begins) if now + leeway < begins => {
                return Err(JwtFault::Early { wait: (begins - now).div_ceil(1000) });
            }
            _ => {}
        }
        match self.time("iat")? {
            Some(issued) if now + leeway < issued => Err(JwtFault::IssuedLater),
            _ => Ok(expires),
        }
    }

    /// A NumericDate (RFC 7519 §2) in milliseconds, finer fractions cut off; `None` when absent.
    fn time(&self, claim: &'static str) -> Result<Option<u64>, JwtFault> {
        let Some(value) = self.claims.get(claim) else { return Ok(None) };
        match value.as_f64() {
            // In range, a double has the milliseconds to spare, and the conversion only cuts off.
            Some(seconds) if (0.0..=LAST_SECOND).contains(&seconds) => {
                Ok(Some((seconds * 1000.0).round() as u64))
            }
            _ => Err(JwtFault::Unusable(claim)),
        }
    }

    /// RFC 7519 §4.1.7: a text, if it is there.
    fn id(&self) -> Result<Option<Box<str>>, JwtFault> {
        match self.claims.get("jti") {
            None => Ok(None),
            Some(Value::String(id)) => Ok(Some(id.as_str().into())),
            Some(_) => Err(JwtFault::Unusable("jti")),
        }
    }

    /// The user: a text, or a whole number written in decimal.
    fn user(&self, claim: &str) -> Result<Box<str>, JwtFault> {
        let user = match self.claim(claim) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) if number.is_u64() || number.is_i64() => number.to_string(),
            Some(_) => return Err(JwtFault::Unusable("user")),
            None => return Err(JwtFault::Missing("user")),
        };
        // It becomes a header's value and part of counters' keys.
        let plain =
            (1..=LONGEST_NAME).contains(&user.len()) && user.bytes().all(|b| b.is_ascii_graphic());
        if plain { Ok(user.into()) } else { Err(JwtFault::Unusable("user")) }
    }

    fn scopes(&self, claim: &str) -> Result<Vec<Scope>, JwtFault> {
        let words = self.words(claim).ok_or(JwtFault::Unusable("scope"))?;
        Ok(words.into_iter().map(Scope::new).collect())
    }

    fn roles(&self, claim: &str) -> Result<Vec<Box<str>>, JwtFault> {
        let words = self.words(claim).ok_or(JwtFault::Unusable("roles"))?;
        Ok(words.into_iter().map(Box::from).collect())
    }

    /// RFC 8693 §4.2 (a text, separated by spaces), or a list of texts; absent is none.
    fn words(&self, claim: &str) -> Option<Vec<&str>> {
        match self.claim(claim) {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::String(text)) => {
                Some(text.split(' ').filter(|word| !word.is_empty()).collect())
            }
            Some(Value::Array(list)) => list.iter().map(Value::as_str).collect(),
            Some(_) => None,
        }
    }

    /// The claim of this name, or with dots a member of one.
    fn claim(&self, name: &str) -> Option<&Value> {
        self.claims.get(name).or_else(|| {
            let (first, rest) = name.split_once('.')?;
            let member = |value, name| Value::as_object(value)?.get(name);
            rest.split('.').try_fold(self.claims.get(first)?, member)
        })
    }

    /// The claims of these names, whole.
    pub fn keep(&self, names: &[Box<str>]) -> Map<String, Value> {
        let claim = |name: &str| Some((name.to_owned(), self.claims.get(name)?.clone()));
        names.iter().filter_map(|name| claim(name)).collect()
    }
}

/// Whether a token that ends at `expires` may still be used at `now`: up to, and not on,
/// `expires` + `leeway` (RFC 7519 §4.1.4); all in milliseconds.
pub fn check_expiry(expires: u64, leeway: u64, now: u64) -> Result<(), JwtFault> {
    if now < expires.saturating_add(leeway) {
        Ok(())
    } else {
        Err(JwtFault::Expired { by: (now - expires) / 1000 })
    }
}

/// A time as claims count it.
pub fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Nothing said, or one of the two kinds of access token (RFC 7519 §5.1, RFC 9068 §2.1): a token
/// made for something else is not taken for one (RFC 8725 §3.11).
fn typed(typ: Option<&Value>) -> bool {
    let Some(value) = typ else { return true };
    let Some(text) = value.as_str() else { return false };
    let short = match text.get(..12) {
        Some(prefix) if prefix.eq_ignore_ascii_case("application/") => &text[12..],
        _ => text,
    };
    short.eq_ignore_ascii_case("jwt") || short.eq_ignore_ascii_case("at+jwt")
}

fn object(part: &[u8]) -> Result<Map<String, Value>, JwtFault> {
    strict::object(&decode(part)?).ok_or(JwtFault::Malformed)
}

/// Base64url without padding, without stray bits (RFC 7515 §2).
pub(super) fn decode(part: &[u8]) -> Result<Vec<u8>, JwtFault> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtFault::Malformed)
}

#[cfg(test)]
mod tests;
