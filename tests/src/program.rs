//! Real programs beside a test: PostgreSQL, Redis, the demo services. Not for the tiers: those run
//! in the test's own process. Used by `fakes` and the tests.
//!
//! Invariant: a program ends with its [`Program`], and with the test's thread when that is killed.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running program.
#[derive(Debug)]
pub struct Program {
    child: Child,
    end: Signal,
}

impl Program {
    /// Starts it and waits until a line of its output contains `ready`. `user` is who runs it when
    /// the test is root. Blocks the thread.
    ///
    /// # Panics
    /// When it cannot start, or ends or is silent for 30 s before that line; with its output.
    pub fn start(
        path: impl Into<PathBuf>,
        args: &[String],
        user: Option<&str>,
        ready: &str,
    ) -> Self {
        let path = path.into();
        // The thread that starts a program is its parent: it dies with it (prctl(2), PDEATHSIG).
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "INT"]);
        if let Some(user) = user.filter(|_| nix::unistd::geteuid().is_root()) {
            command.args(["--reuid", user, "--regid", user, "--init-groups"]);
        }
        command.arg("--").arg(&path).args(args).env("LC_ALL", "C").current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("setpriv of util-linux");
        let lines = read(&mut child);
        let program = Self { child, end: Signal::SIGKILL };
        await_line(&lines, ready, &path.display().to_string());
        program
    }

    /// Ends with this signal instead of SIGKILL.
    #[must_use]
    pub fn ended_by(mut self, signal: Signal) -> Self {
        self.end = signal;
        self
    }

    /// Sends a signal now.
    ///
    /// # Panics
    /// When the program is gone.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("a living program");
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("invariant: a pid fits"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended before: then there is nothing to end.
        let _ = kill(self.pid(), self.end);
        let _ = self.child.wait();
    }
}

fn read(child: &mut Child) -> Receiver<String> {
    let (to, lines) = channel();
    forward(child.stdout.take(), to.clone());
    forward(child.stderr.take(), to);
    lines
}

/// Reads to the end, so that the program never waits for a full pipe.
fn forward(from: Option<impl Read + Send + 'static>, to: Sender<String>) {
    let from = from.expect("invariant: the pipe was asked for");
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // Nobody listens any more once the program is ready.
            let _ = to.send(line);
        }
    });
}

fn await_line(lines: &Receiver<String>, ready: &str, name: &str) {
    let mut output = String::new();
    loop {
        let line = lines.recv_timeout(PATIENCE);
        assert!(line.is_ok(), "{name} did not become ready ({line:?}); it said:\n{output}");
        let line = line.unwrap_or_default();
        if line.contains(ready) {
            return;
        }
        output.push_str(&line);
        output.push('\n');
    }
}

const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a command to its end.
///
/// # Panics
/// When it fails; with what it said.
pub fn run(path: impl Into<PathBuf>, args: &[String], user: Option<&str>) {
    let mut command = match user.filter(|_| nix::unistd::geteuid().is_root()) {
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", user, "--init-groups", "--"]);
            command.arg(path.into());
            command
        }
        None => Command::new(path.into()),
    };
    let output = command.args(args).env("LC_ALL", "C").current_dir("/").output();
    let output = output.expect("a program that starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
}

/// A binary of this workspace, beside the running test: `target/PROFILE/NAME`.
///
/// # Panics
/// When it has not been built; says how.
pub fn sibling(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let path = test.ancestors().nth(2).map(|profile| profile.join(name)).unwrap_or_default();
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace --bins`", path.display());
    path
}
