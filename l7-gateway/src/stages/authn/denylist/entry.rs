//! What may be revoked, and who asks whether it was. Not for where it is written. Called by `list`, and
//! by `aqueduct revoke`.
//!
//! Invariant: an entry's JSON has one form.

use serde::{Deserialize, Serialize};

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "deny", rename_all = "lowercase", deny_unknown_fields)]
pub enum Entry {
    /// One token.
    Token {
        /// Its `iss`.
        iss: String,
        /// Its `jti`.
        jti: String,
    },
    /// All tokens of a user that were issued before a moment, or do not say when.
    User {
        /// Their `iss`.
        iss: String,
        /// The user, as its issuer's user claim names it.
        user: String,
        /// Seconds since the epoch.
        before: u64,
    },
    /// All tokens of an issuer that were issued before a moment, or do not say when.
    Issuer {
        /// Their `iss`.
        iss: String,
        /// Seconds since the epoch.
        before: u64,
    },
    /// An API key.
    Key {
        /// Its digest in hexadecimal digits.
        sha256: String,
    },
}

impl Entry {
    /// What kind of thing ended.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Token { .. } => "token",
            Self::User { .. } => "user",
            Self::Issuer { .. } => "issuer",
            Self::Key { .. } => "key",
        }
    }
}

/// Who is looked up.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// Who shows a token.
    Token {
        /// Its `iss`.
        iss: &'a str,
        /// Its `jti`, if it has one.
        jti: Option<&'a str>,
        /// Its user.
        user: &'a str,
        /// Its `iat` in milliseconds since the epoch, if it has one.
        issued: Option<u64>,
    },
    /// Who shows an API key with this digest.
    Key(&'a super::super::api_key::Digest),
}
