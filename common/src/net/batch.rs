//! A batch of datagrams: received by one call, looked at, sent on from the same memory. Where the
//! kernel can, several datagrams of a flow pass through it as one piece (GRO, GSO). Not for
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
    filled: usize,
    arrived: Vec<Arrival>,
}

/// What is known of a received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Who sent it.
    pub peer: SocketAddr,
    /// Where it was sent to, on a socket that reports it.
    pub local: Option<IpAddr>,
    /// Where its bytes are.
    start: usize,
    length: usize,
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
            filled: 0,
            arrived: Vec::with_capacity(Self::CAPACITY),
        }
    }

    /// Forgets what was received.
    pub fn clear(&mut self) {
        self.filled = 0;
        self.arrived.clear();
    }

    /// Nothing was received.
    pub fn is_empty(&self) -> bool {
        self.arrived.is_empty()
    }

    /// Datagrams received since it was empty; more than [`Self::CAPACITY`] when the kernel hands
    /// several on as one.
    pub fn len(&self) -> usize {
        self.arrived.len()
    }

    /// No room for another datagram.
    pub fn is_full(&self) -> bool {
        self.filled >= Self::CAPACITY
    }

    /// Receives what waits, as far as there is room, behind what is there; says how much of
    /// [`Self::CAPACITY`] it took. `WouldBlock` when nothing waits. Never blocks.
    pub fn receive(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        self.receive_most(socket, Self::CAPACITY)
    }

    /// The same, at most so many: asking for few costs less.
    pub fn receive_most(&mut self, socket: &impl AsFd, most: usize) -> io::Result<usize> {
        let Self { bytes, filled, arrived } = self;
        let slots = bytes.chunks_exact_mut(Self::STRIDE).skip(*filled).take(most);
        let slots = slots.filter_map(|slot| slot.get_mut(..Self::SLOT));
        let mut start = *filled * Self::STRIDE;
        let count = sys::receive(socket.as_fd(), slots, |slot| {
            expand(&slot, start, arrived);
            start += Self::STRIDE;
        })?;
        *filled += count;
        Ok(count)
    }

    /// The datagrams in the order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = (&Arrival, &[u8])> {
        let bytes = |a: &Arrival| self.bytes.get(a.start..a.start + a.length).unwrap_or_default();
        self.arrived.iter().map(move |arrival| (arrival, bytes(arrival)))
    }
}

/// The datagrams of a slot, which begins at `start`.
fn expand(slot: &sys::Filled, start: usize, arrived: &mut Vec<Arrival>) {
    let sys::Filled { peer, local, length, segment, truncated } = *slot;
    let each = segment.filter(|&each| each > 0).unwrap_or(length);
    let mut done = 0;
    loop {
        let length = each.min(length - done);
        arrived.push(Arrival { peer, local, start: start + done, length, truncated });
        done += length;
        if done >= slot.length {
            return;
        }
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
    sys::send(socket.as_fd(), datagrams, |_| 1)
}

/// Sends as [`send`], but gives the kernel several datagrams of a flow as one piece, until that
/// fails once: a device or a tunnel on the way may not cut them.
#[derive(Debug)]
pub struct Sender {
    merges: bool,
}

impl Sender {
    /// One that merges.
    pub fn new() -> Self {
        Self { merges: true }
    }

    /// As [`send`].
    pub fn send(&mut self, socket: &impl AsFd, datagrams: &[Outgoing<'_>]) -> io::Result<usize> {
        if self.merges && run(datagrams) > 1 {
            match sys::send(socket.as_fd(), datagrams, run) {
                // Cannot be cut: EIO without checksums, EINVAL or EMSGSIZE beyond the path's MTU.
                Err(fault) if fault.raw_os_error().is_some_and(cannot_cut) => self.merges = false,
                other => return other,
            }
        }
        if self.merges {
            sys::send(socket.as_fd(), datagrams, run)
        } else {
            send(socket, datagrams)
        }
    }
}

impl Default for Sender {
    fn default() -> Self {
        Self::new()
    }
}

fn cannot_cut(errno: i32) -> bool {
    use libc::{EINVAL, EIO, EMSGSIZE, EOPNOTSUPP};
    [EINVAL, EIO, EMSGSIZE, EOPNOTSUPP].contains(&errno)
}

/// How many of the first datagrams can leave as one piece.
fn run(datagrams: &[Outgoing<'_>]) -> usize {
    let Some(first) = datagrams.first() else { return 0 };
    let size = first.bytes.len();
    if !(1..=LONGEST).contains(&size) {
        return 1;
    }
    let alike = |it: &&Outgoing<'_>| it.to == first.to && it.from == first.from;
    let most = (PIECE / size).min(Batch::CAPACITY);
    let whole = |it: &&Outgoing<'_>| alike(it) && it.bytes.len() == size;
    let count = datagrams.iter().take(most).take_while(whole).count();
    let last = datagrams.get(count).filter(|it| alike(it) && (1..size).contains(&it.bytes.len()));
    count + usize::from(count < most && last.is_some())
}

/// What surely fits a packet: an IPv6 header and options of a tunnel off the usual 1500.
const LONGEST: usize = 1400;

/// Bytes of one piece, below the longest IP packet.
const PIECE: usize = 60_000;

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
        fill(&mut batch, &server, sizes.len());
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
        fill(&mut batch, &client, 1);
        assert!(batch.iter().all(|(a, bytes)| a.peer == to && bytes == b"pong"));
    }

    fn sizes(datagrams: &[Outgoing<'_>]) -> Vec<usize> {
        let (mut rest, mut sizes) = (datagrams, Vec::new());
        while !rest.is_empty() {
            let count = run(rest);
            sizes.push(count);
            rest = &rest[count..];
        }
        sizes
    }

    /// N4: only datagrams of one flow and of one length are merged; a shorter one ends a piece.
    #[test]
    fn a_piece_has_one_flow_and_one_length() {
        let bytes = [0; 1401];
        let [one, two] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let of = |to, length| Outgoing { bytes: &bytes[..length], to, from: None };
        assert_eq!(sizes(&[of(one, 9), of(one, 9), of(one, 3), of(one, 9)]), [3, 1]);
        assert_eq!(sizes(&[of(one, 9), of(two, 9), of(one, 9), of(one, 10)]), [1, 1, 1, 1]);
        assert_eq!(sizes(&[of(one, 0), of(one, 0), of(one, 1401), of(one, 1401)]), [1, 1, 1, 1]);
        assert_eq!(sizes(&[of(one, 1400); 40]), [32, 8]);
    }

    /// N4: what leaves as one piece arrives as the datagrams that it was made of.
    #[test]
    fn merged_datagrams_arrive_one_by_one() {
        let server = udp("127.0.0.1:0".parse().unwrap(), Reuse::No).unwrap();
        let client = udp("127.0.0.1:0".parse().unwrap(), Reuse::No).unwrap();
        let to = server.local_addr().unwrap();
        let payloads: Vec<Vec<u8>> =
            (0..20).map(|n| vec![n; if n == 9 { 7 } else { 100 }]).collect();
        let out: Vec<_> = payloads.iter().map(|p| Outgoing { bytes: p, to, from: None }).collect();
        let mut sender = Sender::new();
        assert_eq!(sender.send(&client, &out).unwrap(), 20);
        let mut batch = Batch::new();
        fill(&mut batch, &server, 20);
        assert!(sender.merges, "the kernel cuts on loopback");
        assert!(batch.iter().map(|(_, bytes)| bytes).eq(payloads.iter().map(Vec::as_slice)));
    }

    /// N4: where the kernel will not cut, the datagrams leave one by one, and are all that leave.
    #[test]
    fn merging_ends_by_itself() {
        let server = udp("127.0.0.1:0".parse().unwrap(), Reuse::No).unwrap();
        let client = udp("127.0.0.1:0".parse().unwrap(), Reuse::No).unwrap();
        // A socket that sends no checksums has none cut for it (udp(7)).
        sys::without_checksums(&client).unwrap();
        let to = server.local_addr().unwrap();
        let mut sender = Sender::new();
        assert_eq!(
            sender.send(&client, &[Outgoing { bytes: b"x", to, from: None }; 3]).unwrap(),
            3
        );
        assert!(!sender.merges);
        let mut batch = Batch::new();
        fill(&mut batch, &server, 3);
        assert_eq!(batch.len(), 3);
    }

    /// Receives until so many are there; the kernel may take a moment.
    fn fill(batch: &mut Batch, socket: &std::net::UdpSocket, count: usize) {
        while batch.len() < count {
            match batch.receive(socket) {
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                received => drop(received.unwrap()),
            }
        }
    }
}
