//! Failures of services, and what clients notice of them.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, one, pass, topology, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// What comes back; whenever the silent one has got a request, so much time passes. Real time decides nothing, unless it is
/// as long.
async fn raw_past(rig: &Rig, request: &str, silent: &Fake, time: Duration) -> String {
    let mut answer = std::pin::pin!(rig.raw(request));
    let mut seen = silent.seen.count();
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            () = tokio::task::yield_now() => {}
        }
        if silent.seen.count() > seen {
            seen = silent.seen.count();
            pass(time).await;
        }
    }
}

/// An address where nobody listens.
async fn nobody() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("an address")
}

fn two(a: impl std::fmt::Display, b: impl std::fmt::Display) -> topology::Topology {
    topology(
        &format!("  user: {{ endpoints: [{a}, {b}] }}"),
        "    routes:\n      - { path: /*, to: user }\n    upstreams: { user: { eject: { first: 50s } } }",
    )
}

/// G18: a killed server costs no client an error on GET.
#[tokio::test]
async fn a_killed_server_costs_no_error_on_get() {
    local(async {
        let alive = Fake::new(Act::Answer("ok")).await;
        let killed = Fake::script(|_, n| if n > 1 { Act::Hang } else { Act::Answer("ok") }).await;
        let rig = Rig::new(&two(killed.address, alive.address));
        for n in 0..40 {
            let answer = rig.get("/", "").await;
            assert!(answer.ends_with("ok"), "{n}: {answer}");
        }
        let rig = Rig::new(&two(nobody().await, alive.address));
        for n in 0..20 {
            let answer = rig.get("/", "").await;
            assert!(answer.ends_with("ok"), "{n}: {answer}");
        }
    })
    .await;
}

/// G18: what may have had an effect is sent once.
#[tokio::test]
async fn a_post_is_sent_once() {
    local(async {
        let (a, b) = (Fake::new(Act::Hang).await, Fake::new(Act::Hang).await);
        let rig = Rig::new(&two(a.address, b.address));
        let post = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
        let answer = rig.raw(post).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        assert_eq!(a.seen.count() + b.seen.count(), 1);
        let answer = rig.get("/", "").await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        assert_eq!(a.seen.count() + b.seen.count(), 1 + 3, "three attempts for a GET");
    })
    .await;
}

/// G18: a POST that reached nobody goes elsewhere.
#[tokio::test]
async fn a_post_that_reached_nobody_goes_elsewhere() {
    local(async {
        let alive = Fake::new(Act::Answer("ok")).await;
        let rig = Rig::new(&two(nobody().await, alive.address));
        for _ in 0..4 {
            let post =
                "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
            let answer = rig.raw(post).await;
            assert!(answer.ends_with("ok"), "{answer}");
        }
        assert!(alive.seen.last().ends_with("\r\n\r\nhi"));
    })
    .await;
}

/// O5: nobody, silence and nonsense are 503, 504 and 502.
#[tokio::test]
async fn failures_have_their_status() {
    local(async {
        let rig = Rig::new(&one(nobody().await));
        let answer = rig.get("/", "").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
        let silent = Fake::new(Act::Silent).await;
        let rig = Rig::new(&topology(
            &format!("  user: {{ endpoints: [{}] }}", silent.address),
            "    routes:\n      - { path: /*, to: user, timeout: 10s }",
        ));
        let answer = raw_past(&rig, GET, &silent, Duration::from_secs(10)).await;
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
        assert_eq!(silent.seen.count(), 1, "no second try after the time is over");
        for nonsense in [
            "SSH-2.0-x\r\n",
            "HTTP/1.1 200 OK\r\nBad Header: x\r\n\r\n",
            "HTTP/1.1 101 X\r\nUpgrade: x\r\n\r\n",
        ] {
            let fake = Fake::new(Act::Raw(nonsense)).await;
            let rig = Rig::new(&one(fake.address));
            let answer = rig.get("/", "").await;
            assert!(answer.starts_with("HTTP/1.1 502 "), "{nonsense:?}: {answer}");
            assert!(!answer.contains("127.0.0.1"), "no inner text: {answer}");
        }
    })
    .await;
}

/// G18: an endpoint that keeps failing is left alone for a while.
#[tokio::test]
async fn failing_endpoints_are_ejected() {
    local(async {
        let (sick, well) = (Fake::new(Act::Hang).await, Fake::new(Act::Answer("ok")).await);
        let rig = Rig::new(&two(sick.address, well.address));
        for _ in 0..20 {
            assert!(rig.get("/", "").await.ends_with("ok"));
        }
        assert_eq!(sick.seen.count(), 3);
        assert!(rig.observer.metrics.render().contains("aqueduct_endpoint_ejections_total"));
    })
    .await;
}

/// A rig with one service, the route and the service's settings given.
fn timed(address: impl std::fmt::Display, route: &str, upstream: &str) -> Rig {
    Rig::new(&topology(
        &format!("  user: {{ endpoints: [{address}] }}"),
        &format!(
            "    routes:\n      - {{ path: /*, to: user{route} }}\n    upstreams: {{ user: {{ {upstream} }} }}"
        ),
    ))
}

/// G18: a server that takes requests and says nothing costs a safe request the time of one try, and is
/// then left alone; a POST is told so, and not sent again.
#[tokio::test]
async fn a_frozen_server_costs_one_try() {
    local(async {
        let (frozen, alive) = (Fake::new(Act::Silent).await, Fake::new(Act::Answer("ok")).await);
        let rig = Rig::new(&topology(
            &format!("  user: {{ endpoints: [{}, {}] }}", frozen.address, alive.address),
            "    routes:\n      - { path: /*, to: user, try-timeout: 4s }\n    upstreams: { user: { eject: { first: 30s } } }",
        ));
        let four = Duration::from_secs(4);
        for n in 0..20 {
            assert!(raw_past(&rig, GET, &frozen, four).await.ends_with("ok"), "{n}");
        }
        assert_eq!(frozen.seen.count(), 3, "then it is ejected");
        pass(Duration::from_secs(30)).await;
        let post = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
        let one = raw_past(&rig, post, &frozen, four).await;
        let two = raw_past(&rig, post, &frozen, four).await;
        let late = [&one, &two].iter().filter(|a| a.starts_with("HTTP/1.1 504 ")).count();
        assert_eq!((late, frozen.seen.count()), (1, 4), "{one} {two}");
    })
    .await;
}

/// G18: the first byte must come soon after the request, however long the client took to send it.
#[tokio::test]
async fn the_first_byte_is_waited_for_from_the_end_of_the_request() {
    local(async {
        let silent = Fake::new(Act::Silent).await;
        let rig =
            timed(silent.address, ", timeout: 10s", "first-byte-timeout: 1s, max-attempts: 1");
        let (mut stream, _task) = rig.connect();
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
            .await
            .expect("taken");
        for byte in 0..9 {
            while silent.seen.connections.get() == 0 {
                tokio::task::yield_now().await;
            }
            // Each pause is longer than the first byte may take, all together longer than the answer.
            pass(Duration::from_secs(2)).await;
            assert_eq!(silent.seen.count(), 0);
            stream.write_all(&[b'a' + byte]).await.expect("taken");
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        }
        while silent.seen.count() == 0 {
            tokio::task::yield_now().await;
        }
        pass(Duration::from_secs(1)).await;
        let answer = until(&mut stream, "upstream_timeout").await;
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    })
    .await;
}

/// G18: an answer that pauses for too long, or takes too long in all, is broken off and looks so; a
/// stream that goes on is not.
#[tokio::test]
async fn an_answer_that_stops_is_broken_off() {
    local(async {
        let half = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
        let known = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf";
        for (answer, key) in [
            (half, "answer-idle-timeout: 30s"),
            (known, "answer-idle-timeout: 30s"),
            (half, "total-timeout: 30s"),
            (known, "total-timeout: 30s"),
        ] {
            let fake = Fake::new(Act::Keep(answer)).await;
            let rig = timed(fake.address, "", key);
            let (mut stream, task) = rig.connect();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("taken");
            let mut text = until(&mut stream, "half").await;
            pass(Duration::from_secs(29)).await;
            assert!(!task.is_finished(), "a head's timeout cuts no stream");
            pass(Duration::from_secs(2)).await;
            stream.read_to_string(&mut text).await.expect("an end");
            assert!(text.ends_with("half") || text.ends_with("half\r\n"), "{key}: {text:?}");
            assert!(!text.contains("\r\n0\r\n"), "{key}: no last chunk: {text:?}");
        }
    })
    .await;
}

/// A rig with these services, called in this way.
fn called(fakes: &[&Fake], upstream: &str) -> Rig {
    let all: Vec<String> = fakes.iter().map(|fake| fake.address.to_string()).collect();
    Rig::new(&topology(
        &format!("  user: {{ endpoints: [{}] }}", all.join(", ")),
        &format!(
            "    routes:\n      - {{ path: /*, to: user }}\n    upstreams: {{ user: {{ {upstream} }} }}"
        ),
    ))
}

const AWAY: Act = Act::Keep("HTTP/1.1 503 X\r\nContent-Length: 4\r\n\r\naway");

/// G18: a status that says so is tried elsewhere; where nobody does better, its answer is what the
/// client gets; POST is asked once.
#[tokio::test]
async fn statuses_are_tried_elsewhere() {
    local(async {
        let (sick, well) = (Fake::new(AWAY).await, Fake::new(Act::Answer("ok")).await);
        let rig = called(&[&sick, &well], "retry-on: [503], eject: { first: 50s }");
        for n in 0..12 {
            assert!(rig.get("/", "").await.ends_with("ok"), "{n}");
        }
        assert_eq!(sick.seen.count(), 3);
        let (one, two) = (Fake::new(AWAY).await, Fake::new(AWAY).await);
        let rig = called(&[&one, &two], "retry-on: [503], max-attempts: 4");
        let answer = rig.get("/", "").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("away"), "{answer}");
        assert_eq!(one.seen.count() + two.seen.count(), 4);
        let post = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
        assert!(rig.raw(post).await.ends_with("away"));
        assert_eq!(one.seen.count() + two.seen.count(), 5);
    })
    .await;
}

/// G18: an only endpoint that asks for time gets it, as far as the request has any.
#[tokio::test]
async fn retry_after_is_waited_for() {
    local(async {
        let soon = "HTTP/1.1 503 X\r\nRetry-After: 2\r\nContent-Length: 4\r\n\r\naway";
        let fake =
            Fake::script(move |c, _| if c == 1 { Act::Keep(soon) } else { Act::Answer("ok") });
        let fake = fake.await;
        let rig = std::rc::Rc::new(called(&[&fake], "retry-on: [503]"));
        let began = tokio::time::Instant::now();
        let asking = std::rc::Rc::clone(&rig);
        let asked = tokio::task::spawn_local(async move { asking.get("/", "").await });
        while !asked.is_finished() {
            tokio::task::yield_now().await;
            if fake.seen.count() == 1 {
                pass(Duration::from_millis(20)).await;
            }
        }
        assert!(asked.await.expect("an end").ends_with("ok"));
        assert!(began.elapsed() >= Duration::from_secs(2));
        let late = "HTTP/1.1 503 X\r\nRetry-After: 60\r\nContent-Length: 4\r\n\r\naway";
        let fake = Fake::new(Act::Keep(late)).await;
        let rig = called(&[&fake], "retry-on: [503]");
        assert!(rig.get("/", "").await.ends_with("away"));
        assert_eq!(fake.seen.count(), 1, "there is no time for another try");
    })
    .await;
}

/// G18: a PUT whose method is named is sent again with its body, if that is small and was read whole;
/// any other is sent once.
#[tokio::test]
async fn small_idempotent_requests_are_sent_again_where_asked() {
    local(async {
        let put = |size: usize| {
            let body = "x".repeat(size);
            format!("PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n{body}")
        };
        for (keys, size, sent) in [
            ("retry-methods: [PUT]", 16 * 1024, 1),
            ("retry-methods: [PUT]", 16 * 1024 + 1, 0),
            ("retry-methods: [DELETE]", 2, 0),
        ] {
            let (dies, well) = (Fake::new(Act::Hang).await, Fake::new(Act::Answer("ok")).await);
            let rig = called(&[&dies, &well], keys);
            let answer = rig.raw(&put(size)).await;
            assert_eq!((dies.seen.count(), well.seen.count()), (1, sent), "{keys} {size}: {answer}");
            assert!(answer.ends_with("ok") == (sent == 1), "{answer}");
            if sent == 1 {
                assert!(well.seen.last().ends_with(&"x".repeat(size)));
            }
        }
    })
    .await;
}

/// G18: a slow answer is hedged by a second request, whose answer counts; a POST never is.
#[tokio::test]
async fn a_slow_answer_is_hedged() {
    local(async {
        let (silent, well) = (Fake::new(Act::Silent).await, Fake::new(Act::Answer("ok")).await);
        let rig = called(&[&silent, &well], "hedge-after: 5ms");
        assert!(rig.get("/", "").await.ends_with("ok"));
        assert!(rig.get("/", "").await.ends_with("ok"));
        assert_eq!((silent.seen.count(), well.seen.count()), (2, 2));
        let rig = called(&[&silent, &well], "hedge-after: 5ms, try-timeout: 4s");
        let post = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
        let answer = raw_past(&rig, post, &silent, Duration::from_secs(4)).await;
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
        assert_eq!((silent.seen.count(), well.seen.count()), (3, 2));
    })
    .await;
}
