//! Programs of other packages through the pooler: pgbench, the drivers of Python, Node.js and Java,
//! and the exporter of Debian. `make verify` installs them; not part of `make test`.
//!
//! Invariant: each program checks its own answers and says `well`, or why not.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::pooler::{Pooler, Setup};
use crate::postgres::{PASSWORD, Postgres};

/// Where `make verify` puts what no Debian package has.
fn packages() -> PathBuf {
    let own = std::env::var_os("CLIENTS").map(PathBuf::from);
    own.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients"))
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients").join(name)
}

/// Runs a program as `app` and returns what it says.
async fn run(pooler: &Pooler, command: &mut Command) -> String {
    let at = [("PGHOST", "127.0.0.1"), ("PGUSER", "app"), ("PGDATABASE", "shop")];
    command.envs(at).env("PGPASSWORD", PASSWORD).env("PGPORT", pooler.port.to_string());
    command.env("PYTHONPATH", packages().join("python")).kill_on_drop(true).stdin(Stdio::null());
    let output = command.output().await.unwrap_or_else(|fault| panic!("{command:?}: {fault}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, fault) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}:\n{said}\n{fault}");
    said
}

/// The same in transaction mode over fewer servers than clients, and in session mode.
async fn in_both_modes(command: impl Fn(&str) -> Command) {
    let server = Postgres::start().await;
    for (mode, size) in [("transaction", 3), ("session", 4)] {
        let setup = Setup { mode, size, ..Setup::default() };
        let pooler = Pooler::start(&server, setup).await;
        let said = run(&pooler, &mut command(mode)).await;
        assert_eq!(said.trim(), "well", "{mode}");
    }
}

/// P1, P3: psycopg 3 prepares, drops by SQL, pipelines, copies and cancels.
#[tokio::test]
async fn psycopg_is_at_home() {
    in_both_modes(|mode| {
        let mut command = Command::new("python3");
        command.arg(script("psycopg3.py")).arg(mode);
        command
    })
    .await;
}

/// P1, P3: asyncpg names every statement and asks for types.
#[tokio::test]
async fn asyncpg_is_at_home() {
    in_both_modes(|mode| {
        let mut command = Command::new("python3");
        command.arg(script("asyncpg_client.py")).arg(mode);
        command
    })
    .await;
}

/// P1, P3: node-postgres and postgres.js, which sends Parse and Bind apart.
#[tokio::test]
async fn node_is_at_home() {
    in_both_modes(|mode| {
        let mut command = Command::new("node");
        command.arg(script("node.mjs")).arg(mode).arg(packages().join("node"));
        command
    })
    .await;
}

/// P1, P3: JDBC, which begins to name statements after some uses.
#[tokio::test]
async fn jdbc_is_at_home() {
    in_both_modes(|mode| {
        let mut command = Command::new("java");
        command.args(["-cp", "/usr/share/java/postgresql.jar"]).arg(script("Jdbc.java")).arg(mode);
        command
    })
    .await;
}

/// P1, P2: pgbench loses no transaction, in each of its protocols and with pipelines.
#[tokio::test]
async fn pgbench_in_every_protocol() {
    let server = Postgres::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let piped = folder.path().join("piped.sql");
    let text = "\\set n random(1, 1000)\n\\startpipeline\nselect :n;\nselect :n + 1;\n\
                insert into t values (:n, 'piped');\n\\endpipeline\n";
    std::fs::write(&piped, text).expect("written");
    for (mode, size) in [("transaction", 3), ("session", 8)] {
        let pooler = Pooler::start(&server, Setup { mode, size, ..Setup::default() }).await;
        let bench = |arguments: &[&str]| {
            let mut command = Command::new("pgbench");
            command.args(arguments);
            command
        };
        run(&pooler, &mut bench(&["-i", "-q", "-s", "1"])).await;
        // A thread for each client: one that waits for a server must not stop another that has one.
        let load = ["-n", "-c", "8", "-j", "8", "-t", "200", "-M"];
        let complete = |said: &str| said.contains("actually processed: 1600/1600");
        for protocol in ["simple", "extended", "prepared"] {
            for script in [&["-S"][..], &["-N"], &["-b", "tpcb-like"]] {
                let said = run(&pooler, bench(&load).arg(protocol).args(script)).await;
                assert!(complete(&said), "{mode}, {protocol}, {script:?}: {said}");
            }
        }
        for protocol in ["extended", "prepared"] {
            let said = run(&pooler, bench(&load).arg(protocol).arg("-f").arg(&piped)).await;
            assert!(complete(&said), "{mode}, {protocol}, pipelines: {said}");
        }
        let root = server.root().await;
        let sum = "select (select sum(abalance) from pgbench_accounts)
                   - (select sum(delta) from pgbench_history)";
        let difference: i64 = root.query_one(sum, &[]).await.expect("sums").get(0);
        assert_eq!(difference, 0, "{mode}: a transaction was lost or doubled");
    }
}

/// P6, P8: the exporter of Debian, which was made for an old PgBouncer, finds every column that it wants.
#[tokio::test]
async fn the_exporter_of_debian_scrapes() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 2, ..Setup::default() }).await;
    let client = pooler.client("app").await;
    for _ in 0..3 {
        client.query_one("select 1", &[]).await.expect("row");
    }
    let port = crate::postgres::free_port();
    let mut exporter = Command::new("/usr/bin/prometheus-pgbouncer-exporter");
    exporter.args(["--host", "127.0.0.1", "--pgbouncer-host", "127.0.0.1"]);
    exporter.args(["--pgbouncer-user", "root", "--port", &port.to_string()]);
    exporter.args(["--pgbouncer-port", &pooler.port.to_string()]);
    exporter.env("PGPASSWORD", crate::postgres::ROOT_PASSWORD).kill_on_drop(true);
    let mut exporter = exporter.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
    // It may be asked as soon as it listens.
    let mut socket = loop {
        assert!(exporter.try_wait().expect("a child").is_none(), "the exporter has ended");
        if let Ok(socket) = TcpStream::connect(("127.0.0.1", port)).await {
            break socket;
        }
    };
    let request = b"GET /metrics HTTP/1.0\r\n\r\n";
    socket.write_all(request).await.expect("sent");
    let mut text = String::new();
    socket.read_to_string(&mut text).await.expect("read");
    for wanted in [
        // Each is prepared and carried out: two round trips.
        "pgbouncer_requests_total{database=\"shop\"} 6.0",
        "pgbouncer_active_clients{database=\"shop\",user=\"app\"}",
        "pgbouncer_waiting_clients{database=\"shop\",user=\"app\"} 0.0",
        "pgbouncer_received_bytes_total{database=\"shop\"}",
        "pgbouncer_query_microseconds_total{database=\"shop\"}",
        "pgbouncer_pool_size{database=\"shop\"} 2.0",
        "pgbouncer_reserve_pool{database=\"shop\"} 0.0",
        "pgbouncer_used_clients",
        "pgbouncer_dns_pending",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

/// P1: what copies PostgreSQL: pg_basebackup with its stream, and pg_receivewal.
#[tokio::test]
async fn backups_pass() {
    let server = Postgres::start().await;
    server.root().await.batch_execute("alter role open replication").await.expect("altered");
    // What asks for physical replication names this database.
    let more =
        format!(" }}\n      replication: {{ primary: 127.0.0.1:{}, pool-size: 2", server.port);
    let pooler = Pooler::start(&server, Setup { more: &more, ..Setup::default() }).await;
    let folder = tempfile::tempdir().expect("a folder");
    let bin = crate::postgres::find_bin();
    let copy = folder.path().join("copy");
    let mut backup = Command::new(bin.join("pg_basebackup"));
    backup.args(["-U", "open", "-X", "stream", "-c", "fast", "--no-sync", "-D"]).arg(&copy);
    run(&pooler, &mut backup).await;
    run(&pooler, Command::new(bin.join("pg_verifybackup")).arg(&copy)).await;

    let root = server.root().await;
    let place = "select pg_current_wal_lsn()::text";
    root.batch_execute("insert into t values (1, 'x'); select pg_switch_wal()").await.expect("ok");
    let end: String = root.query_one(place, &[]).await.expect("row").get(0);
    let wal = folder.path().join("wal");
    std::fs::create_dir(&wal).expect("a folder");
    let mut receive = Command::new(bin.join("pg_receivewal"));
    receive.args(["-U", "open", "--no-loop", "--no-sync", "-E", &end, "-D"]).arg(&wal);
    run(&pooler, &mut receive).await;
    assert!(std::fs::read_dir(&wal).expect("a folder").count() > 0);
}
