//! A short-lived proof for services that a gateway of this group spoke: a JWT over who asks, for this
//! service and this request. Not for tokens of clients: `authn` has judged those. Called by `mod`.
//!
//! Invariant: a proof names the service that it is for, and ends within its lifetime.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::secret::{self, SecretError};
use http::HeaderValue;
use serde_json::json;
use topology::gateway::{Group, SignedIdentity};
use topology::units::{Place, Scope};

use crate::exchange::{Identity, Voucher};

/// Shortest secret, in characters.
const SHORTEST: usize = 32;

/// Why proofs cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum ProverError {
    /// The secret is not there.
    #[error("signed-identity: {source}")]
    Unreadable {
        /// Where it is named.
        place: Place,
        /// Why.
        source: SecretError,
    },
    /// Its first line is too short to be one.
    #[error("signed-identity: the first line of the key has less than 32 characters")]
    Weak {
        /// Where it is named.
        place: Place,
    },
}

impl ProverError {
    /// Where the secret is named in the topology file.
    pub fn place(&self) -> Place {
        match self {
            Self::Unreadable { place, .. } | Self::Weak { place } => *place,
        }
    }
}

/// Signs proofs.
#[derive(Debug)]
pub struct Prover {
    key: hmac::Key,
    /// The first part of every proof.
    header: String,
    issuer: String,
    lifetime: Duration,
}

impl Prover {
    /// Reads the secret. Blocking.
    ///
    /// # Errors
    /// With the place of the reference.
    pub fn new(model: &SignedIdentity, group: &Group) -> Result<Self, ProverError> {
        let place = model.key.place;
        let fault = |source| ProverError::Unreadable { place, source };
        let secret = secret::read(&model.key.value).map_err(fault)?;
        let first = secret.as_str().map_err(fault)?.lines().next().unwrap_or_default().trim();
        if first.len() < SHORTEST {
            return Err(ProverError::Weak { place });
        }
        let id = digest(&SHA256, first.as_bytes());
        let id: String = id.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let header = json!({"alg": "HS256", "typ": "JWT", "kid": id}).to_string();
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes()),
            header: URL_SAFE_NO_PAD.encode(header),
            issuer: format!("aqueduct/{}", group.name),
            lifetime: model.lifetime,
        })
    }

    /// A proof for one request.
    pub fn prove(
        &self,
        caller: Option<&Identity>,
        service: &str,
        request: &str,
        now: SystemTime,
    ) -> Option<HeaderValue> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut claims = json!({
            "iss": self.issuer,
            "aud": service,
            "iat": now.as_secs(),
            "exp": (now + self.lifetime).as_secs(),
            "rid": request,
        });
        if let (Some(identity), Some(claims)) = (caller, claims.as_object_mut()) {
            let kind = match identity.voucher() {
                Voucher::Issuer(_) => "user",
                Voucher::ApiKeys(_) => "consumer",
                Voucher::Certificate => "principal",
            };
            claims.insert("kind".to_owned(), kind.into());
            claims.insert("sub".to_owned(), identity.subject().into());
            claims.insert("scope".to_owned(), scopes(identity).into());
        }
        let mut token = self.header.clone();
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let signature = hmac::sign(&self.key, token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        HeaderValue::try_from(token).ok()
    }
}

/// What a caller may do, with spaces in between.
pub fn scopes(identity: &Identity) -> String {
    let words: Vec<&str> = identity.scopes().iter().map(Scope::as_str).collect();
    words.join(" ")
}
