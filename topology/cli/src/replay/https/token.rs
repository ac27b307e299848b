//! Tokens signed with the demo issuer's keys. Not for verifying, and not for production keys. Used
//! by `script`.
//!
//! Invariant: a token outlives the replay that it was made for.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// What the tokens say.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Claims {
    /// Issuer of the tokens.
    #[arg(long, default_value = "https://id.example", value_name = "ISS")]
    pub(super) issuer: String,
    /// Audience of the tokens.
    #[arg(long, default_value = "api", value_name = "AUD")]
    pub(super) audience: String,
    /// Scopes of the tokens, separated by spaces.
    #[arg(long, default_value = "user:read pay", value_name = "SCOPES")]
    pub(super) scope: String,
    /// ES256 or RS256.
    #[arg(long, default_value = "ES256", value_name = "ALG")]
    pub(super) alg: Algorithm,
}

/// Signs for any user.
pub(super) struct Signer {
    key: EncodingKey,
    header: Header,
    claims: Claims,
    lifetime: Duration,
}

impl Signer {
    /// Reads the key of the wished algorithm.
    ///
    /// # Errors
    /// No such key, or it is not one.
    pub(super) fn new(keys: &Path, claims: &Claims, replay: Duration) -> Result<Self> {
        let (file, kid, parse): (_, _, fn(&[u8]) -> _) = match claims.alg {
            Algorithm::ES256 => ("es256.pem", "es256-1", EncodingKey::from_ec_pem),
            Algorithm::RS256 => ("rs256.pem", "rs256-1", EncodingKey::from_rsa_pem),
            other => anyhow::bail!("--alg {other:?}: the demo issuer has ES256 and RS256 keys"),
        };
        let path = keys.join(file);
        let pem = std::fs::read(&path).with_context(|| {
            format!("{}: no key; `aqueduct up` or `demo issuer` makes it", path.display())
        })?;
        let key = parse(&pem).with_context(|| format!("{}: not such a key", path.display()))?;
        let header = Header { kid: Some(kid.into()), ..Header::new(claims.alg) };
        Ok(Self { key, header, claims: claims.clone(), lifetime: replay + LEEWAY })
    }

    /// A token of the user: a number where its name is one.
    ///
    /// # Errors
    /// Signing failed.
    pub(super) fn sign(&self, user: &str) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = user.parse::<u64>().map_or_else(|_| json!(user), Value::from);
        let claims = json!({
            "iss": self.claims.issuer,
            "aud": self.claims.audience,
            "iat": now.as_secs(),
            "nbf": now.as_secs(),
            "exp": (now + self.lifetime).as_secs(),
            "jti": format!("replay-{user}-{}", now.as_nanos()),
            "sub": user,
            "userId": id,
            "scope": self.claims.scope,
        });
        jsonwebtoken::encode(&self.header, &claims, &self.key).context("cannot sign a token")
    }
}

/// Beyond the replay's own length.
const LEEWAY: Duration = Duration::from_secs(600);
