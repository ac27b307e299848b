//! The cryptography of PostgreSQL logins: SCRAM-SHA-256 on both sides (RFC 5802, RFC 7677) and
//! md5. Not for the messages, which are in `pgpool-wire`, and not for I/O. Called by the client's
//! and the server's `auth`.
//!
//! Invariant: nothing here is printed; keys are wiped when dropped; comparisons of secrets take
//! the same time whatever differs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha2::{Digest, Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::{Zeroize, Zeroizing};

/// So many keys are derived for; PostgreSQL's default is 4096, what is advised for passwords in general 600 000. More is
/// a hostile server's wish to keep us busy.
pub const MOST_DERIVED: u32 = 1_000_000;
/// The most that PostgreSQL can store (`scram_iterations`). Whoever has the keys already derives nothing.
pub const MOST_ITERATIONS: u32 = i32::MAX as u32;

type Key = [u8; 32];

/// What a server stores instead of a password, as in `pg_authid`.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Base64, as in the exchange.
    pub salt: String,
    /// How often the password is hashed.
    pub iterations: u32,
    stored: Key,
    server: Key,
}

impl Verifier {
    /// Reads `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`; `None` when it is something else.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("SCRAM-SHA-256$")?;
        let (head, keys) = rest.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        BASE64.decode(salt).ok()?;
        let iterations = iterations.parse().ok().filter(|i| (1..=MOST_ITERATIONS).contains(i))?;
        Some(Self { salt: salt.to_owned(), iterations, stored: key(stored)?, server: key(server)? })
    }

    /// As in `pg_authid`.
    pub fn text(&self) -> String {
        let [stored, server] = [self.stored, self.server].map(|key| BASE64.encode(key));
        format!("SCRAM-SHA-256${}:{}${stored}:{server}", self.iterations, self.salt)
    }

    /// Makes one from a password. Takes milliseconds: not on a worker.
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Self {
        let keys = Keys::derive(password, salt, iterations);
        Self {
            salt: BASE64.encode(salt),
            iterations,
            stored: Sha256::digest(keys.client).into(),
            server: keys.server,
        }
    }

    /// One that no password fits: keys from `chance`, and a salt that depends on the name and
    /// `seed` alone, so that asking twice tells nothing; `iterations`: by a lot that does so as well.
    pub fn of_chance(
        name: &[u8],
        seed: &[u8; 32],
        chance: Key,
        iterations: impl FnOnce(u64) -> u32,
    ) -> Self {
        let drawn = hmac(seed, name);
        let lot = drawn.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let salt = BASE64.encode(salt_of(seed, name));
        Self { salt, iterations: iterations(lot), stored: chance, server: chance }
    }

    /// Checks a client's proof. On success: the keys with which we can log in wherever the same
    /// verifier is stored.
    pub fn check(&self, auth_message: &str, proof: &str) -> Option<Keys> {
        let proof = key(proof)?;
        let signature = hmac(&self.stored, auth_message.as_bytes());
        let client = xor(&proof, &signature);
        let stored: Key = Sha256::digest(client).into();
        let right: bool = stored.ct_eq(&self.stored).into();
        right.then_some(Keys { client, server: self.server })
    }

    /// What proves to the client that we know the verifier, in base64.
    pub fn signature(&self, auth_message: &str) -> String {
        BASE64.encode(hmac(&self.server, auth_message.as_bytes()))
    }
}

/// What a client needs to log in: derived from a password, or caught from a client's proof.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    client: Key,
    server: Key,
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.client.zeroize();
        self.server.zeroize();
    }
}

impl Keys {
    /// From a password. Takes milliseconds: not on a worker.
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Self {
        // RFC 7677 §4 and PostgreSQL: what SASLprep refuses is used as it is.
        let prepared = stringprep::saslprep(password).unwrap_or(password.into());
        let mut salted = Zeroizing::new([0; 32]);
        pbkdf2::pbkdf2_hmac::<Sha256>(prepared.as_bytes(), salt, iterations, &mut *salted);
        Self { client: hmac(&salted, b"Client Key"), server: hmac(&salted, b"Server Key") }
    }

    /// For another process of this instance: both, in base64.
    pub fn text(&self) -> String {
        BASE64.encode([self.client, self.server].concat())
    }

    /// What [`Keys::text`] said.
    pub fn from_text(text: &str) -> Option<Self> {
        let both = Zeroizing::new(BASE64.decode(text).ok()?);
        let (client, server) = both.split_at_checked(32)?;
        Some(Self { client: client.try_into().ok()?, server: server.try_into().ok()? })
    }

    /// The proof that goes to a server, in base64.
    pub fn proof(&self, auth_message: &str) -> String {
        let stored: Key = Sha256::digest(self.client).into();
        BASE64.encode(xor(&self.client, &hmac(&stored, auth_message.as_bytes())))
    }

    /// Whether the server's last message proves that it knows the verifier.
    pub fn confirms(&self, auth_message: &str, signature: &str) -> bool {
        let ours = hmac(&self.server, auth_message.as_bytes());
        key(signature).is_some_and(|theirs| ours.ct_eq(&theirs).into())
    }
}

/// The salt of a name: of what is derived of its password, and of what it is asked with that nobody has.
pub fn salt_of(seed: &[u8; 32], name: &[u8]) -> [u8; 16] {
    let drawn = hmac(seed, name);
    std::array::from_fn(|at| drawn[at])
}

/// The salt of a server-first message.
pub fn salt(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok().filter(|salt| !salt.is_empty())
}

/// Base64, for nonces, salts and channel bindings.
pub fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// RFC 5929 §4.1: the certificate's hash by the hash of its own signature, SHA-256 where that is
/// weaker; `None` where the signature names none (Ed25519).
pub fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let algorithm = parsed.signature_algorithm.algorithm.to_id_string();
    match algorithm.as_str() {
        // RSA and ECDSA with SHA-1 or SHA-256.
        "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Some(Sha256::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => {
            Some(Sha384::digest(certificate).to_vec())
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => {
            Some(Sha512::digest(certificate).to_vec())
        }
        _ => None,
    }
}

/// `md5…` as PostgreSQL stores it.
pub fn md5_hash(password: &[u8], user: &str) -> String {
    let mut hash = Md5::new();
    hash.update(password);
    hash.update(user.as_bytes());
    format!("md5{}", hex(&hash.finalize()))
}

/// The answer to an md5 challenge by whoever has the stored hash.
pub fn md5_answer(stored: &str, salt: [u8; 4]) -> String {
    let mut hash = Md5::new();
    hash.update(stored.strip_prefix("md5").unwrap_or(stored).as_bytes());
    hash.update(salt);
    format!("md5{}", hex(&hash.finalize()))
}

/// Whether two texts are the same, in a time that does not depend on where they differ.
pub fn same(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn key(text: &str) -> Option<Key> {
    BASE64.decode(text).ok()?.try_into().ok()
}

fn xor(left: &Key, right: &Key) -> Key {
    std::array::from_fn(|at| left[at] ^ right[at])
}

fn hmac(key: &Key, message: &[u8]) -> Key {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key).expect("invariant: HMAC takes keys of every length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTH: &str = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const PROOF: &str = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    /// P4: the exchange printed in RFC 7677 §3, from both sides.
    #[test]
    fn the_example_of_the_rfc() {
        let salt = salt("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let keys = Keys::derive("pencil", &salt, 4096);
        assert_eq!(keys.proof(AUTH), PROOF);
        assert!(keys.confirms(AUTH, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        let verifier = Verifier::derive("pencil", &salt, 4096);
        assert_eq!(verifier.signature(AUTH), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(verifier.check("something else", PROOF).is_none());
        let caught = verifier.check(AUTH, PROOF).expect("the proof is right");
        assert!(caught == keys, "the caught keys log in as the password does");
    }

    #[test]
    fn verifiers_are_read_strictly() {
        let good = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        assert!(Verifier::parse(good).is_some());
        for bad in
            ["secret", "SCRAM-SHA-256$4096", &good.replace("4096", "0"), &good[..good.len() - 4]]
        {
            assert!(Verifier::parse(bad).is_none(), "{bad}");
        }
        // Nothing is derived of a verifier, so that its number costs nothing.
        for many in ["100001", "600000", "2147483647"] {
            let verifier = Verifier::parse(&good.replace("4096", many)).expect("lawful");
            assert_eq!(verifier.iterations.to_string(), many);
        }
        assert!(Verifier::parse(&good.replace("4096", "2147483648")).is_none());
    }

    /// P4: md5 as PostgreSQL computes it.
    #[test]
    fn md5() {
        let stored = md5_hash(b"secret", "app");
        assert_eq!(stored.len(), 35);
        assert_ne!(md5_answer(&stored, [1, 2, 3, 4]), md5_answer(&stored, [1, 2, 3, 5]));
        assert!(same(b"abc", b"abc") && !same(b"abc", b"abd") && !same(b"abc", b"ab"));
    }
}
