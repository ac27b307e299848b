//! Child processes: each in a process group of its own, its output in a log file, ended for
//! certain. Not for what is started or whether it is ready. Used by `launch` and `fleet`.
//!
//! Invariant: when a [`Process`] is dropped, its whole group is gone.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::sync::watch;

/// A program to run.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// Which.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Variables beside those of this process.
    pub(crate) variables: Vec<(String, String)>,
    /// As whom; `None`: as this process.
    pub(crate) user: Option<Account>,
    /// In this network namespace; `None`: in that of this process.
    pub(crate) namespace: Option<String>,
    /// What asks it to end.
    pub(crate) ask: Signal,
}

/// A system user to run a program as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// Its name, for messages.
    pub(crate) name: String,
    /// User number.
    pub(crate) uid: u32,
    /// Group number.
    pub(crate) gid: u32,
}

/// A running (or ended) child.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    ask: Signal,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Launch {
    /// A program without anything special.
    pub(crate) fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            variables: Vec::new(),
            user: None,
            namespace: None,
            ask: Signal::SIGTERM,
        }
    }

    /// Adds arguments.
    pub(crate) fn with<S: Into<OsString>>(mut self, more: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(more.into_iter().map(Into::into));
        self
    }

    /// Starts it; output goes to `log`, which is emptied first.
    pub(crate) fn spawn(&self, log: &Path) -> anyhow::Result<Process> {
        let output = OpenOptions::new().create(true).write(true).truncate(true).open(log);
        let output = output.with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = self.command();
        command.stdout(output.try_clone()?).stderr(output);
        let mut child = command.spawn().with_context(|| self.cannot_start())?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let pid = pid.with_context(|| self.cannot_start())?;
        let (tell, ended) = watch::channel(None);
        tokio::spawn(async move {
            let status = child.wait().await.unwrap_or_else(|_| ExitStatus::from_raw(-1));
            // Whatever it started itself must not outlive it.
            let _ = killpg(pid, Signal::SIGKILL);
            tell.send_replace(Some(status));
        });
        Ok(Process { pid, ask: self.ask, ended })
    }

    /// Runs it to its end; an exit that is not 0 is an error with its last lines.
    pub(crate) async fn run(&self, limit: Duration) -> anyhow::Result<String> {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = tokio::time::timeout(limit, command.output()).await;
        let shown = self.program.display();
        let output = output
            .with_context(|| format!("{shown} took longer than {} s", limit.as_secs()))?
            .with_context(|| self.cannot_start())?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("{shown} ended with {}\n{}", told(output.status), last(&text, 10));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// In a group of its own, so that Ctrl-C on the terminal reaches `up` alone, which ends things
    /// in order. `setpriv` (util-linux, everywhere) makes the kernel end the child when `up` is
    /// killed, and drops root where asked.
    fn command(&self) -> Command {
        let ends = match self.ask {
            Signal::SIGINT => "INT",
            _ => "TERM",
        };
        // `ip netns exec` becomes what it starts: the process keeps its number.
        let enters = self.namespace.as_ref().zip(find_program("ip"));
        let inside = |program: &Path| match &enters {
            None => Command::new(program),
            Some((namespace, ip)) => {
                let mut command = Command::new(ip);
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        };
        let mut command = match find_program("setpriv") {
            Some(setpriv) => {
                let mut command = inside(&setpriv);
                command.args(["--pdeathsig", ends]);
                if let Some(user) = &self.user {
                    command.arg("--reuid").arg(user.uid.to_string());
                    command.arg("--regid").arg(user.gid.to_string());
                    command.arg("--clear-groups");
                }
                command.arg("--").arg(&self.program);
                command
            }
            None => {
                let mut command = inside(&self.program);
                if let Some(user) = &self.user {
                    command.uid(user.uid).gid(user.gid);
                }
                command
            }
        };
        command.args(&self.arguments).envs(self.variables.iter().map(|(k, v)| (k, v)));
        // Output goes to a file, where colours are noise.
        command.env("NO_COLOR", "1");
        // Programs run as another user must not start in a folder that they cannot enter.
        command.current_dir("/").stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        command
    }

    fn cannot_start(&self) -> String {
        format!("cannot start {}", self.program.display())
    }
}

impl Process {
    /// Its number, which is also its group's.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// How it ended, when it has.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Waits for its end; cancel safe.
    pub(crate) async fn ended(&self) -> ExitStatus {
        let mut ended = self.ended.clone();
        let status = ended.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        status.unwrap_or_else(|| ExitStatus::from_raw(-1))
    }

    /// Asks it to end by itself.
    pub(crate) fn ask(&self) {
        if self.status().is_none() {
            let _ = nix::sys::signal::kill(self.pid, self.ask);
        }
    }

    /// Ends it and all that it started, now.
    pub(crate) fn kill(&self) {
        if self.status().is_none() {
            let _ = killpg(self.pid, Signal::SIGKILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `exit code 1` or `signal 9 (SIGKILL)`.
pub(crate) fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(name) => format!("signal {signal} ({name})"),
            Err(_) => format!("signal {signal}"),
        },
        (None, None) => "an unknown status".to_owned(),
    }
}

/// The last lines of a log file, reading at most its last 8 KiB.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(8192)))?;
        let mut bytes = Vec::new();
        file.take(8192).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| last(&String::from_utf8_lossy(&bytes), lines)).unwrap_or_default()
}

/// The last `count` lines of a text, each indented.
fn last(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(count);
    let kept = lines.get(from..).unwrap_or_default();
    kept.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// A program of the search path.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/bin"), PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Launch {
        Launch::new("/bin/sh").with(["-c", script])
    }

    /// T2: ending a process ends what it started, too.
    #[tokio::test]
    async fn a_killed_process_takes_its_children_along() {
        let scratch = tempfile::tempdir().expect("a folder");
        let pipe = scratch.path().join("pipe");
        let made = Launch::new("/usr/bin/mkfifo").with([&pipe]).run(Duration::from_secs(60)).await;
        made.expect("a pipe");
        let script = format!("exec 3>{}; echo up >&3; sleep 1000 & wait", pipe.display());
        let process = shell(&script).spawn(&scratch.path().join("log")).expect("started");
        let mut held = File::open(&pipe).expect("opened by the child");
        let mut word = [0; 3];
        held.read_exact(&mut word).expect("the child runs");
        process.kill();
        assert_eq!(told(process.ended().await), "signal 9 (SIGKILL)");
        // The pipe ends only when the shell and its `sleep` are both gone.
        assert_eq!(held.read(&mut word).expect("the end"), 0);
    }

    #[tokio::test]
    async fn an_end_is_told_with_the_last_lines() {
        let scratch = tempfile::tempdir().expect("a folder");
        let log = scratch.path().join("log");
        let process = shell("for i in 1 2 3; do echo line $i; done; exit 3").spawn(&log);
        let status = process.expect("started").ended().await;
        assert_eq!(told(status), "exit code 3");
        assert_eq!(tail(&log, 2), "    line 2\n    line 3");
    }

    #[tokio::test]
    async fn a_failed_run_says_why() {
        let error = shell("echo no luck >&2; exit 2").run(Duration::from_secs(60)).await;
        let text = error.expect_err("exit 2").to_string();
        assert!(text.contains("exit code 2") && text.contains("no luck"), "{text}");
        let missing = Launch::new("/nowhere/at/all").run(Duration::from_secs(60)).await;
        assert!(missing.is_err());
    }
}
