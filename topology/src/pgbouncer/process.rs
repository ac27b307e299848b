//! What of `[pgbouncer]` concerns the process alone: its number's file, its log, as whom it runs. Not for what it serves.
//! Used by `pgbouncer` alone.
//!
//! Invariant: none of it stands in the topology that is written.

use super::{Note, Out, Process, Switch};

impl Out {
    /// What is about the process alone.
    pub(super) fn about_process(&mut self) -> Process {
        for key in ["logfile", "pidfile", "user"] {
            if let Some(line) = self.main.get(key) {
                let what =
                    format!("{key}: only `pgpool pgbouncer.ini` heeds it; systemd has its own");
                self.about_process.push(Note { line: line.number, what, stops: false });
            }
        }
        let mut process = Process {
            pid_file: self.value("pidfile").map(Into::into),
            log_file: self.value("logfile").map(Into::into),
            user: self.value("user"),
            stats_period: 60,
            shares: self.shares,
            ..Process::default()
        };
        for (key, switch) in [
            ("log_connections", &mut process.log_connections),
            ("log_disconnections", &mut process.log_disconnections),
            ("log_pooler_errors", &mut process.log_errors),
            ("log_stats", &mut process.log_stats),
        ] {
            if self.main.remove(key).is_some_and(|line| line.value == "0") {
                *switch = Switch::Off;
            }
        }
        for (key, count) in
            [("stats_period", &mut process.stats_period), ("verbose", &mut process.verbose)]
        {
            let Some(line) = self.main.remove(key) else { continue };
            match line.value.parse() {
                Ok(value) if key == "verbose" || value > 0 => *count = value,
                _ => self.notes.push(Note {
                    line: line.number,
                    what: format!("{key}: {} is no number", line.value),
                    stops: true,
                }),
            }
        }
        process
    }
}
