//! From a frame to the UDP datagram in it: Ethernet with VLAN tags, Linux cooked captures, bare IP;
//! IPv4 and IPv6. Header formats are `etherparse`'s. Used by `capture`.
//!
//! Invariant: a fragment is never taken for a whole datagram.

use std::net::{IpAddr, SocketAddr};

use etherparse::{EtherType, LaxNetSlice, LaxSlicedPacket, TransportSlice};

use super::container::Raw;
use super::{Datagram, Fault, Frame, Link};

/// What the frame is.
pub(super) fn read(raw: &Raw<'_>) -> Result<Frame, Fault> {
    let cooked = |header: usize, protocol: usize| {
        let ether_type =
            raw.bytes.get(protocol..)?.first_chunk().map(|b| u16::from_be_bytes(*b))?;
        Some(LaxSlicedPacket::from_ether_type(EtherType(ether_type), raw.bytes.get(header..)?))
    };
    let sliced = match raw.link {
        Link::Ethernet => LaxSlicedPacket::from_ethernet(raw.bytes).ok(),
        Link::Cooked => cooked(16, 14),
        Link::Cooked2 => cooked(20, 0),
        Link::Raw => LaxSlicedPacket::from_ip(raw.bytes).ok(),
        Link::Family => raw.bytes.get(4..).and_then(|ip| LaxSlicedPacket::from_ip(ip).ok()),
        Link::Unknown(number) => {
            return Err(raw.fault(format!("frames of link type {number} are not known here")));
        }
    };
    let sliced = sliced.ok_or_else(|| raw.fault("the frame's headers are cut off or damaged"))?;
    Ok(datagram(raw, &sliced))
}

fn datagram(raw: &Raw<'_>, sliced: &LaxSlicedPacket<'_>) -> Frame {
    let (from, to, fragmented): (IpAddr, IpAddr, bool) = match &sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let (from, to) = (header.source_addr(), header.destination_addr());
            (from.into(), to.into(), ip.is_payload_fragmented())
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let (from, to) = (header.source_addr(), header.destination_addr());
            (from.into(), to.into(), ip.is_payload_fragmented())
        }
        _ => return Frame::Other,
    };
    if fragmented {
        return Frame::Fragment;
    }
    let Some(TransportSlice::Udp(udp)) = &sliced.transport else { return Frame::Other };
    let payload = udp.payload().to_vec();
    Frame::Datagram(Datagram {
        at: raw.at,
        from: SocketAddr::new(from, udp.source_port()),
        to: SocketAddr::new(to, udp.destination_port()),
        // 0 stands for a length beyond 65535 (RFC 2675 §4): as long as what is there.
        length: usize::from(udp.length()).saturating_sub(8).max(payload.len()),
        payload,
    })
}
