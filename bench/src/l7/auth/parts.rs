//! Gateways that a case configures itself, and the Redis that they share. Not for parties that are
//! compared: `party` has those.
//!
//! Invariant: each listens at an address of its own, and ends with its case.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::l7::party::Kind;
use crate::l7::rig::{Rig, beside_party};
use crate::process::{Program, on_path};

/// Where Redis listens.
pub(super) const REDIS: &str = "127.0.77.1:18379";

/// A gateway that runs.
pub(in crate::l7) struct Own<'a> {
    /// The instance of the file.
    pub(in crate::l7) instance: &'a str,
    /// Where it listens.
    pub(in crate::l7) listen: SocketAddr,
    /// The processor that it has.
    pub(in crate::l7) processor: &'static str,
}

impl Own<'_> {
    /// Starts it with this file, whose paths are those of the rig's shared files.
    pub(in crate::l7) fn start(&self, rig: &Rig, topology: &str) -> Result<Program> {
        let file = rig.shared().join(format!("{}.yaml", self.instance));
        fs::write(&file, topology)?;
        let program = Kind::Gateway.program().with_context(|| Kind::Gateway.installed_by())?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "taskset", "-c", self.processor]).arg(program);
        command.args(["--workers", "1", "--instance", self.instance, "--topology"]).arg(&file);
        let log = file.with_extension("log");
        Program::start(self.instance, command.current_dir(rig.shared()), &log, &self.url_host())
            .with_context(|| fs::read_to_string(&log).unwrap_or_default())
    }

    /// A connection to it.
    pub(in crate::l7) fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.listen)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(stream)
    }

    /// A place of its own.
    pub(in crate::l7) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    fn url_host(&self) -> String {
        self.listen.to_string()
    }
}

/// Starts a Redis without a disk.
pub(super) fn redis(rig: &Rig) -> Result<Program> {
    let program = on_path("redis-server").context("apt-get install -y redis-server")?;
    let (host, port) = REDIS.split_once(':').unwrap_or_default();
    let mut command = beside_party(&program.to_string_lossy());
    command.args(["--bind", host, "--port", port, "--save", "", "--appendonly", "no"]);
    Program::start("redis", &mut command, &redis_log(rig), REDIS)
}

fn redis_log(rig: &Rig) -> PathBuf {
    rig.shared().with_file_name("redis.log")
}

/// How many times Redis was asked to run one of these commands.
pub(super) fn commands(names: &[&str]) -> Result<u64> {
    let mut stream = BufReader::new(TcpStream::connect(REDIS)?);
    stream.get_mut().write_all(b"INFO commandstats\r\n")?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let length: usize = line.trim().trim_start_matches('$').parse()?;
    let mut text = vec![0; length];
    stream.read_exact(&mut text)?;
    Ok(calls(&String::from_utf8_lossy(&text), names))
}

fn calls(text: &str, names: &[&str]) -> u64 {
    let of = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let wanted = names.contains(&name.split('|').next()?);
        wanted.then(|| rest.split(',').next()?.parse::<u64>().ok()).flatten()
    };
    text.lines().filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_added_up() {
        let text = "# Commandstats\r\ncmdstat_evalsha:calls=7,usec=1\r\ncmdstat_script|load:calls=2,usec=1\r\n\
                    cmdstat_get:calls=100,usec=1\r\n";
        assert_eq!(calls(text, &["evalsha", "script"]), 9);
        assert_eq!(calls(text, &["eval"]), 0);
    }
}
