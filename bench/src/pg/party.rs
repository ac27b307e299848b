//! Who is measured: `pgpool`, two versions of `PgBouncer`, and the direct path as the limit. How each is found,
//! configured and started. Not for what is asked of them.
//!
//! All have the same duty: as many servers, no passwords, no log of connections.
//!
//! Invariant: a party that is not installed is skipped with the command that installs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::server::{HOST, PORT, as_user, give_away};
use crate::figures::Column;
use crate::process::{Program, beside, cache, existing, on_path, version};
use crate::progress;

/// A party of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// Nobody between.
    Direct,
    /// Ours.
    #[value(name = "pgpool")]
    Pool,
    /// `PgBouncer` as the system has it, 1.18 in Debian 12.
    #[value(name = "pgbouncer")]
    Bouncer,
    /// `PgBouncer` of 1.21 or later, which keeps prepared statements in transaction mode.
    #[value(name = "pgbouncer-new")]
    Newer,
}

impl Column for Kind {
    const DIRECT: Self = Self::Direct;
    const OURS: Self = Self::Pool;

    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Pool => "pgpool",
            Self::Bouncer => "pgbouncer",
            Self::Newer => "pgbouncer-new",
        }
    }
}

/// What a party shall do.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Threads of ours, over which the pool is spread; `PgBouncer` has one.
    pub workers: u32,
    /// Server connections.
    pub servers: u32,
    /// `PgBouncer` 1.18 keeps prepared statements in session mode alone.
    pub prepared: bool,
}

impl Wanted {
    /// One thread, twenty servers.
    pub fn usual() -> Self {
        Self { workers: 1, servers: 20, prepared: false }
    }
}

/// A party at work.
#[derive(Debug)]
pub struct Running {
    /// Who.
    pub kind: Kind,
    /// Where it listens.
    pub host: String,
    /// On which port.
    pub port: &'static str,
    /// Its processes; the direct path has none.
    pub program: Option<Program>,
}

impl Running {
    /// Time on a processor so far, of all its processes.
    pub fn cpu(&self) -> Option<Duration> {
        self.program.as_ref().map(Program::cpu)
    }
}

impl Kind {
    /// All of them, the direct path first.
    pub const ALL: [Self; 4] = [Self::Direct, Self::Pool, Self::Bouncer, Self::Newer];

    /// What to run to have it.
    pub fn installed_by(self) -> &'static str {
        match self {
            Self::Direct => "",
            Self::Pool => "cargo build --profile dist -p pgpool",
            Self::Bouncer => "apt-get install -y pgbouncer",
            Self::Newer => "build PgBouncer 1.25.2 and name it in BENCH_PGBOUNCER_NEW",
        }
    }

    /// The program, when it is installed.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            Self::Direct => Some(PathBuf::new()),
            // Another build of ours than the one that stands beside this program.
            Self::Pool => match std::env::var_os("BENCH_PGPOOL") {
                Some(path) => existing(path.into()),
                None => beside("pgpool").ok(),
            },
            Self::Bouncer => match std::env::var_os("BENCH_PGBOUNCER") {
                Some(path) => existing(path.into()),
                None => on_path("pgbouncer"),
            },
            Self::Newer => match std::env::var_os("BENCH_PGBOUNCER_NEW") {
                Some(path) => existing(path.into()),
                None => existing(cache().join("pgbouncer")),
            },
        }
    }

    /// What it says of its version, on one line.
    pub fn version(self) -> Option<String> {
        if self == Self::Direct { None } else { version(&self.program()?, "--version") }
    }

    /// Configures and starts it, in a folder of its own, and waits until it listens.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(self, folder: &Path, wanted: Wanted) -> Result<Running> {
        if self == Self::Direct {
            return Ok(Running { kind: self, host: HOST.to_owned(), port: PORT, program: None });
        }
        progress(&format!("starting {}", self.name()));
        let (host, port) = (format!("127.0.78.{}", 10 + self as u8), "16432");
        fs::create_dir_all(folder)?;
        give_away(folder)?;
        let (file, template) = match self {
            Self::Bouncer | Self::Newer => {
                ("pgbouncer.ini", include_str!("../../rivals/pg/pgbouncer.ini"))
            }
            _ => ("pool.yaml", include_str!("../../rivals/pg/pool.yaml")),
        };
        let session = wanted.prepared && self == Self::Bouncer;
        let replacements = [
            ("SERVER_HOST", HOST),
            ("SERVER_PORT", PORT),
            ("SERVER", &format!("{HOST}:{PORT}")),
            ("LISTEN_HOST", &host),
            ("LISTEN_PORT", port),
            ("LISTEN", &format!("{host}:{port}")),
            ("MODE", if session { "session" } else { "transaction" }),
            ("SIZE", &wanted.servers.to_string()),
            ("SHARDS", &wanted.workers.to_string()),
            ("DIR", &folder.to_string_lossy()),
        ];
        let fill = |text: String, (key, value): &(&str, &str)| text.replace(key, value);
        fs::write(folder.join(file), replacements.iter().fold(template.to_owned(), fill))?;
        fs::write(folder.join("userlist.txt"), "\"bench\" \"\"\n")?;
        let mut command = self.command(&folder.join(file), wanted)?;
        let (log, address) = (folder.join("output.log"), format!("{host}:{port}"));
        let program = Program::start(self.name(), &mut command, &log, &address)?;
        Ok(Running { kind: self, host, port, program: Some(program) })
    }

    fn command(self, file: &Path, wanted: Wanted) -> Result<Command> {
        let program = self.program().context(self.installed_by())?;
        if matches!(self, Self::Bouncer | Self::Newer) {
            let mut command = as_user(&program);
            command.arg("-q").arg(file);
            return Ok(command);
        }
        let mut command = Command::new(program);
        command.args(["--workers", &wanted.workers.to_string(), "--topology"]).arg(file);
        Ok(command)
    }
}
