//! WebSocket over HTTP/2 (RFC 8441): an extended CONNECT on one side, an upgrade on the other.

use std::net::SocketAddr;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use crate::peers::{Secure, rest};
use crate::rig::local;

/// Answers an upgrade with a proof made of `salt`, greets, then says everything again.
async fn service(salt: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            spawn_local(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("a head"));
                }
                let head = String::from_utf8(head).expect("text");
                assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
                assert!(head.contains("connection: upgrade\r\nupgrade: websocket\r\n"), "{head}");
                assert!(head.contains("sec-websocket-version: 13\r\n"), "{head}");
                let key =
                    head.split("sec-websocket-key: ").nth(1).and_then(|rest| rest.lines().next());
                let text = format!("{}{salt}", key.expect("a key"));
                let proof = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
                let proof = base64::engine::general_purpose::STANDARD.encode(proof);
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: {proof}\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello"
                );
                let (mut from, mut to) = stream.into_split();
                to.write_all(answer.as_bytes()).await.expect("taken");
                // However it ends.
                let _ended = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

const SALT: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

fn gateway(address: SocketAddr, path: &str) -> Secure {
    let services = format!("  user: {{ endpoints: [{address}] }}");
    Secure::new(&services, &format!("    routes:\n      - {{ path: {path}, to: user }}"))
}

/// Asks for a WebSocket, once the gateway has said that it knows them.
async fn ask(client: &mut SendRequest<Bytes>) -> (ResponseFuture, SendStream<Bytes>) {
    while !client.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    let mut ask = Request::builder()
        .method(Method::CONNECT)
        .uri("https://api.example/chat")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .body(())
        .expect("a request");
    ask.extensions_mut().insert(Protocol::from_static("websocket"));
    client.send_request(ask, false).expect("open")
}

async fn hears(body: &mut RecvStream, words: &[u8]) {
    let mut heard = Vec::new();
    while heard.len() < words.len() {
        let data = body.data().await.expect("open").expect("whole");
        body.flow_control().release_capacity(data.len()).expect("taken");
        heard.extend_from_slice(&data);
    }
    assert_eq!(heard, words);
}

/// G4, O3: bytes pass both ways, those that came with the 101 first; a drain lets the tunnel end by
/// itself.
#[tokio::test]
async fn websockets_pass_over_http2() {
    local(async {
        let mut secure = gateway(service(SALT).await, "/chat");
        let mut client = secure.client().await;
        let (head, mut to) = ask(&mut client).await;
        let head = head.await.expect("an answer");
        assert_eq!(head.status(), 200);
        assert_eq!(head.headers()["sec-websocket-protocol"], "chat");
        for gone in ["connection", "upgrade", "sec-websocket-accept"] {
            assert!(!head.headers().contains_key(gone), "{gone}");
        }
        let mut body = head.into_body();
        hears(&mut body, b"hello").await;
        to.send_data(Bytes::from_static(b"\x81\x03one"), false).expect("open");
        hears(&mut body, b"\x81\x03one").await;
        secure.rig.lifecycle.drain();
        to.send_data(Bytes::from_static(b"\x81\x03two"), false).expect("open");
        hears(&mut body, b"\x81\x03two").await;
        to.send_data(Bytes::new(), true).expect("open");
        assert_eq!(rest(&mut body).await.expect("an end"), (Vec::new(), None));
        drop((client, body, to));
        // Its tasks end after the last byte.
        while !secure.rig.observer.metrics.render().contains("status=\"101\"") {
            tokio::task::yield_now().await;
        }
        let record = &secure.rig.records()[0];
        assert_eq!((&record["status"], &record["bytes_out"]), (&101.into(), &10.into()));
        assert_eq!(record["complete"], true);
    })
    .await;
}

/// G23: a stream does not become a tunnel to who has not understood, or to nobody.
#[tokio::test]
async fn websockets_need_a_proof() {
    local(async {
        let secure = gateway(service("another").await, "/chat");
        let mut client = secure.client().await;
        let (head, _to) = ask(&mut client).await;
        assert!(head.await.expect_err("a reset").is_reset());
        let fake = crate::fakes::Fake::new(crate::fakes::Act::Answer("no")).await;
        let secure = gateway(fake.address, "/chat");
        let mut client = secure.client().await;
        let (head, _to) = ask(&mut client).await;
        assert!(head.await.expect_err("a reset").is_reset());
        let secure = gateway(fake.address, "/other");
        let mut client = secure.client().await;
        let (head, _to) = ask(&mut client).await;
        assert_eq!(head.await.expect("an answer").status(), 404);
        let plain = Request::builder().method(Method::CONNECT).uri("api.example:443");
        let plain = plain.body(()).expect("a request");
        let (head, _to) = client.send_request(plain, false).expect("open");
        assert_eq!(head.await.expect("an answer").status(), 400);
    })
    .await;
}
