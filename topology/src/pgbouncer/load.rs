//! A `pgbouncer.ini` as a topology: the file with what it includes, its user list, and what concerns the
//! process alone. Not for translating keys: that is `pgbouncer` itself. Called by `pgpool pgbouncer.ini`,
//! at start and on reload, and by `aqueduct import` for the texts.
//!
//! Invariant: what cannot be translated stops the load with file and line; nothing is guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::held::{self, Held};
use super::{Change, Imported, ini, known};
use crate::model::{Form, SourceFile};
use crate::problem::LoadError;
use crate::units::{Given, SecretRef};
use crate::{At, Topology};

/// Files that include files that include files.
const DEEPEST: usize = 10;

/// A configuration as one text, and where each line of it stands.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Texts {
    /// All lines, those of included files in their place.
    pub ini: String,
    /// The user list, if one is named.
    pub users: Option<String>,
    /// What could not be read of the user list, and does not stop a start.
    pub doubts: Vec<String>,
    origins: Vec<(PathBuf, u32)>,
    main: PathBuf,
    /// Files that were read before this process became another user.
    pub(super) held: Held,
    /// What was said of `[pgbouncer]` since they were read.
    since: BTreeMap<String, String>,
}

/// Texts hold secrets.
impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "texts of {}", self.main.display())
    }
}

impl Texts {
    /// Where a line stands, `FILE:LINE`; 0 is the whole.
    pub fn place(&self, line: u32) -> String {
        let index = usize::try_from(line).unwrap_or_default();
        match index.checked_sub(1).and_then(|at| self.origins.get(at)) {
            Some((file, line)) => format!("{}:{line}", file.display()),
            None if line > 0 => SAID.to_owned(),
            None => self.main.display().to_string(),
        }
    }

    /// The ini with what was said since.
    fn whole(&self) -> String {
        let mut whole = self.ini.clone();
        if !self.since.is_empty() {
            whole.push_str("[pgbouncer]\n");
        }
        self.since.iter().for_each(|(key, value)| {
            whole.extend([key, " = ", value, "\n"]);
        });
        whole
    }
}

/// The place of what no file says.
const SAID: &str = "SET";

/// What of a configuration is about the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Where its number is kept while it runs.
    pub pid_file: Option<PathBuf>,
    /// Where its log goes beside standard error.
    pub log_file: Option<PathBuf>,
    /// The system's log, if lines go there too.
    pub syslog: Option<Syslog>,
    /// As whom it runs.
    pub user: Option<String>,
    /// How much it tells: 0, 1 or 2.
    pub verbose: u32,
    /// Whether clients that come and go are told.
    pub log_connections: Switch,
    /// Whether ends of connections are told.
    pub log_disconnections: Switch,
    /// Whether what clients are told is told.
    pub log_errors: Switch,
    /// Whether rates are told once a period.
    pub log_stats: Switch,
    /// Whether other processes may listen on its TCP ports: `so_reuseport`.
    pub shares: bool,
    /// Seconds of that period.
    pub stats_period: u32,
    /// Databases that have a `pool_mode` of their own.
    pub own_modes: BTreeSet<String>,
    /// What `[pgbouncer]` says, by key.
    pub said: BTreeMap<String, String>,
    /// What all of it was read from.
    pub texts: Arc<Texts>,
}

/// How lines stand in the system's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syslog {
    /// The name before each.
    pub ident: String,
    /// Its facility's number (RFC 5424 §6.2.1).
    pub facility: u8,
}

/// Whether something is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Switch {
    /// It is, as PgBouncer's defaults are.
    #[default]
    On,
    /// It is not.
    Off,
}

/// A configuration that can run.
#[derive(Debug)]
pub struct Loaded {
    /// What `pgpool` runs with.
    pub topology: Topology,
    /// What is about the process.
    pub process: Process,
    /// What is worth knowing and stops nothing, each with its place.
    pub notes: Vec<String>,
}

/// Reads a configuration with all that it includes, and its user list.
///
/// # Errors
/// A file cannot be read, or files include each other.
pub fn read(path: &Path) -> Result<Texts, LoadError> {
    read_after(path, None)
}

/// The same, with the user list of before where it cannot be read: as in PgBouncer, nobody is locked out by a
/// file that is away for a moment.
fn read_after(path: &Path, before: Option<&Texts>) -> Result<Texts, LoadError> {
    let held = before.map(|before| before.held.clone()).unwrap_or_default();
    let mut texts = Texts { main: path.to_owned(), held, ..Texts::default() };
    include(path, 0, &mut texts)?;
    if let Some(users) = super::user_list(&texts.ini) {
        let users = beside(path, Path::new(&users));
        let known = before.and_then(|before| before.users.clone());
        let (text, doubts) = match fs::read(&users) {
            Ok(bytes) => listed(&users, &bytes),
            Err(fault) => {
                let then =
                    if known.is_some() { "its users stay as they were" } else { "it has no users" };
                let doubt =
                    format!("could not open auth_file {}: {fault}: {then}", users.display());
                (known.unwrap_or_default(), vec![doubt])
            }
        };
        texts.users = Some(text);
        texts.doubts = doubts;
    }
    Ok(texts)
}

/// The lines of a user list that are text, and what is to be said of the others: a name or secret with letters
/// put in for others would be somebody else's.
fn listed(path: &Path, bytes: &[u8]) -> (String, Vec<String>) {
    let (mut all, mut doubts) = (String::new(), Vec::new());
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        match std::str::from_utf8(line) {
            Ok(line) => all.push_str(line),
            Err(_) if line.trim_ascii_start().starts_with(b";") => {}
            Err(_) => {
                let place = path.display();
                doubts
                    .push(format!("{place}:{number}: this line is no UTF-8: its user is left out"));
            }
        }
        all.push('\n');
    }
    (all, doubts)
}

/// A file's lines; comments may be in any encoding.
fn text(path: &Path) -> Result<String, LoadError> {
    let failed = |source| LoadError::Io { path: path.to_owned(), source };
    let bytes = fs::read(path).map_err(failed)?;
    let foreign = |(_, line): &(u32, &[u8])| {
        !line.trim_ascii_start().starts_with(b";")
            && !line.trim_ascii_start().starts_with(b"#")
            && std::str::from_utf8(line).is_err()
    };
    if let Some((number, _)) = (1..).zip(bytes.split(|byte| *byte == b'\n')).find(foreign) {
        return Err(failed(io::Error::other(format!("line {number} is no UTF-8"))));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn include(file: &Path, depth: usize, into: &mut Texts) -> Result<(), LoadError> {
    if depth > DEEPEST {
        let source = io::Error::other("files include each other");
        return Err(LoadError::Io { path: file.to_owned(), source });
    }
    for (number, line) in (1..).zip(text(file)?.lines()) {
        if let Some(other) = ini::included(line) {
            include(&beside(file, Path::new(other)), depth + 1, into)?;
        } else {
            into.ini.push_str(line);
            into.ini.push('\n');
            into.origins.push((file.to_owned(), number));
        }
    }
    Ok(())
}

/// A path that a file names: from where the process runs, as PgBouncer has it, or else from the file's
/// folder.
pub fn beside(file: &Path, path: &Path) -> PathBuf {
    if path.exists() {
        return path.to_owned();
    }
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// Reads a configuration that is to run.
///
/// # Errors
/// What cannot be read or translated, with its places.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    translate(path, read(path)?)
}

/// Reads it again for a process that runs.
///
/// # Errors
/// As [`load`].
pub fn load_again(path: &Path, process: &Process) -> Result<Loaded, LoadError> {
    translate(path, read_after(path, Some(&process.texts))?)
}

/// The configuration of a process with another value of one key of `[pgbouncer]`, as the admin database's `SET`
/// wants it: the ini itself is not read again.
///
/// # Errors
/// Nobody knows the key, another value of it does not hold while the process runs, or it is no lawful value.
pub fn with(process: &Process, key: &str, value: &str) -> Result<Loaded, LoadError> {
    let refuse = |what: String| Err(LoadError::Foreign(vec![what]));
    match known(key) {
        Some((.., Change::Now)) => {}
        Some((.., Change::Restart)) => return refuse(format!("{key} is changed by a restart")),
        Some((.., Change::Never)) => return refuse(format!("{key} has no effect here")),
        None => return refuse(format!("{key} is no setting: see SHOW CONFIG")),
    }
    if value.contains(char::is_control) {
        return refuse(format!("{key}: a value is one line of text"));
    }
    let mut texts = (*process.texts).clone();
    if key == "auth_file" && !value.is_empty() {
        let path = beside(&texts.main, Path::new(value));
        let bytes =
            fs::read(&path).map_err(|source| LoadError::Io { path: path.clone(), source })?;
        let (users, doubts) = listed(&path, &bytes);
        (texts.users, texts.doubts) = (Some(users), doubts);
    }
    texts.since.insert(key.to_owned(), value.to_owned());
    let path = texts.main.clone();
    let loaded = translate(&path, texts)?;
    // What a file may say and is only noted was meant here.
    let doubted: Vec<_> = loaded.notes.iter().filter(|note| note.starts_with(SAID)).collect();
    if doubted.is_empty() {
        return Ok(loaded);
    }
    Err(LoadError::Foreign(doubted.into_iter().cloned().collect()))
}

fn translate(path: &Path, mut texts: Texts) -> Result<Loaded, LoadError> {
    let imported = super::import(&texts.whole(), texts.users.as_deref());
    let told = |stops: bool| -> Vec<String> {
        let those = imported.notes.iter().filter(|note| note.stops == stops);
        those.map(|note| format!("{}: {}", texts.place(note.line), note.what)).collect()
    };
    let (stops, notes) = (told(true), told(false));
    if !stops.is_empty() {
        return Err(LoadError::Foreign(stops));
    }
    let name = path.display().to_string();
    let folder = std::path::absolute(path)
        .map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
    let folder = folder.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    let mut topology = crate::parse(&name, &imported.text, &folder).map_err(LoadError::Problems)?;
    fill(&mut topology, &imported);
    for doubt in held::lend(&mut topology, &texts.held) {
        // Of `SET` it was told before.
        if !texts.doubts.contains(&doubt) {
            texts.doubts.push(doubt);
        }
    }
    // The ini itself holds secrets.
    let text = imported.text.clone();
    let process = Process { texts: Arc::new(texts), ..imported.process };
    let form = Form::PgBouncer(Box::new(process.clone()));
    let source = SourceFile { name, folder, text, form };
    topology.source = Arc::new(source);
    Ok(Loaded { topology, process, notes })
}

/// Puts secrets where the text only names them, and takes away what stands in for nothing.
fn fill(topology: &mut Topology, imported: &Imported) {
    let given = |at: &mut At<SecretRef>| {
        let SecretRef::File(path) = &at.value else { return };
        // A file of the operator's may have a number for its name.
        if !path.parent().is_some_and(|folder| folder.ends_with("secrets")) {
            return;
        }
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|n| n.parse().ok());
        let number = number.and_then(|n: usize| n.checked_sub(1));
        if let Some((_, secret)) = number.and_then(|n| imported.secrets.get(n)) {
            at.value = SecretRef::Given(Given::new(secret));
        }
    };
    for group in &mut topology.pools {
        group.hba.iter_mut().for_each(given);
        for user in &mut group.users {
            user.secret.iter_mut().chain(&mut user.server_password).for_each(given);
        }
        for database in &mut group.databases {
            let password = database.login.as_mut().and_then(|login| login.password.as_mut());
            password.into_iter().for_each(given);
        }
        if imported.stand_ins.contains(&super::StandIn::Database) {
            group.databases.clear();
        }
        if imported.stand_ins.contains(&super::StandIn::User) {
            group.users.clear();
        }
        if imported.stand_ins.contains(&super::StandIn::Listener) {
            group.instances.iter_mut().for_each(|one| one.listen.clear());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T3, P2: a user list that cannot be read stops no start and locks nobody out on reload; what is no UTF-8
    /// harms a comment not at all, and its own user alone.
    #[test]
    fn user_lists_that_cannot_be_read() {
        let folder = tempfile::tempdir().expect("folder");
        let path = |name: &str| folder.path().join(name);
        let ini = |more: &[u8]| {
            let text = format!(
                "[databases]\na = host=127.0.0.1\n[pgbouncer]\nauth_file = {}\n",
                path("users").display()
            );
            fs::write(path("a.ini"), [text.as_bytes(), more].concat()).expect("written");
        };
        let names = |loaded: &Loaded| -> Vec<String> {
            loaded.topology.pools[0].users.iter().map(|user| user.name.to_string()).collect()
        };
        ini(b"; caf\xe9\n");
        let loaded = load(&path("a.ini")).expect("it starts");
        assert!(names(&loaded).is_empty());
        assert!(loaded.process.texts.doubts[0].contains("could not open auth_file"));
        fs::write(path("users"), b"; \xe9\n\"app\" \"x\"\n\"caf\xe9\" \"y\"\n").expect("written");
        let loaded = load(&path("a.ini")).expect("read");
        assert_eq!(names(&loaded), ["app"]);
        let doubts = &loaded.process.texts.doubts;
        assert!(doubts.len() == 1 && doubts[0].contains("users:3: "), "{doubts:?}");
        fs::remove_file(path("users")).expect("gone");
        let again = load_again(&path("a.ini"), &loaded.process).expect("read");
        assert_eq!(names(&again), ["app"]);
        assert!(again.process.texts.doubts[0].contains("stay as they were"));
        ini(b"stats_users = caf\xe9\n");
        load(&path("a.ini")).expect_err("it would be another name");
    }
}
