//! Where a client's statement would go, told by the judges of its messages without a server. Not for the
//! data path. Called by `aqueduct explain`, with a group of the topology file.
//!
//! Invariant: it knows no server: where one must say which functions change nothing, that is told.

use std::rc::Rc;

use pgpool_wire::frontend;
use topology::pool::{Database, Group, PoolMode, Servers, User};

use crate::ear::wish::{self, Wish};
use crate::family::Functions;
use crate::query::{self, Trace};
use crate::relay::link::Memory;
use crate::route::{self, Way};
use crate::variables::Variables;

/// What becomes of a statement.
#[derive(Clone, Debug)]
pub struct Foreseen<'g> {
    /// The entry of the file that the client's name means.
    pub database: &'g Database,
    /// The user, where the file lists it.
    pub user: Option<&'g User>,
    /// When its server goes back to the pool: as the user has it, else the database.
    pub mode: PoolMode,
    /// Most connections of the pool, likewise.
    pub pool_size: u32,
    /// Which servers, and why; `None`: there is no choice.
    pub way: Option<Way>,
    /// The same, were every function one that changes nothing.
    pub at_best: Option<Way>,
    /// What it leaves behind in the server's session.
    pub trace: Trace,
    /// The pool listens for its client: no server is needed.
    pub shared: bool,
}

/// Judges a statement that is its client's first. `settings` come with the login.
///
/// # Errors
/// The name means no database, or a setting cannot be.
pub fn ask<'g>(
    group: &'g Group,
    (database, user): (&str, &str),
    settings: &[(String, String)],
    sql: &str,
) -> Result<Foreseen<'g>, String> {
    let named = |name: &str| group.databases.iter().find(|one| one.name.as_str() == name);
    let found = named(database).or_else(|| named(ANY));
    let found = found.ok_or_else(|| format!("database \"{database}\" does not exist"))?;
    let mut variables = Variables::default();
    variables.start(settings, &[])?;
    let client = Memory { variables: Rc::new(variables), ..Memory::default() };
    let mut message = Vec::new();
    frontend::put_query(&mut message, sql.as_bytes());
    let replication = found.replication.as_ref();
    let user = group.users.iter().find(|one| one.name.as_str() == user);
    let terms = user.map(|user| &user.terms);
    let mode = terms.and_then(|terms| terms.mode).unwrap_or(found.mode);
    let pool_size = terms.and_then(|terms| terms.pool_size).unwrap_or(found.pool_size).get();
    let chooses = matches!(found.servers, Servers::Primary(_));
    let way = |functions: &Functions| {
        let level = replication.filter(|_| chooses)?.reads;
        let way = route::judge(&message, &client, level, functions);
        Some(route::kept(way, mode == PoolMode::Session))
    };
    let at_best = way(&called(sql));
    Ok(Foreseen {
        database: found,
        user,
        mode,
        pool_size,
        way: way(&Functions::default()),
        at_best,
        trace: query::judge(sql.as_bytes()),
        shared: group.settings.shared_listen
            && mode != PoolMode::Session
            && matches!(wish::read(sql.as_bytes()), Some(Wish::Listen(_))),
    })
}

/// Every word of a text, as if each were a function that changes nothing.
fn called(sql: &str) -> Functions {
    let letter = |c: char| !(c.is_alphanumeric() || c == '_');
    let words = sql.split(letter).filter(|word| !word.is_empty());
    words.map(|word| word.to_ascii_lowercase().into_bytes().into()).collect()
}

/// The database that stands for all that are not named.
const ANY: &str = "*";
