//! A real etcd with the endpoints of the run. Not for reading them: the tiers do.
//!
//! Invariant: every change is one transaction that the server has confirmed.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::l4::clock::pause;
use crate::process::{Program, on_path};

/// Where it listens.
pub const AT: &str = "127.0.78.40:12379";

/// How many changes one transaction may have.
const MOST: usize = 100;

/// A running server.
#[derive(Debug)]
pub struct Etcd {
    _program: Program,
}

/// One change of a key: its value, or that it is gone.
pub type Change = (String, Option<String>);

impl Etcd {
    /// Starts one that knows nothing.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(folder: &Path) -> Result<Self> {
        let program = on_path("etcd").context("apt-get install -y etcd-server")?;
        std::fs::create_dir_all(folder)?;
        let url = format!("http://{AT}");
        let mut command = Command::new(program);
        command
            .current_dir(folder)
            .args(["--data-dir", "data", "--listen-peer-urls", "unix://peers:0"])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--initial-advertise-peer-urls", "http://localhost:1"])
            .args(["--initial-cluster", "default=http://localhost:1", "--log-level", "error"]);
        let program = Program::start("etcd", &mut command, &folder.join("output.log"), AT)?;
        let etcd = Self { _program: program };
        for _ in 0..500 {
            if etcd.change(&[("ready".to_owned(), None)]).is_ok() {
                return Ok(etcd);
            }
            pause(Duration::from_millis(20));
        }
        bail!("etcd has no leader")
    }

    /// Makes these changes.
    ///
    /// # Errors
    /// When the server does not confirm them.
    pub fn change(&self, changes: &[Change]) -> Result<()> {
        for some in changes.chunks(MOST) {
            let all: Vec<Value> = some.iter().map(operation).collect();
            let answer = ask(AT.parse()?, "POST", "/v3/kv/txn", &json!({ "success": all }))?;
            ensure!(answer.starts_with("HTTP/1.1 200 "), "etcd says {answer}");
        }
        Ok(())
    }
}

fn operation((key, value): &Change) -> Value {
    let key = STANDARD.encode(key);
    match value {
        Some(value) => json!({ "request_put": { "key": key, "value": STANDARD.encode(value) } }),
        None => json!({ "request_delete_range": { "key": key } }),
    }
}

/// A whole answer as text, over a connection of its own.
///
/// # Errors
/// When there is none.
pub fn ask(at: SocketAddr, method: &str, path: &str, body: &Value) -> Result<String> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
