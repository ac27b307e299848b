//! Interim answers (RFC 9110 §15.2): those of services stay here, those of ours come when they are due.

use http::{Method, Request};

use crate::fakes::{Act, Fake};
use crate::peers::{Fake2, Secure, frame, raw};
use crate::rig::{Rig, local, one, topology, until};
use crate::services2::http2;
use tokio::io::AsyncWriteExt as _;

/// G4: a few interim answers of a service are dropped, its final one passes; a thousand are no answer.
#[tokio::test]
async fn interim_answers_of_services_are_dropped() {
    local(async {
        const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let few =
            Fake::new(Act::Keep(Box::leak(format!("{}{last}", HINTS.repeat(3)).into()))).await;
        let many = Fake::new(Act::Keep(Box::leak(HINTS.repeat(1000).into()))).await;
        let head = frame(1, 4, 1, &[0x08, 3, b'1', b'0', b'3']);
        let answer = [frame(1, 4, 1, &[0x88]), frame(0, 1, 1, b"ok")].concat();
        let (few2, _) = raw(move |_, _| [head.repeat(3), answer.clone()].concat()).await;
        for topology in [one(few.address), http2(&[few2], "")] {
            let answer = Rig::new(&topology).get("/", "").await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("ok"), "{answer}");
            assert!(!answer.to_ascii_lowercase().contains("link:"), "{answer}");
        }
        let answer = Rig::new(&one(many.address)).get("/", "").await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
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
