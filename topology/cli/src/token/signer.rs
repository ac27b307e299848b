//! Signing with a key of the demo issuer. Not for reading options or choosing the key's file. Used
//! by `token` and by `replay https`.
//!
//! Invariant: a token's header names the algorithm of its key.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// The issuer's two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Alg {
    /// ECDSA on P-256
    #[value(name = "ES256")]
    Es256,
    /// RSA, PKCS#1 v1.5
    #[value(name = "RS256")]
    Rs256,
}

impl Alg {
    /// The key's file in the issuer's folder, and its name in a token's header.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Es256 => ("es256.pem", "es256-1"),
            Self::Rs256 => ("rs256.pem", "rs256-1"),
        }
    }
}

/// What a token says beside its user and its times.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Grant {
    /// Claim `iss`
    #[arg(long, value_name = "URL", default_value = "https://id.example")]
    pub(crate) issuer: String,
    /// Claim `aud`
    #[arg(long, value_name = "NAME", default_value = "api")]
    pub(crate) audience: String,
    /// Which key signs
    #[arg(long, value_enum, ignore_case = true, default_value_t = Alg::Es256)]
    pub(crate) alg: Alg,
}

/// A key that is ready to sign.
pub(crate) struct Signer {
    key: EncodingKey,
    header: Header,
    grant: Grant,
    more: Vec<(String, Value)>,
}

impl Signer {
    /// Reads the key of `grant`'s algorithm in the issuer's folder.
    pub(crate) fn open(keys: &Path, grant: &Grant) -> Result<Self> {
        let (file, kid) = grant.alg.names();
        let path = keys.join(file);
        let pem = std::fs::read(&path).with_context(|| {
            format!(
                "no key at {}: start `aqueduct up` once, or name the folder of your stack with \
                 --state",
                path.display()
            )
        })?;
        Self::new(grant, &pem, Some(kid)).with_context(|| path.display().to_string())
    }

    /// From a PKCS#8 key; `kid` goes into the header of every token.
    pub(crate) fn new(grant: &Grant, pem: &[u8], kid: Option<&str>) -> Result<Self> {
        let (algorithm, key) = match grant.alg {
            Alg::Es256 => (Algorithm::ES256, EncodingKey::from_ec_pem(pem)?),
            Alg::Rs256 => (Algorithm::RS256, EncodingKey::from_rsa_pem(pem)?),
        };
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
        Ok(Self { key, header, grant: grant.clone(), more: Vec::new() })
    }

    /// From now on its tokens name no key.
    pub(crate) fn without_kid(mut self) -> Self {
        self.header.kid = None;
        self
    }

    /// From now on its tokens have these claims too.
    pub(crate) fn claiming(mut self, more: &[(String, Value)]) -> Self {
        self.more.extend_from_slice(more);
        self
    }

    /// A token of the user (a number where the name is one), issued at `issued` since the epoch.
    pub(crate) fn sign(
        &self,
        user: &str,
        scope: &str,
        issued: Duration,
        lifetime: Duration,
    ) -> Result<String> {
        let mut claims = json!({
            "iss": self.grant.issuer,
            "aud": self.grant.audience,
            "iat": issued.as_secs(),
            "nbf": issued.as_secs(),
            "exp": (issued + lifetime).as_secs(),
            "jti": random_id()?,
            "sub": user,
            "userId": user.parse::<i64>().map_or_else(|_| json!(user), Value::from),
            "scope": scope,
        });
        for (name, value) in &self.more {
            claims[name] = value.clone();
        }
        Ok(jsonwebtoken::encode(&self.header, &claims, &self.key)?)
    }
}

fn random_id() -> Result<String> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| anyhow!("the system has no random numbers"))?;
    Ok(id.iter().map(|byte| format!("{byte:02x}")).collect())
}
