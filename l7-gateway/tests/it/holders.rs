//! Clients that hold connections: two thousand that never finish a head, a body or a handshake.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{Instant, sleep};

use crate::fakes::{Act, Fake};
use crate::instance::{connect, folder, run_text, text};
use crate::rig::{Rig, local, topology};

const HOLDERS: usize = 2000;

/// G23: two thousand clients that send a head byte by byte are let go after ten seconds, all of them;
/// who asks meanwhile is answered.
#[tokio::test(start_paused = true)]
async fn slow_heads_are_let_go_and_hold_nobody_up() {
    local(async {
        let rig = Rig::new(&topology(
            "  u: { endpoints: [127.0.0.1:9] }",
            "    routes:\n      - { path: /x, to: u }",
        ));
        let begun = Instant::now();
        let mut holders = JoinSet::new();
        for _ in 0..HOLDERS {
            let (stream, _task) = rig.connect();
            let (mut reader, mut writer) = tokio::io::split(stream);
            spawn_local(async move {
                let _begun = writer.write_all(b"GET / HTTP/1.1\r\nX: ").await;
                while writer.write_all(b"y").await.is_ok() {
                    sleep(Duration::from_secs(3)).await;
                }
            });
            holders.spawn_local(async move {
                let mut answer = Vec::new();
                reader.read_to_end(&mut answer).await.expect("an end");
                (answer.starts_with(b"HTTP/1.1 408 "), begun.elapsed().as_secs())
            });
        }
        for _ in 0..9 {
            sleep(Duration::from_secs(1)).await;
            assert_eq!(holders.try_join_next().map(drop), None, "too early");
            let answer = rig.get("/nothing", "").await;
            assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        }
        while let Some(ended) = holders.join_next().await {
            let (refused, after) = ended.expect("no panic");
            assert!(refused && (10..=11).contains(&after), "{refused}, after {after} s");
        }
    })
    .await;
}

/// G23: the same for TLS: who does not finish a handshake is gone after five seconds.
#[tokio::test(start_paused = true)]
async fn slow_handshakes_are_let_go() {
    local(async {
        let folder = folder();
        let parsed = topology::parse(
            "test.yaml",
            &text("127.0.0.1:0", "127.0.0.1:9".parse().expect("an address"), "api"),
            folder.path(),
        );
        let rig = Rig::new(&parsed.map_err(|problems| problems.to_string()).expect("valid"));
        let begun = Instant::now();
        let mut holders = JoinSet::new();
        for _ in 0..HOLDERS {
            let (stream, _task) = rig.connect();
            let (mut reader, mut writer) = tokio::io::split(stream);
            spawn_local(async move {
                // A record of 512 bytes that never comes whole.
                let _begun = writer.write_all(&HELLO).await;
                while writer.write_all(&[0]).await.is_ok() {
                    sleep(Duration::from_secs(1)).await;
                }
            });
            holders.spawn_local(async move {
                let mut answer = Vec::new();
                let _ended = reader.read_to_end(&mut answer).await;
                begun.elapsed().as_secs()
            });
        }
        while let Some(ended) = holders.join_next().await {
            let after = ended.expect("no panic");
            assert!((5..=6).contains(&after), "after {after} s");
        }
    })
    .await;
}

const HELLO: [u8; 11] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

/// G23: two thousand holders of heads, bodies and handshakes on real sockets, none of which is let go:
/// every request of another client succeeds, on an old connection and on new ones.
#[tokio::test]
async fn two_thousand_holders_hold_nobody_up() {
    local(async {
        let (folder, fake) = (folder(), Fake::new(Act::Answer("hello")).await);
        // Nothing ends by time, however slow the machine.
        let front = "header-timeout: 1h, handshake-timeout: 1h, body-idle-timeout: 1h, idle-timeout: 1h";
        let patient = format!(
            "    front: {{ {front} }}\n    upstreams: {{ user: {{ connect-timeout: 1h }} }}\n    tls:"
        );
        let text = text("127.0.0.1:0", fake.address, "api");
        let text = text.replace("    tls:", &patient).replace("to: user", "to: user, timeout: 1h");
        let (running, options) = run_text(folder.path(), &text).await;
        let mut kept = Asking::new(folder.path(), running.listeners[0].1).await;
        let (mut hellos, mut others) = (Vec::new(), Vec::new());
        for number in 0..HOLDERS {
            if number % 3 == 0 {
                let stream = TcpStream::connect(running.listeners[0].1).await;
                let mut stream = stream.expect("connected");
                stream.write_all(&HELLO).await.expect("taken");
                hellos.push(stream);
            } else {
                let mut stream = connect(folder.path(), running.listeners[0].1, b"http/1.1").await;
                let begun: &[u8] = match number % 3 {
                    1 => b"GET / HTTP/1.1\r\nHost: api.example\r\nX: y",
                    _ => b"POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 9\r\n\r\nx",
                };
                stream.write_all(begun).await.expect("taken");
                others.push(stream);
            }
            if number % 20 == 0 {
                kept.ask().await;
            }
        }
        for _ in 0..100 {
            Asking::new(folder.path(), running.listeners[0].1).await.ask().await;
            kept.ask().await;
        }
        let metrics = options.observer.metrics.render();
        let open = metrics.lines().find_map(|line| line.strip_prefix("aqueduct_http_connections "));
        let open: f64 = open.and_then(|text| text.parse().ok()).expect("a gauge");
        assert!(open >= HOLDERS as f64, "{open} are open");
        drop((hellos, others, kept));
        options.lifecycle.stop();
        running.finished().await.expect("no panic");
    })
    .await;
}

/// A client that wants something.
struct Asking(tokio_rustls::client::TlsStream<TcpStream>);

impl Asking {
    async fn new(folder: &Path, to: std::net::SocketAddr) -> Self {
        Self(connect(folder, to, b"http/1.1").await)
    }

    async fn ask(&mut self) {
        let get = b"GET /a HTTP/1.1\r\nHost: api.example\r\n\r\n";
        self.0.write_all(get).await.expect("taken");
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            answer.push(self.0.read_u8().await.expect("alive"));
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer.escape_ascii());
    }
}
