//! The secret that keeps clients from choosing their endpoint, and the hashes made with it. Not for
//! cryptography. Called by `select.rs` of l4-nlb and by consistent-hash routes of the gateway.
//!
//! Invariant: the same key and the same bytes give the same hash on every machine and version.

use std::fmt;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher24};

/// 16 bytes that instances of one group share.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey([u8; 16]);

impl HashKey {
    /// From a secret of any length (at least 16 random bytes are advised).
    pub fn from_secret(secret: &[u8]) -> Self {
        let mut hasher = SipHasher24::new_with_key(b"aqueduct secret ");
        hasher.write(secret);
        Self(hasher.finish128().as_bytes())
    }

    /// From names, where no secret is given: even, but anybody who knows them can aim.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hasher = SipHasher24::new_with_key(b"aqueduct names  ");
        for name in names {
            hasher.write(&(name.len() as u64).to_le_bytes());
            hasher.write(name.as_bytes());
        }
        Self(hasher.finish128().as_bytes())
    }

    /// SipHash-1-3 of the bytes.
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        SipHasher13::new_with_key(&self.0).hash(bytes)
    }

    /// The client's address alone; an IPv4 address written as IPv6 is the same client.
    pub fn client(&self, address: IpAddr) -> u64 {
        match address.to_canonical() {
            IpAddr::V4(v4) => self.hash(&v4.octets()),
            IpAddr::V6(v6) => self.hash(&v6.octets()),
        }
    }

    /// Both addresses and ports; the protocol is the listener's and needs no byte.
    pub fn flow(&self, source: SocketAddr, destination: SocketAddr) -> u64 {
        let mut bytes = Vec::with_capacity(36);
        for side in [source, destination] {
            match side.ip().to_canonical() {
                IpAddr::V4(v4) => bytes.extend_from_slice(&v4.octets()),
                IpAddr::V6(v6) => bytes.extend_from_slice(&v6.octets()),
            }
            bytes.extend_from_slice(&side.port().to_be_bytes());
        }
        self.hash(&bytes)
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(…)")
    }
}
