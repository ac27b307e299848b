//! Datagrams that pass a listener, written as pcapng (draft-ietf-opsawg-pcapng) for `aqueduct replay
//! udp` and for any other reader of captures. Not for the files' number and size (`common::spool`).
//! Made with a listener's lane, called by the UDP worker.
//!
//! Invariant: a client is recorded with all of its datagrams or with none.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use common::observe::Metrics;
use common::spool::{Room, Spool};
use topology::l4::Listener;
use topology::telemetry::Sample;
use topology::units::InstanceName;

/// The recorder of one listener.
#[derive(Debug)]
pub(crate) struct Recorder {
    sample: Sample,
    spool: Spool,
}

impl Recorder {
    /// As the listener's rules say; the former one goes on when they say the same of it.
    pub(crate) fn of(
        rules: &Listener,
        (instance, metrics): (&InstanceName, &Metrics),
        former: Option<&Arc<Self>>,
    ) -> Option<Arc<Self>> {
        let model = rules.record.as_ref()?;
        let file = format!("{}-{}.pcapng", instance.as_str(), rules.name.as_str());
        let path = model.folder.join(file);
        let room = Room { path, size: model.size, files: model.files.get() };
        let same = |it: &&Arc<Self>| *it.spool.room() == room && it.sample == model.sample;
        if let Some(former) = former.filter(same) {
            return Some(Arc::clone(former));
        }
        let help = "Datagrams that were to be recorded and were lost: the writer was behind, or its disk refused";
        let labels = [("listener", rules.name.as_str())];
        let lost = metrics.counter("aqueduct_l4_record_dropped_total", help, &labels);
        // Without a thread nothing is recorded; the data path goes on.
        let spool = Spool::start(room, head(), lost).ok()?;
        Some(Arc::new(Self { sample: model.sample, spool }))
    }

    /// Takes a datagram of this client.
    pub(crate) fn datagram(
        &self,
        client: SocketAddr,
        (from, to): (SocketAddr, SocketAddr),
        payload: &[u8],
    ) {
        let mut hash = DefaultHasher::new();
        client.ip().to_canonical().hash(&mut hash);
        if self.sample.takes(u128::from(hash.finish())) {
            let mut block = Vec::with_capacity(payload.len() + 96);
            write(SystemTime::now(), from, to, payload, &mut block);
            self.spool.push(&block);
        }
    }
}

/// Section header and one interface of bare IP packets (link type 101) with a clock of nanoseconds.
fn head() -> Vec<u8> {
    let mut out = Vec::new();
    let section = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    block(0x0a0d_0d0a, &section, &mut out);
    let clock = [9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    let interface = [&[101, 0, 0, 0, 0, 0, 0, 0][..], &clock].concat();
    block(1, &interface, &mut out);
    out
}

fn block(kind: u32, body: &[u8], out: &mut Vec<u8>) {
    let padding = body.len().next_multiple_of(4) - body.len();
    let length = (body.len() + padding + 12) as u32;
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(&[0; 3][..padding.min(3)]);
    out.extend_from_slice(&length.to_le_bytes());
}

/// An enhanced packet block with an IP packet that holds the datagram.
fn write(at: SystemTime, from: SocketAddr, to: SocketAddr, payload: &[u8], out: &mut Vec<u8>) {
    let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let mut packet = Vec::with_capacity(payload.len() + 48);
    let length = payload.len() + 8;
    match (from.ip().to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = ((length + 20) as u16).to_be_bytes();
            let mut header = [0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17, 0, 0];
            let sum = checksum(&[&header, &from.octets()[..], &to.octets()[..]].concat());
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            packet.extend_from_slice(&header);
            packet.extend_from_slice(&from.octets());
            packet.extend_from_slice(&to.octets());
        }
        (from, to) => {
            let six = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            let total = (length as u16).to_be_bytes();
            packet.extend_from_slice(&[0x60, 0, 0, 0, total[0], total[1], 17, 64]);
            packet.extend_from_slice(&six(from));
            packet.extend_from_slice(&six(to));
        }
    }
    packet.extend_from_slice(&from.port().to_be_bytes());
    packet.extend_from_slice(&to.port().to_be_bytes());
    packet.extend_from_slice(&(length as u16).to_be_bytes());
    // Not checked on its way here either: 0 stands for that (RFC 768).
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    let captured = (packet.len() as u32).to_le_bytes();
    let (high, low) = (((at >> 32) as u32).to_le_bytes(), (at as u32).to_le_bytes());
    let body = [&[0; 4][..], &high, &low, &captured, &captured, &packet].concat();
    block(6, &body, out);
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let sum: u32 = pairs.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::listener;
    use topology::telemetry::Recording;

    fn recorder(folder: &std::path::Path, sample: &str) -> Arc<Recorder> {
        let mut rules = listener("udp", &[7101]);
        rules.record = Some(Recording {
            folder: folder.to_owned(),
            sample: sample.parse().unwrap(),
            size: 8 << 20,
            files: std::num::NonZeroUsize::MIN,
            digests: false,
        });
        let own = (&InstanceName::new("edge-1"), &Metrics::new());
        let first = Recorder::of(&rules, own, None).unwrap();
        assert!(Arc::ptr_eq(&first, &Recorder::of(&rules, own, Some(&first)).unwrap()));
        first
    }

    /// R4: what is written is a capture byte by byte: headers with a right checksum, then the payload.
    #[test]
    fn a_datagram_is_written_as_a_packet() {
        let folder = tempfile::tempdir().unwrap();
        let own = recorder(folder.path(), "100%");
        let (client, local) = ("10.0.0.1:5000".parse().unwrap(), "10.0.0.2:7777".parse().unwrap());
        own.datagram(client, (client, local), b"hello");
        own.datagram(client, (local, client), b"");
        drop(own);
        let bytes = std::fs::read(folder.path().join("edge-1-udp.pcapng")).unwrap();
        let rest = bytes.strip_prefix(head().as_slice()).unwrap();
        let length = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        assert_eq!((rest[0], length % 4), (6, 0));
        let packet = &rest[28..28 + 33];
        assert_eq!(checksum(&packet[..20]), 0);
        assert_eq!(&packet[12..16], [10, 0, 0, 1]);
        assert_eq!(&packet[20..28], [0x13, 0x88, 0x1e, 0x61, 0, 13, 0, 0]);
        assert_eq!(&packet[28..], b"hello");
        assert_eq!(rest[length], 6, "the second datagram follows");
    }

    /// R4: a sample takes whole clients, and about as many as it says.
    #[test]
    fn a_sample_takes_whole_clients() {
        let folder = tempfile::tempdir().unwrap();
        let own = recorder(folder.path(), "25%");
        let local: SocketAddr = "10.0.0.2:7777".parse().unwrap();
        for host in 0..1000_u16 {
            let client: SocketAddr = ([10, 1, (host >> 8) as u8, host as u8], 5000).into();
            (0..3).for_each(|_| own.datagram(client, (client, local), b"x"));
        }
        drop(own);
        let bytes = std::fs::read(folder.path().join("edge-1-udp.pcapng")).unwrap();
        let each = 32 + 29_usize.next_multiple_of(4);
        let packets = (bytes.len() - head().len()) / each;
        assert_eq!(packets % 3, 0);
        assert!((200..300).contains(&(packets / 3)), "{packets}");
    }
}
