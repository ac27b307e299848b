//! Interim answers (RFC 9110 §15.2): those of services pass to who knows them, ours come when they are due.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

use http::{Method, Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

use crate::fakes::{Act, Fake};
use crate::peers::{Fake2, Secure, frame, raw};
use crate::rig::{Rig, local, one, topology, until};
use crate::services2::http2;

const HINT: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nServer: inside\r\n\
    Keep-Alive: timeout=5\r\nX-Secret: 1\r\nConnection: X-Secret\r\nContent-Length: 7\r\n\r\n";
const LAST: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What HTTP/1.1 clients see of it.
const HEARD: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";

/// A service that answers as soon as it may.
async fn patient(go: &Rc<Notify>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, go) = (listener.local_addr().expect("an address"), Rc::clone(go));
    let task = spawn_local(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut asked).await.expect("a request");
        }
        stream.write_all(HINT.as_bytes()).await.expect("taken");
        go.notified().await;
        stream.write_all(LAST.as_bytes()).await.expect("taken");
    });
    (address, task)
}

/// The same over HTTP/2.
async fn patient2(go: &Rc<Notify>) -> Fake2 {
    let go = Rc::clone(go);
    let hint = || {
        let hint = Response::builder().status(103).header("link", "</a.css>; rel=preload");
        hint.header("server", "inside").body(()).expect("a head")
    };
    Fake2::new(100, move |mut asked| {
        let go = Rc::clone(&go);
        Box::pin(async move {
            asked.respond.send_informational(hint()).expect("open");
            go.notified().await;
            asked.answer("ok");
        })
    })
    .await
}

/// G4: hints reach a client while its answer is still being made, without what is of one connection or
/// names a server inside.
#[tokio::test]
async fn hints_pass_before_the_answer() {
    local(async {
        let go = Rc::new(Notify::new());
        let ((one_more, _task), fake2) = (patient(&go).await, patient2(&go).await);
        for topology in [one(one_more), http2(&[fake2.address], "")] {
            let rig = Rig::new(&topology);
            let (mut stream, _task) = rig.connect();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("taken");
            assert_eq!(until(&mut stream, "\r\n\r\n").await, HEARD);
            go.notify_one();
            let answer = until(&mut stream, "ok").await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("css"), "{answer}");
        }
    })
    .await;
}

/// G4, G13: what clients are not told of services they are not told in hints.
#[tokio::test]
async fn hints_name_nothing_inside() {
    local(async {
        let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX-Node: 3\r\nX-Powered-By: b\r\n\r\n";
        let fake = Fake::new(Act::Keep(Box::leak(format!("{hint}{LAST}").into()))).await;
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let routes = "    internal-headers: x-node\n    routes: [{ path: /*, to: user }]";
        let answer = Rig::new(&topology(&services, routes)).get("/", "").await;
        assert!(answer.starts_with(HEARD), "{answer}");
    })
    .await;
}

/// G4: who knows no interim answers gets none: HTTP/1.0 has none, and over HTTP/2 they are left out; nor
/// do those pass that speak of one connection.
#[tokio::test]
async fn hints_pass_only_to_those_who_know_them() {
    local(async {
        let text =
            format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n{HINT}{LAST}");
        let fake = Fake::new(Act::Keep(Box::leak(text.into()))).await;
        let answer = Rig::new(&one(fake.address)).raw("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"), "{answer}");
        let answer = Rig::new(&one(fake.address)).get("/", "").await;
        let rest = answer.strip_prefix("HTTP/1.1 102 Processing\r\n\r\n");
        let rest = rest.and_then(|rest| rest.strip_prefix(HEARD)).expect(&answer);
        assert!(rest.starts_with("HTTP/1.1 200 ") && rest.ends_with("ok"), "{answer}");
        let secure = Secure::new(
            &format!("  user: {{ endpoints: [{}] }}", fake.address),
            "    routes:\n      - { path: /*, to: user }",
        );
        let mut client = secure.client().await;
        let ask = Request::get("https://api.example/").body(()).expect("a request");
        let (mut head, _) = client.send_request(ask, true).expect("open");
        assert!(poll_fn(|cx| head.poll_informational(cx)).await.is_none());
        assert_eq!(head.await.expect("an answer").status(), 200);
    })
    .await;
}

/// G4: hints are few and small; a service that sends them without an end is cut off, and one that sent
/// some and broke is asked again.
#[tokio::test]
async fn hints_are_bounded_and_stop_no_retry() {
    local(async {
        let count = |answer: &str| answer.matches("HTTP/1.1 103 ").count();
        let endless = Fake::new(Act::Keep(Box::leak(HINT.repeat(1000).into()))).await;
        let head = frame(1, 4, 1, &[0x08, 3, b'1', b'0', b'3']);
        let (endless2, _) = raw(move |_, _| head.repeat(100)).await;
        for topology in [one(endless.address), http2(&[endless2], "")] {
            let answer = Rig::new(&topology).get("/", "").await;
            assert!(answer.contains("HTTP/1.1 502 ") && count(&answer) <= 16, "{answer}");
        }
        let large =
            format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n{LAST}", "x".repeat(17 << 10));
        let large = Fake::new(Act::Keep(Box::leak(large.into()))).await;
        let answer = Rig::new(&one(large.address)).get("/", "").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let breaks = Fake::script(|n, _| Act::Raw(if n == 1 { HINT } else { LAST })).await;
        let rig = Rig::new(&one(breaks.address));
        let answer = rig.get("/", "").await;
        assert!(answer.starts_with(HEARD) && answer.ends_with("ok"), "{answer}");
        assert_eq!((count(&answer), breaks.seen.count()), (1, 2));
    })
    .await;
}

/// G4: a client that waits to be told to go on is told when its body is wanted, and not when the answer
/// is there without it.
#[tokio::test]
async fn clients_are_told_to_go_on_when_their_body_is_wanted() {
    local(async {
        let fake = Fake::new(Act::Answer("ok")).await;
        let rig = Rig::new(&topology(
            &format!("  user: {{ endpoints: [{}] }}", fake.address),
            "    routes:\n      - { path: /in, to: user }",
        ));
        let ask = |path: &str| {
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        };
        let (mut stream, _task) = rig.connect();
        stream.write_all(ask("/in").as_bytes()).await.expect("taken");
        until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
        stream.write_all(b"hi").await.expect("taken");
        let answer = until(&mut stream, "ok").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let sent = fake.seen.last();
        assert!(sent.ends_with("hi") && !sent.to_ascii_lowercase().contains("expect"), "{sent}");
        stream.write_all(ask("/out").as_bytes()).await.expect("taken");
        let answer = until(&mut stream, "no_route").await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    })
    .await;
}

/// G4: over HTTP/2 a final answer comes before, and without, the body.
#[tokio::test]
async fn final_answers_do_not_wait_for_bodies() {
    local(async {
        let fake = Fake2::new(100, |mut asked| Box::pin(async move { asked.answer("enough") })).await;
        let secure = Secure::new(
            &format!("  user: {{ endpoints: [{}] }}", fake.address),
            "    upstreams: { user: { protocol: http2 } }\n    routes:\n      - { path: /in, to: user }",
        );
        let mut client = secure.client().await;
        for (path, status) in [("/in", 200), ("/out", 404)] {
            let ask = Request::builder().method(Method::PUT).uri(format!("https://api.example{path}"));
            let ask = ask.header("expect", "100-continue").body(()).expect("a request");
            let (head, _to) = client.send_request(ask, false).expect("open");
            assert_eq!(head.await.expect("an answer").status(), status);
        }
        assert_eq!(fake.seen.header("expect"), None);
    })
    .await;
}
