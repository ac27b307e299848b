//! Tests of what comes first: routes by ClientHello, greetings that are slow or no TLS, headers out.

use common::balance::HashKey;
use common::observe::Metrics;
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, duplex};
use topology::Place;
use topology::l4::{Group, Target};
use topology::units::GroupName;

use super::*;
use crate::snapshot::Snapshot;
use crate::testing::{listener, service};

/// Names and protocols; `None` is everybody.
type When<'a> = Option<(&'a [&'a str], &'a [&'a str])>;

/// A lane with targets `0`, `1` ….
fn lane(targets: &[When<'_>]) -> Arc<Lane> {
    let mut rules = listener("tcp", &[1]);
    let target = |(number, when): (usize, &When<'_>)| {
        let mut to = service(&[1]);
        to.name = topology::ServiceName::new(&number.to_string());
        let when = when.map(|(names, alpn)| TlsMatch {
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
            alpn: alpn.iter().map(|&protocol| protocol.to_owned()).collect(),
            place: Place::default(),
        });
        Target { when, to }
    };
    rules.targets = targets.iter().enumerate().map(target).collect();
    let group = Group {
        name: GroupName::new("edge"),
        instances: Vec::new(),
        listeners: vec![rules],
        hash_key: None,
        drain: Duration::from_secs(30),
        place: Place::default(),
    };
    let key = HashKey::from_names(["edge"]);
    Snapshot::build(
        &group,
        (key, None, &topology::units::InstanceName::new("nlb-1")),
        &Metrics::new(),
        None,
    )
    .lanes
    .remove(0)
}

fn hello(name: &str, protocols: &[&str]) -> Hello {
    Hello {
        name: (!name.is_empty()).then(|| name.to_owned()),
        protocols: protocols.iter().map(|p| p.as_bytes().to_vec()).collect(),
    }
}

/// N7: the first that fits in the file's order, else the one for everybody, else nobody.
#[test]
fn routes_in_the_files_order() {
    let (any, none): (&[&str], &[&str]) = (&[], &[]);
    let targets: [When<'_>; 5] = [
        Some((&["*.shop.example"], &["h2"])),
        Some((&["api.shop.example", "shop.example"], none)),
        Some((&["*.shop.example"], none)),
        Some((any, &["mqtt", "h2"])),
        None,
    ];
    let with = lane(&targets);
    let without = lane(&targets[..4]);
    for (name, protocols, wanted) in [
        ("api.shop.example", &["http/1.1"][..], Some("1")),
        ("api.shop.example", &["http/1.1", "h2"], Some("0")),
        ("shop.example", &["h2"], Some("1")),
        ("a.b.shop.example", &[], Some("2")),
        ("othershop.example", &[], None),
        ("elsewhere.example", &["mqtt"], Some("3")),
        ("", &["h2"], Some("3")),
        ("", &[], None),
    ] {
        let hello = hello(name, protocols);
        let to = |lane: &Lane| route(lane, Some(&hello)).map(|r| r.service.name.to_string());
        assert_eq!(to(&with).unwrap(), wanted.unwrap_or("4"), "{name} {protocols:?}");
        assert_eq!(to(&without).ok().as_deref(), wanted, "{name} {protocols:?}");
    }
    assert_eq!(route(&with, None).unwrap().service.name.as_str(), "4", "no TLS");
    assert_eq!(route(&without, None).unwrap_err(), Refusal::Sni);
}

/// What `greeting` makes of these bytes, sent in pieces of this size and then nothing more.
async fn greeted(bytes: &[u8], piece: usize) -> Result<Greeting, Refusal> {
    let (mut client, mut downstream) = duplex(piece);
    let send = async {
        for part in bytes.chunks(piece) {
            if client.write_all(part).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        greeting = greeting(&mut downstream) => greeting,
        () = send => unreachable!(),
    }
}

/// A hello in one record with this name; the record's head, and the rest.
fn hello_bytes(name: &[u8]) -> Vec<u8> {
    let n = name.len() as u8;
    let list = [&[0, 0, 0, n + 5, 0, n + 3, 0, 0, n][..], name].concat();
    let body =
        [&[3, 3][..], &[9; 32], &[0, 0, 2, 0x13, 1, 1, 0, 0, list.len() as u8], &list].concat();
    [&[22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8][..], &body].concat()
}

/// N7: a client that speaks no TLS is let through with its first byte; one that stops within a hello
/// is refused after five seconds, one that sends too much at once.
#[tokio::test(start_paused = true)]
async fn greetings_that_are_none() {
    let greeting = greeted(b"S", 64).await.unwrap();
    assert_eq!((greeting.bytes.as_slice(), greeting.hello), (&b"S"[..], None));
    let bytes = hello_bytes(b"a.example");
    let start = tokio::time::Instant::now();
    assert_eq!(greeted(&bytes[..bytes.len() - 1], 64).await.unwrap_err(), Refusal::Hello);
    assert_eq!(start.elapsed(), PATIENCE);
    assert_eq!(greeted(b"", 64).await.unwrap_err(), Refusal::Hello, "silence");
    let flood = [&b"\x16\x03\x01\0\x01\x01"[..], &b"\x16\x03\x01\0\x01\0".repeat(20_000)].concat();
    let start = tokio::time::Instant::now();
    assert_eq!(greeted(&flood, 1000).await.unwrap_err(), Refusal::Hello);
    assert!(start.elapsed() < PATIENCE, "the cap ends it, not the clock");
    let (client, mut downstream) = duplex(64);
    drop(client);
    let gone = super::greeting(&mut downstream).await;
    assert_eq!(gone.unwrap_err(), Refusal::Hello);
}

/// N6: what the endpoint is told of the connection; a trusted peer's id goes on.
#[test]
fn announcements() {
    let ends = Ends { peer: "10.0.0.9:5".parse().unwrap(), local: "10.0.0.1:443".parse().unwrap() };
    let hello = hello("shop.example", &["h2"]);
    let id = || "0123-1".to_owned();
    let bytes = announce(ProxyVersion::V2, ends, id, None, Some(&hello));
    let Ok(proxy_protocol::Parsed::Header(first)) = proxy_protocol::parse(&bytes) else { panic!() };
    assert_eq!(first.field(UNIQUE_ID), Some(&b"0123-1"[..]));
    assert_eq!(first.field(AUTHORITY), Some(&b"shop.example"[..]));
    assert_eq!(first.field(ALPN), Some(&b"h2"[..]));
    let bytes = announce(ProxyVersion::V2, ends, || "other".to_owned(), Some(&first), None);
    let Ok(proxy_protocol::Parsed::Header(second)) = proxy_protocol::parse(&bytes) else {
        panic!()
    };
    assert_eq!(second.tlvs, first.tlvs);
    assert_eq!(
        announce(ProxyVersion::V1, ends, id, None, None),
        b"PROXY TCP4 10.0.0.9 10.0.0.1 5 443\r\n"
    );
}

proptest! {
    /// N7: however a hello is cut into segments, the route is the same and every byte is passed on.
    #[test]
    fn segments_do_not_matter(piece in 1_usize..200, more in prop::collection::vec(any::<u8>(), 0..50)) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let bytes = hello_bytes(b"A.Example.");
            let all = [bytes.as_slice(), &more].concat();
            let greeting = greeted(&all, piece).await.unwrap();
            assert_eq!(greeting.hello, Some(hello("a.example", &[])));
            assert!(greeting.bytes.len() >= bytes.len() && all.starts_with(&greeting.bytes));
        });
    }
}
