//! The rig: certificate, service, the parties at work, and what one turn of load through one of them
//! cost. Not for which turns make a figure: `cases` says that.
//!
//! Invariant: load and service never run on the processor of a pinned party.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::de::DeserializeOwned;

use super::Sheet;
use super::party::{Kind, SERVICE, Wanted};
use crate::figures::Column as _;
use crate::process::Program;
use crate::progress;

/// Where our own service listens.
pub const ECHO: &str = "127.0.77.1:18081";

/// What all runs share.
#[derive(Debug)]
pub struct Rig {
    folder: PathBuf,
    service: Program,
    kinds: Vec<Kind>,
    started: std::cell::Cell<u32>,
}

/// A party at work.
#[derive(Debug)]
pub struct Running {
    /// Who.
    pub kind: Kind,
    /// Where it listens.
    pub address: String,
    /// What it was told.
    pub wanted: Wanted,
    /// Where its files are.
    pub folder: PathBuf,
    /// Its processes; the direct path has none.
    pub program: Option<Program>,
}

impl Running {
    /// Time on a processor so far, of all its processes.
    pub fn cpu(&self) -> Duration {
        self.program.as_ref().map(Program::cpu).unwrap_or_default()
    }

    /// Resident memory of all its processes in KiB.
    pub fn rss_kib(&self) -> u64 {
        self.program.as_ref().map(Program::rss_kib).unwrap_or_default()
    }

    /// A place of its own.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.wanted.tls && self.kind != Kind::Direct { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }
}

impl Rig {
    /// Makes the certificate and the large files, and starts the service.
    ///
    /// # Errors
    /// Without nginx, which is also the service.
    pub fn build(folder: &Path, kinds: Vec<Kind>) -> Result<Self> {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        let shared = folder.join("shared");
        fs::create_dir_all(&shared)?;
        certificate(&shared)?;
        let large = folder.join("large");
        fs::create_dir_all(&large)?;
        fs::write(large.join("1m"), vec![b'x'; 1 << 20])?;
        fs::File::create(large.join("1g"))?.set_len(1 << 30)?;
        let text = include_str!("../../rivals/l7/service.conf")
            .replace("DIR", &folder.to_string_lossy())
            .replace("LISTEN", SERVICE);
        let conf = folder.join("service.conf");
        fs::write(&conf, text)?;
        let log = folder.join("service.log");
        let mut command = beside_party("nginx");
        let command = command.arg("-e").arg(&log).arg("-c").arg(&conf);
        let service = Program::start("service", command, &log, SERVICE)
            .with_context(|| Kind::Nginx.installed_by())?;
        Ok(Self { folder: folder.to_owned(), service, kinds, started: 1.into() })
    }

    /// Files that every party has in its folder.
    pub fn shared(&self) -> PathBuf {
        self.folder.join("shared")
    }

    /// A large file that the service has.
    pub fn large(&self, name: &str) -> PathBuf {
        self.folder.join("large").join(name)
    }

    /// The parties of this run.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// Time on a processor so far, of the service.
    pub fn service_cpu(&self) -> Duration {
        self.service.cpu()
    }

    /// Starts our own service.
    ///
    /// # Errors
    /// When its address is taken.
    pub fn echo(&self) -> Result<Program> {
        let log = self.folder.join("echo.log");
        Program::start("echo", &mut own(&["client", "echo", "--listen", ECHO])?, &log, ECHO)
    }

    /// Starts one party.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&self, kind: Kind, wanted: &Wanted) -> Result<Running> {
        let number = self.started.replace(self.started.get() + 1);
        let folder = self.folder.join(format!("{}-{number}", kind.name()));
        progress(&format!("starting {}", kind.name()));
        let program = kind.start(&self.shared(), &folder, wanted)?;
        let (address, wanted) = (kind.address(wanted), wanted.clone());
        Ok(Running { kind, address, wanted, folder, program })
    }

    /// Starts those of the run's parties that are wanted; who does not start is noted.
    pub fn start_all(
        &self,
        wanted: &Wanted,
        takes_part: impl Fn(Kind) -> bool,
        sheet: &mut Sheet,
    ) -> Vec<Running> {
        let mut running = Vec::new();
        for &kind in self.kinds.iter().filter(|kind| takes_part(**kind)) {
            match self.start(kind, wanted) {
                Ok(party) => running.push(party),
                Err(fault) => sheet.notes.push(format!("{fault:#}")),
            }
        }
        running
    }
}

/// A program on the processor that load and service have.
pub fn beside_party(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "taskset", "-c", "1", program]);
    command
}

/// This program again, as one of its own clients.
fn own(arguments: &[impl AsRef<OsStr>]) -> Result<Command> {
    let own = std::env::current_exe()?;
    let mut command = beside_party(&own.to_string_lossy());
    command.args(arguments);
    Ok(command)
}

/// Runs one of our own clients and reads its outcome.
///
/// # Errors
/// When it fails.
pub fn client<O: DeserializeOwned>(arguments: &[impl AsRef<OsStr>]) -> Result<O> {
    let mut held = Held::spawn(arguments)?;
    let outcome = held.says();
    held.end()?;
    outcome
}

/// One of our own clients at work.
#[derive(Debug)]
pub struct Held {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Held {
    /// Starts it.
    ///
    /// # Errors
    /// When the system is out of processes.
    pub fn spawn(arguments: &[impl AsRef<OsStr>]) -> Result<Self> {
        let mut command = own(arguments)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().context("no output")?;
        Ok(Self { child, output: BufReader::new(output) })
    }

    /// Waits for what it says on one line.
    ///
    /// # Errors
    /// When it fails before.
    pub fn says<O: DeserializeOwned>(&mut self) -> Result<O> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).context("a client failed")
    }

    /// Lets it go on, or end.
    pub fn release(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Lets go and waits for its end.
    ///
    /// # Errors
    /// When it fails.
    pub fn end(mut self) -> Result<()> {
        self.release();
        let status = self.child.wait()?;
        ensure!(status.success(), "a client ended with {status}");
        Ok(())
    }
}

fn certificate(folder: &Path) -> Result<()> {
    let mut names = vec!["api.example".to_owned()];
    names.extend((10..20).map(|last| format!("127.0.77.{last}")));
    let made = rcgen::generate_simple_self_signed(names)?;
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    fs::write(folder.join("both.pem"), format!("{chain}{key}"))?;
    fs::write(folder.join("api.pem"), chain)?;
    fs::write(folder.join("api.key"), key)?;
    Ok(())
}
