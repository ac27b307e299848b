//! The PostgreSQL behind all parties, and a pair that loses its primary: each made in a folder of its
//! own, ended with its value. Not for measuring.
//!
//! Invariant: it serves whoever reaches its loopback address, and nobody else.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::family;

/// Where it listens.
pub const HOST: &str = "127.0.78.1";
/// Its port.
pub const PORT: &str = "15432";

/// A running server.
#[derive(Debug)]
pub struct Server {
    bin: PathBuf,
    data: PathBuf,
    host: &'static str,
}

impl Server {
    /// Makes, starts and fills one in `folder`.
    ///
    /// # Errors
    /// Without PostgreSQL, and when its address is taken.
    pub fn start(folder: &Path) -> Result<Self> {
        let server = Self::empty(folder, HOST)?;
        let fill = ["-i", "-q", "-s", "5", "bench"];
        run(Command::new(server.bin.join("pgbench")).args(server.address()).args(fill))?;
        Ok(server)
    }

    /// Makes and starts one with an empty database in `folder`.
    ///
    /// # Errors
    /// Without PostgreSQL, and when its address is taken.
    pub fn empty(folder: &Path, host: &'static str) -> Result<Self> {
        let server = Self::place(folder, host)?;
        let made = ["-U", "bench", "--no-sync", "-A", "trust", "--locale=C", "-D"];
        run(server.command("initdb", folder).args(made).arg(&server.data))?;
        server.launch(folder)?;
        run(Command::new(server.bin.join("createdb")).args(server.address()).arg("bench"))?;
        Ok(server)
    }

    /// Makes and starts a streaming replica of it in `folder`.
    ///
    /// # Errors
    /// When its address is taken.
    pub fn replica(&self, folder: &Path, host: &'static str) -> Result<Self> {
        let replica = Self::place(folder, host)?;
        let made = ["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D"];
        let mut copy = self.command("pg_basebackup", folder);
        run(copy.args(self.address()).args(made).arg(&replica.data))?;
        replica.launch(folder)?;
        Ok(replica)
    }

    /// Makes a replica the primary.
    ///
    /// # Errors
    /// When it is none.
    pub fn promote(&self) -> Result<()> {
        run(as_user(&self.bin.join("pg_ctl")).arg("-D").arg(&self.data).args(["-w", "promote"]))
    }

    /// Ends it and its children by SIGKILL, at once.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self) -> Result<()> {
        let file = std::fs::read_to_string(self.data.join("postmaster.pid"))?;
        let pid = file.lines().next().context("an empty postmaster.pid")?.parse()?;
        // A stopped postmaster starts no more children, and does not see the others end.
        signal(pid, Signal::SIGSTOP)?;
        family(pid).into_iter().try_for_each(|pid| signal(pid, Signal::SIGKILL))
    }

    fn place(folder: &Path, host: &'static str) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        give_away(folder)?;
        Ok(Self { bin: bin()?, data: folder.join("data"), host })
    }

    fn launch(&self, folder: &Path) -> Result<()> {
        let options = format!(
            "-p {PORT} -c listen_addresses={} -c unix_socket_directories= -c fsync=off \
             -c max_connections=400 -c shared_buffers=256MB -c autovacuum=off",
            self.host
        );
        let log = folder.join("postgres.log");
        let mut start = self.command("pg_ctl", folder);
        start.args(["-w", "-o", &options, "-l"]).arg(&log).arg("-D").arg(&self.data).arg("start");
        run(&mut start).with_context(|| {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            format!("PostgreSQL does not start:\n{said}")
        })
    }

    fn command(&self, program: &str, folder: &Path) -> Command {
        let mut command = as_user(&self.bin.join(program));
        command.current_dir(folder);
        command
    }

    fn address(&self) -> [&str; 6] {
        ["-h", self.host, "-p", PORT, "-U", "bench"]
    }

    /// The load generator that came with it.
    pub fn pgbench(&self) -> PathBuf {
        self.bin.join("pgbench")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut stop = as_user(&self.bin.join("pg_ctl"));
        // The folder goes with the run; how it ends no longer matters.
        let _ = stop.args(["-m", "immediate", "-D"]).arg(&self.data).arg("stop").output();
    }
}

/// `PG_BIN`, or the newest of Debian's.
fn bin() -> Result<PathBuf> {
    if let Some(bin) = std::env::var_os("PG_BIN") {
        return Ok(bin.into());
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let bins = versions.map(|version| version.path().join("bin"));
    let newest = bins.filter(|bin| bin.join("initdb").exists()).max();
    newest.context("PostgreSQL is not there: apt-get install -y postgresql")
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

/// PostgreSQL and `PgBouncer` refuse to run as root.
pub(super) fn as_user(program: &Path) -> Command {
    if !nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command
}

/// Lets the user of [`as_user`] write there.
pub(super) fn give_away(path: &Path) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        run(Command::new("chown").arg("postgres:postgres").arg(path))?;
    }
    Ok(())
}
