//! What of `[pgbouncer]` concerns the process alone: its number's file, its log, as whom it runs. Not for what it serves.
//! Used by `pgbouncer` alone.
//!
//! Invariant: none of it stands in the topology that is written.

use super::{Note, Out, Process, Switch, Syslog};

/// What `syslog_facility` may be in PgBouncer, by its number (RFC 5424 §6.2.1).
const FACILITIES: [(&str, u8); 12] = [
    ("user", 1),
    ("daemon", DAEMON),
    ("auth", 4),
    ("authpriv", 10),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];
/// The default.
const DAEMON: u8 = 3;

impl Out {
    /// What is about the process alone.
    pub(super) fn about_process(&mut self) -> Process {
        for key in ["logfile", "pidfile", "user", "syslog"] {
            if let Some(line) = self.main.get(key).filter(|line| line.value != "0") {
                let what =
                    format!("{key}: only `pgpool pgbouncer.ini` heeds it; systemd has its own");
                self.about_process.push(Note { line: line.number, what, stops: false });
            }
        }
        let mut process = Process {
            pid_file: self.value("pidfile").map(Into::into),
            log_file: self.value("logfile").map(Into::into),
            user: self.value("user"),
            syslog: self.syslog(),
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

    /// The system's log, if it is wanted.
    fn syslog(&mut self) -> Option<Syslog> {
        let wanted = self.value("syslog").is_some_and(|value| value != "0");
        let ident = self.value("syslog_ident").unwrap_or_else(|| "pgbouncer".to_owned());
        let line = self.take("syslog_facility").filter(|line| !line.value.is_empty());
        let name = line.as_ref().map_or("daemon", |line| line.value.as_str());
        let found = FACILITIES.iter().find(|(known, _)| *known == name);
        if let (None, Some(line)) = (found, &line) {
            let what = "syslog_facility: this is none of PgBouncer's: daemon is taken";
            self.note(line.number, what);
        }
        let facility = found.map_or(DAEMON, |(_, facility)| *facility);
        wanted.then_some(Syslog { ident, facility })
    }
}
