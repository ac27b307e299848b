//! TLS in: client certificates, names, and certificates that change while connections live.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use common::tls::client::{Roots, config, for_service};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use topology::gateway::UpstreamTls;
use topology::tls::Certificate;
use topology::{At, Place, SecretRef, Topology};

use l7_gateway::snapshot::Snapshot;

use crate::fakes::{Act, Fake};
use crate::instance::{folder, text};
use crate::rig::{Rig, client, local};

fn reference(folder: &Path, name: &str) -> At<SecretRef> {
    At { value: SecretRef::File(folder.join(name)), place: Place::default() }
}

/// A client's certificate that is its own authority.
fn somebody(folder: &Path, uri: &str) {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
    let key = KeyPair::generate().expect("a key");
    let made = params.self_signed(&key).expect("signed");
    std::fs::write(folder.join("me.pem"), made.pem()).expect("written");
    std::fs::write(folder.join("me.key"), key.serialize_pem()).expect("written");
}

/// A client that trusts the gateway, with that certificate or without.
fn trusting(folder: &Path, shows: bool) -> Arc<ClientConfig> {
    let pair = Certificate { chain: reference(folder, "me.pem"), key: reference(folder, "me.key") };
    let tls = UpstreamTls {
        ca: Some(reference(folder, "api.pem")),
        certificate: shows.then_some(pair),
        name: None,
    };
    for_service(&tls, &[b"http/1.1"]).expect("a client")
}

fn parse(text: &str, folder: &Path) -> Topology {
    let parsed = topology::parse("shop.yaml", text, folder);
    parsed.map_err(|problems| problems.to_string()).expect("a valid topology")
}

fn mutual(folder: &Path, to: SocketAddr, more: &str) -> Rig {
    let text = text("127.0.0.1:0", to, "api");
    let text = text.replace("api.key }] }", &format!("api.key }}], {more} }}"));
    Rig::new(&parse(&text, folder))
}

async fn connect(rig: &Rig, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<DuplexStream>> {
    let (ours, _task) = rig.connect();
    let name: ServerName<'static> = "api.example".try_into().expect("a name");
    TlsConnector::from(config).connect(name, ours).await
}

/// One request for this host; the connection stays.
async fn get(stream: &mut TlsStream<DuplexStream>, host: &str) -> std::io::Result<String> {
    let request = format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains("\r\n\r\n") {
        if stream.read_buf(&mut bytes).await? == 0 {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// G3: who a verified certificate says the client is, stands in the record; who shows none gets
/// nothing, and that is counted.
#[tokio::test]
async fn the_record_names_the_principal() {
    local(async {
        let (folder, fake) = (folder(), Fake::new(Act::Answer("hello")).await);
        let id = "spiffe://prod.example/cart";
        somebody(folder.path(), id);
        let mut rig = mutual(folder.path(), fake.address, "client-ca: file:me.pem");
        let mut known = connect(&rig, trusting(folder.path(), true)).await.expect("a handshake");
        let answer = get(&mut known, "api.example").await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // In TLS 1.3 a client has finished before it hears that it is refused.
        let unknown = connect(&rig, trusting(folder.path(), false)).await;
        let refused = match unknown {
            Ok(mut stream) => get(&mut stream, "api.example").await.map(|text| text.is_empty()),
            Err(fault) => Err(fault),
        };
        assert!(refused.is_err() || refused.is_ok_and(|nothing| nothing));
        let text = rig.observer.metrics.render();
        let counted = "aqueduct_http_refused_total{reason=\"no_certificate\"} 1";
        assert!(text.contains(counted), "{text}");
        drop(known);
        let records = rig.records();
        assert_eq!(records.len(), 1, "{records:?}");
        assert_eq!(records[0]["principal"], id);
    })
    .await;
}

/// G21: a route may take the client's certificate for who it is; the record then has no user, and who
/// shows none is refused by the route alone.
#[tokio::test]
async fn a_certificate_says_who_calls() {
    local(async {
        let (folder, fake) = (folder(), Fake::new(Act::Answer("hello")).await);
        somebody(folder.path(), "spiffe://prod.example/cart");
        let text = text("127.0.0.1:0", fake.address, "api");
        let more = "client-ca: file:me.pem, client-certificates: optional";
        let text = text.replace("api.key }] }", &format!("api.key }}], {more} }}"));
        let route = "    limits: { caller: { by: user, rate: 2/h } }\n    routes:\n      \
                     - { path: /a, to: user, auth: certificate, limits: [caller] }\n";
        let text = text.replace("    routes:\n", route);
        let mut rig = Rig::new(&parse(&text, folder.path()));
        let mut known = connect(&rig, trusting(folder.path(), true)).await.expect("a handshake");
        for expected in ["200", "200", "429"] {
            let answer = get(&mut known, "api.example").await.expect("an answer");
            assert_eq!(answer.split(' ').nth(1), Some(expected), "{answer}");
            assert!(!fake.seen.last().to_ascii_lowercase().contains("x-user-id"));
        }
        let mut unknown = connect(&rig, trusting(folder.path(), false)).await.expect("a handshake");
        let answer = get(&mut unknown, "api.example").await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert_eq!(fake.seen.count(), 2);
        drop((known, unknown));
        let records = rig.records();
        assert_eq!(records[0]["principal"], "spiffe://prod.example/cart");
        assert!(records.iter().all(|record| record["userId"].is_null()));
    })
    .await;
}

/// G3: on HTTP/1.1 too a host that the shown certificate does not cover is 421, and one that it does is
/// served on the same connection.
#[tokio::test]
async fn another_host_is_misdirected() {
    local(async {
        let (folder, fake) = (folder(), Fake::new(Act::Answer("hello")).await);
        let rig = Rig::new(&parse(&text("127.0.0.1:0", fake.address, "api"), folder.path()));
        let roots = Roots::Pem(reference(folder.path(), "api.pem"));
        let config = config(&roots, &[b"http/1.1"]).expect("a client");
        for (host, status) in [
            ("api.example", "200"),
            ("API.example:443", "200"),
            ("evil.example", "421"),
            ("127.0.0.1", "421"),
        ] {
            let mut stream = connect(&rig, Arc::clone(&config)).await.expect("a handshake");
            let answer = get(&mut stream, host).await.expect("an answer");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {answer}");
        }
        // Without SNI there is nothing to be misdirected from.
        let mut silent = (*config).clone();
        silent.enable_sni = false;
        let mut stream = connect(&rig, Arc::new(silent)).await.expect("a handshake");
        let answer = get(&mut stream, "evil.example").await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    })
    .await;
}

/// G3: a handshake that is not finished in time is over, and is counted.
#[tokio::test(start_paused = true)]
async fn a_slow_handshake_ends() {
    local(async {
        let folder = folder();
        let upstream = "127.0.0.1:9".parse().expect("an address");
        let rig = Rig::new(&parse(&text("127.0.0.1:0", upstream, "api"), folder.path()));
        let (mut ours, theirs) = duplex(1024);
        let (worker, shutdown) = (std::rc::Rc::clone(&rig.worker), rig.lifecycle.shutdown());
        ours.write_all(&[0x16, 3, 1, 0, 200]).await.expect("taken");
        // Five seconds of the paused clock.
        worker.serve(theirs, client(), shutdown).await;
        let text = rig.observer.metrics.render();
        assert!(text.contains("reason=\"handshake_timeout\"} 1"), "{text}");
    })
    .await;
}

/// G3, T9: a handshake that has begun ends as it began, with the certificate that was shown then,
/// whatever is published meanwhile; the next one meets the new certificate.
#[tokio::test]
async fn a_handshake_under_way_is_finished() {
    local(async {
        let (folder, fake) = (folder(), Fake::new(Act::Answer("hello")).await);
        let folder = folder.path();
        let topology = parse(&text("127.0.0.1:0", fake.address, "api"), folder);
        let rig = Rig::new(&topology);
        // Of its own, without a session to resume.
        let (config, other) = (trusting(folder, false), trusting(folder, false));
        let (near, far) = duplex(64 * 1024);
        let name: ServerName<'static> = "api.example".try_into().expect("a name");
        let shaking = TlsConnector::from(config).connect(name, near);
        let shaking = tokio::task::spawn_local(shaking);
        let mut far = far;
        let mut hello = [0; 8192];
        let length = far.read(&mut hello).await.expect("a hello");
        let (mut gateway, _task) = rig.connect();
        gateway.write_all(&hello[..length / 2]).await.expect("taken");
        // It has taken what there is, and waits for the rest.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        for end in ["pem", "key"] {
            let [from, to] = ["other", "api"].map(|name| folder.join(format!("{name}.{end}")));
            std::fs::copy(from, to).expect("copied");
        }
        let (group, instance) = topology.gateway("gw").expect("the instance");
        let before = rig.published.load_full();
        let next = Snapshot::build(group, &instance.name, &rig.observer, Some(&before));
        rig.published.publish(next.expect("it builds"));
        gateway.write_all(&hello[length / 2..length]).await.expect("taken");
        let _between = tokio::task::spawn_local(async move {
            // It ends with its connections.
            let _ended = tokio::io::copy_bidirectional(&mut far, &mut gateway).await;
        });
        let mut stream = shaking.await.expect("no panic").expect("the old certificate");
        let answer = get(&mut stream, "api.example").await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        connect(&rig, other).await.expect_err("a certificate that it does not know");
    })
    .await;
}

/// G3, G16: what one client's certificate was told of stands in for no other's, whatever services are told of it.
#[tokio::test]
async fn certificates_tell_callers_apart() {
    local(async {
        for told in ["", ", transform: { request: { headers: { set: { x-of: '${principal}' } } } }"]
        {
            let folder = folder();
            let mut pems = String::new();
            let mut client = |uri: &str| {
                somebody(folder.path(), uri);
                let pem = std::fs::read_to_string(folder.path().join("me.pem"));
                pems.push_str(&pem.expect("written"));
                trusting(folder.path(), true)
            };
            let (cart, shop) = (client("spiffe://a.example/cart"), client("spiffe://a.example/shop"));
            std::fs::write(folder.path().join("both.pem"), pems).expect("written");
            let fake = Fake::script(|connection, n| match (connection, n) {
                (1, 1) => Act::Answer("\"mine\""),
                _ => Act::Hang,
            })
            .await;
            let text = text("127.0.0.1:0", fake.address, "api");
            let text = text.replace("api.key }] }", "api.key }], client-ca: file:both.pem }");
            let route = format!(
                "path: /*{told}, aggregate: {{ calls: {{ a: {{ to: user, path: /a, on-failure: last-good }} }} }}"
            );
            let text = text.replace("path: /*, to: user", &route);
            let rig = Rig::new(&parse(&text, folder.path()));
            let mut cart = connect(&rig, cart).await.expect("a handshake");
            let mut shop = connect(&rig, shop).await.expect("a handshake");
            let whole = "content-length: 12\r\n";
            let first = get(&mut cart, "api.example").await.expect("an answer");
            assert!(first.contains(whole) && !first.contains("x-partial-failure"), "{first}");
            let other = get(&mut shop, "api.example").await.expect("an answer");
            assert!(other.contains("content-length: 2\r\n"), "{told}: {other}");
            let same = get(&mut cart, "api.example").await.expect("an answer");
            assert!(same.contains(whole) && same.contains("x-partial-failure"), "{told}: {same}");
        }
    })
    .await;
}
