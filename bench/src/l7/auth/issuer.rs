//! An issuer of tokens with one key of each kind, made anew for every run. Not for verifying.
//!
//! Invariant: no two of its tokens are equal.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use serde_json::json;

/// The kinds of keys that are compared.
pub(super) const ALGORITHMS: [Algorithm; 2] = [Algorithm::ES256, Algorithm::RS256];

/// Name and keys.
pub(super) struct Issuer {
    name: &'static str,
    keys: [EncodingKey; 2],
    made: Cell<u64>,
}

impl Issuer {
    /// Makes the keys and writes the public halves to `jwks`.
    pub(super) fn new(name: &'static str, jwks: &Path) -> Result<Self> {
        let elliptic = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem();
        let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256)?.serialize_pem();
        let keys = [
            EncodingKey::from_ec_pem(elliptic.as_bytes())?,
            EncodingKey::from_rsa_pem(rsa.as_bytes())?,
        ];
        let public = ALGORITHMS.iter().zip(&keys).map(|(&algorithm, key)| {
            let mut public = Jwk::from_encoding_key(key, algorithm)?;
            public.common.key_id = Some(format!("{algorithm:?}"));
            Ok(public)
        });
        let set = JwkSet { keys: public.collect::<Result<_>>()? };
        fs::write(jwks, serde_json::to_vec(&set)?)?;
        Ok(Self { name, keys, made: Cell::new(0) })
    }

    /// Another token with what its `jti` is, good for longer than a run takes.
    pub(super) fn token(&self, algorithm: Algorithm) -> Result<(String, String)> {
        let number = self.made.replace(self.made.get() + 1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let jti = format!("{number:032x}");
        let claims = json!({
            "iss": self.name, "aud": "api", "iat": now, "nbf": now, "exp": now + 86_400, "jti": jti,
            "sub": "98765", "userId": 98_765, "scope": "user:read",
        });
        let header = Header { kid: Some(format!("{algorithm:?}")), ..Header::new(algorithm) };
        let key = if algorithm == Algorithm::RS256 { &self.keys[1] } else { &self.keys[0] };
        Ok((jsonwebtoken::encode(&header, &claims, key)?, jti))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_never_equal() {
        let folder = tempfile::tempdir().expect("a folder");
        let jwks = folder.path().join("jwks.json");
        let issuer = Issuer::new("https://id.example", &jwks).expect("keys");
        let token = || issuer.token(Algorithm::ES256).expect("a token");
        assert_ne!(token().1, token().1);
        let set: JwkSet = serde_json::from_slice(&fs::read(jwks).expect("a set")).expect("a set");
        assert!(set.find("RS256").is_some() && set.find("ES256").is_some());
    }
}
