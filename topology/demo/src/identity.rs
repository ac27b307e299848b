//! Who asks: by `X-User-Id` that a gateway attached, or by a token verified here. Not for what the
//! user may do. Called by `web` before any service's own code.
//!
//! Invariant: an [`UserId`] exists only for a request that proved it in the configured way.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use tokio::time::Instant;

use crate::answer::Answer;
use crate::options::{AuthMode, WebArgs};
use crate::upstream::Upstream;

/// The number of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UserId(pub(crate) i64);

/// How this service learns who asks.
#[derive(Debug)]
pub(crate) enum Identity {
    /// Believes `X-User-Id`: only a gateway can reach this service.
    Header,
    /// Verifies the bearer token.
    Token(Box<Tokens>),
}

/// Verification by a key set that is fetched when needed.
#[derive(Debug)]
pub(crate) struct Tokens {
    jwks: Upstream,
    issuer: String,
    audience: String,
    known: Mutex<Option<(Instant, JwkSet)>>,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(rename = "userId")]
    user_id: i64,
}

impl Identity {
    /// From the command line; `--auth token` needs `--jwks`.
    pub(crate) fn new(args: &WebArgs) -> anyhow::Result<Self> {
        match (args.auth.unwrap_or(AuthMode::Header), &args.jwks) {
            (AuthMode::Header, _) => Ok(Self::Header),
            (AuthMode::Token, Some(url)) => Ok(Self::Token(Box::new(Tokens {
                jwks: Upstream::new(url)?,
                issuer: args.issuer.clone(),
                audience: args.audience.clone(),
                known: Mutex::default(),
            }))),
            (AuthMode::Token, None) => anyhow::bail!("--auth token needs --jwks URL"),
        }
    }

    /// The user of a request, or the 401 that says why not.
    pub(crate) async fn user(&self, headers: &HeaderMap) -> Result<UserId, Answer> {
        match self {
            Self::Header => {
                let value = headers.get("x-user-id").and_then(|value| value.to_str().ok());
                let Some(value) = value else { return Err(refuse("no X-User-Id header")) };
                value.parse().map(UserId).map_err(|_| refuse("X-User-Id is no number"))
            }
            Self::Token(tokens) => tokens.user(headers).await,
        }
    }
}

impl Tokens {
    async fn user(&self, headers: &HeaderMap) -> Result<UserId, Answer> {
        let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or("");
        let token = value.strip_prefix("Bearer ").ok_or_else(|| refuse("no bearer token"))?;
        let header = jsonwebtoken::decode_header(token).map_err(|_| refuse("no JWT"))?;
        if !ALLOWED.contains(&header.alg) {
            return Err(refuse("the token's algorithm is not allowed"));
        }
        let keys = self.keys(header.kid.as_deref(), header.alg).await?;
        let mut rules = Validation::new(header.alg);
        rules.set_issuer(&[&self.issuer]);
        rules.set_audience(&[&self.audience]);
        rules.set_required_spec_claims(&["exp", "iss", "aud"]);
        rules.validate_nbf = true;
        let mut fault = refuse("no key of the issuer fits the token");
        for key in keys {
            match jsonwebtoken::decode::<Claims>(token, &key, &rules) {
                Ok(token) => return Ok(UserId(token.claims.user_id)),
                Err(error) => fault = refuse(&format!("token: {error}")),
            }
        }
        Err(fault)
    }

    /// Keys that may have signed: the one named, or all of the algorithm when none is named.
    async fn keys(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<DecodingKey>, Answer> {
        let now = Instant::now();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, set)) = known {
            let keys = fitting(&set, kid, algorithm);
            if !keys.is_empty() || now.duration_since(at) < REFETCH {
                return Ok(keys);
            }
        }
        let set = self.jwks.json("", &HeaderMap::new()).await;
        let set = set.and_then(|value| Ok(serde_json::from_value::<JwkSet>(value)?));
        let set = set.map_err(|error| Answer::away(format!("no keys: {error:#}")))?;
        let keys = fitting(&set, kid, algorithm);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, set));
        Ok(keys)
    }
}

fn fitting(set: &JwkSet, kid: Option<&str>, algorithm: Algorithm) -> Vec<DecodingKey> {
    set.keys
        .iter()
        .filter(|key| kid.is_none() || key.common.key_id.as_deref() == kid)
        .filter(|key| key.common.key_algorithm.is_none_or(|a| a == algorithm.into()))
        .filter_map(|key| DecodingKey::from_jwk(key).ok())
        .collect()
}

fn refuse(detail: &str) -> Answer {
    Answer::refuse(StatusCode::UNAUTHORIZED, "unauthorized", detail)
}

/// Algorithms that the demo issuer signs with; `none` and HS never.
const ALLOWED: [Algorithm; 2] = [Algorithm::ES256, Algorithm::RS256];
/// An unknown key makes this service ask again, at most so often.
const REFETCH: Duration = Duration::from_secs(5);

#[cfg(test)]
#[path = "identity/tests.rs"]
mod tests;
