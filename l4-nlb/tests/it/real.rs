//! Real clients and servers through the real program: MariaDB, and a live stream by RTMP. They come
//! from packages; `make verify` installs them. Minutes, so not part of `make test`.
//!
//! Invariant: every program that is started here ends with the test.

use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::process::Program;
use crate::reload::free;

/// A server of a package.
struct Server {
    _child: Child,
    folder: TempDir,
}

impl Server {
    /// Starts it in a folder of its own and waits until it has logged this.
    async fn start(folder: TempDir, command: &mut Command, ready: &str) -> Self {
        command.current_dir(folder.path()).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        loop {
            let line = log.next_line().await.unwrap().expect("it ended before it was ready");
            if line.contains(ready) {
                break;
            }
        }
        // What it says from now on must not stop it.
        tokio::spawn(
            async move { while log.next_line().await.is_ok_and(|line| line.is_some()) {} },
        );
        Self { _child: child, folder }
    }
}

/// What a program prints; it must succeed.
async fn output(command: &mut Command) -> String {
    let output = command.kill_on_drop(true).output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn file(listener: SocketAddr, endpoint: SocketAddr, more: &str) -> String {
    format!(
        "services:\n  s: {{ endpoints: [\"{endpoint}\"], health: tcp }}\nnlbs:\n  edge:\n    instances: {{ \
         nlb-1: {{ address: 127.0.0.1 }} }}\n    listeners:\n      s: {{ tcp: \"{listener}\", to: s }}\n{more}"
    )
}

async fn mariadb() -> (Server, SocketAddr) {
    let (folder, at) = (tempfile::tempdir().unwrap(), free().await);
    let data = format!("--datadir={}", folder.path().join("data").display());
    output(
        Command::new("mariadb-install-db")
            .args(["--no-defaults", "--user=root", "--skip-test-db"])
            .args(["--auth-root-authentication-method=normal", &data]),
    )
    .await;
    let mut command = Command::new("mariadbd");
    let socket = format!("--socket={}", folder.path().join("sql.sock").display());
    command
        .args(["--no-defaults", "--user=root", "--skip-log-bin", "--bind-address=127.0.0.1"])
        .args([format!("--port={}", at.port()), socket, data]);
    (Server::start(folder, &mut command, "ready for connections").await, at)
}

/// N12: MySQL's protocol, in which the server speaks first, is balanced as any other; eight clients at
/// once get whole answers, large ones too.
#[tokio::test]
async fn mysql_clients_are_served() {
    let (_server, endpoint) = mariadb().await;
    let listener = free().await;
    let program = Program::start(&file(listener, endpoint, ""), 2).await;
    let client = |sql: &str| {
        let mut command = Command::new("mariadb");
        command
            .args(["--no-defaults", "--host=127.0.0.1", "--user=root", "--skip-ssl", "--batch"])
            .args([&format!("--port={}", listener.port()), "--skip-column-names", "-e", sql]);
        command
    };
    output(&mut client(
        "CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, text LONGTEXT)",
    ))
    .await;
    let mut all = Vec::new();
    for id in 0..8 {
        let sql = format!(
            "INSERT INTO shop.t VALUES ({id}, REPEAT('{id}', 4000000)); SELECT text FROM shop.t WHERE id = {id}"
        );
        let mut command = client(&sql);
        all.push(tokio::spawn(async move { output(&mut command).await }));
    }
    for (id, answer) in all.into_iter().enumerate() {
        let answer = answer.await.unwrap();
        assert_eq!(answer.trim().len(), 4_000_000);
        assert!(answer.trim().bytes().all(|byte| byte == b'0' + id as u8));
    }
    assert_eq!(output(&mut client("SELECT COUNT(*) FROM shop.t")).await.trim(), "8");
    program.end().await;
}

/// N12, T9: a minute of a live stream by RTMP goes through a listener without a break, while another
/// listener comes, and the program is handed over.
#[tokio::test]
async fn a_live_stream_is_not_disturbed() {
    let (folder, endpoint, listener) = (tempfile::tempdir().unwrap(), free().await, free().await);
    let path = folder.path().display().to_string();
    let configuration = format!(
        "load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;\nuser root; daemon off; master_process off;\n\
         pid {path}/nginx.pid; error_log stderr notice;\nevents {{}}\nrtmp {{ server {{ listen {endpoint}; access_log off;\n\
         application live {{ live on; record all; record_path {path}; record_suffix .flv; }} }} }}\n"
    );
    std::fs::write(folder.path().join("nginx.conf"), configuration).unwrap();
    let mut command = Command::new("nginx");
    command.args(["-p", &path, "-c", &format!("{path}/nginx.conf"), "-e", "stderr"]);
    let server = Server::start(folder, &mut command, "nginx/").await;
    let mut program = Program::start(&file(listener, endpoint, ""), 2).await;
    let url = format!("rtmp://{listener}/live/minute");
    let mut camera = Command::new("ffmpeg");
    camera.args(["-hide_banner", "-loglevel", "error", "-re", "-f", "lavfi"]).args([
        "-i",
        "testsrc=size=160x120:rate=25",
        "-t",
        "60",
        "-c:v",
        "flv1",
        "-f",
        "flv",
        &url,
    ]);
    let stream = tokio::spawn(async move { output(&mut camera).await });
    let other = free().await;
    for round in 0..20 {
        let more = format!("      other: {{ tcp: \"{other}\", to: s }}\n");
        program.write(&file(listener, endpoint, if round % 2 == 0 { &more } else { "" }));
        program.signal(Signal::SIGHUP);
        program.hear("reloaded").await;
    }
    stream.await.unwrap();
    program.end().await;
    let record = server.folder.path().join("minute.flv");
    let frames = output(
        Command::new("ffprobe")
            .args(["-loglevel", "error", "-count_frames", "-of", "csv=p=0"])
            .args(["-show_entries", "stream=nb_read_frames"])
            .arg(&record),
    )
    .await;
    assert_eq!(frames.trim(), "1500", "25 a second for a minute");
}
