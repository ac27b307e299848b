//! Which socket of a group gets a datagram: chosen by its source address alone, in the kernel, so that
//! what is counted per client is counted in one place. Not for choosing endpoints. Called by `bind`
//! for each UDP group.
//!
//! Invariant: all datagrams of an IPv4 address, or of an
//! IPv6 /64, go to one socket as long as the group has as many sockets.

/// One instruction of a classic BPF program (the kernel's `Documentation/networking/filter.rst`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) yes: u8,
    pub(super) no: u8,
    pub(super) value: u32,
}

/// Returns the index of the source's socket among `count`; `seed` keeps senders from aiming at one.
pub(super) fn program(ipv4: bool, seed: u32, count: u32) -> Vec<Instruction> {
    let plain = |code, value| Instruction { code, yes: 0, no: 0, value };
    let mut all = vec![plain(LOAD, NETWORK + 12)];
    if !ipv4 {
        all.push(plain(TO_X, 0));
        all.push(plain(LOAD, NETWORK + 8));
        all.push(plain(MULTIPLY, SPREAD));
        all.push(plain(XOR_X, 0));
    }
    all.push(plain(XOR, seed));
    all.push(plain(MULTIPLY, SPREAD));
    all.push(plain(SHIFT_RIGHT, 16));
    all.push(plain(MODULO, count.max(1)));
    all.push(plain(RETURN, 0));
    all
}

/// 2^32 divided by the golden ratio, odd: Fibonacci hashing (Knuth, TAOCP 3, 6.4).
const SPREAD: u32 = 0x9e37_79b1;

/// Offsets from here count from the network header (SKF_NET_OFF): the source address is 12 bytes
/// into an IPv4 header (RFC 791 §3.1), 8 bytes into an IPv6 one (RFC 8200 §3).
const NETWORK: u32 = (-0x10_0000_i32).cast_unsigned();

const LOAD: u16 = 0x20;
const TO_X: u16 = 0x07;
const MULTIPLY: u16 = 0x24;
const MODULO: u16 = 0x94;
const XOR: u16 = 0xa4;
const XOR_X: u16 = 0xac;
const SHIFT_RIGHT: u16 = 0x74;
const RETURN: u16 = 0x16;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr, UdpSocket};
    use std::num::NonZeroUsize;

    use super::super::bind::{Reuse, udp, udp_group};
    use super::super::sys;
    use super::*;

    /// What the program returns, said once more in Rust.
    fn choose(source: IpAddr, seed: u32, count: u32) -> u32 {
        let word = match source {
            IpAddr::V4(v4) => u32::from_be_bytes(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                let high = u32::from_be_bytes([a, b, c, d]).wrapping_mul(SPREAD);
                high ^ u32::from_be_bytes([e, f, g, h])
            }
        };
        ((word ^ seed).wrapping_mul(SPREAD) >> 16) % count.max(1)
    }

    /// N4, N9: the kernel gives each source's datagrams to the socket that `choose` names, whatever
    /// their port, and every socket gets some.
    #[test]
    fn the_kernel_chooses_by_source_alone() {
        let first = udp("127.0.0.1:0".parse().unwrap(), Reuse::Port).unwrap();
        let to = first.local_addr().unwrap();
        let mut group = vec![first];
        group.extend((0..2).map(|_| udp(to, Reuse::Port).unwrap()));
        let seed = 0x1234_5678;
        sys::steer(&group[0], &program(true, seed, 3)).unwrap();
        let mut used = [0; 3];
        for last in 0..60_u8 {
            let source = IpAddr::from([127, 9, last, 1]);
            let own = choose(source, seed, 3) as usize;
            for _ in 0..3 {
                let sender = UdpSocket::bind(SocketAddr::new(source, 0)).unwrap();
                sender.send_to(&[last], to).unwrap();
                let mut byte = [0];
                let (_, peer) = group[own].recv_from(&mut byte).unwrap();
                assert_eq!((byte[0], peer), (last, sender.local_addr().unwrap()));
            }
            used[own] += 1;
        }
        assert!(used.iter().all(|&sources| sources > 5), "{used:?}");
    }

    /// N1, N9: an IPv6 group is steered too; the addresses of one /64 go together.
    #[test]
    fn ipv6_sources_go_by_their_network() {
        let two = NonZeroUsize::new(2).unwrap();
        let group = udp_group("[::1]:0".parse().unwrap(), two).unwrap();
        let to = group[0].local_addr().unwrap();
        let mut socket = None;
        for _ in 0..8 {
            let sender = UdpSocket::bind("[::1]:0").unwrap();
            sender.send_to(b"x", to).unwrap();
            let got = group.iter().position(|socket| socket.recv(&mut [0]).is_ok()).unwrap();
            assert_eq!(*socket.get_or_insert(got), got);
        }
        let choice = |address: &str| choose(address.parse().unwrap(), 7, 1000);
        assert_eq!(choice("2001:db8::1"), choice("2001:db8::ffff:1"));
        assert_ne!(choice("2001:db8::1"), choice("2001:db8:0:1::1"));
    }
}
