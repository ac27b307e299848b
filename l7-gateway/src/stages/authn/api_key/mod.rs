//! API keys: what is written of one, under the digest of its text. Not for finding one in a request
//! (`credentials`). Called by `mod`, and by `aqueduct key`.
//!
//! Invariant: a key's text is written nowhere: its digest stands for it, and digests are compared in
//! constant time.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use topology::units::Scope;

pub mod directory;
pub mod file;
pub mod recent;
pub mod session;
pub mod store;

/// Lengths of keys that are looked at, in bytes: a shorter one can be guessed.
pub const LENGTHS: std::ops::RangeInclusive<usize> = 16..=256;

/// The SHA-256 digest of a key.
#[derive(Clone, Copy, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of this key.
    pub fn of(key: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, key).as_ref());
        Self(bytes)
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

impl FromStr for Digest {
    type Err = Odd;

    fn from_str(text: &str) -> Result<Self, Odd> {
        let mut bytes = [0; 32];
        let pairs = text.as_bytes().chunks(2);
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Odd("a digest is not 64 hexadecimal digits"));
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let pair = std::str::from_utf8(pair).unwrap_or_default();
            *byte = u8::from_str_radix(pair, 16).unwrap_or_default();
        }
        Ok(Self(bytes))
    }
}

/// What is wrong with what is written of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Odd(pub &'static str);

/// What is written of a key: the JSON object of files and of Redis, the row of PostgreSQL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Whose it is.
    pub consumer: String,
    /// What the consumer pays for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// What it may do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// When it ends, in seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// A record as requests need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is: visible ASCII.
    pub consumer: Box<str>,
    /// What the consumer pays for.
    pub plan: Option<Arc<str>>,
    /// What it may do.
    pub scopes: Arc<[Scope]>,
    /// When it ends, in milliseconds since the epoch.
    pub expires: u64,
}

impl Entry {
    /// Checks a record.
    ///
    /// # Errors
    /// When something in it cannot stand in headers.
    pub fn new(record: &Record) -> Result<Self, Odd> {
        let word = |text: &str| {
            (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
        };
        if !word(&record.consumer) {
            return Err(Odd("`consumer` is not 1 to 255 visible ASCII characters"));
        }
        if !record.plan.as_deref().is_none_or(word) {
            return Err(Odd("`plan` is not 1 to 255 visible ASCII characters"));
        }
        if !record.scopes.iter().all(|scope| word(scope)) {
            return Err(Odd("a scope is not 1 to 255 visible ASCII characters"));
        }
        Ok(Self {
            consumer: record.consumer.as_str().into(),
            plan: record.plan.as_deref().map(Arc::from),
            scopes: record.scopes.iter().map(|scope| Scope::new(scope)).collect(),
            expires: record.expires.map_or(u64::MAX, |seconds| seconds.saturating_mul(1000)),
        })
    }
}

/// A new key: 256 random bits behind a word by which scanners for leaked secrets know it.
///
/// # Errors
/// When the system has no randomness to give.
pub fn make() -> Result<String, Odd> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| Odd("the system has no randomness to give"))?;
    Ok(format!("aqk_{}", URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests;
