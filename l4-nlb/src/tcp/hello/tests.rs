//! Tests of the ClientHello reader: hellos made by rustls, every cut of them, faults, hostile bytes.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// What rustls sends first.
fn by_rustls(name: &'static str, protocols: &[&str]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same handshake in records of at most so many bytes.
fn split_records(hello: &[u8], most: usize) -> Vec<u8> {
    let mut records = Vec::new();
    for part in hello[RECORD_HEAD..].chunks(most) {
        records.extend_from_slice(&[22, 3, 1]);
        records.extend_from_slice(&(part.len() as u16).to_be_bytes());
        records.extend_from_slice(part);
    }
    records
}

/// A hello with these extensions and nothing else of interest.
fn with_extensions(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, content) in extensions {
        list.extend_from_slice(&kind.to_be_bytes());
        list.extend_from_slice(&(content.len() as u16).to_be_bytes());
        list.extend_from_slice(content);
    }
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0]);
    body.extend_from_slice(&(list.len() as u16).to_be_bytes());
    body.extend_from_slice(&list);
    message(&body)
}

/// A handshake message of type 1 in one record.
fn message(body: &[u8]) -> Vec<u8> {
    let length = body.len() + MESSAGE_HEAD;
    let mut bytes = vec![22, 3, 1, (length >> 8) as u8, length as u8, 1, 0];
    bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn name(name: &[u8]) -> Vec<u8> {
    let (length, list) = (name.len() as u16, name.len() as u16 + 3);
    [&list.to_be_bytes()[..], &[HOST_NAME], &length.to_be_bytes(), name].concat()
}

fn named(text: &[u8]) -> Result<Parsed, Fault> {
    parse(&with_extensions(&[(SERVER_NAME, &name(text))]))
}

fn hello(name: Option<&str>, protocols: &[&str]) -> Parsed {
    let protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    Parsed::Hello(Hello { name: name.map(str::to_owned), protocols })
}

/// N7: what rustls asks for is what is read.
#[test]
fn hellos_of_a_real_client() {
    let bytes = by_rustls("shop.example", &["h2", "http/1.1"]);
    assert_eq!(parse(&bytes), Ok(hello(Some("shop.example"), &["h2", "http/1.1"])));
    assert_eq!(parse(&by_rustls("a.b.example", &[])), Ok(hello(Some("a.b.example"), &[])));
    assert_eq!(parse(&by_rustls("192.0.2.1", &["h2"])), Ok(hello(None, &["h2"])), "no SNI");
    let mut more = bytes.clone();
    more.extend_from_slice(b"what follows the hello");
    assert_eq!(parse(&more), parse(&bytes));
}

/// N7: names are compared in lower case and without a final dot.
#[test]
fn names_have_one_form() {
    for text in [&b"Shop.EXAMPLE"[..], b"shop.example.", b"SHOP.example."] {
        assert_eq!(named(text), Ok(hello(Some("shop.example"), &[])));
    }
    for text in [
        &b""[..],
        b".",
        b"shop..example",
        b".shop.example",
        b"a..",
        b"shop example",
        b"shop\0.example",
        b"sh\xc3\xb6p.example",
        &[b'a'; 254],
    ] {
        assert_eq!(named(text), Err(Fault::Malformed), "{}", text.escape_ascii());
    }
    assert_eq!(parse(&with_extensions(&[])), Ok(hello(None, &[])));
}

/// N7: what is not a hello, or one that two readers may understand differently, is refused.
#[test]
fn what_is_not_a_hello() {
    let one = name(b"a.example");
    let two = [(SERVER_NAME, one.as_slice()), (SERVER_NAME, one.as_slice())];
    let alpn: (u16, &[u8]) = (PROTOCOLS, b"\0\x03\x02h2");
    let malformed = [
        with_extensions(&two),
        with_extensions(&[alpn, alpn]),
        with_extensions(&[(SERVER_NAME, b"")]),
        with_extensions(&[(SERVER_NAME, b"\0\x05\x01\0\x02ab")]),
        with_extensions(&[(SERVER_NAME, b"\0\x04\0\0\x02ab")]),
        with_extensions(&[(PROTOCOLS, b"\0\0")]),
        with_extensions(&[(PROTOCOLS, b"\0\x01\0")]),
        with_extensions(&[(PROTOCOLS, b"\0\x04\x02h2")]),
        message(b""),
        message(&[3; 34]),
        [message(b"x"), b"y".to_vec()].concat(),
        b"\x16\x03\x01\0\0".to_vec(),
        b"\x16\x02\x01\0\x05\x01".to_vec(),
        b"\x16\x03\x01\x40\x01\x01".to_vec(),
        b"\x16\x03\x01\0\x04\x02\0\0\0".to_vec(),
        b"\x16\x03\x01\0\x01\x01\x15\x03\x01\0\x02\x02\x28".to_vec(),
    ];
    for bytes in &malformed {
        assert_eq!(parse(bytes), Err(Fault::Malformed), "{}", bytes.escape_ascii());
    }
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x80\x2e\x01\x03\x01", b"\0", b"SSH-2.0-x\r\n"] {
        assert_eq!(parse(bytes), Err(Fault::NotTls), "{}", bytes.escape_ascii());
    }
    assert_eq!(parse(b""), Ok(Parsed::Incomplete(10)));
}

/// N7: a hello of 64 KiB, and records of one byte, end at the cap.
#[test]
fn hellos_are_bounded() {
    assert_eq!(parse(b"\x16\x03\x01\x40\0\x01\0\xff\xff"), Err(Fault::TooLong));
    let large = with_extensions(&[(21, &[0; 15_000])]);
    assert!(matches!(parse(&large), Ok(Parsed::Hello(_))));
    assert_eq!(parse(&split_records(&large, 1)[..LONGEST]), Err(Fault::TooLong));
    assert_eq!(parse(&with_extensions(&[(21, &[0; 16_331])])[..100]), Err(Fault::TooLong));
}

/// Feeds the bytes as `opening` does: never more than was asked for at a time; counts the readings.
fn step_by_step(bytes: &[u8]) -> (Result<Parsed, Fault>, usize) {
    let (mut have, mut readings) = (0, 0);
    loop {
        readings += 1;
        match parse(&bytes[..have]) {
            Ok(Parsed::Incomplete(wanted)) if wanted <= bytes.len() => {
                assert!(wanted > have && wanted <= LONGEST);
                have = wanted;
            }
            outcome => return (outcome, readings),
        }
    }
}

/// N7: every cut of a hello is incomplete and asks for no more than the hello has; a hostile number
/// of records is read in few steps.
#[test]
fn every_cut_is_incomplete() {
    let whole = by_rustls("shop.example", &["h2"]);
    for most in [1, 2, 3, 7, 100, 16_384] {
        let bytes = split_records(&whole, most);
        assert_eq!(parse(&bytes), Ok(hello(Some("shop.example"), &["h2"])), "{most}");
        for cut in 0..bytes.len() {
            let parsed = parse(&bytes[..cut]);
            assert!(
                matches!(parsed, Ok(Parsed::Incomplete(n)) if n > cut && n <= bytes.len().max(10)),
                "{most} {cut} {parsed:?}"
            );
        }
        let (outcome, readings) = step_by_step(&bytes);
        assert_eq!(outcome, parse(&bytes));
        assert!(readings < 60, "{readings}");
    }
}

proptest! {
    /// N7: however the handshake is cut into records, the answer is the same.
    #[test]
    fn records_do_not_matter(cuts in prop::collection::vec(1_usize..80, 1..300)) {
        let whole = by_rustls("www.shop.example", &["http/1.1", "h2"]);
        let (mut rest, mut bytes) = (&whole[RECORD_HEAD..], Vec::new());
        for cut in cuts.iter().cycle() {
            let (part, after) = rest.split_at((*cut).min(rest.len()));
            bytes.extend_from_slice(&[22, 3, 3, 0, part.len() as u8]);
            bytes.extend_from_slice(part);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(parse(&bytes), Ok(hello(Some("www.shop.example"), &["http/1.1", "h2"])));
        prop_assert_eq!(step_by_step(&bytes).0, parse(&bytes));
    }

    /// N7: hostile bytes never panic and never ask for more than the cap.
    #[test]
    fn hostile_bytes(start in 0_usize..4, rest in prop::collection::vec(any::<u8>(), 0..600)) {
        let start: &[u8] =
            [b"".as_slice(), b"\x16\x03\x01\x02\0\x01\0", b"\x16\x03\x01\0\x40\x01\0\0\x3c\x03\x03", b"\x16"][start];
        let bytes = [start, &rest].concat();
        if let Ok(Parsed::Incomplete(wanted)) = parse(&bytes) {
            prop_assert!(wanted > bytes.len() && wanted <= LONGEST);
        }
    }

    /// N7: a hello that was damaged gives an answer or a fault, never a panic, and stays bounded.
    #[test]
    fn damaged_hellos(at in 0_usize..250, with in any::<u8>()) {
        let mut bytes = by_rustls("shop.example", &["h2"]);
        let length = bytes.len();
        bytes[at % length] = with;
        if let Ok(Parsed::Incomplete(wanted)) = parse(&bytes) {
            prop_assert!(wanted > bytes.len() && wanted <= LONGEST);
        }
    }
}
