//! Captures made by hand in every format, broken ones, noise.

use proptest::prelude::*;

use super::*;

/// An IPv4 (or IPv6) packet with a UDP datagram.
fn ip(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let mut out = Vec::new();
    let builder = match (from, to) {
        (SocketAddr::V4(a), SocketAddr::V4(b)) => {
            etherparse::PacketBuilder::ipv4(a.ip().octets(), b.ip().octets(), 64)
        }
        (SocketAddr::V6(a), SocketAddr::V6(b)) => {
            etherparse::PacketBuilder::ipv6(a.ip().octets(), b.ip().octets(), 64)
        }
        _ => unreachable!("one family"),
    };
    builder.udp(from.port(), to.port()).write(&mut out, payload).unwrap();
    out
}

fn pcap(link: u32, big: bool, nanoseconds: bool, frames: &[(u32, u32, Vec<u8>)]) -> Vec<u8> {
    let word = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let magic = if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
    let mut out: Vec<u8> =
        [magic, 0x0002_0004, 0, 0, 65_535, link].into_iter().flat_map(word).collect();
    for (seconds, fraction, bytes) in frames {
        let length = bytes.len() as u32;
        out.extend([*seconds, *fraction, length, length].into_iter().flat_map(word));
        out.extend(bytes);
    }
    out
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let length = body.len() as u32 + 12;
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), &body, &length.to_le_bytes()].concat()
}

/// A little-endian section with one interface whose clock ticks in nanoseconds.
fn section(link: u16) -> Vec<u8> {
    let header = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    let options = [&[9, 0, 1, 0, 9, 0, 0, 0][..], &[0, 0, 0, 0]].concat();
    let interface =
        [&link.to_le_bytes()[..], &[0, 0], &65_535_u32.to_le_bytes(), &options].concat();
    [block(0x0a0d_0d0a, &header), block(1, &interface)].concat()
}

fn enhanced(interface: u32, nanoseconds: u64, bytes: &[u8]) -> Vec<u8> {
    let (high, low) = ((nanoseconds >> 32) as u32, nanoseconds as u32);
    let length = bytes.len() as u32;
    let words = [interface, high, low, length, length].map(u32::to_le_bytes).concat();
    block(6, &[&words[..], bytes].concat())
}

const A: &str = "10.0.0.1:5000";
const B: &str = "10.0.0.2:7777";

/// R1: every byte order and clock of pcap, and pcapng, tell the same datagram.
#[test]
fn formats_agree() {
    let packet = ip(A, B, b"hello");
    let at = Duration::new(7, 1_000);
    for (big, nanoseconds) in [(true, true), (true, false), (false, true), (false, false)] {
        let fraction = if nanoseconds { 1_000 } else { 1 };
        let file = pcap(101, big, nanoseconds, &[(7, fraction, packet.clone())]);
        let found = read(&file).unwrap();
        let [one] = found.datagrams.as_slice() else { panic!("{found:?}") };
        assert_eq!((one.at, one.payload.as_slice(), one.length), (at, b"hello".as_slice(), 5));
        assert_eq!((one.from.to_string(), one.to.to_string()), (A.into(), B.into()));
    }
    let file = [section(101), enhanced(0, 7_000_001_000, &packet)].concat();
    assert_eq!(read(&file).unwrap().datagrams[0].at, at);
}

/// R1: Ethernet, VLAN, cooked and bare frames, and both IP versions.
#[test]
fn links_agree() {
    let packet = ip(A, B, b"hello");
    let six = ip("[fd00::1]:5000", "[fd00::2]:7777", b"hello");
    let ethernet =
        |tags: &[u8], kind: [u8; 2], packet: &[u8]| [&[0; 12][..], tags, &kind, packet].concat();
    let four = [8, 0];
    let frames: [(u32, Vec<u8>); 8] = [
        (1, ethernet(&[], four, &packet)),
        (1, ethernet(&[0x81, 0, 0, 7], four, &packet)),
        (1, ethernet(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8], four, &packet)),
        (1, ethernet(&[], [0x86, 0xdd], &six)),
        (113, [&[0; 14][..], &four, &packet].concat()),
        (276, [&four[..], &[0; 18], &packet].concat()),
        (0, [&[2, 0, 0, 0][..], &packet].concat()),
        (229, six.clone()),
    ];
    for (link, frame) in frames {
        let found = read(&pcap(link, true, true, &[(0, 0, frame)])).unwrap();
        assert_eq!(found.datagrams.len(), 1, "{link}: {found:?}");
        assert_eq!(found.datagrams[0].payload, b"hello");
    }
}

/// R1: fragments and other protocols are counted, not replayed; a cut datagram keeps its length.
#[test]
fn what_is_no_whole_datagram_is_counted() {
    let mut fragment = ip(A, B, b"hello");
    fragment[6] |= 0x20;
    let mut tcp = ip(A, B, b"hello");
    tcp[9] = 6;
    let mut cut = ip(A, B, &[7; 100]);
    cut.truncate(60);
    let frames = [(0, 0, fragment), (0, 0, tcp), (0, 0, cut)];
    let found = read(&pcap(101, false, false, &frames)).unwrap();
    assert_eq!((found.fragments, found.other, found.cut), (1, 1, 1), "{found:?}");
    let [one] = found.datagrams.as_slice() else { panic!("{found:?}") };
    assert_eq!((one.payload.len(), one.length), (32, 100));
}

/// O5: what is broken is told with its place, and what stands before (and, in pcapng, behind) it is read.
#[test]
fn faults_have_places() {
    assert!(read(b"").unwrap_err().to_string().contains("byte 0"));
    assert!(read(b"no capture at all").unwrap_err().what.contains("neither pcap nor pcapng"));
    let packet = ip(A, B, b"hello");
    let mut file = pcap(101, true, true, &[(0, 0, packet.clone()), (0, 0, packet.clone())]);
    file.pop();
    let found = read(&file).unwrap();
    assert_eq!((found.datagrams.len(), found.faults.len()), (1, 1));
    let place = 24 + 16 + packet.len();
    assert_eq!(
        found.faults[0].to_string(),
        format!("byte {place} (frame 2): the record is cut off; the rest cannot be read")
    );
    let start = section(101);
    let file = [&start[..], &enhanced(3, 0, &packet), &enhanced(0, 0, &packet)].concat();
    let found = read(&file).unwrap();
    assert_eq!((found.datagrams.len(), found.faults[0].offset), (1, start.len()));
    let huge = pcap(101, true, true, &[(0, 0, vec![0; 300 << 10])]);
    assert!(read(&huge).unwrap().faults[0].what.contains("307200 bytes"));
}

proptest! {
    #[test]
    fn noise_is_read_to_its_end(noise in proptest::collection::vec(any::<u8>(), 0..400), start in 0usize..4) {
        let start = [vec![], pcap(1, true, true, &[]), pcap(113, false, false, &[]), section(1)][start].clone();
        let _ = read(&[start, noise].concat());
    }

    #[test]
    fn a_damaged_capture_is_read_to_its_end(at in 0usize..600, byte: u8, ng: bool) {
        let packets: Vec<_> = (0..5).map(|i| ip(A, B, &[i; 50])).collect();
        let mut file = if ng {
            packets.iter().fold(section(101), |file, packet| [file, enhanced(0, 9, packet)].concat())
        } else {
            pcap(101, true, true, &packets.into_iter().map(|p| (1, 2, p)).collect::<Vec<_>>())
        };
        let at = at % file.len();
        file[at] = byte;
        if let Ok(found) = read(&file) {
            prop_assert!(found.datagrams.len() <= 5);
            prop_assert!(found.faults.iter().all(|fault| fault.offset <= file.len()));
        }
    }
}
