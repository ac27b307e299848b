//! One run of `pgbench`, and what it says. Not for what a run costs the party: `cases` looks.
//!
//! Invariant: a run in which a transaction failed is no run.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;

use super::party::Running;

/// What `pgbench` shall do.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// Its program.
    pub pgbench: &'a Path,
    /// `simple`, `extended` or `prepared`.
    pub protocol: &'static str,
    /// At a time.
    pub clients: u32,
    /// A connection for each transaction.
    pub connects: bool,
    /// Length in seconds.
    pub seconds: u32,
}

/// What it did.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Answered queries.
    pub queries: f64,
    /// Answered per second.
    pub per_second: f64,
}

impl Load<'_> {
    /// Puts it on a party.
    ///
    /// # Errors
    /// When a transaction fails.
    pub fn run(&self, party: &Running) -> Result<Run> {
        let output = self.command(party).output().context("pgbench does not run")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let fault = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pgbench: {}", fault.lines().last().unwrap_or_default());
        let after = |words: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(words))?;
            line.split([' ', '/']).find(|word| !word.is_empty())?.parse::<f64>().ok()
        };
        let queries = after("number of transactions actually processed:");
        let queries = queries.with_context(|| format!("pgbench said: {said}"))?;
        let failed = after("number of failed transactions:").unwrap_or_default();
        ensure!(queries > 0.0 && failed == 0.0, "{failed} of {queries} transactions failed");
        Ok(Run { queries, per_second: after("tps =").unwrap_or_default() })
    }

    /// The same, with every transaction's time: median and 99th percentile in µs.
    ///
    /// # Errors
    /// When a transaction fails.
    pub fn times(&self, party: &Running, folder: &Path) -> Result<(f64, f64)> {
        let prefix = folder.join("times");
        let mut command = self.command(party);
        command.args(["--log", "--log-prefix"]).arg(&prefix);
        let output = command.output()?;
        ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
        let mut times = Histogram::<u64>::new(3)?;
        for file in std::fs::read_dir(folder)?.flatten() {
            if !file.file_name().to_string_lossy().starts_with("times.") {
                continue;
            }
            // client, transaction, time, script, epoch, µs
            for line in std::fs::read_to_string(file.path())?.lines() {
                let time = line.split(' ').nth(2).context("pgbench's log")?;
                // Grows as needed; its saturating kin would stop at the range of an empty one.
                times.record(time.parse()?)?;
            }
            std::fs::remove_file(file.path())?;
        }
        ensure!(!times.is_empty(), "no transaction");
        Ok((times.value_at_quantile(0.5) as f64, times.value_at_quantile(0.99) as f64))
    }

    fn command(&self, party: &Running) -> Command {
        let mut command = Command::new(self.pgbench);
        let (clients, seconds) = (self.clients.to_string(), self.seconds.to_string());
        command.args(["-h", &party.host, "-p", party.port, "-U", "bench", "-n", "-S"]);
        command.args(["-j", "2", "-M", self.protocol, "-c", &clients, "-T", &seconds]);
        command.args(self.connects.then_some("-C")).arg("bench");
        command
    }
}
