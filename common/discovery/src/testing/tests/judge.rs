//! Registry clients of npm that read and write the same fake beside us, so that none can flatter us. `make verify`
//! installs them. Not for product code.
//!
//! Invariant: a judge says one line of JSON for each thing that it does or reads.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// One client at work; it ends with this.
pub(crate) struct Judge {
    process: Child,
    input: ChildStdin,
    lines: mpsc::UnboundedReceiver<Value>,
}

impl Drop for Judge {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}

/// Where `make verify` puts what no Debian package has.
fn packages() -> PathBuf {
    let own = std::env::var_os("CLIENTS").map(PathBuf::from);
    let all = own.unwrap_or_else(|| here().join("../../target/clients"));
    all.join("discovery")
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Judge {
    /// The client of this script, at this server.
    pub(crate) fn start(script: &str, server: &str) -> Self {
        let mut process = Command::new("node")
            .arg(here().join("tests/clients").join(script))
            .arg(server)
            .arg(packages())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node of the package nodejs");
        let input = process.stdin.take().expect("its input");
        let output = BufReader::new(process.stdout.take().expect("its output"));
        let (told, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("JSON");
                if told.send(line).is_err() {
                    break;
                }
            }
        });
        Self { process, input, lines }
    }

    /// What it says next.
    pub(crate) async fn says(&mut self) -> Value {
        let line = timeout(Duration::from_secs(60), self.lines.recv());
        line.await.expect("a line in time").expect("a client that is installed: make verify")
    }

    /// Tells it what to do.
    pub(crate) fn tell(&mut self, order: &Value) {
        writeln!(self.input, "{order}").expect("it listens");
    }
}
