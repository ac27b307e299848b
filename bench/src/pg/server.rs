//! The PostgreSQL behind all parties: made in a folder of its own, filled by pgbench, ended with its
//! value. Not for measuring.
//!
//! Invariant: it serves whoever reaches its loopback address, and nobody else.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Where it listens.
pub const HOST: &str = "127.0.78.1";
/// Its port.
pub const PORT: &str = "15432";

/// A running server.
#[derive(Debug)]
pub struct Server {
    bin: PathBuf,
    data: PathBuf,
}

impl Server {
    /// Makes, starts and fills one in `folder`.
    ///
    /// # Errors
    /// Without PostgreSQL, and when its address is taken.
    pub fn start(folder: &Path) -> Result<Self> {
        give_away(folder)?;
        let server = Self { bin: bin()?, data: folder.join("data") };
        let data = server.data.to_string_lossy().into_owned();
        let made = ["-D", &data, "-U", "bench", "--no-sync", "-A", "trust", "--locale=C"];
        run(as_user(&server.bin.join("initdb")).args(made).current_dir(folder))?;
        let options = format!(
            "-p {PORT} -c listen_addresses={HOST} -c unix_socket_directories= -c fsync=off \
             -c max_connections=200 -c shared_buffers=256MB -c autovacuum=off"
        );
        let log = folder.join("postgres.log");
        let mut start = as_user(&server.bin.join("pg_ctl"));
        start.args(["-D", &data, "-w", "-o", &options, "-l"]).arg(&log).arg("start");
        run(start.current_dir(folder)).with_context(|| {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            format!("PostgreSQL does not start:\n{said}")
        })?;
        let at = ["-h", HOST, "-p", PORT, "-U", "bench"];
        run(Command::new(server.bin.join("createdb")).args(at).arg("bench"))?;
        let fill = ["-i", "-q", "-s", "5", "bench"];
        run(Command::new(server.bin.join("pgbench")).args(at).args(fill))?;
        Ok(server)
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
