//! The real program as processes: one, and those that follow it by upgrades. They are told apart by
//! their numbers and heard by their log lines. Not for what happens inside.
//!
//! Invariant: no process is left behind, whatever a test does.

use std::collections::BTreeSet;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe;
use tokio::process::Command;

/// A program with its file.
pub(crate) struct Program {
    folder: TempDir,
    log: Lines<BufReader<pipe::Receiver>>,
    /// Of the generation that serves.
    pub(crate) process: i32,
    /// Of all that have not said that they stopped.
    running: BTreeSet<i32>,
}

impl Program {
    /// Starts it and waits until it serves.
    pub(crate) async fn start(file: &str, workers: usize) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_l4-nlb")), file, workers).await
    }

    /// The same by another command, which becomes the program: as `ip netns exec NAME PROGRAM`.
    pub(crate) async fn start_by(mut command: Command, file: &str, workers: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.yaml");
        std::fs::write(&path, file).unwrap();
        let (write, read) = pipe::pipe().unwrap();
        let write = write.into_blocking_fd().unwrap();
        let child = command
            .args(["--log-format", "json", "--workers", &workers.to_string(), "--topology"])
            .arg(&path)
            .stdout(Stdio::from(write.try_clone().unwrap()))
            .stderr(Stdio::from(write))
            .spawn()
            .unwrap();
        let process = child.id().unwrap() as i32;
        let log = BufReader::new(read).lines();
        let mut program = Self { folder, log, process, running: BTreeSet::from([process]) };
        program.hear("started").await;
        program
    }

    /// Replaces its file.
    pub(crate) fn write(&self, file: &str) {
        std::fs::write(self.folder.path().join("edge.yaml"), file).unwrap();
    }

    /// Signals the generation that serves.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process), signal).unwrap();
    }

    /// The next line with this message; lines before it are passed over.
    pub(crate) async fn hear(&mut self, message: &str) -> Value {
        while let Some(line) = self.log.next_line().await.unwrap() {
            let line: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
            if line["message"] == message || line["fields"]["message"] == message {
                return line;
            }
            assert!(line["message"] != "reload refused", "instead of `{message}`: {line}");
        }
        panic!("the log ended before `{message}`");
    }

    /// Hands over to a new process and waits until it serves.
    pub(crate) async fn upgrade(&mut self) {
        self.signal(Signal::SIGUSR2);
        let line = self.hear("handed over").await;
        let next = line["process"].as_i64().or(line["fields"]["process"].as_i64()).unwrap();
        self.process = next as i32;
        self.running.insert(self.process);
    }

    /// Ends the generation that serves, and waits until all of them have ended.
    pub(crate) async fn end(mut self) {
        self.signal(Signal::SIGTERM);
        // The pipe ends with the last process that writes to it.
        while self.log.next_line().await.unwrap().is_some() {}
        self.running.clear();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        for process in &self.running {
            let _ended = kill(Pid::from_raw(*process), Signal::SIGKILL);
        }
    }
}
