//! Reading key material: JSON Web Key sets (RFC 7517, RFC 7518 §6, RFC 8037 §2) and PEM files. Not
//! for fetching them (`jwks`), nor for using them (`key`). Called by `jwks`.
//!
//! Invariant: what is not certainly a sound key for an allowed algorithm is left out and named.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::{PemObject, SectionKind};
use serde_json::{Map, Value};
use topology::gateway::Algorithm;

use super::key::{Key, KeyFault, KeySet, Material, algorithm_name};
use crate::strict;

/// Largest key set, in bytes.
pub const LARGEST_SET: usize = 1 << 20;

/// Most keys of a set.
pub const MOST_KEYS: usize = 64;

/// Who can read a key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// It came over the network: a secret in it is no secret.
    Public,
    /// It came from a file of this machine.
    Private,
}

/// Why a text is not a key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetFault {
    /// Larger than [`LARGEST_SET`].
    #[error("it is larger than 1 MiB")]
    TooLarge,
    /// Not an object with a list `keys`, or a member occurs twice.
    #[error("it is not a JSON Web Key set")]
    Malformed,
    /// More than [`MOST_KEYS`].
    #[error("it has more than {MOST_KEYS} keys")]
    TooMany,
    /// Every key was left out.
    #[error("it has no usable key for the issuer's `algorithms`")]
    Empty,
}

/// A key set as read: the keys, and by position what is wrong with those left out.
#[derive(Debug)]
pub struct Read {
    /// Usable keys.
    pub keys: KeySet,
    /// Position and fault of the others.
    pub refused: Vec<(usize, KeyFault)>,
}

/// Reads a JSON Web Key set for these algorithms.
pub fn key_set(text: &[u8], allowed: &[Algorithm], audience: Audience) -> Result<Read, SetFault> {
    if text.len() > LARGEST_SET {
        return Err(SetFault::TooLarge);
    }
    let set = strict::object(text).ok_or(SetFault::Malformed)?;
    let Some(Value::Array(list)) = set.get("keys") else { return Err(SetFault::Malformed) };
    if list.len() > MOST_KEYS {
        return Err(SetFault::TooMany);
    }
    let mut read = Read { keys: KeySet::new(), refused: Vec::new() };
    for (position, entry) in list.iter().enumerate() {
        let made = entry.as_object().ok_or(KeyFault::Malformed);
        let made = made.and_then(|members| key(members, allowed, audience));
        if let Err(fault) = made.and_then(|key| read.keys.add(key)) {
            read.refused.push((position, fault));
        }
    }
    if read.keys.is_empty() { Err(SetFault::Empty) } else { Ok(read) }
}

/// Reads a key file: a public key in PEM (`PUBLIC KEY`, RFC 7468 §13), or the secret of HS256.
pub fn key_file(text: &[u8], allowed: &[Algorithm]) -> Result<Key, KeyFault> {
    if !text.windows(10).any(|window| window == b"-----BEGIN") {
        // A line feed at the end is the editor's, not the secret's.
        return Key::new(None, &Material::Secret(text.trim_ascii()), allowed);
    }
    let (kind, der) =
        <(SectionKind, Vec<u8>)>::from_pem_slice(text).map_err(|_| KeyFault::Malformed)?;
    match kind {
        SectionKind::PublicKey => Key::new(None, &Material::Der(&der), allowed),
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
            Err(KeyFault::Private)
        }
        _ => Err(KeyFault::Malformed),
    }
}

/// One JSON Web Key.
fn key(
    members: &Map<String, Value>,
    allowed: &[Algorithm],
    audience: Audience,
) -> Result<Key, KeyFault> {
    if !verifies(members) {
        return Err(KeyFault::OtherUse);
    }
    let id = match members.get("kid") {
        None => None,
        Some(Value::String(id)) => Some(id.as_str()),
        Some(_) => return Err(KeyFault::Malformed),
    };
    // RFC 7517 §4.4: a key that names its algorithm is for no other.
    let own: Vec<Algorithm> = match members.get("alg") {
        None => allowed.to_vec(),
        Some(name) => {
            let named = |a: &&Algorithm| name.as_str() == Some(algorithm_name(**a));
            allowed.iter().filter(named).copied().collect()
        }
    };
    match members.get("kty").and_then(Value::as_str) {
        Some("oct") if audience == Audience::Public => Err(KeyFault::PublicSecret),
        Some("oct") => Key::new(id, &Material::Secret(&bytes(members, "k")?), &own),
        _ if members.contains_key("d") => Err(KeyFault::Private),
        Some("RSA") => {
            let (n, e) = (bytes(members, "n")?, bytes(members, "e")?);
            Key::new(id, &Material::Rsa { n: significant(&n), e: significant(&e) }, &own)
        }
        Some("EC") => {
            let (curve, length) = match members.get("crv").and_then(Value::as_str) {
                Some("P-256") => (Algorithm::ES256, 32),
                Some("P-384") => (Algorithm::ES384, 48),
                _ => return Err(KeyFault::OtherAlgorithm),
            };
            let (x, y) = (bytes(members, "x")?, bytes(members, "y")?);
            // RFC 7518 §6.2.1.2: exactly the curve's length.
            if x.len() != length || y.len() != length {
                return Err(KeyFault::Malformed);
            }
            Key::new(id, &Material::Point(curve, &[&[4], &x[..], &y[..]].concat()), &own)
        }
        Some("OKP") if members.get("crv").and_then(Value::as_str) == Some("Ed25519") => {
            Key::new(id, &Material::Edwards(&bytes(members, "x")?), &own)
        }
        Some(_) => Err(KeyFault::OtherAlgorithm),
        None => Err(KeyFault::Malformed),
    }
}

/// RFC 7517 §4.2, §4.3: where they are given, `use` is `sig` and `key_ops` has `verify`.
fn verifies(members: &Map<String, Value>) -> bool {
    let by_use = members.get("use").is_none_or(|purpose| purpose == "sig");
    by_use
        && match members.get("key_ops") {
            None => true,
            Some(Value::Array(operations)) => operations.iter().any(|op| op == "verify"),
            Some(_) => false,
        }
}

fn bytes(members: &Map<String, Value>, name: &str) -> Result<Vec<u8>, KeyFault> {
    let text = members.get(name).and_then(Value::as_str).ok_or(KeyFault::Malformed)?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyFault::Malformed)
}

/// Without leading zeros, which some issuers write and RFC 7518 §6.3.1.1 forbids.
fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.split_at(zeros).1
}

#[cfg(test)]
mod tests;
