//! What a pooler does with a statement: the pool, the role and why. The judging is `pgpool`'s. Called by
//! `mod`.
//!
//! Invariant: a statement that may write is said to go to the primary.

use std::net::SocketAddr;

use pgpool::preview::{self, Foreseen};
use pgpool::query::{Tie, Trace};
use pgpool::route::Way;
use serde_json::{Value, json};
use topology::Topology;
use topology::pool::{Group, PoolMode, Reads, Replication, Servers};

use super::question::Statement;
use super::tree::{Explained, Step, Tone};

/// The name of the admin database.
const CONSOLE: &str = "pgbouncer";

/// Explains a statement.
pub(super) fn explain(
    topology: &Topology,
    to: Option<&str>,
    asked: &Statement,
    explained: &mut Explained,
) -> anyhow::Result<()> {
    let group = group(topology, to, &asked.database)?;
    let listens: Vec<String> = group
        .instances
        .iter()
        .map(|one| {
            let at: Vec<_> = one.listen.iter().map(|at| at.value.to_string()).collect();
            format!("{} on {}", one.name, at.join(", "))
        })
        .collect();
    let mut step = Step::place(format!("{} · pgpool {}", group.name, listens.join("; ")));
    explained.fact("pool_group", group.name.as_str());
    login(&mut step, group, asked);
    if asked.database == CONSOLE {
        step.plain("the admin database answers by itself: no server is asked");
        explained.steps.push(step);
        return Ok(());
    }
    let who = (asked.database.as_str(), asked.user.as_str());
    match preview::ask(group, who, &asked.settings, &asked.sql) {
        Err(why) => {
            step.add(Tone::Refused, format!("refused: {why}"));
            explained.fact("refused", true);
        }
        Ok(foreseen) => {
            database(&mut step, asked, &foreseen, explained);
        }
    }
    explained.steps.push(step);
    Ok(())
}

fn group<'t>(
    topology: &'t Topology,
    to: Option<&str>,
    database: &str,
) -> anyhow::Result<&'t Group> {
    let names = |groups: &[&Group]| {
        let all: Vec<_> = groups.iter().map(|group| group.name.as_str()).collect();
        all.join(", ")
    };
    let all: Vec<&Group> = topology.pools.iter().collect();
    if let Some(to) = to {
        let found = all.iter().find(|group| group.name.as_str() == to).copied();
        return found.ok_or_else(|| {
            anyhow::anyhow!("no pool group is called {to}: there are {}", names(&all))
        });
    }
    let has = |group: &&&Group| {
        let mut all = group.databases.iter();
        all.any(|one| one.name.as_str() == database || one.name.as_str() == "*")
    };
    let having: Vec<&Group> = all.iter().filter(has).copied().collect();
    match (&all[..], &having[..]) {
        ([], _) => anyhow::bail!("the file has no pool"),
        ([only], _) | (_, [only]) => Ok(only),
        (_, []) => {
            anyhow::bail!("no pool has a database {database}: say which with --to: {}", names(&all))
        }
        _ => {
            anyhow::bail!("several pools have {database}: say which with --to: {}", names(&having))
        }
    }
}

/// Whether the database says who its users are that the file does not list.
fn looked_up(group: &Group, database: &str) -> bool {
    let named = |name: &str| group.databases.iter().find(|one| one.name.as_str() == name);
    named(database).or_else(|| named("*")).is_some_and(|one| one.lookup.is_some())
}

fn login(step: &mut Step, group: &Group, asked: &Statement) {
    let user = group.users.iter().find(|one| one.name.as_str() == asked.user);
    let how = match (&group.hba, user) {
        (Some(rules), _) => format!("the rules of {} say how {} logs in", rules.value, asked.user),
        (None, Some(user)) if user.looked_up => {
            format!("{} proves what is looked up of it at the database", asked.user)
        }
        (None, Some(user)) if user.secret.is_some() => {
            format!("{} proves that it knows its secret", asked.user)
        }
        (None, Some(_)) => format!("{} logs in without a proof (trust)", asked.user),
        (None, None) if looked_up(group, &asked.database) => {
            format!("{} proves what is looked up of it at the database", asked.user)
        }
        (None, None) => {
            let known: Vec<_> = group.users.iter().map(|user| user.name.as_str()).collect();
            let text = format!("{} cannot log in: the file lists {}", asked.user, known.join(", "));
            step.add(Tone::Refused, text);
            return;
        }
    };
    step.plain(how);
    for (name, value) in &asked.settings {
        step.plain(format!("{name} = {value} follows it from server to server"));
    }
}

fn database(
    step: &mut Step,
    asked: &Statement,
    foreseen: &Foreseen<'_>,
    explained: &mut Explained,
) {
    let database = foreseen.database;
    let mode = match foreseen.mode {
        PoolMode::Session => "session: its server is its own until it leaves",
        PoolMode::Transaction => "transaction: its server goes back when the transaction ends",
        PoolMode::Statement => "statement: its server goes back after each statement",
    };
    let meant = if database.name.as_str() == asked.database { "" } else { ", meant by `*`" };
    step.plain(format!("database {}{meant}; mode {mode}", asked.database));
    let servers = |all: &[String]| all.join(", ");
    let (primary, replicas) = members(foreseen);
    let role = match (&database.servers, foreseen.way) {
        (Servers::Replicas(_), _) => {
            step.plain("the name is a replica alias: its clients only read");
            "replica"
        }
        (Servers::Primary(_), None) => {
            step.plain("there is one server: no choice");
            "primary"
        }
        (Servers::Primary(_), Some(way)) => chosen(step, way, foreseen),
    };
    let candidates = if role == "replica" {
        step.plain(format!("to a replica that is fit: {}", servers(&replicas)));
        step.add(Tone::Not, format!("primary {}: only while no replica is fit", servers(&primary)));
        replicas.iter().chain(&primary).cloned().collect::<Vec<_>>()
    } else {
        step.plain(format!("to the primary: {}", servers(&primary)));
        if !replicas.is_empty() {
            step.add(Tone::Not, format!("replicas {}", servers(&replicas)));
        }
        primary.iter().chain(&replicas).cloned().collect::<Vec<_>>()
    };
    let size = foreseen.pool_size;
    step.plain(format!("pool {}/{}: at most {size} connections", database.name, asked.user));
    if foreseen.shared {
        step.plain("LISTEN: one connection of the pool listens for all its clients".to_owned());
    } else {
        left(step, foreseen.trace.strongest(), foreseen.mode);
    }
    explained.fact("database", database.name.as_str());
    explained.fact("role", role);
    explained.fact("pool", pool_of(foreseen, asked, role == "replica"));
    explained.fact("way", foreseen.way.map(Way::word));
    if let Some(best) = foreseen.at_best.filter(|best| foreseen.way != Some(*best)) {
        explained.fact("way_at_best", best.word());
        explained.fact("pool_at_best", pool_of(foreseen, asked, matches!(best, Way::Trial(_))));
    }
    explained.fact("pins", matches!(foreseen.trace.strongest(), Trace::Pin(_)));
    explained.fact("candidates", candidates.into_iter().map(Value::String).collect::<Vec<_>>());
    explained.fact("mode", json!(format!("{:?}", foreseen.mode).to_lowercase()));
}

/// The name of the pool: replicas have their own.
fn pool_of<'f>(foreseen: &'f Foreseen<'_>, asked: &'f Statement, at_replicas: bool) -> &'f str {
    let replication = foreseen.database.replication.as_ref().filter(|_| at_replicas);
    replication.map_or(&asked.database, |replication| replication.alias.as_str())
}

/// The primary of the file, and the replicas.
fn members(foreseen: &Foreseen<'_>) -> (Vec<String>, Vec<String>) {
    let text =
        |all: &[topology::pool::ServerAddress]| all.iter().map(ToString::to_string).collect();
    match (&foreseen.database.replication, &foreseen.database.servers) {
        (Some(Replication { members, .. }), _) => {
            let (first, rest) = members.split_at(members.len().min(1));
            (text(first), text(rest))
        }
        (None, Servers::Primary(at)) => (vec![at.value.to_string()], Vec::new()),
        (None, Servers::Replicas(all)) => {
            (Vec::new(), all.iter().map(|at| at.value.to_string()).collect())
        }
    }
}

/// The role, told with its reason.
fn chosen(step: &mut Step, way: Way, foreseen: &Foreseen<'_>) -> &'static str {
    let replication = foreseen.database.replication.as_ref();
    let reads = replication.map_or(Reads::Alias, |replication| replication.reads);
    let (role, why) = match way {
        Way::Asked => ("replica", "its comment asks for one"),
        Way::Session => ("replica", "its setting pgpool.role asks for one"),
        Way::Replica => ("replica", "its transaction is read-only"),
        Way::Trial(_) => ("replica", "it reads alone; the primary repeats it if a replica cannot"),
        Way::Harmless => ("primary", "nothing in it can write, and nothing asks for a replica"),
        Way::Primary => ("primary", primary_because(reads, foreseen)),
    };
    step.plain(format!("{role}: {why} (reads: {})", word(reads)));
    if foreseen.at_best.is_some_and(|best| best != way && matches!(best, Way::Trial(_))) {
        let text = "a replica, if the server's catalogue says that its functions change nothing";
        step.add(Tone::Doubt, text);
    }
    role
}

fn primary_because(reads: Reads, foreseen: &Foreseen<'_>) -> &'static str {
    match reads {
        Reads::Alias => "only the alias leads to replicas",
        _ if foreseen.mode == PoolMode::Session => {
            "in session mode only the login can ask for a replica"
        }
        Reads::Asked => "nothing asks for a replica, by a comment or by pgpool.role",
        Reads::ReadOnly => "it begins no read-only transaction and asks for no replica",
        Reads::Automatic => "it cannot be told to read alone",
    }
}

fn word(reads: Reads) -> &'static str {
    match reads {
        Reads::Alias => "alias",
        Reads::Asked => "asked",
        Reads::ReadOnly => "read-only",
        Reads::Automatic => "automatic",
    }
}

/// What it leaves behind.
fn left(step: &mut Step, trace: &Trace, mode: PoolMode) {
    let text = match trace {
        Trace::Nothing
        | Trace::Local(_)
        | Trace::Unlistens(_)
        | Trace::Beside(_)
        | Trace::Chains => return,
        Trace::Set(setting) => {
            format!("{} is remembered and set again on other servers", setting.name)
        }
        Trace::Reset(name) => format!("{name} is set back"),
        Trace::ResetAll => "all settings are set back".to_owned(),
        Trace::Discards => "the session is as after its login".to_owned(),
        Trace::Forgets => "prepared statements are forgotten".to_owned(),
        Trace::Unprepares(name) => format!("prepared statement {name} is forgotten"),
        Trace::Settings => {
            "its settings are not repeated elsewhere: the server is reset afterwards".to_owned()
        }
        Trace::Unknown => {
            "what it leaves behind cannot be told: the server is reset afterwards".to_owned()
        }
        Trace::Pin(_) if mode == PoolMode::Session => return,
        Trace::Pin(tie) => format!("{}: its client keeps the server until it leaves", tied(*tie)),
    };
    step.plain(text);
}

fn tied(tie: Tie) -> &'static str {
    match tie {
        Tie::Prepare => "PREPARE in SQL",
        Tie::Cursor => "a cursor WITH HOLD",
        Tie::Listen => "LISTEN",
        Tie::Temporary => "something temporary",
        Tie::Lock => "an advisory lock of the session",
        Tie::Role => "another role",
        Tie::Library => "LOAD",
        Tie::Size => "a message too large to be kept",
    }
}

/// What a service's own connections to databases would be, for the end of a request's tree.
pub(super) fn entrance(topology: &Topology, group: &str) -> Option<SocketAddr> {
    let group = topology.pools.iter().find(|one| one.name.as_str() == group)?;
    group.instances.iter().find_map(topology::pool::Instance::tcp)
}
