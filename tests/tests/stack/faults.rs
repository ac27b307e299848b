//! Endpoints that die and freeze under load, as processes with real signals: what clients notice is
//! counted, never timed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use tests::clients::http::{Connection, plain, request};
use tests::clients::http2;
use tests::fakes::demo;
use tests::fakes::half::Half;
use tests::program::Program;
use tests::tier::{Draft, Stack, until};

/// A gateway before three servers that need nothing behind them.
const FILE: &str = "aqueduct: 1
services:
  keys:
    endpoints: [127.0.0.1:7901, 127.0.0.1:7902, 127.0.0.1:7903]
    health: { http: /healthz, interval: 500ms, timeout: 500ms }
gateways:
  app:
    instances:
      gw-1: { listen: 127.0.0.1:8080, admin: 127.0.0.1:9101 }
    access-log: off
    upstreams: { keys: { try-timeout: 1s } }
    routes:
      - { path: /*, to: keys }
";

struct Scene {
    stack: Stack,
    servers: Vec<Program>,
}

impl Scene {
    async fn new() -> Self {
        let mut stack = Draft::new(FILE).stack();
        let start = |number: u16| {
            let at = stack.address.at(7900 + number);
            demo::issuer(at, &format!("keys-{number}"), &stack.folder.path().join("keys"))
        };
        let servers = (1..=3).map(start).collect();
        stack.start("gw-1").await;
        Self { stack, servers }
    }

    fn gateway(&self) -> SocketAddr {
        self.stack.address.at(8080)
    }

    /// Eight clients ask without a pause until this load is dropped.
    fn load(&self) -> Load {
        let counts = Arc::new(Counts::default());
        let client = |_| tokio::spawn(ask_on(self.gateway(), Arc::clone(&counts)));
        Load { clients: (0..8).map(client).collect(), counts }
    }

    /// What the server has been asked, by its own count.
    async fn asked(&self, number: u16) -> u64 {
        until("its count", async || {
            let answer = plain(self.stack.address.at(7900 + number), "/count").await.ok()?;
            answer.json()["requests"].as_u64()
        })
        .await
    }
}

#[derive(Debug, Default)]
struct Counts {
    fine: AtomicUsize,
    failed: AtomicUsize,
}

struct Load {
    clients: Vec<tokio::task::JoinHandle<()>>,
    counts: Arc<Counts>,
}

impl Load {
    /// Waits until so many more requests have ended.
    async fn more(&self, count: usize) {
        let all = || {
            self.counts.fine.load(Ordering::Relaxed) + self.counts.failed.load(Ordering::Relaxed)
        };
        let enough = all() + count;
        until("answers", async || (all() >= enough).then_some(())).await;
    }

    fn failed(&self) -> usize {
        self.counts.failed.load(Ordering::Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.clients.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn ask_on(to: SocketAddr, counts: Arc<Counts>) {
    let mut connection = None;
    loop {
        let answer = async {
            if connection.is_none() {
                connection = Some(Connection::plain(to).await?);
            }
            connection.as_mut().unwrap().get("/jwks.json", &[]).await
        };
        let fine = answer.await.is_ok_and(|answer| answer.status == 200);
        if !fine {
            connection = None;
        }
        let count = if fine { &counts.fine } else { &counts.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// G18: a server that is killed under load costs no GET; what is left serves on.
#[tokio::test]
async fn a_killed_process_costs_no_get() {
    let mut scene = Scene::new().await;
    let load = scene.load();
    load.more(500).await;
    let killed = scene.servers.remove(0);
    killed.signal(Signal::SIGKILL);
    load.more(2000).await;
    assert_eq!(load.failed(), 0);
}

/// G18: a server that freezes under load, and one that freezes after it, cost no GET; when they go
/// on, they serve again.
#[tokio::test]
async fn a_frozen_process_costs_no_get() {
    let scene = Scene::new().await;
    let load = scene.load();
    load.more(500).await;
    for frozen in [1, 2] {
        let server = &scene.servers[usize::from(frozen) - 1];
        server.signal(Signal::SIGSTOP);
        load.more(1000).await;
        server.signal(Signal::SIGCONT);
        let before = scene.asked(frozen).await;
        until("it to be asked again", async || {
            (scene.asked(frozen).await > before + 10).then_some(())
        })
        .await;
    }
    assert_eq!(load.failed(), 0);
}

/// G18: a server that freezes and goes on, again and again, costs no GET either.
#[tokio::test]
async fn a_flapping_process_costs_no_get() {
    let scene = Scene::new().await;
    let load = scene.load();
    for _ in 0..10 {
        scene.servers[0].signal(Signal::SIGSTOP);
        load.more(50).await;
        scene.servers[0].signal(Signal::SIGCONT);
        load.more(50).await;
    }
    assert_eq!(load.failed(), 0);
}

/// G18: a POST that may have reached a server which then froze is never sent a second time.
#[tokio::test]
async fn a_post_is_never_done_twice() {
    let scene = Scene::new().await;
    let before = scene.asked(1).await + scene.asked(2).await + scene.asked(3).await;
    assert_eq!(before, 0);
    let (mut fine, mut all) = (0, 0);
    for step in 0..90 {
        match step {
            20 => scene.servers[0].signal(Signal::SIGSTOP),
            50 => scene.servers[0].signal(Signal::SIGCONT),
            _ => {}
        }
        let mut connection = Connection::plain(scene.gateway()).await.unwrap();
        let answer = connection.send(request("POST", "/token", &[]).unwrap()).await.unwrap();
        all += 1;
        fine += u64::from(answer.status == 200);
        assert!(matches!(answer.status, 200 | 502 | 503 | 504), "{}", answer.status);
    }
    // The frozen server has work to catch up with; it is asked on a new connection, behind it.
    let done = scene.asked(1).await + scene.asked(2).await + scene.asked(3).await;
    assert!(done <= all, "{done} of {all}");
    assert!(fine > 60, "{fine} of {all}");
}

/// G4, G18: a service that gives half an answer and goes, in every way in which it can, is a break to
/// clients of both protocols: never a short body that looks whole.
#[tokio::test]
async fn half_an_answer_is_never_taken_for_a_whole_one() {
    let draft = Draft::new(FILE).edit("    access-log", &format!("    {TLS}\n    access-log"));
    let mut stack = draft.stack();
    let (gateway, servers) =
        (stack.address.at(8080), [7901, 7902, 7903].map(|p| stack.address.at(p)));
    let mut halves = Vec::new();
    for at in servers {
        halves.push(Half::start(at).await);
    }
    stack.start("gw-1").await;
    let fine = Connection::tls(gateway, &stack.trust).await.unwrap().get("/whole", &[]).await;
    assert_eq!(fine.unwrap().body, "whole");
    for path in ["/length/end", "/length/reset", "/chunks/end", "/chunks/reset", "/open/reset"] {
        let mut first = Connection::tls(gateway, &stack.trust).await.unwrap();
        let mut second = http2::Connection::tls(gateway, &stack.trust).await.unwrap();
        for answer in [first.get(path, &[]).await, second.get(path, &[]).await] {
            // The reset may overtake the head: then there is no answer to break off.
            let told = answer.as_ref().is_ok_and(|answer| answer.status == 502);
            let overtaken = told && path.ends_with("reset");
            assert!(answer.is_err() || overtaken, "{path}: {answer:?}");
        }
        let fine = second.get("/whole", &[]).await.unwrap();
        assert_eq!(fine.body, "whole", "the connection goes on after {path}");
    }
}

const TLS: &str = "tls: { certificates: [{ chain: file:pki/api.pem, key: file:pki/api.key }] }";
