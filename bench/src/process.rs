//! Programs under measurement: started, watched through `/proc`, ended. Not for what they are
//! asked to do.
//!
//! Invariant: dropping a `Program` ends it and its children.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running program.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
}

/// The folder of the binaries that stand beside this one.
///
/// # Errors
/// When the system does not say where this program is.
pub fn beside(name: &str) -> Result<PathBuf> {
    let folder = std::env::current_exe()?.parent().context("no folder")?.to_owned();
    let path = folder.join(name);
    ensure!(path.is_file(), "{} is missing: build it in the same profile first", path.display());
    Ok(path)
}

/// Where rivals are kept that no system package has: `BENCH_CACHE`, else a folder of the user's
/// cache.
pub fn cache() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = || std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let own = std::env::var_os("BENCH_CACHE").map(PathBuf::from);
    own.unwrap_or_else(|| base().unwrap_or_default().join("aqueduct-bench"))
}

/// The file, when it is there.
pub(crate) fn existing(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}

/// The program of that name.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    folders.map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

/// What a program says of its version, on one line.
pub(crate) fn version(program: &Path, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let line = said.lines().map(str::trim).find(|line| !line.is_empty())?;
    // Envoy says where it is; that is nobody's business.
    let words = line.split_whitespace().filter(|word| !word.starts_with('/'));
    Some(words.collect::<Vec<_>>().join(" "))
}

impl Program {
    /// Starts `command` in the background, its output in `log`, and waits until something listens
    /// at `address`.
    ///
    /// # Errors
    /// When it does not start, ends early or does not listen within ten seconds.
    pub fn start(name: &str, command: &mut Command, log: &Path, address: &str) -> Result<Self> {
        let output = fs::File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let mut program = Self { name: name.to_owned(), child };
        for _ in 0..1000 {
            if TcpStream::connect(address).is_ok() {
                return Ok(program);
            }
            if let Some(status) = program.child.try_wait()? {
                let said = fs::read_to_string(log).unwrap_or_default();
                anyhow::bail!("{name} ended with {status}:\n{said}");
            }
            pause();
        }
        anyhow::bail!("{name} does not listen at {address}")
    }

    /// Time on a processor so far, of it and its children, to the nanosecond.
    pub fn cpu(&self) -> Duration {
        family(self.child.id()).into_iter().map(on_processor).sum()
    }

    /// Signals its first process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// It and its children.
    pub fn pids(&self) -> Vec<u32> {
        family(self.child.id())
    }

    /// Resident memory in KiB, of it and its children.
    pub fn rss_kib(&self) -> u64 {
        family(self.child.id()).into_iter().filter_map(resident).sum()
    }

    /// Its name in reports.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = self.child.id().to_string();
        // TERM lets nginx end its workers; what does not listen is killed.
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        for _ in 0..300 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            pause();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench waits for real programs in real time")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

/// A process and its children.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let mut all = vec![pid];
    all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    all
}

/// Time on a processor of a process's threads.
pub(crate) fn on_processor(pid: u32) -> Duration {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let nanos = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Resident memory of a process in KiB.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
