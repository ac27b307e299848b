//! Which endpoint a request goes to, and which ones are left alone for a while.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use common::observe::admin::{Adjust, Inspect as _};
use l7_gateway::inspect::Inspection;
use l7_gateway::server::Connections;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use topology::Topology;

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, pass, topology, until};

const OK: Act = Act::Answer("ok");

/// A service `user` of these endpoints, called in this way.
fn called(fakes: &[&Fake], upstream: &str) -> Topology {
    let mut services = "  user:\n    endpoints:\n".to_owned();
    for fake in fakes {
        writeln!(services, "      - {}", fake.address).expect("a text");
    }
    let upstreams = format!("    upstreams: {{ user: {{ {upstream} }} }}");
    topology(&services, &format!("    routes:\n      - {{ path: /*, to: user }}\n{upstreams}"))
}

fn counts(fakes: &[&Fake]) -> Vec<usize> {
    fakes.iter().map(|fake| fake.seen.count()).collect()
}

/// G17: whoever has the same header, cookie or address is led to the same endpoint; others spread.
#[tokio::test]
async fn hashed_requests_stay_at_their_endpoint() {
    local(async {
        let (a, b, c) = (Fake::new(OK).await, Fake::new(OK).await, Fake::new(OK).await);
        let all = [&a, &b, &c];
        for (by, line) in [("header:X-Cart", "X-Cart: "), ("cookie:cart", "Cookie: x=1; cart=")] {
            let rig = Rig::new(&called(&all, &format!("balance: \"hash:{by}\"")));
            let mut owners = [0; 3];
            for key in 0..30 {
                let before = counts(&all);
                for _ in 0..3 {
                    rig.get("/", &format!("{line}{key}\r\n")).await;
                }
                let after = counts(&all);
                let came: Vec<usize> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
                let owner = came.iter().position(|&n| n == 3).expect("all three at one");
                owners[owner] += 1;
            }
            assert!(owners.iter().all(|&n| n > 0), "{owners:?}");
            let before = counts(&all);
            for _ in 0..6 {
                rig.get("/", "").await;
            }
            let came = counts(&all).iter().zip(&before).filter(|(a, b)| a > b).count();
            assert_eq!(came, 1, "by the address where there is none");
        }
    })
    .await;
}

/// G17: an endpoint that fails at once attracts nobody.
#[tokio::test]
async fn two_choices_avoid_an_endpoint_that_fails_fast() {
    local(async {
        let sick = Fake::new(Act::Keep("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")).await;
        let (a, b) = (Fake::new(OK).await, Fake::new(OK).await);
        let rig = Rig::new(&called(&[&sick, &a, &b], "balance: two-choices"));
        for _ in 0..100 {
            rig.get("/", "").await;
        }
        assert!(sick.seen.count() < 15, "{:?}", counts(&[&sick, &a, &b]));
        assert!(a.seen.count() > 20 && b.seen.count() > 20);
    })
    .await;
}

/// G18: answers of the statuses that say so eject; afterwards one request finds out, and then all come.
#[tokio::test]
async fn bad_answers_eject_and_one_request_finds_out() {
    local(async {
        const AWAY: Act = Act::Keep("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n");
        // Four bad answers: three eject, the fourth is the first trial's.
        let sick = Fake::script(|_, n| if n <= 4 { AWAY } else { OK }).await;
        let well = Fake::new(OK).await;
        let rig = Rig::new(&called(&[&sick, &well], "eject: { first: 10s }"));
        let ask = async |times: usize| {
            for _ in 0..times {
                rig.raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            }
        };
        ask(20).await;
        assert_eq!(sick.seen.count(), 3);
        pass(Duration::from_secs(10)).await;
        ask(10).await;
        assert_eq!(sick.seen.count(), 4, "one trial, then out for twice as long");
        pass(Duration::from_secs(10)).await;
        ask(10).await;
        assert_eq!(sick.seen.count(), 4);
        pass(Duration::from_secs(10)).await;
        ask(10).await;
        assert_eq!(sick.seen.count(), 9, "it has its half again");
        let metrics = rig.observer.metrics.render();
        assert!(metrics.contains("aqueduct_endpoint_returns_total"), "{metrics}");
    })
    .await;
}

/// G18: an endpoint with as many requests as it may have gets no more; the others do.
#[tokio::test]
async fn a_busy_endpoint_gets_no_more_than_it_may_have() {
    local(async {
        let (silent, well) = (Fake::new(Act::Silent).await, Fake::new(OK).await);
        let rig = Rig::new(&called(&[&silent, &well], "max-requests-per-endpoint: 2"));
        let rig = std::rc::Rc::new(rig);
        let ask = || {
            let rig = std::rc::Rc::clone(&rig);
            tokio::task::spawn_local(async move { rig.get("/", "").await })
        };
        let waiting: Vec<_> = (0..4).map(|_| ask()).collect();
        while silent.seen.count() < 2 || waiting.iter().filter(|w| w.is_finished()).count() < 2 {
            tokio::task::yield_now().await;
        }
        let before = well.seen.count();
        for _ in 0..10 {
            assert!(rig.get("/", "").await.ends_with("ok"));
        }
        assert_eq!(silent.seen.count(), 2);
        assert!(well.seen.count() >= before + 10);
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    })
    .await;
}

/// G18: requests over the bound of their service, or of the group, wait in a short line, or are told at
/// once to come again; a place is free when the last byte is out, not before.
#[tokio::test]
async fn too_many_requests_are_shed() {
    local(async {
        let begun = Act::Keep("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
        for of_group in [false, true] {
            let fake = Fake::script(move |c, _| if c == 1 { begun } else { OK }).await;
            let rig = if of_group {
                Rig::new(&topology(
                    &format!("  user: {{ endpoints: [{}] }}", fake.address),
                    "    front: { max-requests: 1 }\n    routes:\n      - { path: /*, to: user }",
                ))
            } else {
                Rig::new(&called(&[&fake], "max-requests: 1"))
            };
            let (mut stream, task) = rig.connect();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("taken");
            until(&mut stream, "ha").await;
            let answer = rig.get("/", "").await;
            assert!(
                answer.starts_with("HTTP/1.1 503 ") && answer.contains("overloaded"),
                "{answer}"
            );
            assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
            assert_eq!(fake.seen.count(), 1);
            let metrics = rig.observer.metrics.render();
            assert!(metrics.contains("aqueduct_http_shed_total"), "{metrics}");
            drop(stream);
            task.await.expect("an end");
            assert!(rig.get("/", "").await.ends_with("ok"));
        }
    })
    .await;
}

/// G18: a request that waits in line goes on when there is a place.
#[tokio::test]
async fn a_request_in_line_goes_on_in_its_turn() {
    local(async {
        let begun = Act::Keep("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
        let fake = Fake::script(move |c, _| if c == 1 { begun } else { OK }).await;
        let rig = Rig::new(&called(&[&fake], "max-requests: 1, queue: { most: 1, wait: 1h }"));
        let (mut stream, _task) = rig.connect();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("taken");
        until(&mut stream, "ha").await;
        let (mut second, _also) = rig.connect();
        second.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("taken");
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(rig.get("/", "").await.contains("overloaded"), "the line is full");
        assert_eq!(fake.seen.count(), 1);
        drop(stream);
        assert!(until(&mut second, "ok").await.starts_with("HTTP/1.1 200 "));
    })
    .await;
}

/// G18: with all endpoints down a request is told so at once; they are not dialled for every request,
/// and one that is back is found.
#[tokio::test]
async fn all_down_is_told_without_dialling() {
    local(async {
        let (a, b) = (Fake::new(OK).await, Fake::new(OK).await);
        let (first, second) = (a.address, b.address);
        let rig = Rig::new(&called(&[&a, &b], "eject: { first: 10s }"));
        drop((a, b));
        // The listeners end with their tasks.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            let answer = rig.get("/", "").await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
        }
        let site = rig.worker.site();
        let service = &site.snapshot.upstreams[0].roster().service;
        let now = tokio::time::Instant::now();
        assert!(service.endpoints.iter().all(|e| e.state.unreachable(now)), "left alone");
        let back = tokio::net::TcpListener::bind(first).await.expect("the port");
        assert_ne!(first, second);
        assert!(rig.get("/", "").await.starts_with("HTTP/1.1 503 "), "nobody has asked yet");
        pass(Duration::from_secs(10)).await;
        let answered = async {
            let (mut stream, _) = back.accept().await.expect("a connection");
            let mut bytes = Vec::new();
            stream.read_buf(&mut bytes).await.expect("a request");
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                .await
                .expect("taken");
        };
        let ask = async { while !rig.get("/", "").await.ends_with("ok") {} };
        tokio::join!(answered, ask);
    })
    .await;
}

/// G17, O1: an operator drains an endpoint, gives it another weight, and takes both back.
#[tokio::test]
async fn an_operator_drains_and_weighs_endpoints() {
    local(async {
        let (a, b) = (Fake::new(OK).await, Fake::new(OK).await);
        let rig = Rig::new(&called(&[&a, &b], ""));
        let connections = Connections::new(10, &rig.observer);
        let admin = Inspection::new(&rig.published, &Arc::default(), &connections, &rig.observer);
        let name = a.address.to_string();
        let asked = async |wish: Adjust| {
            admin.adjust("user", &name, wish).expect("known");
            let before = counts(&[&a, &b]);
            for _ in 0..8 {
                rig.get("/", "").await;
            }
            let after = counts(&[&a, &b]);
            (after[0] - before[0], after[1] - before[1])
        };
        assert_eq!(asked(Adjust::Drain).await, (0, 8));
        assert_eq!(admin.endpoints()[0]["endpoints"][0]["condition"], "draining");
        assert_eq!(asked(Adjust::Enable).await, (4, 4));
        assert_eq!(asked(Adjust::Weight(3)).await, (6, 2));
        assert_eq!(asked(Adjust::Enable).await, (4, 4));
        assert!(admin.adjust("user", "nobody", Adjust::Drain).is_none());
    })
    .await;
}
