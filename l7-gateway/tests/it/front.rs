//! The strict front: framing, hosts, paths, sizes, time.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, one, topology, until};

/// G23: what others could read differently is answered 400 (408, 414, 431) and reaches no service.
#[tokio::test]
async fn ambiguous_requests_are_refused_and_forwarded_to_nobody() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let mut rig = Rig::new(&one(fake.address));
        let get = |line: &str| format!("GET /v HTTP/1.1\r\nHost: a\r\n{line}\r\n");
        let path = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let cases = [
            (get("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400),
            (get("Content-Length: 5\r\nContent-Length: 5\r\n"), 400),
            (get("Transfer-Encoding: xchunked\r\n"), 400),
            (get("Transfer-Encoding: chunked, identity\r\n"), 400),
            (get("Host: b\r\n"), 400),
            (get("X: a\r\n b\r\n"), 400),
            (get("X: a\n"), 400),
            (get("X : a\r\n"), 400),
            ("GET /v HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("GET http://b/v HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
            ("GET /v HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 400),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".to_owned(), 400),
            ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 400),
            ("GET /\r\n\r\n".to_owned(), 400),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
            (path("/a/../b"), 400),
            (path("/a/%2e%2e/b"), 400),
            (path("/a%2f..%2fb"), 400),
            (path("/a%5cb"), 400),
            (path("/a\\b"), 400),
            (path("/a#b"), 400),
            (path("/a%00"), 400),
            (path("/a/..;/b"), 400),
            (path(&format!("/{}", "x".repeat(9000))), 414),
            (get(&"X: 1\r\n".repeat(150)), 431),
            (get(&format!("X: {}\r\n", "y".repeat(70_000))), 431),
        ];
        for (request, status) in &cases {
            let answer = rig.raw(request).await;
            let line = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&line), "{request:?} gave {answer:?}");
            assert!(answer.contains("application/problem+json"), "{answer:?}");
        }
        assert_eq!(fake.seen.count(), 0);
        assert_eq!(rig.records().len(), cases.len(), "each has a record");
    })
    .await;
}

/// G23: the canonical path is what the service is sent.
#[tokio::test]
async fn one_canonical_path_is_matched_and_forwarded() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let rig = Rig::new(&topology(
            &format!("  user: {{ endpoints: [{}] }}", fake.address),
            "    routes:\n      - { path: /admin/*, to: user }",
        ));
        let answer = rig.get("//admin//%41%7e?q=%2f#", "").await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        let answer = rig.get("//admin//%41%7e?q=%2f", "").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(fake.seen.last().starts_with("GET /admin/A~?q=%2f HTTP/1.1\r\n"));
    })
    .await;
}

/// G23, issue 2: the worker on a paused clock and in-memory streams: slow headers are 408.
#[tokio::test(start_paused = true)]
async fn headers_that_do_not_come_are_408() {
    local(async {
        let rig = Rig::new(&one("127.0.0.1:9".parse().expect("an address")));
        let (mut stream, task) = rig.connect();
        let begun = Instant::now();
        stream.write_all(b"GET / HTTP/1.1\r\nHost:").await.expect("taken");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an end");
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        assert_eq!(begun.elapsed().as_secs(), 10);
        drop(stream);
        task.await.expect("no panic");
    })
    .await;
}

/// G23: a byte now and then does not keep a head alive.
#[tokio::test(start_paused = true)]
async fn a_dripping_head_is_408_all_the_same() {
    local(async {
        let rig = Rig::new(&one("127.0.0.1:9".parse().expect("an address")));
        let (stream, _task) = rig.connect();
        let (mut reader, mut writer) = tokio::io::split(stream);
        tokio::task::spawn_local(async move {
            let _ = writer.write_all(b"GET / HTTP/1.1\r\nX: ").await;
            while writer.write_all(b"y").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        });
        let begun = Instant::now();
        let mut answer = vec![0; 13];
        reader.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(answer, b"HTTP/1.1 408 ");
        assert_eq!(begun.elapsed().as_secs(), 10);
    })
    .await;
}

/// G23: a connection without a request ends without an answer: 10 s after it was opened, 60 s after
/// an answer.
#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed() {
    local(async {
        let rig = Rig::new(&topology(
            "  u: { endpoints: [127.0.0.1:9] }",
            "    routes:\n      - { path: /x, to: u }",
        ));
        let begun = Instant::now();
        let (mut stream, _task) = rig.connect();
        assert_eq!(stream.read(&mut [0; 1]).await.expect("an end"), 0);
        assert_eq!(begun.elapsed().as_secs(), 10);
        let (mut stream, _task) = rig.connect();
        stream.write_all(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("taken");
        let answer = until(&mut stream, "\"about:blank\"}").await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        let begun = Instant::now();
        assert_eq!(stream.read(&mut [0; 1]).await.expect("an end"), 0);
        assert_eq!(begun.elapsed().as_secs(), 60);
    })
    .await;
}

/// G4: requests that come at once are answered in order.
#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    local(async {
        let fake = Fake::script(|_, n| Act::Answer(["one", "two", "three"][n - 1])).await;
        let rig = Rig::new(&one(fake.address));
        let one = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let two =
            "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n";
        let three = "GET /c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = rig.raw(&format!("{one}{two}{three}")).await;
        let order = ["one", "two", "three"]
            .map(|body| answer.find(&format!("\r\n\r\n{body}")).expect(body));
        assert!(order.is_sorted(), "{answer}");
        let bodies: Vec<_> = fake.seen.requests.borrow().iter().map(|(_, r)| r.clone()).collect();
        assert!(bodies[0].ends_with("\r\n\r\nabc"), "{bodies:?}");
        assert!(bodies[1].contains("de"), "{bodies:?}");
    })
    .await;
}

/// N6: a PROXY header is required from peers of the list, and malformed from others.
#[tokio::test]
async fn the_proxy_header_names_the_client() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let rig = Rig::new(&topology(
            &format!("  user: {{ endpoints: [{}] }}", fake.address),
            "    trust-proxy-protocol-from: [10.0.0.0/8]\n    routes:\n      - { path: /*, to: user }",
        ));
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let announced = format!("PROXY TCP4 198.51.100.9 10.0.0.1 1000 443\r\n{request}");
        let trusted = "10.1.2.3:5".parse().expect("an address");
        for (text, expected) in [(announced.as_str(), "HTTP/1.1 200 "), (request, "")] {
            let (mut stream, _task) = rig.connect_from(trusted);
            stream.write_all(text.as_bytes()).await.expect("taken");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an end");
            assert!(answer.starts_with(expected), "{answer}");
            assert_eq!(answer.is_empty(), expected.is_empty());
        }
        assert!(fake.seen.last().contains("x-forwarded-for: 198.51.100.9\r\n"));
        assert_eq!(fake.seen.count(), 1);
        assert!(rig.observer.metrics.render().contains("aqueduct_http_refused_total"));
    })
    .await;
}

/// O3: a drain says `connection: close` in the next answer, and lets idle connections go.
#[tokio::test(start_paused = true)]
async fn a_drain_lets_connections_go_without_a_race() {
    local(async {
        let text = "    routes:\n      - { path: /x, to: u }";
        let rig = Rig::new(&topology("  u: { endpoints: [127.0.0.1:9] }", text));
        let ask = b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n";
        let (mut busy, _task) = rig.connect();
        let (mut idle, _task) = rig.connect();
        for stream in [&mut busy, &mut idle] {
            stream.write_all(ask).await.expect("taken");
            assert!(!until(stream, "\"about:blank\"}").await.contains("connection: close"));
        }
        rig.lifecycle.drain();
        tokio::task::yield_now().await;
        busy.write_all(ask).await.expect("taken");
        assert!(until(&mut busy, "\"about:blank\"}").await.contains("connection: close"));
        let begun = Instant::now();
        assert_eq!(idle.read(&mut [0; 1]).await.expect("an end"), 0);
        assert_eq!(begun.elapsed().as_secs(), 1);
    })
    .await;
}

/// G13, G23: services are told `Forwarded` where the file says so; what stands in it is believed of trusted proxies alone,
/// and no client's passes.
#[tokio::test]
async fn forwarded_is_told_and_believed_of_trusted_proxies() {
    const TRUST: &str =
        "    trust-forwarded-for: { from: [192.0.2.7], hops: 2, header: forwarded }\n";
    const TELL: &str = "    forwarded: true\n";
    for (lines, sent, client, told) in [
        (String::new(), "Forwarded: for=9.9.9.9\r\n", "192.0.2.7", None),
        (
            TELL.to_owned(),
            "Forwarded: for=9.9.9.9\r\n",
            "192.0.2.7",
            Some("for=192.0.2.7;host=a;proto=http"),
        ),
        (
            format!("{TELL}{TRUST}"),
            "Forwarded: for=1.1.1.1, for=\"[2001:db8::7]:40\";proto=https\r\nforwarded: for=10.0.0.2\r\n",
            "2001:db8::7",
            Some("for=\"[2001:db8::7]\";host=a;proto=http"),
        ),
        // Each of these has the proxy's own address: too few of them, none, the other header.
        (TRUST.to_owned(), "Forwarded: for=198.51.100.7\r\n", "192.0.2.7", None),
        (TRUST.to_owned(), "Forwarded: for=_hidden, for=10.0.0.2\r\n", "192.0.2.7", None),
        (TRUST.to_owned(), "X-Forwarded-For: 198.51.100.7, 10.0.0.2\r\n", "192.0.2.7", None),
        (
            "    trust-forwarded-for: { from: [10.0.0.0/8], header: forwarded }\n".to_owned(),
            "Forwarded: for=198.51.100.7\r\n",
            "192.0.2.7",
            None,
        ),
    ] {
        local(async {
            let fake = Fake::new(Act::Answer("x")).await;
            let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
            let rig = Rig::new(&topology(
                &services,
                &format!("{lines}    routes: [{{ path: /*, to: user }}]"),
            ));
            rig.get("/", sent).await;
            let seen = fake.seen.last();
            assert!(
                seen.contains(&format!("x-forwarded-for: {client}\r\n")),
                "{lines} {sent}: {seen}"
            );
            let line = seen.lines().find_map(|line| line.strip_prefix("forwarded: "));
            assert_eq!(line, told, "{lines} {sent}: {seen}");
            assert_eq!(seen.matches("forwarded: ").count(), usize::from(told.is_some()), "{seen}");
        })
        .await;
    }
}

/// G10, G13: a client whose `Forwarded` spoils its proxy's is refused, and spends nothing of the proxy's share; where the
/// word of whoever sent it counts for nothing, so does this.
#[tokio::test]
async fn an_unlawful_forwarded_is_nobodys_share() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let rig = |from: &str| {
            Rig::new(&topology(
                &services,
                &format!(
                    "    trust-forwarded-for: {{ from: [{from}], header: forwarded }}\n    limits: {{ few: {{ by: address, rate: 1/h, burst: 1 }} }}\n    routes: [{{ path: /*, to: user, limits: [few] }}]"
                ),
            ))
        };
        let mut trusting = rig("192.0.2.7");
        for (sent, status) in [
            ("Forwarded: for=\", for=198.51.100.7\r\n", "400"),
            ("Forwarded: for=198.51.100.7 x\r\n", "400"),
            ("Forwarded: for=\u{f6}, for=198.51.100.7\r\n", "400"),
            ("Forwarded: for=\"\r\nForwarded: for=198.51.100.7\r\n", "200"),
            ("Forwarded: for=unknown\r\n", "200"),
            // The proxy's own share, of which the refused ones had nothing.
            ("", "429"),
        ] {
            let answer = trusting.get("/", sent).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{sent}: {answer}");
        }
        assert_eq!(fake.seen.count(), 2);
        assert_eq!(trusting.records().len(), 6);
        let answer = rig("10.0.0.0/8").get("/", "Forwarded: for=\"\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    })
    .await;
}
