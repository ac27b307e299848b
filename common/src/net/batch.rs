//! A batch of datagrams: received by one call, looked at, sent on from the same memory. Not for
//! deciding where they go. Called by the UDP data plane's worker loop.
//!
//! Invariant: a datagram's bytes are exactly those received; one that did not fit is marked and
//! never passed on.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use super::sys;

/// Room for [`Batch::CAPACITY`] datagrams of any size; memory is touched as far as datagrams reach.
pub struct Batch {
    bytes: Box<[u8]>,
    arrived: Vec<Arrival>,
}

/// What is known of a received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Who sent it.
    pub peer: SocketAddr,
    /// Where it was sent to, on a socket that reports it.
    pub local: Option<IpAddr>,
    pub(super) length: usize,
    /// It was longer than a slot: its bytes are not complete.
    pub truncated: bool,
}

/// A datagram to send.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Its bytes; may be empty.
    pub bytes: &'a [u8],
    /// Where to.
    pub to: SocketAddr,
    /// The local address to send from; `None`: the kernel chooses, or the socket has one.
    pub from: Option<IpAddr>,
}

impl Batch {
    /// Datagrams received or sent by one call.
    pub const CAPACITY: usize = 32;

    /// The longest UDP payload is 65 507 bytes (IPv4) or 65 527 (IPv6).
    pub(super) const SLOT: usize = 65_536;

    /// Slots begin at different cache sets.
    pub(super) const STRIDE: usize = Self::SLOT + 320;

    /// An empty batch; about 2 MiB of address space, of which only touched pages count.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; Self::CAPACITY * Self::STRIDE].into_boxed_slice(),
            arrived: Vec::with_capacity(Self::CAPACITY),
        }
    }

    /// Forgets what was received.
    pub fn clear(&mut self) {
        self.arrived.clear();
    }

    /// Nothing was received.
    pub fn is_empty(&self) -> bool {
        self.arrived.is_empty()
    }

    /// No room for another datagram.
    pub fn is_full(&self) -> bool {
        self.arrived.len() >= Self::CAPACITY
    }

    /// Receives what waits, as far as there is room, behind what is there; says how many.
    /// `WouldBlock` when nothing waits. Never blocks.
    pub fn receive(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        sys::receive(socket.as_fd(), &mut self.bytes, &mut self.arrived)
    }

    /// The datagrams in the order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = (&Arrival, &[u8])> {
        let slots = self.bytes.chunks_exact(Self::STRIDE);
        self.arrived
            .iter()
            .zip(slots)
            .map(|(a, slot)| (a, slot.get(..a.length).unwrap_or_default()))
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("arrived", &self.arrived).finish()
    }
}

/// Sends the datagrams in order; says how many the kernel took. `WouldBlock` when it took none.
/// An error belongs to the first that was not taken. Never blocks.
pub fn send(socket: &impl AsFd, datagrams: &[Outgoing<'_>]) -> io::Result<usize> {
    sys::send(socket.as_fd(), datagrams)
}

#[cfg(test)]
mod tests {
    use super::super::bind::{Reuse, udp};
    use super::*;

    /// N4: empty and largest datagrams pass unchanged, in order, and the local address is told.
    #[test]
    fn datagrams_of_every_size_pass_in_batches() {
        let server = udp("0.0.0.0:0".parse().unwrap(), Reuse::No).unwrap();
        let to = SocketAddr::from(([127, 3, 2, 1], server.local_addr().unwrap().port()));
        let client = udp("127.0.0.9:0".parse().unwrap(), Reuse::No).unwrap();
        let sizes = [0_usize, 1, 1472, 9000, 65_507];
        let payloads: Vec<Vec<u8>> = sizes.iter().map(|&n| vec![n as u8; n]).collect();
        let out: Vec<_> = payloads.iter().map(|p| Outgoing { bytes: p, to, from: None }).collect();
        assert_eq!(send(&client, &out).unwrap(), sizes.len());
        let mut batch = Batch::new();
        assert_eq!(batch.receive(&server).unwrap(), sizes.len());
        for ((arrival, bytes), payload) in batch.iter().zip(&payloads) {
            assert_eq!(bytes, payload);
            assert_eq!(arrival.peer, client.local_addr().unwrap());
            assert_eq!(arrival.local, Some(to.ip()));
        }
        assert_eq!(batch.receive(&server).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let reply =
            Outgoing { bytes: b"pong", to: client.local_addr().unwrap(), from: Some(to.ip()) };
        send(&server, &[reply]).unwrap();
        batch.clear();
        batch.receive(&client).unwrap();
        assert!(batch.iter().all(|(a, bytes)| a.peer == to && bytes == b"pong"));
    }
}
