//! Log lines in PgBouncer's form, so that what operators search for is found: logins, ends of
//! connections, connects to servers, rates. Not for what happened: that is `events`, whose fields are
//! read here. Set up once, by the drop-in form alone.
//!
//! Invariant: one event is one line: what a client has chosen cannot begin another.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::SystemTime;

use topology::pgbouncer::{Process, Switch};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::syslog::SystemLog;
use crate::admin::show::timestamp;
use crate::events::CONNECTIONS;

/// Where lines go.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

struct Shared {
    process: RwLock<Process>,
    /// At least so much is told, by the command line.
    verbose: u32,
    /// Whether standard error gets them too.
    loud: bool,
    file: Mutex<Option<File>>,
    system: SystemLog,
}

impl Lines {
    /// Lines for a process; `loud`: to standard error too.
    ///
    /// # Errors
    /// The log file cannot be opened.
    pub fn new(process: Process, loud: Loud) -> Result<Self, String> {
        Self::with(process, loud, SystemLog::default())
    }

    fn with(process: Process, loud: Loud, system: SystemLog) -> Result<Self, String> {
        let (verbose, loud) = (process.verbose, loud == Loud::Yes);
        let process = RwLock::new(process);
        let file = Mutex::new(None);
        let shared = Shared { process, verbose, loud, file, system };
        let lines = Self(Arc::new(shared));
        lines.reopen()?;
        Ok(lines)
    }

    /// Goes by a file that was read again.
    ///
    /// # Errors
    /// Its log file cannot be opened; the old one stays.
    pub fn follow(&self, process: &Process) -> Result<(), String> {
        let before = self.said().log_file.clone();
        let verbose = process.verbose.max(self.0.verbose);
        *self.0.process.write().unwrap_or_else(PoisonError::into_inner) =
            Process { verbose, ..process.clone() };
        // What is not wanted is not asked for again, unless this is said.
        tracing::callsite::rebuild_interest_cache();
        if before == process.log_file { Ok(()) } else { self.reopen() }
    }

    fn said(&self) -> RwLockReadGuard<'_, Process> {
        self.0.process.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the log file anew: it may have been moved away.
    ///
    /// # Errors
    /// It cannot be opened; the old one stays.
    pub fn reopen(&self) -> Result<(), String> {
        let Some(path) = self.said().log_file.clone() else { return Ok(()) };
        let opened =
            open(&path).map_err(|fault| format!("cannot open {}: {fault}", path.display()));
        *self.0.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened?);
        Ok(())
    }

    /// Makes them the log of this process.
    pub fn install(&self) {
        // In a test process the first one stays.
        let _taken = tracing_subscriber::registry().with(self.clone()).try_init();
    }

    fn write(&self, line: &str) {
        // A log that cannot be written has nobody to be told to.
        if self.0.loud {
            let _lost = io::stderr().write_all(line.as_bytes());
        }
        if let Some(file) = &mut *self.0.file.lock().unwrap_or_else(PoisonError::into_inner) {
            let _lost = file.write_all(line.as_bytes());
        }
    }

    fn wants(&self, level: Level, target: &str) -> bool {
        let Process { verbose, log_connections, log_disconnections, .. } = &*self.said();
        if target == CONNECTIONS {
            return *log_connections == Switch::On || *log_disconnections == Switch::On;
        }
        let most = match verbose {
            0 => Level::INFO,
            1 => Level::DEBUG,
            _ => Level::TRACE,
        };
        level <= most && (target.starts_with("pgpool") || level <= Level::INFO)
    }
}

/// Whether standard error gets lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loud {
    /// It does.
    Yes,
    /// It does not.
    No,
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        self.wants(*metadata.level(), metadata.target())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut told = Told::default();
        event.record(&mut told);
        let (texts, syslog) = {
            let said = self.said();
            (told.lines(*event.metadata().level(), &said), said.syslog.clone())
        };
        for (level, text) in texts {
            if let Some(syslog) = &syslog {
                self.0.system.tell(syslog, level, &text);
            }
            let now = SystemTime::now();
            let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let time = timestamp(now);
            let time = time.strip_suffix(" UTC").unwrap_or(&time);
            let (millis, pid) = (since.subsec_millis(), std::process::id());
            self.write(&format!("{time}.{millis:03} UTC [{pid}] {level} {text}\n"));
        }
    }
}

/// What an event says.
#[derive(Debug, Default)]
struct Told {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Told {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        let _never = write!(text, "{value:?}");
        self.keep(field, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, value);
    }
}

impl Told {
    fn keep(&mut self, field: &Field, text: &str) {
        let plain = |c: char| if c.is_control() { '?' } else { c };
        let text = text.chars().map(plain).collect();
        match field.name() {
            "message" => self.message = text,
            "instance" => {}
            name => self.fields.push((name, text)),
        }
    }

    fn get(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(key, _)| *key == name);
        found.map_or("", |(_, value)| value)
    }

    /// `C-0x1: shop/app@127.0.0.1:40123`, as PgBouncer begins what concerns one connection.
    fn who(&self, kind: char) -> String {
        let named = |name: &str, none: &str| match self.get(name) {
            "" => none.to_owned(),
            text => text.to_owned(),
        };
        let id: u64 = self.get("id").parse().unwrap_or_default();
        let (database, user) = (named("database", "(nodb)"), named("user", "(nouser)"));
        format!("{kind}-{id:#x}: {database}/{user}@{}", self.get("address"))
    }

    fn lines(&self, level: Level, process: &Process) -> Vec<(&'static str, String)> {
        let comes = process.log_connections == Switch::On;
        let goes = process.log_disconnections == Switch::On;
        let tells = process.log_errors == Switch::On;
        let (cause, age) = (self.get("cause"), self.get("age"));
        let cause = Some(self.get("word")).filter(|word| !word.is_empty()).unwrap_or(cause);
        let age = if age.is_empty() { "0" } else { age };
        let mut all = Vec::new();
        let mut line = |wanted: bool, level, text: String| {
            if wanted {
                all.push((level, text));
            }
        };
        match self.message.as_str() {
            "login attempt" => {
                let (database, user) = (self.get("database"), self.get("user"));
                let tls = Some(self.get("tls")).filter(|tls| !tls.is_empty()).unwrap_or("no");
                let text = format!("login attempt: db={database} user={user} tls={tls}");
                let replication = self.get("replication");
                let text = format!("{} {text} replication={replication}", self.who('C'));
                line(comes, "LOG", text);
            }
            // PgBouncer says nothing more of it.
            "client connected" => {}
            "client left" => {
                let text = format!("closing because: client close request (age={age}s)");
                line(goes, "LOG", format!("{} {text}", self.who('C')));
            }
            "client ended" | "login refused" => {
                let who = self.who('C');
                line(goes, "LOG", format!("{who} closing because: {cause} (age={age}s)"));
                line(tells, "WARNING", format!("{who} pooler error: {cause}"));
            }
            "server connected" => {
                let text = format!("new connection to server (from {})", self.get("local"));
                line(comes, "LOG", format!("{} {text}", self.who('S')));
            }
            "server closed" => {
                line(
                    goes,
                    "LOG",
                    format!("{} closing because: {cause} (age={age}s)", self.who('S')),
                );
            }
            "server connection failed" => {
                let text = format!("closing because: connect failed: {cause} (age=0s)");
                line(true, "WARNING", format!("{} {text}", self.who('S')));
            }
            "listening" => line(true, "LOG", format!("listening on {}", self.get("address"))),
            _ => line(true, word(level), self.plain()),
        }
        all
    }

    /// An event of no form of its own.
    fn plain(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            let _never = write!(text, " {name}={value}");
        }
        text
    }
}

/// PgBouncer's word for a level.
fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "LOG",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "NOISE",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use topology::pgbouncer::Syslog;

    use super::*;

    fn told(message: &str, fields: &[(&'static str, &str)]) -> Told {
        let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Told { message: message.to_owned(), fields }
    }

    /// O2: the lines that operators search for have PgBouncer's words.
    #[test]
    fn lines_are_those_of_pgbouncer() {
        let client =
            [("id", "31"), ("database", "shop"), ("user", "app"), ("address", "1.2.3.4:5")];
        let lines = |message: &str, more: &[(&'static str, &str)]| {
            let told = told(message, &[&client[..], more].concat());
            let lines = told.lines(Level::INFO, &Process::default());
            lines.into_iter().map(|(level, text)| format!("{level} {text}")).collect::<Vec<_>>()
        };
        assert_eq!(
            lines("login attempt", &[("tls", "TLSv1.3/X"), ("replication", "none")]),
            ["LOG C-0x1f: shop/app@1.2.3.4:5 login attempt: db=shop user=app tls=TLSv1.3/X \
                 replication=none"]
        );
        assert!(lines("client connected", &[]).is_empty());
        assert_eq!(
            lines("client left", &[("age", "7")]),
            ["LOG C-0x1f: shop/app@1.2.3.4:5 closing because: client close request (age=7s)"]
        );
        assert_eq!(
            lines("login refused", &[("cause", "no")]),
            [
                "LOG C-0x1f: shop/app@1.2.3.4:5 closing because: no (age=0s)",
                "WARNING C-0x1f: shop/app@1.2.3.4:5 pooler error: no"
            ]
        );
        assert_eq!(
            lines("client ended", &[("cause", "too long"), ("word", "query_wait_timeout")]),
            [
                "LOG C-0x1f: shop/app@1.2.3.4:5 closing because: query_wait_timeout (age=0s)",
                "WARNING C-0x1f: shop/app@1.2.3.4:5 pooler error: query_wait_timeout"
            ]
        );
        assert_eq!(
            lines("server connected", &[("local", "9.9.9.9:1")]),
            ["LOG S-0x1f: shop/app@1.2.3.4:5 new connection to server (from 9.9.9.9:1)"]
        );
        let quiet = Process { log_connections: Switch::Off, ..Process::default() };
        assert!(told("login attempt", &client).lines(Level::DEBUG, &quiet).is_empty());
    }

    /// O2: `syslog = 1` sends what is logged to the system's log too, and a reload changes that.
    #[test]
    fn syslog_is_followed() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("log");
        let system = UnixDatagram::bind(&path).expect("a log");
        let syslog = Some(Syslog { ident: "pool".to_owned(), facility: 16 });
        let process = Process { syslog, ..Process::default() };
        let lines = Lines::with(process.clone(), Loud::No, SystemLog::at(&path)).expect("lines");
        let subscriber = tracing_subscriber::registry().with(lines.clone());
        tracing::subscriber::with_default(subscriber, || {
            let tell = |what: &str| {
                tracing::event!(target: "pgpool::events", Level::WARN, what, "noted");
            };
            tell("first");
            lines.follow(&Process::default()).expect("followed");
            tell("not there");
            lines.follow(&process).expect("followed");
            tell("last");
        });
        for what in ["first", "last"] {
            let mut text = [0; 200];
            let length = system.recv(&mut text).expect("a line");
            let own = std::process::id();
            let line = format!("<132>pool[{own}]: noted what={what}");
            assert_eq!(String::from_utf8_lossy(&text[..length]), line);
        }
    }
}
