//! Where records go, and what becomes of requests when they cannot: files that are moved away, full
//! disks, readers that have stopped. Real files and sockets; no wall time.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use l7_gateway::{Options, Running};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::fakes::{Act, Fake};
use crate::instance::run_text;
use crate::rig::local;

/// A gateway that logs to this file, before a service that answers `hello`.
async fn gateway(folder: &Path, log: &str) -> (Running, Options, Fake) {
    let fake = Fake::new(Act::Answer("hello")).await;
    let text = format!(
        "aqueduct: 1
services:
  user: {{ endpoints: [{}] }}
gateways:
  app:
    instances:
      gw: {{ listen: 127.0.0.1:0 }}
    access-log: file:{log}
    routes:
      - {{ path: /*, to: user }}
",
        fake.address
    );
    let (running, options) = run_text(folder, &text).await;
    (running, options, fake)
}

/// Asks for these paths, one after another over one connection; all are answered.
async fn ask(to: SocketAddr, paths: impl Iterator<Item = String>) {
    let mut stream = TcpStream::connect(to).await.expect("connected");
    for path in paths {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("taken");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nhello") {
            let read = stream.read_buf(&mut answer).await.expect("alive");
            assert!(read > 0, "ended with {}", String::from_utf8_lossy(&answer));
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
    }
}

/// The paths that were logged.
fn logged(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).expect("one object per line");
        record["endpoint"].as_str().expect("text").trim_start_matches("GET /").to_owned()
    };
    text.lines().map(line).collect()
}

fn lost(options: &Options) -> u64 {
    let text = options.observer.metrics.render();
    let mut values =
        text.lines().filter_map(|l| l.strip_prefix("aqueduct_http_log_dropped_total "));
    values.next().expect("the counter is shown").parse().expect("a number")
}

/// G19, O3: logrotate's way. A file that is moved away under traffic has the lines before, the new
/// one those after; none is lost, none is in both.
#[tokio::test]
async fn a_moved_log_is_opened_anew_and_loses_no_line() {
    local(async {
        let folder = TempDir::new().expect("a folder");
        let (running, options, _fake) = gateway(folder.path(), "log").await;
        let (to, handle) = (running.listeners[0].1, running.handle());
        let client = |name: usize| ask(to, (0..200).map(move |n| format!("/{name}-{n}")));
        let rotate = async {
            for turn in 0..5 {
                ask(to, (0..20).map(|n| format!("/r{turn}-{n}"))).await;
                let aside = folder.path().join(format!("log.{turn}"));
                std::fs::rename(folder.path().join("log"), aside).expect("moved");
                handle.reopen_log();
            }
        };
        tokio::join!(client(1), client(2), rotate);
        let last = folder.path().join("log");
        assert!(last.exists(), "made anew");
        options.lifecycle.drain();
        running.finished().await.expect("no panic");
        let names = (0..5).map(|turn| format!("log.{turn}")).chain(["log".to_owned()]);
        let text: String = names
            .map(|name| std::fs::read_to_string(folder.path().join(name)).expect("there"))
            .collect();
        let lines = logged(&text);
        assert_eq!(lines.len(), 2 * 200 + 5 * 20);
        assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), lines.len(), "none is there twice");
        assert_eq!(lost(&options), 0);
    })
    .await;
}

/// G19, O5: a full disk costs lines, which are counted, and no request.
#[tokio::test]
async fn a_full_disk_costs_lines_and_no_request() {
    local(async {
        let folder = TempDir::new().expect("a folder");
        let (running, options, _fake) = gateway(folder.path(), "/dev/full").await;
        ask(running.listeners[0].1, (0..50).map(|n| format!("/{n}"))).await;
        options.lifecycle.drain();
        running.finished().await.expect("no panic");
        assert_eq!(lost(&options), 50);
    })
    .await;
}

/// G19: a pipe whose reader has stopped delays no request: what does not fit is counted, and whoever
/// reads on finds whole lines.
#[tokio::test]
async fn a_stopped_reader_delays_no_request() {
    local(async {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("pipe");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).expect("a pipe");
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let mut reader =
            File::options().read(true).custom_flags(flags).open(&path).expect("a reader");
        let (running, options, _fake) = gateway(folder.path(), "pipe").await;
        // Of 7 kB each: more than a pipe and a ring hold.
        let long = "x".repeat(7000);
        ask(running.listeners[0].1, (0..300).map(|n| format!("/{n}{long}"))).await;
        let before = lost(&options);
        assert!(before > 0, "all were taken: the pipe was too wide for this test");
        let text = std::thread::spawn(move || {
            let flags = rustix::fs::fcntl_getfl(&reader).expect("flags");
            let blocking = flags - rustix::fs::OFlags::NONBLOCK;
            rustix::fs::fcntl_setfl(&reader, blocking).expect("set");
            let mut text = String::new();
            reader.read_to_string(&mut text).expect("text");
            text
        });
        options.lifecycle.drain();
        running.finished().await.expect("no panic");
        let text = text.join().expect("read");
        assert_eq!(logged(&text).len() as u64 + lost(&options), 300);
    })
    .await;
}

/// O5: a log that cannot be opened is reported at its place.
#[tokio::test]
async fn a_log_that_cannot_be_opened_is_reported() {
    let folder = TempDir::new().expect("a folder");
    let text = "aqueduct: 1\nservices:\n  a: { endpoints: [127.0.0.1:9] }\ngateways:\n  app:\n    instances:\n      gw: { listen: 127.0.0.1:0 }\n    access-log: file:no/where\n    routes:\n      - { path: /*, to: a }\n";
    let topology = topology::parse("shop.yaml", text, folder.path());
    let topology = topology.map_err(|problems| problems.to_string()).expect("a valid topology");
    let fault = l7_gateway::start(topology.into(), "gw", Options::new("gw")).await;
    let fault = fault.expect_err("refused").to_string();
    assert!(fault.starts_with("shop.yaml:8:") && fault.contains("access log"), "{fault}");
}
