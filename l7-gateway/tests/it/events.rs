//! Server-sent events: each arrives before the service has the next, whoever is slow beside it.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use http::{Request, Response, header};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;

use crate::peers::{Asked, Fake2, Secure};
use crate::rig::{Rig, local, topology, until};

/// How many events a stream has.
const EVENTS: usize = 20;

/// What a client that does not read is sent, at most: more than all buffers on its way hold.
const FLOOD: usize = 64 << 20;

/// Confirms events: the service sends none before the one before it was heard.
type Heard = Rc<Semaphore>;

fn event(number: usize) -> String {
    format!("id: {number}\ndata: event {number}\n\n")
}

/// A service that speaks HTTP/1.1.
async fn service(heard: Heard) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let heard = Rc::clone(&heard);
            spawn_local(async move {
                // Who reads slowly may leave in the middle.
                let _gone = answer(stream, &heard).await;
            });
        }
    });
    address
}

async fn answer(mut stream: TcpStream, heard: &Semaphore) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let start =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(start.as_bytes()).await?;
    if head.starts_with(b"GET /flood") {
        let chunk = format!("{:x}\r\n{}\r\n", 16 << 10, "f".repeat(16 << 10));
        for _ in 0..FLOOD / (16 << 10) {
            stream.write_all(chunk.as_bytes()).await?;
        }
        return Ok(());
    }
    for number in 0..EVENTS {
        heard.acquire().await.expect("open").forget();
        let text = event(number);
        stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await?;
    }
    heard.acquire().await.expect("open").forget();
    stream.write_all(b"0\r\n\r\n").await
}

/// A service that speaks HTTP/2.
async fn service2(heard: Heard) -> Fake2 {
    Fake2::new(100, move |asked| {
        let heard = Rc::clone(&heard);
        Box::pin(answer2(asked, heard))
    })
    .await
}

async fn answer2(mut asked: Asked, heard: Heard) {
    let head = Response::builder().header(header::CONTENT_TYPE, "text/event-stream");
    let head = head.body(()).expect("a head");
    let mut to = asked.respond.send_response(head, false).expect("open");
    if asked.request.uri().path() == "/flood" {
        to.send_data(vec![b'f'; FLOOD].into(), true).expect("open");
        return std::future::pending().await;
    }
    for number in 0..EVENTS {
        heard.acquire().await.expect("open").forget();
        to.send_data(event(number).into(), false).expect("open");
    }
    heard.acquire().await.expect("open").forget();
    to.send_data(Bytes::new(), true).expect("open");
}

/// The sections of a gateway before a service of this address, which speaks this protocol.
fn sections(address: SocketAddr, protocol: &str) -> (String, String) {
    let gateway = format!(
        "    upstreams: {{ user: {{ protocol: {protocol} }} }}\n    routes:\n      - {{ path: /*, to: user }}"
    );
    (format!("  user: {{ endpoints: [{address}] }}"), gateway)
}

async fn get(stream: &mut DuplexStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("taken");
    let head = until(stream, "\r\n\r\n").await;
    assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
}

async fn ask(client: &mut SendRequest<Bytes>, path: &str) -> RecvStream {
    let request = Request::get(format!("https://api.example{path}")).body(()).expect("a request");
    let mut ready = client.clone().ready().await.expect("a living connection");
    let (head, _) = ready.send_request(request, true).expect("open");
    let (head, body) = head.await.expect("the head comes before the first event").into_parts();
    assert_eq!(head.headers["content-type"], "text/event-stream");
    body
}

/// G4: over HTTP/2 each event arrives before the service sends the next, beside streams of the same
/// connection whose client reads nothing.
#[tokio::test]
async fn events_come_one_by_one_over_http2() {
    local(async {
        for protocol in ["http1", "http2"] {
            let heard = Heard::new(Semaphore::new(0));
            let fake2 = service2(Rc::clone(&heard)).await;
            let address =
                if protocol == "http1" { service(Rc::clone(&heard)).await } else { fake2.address };
            let (services, gateway) = sections(address, protocol);
            let secure = Secure::new(&services, &gateway);
            // Room for the slow streams beside the one that is read.
            let mut client =
                secure.client_as(Builder::new().initial_connection_window_size(1 << 20)).await;
            let mut slow = Vec::new();
            for _ in 0..3 {
                let (mut body, mut unread) = (ask(&mut client, "/flood").await, 0);
                while unread < 65_535 {
                    unread += body.data().await.expect("more").expect("whole").len();
                }
                slow.push(body);
            }
            let mut events = ask(&mut client, "/events").await;
            for number in 0..EVENTS {
                heard.add_permits(1);
                let (mut text, wanted) = (String::new(), event(number));
                while text.len() < wanted.len() {
                    let data = events.data().await.expect("more").expect("whole");
                    events.flow_control().release_capacity(data.len()).expect("taken");
                    text.push_str(std::str::from_utf8(&data).expect("text"));
                }
                assert_eq!(text, wanted);
            }
            heard.add_permits(1);
            while let Some(data) = events.data().await {
                assert!(data.expect("whole").is_empty());
            }
        }
    })
    .await;
}

/// G4: the same over HTTP/1.1, beside connections whose client reads nothing.
#[tokio::test]
async fn events_come_one_by_one_over_http1() {
    local(async {
        for protocol in ["http1", "http2"] {
            let heard = Heard::new(Semaphore::new(0));
            let fake2 = service2(Rc::clone(&heard)).await;
            let address =
                if protocol == "http1" { service(Rc::clone(&heard)).await } else { fake2.address };
            let (services, gateway) = sections(address, protocol);
            let rig = Rig::new(&topology(&services, &gateway));
            let mut slow = Vec::new();
            for _ in 0..3 {
                let (mut stream, _task) = rig.connect();
                get(&mut stream, "/flood").await;
                slow.push(stream);
            }
            let (mut stream, _task) = rig.connect();
            get(&mut stream, "/events").await;
            for number in 0..EVENTS {
                heard.add_permits(1);
                let text = until(&mut stream, &event(number)).await;
                assert_eq!(text.matches("data: ").count(), 1, "{text}");
            }
            heard.add_permits(1);
            until(&mut stream, "0\r\n\r\n").await;
        }
    })
    .await;
}
