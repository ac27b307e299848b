//! Endpoints that come and go without the file being touched.

use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use l7_gateway::{Options, Running, start};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use topology::{Endpoint, EndpointName, Place, Topology, Weight};

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology, until};

const OK: Act = Act::Answer("ok");

/// A gateway whose service is named by a list that is not there.
fn found(upstream: &str) -> Topology {
    topology(
        "  user: { discover: { file: /nowhere/user.yaml } }",
        &format!(
            "    routes:\n      - {{ path: /*, to: user }}\n    upstreams: {{ user: {{ {upstream} }} }}"
        ),
    )
}

/// A source has named these.
fn name(rig: &Rig, fakes: &[&Fake]) {
    let endpoint = |fake: &&Fake| Endpoint {
        name: EndpointName::new(&fake.address.to_string()),
        address: fake.address,
        weight: Weight(1),
        zone: None,
        place: Place::default(),
    };
    let named: Arc<[Endpoint]> = fakes.iter().map(endpoint).collect();
    rig.published.load().upstreams[0].follow(&named);
}

fn counts(fakes: &[&Fake]) -> Vec<usize> {
    fakes.iter().map(|fake| fake.seen.count()).collect()
}

/// D3, G17: what a source names is in the very next choice, and what it names no more is not; nobody
/// named yet is a 503 that says come again.
#[tokio::test]
async fn a_change_is_in_the_next_choice() {
    local(async {
        let (a, b, c) = (Fake::new(OK).await, Fake::new(OK).await, Fake::new(OK).await);
        let rig = Rig::new(&found(""));
        assert!(rig.get("/", "").await.starts_with("HTTP/1.1 503 "));
        name(&rig, &[&a, &b]);
        for _ in 0..10 {
            assert!(rig.get("/", "").await.ends_with("ok"));
        }
        assert_eq!(counts(&[&a, &b, &c]), [5, 5, 0]);
        name(&rig, &[&b, &c]);
        for _ in 0..10 {
            assert!(rig.get("/", "").await.ends_with("ok"));
        }
        assert_eq!(counts(&[&a, &b, &c]), [5, 10, 5]);
    })
    .await;
}

/// D1, G17: connections to endpoints that stay are used further, and what is known of them holds: one
/// that was ejected is out after the change too.
#[tokio::test]
async fn what_stays_keeps_connections_and_state() {
    local(async {
        let sick = Fake::new(Act::Keep("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")).await;
        let (well, fresh) = (Fake::new(OK).await, Fake::new(OK).await);
        let rig = Rig::new(&found("eject: { first: 50s }"));
        name(&rig, &[&sick, &well]);
        for _ in 0..20 {
            rig.get("/", "").await;
        }
        assert_eq!((sick.seen.count(), well.seen.connections.get()), (3, 1));
        name(&rig, &[&fresh, &sick, &well]);
        let before = well.seen.count();
        for _ in 0..20 {
            assert!(rig.get("/", "").await.ends_with("ok"));
        }
        assert_eq!(sick.seen.count(), 3, "ejected before, and still");
        assert!(well.seen.count() > before && fresh.seen.count() > 0);
        assert_eq!(well.seen.connections.get(), 1, "the same connection");
    })
    .await;
}

/// D3: what is under way at an endpoint that goes may end; and where the endpoint goes with it, a safe
/// request is answered by one of those that are there by now.
#[tokio::test]
async fn requests_at_a_removed_endpoint_are_answered() {
    local(async {
        let begun = Act::Keep("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
        for (act, ends) in [(Act::Silent, false), (begun, true)] {
            let leaves = Fake::new(act).await;
            let stays = Fake::new(OK).await;
            let rig = Rig::new(&found(""));
            name(&rig, &[&leaves]);
            let (mut stream, task) = rig.connect();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("taken");
            if ends {
                until(&mut stream, "ha").await;
            }
            while leaves.seen.count() == 0 {
                tokio::task::yield_now().await;
            }
            name(&rig, &[&stays]);
            assert!(rig.get("/", "").await.ends_with("ok"), "others go elsewhere at once");
            if ends {
                // Its connection lives for as long as its answer takes.
                assert_eq!((leaves.seen.count(), stays.seen.count()), (1, 1));
                drop((stream, task));
                continue;
            }
            drop(leaves);
            assert!(until(&mut stream, "ok").await.starts_with("HTTP/1.1 200 "), "tried elsewhere");
            assert_eq!(stays.seen.count(), 2);
        }
    })
    .await;
}

fn text(list: &Path, more: &str) -> String {
    format!(
        "aqueduct: 1
services:
  user: {{ discover: {{ file: \"{}\" }} }}
gateways:
  app:
    instances: {{ gw: {{ listen: 127.0.0.1:0, admin: 127.0.0.1:0 }} }}
    access-log: off
    routes:
      - {{ path: /*, to: user }}
{more}",
        list.display()
    )
}

async fn run(text: &str) -> (Running, Options) {
    let mut options = Options::new("gw");
    options.workers = NonZeroUsize::new(2);
    (start(parse(text), "gw", options.clone()).await.expect("it starts"), options)
}

fn parse(text: &str) -> Arc<Topology> {
    let parsed = topology::parse("shop.yaml", text, Path::new("."));
    Arc::new(parsed.map_err(|problems| problems.to_string()).expect("a valid topology"))
}

async fn get(to: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(to).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an end");
    answer
}

/// Writes a list as those do who know how.
fn write(list: &Path, fakes: &[&Fake]) {
    let addresses: Vec<String> = fakes.iter().map(|fake| fake.address.to_string()).collect();
    let fresh = list.with_extension("new");
    fs::write(&fresh, format!("endpoints: [{}]", addresses.join(", "))).expect("written");
    fs::rename(&fresh, list).expect("renamed");
}

/// D1, T9, O1: an instance is ready once its source has answered, follows it on all workers, keeps what
/// was found across a reload, and shows how the source stands.
#[tokio::test]
async fn an_instance_follows_its_source() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let list = folder.path().join("user.yaml");
        let (a, b) = (Fake::new(Act::Answer("from a")).await, Fake::new(Act::Answer("from b")).await);
        let (running, options) = run(&text(&list, "")).await;
        let (at, admin) = (running.listeners[0].1, running.admin.expect("an admin"));
        let ready = get(admin, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503 ") && ready.contains("user.yaml"), "{ready}");
        write(&list, &[&a]);
        while !get(admin, "/readyz").await.starts_with("HTTP/1.1 200 ") {}
        while !get(at, "/").await.ends_with("from a") {}
        write(&list, &[&b]);
        while !get(at, "/").await.ends_with("from b") {}
        for _ in 0..20 {
            assert!(get(at, "/").await.ends_with("from b"), "on every worker");
        }
        let more = "      - { name: other, path: /other, to: user }\n    upstreams: { user: { balance: two-choices } }\n";
        let change = running.handle().publish(parse(&text(&list, more))).await.expect("it is right");
        assert_eq!(change.added, ["other"]);
        for _ in 0..20 {
            assert!(get(at, "/other").await.ends_with("from b"), "kept across the reload");
        }
        fs::remove_file(&list).expect("removed");
        let shown = loop {
            let shown = get(admin, "/endpoints").await;
            if shown.contains("cannot read") {
                break shown;
            }
        };
        assert!(shown.contains("last_success_ago_ms") && shown.contains("user.yaml"), "{shown}");
        assert!(get(at, "/").await.ends_with("from b"), "the last good set");
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}
