//! The entries of the list, found in one look each. Pure. Called by `mod`.
//!
//! Invariant: adding an entry never lets anybody pass who was denied before.

use std::collections::HashMap;

use super::{Entry, Subject};

/// Everything that is denied.
#[derive(Debug, Default)]
pub(super) struct List {
    /// By kind and name; the value says before when (in milliseconds) what is denied was issued.
    all: HashMap<String, u64, foldhash::fast::RandomState>,
    changes: u64,
}

impl List {
    /// Adds an entry.
    pub(super) fn add(&mut self, entry: &Entry) {
        let (key, before) = match entry {
            Entry::Token { iss, jti } => (token(iss, jti), u64::MAX),
            Entry::User { iss, user, before } => {
                (self::user(iss, user), before.saturating_mul(1000))
            }
            Entry::Issuer { iss, before } => (issuer(iss), before.saturating_mul(1000)),
            Entry::Key { sha256 } => (key(&sha256.to_ascii_lowercase()), u64::MAX),
        };
        let known = self.all.entry(key).or_default();
        *known = before.max(*known);
    }

    /// Whether somebody is on it.
    pub(super) fn denies(&self, who: &Subject<'_>) -> bool {
        if self.all.is_empty() {
            return false;
        }
        match *who {
            Subject::Key(digest) => self.all.contains_key(&key(&digest.to_string())),
            Subject::Token { iss, jti, user, issued } => {
                // Who does not say when it was issued may be as old as can be.
                let old = |before: &u64| issued.is_none_or(|at| at < *before);
                jti.is_some_and(|jti| self.all.contains_key(&token(iss, jti)))
                    || self.all.get(&self::user(iss, user)).is_some_and(old)
                    || self.all.get(&issuer(iss)).is_some_and(old)
            }
        }
    }

    /// Whether both have the same entries.
    pub(super) fn says_as(&self, other: &Self) -> bool {
        self.all == other.all
    }

    /// Takes the entries of another.
    pub(super) fn replace(&mut self, other: Self) {
        self.all = other.all;
    }

    /// A number that none before was.
    pub(super) fn next_generation(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }
}

// A line feed stands in no issuer, and what follows is one name: nobody's is part of another's.

fn token(iss: &str, jti: &str) -> String {
    format!("t{iss}\n{jti}")
}

fn user(iss: &str, user: &str) -> String {
    format!("u{iss}\n{user}")
}

fn issuer(iss: &str) -> String {
    format!("i{iss}")
}

fn key(sha256: &str) -> String {
    format!("k{sha256}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::authn::api_key::Digest;

    fn subject<'a>(jti: Option<&'a str>, user: &'a str, issued: Option<u64>) -> Subject<'a> {
        Subject::Token { iss: "https://id.example", jti, user, issued }
    }

    /// G8: a token by its `jti`, a user's and an issuer's tokens by when they were issued, a key by its
    /// digest; nobody else.
    #[test]
    fn who_is_denied() {
        let iss = || "https://id.example".to_owned();
        let entries = [
            Entry::Token { iss: iss(), jti: "j1".into() },
            Entry::User { iss: iss(), user: "7".into(), before: 100 },
            Entry::User { iss: iss(), user: "7".into(), before: 50 },
            Entry::Issuer { iss: iss(), before: 10 },
            Entry::Token { iss: "https://other.example".into(), jti: "j2".into() },
            Entry::Key { sha256: Digest::of(b"key").to_string().to_uppercase() },
        ];
        let mut list = List::default();
        assert!(!list.denies(&subject(Some("j1"), "7", None)));
        for entry in &entries {
            let text = serde_json::to_string(entry).unwrap();
            list.add(&serde_json::from_str(&text).unwrap());
        }
        for (who, denied) in [
            (subject(Some("j1"), "8", Some(500_000)), true),
            (subject(Some("j2"), "8", Some(500_000)), false),
            (subject(None, "8", Some(500_000)), false),
            (subject(None, "7", Some(99_999)), true),
            (subject(None, "7", Some(100_000)), false),
            (subject(None, "7", None), true),
            (subject(None, "8", Some(9_999)), true),
            (subject(None, "8", Some(10_000)), false),
            (subject(None, "8", None), true),
            (Subject::Key(&Digest::of(b"key")), true),
            (Subject::Key(&Digest::of(b"keys")), false),
        ] {
            assert_eq!(list.denies(&who), denied, "{who:?}");
        }
    }

    #[test]
    fn entries_are_read_strictly() {
        for bad in [
            "{}",
            r#"{"deny":"token","iss":"a"}"#,
            r#"{"deny":"user","iss":"a","user":"7"}"#,
            r#"{"deny":"token","iss":"a","jti":"b","what":1}"#,
            r#"{"deny":"all"}"#,
        ] {
            assert!(serde_json::from_str::<Entry>(bad).is_err(), "{bad}");
        }
    }
}
