//! Changes of the file while requests run. Real sockets; no wall time.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use common::tls::client::{Roots, config};
use l7_gateway::{Change, Options, Running, start};
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use topology::{At, Place, SecretRef, Topology};

use crate::fakes::{Act, Fake};
use crate::instance::folder;
use crate::rig::local;

/// A file whose route `all` leads to this service; `more` are further routes.
fn file(to: SocketAddr, more: &str) -> String {
    format!(
        "aqueduct: 1
services:
  user: {{ endpoints: [{to}], health: tcp }}
gateways:
  app:
    instances:
      gw: {{ listen: 127.0.0.1:0 }}
    access-log: off
    routes:
      - {{ name: all, path: /*, to: user }}
{more}"
    )
}

fn parse(text: &str) -> Arc<Topology> {
    let parsed = topology::parse("shop.yaml", text, Path::new("."));
    Arc::new(parsed.map_err(|problems| problems.to_string()).expect("a valid topology"))
}

async fn run(text: &str) -> (Running, Options) {
    let mut options = Options::new("gw");
    options.workers = NonZeroUsize::new(2);
    (start(parse(text), "gw", options.clone()).await.expect("it starts"), options)
}

async fn get(stream: &mut TcpStream, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("taken");
    let mut text = String::new();
    loop {
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes).await.expect("alive");
        assert!(count > 0, "ended with {text:?}");
        text.push_str(std::str::from_utf8(&bytes[..count]).expect("text"));
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if length.is_some_and(|length| length.parse() == Ok(body.len())) {
            let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
            return (status.expect("a status"), body.to_owned());
        }
    }
}

/// T9: a changed file holds for the next request, also on a connection that was open before; what
/// changed is said; what ran is not disturbed.
#[tokio::test]
async fn a_change_holds_for_the_next_request() {
    local(async {
        let [one, two] = [Fake::new(Act::Answer("one")).await, Fake::new(Act::Answer("two")).await];
        let (running, options) = run(&file(one.address, "")).await;
        let mut stream = TcpStream::connect(running.listeners[0].1).await.expect("connected");
        assert_eq!(get(&mut stream, "/a").await, (200, "one".to_owned()));
        let handle = running.handle();
        let more = "      - { name: gone, path: /gone, to: user, sunset: 2020-01-01 }\n";
        let change = handle.publish(parse(&file(two.address, more))).await.expect("applied");
        let (added, services) = (vec!["gone".to_owned()], vec!["user".to_owned()]);
        assert_eq!(change, Change { added, services, ..Change::default() });
        assert_eq!(get(&mut stream, "/a").await, (200, "two".to_owned()));
        assert_eq!(get(&mut stream, "/gone").await.0, 410);
        // The same again, further down in the file, changes nothing, and connections are kept.
        let moved = format!("# a line\n{}", file(two.address, more));
        let change = handle.publish(parse(&moved)).await.expect("applied");
        assert_eq!(change, Change::default());
        assert_eq!(get(&mut stream, "/a").await, (200, "two".to_owned()));
        let requests = two.seen.requests.take();
        assert!(requests.iter().all(|(connection, _)| *connection == requests[0].0));
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// T9: a hundred changes under load fail no request; each answer is one of the two that the file
/// said in turn.
#[tokio::test]
async fn a_hundred_reloads_fail_nothing() {
    local(async {
        let [one, two] = [Fake::new(Act::Answer("one")).await, Fake::new(Act::Answer("two")).await];
        let (running, options) = run(&file(one.address, "")).await;
        let (address, handle) = (running.listeners[0].1, running.handle());
        let done = std::rc::Rc::new(std::cell::Cell::new(false));
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..8 {
            let done = done.clone();
            clients.spawn_local(async move {
                let mut stream = TcpStream::connect(address).await.expect("connected");
                let mut count = 0;
                while !done.get() {
                    let (status, body) = get(&mut stream, "/x").await;
                    assert!(status == 200 && ["one", "two"].contains(&body.as_str()), "{body}");
                    count += 1;
                    if number % 2 == 0 {
                        stream = TcpStream::connect(address).await.expect("connected");
                    }
                }
                count
            });
        }
        for round in 0..100 {
            let to = if round % 2 == 0 { two.address } else { one.address };
            handle.publish(parse(&file(to, ""))).await.expect("applied");
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
        done.set(true);
        let counts = clients.join_all().await;
        assert!(counts.iter().all(|&count: &u32| count > 0), "{counts:?}");
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// T9, O5: a file with a problem, or one that names what is not there, is refused whole; what ran
/// goes on, and keys that need a restart are named.
#[tokio::test]
async fn what_cannot_be_applied_changes_nothing() {
    local(async {
        let fake = Fake::new(Act::Answer("one")).await;
        let (running, options) = run(&file(fake.address, "")).await;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("shop.yaml");
        std::fs::write(&path, "gateways: [").expect("written");
        let handle = running.handle();
        handle.reload(&path).await;
        let tls = "    tls: { certificates: [{ chain: file:none.pem, key: file:none.key }] }\n";
        let fault = handle.publish(parse(&file(fake.address, tls))).await.expect_err("refused");
        assert!(fault.to_string().starts_with("shop.yaml:11:"), "{fault}");
        let text = options.observer.metrics.render();
        assert!(text.contains("aqueduct_reloads_total{outcome=\"refused\"} 1"), "{text}");
        let log = file(fake.address, "").replace("access-log: off", "access-log: stdout");
        let change = handle.publish(parse(&log)).await.expect("applied");
        assert_eq!(change.waiting, ["access-log"]);
        let mut stream = TcpStream::connect(running.listeners[0].1).await.expect("connected");
        assert_eq!(get(&mut stream, "/a").await.0, 200);
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// T9, G3: a certificate that was replaced in its file is shown after a reload, and sessions that were
/// begun before it are resumed.
#[tokio::test]
async fn certificates_are_read_again_and_tickets_kept() {
    local(async {
        let (folder, fake) = (folder(), Fake::new(Act::Answer("hello")).await);
        let (running, options) = crate::instance::run(folder.path(), fake.address).await;
        let address = running.listeners[0].1;
        let value = SecretRef::File(folder.path().join("api.pem"));
        let roots = Roots::Pem(At { value, place: Place::default() });
        // One configuration for all connections: it keeps the tickets.
        let connector = TlsConnector::from(config(&roots, &[b"http/1.1"]).expect("a client"));
        let fresh = config(&roots, &[b"http/1.1"]).expect("a client");
        let name: ServerName<'static> = "api.example".try_into().expect("a name");
        let ask = async |name: ServerName<'static>| {
            let stream = TcpStream::connect(address).await.expect("connected");
            let mut stream = connector.connect(name, stream).await?;
            let get = b"GET /a HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\r\n";
            stream.write_all(get).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            assert!(answer.ends_with("hello"), "{answer}");
            Ok::<_, std::io::Error>(stream.get_ref().1.handshake_kind())
        };
        assert_eq!(ask(name.clone()).await.expect("served"), Some(HandshakeKind::Full));
        assert_eq!(ask(name.clone()).await.expect("served"), Some(HandshakeKind::Resumed));
        let file = folder.path().join("shop.yaml");
        std::fs::write(&file, crate::instance::text("127.0.0.1:0", fake.address, "api"))
            .expect("written");
        running.handle().reload(&file).await;
        assert_eq!(ask(name.clone()).await.expect("served"), Some(HandshakeKind::Resumed));
        // Another certificate in the same files: who knows only the old one does not believe it.
        for end in ["pem", "key"] {
            std::fs::copy(
                folder.path().join(format!("other.{end}")),
                folder.path().join(format!("api.{end}")),
            )
            .expect("copied");
        }
        running.handle().reload(&file).await;
        let fresh = TlsConnector::from(fresh);
        let stream = TcpStream::connect(address).await.expect("connected");
        let refused = fresh.connect(name, stream).await.expect_err("another certificate");
        assert!(refused.to_string().contains("certificate"), "{refused}");
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}
