//! Session tickets that every instance with the same secrets can open. Not for a process alone: rustls
//! makes and rotates keys for that.
//!
//! Invariant: a ticket is opened at most two periods after the one in which it was sealed has begun.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use rustls::server::ProducesTickets;
use topology::{At, SecretRef};
use zeroize::Zeroizing;

use super::TlsError;
use crate::secret;

/// Seals and opens tickets with keys that are made of shared secrets and of the time, so that no two
/// instances must talk to have the same.
pub(super) struct Shared {
    secrets: Vec<Zeroizing<Vec<u8>>>,
    /// Keys of the periods that count now.
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    period: u64,
    /// The one that seals first.
    all: Vec<(Name, LessSafeKey)>,
}

type Name = [u8; 16];

impl Shared {
    /// Of the lines behind a reference. Blocking.
    ///
    /// # Errors
    /// With the place of the reference.
    pub(super) fn read(reference: &At<SecretRef>) -> Result<Arc<Self>, TlsError> {
        let (what, place) = ("ticket-keys", reference.place);
        let bytes = secret::read(&reference.value).map_err(|source| TlsError::Unreadable {
            what,
            place,
            source,
        })?;
        let lines = bytes.as_bytes().split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
        let refused = |reason: &str| TlsError::Refused { what, place, reason: reason.to_owned() };
        match lines.len() {
            0 => {
                return Err(refused(
                    "it holds no secret: put one line of `openssl rand -hex 32` in",
                ));
            }
            1..=MOST => {}
            _ => {
                return Err(refused(
                    "it holds more than 8 secrets: old ones may go after 12 hours",
                ));
            }
        }
        if lines.iter().any(|line| line.len() < SHORTEST) {
            return Err(refused(
                "a line is shorter than 32 characters: use `openssl rand -hex 32`",
            ));
        }
        let secrets = lines.into_iter().map(|line| Zeroizing::new(line.to_vec())).collect();
        Ok(Arc::new(Self { secrets, keys: Mutex::default() }))
    }

    /// Does it with the keys of the period that `at` falls in.
    fn with<T>(&self, at: SystemTime, work: impl FnOnce(&Keys) -> Option<T>) -> Option<T> {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let period = since.as_secs() / PERIOD.as_secs();
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.period != period || keys.all.is_empty() {
            // The next one too: another instance's clock may be ahead.
            let periods = [period, period.saturating_sub(1), period + 1];
            let pairs = periods.iter().flat_map(|p| self.secrets.iter().map(move |s| (s, *p)));
            let all =
                pairs.map(|(secret, period)| derive(secret, period)).collect::<Option<_>>()?;
            *keys = Keys { period, all };
        }
        work(&keys)
    }

    fn seal(&self, at: SystemTime, message: &[u8]) -> Option<Vec<u8>> {
        self.with(at, |keys| {
            let (name, key) = keys.all.first()?;
            let mut nonce = [0; NONCE_LEN];
            aws_lc_rs::rand::fill(&mut nonce).ok()?;
            let mut ticket = Vec::with_capacity(name.len() + NONCE_LEN + message.len() + TAG);
            ticket.extend_from_slice(name);
            ticket.extend_from_slice(&nonce);
            let mut sealed = message.to_vec();
            let nonce = Nonce::assume_unique_for_key(nonce);
            key.seal_in_place_append_tag(nonce, Aad::from(name), &mut sealed).ok()?;
            ticket.append(&mut sealed);
            Some(ticket)
        })
    }

    fn open(&self, at: SystemTime, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<16>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        self.with(at, |keys| {
            let (_, key) = keys.all.iter().find(|(known, _)| known == name)?;
            let mut sealed = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let length = key.open_in_place(nonce, Aad::from(name), &mut sealed).ok()?.len();
            sealed.truncate(length);
            Some(sealed)
        })
    }
}

/// Name and key of a period: a keyed hash each of what it is for and of the period's number (the
/// extract-then-expand of RFC 5869, whose extraction a secret of full strength can do without).
fn derive(secret: &[u8], period: u64) -> Option<(Name, LessSafeKey)> {
    let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let expand = |what: &[u8]| {
        let mut made = hmac::Context::with_key(&root);
        made.update(what);
        made.update(&period.to_be_bytes());
        made.sign()
    };
    let name = *expand(b"aqueduct ticket name").as_ref().first_chunk()?;
    let key = UnboundKey::new(&AES_256_GCM, expand(b"aqueduct ticket key").as_ref()).ok()?;
    Some((name, LessSafeKey::new(key)))
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("secrets", &self.secrets.len()).finish_non_exhaustive()
    }
}

impl ProducesTickets for Shared {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(PERIOD.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(SystemTime::now(), plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(SystemTime::now(), cipher)
    }
}

/// A key seals for so long, and opens for as long again.
const PERIOD: Duration = Duration::from_secs(6 * 60 * 60);
/// Characters of a secret at least: `openssl rand -hex 32` has 64.
const SHORTEST: usize = 32;
/// Secrets at most.
const MOST: usize = 8;
/// Bytes of an AES-GCM tag.
const TAG: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(lines: &[&str]) -> Shared {
        let secrets = lines.iter().map(|line| Zeroizing::new(line.as_bytes().to_vec())).collect();
        Shared { secrets, keys: Mutex::default() }
    }

    /// G3: instances with the same secrets open each other's tickets, in the period after the one that
    /// sealed them too, and no longer; a secret that moved down in the file still opens.
    #[test]
    fn keys_are_shared_and_rotated() {
        let old = "0123456789abcdef0123456789abcdef";
        let new = "fedcba9876543210fedcba9876543210";
        let (one, two) = (shared(&[old]), shared(&[new, old]));
        let at = SystemTime::UNIX_EPOCH + PERIOD * 1000 + Duration::from_secs(5);
        let ticket = one.seal(at, b"session").expect("sealed");
        for (later, opens) in [(0, true), (1, true), (2, false), (3, false)] {
            let opened = two.open(at + PERIOD * later, &ticket);
            assert_eq!(opened.as_deref(), opens.then_some(&b"session"[..]), "{later}");
        }
        // A clock that is behind.
        assert!(two.open(at - Duration::from_secs(60), &ticket).is_some());
        let ticket = two.seal(at, b"session").expect("sealed");
        assert_eq!(one.open(at, &ticket), None, "it does not know the new secret");
        assert_ne!(two.seal(at, b"session"), two.seal(at, b"session"));
    }

    /// G3: a ticket of which anything was changed is none.
    #[test]
    fn changed_tickets_are_none() {
        let shared = shared(&["0123456789abcdef0123456789abcdef"]);
        let at = SystemTime::UNIX_EPOCH + PERIOD;
        let ticket = shared.seal(at, b"session").expect("sealed");
        for index in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[index] ^= 1;
            assert_eq!(shared.open(at, &changed), None, "byte {index}");
            assert_eq!(shared.open(at, &ticket[..index]), None, "cut at {index}");
        }
    }
}
