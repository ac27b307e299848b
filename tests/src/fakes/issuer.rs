//! A token issuer with a JWKS endpoint, and a forger. Used by the tests.
//!
//! Invariant: only [`Issuer::token`] makes tokens that its key set verifies.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};

use super::upstream::Upstream;

/// A running issuer with one ES256 key.
#[derive(Debug)]
pub struct Issuer {
    key: KeyPair,
    /// The endpoint; it counts.
    pub jwks: Upstream,
}

impl Issuer {
    /// Serves `/jwks.json` on `at`.
    ///
    /// # Panics
    /// When the port is taken.
    pub async fn start(at: SocketAddr) -> Self {
        let key = key();
        // An uncompressed point (SEC 1 §2.3.3): 4, x, y.
        let (x, y) = key.der_bytes()[1..].split_at(32);
        let encode = |part| BASE64_URL_SAFE_NO_PAD.encode(part);
        let jwk = json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
            "kid": KID, "x": encode(x), "y": encode(y) });
        let set = json!({ "keys": [jwk] });
        Self { key, jwks: Upstream::answering(at, "issuer", set).await }
    }

    /// Writes its key as the demo's issuer keeps it: `es256.pem` in this folder.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_keys(&self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("a folder for keys");
        std::fs::write(folder.join("es256.pem"), self.key.serialize_pem()).expect("a key file");
    }

    /// A valid token of the user with these scopes.
    pub fn token(&self, user: u64, scope: &str) -> String {
        sign(&self.key, &claims(user, scope))
    }

    /// One that ended an hour ago.
    pub fn expired(&self, user: u64, scope: &str) -> String {
        let mut claims = claims(user, scope);
        for (name, before) in [("iat", 7200), ("nbf", 7200), ("exp", 3600)] {
            claims[name] = json!(now() - before);
        }
        sign(&self.key, &claims)
    }

    /// One that says all the right things under another key.
    pub fn forged(user: u64, scope: &str) -> String {
        sign(&key(), &claims(user, scope))
    }
}

const KID: &str = "es256-1";

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key")
}

fn sign(key: &KeyPair, claims: &Value) -> String {
    let header = Header { kid: Some(KID.to_owned()), ..Header::new(Algorithm::ES256) };
    let key = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).expect("a PKCS#8 key");
    jsonwebtoken::encode(&header, claims, &key).expect("a signed token")
}

fn claims(user: u64, scope: &str) -> Value {
    let now = now();
    json!({ "iss": "https://id.example", "aud": "api", "iat": now, "nbf": now, "exp": now + 3600,
        "sub": user.to_string(), "userId": user, "scope": scope })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
