//! A loopback address of its own for each test, so that the ports of a documented file can be used
//! as they stand and never clash. Not for reserving single ports. Used by `tier` and the tests.
//!
//! Invariant: while an [`Address`] lives, no other one in any process has the same IP.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

/// An address out of 127.1.0.0 to 127.63.255.255, claimed until dropped.
#[derive(Debug)]
pub struct Address {
    ip: Ipv4Addr,
    /// Its port is the claim.
    _claim: TcpListener,
}

impl Address {
    /// A free one.
    ///
    /// # Panics
    /// When a hundred random addresses are taken.
    pub fn claim() -> Self {
        (0..100).find_map(|_| Self::try_claim()).expect("a free address in 127.0.0.0/8")
    }

    fn try_claim() -> Option<Self> {
        let [a, b, c, ..] = RandomState::new().build_hasher().finish().to_be_bytes();
        let ip = Ipv4Addr::new(127, 1 + a % 63, b, 1 + c % 254);
        let claim = TcpListener::bind((ip, CLAIM)).ok()?;
        Some(Self { ip, _claim: claim })
    }

    /// The address.
    pub fn ip(&self) -> IpAddr {
        self.ip.into()
    }

    /// A port on it.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }
}

/// The port whose owner owns the address; no stack uses it.
const CLAIM: u16 = 1999;
