//! Tests of the PROXY protocol: tables of good and bad headers, and properties over both.

use proptest::prelude::*;

use super::*;

fn both(source: &str, destination: &str) -> Option<Addresses> {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    Some(Addresses { source, destination })
}

fn header(bytes: &[u8]) -> Header {
    match parse(bytes).unwrap() {
        Parsed::Header(header) => header,
        Parsed::Incomplete(n) => panic!("{n} bytes wanted"),
    }
}

/// N6: the examples of the protocol's text.
#[test]
fn version_1_lines() {
    let line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET / HTTP/1.1\r\n";
    let parsed = header(line);
    assert_eq!(parsed.addresses, both("192.168.0.1:56324", "192.168.0.11:443"));
    assert_eq!(parsed.length, 47);
    let parsed = header(b"PROXY TCP6 ffff::1 2001:db8::2 65535 1\r\n");
    assert_eq!(parsed.addresses, both("[ffff::1]:65535", "[2001:db8::2]:1"));
    assert_eq!(header(b"PROXY UNKNOWN\r\n").addresses, None);
    assert_eq!(header(b"PROXY UNKNOWN anything at all\r\n").addresses, None);
}

/// N6: what is not a header is refused, and a cut one is waited for.
#[test]
fn what_is_not_a_header() {
    let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
    let cases: &[(&[u8], Fault)] = &[
        (b"GET / HTTP/1.1\r\n", Fault::Signature),
        (b"proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n", Fault::Signature),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n", Fault::Line),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n", Fault::Line),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n", Fault::Line),
        (b"PROXY TCP4 1.1.1.1  2.2.2.2 1 2\r\n", Fault::Line),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", Fault::Line),
        (b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n", Fault::Line),
        (&long, Fault::Line),
        (b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c", Fault::Command(0x11)),
        (b"\r\n\r\n\0\r\nQUIT\n\x22\x11\0\x0c", Fault::Command(0x22)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02ab", Fault::Family(0x11, 2)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x00", Fault::Family(0x12, 0)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", Fault::TooLong(65_551)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x00\0\x02\x01\0", Fault::Tlv),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x00\0\x04\x01\0\x05a", Fault::Tlv),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x00\0\x07\x03\0\x04\x01\x02\x03\x04", Fault::Checksum),
    ];
    for (bytes, fault) in cases {
        assert_eq!(parse(bytes), Err(fault.clone()), "{}", bytes.escape_ascii());
    }
    assert_eq!(parse(b""), Ok(Parsed::Incomplete(15)));
    assert_eq!(parse(b"PROXY TCP4 1.1.1.1 "), Ok(Parsed::Incomplete(20)));
    assert_eq!(parse(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"), Ok(Parsed::Incomplete(28)));
}

/// N6: a LOCAL header says nothing about the client, whatever follows it.
#[test]
fn local_and_unix_headers_carry_no_addresses() {
    let local = header(b"\r\n\r\n\0\r\nQUIT\n\x20\xff\0\x02ab");
    assert_eq!((local.addresses, local.length), (None, 18));
    let mut unix = b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8".to_vec();
    unix.resize(16 + 216, 7);
    assert_eq!(header(&unix).addresses, None);
}

/// N6: RFC 3720 appendix B.4's vectors, and a header with its sum in it.
#[test]
fn checksums() {
    assert_eq!(crc32c([&[0; 32], &[], &[]]), 0x8a91_36aa);
    assert_eq!(crc32c([b"1234", b"567", b"89"]), 0xe306_9283);
    let mut bytes = Vec::new();
    let sum = Tlv { kind: CRC32C, value: vec![0; 4] };
    let id = Tlv { kind: 5, value: b"id".to_vec() };
    v2(both("10.0.0.1:1", "10.0.0.2:2"), &[sum, id.clone()], &mut bytes);
    let crc = crc32c([&bytes, &[], &[]]);
    bytes[31..35].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(header(&bytes).tlvs, [id]);
    bytes[20] ^= 1;
    assert_eq!(parse(&bytes), Err(Fault::Checksum));
}

/// N6: reading takes the header and nothing of what follows.
#[tokio::test]
async fn reading_leaves_the_rest() {
    for write in [|a, out: &mut Vec<u8>| v1(a, out), |a, out: &mut Vec<u8>| v2(a, &[], out)] {
        let mut bytes = Vec::new();
        write(both("10.0.0.1:1", "10.0.0.2:2"), &mut bytes);
        bytes.extend_from_slice(b"rest");
        let mut stream = bytes.as_slice();
        let got = read(&mut stream).await.unwrap();
        assert_eq!((got.addresses, stream), (both("10.0.0.1:1", "10.0.0.2:2"), &b"rest"[..]));
    }
    assert!(matches!(read(&mut &b"PROXY TCP4 1.1.1.1"[..]).await, Err(ReadFault::Io(_))));
}

fn address() -> impl Strategy<Value = SocketAddr> {
    any::<(IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
}

proptest! {
    /// N6: what is written is read again, whole, and every cut of it is incomplete.
    #[test]
    fn round_trip(source in address(), destination in address(), values in prop::collection::vec((16_u8.., prop::collection::vec(any::<u8>(), 0..40)), 0..4)) {
        let tlvs: Vec<Tlv> = values.into_iter().map(|(kind, value)| Tlv { kind, value }).collect();
        let (mut one, mut two) = (Vec::new(), Vec::new());
        v1(Some(Addresses { source, destination }), &mut one);
        v2(Some(Addresses { source, destination }), &tlvs, &mut two);
        for (bytes, tlvs) in [(one, Vec::new()), (two, tlvs)] {
            let parsed = header(&bytes);
            let got = parsed.addresses.unwrap();
            prop_assert_eq!(got.source.ip().to_canonical(), source.ip());
            prop_assert_eq!(got.destination.ip().to_canonical(), destination.ip());
            prop_assert_eq!((got.source.port(), got.destination.port()), (source.port(), destination.port()));
            prop_assert_eq!((parsed.tlvs, parsed.length), (tlvs, bytes.len()));
            for cut in 0..bytes.len() {
                prop_assert!(matches!(parse(&bytes[..cut]), Ok(Parsed::Incomplete(n)) if n > cut && n <= bytes.len().max(15)));
            }
        }
    }

    /// N6: hostile bytes never panic, never ask for more than the limit, never claim more than is there.
    #[test]
    fn hostile_bytes(start in 0_usize..3, rest in prop::collection::vec(any::<u8>(), 0..300)) {
        let start: &[u8] = [b"".as_slice(), b"PROXY TCP", SIGNATURE][start];
        let bytes = [start, &rest].concat();
        match parse(&bytes) {
            Ok(Parsed::Header(header)) => prop_assert!(header.length <= bytes.len()),
            Ok(Parsed::Incomplete(n)) => prop_assert!(n > bytes.len() && n <= LONGEST),
            Err(_) => {}
        }
    }
}
