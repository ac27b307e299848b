//! Passwords of database roles, their SCRAM verifiers, and the hash key: made once, kept in the
//! folder of the stack. Not for reading the secrets of a production host. Called by `up` before
//! anything starts.
//!
//! Invariant: a password and its verifier are made together.

use std::num::NonZeroU32;
use std::path::Path;

use anyhow::{Context, anyhow};
use aws_lc_rs::{digest, hmac, pbkdf2, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::up::folder::write_private;

/// The password kept at `path`; a new one of 24 letters and digits when there is none.
pub(crate) fn password(path: &Path) -> anyhow::Result<String> {
    if path.exists() {
        return kept(path);
    }
    let password: String = random::<12>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    write_private(path, format!("{password}\n").as_bytes())?;
    Ok(password)
}

/// The verifier of `password` kept at `path`; a new one when there is none.
pub(crate) fn verifier(path: &Path, password: &str) -> anyhow::Result<String> {
    if path.exists() {
        return kept(path);
    }
    let verifier = scram(password, &random::<16>()?, ITERATIONS);
    write_private(path, format!("{verifier}\n").as_bytes())?;
    Ok(verifier)
}

/// 32 random bytes in hex, kept at `path`.
pub(crate) fn hash_key(path: &Path) -> anyhow::Result<String> {
    if path.exists() {
        return kept(path);
    }
    let key: String = random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    write_private(path, format!("{key}\n").as_bytes())?;
    Ok(key)
}

fn kept(path: &Path) -> anyhow::Result<String> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// What PostgreSQL keeps in `pg_authid` for SCRAM-SHA-256 (RFC 5802 §3, RFC 7677).
fn scram(password: &str, salt: &[u8], iterations: NonZeroU32) -> String {
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
    pbkdf2::derive(algorithm, iterations, salt, password.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client = hmac::sign(&key, b"Client Key");
    let stored = digest::digest(&digest::SHA256, client.as_ref());
    let server = hmac::sign(&key, b"Server Key");
    format!(
        "SCRAM-SHA-256${iterations}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored.as_ref()),
        STANDARD.encode(server.as_ref())
    )
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| anyhow!("the system has no random numbers"))?;
    Ok(bytes)
}

/// PostgreSQL's own default.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("invariant: 4096 is not zero");

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677 §3: user `user`, password `pencil`.
    #[test]
    fn the_verifier_is_that_of_the_standard() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("valid");
        let verifier = scram("pencil", &salt, ITERATIONS);
        assert_eq!(
            verifier,
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
             WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
             wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
    }

    #[test]
    fn secrets_are_made_once() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("app.password");
        let first = password(&path).expect("made");
        assert_eq!(first.len(), 24);
        assert_eq!(password(&path).expect("kept"), first);
        let verifier_path = scratch.path().join("app.scram");
        let made = verifier(&verifier_path, &first).expect("made");
        assert_eq!(verifier(&verifier_path, &first).expect("kept"), made);
    }
}
