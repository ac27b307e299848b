//! Listeners that move, promises of TLS that change, and a hundred changes under every kind of
//! traffic. Real sockets; no wall time.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use l7_gateway::{Connected, Options, Running, start};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use topology::Topology;

use crate::fakes::{Act, Fake};
use crate::instance::{connect, folder};
use crate::rig::local;

const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

/// What a file says.
struct Said {
    listen: String,
    to: SocketAddr,
    echo: SocketAddr,
    tls: &'static str,
}

const TLS: &str = "    tls: { certificates: [{ chain: file:api.pem, key: file:api.key }] }\n";
const MUTUAL: &str = "    tls: { certificates: [{ chain: file:api.pem, key: file:api.key }], client-ca: file:api.pem, client-certificates: optional }\n";

impl Said {
    fn parse(&self, folder: &Path, more: &str) -> Arc<Topology> {
        let text = format!(
            "aqueduct: 1
services:
  user: {{ endpoints: [{}] }}
  echo: {{ endpoints: [{}] }}
gateways:
  app:
    instances: {{ gw: {{ listen: \"{}\" }} }}
    access-log: off
    drain: 20s
{}    routes:
      - {{ name: all, path: /*, to: user }}
      - {{ name: ws, path: /ws, to: echo }}
{more}",
            self.to, self.echo, self.listen, self.tls
        );
        let parsed = topology::parse("shop.yaml", &text, folder);
        Arc::new(parsed.map_err(|problems| problems.to_string()).expect("a valid topology"))
    }
}

async fn run(topology: Arc<Topology>) -> (Running, Options) {
    let mut options = Options::new("gw");
    options.workers = NonZeroUsize::new(2);
    (start(topology, "gw", options.clone()).await.expect("it starts"), options)
}

/// Status line, headers and body of one request; the connection stays.
async fn get<IO: AsyncRead + AsyncWrite + Unpin>(stream: &mut IO) -> String {
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: api.example\r\n\r\n").await.expect("taken");
    let mut bytes = Vec::new();
    loop {
        let count = stream.read_buf(&mut bytes).await.expect("alive");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(count > 0, "ended with {text:?}");
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        if length.is_some_and(|length| length.parse() == Ok(body.len())) {
            assert!(text.starts_with("HTTP/1.1 200"), "{text}");
            return text;
        }
    }
}

/// A connection that has become a WebSocket.
async fn websocket<IO: AsyncRead + AsyncWrite + Unpin>(mut stream: IO) -> IO {
    let upgrade = b"GET /ws HTTP/1.1\r\nHost: api.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(upgrade).await.expect("taken");
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut bytes).await.expect("alive") > 0);
    }
    assert!(bytes.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&bytes));
    stream
}

async fn echo<IO: AsyncRead + AsyncWrite + Unpin>(stream: &mut IO) {
    stream.write_all(b"ping").await.expect("taken");
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.expect("alive");
    assert_eq!(&back, b"ping");
}

/// Reads to the end, which must be one.
async fn ends<IO: AsyncRead + Unpin>(stream: &mut IO) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("an end, not a break");
    assert!(rest.is_empty(), "{rest:?}");
}

/// T9: a listener moves to another address: the next request on a connection of the old one is answered
/// and says goodbye, a WebSocket goes on, the old address takes nothing new.
#[tokio::test]
async fn a_listener_moves() {
    local(async {
        let fakes = [Fake::new(Act::Answer("hello")).await, Fake::new(Act::Keep(SWITCHED)).await];
        let mut said = Said {
            listen: "127.0.0.1:0".to_owned(),
            to: fakes[0].address,
            echo: fakes[1].address,
            tls: "",
        };
        let here = Path::new(".");
        let (running, options) = run(said.parse(here, "")).await;
        let old = running.listeners[0].1;
        let mut kept = TcpStream::connect(old).await.expect("connected");
        assert!(!get(&mut kept).await.to_ascii_lowercase().contains("connection: close"));
        let mut socket = websocket(TcpStream::connect(old).await.expect("connected")).await;
        "127.0.0.2:0".clone_into(&mut said.listen);
        let change = running.handle().publish(said.parse(here, "")).await.expect("applied");
        let new = change.listen.expect("another address");
        assert!(change.waiting.is_empty() && new.ip().to_string() == "127.0.0.2", "{change:?}");
        let mut fresh = TcpStream::connect(new).await.expect("connected");
        assert!(get(&mut fresh).await.ends_with("hello"));
        assert!(get(&mut kept).await.to_ascii_lowercase().contains("connection: close"));
        ends(&mut kept).await;
        while TcpStream::connect(old).await.is_ok() {
            yield_now().await;
        }
        echo(&mut socket).await;
        // The same file once more changes nothing.
        let change = running.handle().publish(said.parse(here, "")).await.expect("applied");
        assert_eq!(change, l7_gateway::Change::default());
        assert!(get(&mut fresh).await.ends_with("hello"));
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// T9: an address that was given up a moment ago can be had again at once, though it may still be
/// closing.
#[tokio::test]
async fn a_listener_moves_to_and_fro() {
    local(async {
        let fake = Fake::new(Act::Answer("hello")).await;
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr();
        let port = free.expect("an address").port();
        let listen = |at: &str| format!("{at}:{port}");
        let mut said =
            Said { listen: listen("127.0.0.1"), to: fake.address, echo: fake.address, tls: "" };
        let (running, options) = run(said.parse(Path::new("."), "")).await;
        for at in ["127.0.0.2", "127.0.0.1", "127.0.0.2", "127.0.0.1"] {
            said.listen = listen(at);
            running.handle().publish(said.parse(Path::new("."), "")).await.expect("applied");
        }
        let mut stream = TcpStream::connect(&said.listen).await.expect("connected");
        assert!(get(&mut stream).await.ends_with("hello"));
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// T9, O5: an address that somebody has refuses the whole change, at its place.
#[tokio::test]
async fn a_busy_address_changes_nothing() {
    local(async {
        let fake = Fake::new(Act::Answer("hello")).await;
        let taken = TcpListener::bind("127.0.0.2:0").await.expect("a port");
        let mut said = Said {
            listen: "127.0.0.1:0".to_owned(),
            to: fake.address,
            echo: fake.address,
            tls: "",
        };
        let (running, options) = run(said.parse(Path::new("."), "")).await;
        said.listen = taken.local_addr().expect("an address").to_string();
        let more = "      - { name: gone, path: /a, to: user, sunset: 2020-01-01 }\n";
        let fault = running.handle().publish(said.parse(Path::new("."), more)).await;
        let fault = fault.expect_err("refused").to_string();
        assert!(fault.starts_with("shop.yaml:7:") && fault.contains("ss -ltnp"), "{fault}");
        let mut stream = TcpStream::connect(running.listeners[0].1).await.expect("connected");
        assert!(get(&mut stream).await.ends_with("hello"), "not 410");
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// T9, G3: TLS comes and goes on a listener that stays, and client certificates come to be asked for:
/// who is connected is asked to leave, by `Connection: close` or GOAWAY, who comes meets the new terms.
#[tokio::test]
async fn terms_change_on_a_listener() {
    local(async {
        let (folder, fake) = (folder(), Fake::new(Act::Answer("hello")).await);
        let mut said = Said {
            listen: "127.0.0.1:0".to_owned(),
            to: fake.address,
            echo: fake.address,
            tls: "",
        };
        let (running, options) = run(said.parse(folder.path(), "")).await;
        let (address, handle) = (running.listeners[0].1, running.handle());
        let mut plain = TcpStream::connect(address).await.expect("connected");
        get(&mut plain).await;
        said.tls = TLS;
        let change = handle.publish(said.parse(folder.path(), "")).await.expect("applied");
        assert_eq!((change.terms, change.listen), (Connected::Leave, None));
        assert_eq!(change.certificates, ["api.example"]);
        assert!(get(&mut plain).await.to_ascii_lowercase().contains("connection: close"));
        ends(&mut plain).await;
        let stream = connect(folder.path(), address, b"h2").await;
        let (mut send, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let request = Request::get("https://api.example/a").body(Empty::<Bytes>::new());
        let answer = send.send_request(request.expect("a request")).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        // The same terms: nobody leaves.
        let change = handle.publish(said.parse(folder.path(), "")).await.expect("applied");
        assert_eq!(change, l7_gateway::Change::default());
        assert!(!connection.is_finished());
        said.tls = MUTUAL;
        let change = handle.publish(said.parse(folder.path(), "")).await.expect("applied");
        assert_eq!(change.terms, Connected::Leave);
        connection.await.expect("no panic").expect("a goodbye, not a break");
        let mut stream = connect(folder.path(), address, b"http/1.1").await;
        get(&mut stream).await;
        said.tls = "";
        handle.publish(said.parse(folder.path(), "")).await.expect("applied");
        assert!(get(&mut stream).await.to_ascii_lowercase().contains("connection: close"));
        let mut plain = TcpStream::connect(address).await.expect("connected");
        get(&mut plain).await;
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// What a kind of client has got so far.
#[derive(Default)]
struct Got {
    count: Cell<u32>,
    last: RefCell<String>,
}

impl Got {
    fn note(&self, text: &str) {
        let body = text.rsplit("\r\n\r\n").next().unwrap_or_default();
        assert!(["one", "two"].contains(&body), "{text}");
        body.clone_into(&mut self.last.borrow_mut());
        self.count.set(self.count.get() + 1);
    }
}

/// T9, G12: a hundred steps under load: kept and fresh HTTP/1.1 connections, HTTP/2 and a WebSocket see
/// no failure, and each request after a step goes by it.
#[tokio::test]
async fn a_hundred_steps_disturb_nobody() {
    local(async {
        let folder = folder();
        let folder = folder.path();
        let fakes = [
            Fake::new(Act::Answer("one")).await,
            Fake::new(Act::Answer("two")).await,
            Fake::new(Act::Keep(SWITCHED)).await,
        ];
        let said = |round: usize| Said {
            listen: "127.0.0.1:0".to_owned(),
            to: fakes[round % 2].address,
            echo: fakes[2].address,
            tls: TLS,
        };
        let (running, options) = run(said(0).parse(folder, "")).await;
        let address = running.listeners[0].1;
        let got: [Rc<Got>; 4] = std::array::from_fn(|_| Rc::default());
        let kept = async {
            let mut stream = connect(folder, address, b"http/1.1").await;
            loop {
                got[0].note(&get(&mut stream).await);
            }
        };
        let fresh = async {
            loop {
                let mut stream = connect(folder, address, b"http/1.1").await;
                got[1].note(&get(&mut stream).await);
            }
        };
        let multiplexed = async {
            let stream = connect(folder, address, b"h2").await;
            let io = TokioIo::new(stream);
            let (mut send, connection) =
                http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
            tokio::spawn(connection);
            loop {
                let request = Request::get("https://api.example/a").body(Empty::<Bytes>::new());
                let answer = send.send_request(request.expect("a request")).await.expect("alive");
                assert_eq!(answer.status(), 200);
                let body = answer.into_body().collect().await.expect("a body").to_bytes();
                got[2].note(&String::from_utf8_lossy(&body));
            }
        };
        let tunnelled = async {
            let mut socket = websocket(connect(folder, address, b"http/1.1").await).await;
            loop {
                echo(&mut socket).await;
                got[3].count.set(got[3].count.get() + 1);
            }
        };
        let steps = async {
            for round in 0..100 {
                let change = running.handle().publish(said(round).parse(folder, "")).await;
                assert_eq!(change.expect("applied").terms, Connected::Stay);
                // The one under way may have begun before; the one after it has not.
                let before: Vec<u32> = got.iter().map(|got| got.count.get()).collect();
                while got.iter().zip(&before).any(|(got, before)| got.count.get() < before + 2) {
                    yield_now().await;
                }
                for got in &got[..3] {
                    assert_eq!(*got.last.borrow(), ["one", "two"][round % 2], "round {round}");
                }
            }
        };
        tokio::select! {
            () = steps => {}
            () = async { tokio::join!(kept, fresh, multiplexed, tunnelled); } => {}
        }
        assert!(got.iter().all(|got| got.count.get() >= 200));
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}
