//! Commands of the admin database that change something, and how each worker carries them out. Not
//! for SHOW. Parsed by the console, sent to all workers.
//!
//! Invariant: a command that names a database touches no other.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::client::entry::{Ending, Entry};
use crate::fatal::Refusal;
use crate::parting::{self, Wait};
use crate::pool::{Pause, Pool};
use crate::snapshot::CONSOLE;
use crate::worker::Worker;

/// What a worker is told. A database of `None` means all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Servers are given to nobody.
    Pause(Option<String>),
    /// They are again.
    Resume(Option<String>),
    /// Every server is closed when it is next free. The number tells one time it is said from another.
    Reconnect(Option<String>, u64),
    /// Idle servers are closed.
    CloseIdle(Option<String>),
    /// New clients of a database are refused, or let in again.
    Disable(String, Pause),
    /// Everything is paused; servers stay connected.
    Suspend,
    /// Clients and servers of a database are ended, and it is paused.
    Kill(Option<String>),
    /// One client is ended.
    KillClient(u32),
    /// Nobody new is let in, and the instance ends by itself.
    Part(Wait),
}

/// How a database is held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hold {
    /// Servers are given to nobody.
    Paused,
    /// New clients are refused.
    Disabled,
    /// `SUSPEND` is in force, which pauses as well.
    Suspended,
}

/// A statement of the admin database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// `SHOW what`.
    Show(String),
    /// For the workers; the name is the command tag.
    Tell(Command, &'static str),
    /// `SHUTDOWN`: end now, or when something has gone.
    Shutdown(Haste),
    /// `RELOAD`.
    Reload,
    /// `WAIT_CLOSE`: answered when no server of before the last `RECONNECT` is left.
    WaitClose(Option<String>),
    /// `SET key = value`.
    Set(String, String),
    /// `TAKEOVER`: everything goes to the process that asks.
    TakeOver,
    /// Session settings that drivers send: accepted and without effect.
    Nothing(&'static str),
    /// Empty.
    Empty,
}

/// How fast to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// When something has gone.
    When(Wait),
    /// At once.
    Now,
}

/// Reads a statement.
///
/// # Errors
/// It is not known.
pub fn parse(sql: &str) -> Result<Statement, Refusal> {
    let text = sql.trim().trim_end_matches(';').trim();
    let Some(verb) = text.split_whitespace().next() else { return Ok(Statement::Empty) };
    let rest = text.get(verb.len()..).unwrap_or_default();
    let known = match verb.to_ascii_uppercase().as_str() {
        "SHOW" => {
            let words: Vec<_> = rest.split_whitespace().collect();
            Statement::Show(words.join(" ").to_ascii_uppercase())
        }
        "SET" => match assignment(rest) {
            Some((key, _)) if DRIVERS.contains(&key.as_str()) => Statement::Nothing("SET"),
            Some((key, value)) => Statement::Set(key, value),
            None => return Err(unknown("SET takes a key, = or TO, and one value")),
        },
        "BEGIN" => Statement::Nothing("BEGIN"),
        "COMMIT" => Statement::Nothing("COMMIT"),
        "ROLLBACK" => Statement::Nothing("ROLLBACK"),
        upper => return command(upper, rest),
    };
    Ok(known)
}

/// A command and the one name behind it, as PgBouncer takes them: a word, or anything between `"`.
fn command(verb: &str, rest: &str) -> Result<Statement, Refusal> {
    let name = name(rest);
    let tell = |command, tag| Ok(Statement::Tell(command, tag));
    match verb {
        "PAUSE" => tell(Command::Pause(name?), "PAUSE"),
        "RESUME" => tell(Command::Resume(name?), "RESUME"),
        "RECONNECT" => tell(Command::Reconnect(name?, next_round()), "RECONNECT"),
        "KILL" => tell(Command::Kill(name?), "KILL"),
        "WAIT_CLOSE" => Ok(Statement::WaitClose(name?)),
        "DISABLE" | "ENABLE" => {
            let database = name?.ok_or_else(|| unknown("a database is required"))?;
            match verb {
                "DISABLE" => tell(Command::Disable(database, Pause::Paused), "DISABLE"),
                _ => tell(Command::Disable(database, Pause::Running), "ENABLE"),
            }
        }
        "KILL_CLIENT" => match name?.as_deref().and_then(client_number) {
            Some(pid) => tell(Command::KillClient(pid), "KILL_CLIENT"),
            None => Err(unknown("KILL_CLIENT needs an id of SHOW CLIENTS")),
        },
        "SHUTDOWN" => match name?.map(|word| word.to_ascii_uppercase()).as_deref() {
            None => Ok(Statement::Shutdown(Haste::Now)),
            Some("WAIT_FOR_SERVERS") => Ok(Statement::Shutdown(Haste::When(Wait::Servers))),
            Some("WAIT_FOR_CLIENTS") => Ok(Statement::Shutdown(Haste::When(Wait::Clients))),
            Some(_) => {
                Err(unknown("SHUTDOWN waits for nothing, WAIT_FOR_SERVERS or WAIT_FOR_CLIENTS"))
            }
        },
        "SUSPEND" | "RELOAD" | "TAKEOVER" if !rest.trim().is_empty() => {
            Err(unknown(&format!("{verb} is about all databases and takes no name")))
        }
        "SUSPEND" => tell(Command::Suspend, "SUSPEND"),
        "RELOAD" => Ok(Statement::Reload),
        "TAKEOVER" => Ok(Statement::TakeOver),
        _ => Err(unknown(&format!("unknown command {:?}", shorten(verb)))),
    }
}

/// The one name in a text, if there is one; between `"`, of which two stand for one, it may be anything. An empty one
/// is none: it would stand for all.
fn name(text: &str) -> Result<Option<String>, Refusal> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text.split_once('"').is_none() && text.split_whitespace().nth(1).is_none();
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let quoted = quoted.filter(|inner| !inner.replace("\"\"", "").contains('"'));
    let name = match (bare, quoted) {
        (true, _) => text.to_owned(),
        (false, Some(inner)) if !inner.is_empty() => inner.replace("\"\"", "\""),
        _ => return Err(unknown("one name is taken, with blanks only between \"")),
    };
    Ok(Some(name))
}

/// What drivers set of their own accord, which means nothing here.
const DRIVERS: [&str; 9] = [
    "application_name",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "extra_float_digits",
    "intervalstyle",
    "standard_conforming_strings",
    "timezone",
];

/// `key = value` or `key TO 'value'`, the key in lower case.
fn assignment(text: &str) -> Option<(String, String)> {
    let text = text.trim();
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (key, rest) = text.split_at(text.find(|c| !letter(c))?);
    let after = rest.trim_start();
    let spaced = rest.len() > after.len();
    let value = match after.strip_prefix('=') {
        Some(value) => value,
        None => {
            let word = after.get(..2).filter(|word| spaced && word.eq_ignore_ascii_case("to"))?;
            after.strip_prefix(word).filter(|value| value.starts_with([' ', '\t', '\n', '\'']))?
        }
    };
    let value = match value.trim().strip_prefix('\'') {
        Some(quoted) => quoted.strip_suffix('\'')?.replace("''", "'"),
        None => value.trim().to_owned(),
    };
    (!key.is_empty()).then(|| (key.to_ascii_lowercase(), value))
}

/// The statements of a text; a `;` between quotes ends none.
pub fn split(sql: &str) -> Vec<&str> {
    let mut quote = None;
    sql.split(|c: char| {
        match quote {
            None if matches!(c, '\'' | '"') => quote = Some(c),
            Some(open) if open == c => quote = None,
            _ => {}
        }
        c == ';' && quote.is_none()
    })
    .collect()
}

/// Numbers what is said to all workers and counts once; of this process.
fn next_round() -> u64 {
    static ROUNDS: AtomicU64 = AtomicU64::new(1);
    ROUNDS.fetch_add(1, Ordering::Relaxed)
}

fn unknown(text: &str) -> Refusal {
    Refusal::ConsoleSyntax(text.to_owned())
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A client's number as SHOW CLIENTS shows it.
fn client_number(text: &str) -> Option<u32> {
    text.trim_matches('\'').parse().ok()
}

impl Command {
    /// The database that it names.
    pub fn database(&self) -> Option<&str> {
        match self {
            Self::Pause(name) | Self::Resume(name) | Self::Reconnect(name, _) => name.as_deref(),
            Self::CloseIdle(name) => name.as_deref(),
            Self::Kill(name) => name.as_deref(),
            Self::Disable(name, _) => Some(name),
            Self::KillClient(_) | Self::Suspend | Self::Part(_) => None,
        }
    }

    /// Whether it can be carried out: the database that it names is there, and what it pauses or resumes is not so
    /// already, as PgBouncer wants it.
    ///
    /// # Errors
    /// What is in its way.
    pub fn check(&self, worker: &Worker) -> Result<(), Refusal> {
        let paused = |name: &str| worker.held().contains(&(name.to_owned(), Hold::Paused));
        let refuse = |text: &str| Err(Refusal::ConsoleState(text.to_owned()));
        if let Some(name) = self.database() {
            is_there(worker, name)?;
        }
        match self {
            // A database that was paused by itself may keep the last clients from leaving.
            Self::Resume(None) if worker.parting.wait().is_some() => {
                refuse("the pooler is shutting down")
            }
            Self::Resume(None) if !paused("") => refuse("the pooler is not paused or suspended"),
            Self::Resume(Some(name)) if !paused(name) => {
                refuse(&format!("database \"{name}\" is not paused"))
            }
            Self::Pause(_) | Self::Kill(_) | Self::Suspend if paused("") => {
                refuse("all is paused or suspended already")
            }
            Self::Suspend if worker.held().iter().any(|(_, hold)| *hold == Hold::Paused) => {
                refuse("a database is paused by itself: RESUME it first")
            }
            _ => Ok(()),
        }
    }

    /// Does it on one worker; how many things it concerned.
    pub fn carry_out(&self, worker: &Rc<Worker>) -> usize {
        match self {
            Self::Pause(database) => worker.hold(or_all(database), Hold::Paused, Pause::Paused),
            // What was begun is not taken back; databases that are paused by themselves may go on.
            Self::Resume(None) if worker.parting.wait().is_some() => 0,
            Self::Part(wait) => parting::begin(worker, *wait),
            Self::Resume(database) => {
                if database.is_none() {
                    worker.hold("", Hold::Suspended, Pause::Running);
                }
                // Databases that are paused by themselves stay so.
                worker.hold(or_all(database), Hold::Paused, Pause::Running)
            }
            Self::Disable(database, pause) => worker.hold(database, Hold::Disabled, *pause),
            Self::Suspend => {
                worker.hold("", Hold::Suspended, Pause::Paused);
                worker.hold("", Hold::Paused, Pause::Paused)
            }
            Self::Reconnect(database, round) => {
                each(worker, database.as_deref(), |pool| pool.reconnect_for(*round))
            }
            Self::CloseIdle(database) => each(worker, database.as_deref(), Pool::close_when_paused),
            Self::Kill(database) => {
                let its =
                    |entry: &Entry| database.as_ref().is_none_or(|name| *entry.database == **name);
                // Each by itself, so that each may be resumed by itself.
                let all = worker.snapshot().all_databases().into_iter();
                let all = all.map(|database| database.name.clone());
                for name in database.as_ref().map_or_else(|| all.collect(), |one| vec![one.clone()])
                {
                    worker.hold(&name, Hold::Paused, Pause::Paused);
                }
                let ended = worker.end(its, Ending::Killed);
                ended + each(worker, database.as_deref(), Pool::reconnect)
            }
            Self::KillClient(pid) => worker.end(|entry| entry.pid == *pid, Ending::Killed),
        }
    }
}

/// Whether a command may name this database: one that is known, or held up, or that `*` stands for.
///
/// # Errors
/// There is none, or it is the admin database.
pub fn is_there(worker: &Worker, name: &str) -> Result<(), Refusal> {
    if name == CONSOLE {
        let text = "the admin database is neither paused nor killed";
        return Err(Refusal::ConsoleState(text.to_owned()));
    }
    let snapshot = worker.snapshot();
    let held = || worker.held().iter().any(|(other, _)| other == name);
    if snapshot.knows(name) || snapshot.has_any() || held() {
        return Ok(());
    }
    Err(Refusal::NoSuchDatabase(name.to_owned()))
}

/// The name that stands for all databases is empty.
fn or_all(database: &Option<String>) -> &str {
    database.as_deref().unwrap_or_default()
}

fn each(worker: &Worker, database: Option<&str>, what: impl Fn(&Pool)) -> usize {
    let wanted = |pool: &&Rc<Pool>| database.is_none_or(|name| pool.database().name == name);
    let pools = worker.pools();
    pools.iter().filter(wanted).map(|pool| what(pool)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P6: what is typed, and what it means.
    #[test]
    fn statements() {
        assert_eq!(parse(" show Pools ; "), Ok(Statement::Show("POOLS".into())));
        let pause = Statement::Tell(Command::Pause(Some("app".into())), "PAUSE");
        assert_eq!(parse("PAUSE app;"), Ok(pause));
        let when = |wait| Ok(Statement::Shutdown(Haste::When(wait)));
        assert_eq!(parse("SHUTDOWN wait_for_clients"), when(Wait::Clients));
        assert_eq!(parse("SHUTDOWN WAIT_FOR_SERVERS;"), when(Wait::Servers));
        assert!(parse("SHUTDOWN soon").is_err());
        assert_eq!(parse("shutdown"), Ok(Statement::Shutdown(Haste::Now)));
        assert!(parse("select 1").is_err());
        assert_eq!(parse("kill"), Ok(Statement::Tell(Command::Kill(None), "KILL")));
        assert!(parse("disable").is_err());
        let set = Statement::Set("query_timeout".into(), "5".into());
        assert_eq!(parse("SET Query_Timeout = '5';"), Ok(set));
        assert!(parse("kill_client x").is_err());
        let set = |key: &str, value: &str| Ok(Statement::Set(key.to_owned(), value.to_owned()));
        assert_eq!(parse("set verbose to 2"), set("verbose", "2"));
        assert_eq!(parse("SET a='x = ''y'' to; z'"), set("a", "x = 'y' to; z"));
        assert_eq!(parse("SET a ="), set("a", ""));
        assert_eq!(parse("SET TimeZone TO 'UTC'"), Ok(Statement::Nothing("SET")));
        for wrong in ["SET", "SET a", "SET a 5", "SET ato 5", "SET a = 'x", "SET to 5"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let pause = |name: &str| {
            let command = Command::Pause(Some(name.to_owned()));
            Ok(Statement::Tell(command, "PAUSE"))
        };
        assert_eq!(parse("PAUSE \"my db\" ;"), pause("my db"));
        assert_eq!(parse("pause \"a\"\"b\""), pause("a\"b"));
        assert_eq!(parse("pause my-db"), pause("my-db"));
        for wrong in [
            "SUSPEND shop",
            "RELOAD now",
            "TAKEOVER x",
            "PAUSE shop other",
            "PAUSE \"my db\" other",
            "PAUSE \"my",
            "PAUSE \"\"",
            "PAUSE a\"b\"",
            "KILL a b",
            "SHUTDOWN WAIT_FOR_CLIENTS now",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(split("a';';b;\"c;\""), ["a';'", "b", "\"c;\""]);
    }
}
