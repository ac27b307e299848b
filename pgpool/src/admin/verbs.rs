//! Commands of the admin database that change something, and how each worker carries them out. Not
//! for SHOW. Parsed by the console, sent to all workers.
//!
//! Invariant: a command that names a database touches no other.

use std::rc::Rc;

use crate::client::entry::Ending;
use crate::fatal::Refusal;
use crate::pool::{Pause, Pool};
use crate::worker::Worker;

/// What a worker is told. A database of `None` means all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Servers are given to nobody.
    Pause(Option<String>),
    /// They are again.
    Resume(Option<String>),
    /// Every server is closed when it is next free.
    Reconnect(Option<String>),
    /// Idle servers are closed.
    CloseIdle(Option<String>),
    /// Clients and servers of a database are ended.
    Kill(String),
    /// One client is ended.
    KillClient(u32),
}

/// A statement of the admin database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// `SHOW what`.
    Show(String),
    /// For the workers; the name is the command tag.
    Tell(Command, &'static str),
    /// `SHUTDOWN`: drain, or end now.
    Shutdown(Haste),
    /// `RELOAD`.
    Reload,
    /// Session settings that drivers send: accepted and without effect.
    Nothing(&'static str),
    /// Empty.
    Empty,
}

/// How fast to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// Transactions may end.
    Drain,
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
        "RECONNECT" => Statement::Tell(Command::Reconnect(database), "RECONNECT"),
        "KILL" => match database {
            Some(database) => Statement::Tell(Command::Kill(database), "KILL"),
            None => return Err(unknown("KILL needs the name of a database")),
        },
        "KILL_CLIENT" => match database.as_deref().and_then(client_number) {
            Some(pid) => Statement::Tell(Command::KillClient(pid), "KILL_CLIENT"),
            None => return Err(unknown("KILL_CLIENT needs an id of SHOW CLIENTS")),
        },
        "SHUTDOWN" if rest.is_empty() => Statement::Shutdown(Haste::Now),
        "SHUTDOWN" => Statement::Shutdown(Haste::Drain),
        "RELOAD" => Statement::Reload,
        "SET" => Statement::Nothing("SET"),
        "BEGIN" | "COMMIT" | "ROLLBACK" => Statement::Nothing("BEGIN"),
        _ => return Err(unknown(&format!("unknown command {:?}", shorten(verb)))),
    };
    Ok(known)
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
            Self::Pause(name) | Self::Resume(name) | Self::Reconnect(name) => name.as_deref(),
            Self::CloseIdle(name) => name.as_deref(),
            Self::Kill(name) => Some(name),
            Self::KillClient(_) => None,
        }
    }

    /// Does it on one worker; how many things it concerned.
    pub fn carry_out(&self, worker: &Rc<Worker>) -> usize {
        match self {
            Self::Pause(database) => worker.pause(database.as_deref(), Pause::Paused),
            Self::Resume(database) => worker.pause(database.as_deref(), Pause::Running),
            Self::Reconnect(database) => each(worker, database.as_deref(), Pool::reconnect),
            Self::CloseIdle(database) => each(worker, database.as_deref(), Pool::close_when_paused),
            Self::Kill(database) => {
                let ended = worker.end(|entry| *entry.database == **database, Ending::Killed);
                ended + each(worker, Some(database), Pool::reconnect)
            }
            Self::KillClient(pid) => worker.end(|entry| entry.pid == *pid, Ending::Killed),
        }
    }
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
        assert_eq!(parse("SHUTDOWN WAIT_FOR_CLIENTS"), Ok(Statement::Shutdown(Haste::Drain)));
        assert_eq!(parse("shutdown"), Ok(Statement::Shutdown(Haste::Now)));
        assert!(parse("select 1").is_err());
        assert!(parse("kill").is_err());
        assert!(parse("kill_client x").is_err());
    }
}
