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
    let mut words = text.split_whitespace();
    let Some(verb) = words.next() else { return Ok(Statement::Empty) };
    let rest: Vec<&str> = words.collect();
    let database = rest.first().map(|name| name.trim_matches('"').to_owned());
    let known = match verb.to_ascii_uppercase().as_str() {
        "SHOW" => Statement::Show(rest.join(" ").to_ascii_uppercase()),
        "PAUSE" => Statement::Tell(Command::Pause(database), "PAUSE"),
        "RESUME" => Statement::Tell(Command::Resume(database), "RESUME"),
        "RECONNECT" => Statement::Tell(Command::Reconnect(database, next_round()), "RECONNECT"),
        "KILL" => Statement::Tell(Command::Kill(database), "KILL"),
        "SUSPEND" => Statement::Tell(Command::Suspend, "SUSPEND"),
        "WAIT_CLOSE" => Statement::WaitClose(database),
        "DISABLE" | "ENABLE" => {
            let pause = verb.eq_ignore_ascii_case("DISABLE");
            let tag = if pause { "DISABLE" } else { "ENABLE" };
            let pause = if pause { Pause::Paused } else { Pause::Running };
            let database = database.ok_or_else(|| unknown("a database is required"))?;
            Statement::Tell(Command::Disable(database, pause), tag)
        }
        "KILL_CLIENT" => match database.as_deref().and_then(client_number) {
            Some(pid) => Statement::Tell(Command::KillClient(pid), "KILL_CLIENT"),
            None => return Err(unknown("KILL_CLIENT needs an id of SHOW CLIENTS")),
        },
        "SHUTDOWN" if rest.is_empty() => Statement::Shutdown(Haste::Now),
        "SHUTDOWN" => match rest.join(" ").to_ascii_uppercase().as_str() {
            "WAIT_FOR_SERVERS" => Statement::Shutdown(Haste::When(Wait::Servers)),
            "WAIT_FOR_CLIENTS" => Statement::Shutdown(Haste::When(Wait::Clients)),
            _ => {
                return Err(unknown(
                    "SHUTDOWN waits for nothing, WAIT_FOR_SERVERS or WAIT_FOR_CLIENTS",
                ));
            }
        },
        "RELOAD" => Statement::Reload,
        "TAKEOVER" => Statement::TakeOver,
        "SET" => match assignment(text.get(verb.len()..).unwrap_or_default()) {
            Some((key, _)) if DRIVERS.contains(&key.as_str()) => Statement::Nothing("SET"),
            Some((key, value)) => Statement::Set(key, value),
            None => return Err(unknown("SET takes a key, = or TO, and one value")),
        },
        "BEGIN" => Statement::Nothing("BEGIN"),
        "COMMIT" => Statement::Nothing("COMMIT"),
        "ROLLBACK" => Statement::Nothing("ROLLBACK"),
        _ => return Err(unknown(&format!("unknown command {:?}", shorten(verb)))),
    };
    Ok(known)
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
                worker.hold(or_all(database), Hold::Paused, Pause::Paused);
                let ended = worker.end(its, Ending::Killed);
                ended + each(worker, database.as_deref(), Pool::reconnect)
            }
            Self::KillClient(pid) => worker.end(|entry| entry.pid == *pid, Ending::Killed),
        }
    }
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
        assert_eq!(split("a';';b;\"c;\""), ["a';'", "b", "\"c;\""]);
    }
}
