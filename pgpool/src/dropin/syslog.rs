//! The system's log: each line is a datagram to `/dev/log`, as libc's syslog(3) sends it. Not for what is told: that is
//! `lines`, its only caller.
//!
//! Invariant: a log that is away, full or slow holds nobody up, and loses lines alone.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use topology::pgbouncer::Syslog;

/// Where the system takes its log.
const PATH: &str = "/dev/log";

/// The way there.
#[derive(Debug)]
pub(super) struct SystemLog {
    path: PathBuf,
    /// `None`: there are no more descriptors.
    socket: Option<UnixDatagram>,
    /// Lines that nobody took since the last one that somebody did.
    lost: AtomicU64,
}

impl Default for SystemLog {
    fn default() -> Self {
        Self::at(Path::new(PATH))
    }
}

impl SystemLog {
    /// Where it is elsewhere.
    pub(super) fn at(path: &Path) -> Self {
        let socket = UnixDatagram::unbound().ok();
        // Where nobody reads, sending would wait for ever.
        let socket = socket.filter(|socket| socket.set_nonblocking(true).is_ok());
        Self { path: path.to_owned(), socket, lost: AtomicU64::new(0) }
    }

    /// Tells a line of PgBouncer's level; those of `verbose` are for the log file, as in PgBouncer.
    pub(super) fn tell(&self, how: &Syslog, level: &str, text: &str) {
        // RFC 5424 §6.2.1.
        let severity = match level {
            "FATAL" => 2,
            "ERROR" => 3,
            "WARNING" => 4,
            "DEBUG" | "NOISE" => return,
            _ => 6,
        };
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let known = lost == 0 || self.send(how, 4, &format!("lines lost before this one: {lost}"));
        let told = self.send(how, severity, text);
        let again = if known { 0 } else { lost } + u64::from(!told);
        if again > 0 {
            self.lost.fetch_add(again, Ordering::Relaxed);
        }
    }

    /// Whether somebody took it. The time is the reader's, who knows its zone (RFC 3164 §4.3.2).
    fn send(&self, how: &Syslog, severity: u8, text: &str) -> bool {
        let (priority, pid) = (how.facility * 8 + severity, std::process::id());
        let line = format!("<{priority}>{}[{pid}]: {text}", how.ident);
        // Found anew each time: its reader may have been started again.
        let sent = self.socket.as_ref().map(|socket| socket.send_to(line.as_bytes(), &self.path));
        matches!(sent, Some(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// O2, O5: with `syslog = 1` lines go to the system's log by name, facility and severity; where nobody takes
    /// them nothing is held up, and how many were lost is told.
    #[test]
    fn lines_go_to_the_systems_log() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("log");
        let ini = "[databases]\na = host=127.0.0.1\n[pgbouncer]\nsyslog = 1\nsyslog_ident = pool\n\
                   syslog_facility = local2\n";
        let how = topology::pgbouncer::import(ini, None).process.syslog.expect("it is wanted");
        let log = SystemLog::at(&path);
        log.tell(&how, "LOG", "to nobody");
        let system = UnixDatagram::bind(&path).expect("a log");
        let pid = format!("[{}]", std::process::id());
        let heard = |system: &UnixDatagram| {
            let mut text = [0; 200];
            let length = system.recv(&mut text).expect("a line");
            String::from_utf8_lossy(&text[..length]).replace(&pid, "[PID]")
        };
        log.tell(&how, "WARNING", "low on salt");
        log.tell(&how, "DEBUG", "for the file");
        log.tell(&how, "LOG", "again");
        for line in [
            "<148>pool[PID]: lines lost before this one: 1",
            "<148>pool[PID]: low on salt",
            "<150>pool[PID]: again",
        ] {
            assert_eq!(heard(&system), line);
        }
        // Nobody reads: its queue fills up, and no call waits.
        let mut told = 0;
        while log.lost.load(Ordering::Relaxed) < 3 {
            log.tell(&how, "ERROR", "full");
            told += 1;
        }
        for _ in 3..told {
            assert_eq!(heard(&system), "<147>pool[PID]: full");
        }
        log.tell(&how, "ERROR", "there is room");
        assert_eq!(heard(&system), "<148>pool[PID]: lines lost before this one: 3");
        assert_eq!(heard(&system), "<147>pool[PID]: there is room");
        // Its reader is started again.
        drop(system);
        std::fs::remove_file(&path).expect("gone");
        let system = UnixDatagram::bind(&path).expect("a log");
        log.tell(&how, "LOG", "found anew");
        assert_eq!(heard(&system), "<150>pool[PID]: found anew");
    }
}
