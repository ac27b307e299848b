//! When an instance says that it is ready: by a paused clock in front of servers in memory, and by its admin listener
//! and systemd in front of real ones. Not for who is the primary: `follow`.
//!
//! Invariant: where time matters it is the paused clock's; else a state is asked for until it is there.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::admin::get;
use crate::dropin::PGPOOL;
use crate::encrypted::encrypted;
use crate::fake::{Bench, local};
use crate::pooler::{Pooler, Setup};
use crate::postgres::{Postgres, free_port};

const TWO: &str = "one: { primary: 10.0.0.1:5432, tls: { mode: disable } }, \
                   two: { primary: 10.0.0.2:5432, tls: { mode: disable } }";

fn away(name: &str, cause: &str) -> String {
    format!("database {name}: no server answers: {cause}")
}

/// One round of questions after so long; what is missing then.
async fn after(bench: &Bench, seconds: u64) -> Vec<String> {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    pgpool::readiness::round(&bench.worker).await;
    bench.worker.snapshot().unready()
}

/// O1: an instance that starts waits for each of its databases, `server_away_after` at most; from then on it takes
/// one that answers, or all, as the file says.
#[tokio::test(start_paused = true)]
async fn it_waits_for_each_database_at_first() {
    local(async {
        for (when, later) in [("some-database", 0), ("all-databases", 1)] {
            let bench = Bench::stocked(TWO, &format!("ready_when: {when}"));
            bench.fake.dead.lock().expect("whole").push("10.0.0.2:5432".to_owned());
            assert_eq!(bench.worker.snapshot().unready().len(), 2, "nobody was asked");
            let missing = [away("two", "connection refused")];
            assert_eq!(after(&bench, 0).await, missing, "{when}");
            assert_eq!(after(&bench, 9).await, missing, "{when}");
            assert_eq!(after(&bench, 1).await, missing[..later], "{when}");
        }
        let bench = Bench::stocked(TWO, "");
        assert!(after(&bench, 0).await.is_empty(), "both have answered");
    })
    .await;
}

/// O1, P7: servers that are away for less than `server_away_after` take no instance out, those of one database of
/// several never do unless the file says so; all together do, and say why; back again, it is ready at once.
#[tokio::test(start_paused = true)]
async fn a_failover_takes_nobody_out() {
    local(async {
        let bench = Bench::stocked(TWO, "");
        assert!(after(&bench, 0).await.is_empty());
        bench.fake.down.store(true, SeqCst);
        assert!(after(&bench, 9).await.is_empty(), "not long enough");
        bench.fake.down.store(false, SeqCst);
        assert!(after(&bench, 5).await.is_empty());
        bench.fake.down.store(true, SeqCst);
        assert!(after(&bench, 9).await.is_empty(), "it has answered meanwhile");
        let both = ["one", "two"].map(|name| away(name, "connection refused"));
        assert_eq!(after(&bench, 1).await, both);
        bench.fake.dead.lock().expect("whole").push("10.0.0.2:5432".to_owned());
        bench.fake.down.store(false, SeqCst);
        assert!(after(&bench, 0).await.is_empty(), "one of them is back");
        bench.fake.dead.lock().expect("whole").clear();
        // Servers that say nothing at all.
        bench.fake.stuck.store(true, SeqCst);
        let late = "no answer within the connect timeout";
        assert_eq!(after(&bench, 10).await, ["one", "two"].map(|name| away(name, late)));
    })
    .await;
}

/// O1: a server that answers clients is not asked, nor is any where the file does not want to know; and a process
/// that takes over from another is ready from the start.
#[tokio::test(start_paused = true)]
async fn nobody_is_asked_without_need() {
    local(async {
        let bench = Bench::new(1, "");
        let mut client = bench.client().await;
        client.ask("select 1").await;
        for _ in 0..5 {
            let before = bench.fake.dialled.load(SeqCst);
            client.ask("select 1").await;
            assert!(after(&bench, 0).await.is_empty());
            assert_eq!(bench.fake.dialled.load(SeqCst), before, "it answers clients");
            tokio::time::sleep(Duration::from_secs(4)).await;
            assert!(after(&bench, 0).await.is_empty());
            assert_eq!(bench.fake.dialled.load(SeqCst), before + 1, "it has been silent");
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        let bench = Bench::stocked(TWO, "ready_when: running");
        bench.fake.down.store(true, SeqCst);
        assert!(after(&bench, 0).await.is_empty() && after(&bench, 60).await.is_empty());
        assert_eq!(bench.fake.dialled.load(SeqCst), 0);
        bench.worker.snapshot().readiness.opened().await;

        let bench = Bench::stocked(TWO, "");
        bench.fake.down.store(true, SeqCst);
        bench.worker.snapshot().readiness.take_over();
        assert!(after(&bench, 0).await.is_empty() && after(&bench, 9).await.is_empty());
        assert_eq!(after(&bench, 1).await.len(), 2);
    })
    .await;
}

/// Asks until the answer is this one.
async fn until(port: u16, status: u16, body: &str) {
    while get(port, "/readyz", "").await != (status, body.to_owned()) {}
}

/// O1, P7: `/readyz` says which database is away and why, from start to end of a real PostgreSQL; questions in clear
/// and over TLS leave no word in its log; by a reload the file's other rule holds.
#[tokio::test]
async fn readyz_says_who_is_away() {
    let server = Postgres::start().await;
    encrypted(&server).await;
    let more = format!(
        " }}\n      coded: {{ primary: 127.0.0.2:{}, server-name: shop, tls: {{ mode: require }}",
        server.port
    );
    let settings = "ready_when: all-databases, server_away_after: 1s";
    let setup = Setup { settings, more: &more, ..Setup::default() };
    let pooler = Pooler::start(&server, setup).await;
    let admin = pooler.running.as_ref().expect("it runs").admin.expect("it listens").port();
    let refused = |name: &str| format!("{}\n", away(name, "connection refused"));
    until(admin, 503, &refused("nowhere")).await;
    pooler.rewrite(|text| text.replace("all-databases", "some-database"));
    pooler.reload().await.expect("taken");
    until(admin, 200, "ready\n").await;
    server.kill();
    let all: String = ["coded", "nowhere", "shop"].map(refused).concat();
    until(admin, 503, &all).await;
    server.launch("");
    until(admin, 200, "ready\n").await;
    let log = std::fs::read_to_string(server.sockets().join("log")).expect("a log");
    for word in ["SSL", "GSS", "startup packet", "protocol", "receive data"] {
        assert!(!log.contains(word), "{log}");
    }
    pooler.end().await;
}

/// O1, O3: systemd hears READY when the databases have answered for the first time, not before.
#[test]
fn systemd_waits_for_postgres() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, admin) = (free_port(), free_port());
    let text = format!(
        "aqueduct: 1\npools:\n  data:\n    \
         instances: {{ pool-1: {{ listen: 127.0.0.1:0, admin: 127.0.0.1:{admin} }} }}\n    \
         databases: {{ shop: {{ primary: 127.0.0.1:{server} }} }}\n    users: {{ open: {{}} }}\n    \
         settings: {{ server_away_after: 1h }}\n"
    );
    let (file, path) = (folder.path().join("stack.yaml"), folder.path().join("notify"));
    std::fs::write(&file, text).expect("written");
    let socket = UnixDatagram::bind(&path).expect("bound");
    let mut child = Command::new(PGPOOL)
        .args(["--instance", "pool-1", "--topology"])
        .arg(file)
        .env("NOTIFY_SOCKET", &path)
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        while tokio::net::TcpStream::connect(("127.0.0.1", admin)).await.is_err() {}
        until(admin, 503, &format!("{}\n", away("shop", "connection refused"))).await;
    });
    let mut word = [0; 4096];
    socket.set_nonblocking(true).expect("a socket option");
    let heard = socket.recv(&mut word).map_err(|fault| fault.kind());
    assert_eq!(heard, Err(ErrorKind::WouldBlock), "it is not ready");
    socket.set_nonblocking(false).expect("a socket option");
    let listener = std::net::TcpListener::bind(("127.0.0.1", server)).expect("bound");
    let (mut asks, _) = listener.accept().expect("somebody asks");
    let mut asked = [0; 8];
    asks.read_exact(&mut asked).expect("asked");
    // GSSENCRequest.
    assert_eq!(asked, [0, 0, 0, 8, 4, 0xd2, 0x16, 0x30]);
    asks.write_all(b"N").expect("answered");
    let length = socket.recv(&mut word).expect("a word");
    let told = String::from_utf8_lossy(&word[..length]).into_owned();
    assert!(
        told.contains("READY=1") && told.contains(&format!("MAINPID={}", child.id())),
        "{told}"
    );
    child.kill().expect("ended");
    child.wait().expect("it ends");
}
