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
    let id = Tlv { kind: UNIQUE_ID, value: b"id".to_vec() };
    v2(both("10.0.0.1:1", "10.0.0.2:2"), std::slice::from_ref(&id), &mut bytes);
    assert_eq!(bytes.get(33..37), Some(&[CRC32C, 0, 4, bytes[36]][..]), "what we write has a sum");
    assert_eq!(header(&bytes).tlvs, [id]);
    for at in 16..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(parse(&damaged).is_err() || at == 33, "byte {at}");
    }
    bytes[20] ^= 1;
    assert_eq!(parse(&bytes), Err(Fault::Checksum));
}

/// N6: lines of 107 bytes are the longest; the byte that is one too many is never waited for.
#[test]
fn version_1_has_a_longest_line() {
    let unknown = |length: usize| {
        let mut line = b"PROXY UNKNOWN ".to_vec();
        line.resize(length - 2, b'x');
        [line.as_slice(), b"\r\n"].concat()
    };
    assert_eq!(header(&unknown(107)).length, 107);
    assert_eq!(parse(&unknown(108)), Err(Fault::Line));
    assert_eq!(parse(&unknown(300)), Err(Fault::Line));
    assert_eq!(parse(&unknown(300)[..106]), Ok(Parsed::Incomplete(107)));
    assert_eq!(parse(&unknown(300)[..107]), Err(Fault::Line));
}

/// N6: fields that lie about their length, ids that are too long, and addresses that are unspecified.
#[test]
fn version_2_fields() {
    let with = |family: u8, block: &[u8]| {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(&[PROXY, family]);
        bytes.extend_from_slice(&(block.len() as u16).to_be_bytes());
        bytes.extend_from_slice(block);
        parse(&bytes)
    };
    let addresses = [10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2];
    let field = |field: &[u8]| with(INET | STREAM, &[&addresses, field].concat());
    let long = |length: usize| {
        [&[UNIQUE_ID, (length >> 8) as u8, length as u8][..], &vec![b'x'; length]].concat()
    };
    for cut in [&[ALPN][..], &[ALPN, 0], &[ALPN, 0, 1], &[ALPN, 0, 2, b'h'], &[ALPN, 255, 255]] {
        assert_eq!(field(cut), Err(Fault::Tlv), "{cut:?}");
    }
    assert_eq!(field(&[CRC32C, 0, 3, 0, 0, 0]), Err(Fault::Tlv), "a sum has four bytes");
    assert!(matches!(field(&long(128)), Ok(Parsed::Header(h)) if h.field(UNIQUE_ID).is_some()));
    assert_eq!(field(&long(129)), Err(Fault::Id(129)));
    assert_eq!(
        field(&[NOOP, 0, 2, 0, 0]),
        field(&[]).map(|parsed| match parsed {
            Parsed::Header(h) => Parsed::Header(Header { length: h.length + 5, ..h }),
            whole @ Parsed::Incomplete(_) => whole,
        })
    );
    let Ok(Parsed::Header(unspecified)) = with(UNSPECIFIED, &[ALPN, 0, 2, b'h', b'2']) else {
        panic!()
    };
    assert_eq!((unspecified.addresses, unspecified.field(ALPN)), (None, Some(&b"h2"[..])));
    let large = with(
        INET | STREAM,
        &[&addresses[..], &long(100), &[NOOP, 0x0f, 0xff], &[0; 4095]].concat(),
    );
    assert!(matches!(large, Err(Fault::TooLong(_))), "{large:?}");
}

/// N6: split byte by byte, a header is read as in one piece, and the next byte is still there.
#[tokio::test]
async fn split_byte_by_byte() {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let ends = both("[2001:db8::1]:1", "[2001:db8::2]:2");
    v1(ends, &mut one);
    v2(ends, &[Tlv { kind: AUTHORITY, value: b"shop.example".to_vec() }], &mut two);
    for bytes in [one, two] {
        let (mut near, mut far) = tokio::io::duplex(1);
        let send = async {
            for &byte in bytes.iter().chain(b"!") {
                tokio::io::AsyncWriteExt::write_u8(&mut far, byte).await.unwrap();
            }
        };
        let receive = async {
            let header = read(&mut near).await.unwrap();
            (header.addresses, near.read_u8().await.unwrap())
        };
        let ((), got) = tokio::join!(send, receive);
        assert_eq!(got, (ends, b'!'));
    }
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
    fn round_trip(source in address(), destination in address(), values in prop::collection::vec((6_u8.., prop::collection::vec(any::<u8>(), 0..40)), 0..4)) {
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

/// N6: a datagram's header names its client; one for streams, one that is cut off, version 1, or
/// none is a fault.
#[test]
fn datagrams_carry_a_header_each() {
    for (source, destination) in
        [("203.0.113.9:5000", "192.0.2.1:7777"), ("[2001:db8::9]:5000", "[2001:db8::1]:7777")]
    {
        let addresses = both(source, destination).unwrap();
        let mut bytes = Vec::new();
        v2_datagram(addresses, &mut bytes);
        let length = bytes.len();
        bytes.extend_from_slice(b"payload");
        let header = parse_datagram(&bytes).unwrap();
        assert_eq!((header.addresses, header.length), (Some(addresses), length));
        assert!((0..length).all(|cut| parse_datagram(&bytes[..cut]).is_err()));
        assert!(matches!(parse(&bytes), Err(Fault::Family(..))), "no header of a stream");
    }
    let (mut one, mut two) = (Vec::new(), Vec::new());
    v1(both("10.0.0.1:1", "10.0.0.2:2"), &mut one);
    v2(both("10.0.0.1:1", "10.0.0.2:2"), &[], &mut two);
    assert_eq!(parse_datagram(&one), Err(Fault::Signature));
    assert!(matches!(parse_datagram(&two), Err(Fault::Family(..))));
    let mut local = Vec::new();
    v2(None, &[], &mut local);
    assert_eq!(parse_datagram(&local).unwrap().addresses, None);
}
