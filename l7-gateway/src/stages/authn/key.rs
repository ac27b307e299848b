//! Public keys of one issuer, checked once and tied to the algorithms they may be used with;
//! signatures are verified by jsonwebtoken. Not for where keys come from: that is `jwks`. Called by
//! `jwt` (verify) and `jwks` (make).
//!
//! Invariant: which algorithms a key serves follows from configuration and the key's own kind; a
//! token chooses among them and can add none, so a public key never becomes an HMAC secret.

use aws_lc_rs::rsa::{PublicEncryptingKey, PublicKeyComponents};
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, VerificationAlgorithm};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use topology::gateway::Algorithm;

use super::roca;

/// Keys that an issuer signs with at the moment.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// One key: its id and what it can verify.
#[derive(Debug)]
pub struct Key {
    /// `kid`; `None`: a key from a PEM file, which every token may name as it likes.
    pub id: Option<Box<str>>,
    verifiers: Vec<(Algorithm, DecodingKey)>,
}

/// Why a key is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// RSA below 2048 or above 8192 bits, or an even or tiny exponent; HMAC below 256 bits.
    #[error("it is weak (RSA: 2048 to 8192 bits; HMAC: at least 256 bits)")]
    Weak,
    /// RSA by a faulty library in chips: who has the key can compute the private one.
    #[error(
        "it was made by a faulty chip (CVE-2017-15361), and its private key can be computed from it"
    )]
    Computable,
    /// `use` or `key_ops` say that it does not verify signatures.
    #[error("its `use` or `key_ops` is not for verifying signatures")]
    OtherUse,
    /// No allowed algorithm works with a key of this kind.
    #[error("none of the issuer's `algorithms` works with it")]
    OtherAlgorithm,
    /// Not a key, or the point is not on its curve.
    #[error("it is not a well-formed key")]
    Malformed,
    /// A secret in a set that everybody can read.
    #[error("it is a secret in a public key set")]
    PublicSecret,
    /// Another key of the set has the same id for the same algorithm.
    #[error("its `kid` occurs twice")]
    Duplicate,
    /// A private key where a public one belongs.
    #[error("it is a private key: give the public one")]
    Private,
}

/// Key material in the form that verification takes.
pub enum Material<'k> {
    /// RSA modulus and exponent, big endian.
    Rsa {
        /// Modulus.
        n: &'k [u8],
        /// Exponent.
        e: &'k [u8],
    },
    /// An uncompressed point on the curve of this algorithm.
    Point(Algorithm, &'k [u8]),
    /// Ed25519.
    Edwards(&'k [u8]),
    /// SubjectPublicKeyInfo, of whatever kind.
    Der(&'k [u8]),
    /// HMAC.
    Secret(&'k [u8]),
}

impl KeySet {
    /// No keys yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key unless the set has one with its id and one of its algorithms.
    pub fn add(&mut self, key: Key) -> Result<(), KeyFault> {
        let twin = self.keys.iter().any(|old| {
            old.id.is_some() && old.id == key.id && key.algorithms().any(|a| old.serves(a))
        });
        if twin {
            return Err(KeyFault::Duplicate);
        }
        self.keys.push(key);
        Ok(())
    }

    /// Keys in it.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it has no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Keys that a token may have been signed with: those with its `kid`, or all when it names
    /// none, of its algorithm.
    pub fn candidates<'s>(
        &'s self,
        id: Option<&'s str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'s Key> {
        self.keys.iter().filter(move |key| {
            let named = id.is_none() || key.id.is_none() || key.id.as_deref() == id;
            named && key.serves(algorithm)
        })
    }

    /// Whether a key has this id, for whatever algorithm.
    pub fn knows(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id.as_deref().is_none_or(|known| known == id))
    }
}

impl Key {
    /// Parses key material for those of the `allowed` algorithms that it can serve.
    pub fn new(
        id: Option<&str>,
        material: &Material<'_>,
        allowed: &[Algorithm],
    ) -> Result<Self, KeyFault> {
        material.check()?;
        let mut fault = KeyFault::OtherAlgorithm;
        let mut verifiers = Vec::new();
        for algorithm in allowed {
            match material.verifier(*algorithm) {
                Some(Ok(verifier)) => verifiers.push((*algorithm, verifier)),
                Some(Err(found)) => fault = found,
                None => {}
            }
        }
        if verifiers.is_empty() {
            return Err(fault);
        }
        Ok(Self { id: id.map(Box::from), verifiers })
    }

    /// Whether `signature` is this key's over `message` under `algorithm`. An algorithm it does
    /// not serve verifies nothing.
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let found = self.verifiers.iter().find(|(served, _)| *served == algorithm);
        let Some((_, key)) = found else { return false };
        // ECDSA is the fixed r‖s of RFC 7518 §3.4, never DER; r or s of zero is refused.
        (DEFAULT_PROVIDER.verifier_factory)(&registered(algorithm), key)
            .is_ok_and(|verifier| verifier.verify(message, &signature.to_vec()).is_ok())
    }

    fn serves(&self, algorithm: Algorithm) -> bool {
        self.algorithms().any(|served| served == algorithm)
    }

    fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.verifiers.iter().map(|(algorithm, _)| *algorithm)
    }
}

impl Material<'_> {
    /// What makes a key unusable whatever it is for.
    fn check(&self) -> Result<(), KeyFault> {
        match self {
            Self::Rsa { n, e } => {
                let bits = n.len() * 8 - n.first().map_or(0, |top| top.leading_zeros() as usize);
                let odd = e.last().is_some_and(|low| low % 2 == 1);
                let tiny = e.len() < 2 && e.first().is_none_or(|only| *only < 3);
                let fine = (2048..=8192).contains(&bits) && odd && !tiny && e.len() <= 4;
                match fine {
                    true if roca::is_of_faulty_chip(n) => Err(KeyFault::Computable),
                    true => Ok(()),
                    false => Err(KeyFault::Weak),
                }
            }
            Self::Secret(secret) if secret.starts_with(b"-----BEGIN") => {
                Err(KeyFault::OtherAlgorithm)
            }
            // RFC 7518 §3.2: a key of at least the hash's length.
            Self::Secret(secret) if secret.len() < 32 => Err(KeyFault::Weak),
            _ => Ok(()),
        }
    }

    /// `None`: this kind of key has nothing to do with the algorithm.
    fn verifier(&self, algorithm: Algorithm) -> Option<Result<DecodingKey, KeyFault>> {
        let (key, sound) = match (self, kind(algorithm)) {
            (Self::Secret(secret), Kind::Hmac) => (DecodingKey::from_secret(secret), true),
            (Self::Rsa { n, e }, Kind::Rsa(parameters)) => {
                let parsed = PublicKeyComponents { n, e }.to_parsed_public_key(parameters);
                (DecodingKey::from_rsa_raw_components(n, e), parsed.is_ok())
            }
            (Self::Point(curve, point), Kind::Curve(with)) if *curve == algorithm => {
                (DecodingKey::from_ec_der(point), ParsedPublicKey::new(with, *point).is_ok())
            }
            (Self::Edwards(point), Kind::Edwards(with)) => {
                (DecodingKey::from_ed_der(point), ParsedPublicKey::new(with, *point).is_ok())
            }
            // Another kind of key does not parse for this algorithm.
            (Self::Der(der), kind) => return Self::spki(der, &kind),
            _ => return None,
        };
        Some(if sound { Ok(key) } else { Err(KeyFault::Malformed) })
    }

    fn spki(der: &[u8], kind: &Kind) -> Option<Result<DecodingKey, KeyFault>> {
        let key = match *kind {
            Kind::Rsa(parameters) => {
                let parsed = ParsedPublicKey::new(parameters, der).ok()?;
                let public = PublicEncryptingKey::from_der(parsed.as_ref());
                if !public.is_ok_and(|key| key.key_size_bytes() >= 256) {
                    return Some(Err(KeyFault::Weak));
                }
                if roca::modulus(der).is_none_or(roca::is_of_faulty_chip) {
                    return Some(Err(KeyFault::Computable));
                }
                DecodingKey::from_rsa_der(der)
            }
            Kind::Curve(with) => {
                ParsedPublicKey::new(with, der).ok()?;
                DecodingKey::from_ec_der(der)
            }
            Kind::Edwards(with) => {
                ParsedPublicKey::new(with, der).ok()?;
                DecodingKey::from_ed_der(der)
            }
            Kind::Hmac => return None,
        };
        Some(Ok(key))
    }
}

enum Kind {
    Rsa(&'static RsaParameters),
    Curve(&'static dyn VerificationAlgorithm),
    Edwards(&'static dyn VerificationAlgorithm),
    Hmac,
}

fn kind(algorithm: Algorithm) -> Kind {
    match algorithm {
        Algorithm::RS256 => Kind::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Kind::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Kind::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Kind::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Kind::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Kind::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::ES256 => Kind::Curve(&signature::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Kind::Curve(&signature::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => Kind::Edwards(&signature::ED25519),
        Algorithm::HS256 => Kind::Hmac,
    }
}

/// The registered name of an algorithm, as `alg` writes it (RFC 7518 §3.1, RFC 8037 §3.1).
pub fn algorithm_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::RS256 => "RS256",
        Algorithm::RS384 => "RS384",
        Algorithm::RS512 => "RS512",
        Algorithm::PS256 => "PS256",
        Algorithm::PS384 => "PS384",
        Algorithm::PS512 => "PS512",
        Algorithm::ES256 => "ES256",
        Algorithm::ES384 => "ES384",
        Algorithm::EdDSA => "EdDSA",
        Algorithm::HS256 => "HS256",
    }
}

/// The algorithm as jsonwebtoken has it.
fn registered(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::RS384 => jsonwebtoken::Algorithm::RS384,
        Algorithm::RS512 => jsonwebtoken::Algorithm::RS512,
        Algorithm::PS256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::PS384 => jsonwebtoken::Algorithm::PS384,
        Algorithm::PS512 => jsonwebtoken::Algorithm::PS512,
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::ES384 => jsonwebtoken::Algorithm::ES384,
        Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        Algorithm::HS256 => jsonwebtoken::Algorithm::HS256,
    }
}

#[cfg(test)]
mod tests;
