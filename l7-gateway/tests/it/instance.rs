//! A whole instance: sockets, TLS, HTTP/2, admin, drain, and refusals to start.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use common::tls::client::{Roots, config};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use l7_gateway::{Options, Running, start};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use topology::{At, Place, SecretRef, Topology};

use crate::fakes::{Act, Fake};
use crate::rig::local;

/// A folder with a certificate for `api.example`, its key, and a key of another one.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["api", "other"] {
        let made = generate_simple_self_signed(["api.example".to_owned()]).expect("a certificate");
        let CertifiedKey { cert, signing_key } = made;
        std::fs::write(folder.path().join(format!("{name}.pem")), cert.pem()).expect("written");
        std::fs::write(folder.path().join(format!("{name}.key")), signing_key.serialize_pem())
            .expect("written");
    }
    folder
}

pub(crate) fn text(listen: &str, upstream: SocketAddr, key: &str) -> String {
    format!(
        "aqueduct: 1
services:
  user: {{ endpoints: [{upstream}] }}
gateways:
  app:
    instances:
      gw: {{ listen: {listen}, admin: 127.0.0.1:0 }}
    access-log: off
    tls: {{ certificates: [{{ chain: file:api.pem, key: file:{key}.key }}] }}
    routes:
      - {{ path: /*, to: user }}
"
    )
}

fn parse(text: &str, folder: &Path) -> Arc<Topology> {
    let parsed = topology::parse("shop.yaml", text, folder);
    Arc::new(parsed.map_err(|problems| problems.to_string()).expect("a valid topology"))
}

pub(crate) async fn run(folder: &Path, upstream: SocketAddr) -> (Running, Options) {
    run_text(folder, &text("127.0.0.1:0", upstream, "api")).await
}

pub(crate) async fn run_text(folder: &Path, text: &str) -> (Running, Options) {
    let mut options = Options::new("gw");
    options.workers = NonZeroUsize::new(1);
    let topology = parse(text, folder);
    (start(topology, "gw", options.clone()).await.expect("it starts"), options)
}

pub(crate) async fn connect(
    folder: &Path,
    to: SocketAddr,
    alpn: &[u8],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let value = SecretRef::File(folder.join("api.pem"));
    let roots = Roots::Pem(At { value, place: Place::default() });
    let config = config(&roots, &[alpn]).expect("a client");
    let name = "api.example".try_into().expect("a name");
    let stream = TcpStream::connect(to).await.expect("connected");
    TlsConnector::from(config).connect(name, stream).await.expect("a handshake")
}

/// G3, G4: TLS with ALPN; HTTP/2 requests share a connection; a drain says goodbye and ends it.
#[tokio::test]
async fn http2_is_served_over_tls_and_drained() {
    local(async {
        let (folder, fake) = (folder(), Fake::new(Act::Answer("hello")).await);
        let (running, options) = run(folder.path(), fake.address).await;
        let stream = connect(folder.path(), running.listeners[0].1, b"h2").await;
        let (mut send, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        for _ in 0..3 {
            let request = Request::get("https://api.example/a")
                .body(Empty::<Bytes>::new())
                .expect("a request");
            let answer = send.send_request(request).await.expect("an answer");
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "hello");
        }
        let elsewhere =
            Request::get("https://evil.example/").body(Empty::<Bytes>::new()).expect("a request");
        assert_eq!(send.send_request(elsewhere).await.expect("an answer").status(), 421);
        let sent = fake.seen.last();
        assert!(
            sent.starts_with("GET /a HTTP/1.1\r\n") && sent.contains("host: api.example\r\n"),
            "{sent}"
        );
        assert!(sent.contains("x-forwarded-proto: https\r\n"), "{sent}");
        options.lifecycle.drain();
        connection.await.expect("no panic").expect("a goodbye, not a break");
        running.finished().await.expect("no panic");
    })
    .await;
}

/// O3: a drain finishes what was begun, says `connection: close`, and takes nothing new.
#[tokio::test]
async fn a_drain_finishes_what_was_begun() {
    local(async {
        let (folder, fake) = (folder(), Fake::new(Act::Silent).await);
        let (running, options) = run(folder.path(), fake.address).await;
        let address = running.listeners[0].1;
        let mut stream = connect(folder.path(), address, b"http/1.1").await;
        let post = b"POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 5\r\n\r\n";
        stream.write_all(post).await.expect("taken");
        while fake.seen.connections.get() == 0 {
            tokio::task::yield_now().await;
        }
        let mut admin =
            TcpStream::connect(running.admin.expect("an admin")).await.expect("connected");
        admin
            .write_all(b"GET /summary HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .expect("taken");
        let mut answer = String::new();
        admin.read_to_string(&mut answer).await.expect("an end");
        assert!(answer.contains("\"unit\":\"requests\",\"connections\":1"), "{answer}");
        options.lifecycle.drain();
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        stream.write_all(b"hello").await.expect("taken");
        while fake.seen.count() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(fake.seen.last().ends_with("hello"));
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// Issue 2: a certificate that does not match its key is reported where it stands in the file.
#[tokio::test]
async fn a_key_of_another_certificate_is_reported_at_its_place() {
    let folder = folder();
    let upstream = "127.0.0.1:9".parse().expect("an address");
    let topology = parse(&text("127.0.0.1:0", upstream, "other"), folder.path());
    let fault = start(topology, "gw", Options::new("gw")).await.expect_err("refused");
    let fault = fault.to_string();
    assert!(fault.starts_with("shop.yaml:9:"), "{fault}");
    assert!(fault.contains("does not match"), "{fault}");
}

/// O5: a busy port is reported where it stands, and nothing is left listening.
#[tokio::test]
async fn a_busy_port_is_reported_at_its_place() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("an address");
    let topology = parse(&text(&address.to_string(), address, "api"), folder.path());
    let fault = start(topology, "gw", Options::new("gw")).await.expect_err("refused").to_string();
    assert!(fault.starts_with("shop.yaml:7:"), "{fault}");
    assert!(fault.contains(&address.to_string()) && fault.contains("ss -ltnp"), "{fault}");
}

/// T3: an instance that the file does not have is named.
#[tokio::test]
async fn an_unknown_instance_is_named() {
    let folder = folder();
    let upstream = "127.0.0.1:9".parse().expect("an address");
    let topology = parse(&text("127.0.0.1:0", upstream, "api"), folder.path());
    let fault =
        start(topology, "gw-9", Options::new("gw-9")).await.expect_err("refused").to_string();
    assert!(fault.contains("'gw-9'"), "{fault}");
}
