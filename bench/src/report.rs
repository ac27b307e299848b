//! A run as it is written down: when, where, with which programs, figures and verdicts. Not for
//! measuring.
//!
//! Invariant: figures of two runs never stand in one report.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde::Serialize;

use crate::figures::Row;
use crate::goals::Verdict;

/// What was measured, when and where.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    date: String,
    kernel: String,
    cores: usize,
    /// Processes that wanted a processor on average of the last minute, ours and others', before
    /// and after.
    busy: Vec<f64>,
    rounds: u32,
    seconds: u32,
    versions: BTreeMap<&'static str, String>,
    /// What ours shall reach, and whether it does.
    pub goals: Vec<Verdict>,
    /// Every party's figures.
    pub figures: Vec<Row>,
    /// Who was not measured, and why.
    pub notes: Vec<String>,
}

impl Report {
    /// Before anything was measured: so many rounds of so many seconds, with these programs.
    ///
    /// # Errors
    /// When the system does not say how many processors it has.
    pub fn begin(
        (rounds, seconds): (u32, u32),
        versions: BTreeMap<&'static str, String>,
    ) -> Result<Self> {
        Ok(Self {
            date: said("date", &["-u", "+%Y-%m-%d %H:%M"]),
            kernel: said("uname", &["-r"]),
            cores: std::thread::available_parallelism()?.get(),
            busy: busy().into_iter().collect(),
            rounds,
            seconds,
            versions,
            ..Self::default()
        })
    }

    /// Writes down what there is so far.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, path: &Path) -> Result<()> {
        self.busy.truncate(1);
        self.busy.extend(busy());
        Ok(std::fs::write(path, serde_json::to_string_pretty(&self)? + "\n")?)
    }
}

fn busy() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned()).unwrap_or_default()
}
