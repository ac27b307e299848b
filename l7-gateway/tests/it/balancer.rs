//! Services behind an internal balancer: connections are capped, used in turn, and a retry goes over
//! a fresh one.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt as _;
use topology::Topology;

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology, until};

/// The internal balancer's listener is the fake itself.
fn behind(listener: SocketAddr, upstream: &str) -> Topology {
    let port = listener.port();
    topology(
        &format!(
            "  user: {{ endpoints: [127.0.0.1:9] }}\nnlbs:\n  internal:\n    instances: {{ ilb: {{ address: 127.0.0.1 }} }}\n    \
             listeners: {{ user: {{ tcp: \"*:{port}\", to: user }} }}"
        ),
        &format!("    routes:\n      - {{ path: /*, to: internal/user }}\n{upstream}"),
    )
}

/// G17: a retry behind a balancer opens a fresh connection, also when another kept one is at hand.
#[tokio::test]
async fn a_retry_behind_a_balancer_opens_a_fresh_connection() {
    local(async {
        // Connections 1 and 2 answer once and break at their second request.
        let fake =
            Fake::script(|c, n| if c <= 2 && n > 1 { Act::Hang } else { Act::Answer("ok") }).await;
        let rig = Rig::new(&behind(fake.address, ""));
        let (one, two) = tokio::join!(rig.get("/1", ""), rig.get("/2", ""));
        assert!(one.ends_with("ok") && two.ends_with("ok"));
        assert_eq!(fake.seen.connections.get(), 2);
        let answer = rig.get("/3", "").await;
        assert!(answer.ends_with("ok"), "{answer}");
        assert_eq!(fake.seen.connections.get(), 3, "a third connection, not the second kept one");
        let last = fake.seen.requests.borrow().iter().map(|(c, _)| *c).skip(2).collect::<Vec<_>>();
        assert_eq!(last, [1, 3], "first in, first out; then a fresh one");
    })
    .await;
}

/// G17: a connection behind a balancer carries so many requests, then another one is opened.
#[tokio::test]
async fn connections_behind_a_balancer_are_capped() {
    local(async {
        let fake = Fake::new(Act::Answer("ok")).await;
        let cap = "    upstreams: { internal/user: { max-requests-per-connection: 3 } }";
        let rig = Rig::new(&behind(fake.address, cap));
        for _ in 0..9 {
            assert!(rig.get("/", "").await.ends_with("ok"));
        }
        assert_eq!(fake.seen.connections.get(), 3);
    })
    .await;
}

/// G19: the record names the service behind the balancer.
#[tokio::test]
async fn the_record_names_the_service_behind_the_balancer() {
    local(async {
        let fake = Fake::new(Act::Answer("ok")).await;
        let mut rig = Rig::new(&behind(fake.address, ""));
        rig.get("/", "").await;
        assert_eq!(rig.records()[0]["service"], "user");
    })
    .await;
}

/// G17: client side: round robin takes turns, least connections avoids the busy one.
#[tokio::test]
async fn endpoints_are_chosen_per_request() {
    local(async {
        let (a, b) = (Fake::new(Act::Answer("ok")).await, Fake::new(Act::Answer("ok")).await);
        let services =
            |a: &Fake, b: &Fake| format!("  user: {{ endpoints: [{}, {}] }}", a.address, b.address);
        let route = "    routes:\n      - { path: /*, to: user }";
        let rig = Rig::new(&topology(&services(&a, &b), route));
        for _ in 0..10 {
            assert!(rig.get("/", "").await.ends_with("ok"));
        }
        assert_eq!((a.seen.count(), b.seen.count()), (5, 5));
        let silent = Fake::new(Act::Silent).await;
        let least = format!("{route}\n    upstreams: {{ user: {{ balance: least-connections }} }}");
        let rig = Rig::new(&topology(&services(&silent, &b), &least));
        // One request hangs at the silent one; all others see that it is busy.
        let (mut stream, _task) = rig.connect();
        while silent.seen.count() == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("taken");
            let hangs = async {
                while silent.seen.count() == 0 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                _ = until(&mut stream, "ok") => {}
                () = hangs => {}
            }
        }
        let before = b.seen.count();
        for _ in 0..10 {
            assert!(rig.get("/", "").await.ends_with("ok"));
        }
        assert!(b.seen.count() >= before + 10);
        assert_eq!(silent.seen.count(), 1);
    })
    .await;
}
