//! Failures of services, and what clients notice of them.

use tokio::net::TcpListener;

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, one, topology};

/// An address where nobody listens.
async fn nobody() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("an address")
}

fn two(a: impl std::fmt::Display, b: impl std::fmt::Display) -> topology::Topology {
    topology(
        &format!("  user: {{ endpoints: [{a}, {b}] }}"),
        "    routes:\n      - { path: /*, to: user }",
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
            "    routes:\n      - { path: /*, to: user, timeout: 30ms }",
        ));
        let answer = rig.get("/", "").await;
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
