//! What is known of a client and of a server while they talk, apart from their sockets. Not for
//! bytes. Held by the client and the server; read and changed by `forward` and `answer`.
//!
//! Invariant: what belongs to the client is only in [`Memory`], what belongs to the server only in
//! [`Conversation`]; a change of server needs nothing else.

use pgpool_wire::backend::Status;
use topology::pool::PoolMode;

use crate::ear::Listening;
use crate::ear::wish::Channel;
use crate::prepared::{Holdings, Most, Names};
use crate::query::{Setting, Tie, Trace};
use crate::server::status::{Due, Ledger, To};
use crate::telemetry::Noted;
use crate::variables::{InForce, PATH, Value, Variables, has_temporary};

/// What a client has that must follow it from server to server.
#[derive(Default)]
pub struct Memory {
    /// Prepared statements.
    pub names: Names,
    /// Settings; the same value as other clients', as long as it has changed nothing.
    pub variables: std::rc::Rc<Variables>,
    /// Settings as they were after its login: what `RESET` means.
    pub initial: std::rc::Rc<Variables>,
    /// Why it keeps its server.
    pub tie: Option<Tie>,
    /// What the statement behind the unnamed portal leaves behind.
    pub portal: Option<Trace>,
    /// Settings made in the open transaction.
    pub pending: Vec<Pending>,
    /// How many of them were made before its first savepoint; `None`: it has none.
    pub savepoint: Option<usize>,
    /// What else the open transaction has set, as far as parsing may read it.
    pub locals: Locals,
    /// Bytes of a large message that pass without being looked at.
    pub left: usize,
    /// One piece of its pipeline at a time goes to this server: the next may belong elsewhere.
    pub stepwise: bool,
    /// What it has sent and was not counted yet.
    pub said: Said,
    /// Its hold on its pool's ear; once it has listened.
    pub listening: Option<Box<Listening>>,
    /// What is to be told of its query; only while somebody wants to hear of it.
    pub noted: Option<Box<Noted>>,
}

/// Messages that SHOW STATS counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// Parse of a named statement, from the client.
    pub parses: u32,
    /// The same, to the server.
    pub sent: u32,
    /// Bind.
    pub binds: u32,
}

impl Memory {
    /// Settings that are about to become its own.
    fn own(&mut self) -> &mut Variables {
        std::rc::Rc::make_mut(&mut self.variables)
    }

    /// Stops listening by way of its pool's ear; on all channels if none are named.
    fn unlisten(&self, channels: &[Channel]) {
        let Some(listening) = &self.listening else { return };
        if channels.is_empty() {
            listening.unlisten(None);
        }
        channels.iter().for_each(|channel| listening.unlisten(Some(channel)));
    }

    /// Whether a notification comes to it by way of its pool's ear as well: its server has it twice.
    pub fn hears(&self, body: &[u8]) -> bool {
        let Some(listening) = &self.listening else { return false };
        pgpool_wire::backend::notification(body).is_ok_and(|channel| listening.has(channel))
    }

    /// The server's queries for this client have been answered: what it reports is how it understood
    /// them.
    pub fn take_reported(&mut self, server: &InForce) {
        if !server.equals(&self.variables) && self.variables.differs(server) {
            self.own().take_reported(server);
        }
    }
}

/// A setting that counts when its transaction commits.
#[derive(Clone, Debug)]
pub enum Pending {
    /// Made.
    Set(std::rc::Rc<Setting>),
    /// Unmade.
    Reset(std::rc::Rc<str>),
    /// All unmade.
    ResetAll,
    /// Not listened on any more; none are all.
    Unlisten(std::rc::Rc<[Channel]>),
}

/// Settings in force that are none of the client's own: of the open transaction alone, or not followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locals {
    /// None that parsing reads.
    #[default]
    None,
    /// Those that were made by these statements.
    These(u64),
    /// Nobody can say which.
    Unknown,
}

impl Locals {
    /// One more was made.
    fn add(&mut self, setting: Option<&Setting>) {
        use std::hash::BuildHasher;
        let before = match self {
            Self::None => 0,
            Self::These(before) => *before,
            Self::Unknown => return,
        };
        let hasher = foldhash::fast::FixedState::with_seed(before);
        *self = setting.map_or(Self::Unknown, |it| Self::These(hasher.hash_one(&it.statement)));
    }

    /// Some may have been taken back.
    fn doubt(&mut self) {
        if *self != Self::None {
            *self = Self::Unknown;
        }
    }

    /// A transaction has ended, and those that were its own with it.
    fn end(&mut self) {
        if matches!(self, Self::These(_)) {
            *self = Self::None;
        }
    }
}

/// How much of a server's session was touched in a way that is not followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wear {
    /// Nothing.
    #[default]
    None,
    /// Settings, the role among them: to reset them makes it as new.
    Settings,
    /// Perhaps anything: only the reset query does.
    Full,
}

/// What a server has and owes.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "facts of one connection, each by itself")]
pub struct Conversation {
    /// Replies that are due.
    pub ledger: Ledger,
    /// Prepared statements.
    pub holdings: Holdings,
    /// Settings in force.
    pub variables: InForce,
    /// Settings as they were after the login.
    pub initial: Variables,
    /// What must be cleaned before somebody else gets it.
    pub wear: Wear,
    /// A `connect_query` was run on it, whose settings a client's reset takes away: it is to be run again.
    pub primed: bool,
    /// Something was said on it that may have left anything, by a function, a view or a trigger: the end of a
    /// session has to be cleaned away.
    pub touched: bool,
    /// It comes from a session that has ended, or is to be cleaned at each release.
    pub ended: bool,
    /// Close it when it is free: its plans are stale.
    pub retire: bool,
    /// The client's settings are as at its login, the server's as at its own.
    pub drifted: bool,
    /// It has sent a FATAL error: its end is announced.
    pub dying: bool,
    /// Bytes of a message that pass (or go nowhere) without being looked at.
    pub left: usize,
    /// Who gets those bytes.
    pub left_to: To,
}

/// What the configuration says about relaying.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// When a server goes back.
    pub mode: PoolMode,
    /// Prepared statements kept per server.
    pub prepared: Most,
    /// Who wants to hear of single queries.
    pub notes: Notes,
}

/// Of which queries something is noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Notes {
    /// None.
    #[default]
    No,
    /// Those whose text names a span: somebody looks at the instance.
    Traced,
    /// All: spans are sent, or slow queries told.
    All,
}

/// `UNLISTEN` was carried out by a server; it counts when its transaction commits.
fn unlistened(client: &mut Memory, trace: &Trace) {
    // One that is heard too much is better than one too little.
    let Some(channels) = trace.unlistened() else { return };
    // The same text ends the same channels, however many statements it does it with.
    let same = |last: &Pending| matches!(last, Pending::Unlisten(known) if std::rc::Rc::ptr_eq(known, channels));
    if !client.pending.last().is_some_and(same) {
        client.pending.push(Pending::Unlisten(std::rc::Rc::clone(channels)));
    }
}

impl Conversation {
    /// Adds wear.
    pub fn wear(&mut self, wear: Wear) {
        self.wear = self.wear.max(wear);
    }

    /// The server owes nothing and is in no transaction.
    pub fn is_clean(&self) -> bool {
        self.ledger.is_clean() && self.left == 0
    }

    /// Appends what makes the session the client's: settings, and room for statements.
    pub fn adopt(&mut self, client: &Memory, rules: Rules, out: &mut Vec<u8>) {
        use pgpool_wire::frontend::{Subject, put_subject, tag};
        self.drifted = false;
        let queries = self.variables.towards(&client.variables);
        if !queries.is_empty() {
            self.say(&queries, out);
            self.holdings.unnamed = None;
            let before = self.variables.has_unreported();
            self.variables.take_unreported(&client.variables);
            // What a `connect_query` has set and no server reports is not known: to unmake a client's
            // setting would take that away, too.
            if self.variables.ends_rest()
                || self.primed && (before || self.variables.has_unreported())
            {
                self.wear(Wear::Settings);
            }
        }
        if rules.mode == PoolMode::Session || self.holdings.fits(rules.prepared) {
            return;
        }
        // Eviction waits for this moment: no portal is open and nothing is under way.
        let evicted = self.holdings.evict(rules.prepared);
        if evicted.is_empty() {
            return;
        }
        for statement in evicted {
            put_subject(out, tag::CLOSE, Subject::Statement, statement.name());
            self.ledger.sent(Due::Close(To::Pool, Some(statement)));
        }
    }

    /// Appends queries of ours.
    fn say(&mut self, queries: &[String], out: &mut Vec<u8>) {
        for sql in queries {
            pgpool_wire::frontend::put_query(out, sql.as_bytes());
            self.ledger.sent(Due::Query(To::Pool, Trace::Nothing));
        }
    }

    /// Whether a statement makes the server forget what the client asked for at its login.
    pub fn unsets(&self, client: &Memory, trace: &Trace) -> bool {
        let resets = matches!(trace, Trace::Reset(_) | Trace::ResetAll | Trace::Discards);
        resets && self.ledger.status() == Status::Idle && *client.initial != self.initial
    }

    /// Appends what makes the server, after a reset, what the client's login asked for; `only` this setting.
    pub fn set_again(&mut self, client: &Memory, only: Option<&str>, out: &mut Vec<u8>) {
        let difference = match only {
            None => client.initial.difference(&self.initial),
            Some(name) => {
                let mut wanted = self.initial.clone();
                wanted.restore(name, &client.initial);
                wanted.difference(&self.initial)
            }
        };
        self.say(&difference, out);
    }

    /// A command was carried out; `tag` is what the server calls it, `more` whether the client has asked for
    /// more behind it.
    pub fn carried_out(&mut self, client: &mut Memory, all: &Trace, tag: &[u8], more: bool) {
        let trace = all.strongest().clone();
        match tag {
            b"DISCARD ALL" => return self.discarded(client, more),
            b"DEALLOCATE ALL" => return self.forget_prepared(client),
            b"SET" | b"RESET" => return self.setting(client, trace),
            b"SAVEPOINT" => {
                client.savepoint.get_or_insert(client.pending.len());
            }
            b"COMMIT" | b"PREPARE TRANSACTION" => self.settle(client),
            b"BEGIN" | b"START TRANSACTION" => self.begun(client),
            // Without a savepoint all is undone. With one it may be a `ROLLBACK TO`.
            b"ROLLBACK" if client.savepoint.is_none() || trace == Trace::Chains => {
                client.pending.clear();
                client.savepoint = None;
                client.locals.end();
            }
            b"ROLLBACK" => self.failed(client),
            b"DEALLOCATE" => return self.unprepared(client, &trace),
            b"UNLISTEN" if client.listening.is_some() => unlistened(client, all),
            b"LISTEN" => client.tie = client.tie.or(Some(Tie::Listen)),
            b"PREPARE" => client.tie = client.tie.or(Some(Tie::Prepare)),
            b"LOAD" => client.tie = client.tie.or(Some(Tie::Library)),
            _ => {}
        }
        self.done(client, &trace);
    }

    /// A text is carried out, or was: what must be cleaned away. It counts when it is sent, as it may fail, or its
    /// client be killed, when what no transaction takes back is done (a lock, what came before a `COMMIT`); and again
    /// when it was carried out, which may be after a `DISCARD ALL`.
    pub fn done(&mut self, client: &mut Memory, trace: &Trace) {
        match trace {
            Trace::Settings => self.wear(Wear::Settings),
            Trace::Unknown => self.wear(Wear::Full),
            Trace::Local(_) => {}
            Trace::Nothing
            | Trace::Set(_)
            | Trace::Reset(_)
            | Trace::Pin(_)
            | Trace::ResetAll
            | Trace::Forgets
            | Trace::Discards
            | Trace::Unlistens(_)
            | Trace::Beside(_)
            | Trace::Chains
            | Trace::Unprepares(_) => return,
        }
        // Of several settings, or one that a function makes, nobody can say what is in force.
        client.locals.add(if let Trace::Local(one) = trace { one.as_deref() } else { None });
    }

    /// `DISCARD ALL`.
    fn discarded(&mut self, client: &mut Memory, more: bool) {
        self.forget_prepared(client);
        client.pending.clear();
        client.savepoint = None;
        client.listening = None;
        self.variables.take_unreported(&self.initial);
        client.variables = std::rc::Rc::clone(&client.initial);
        self.drifted = true;
        // Ties and wear are noted when a message is sent: what was sent behind this one is still to be done.
        if !more {
            client.tie = client.initial.makes_temporary().then_some(Tie::Temporary);
            self.wear = Wear::None;
        }
        if self.primed {
            self.wear(Wear::Settings);
        }
    }

    /// A transaction block was begun: if the one before had a savepoint, nobody has said how it ended.
    fn begun(&mut self, client: &mut Memory) {
        if client.savepoint.take().is_some() {
            self.failed(client);
        }
    }

    /// `DEALLOCATE name`: a name of the client's that was rewritten, or one of SQL's PREPARE.
    fn unprepared(&mut self, client: &mut Memory, trace: &Trace) {
        match trace {
            Trace::Unprepares(name) => match client.names.remove(name.as_bytes()) {
                Some(statement) => self.holdings.forget(statement.id()),
                None => self.wear(Wear::Full),
            },
            _ => self.wear(Wear::Full),
        }
    }

    /// Everything that was prepared is gone; what is on its way stays.
    fn forget_prepared(&mut self, client: &mut Memory) {
        self.holdings.clear_confirmed();
        let ledger = &self.ledger;
        client.names.retain(|name| ledger.changes(name));
    }

    fn setting(&mut self, client: &mut Memory, trace: Trace) {
        let spoils = match &trace {
            Trace::Reset(_) | Trace::ResetAll => true,
            // To unmake it for the next client would take away what the `connect_query` has set.
            Trace::Set(setting) => !self.variables.is_reported(&setting.name),
            _ => false,
        };
        if self.primed && spoils {
            self.wear(Wear::Settings);
        }
        match trace {
            Trace::Nothing | Trace::Unlistens(_) | Trace::Beside(_) | Trace::Chains => {}
            // The server says itself when it is made and when it ends.
            Trace::Local(Some(setting)) if self.variables.is_reported(&setting.name) => {}
            Trace::Local(_) => self.done(client, &trace),
            // The server reports it: that is more exact than the statement.
            Trace::Set(setting) if self.variables.is_reported(&setting.name) => {}
            Trace::Set(setting) if !client.variables.is_full() => {
                client.pending.push(Pending::Set(setting));
            }
            Trace::ResetAll => client.pending.push(Pending::ResetAll),
            Trace::Reset(name) => client.pending.push(Pending::Reset(name)),
            Trace::Unknown | Trace::Settings => self.done(client, &trace),
            Trace::Set(_)
            | Trace::Pin(_)
            | Trace::Forgets
            | Trace::Discards
            | Trace::Unprepares(_) => self.wear(Wear::Settings),
        }
    }

    /// A statement failed, or a transaction went back, perhaps to a savepoint: settings of it may or may not
    /// have survived. Those made before the first savepoint live as long as the transaction does.
    pub fn failed(&mut self, client: &mut Memory) {
        client.locals.doubt();
        if !client.pending.is_empty() {
            client.pending.truncate(client.savepoint.unwrap_or(0));
            self.wear(Wear::Settings);
        }
    }

    /// ReadyForQuery came.
    pub fn ready(&mut self, client: &mut Memory, status: Status) {
        self.holdings.end_answer();
        if status != Status::Idle {
            return;
        }
        // A block that had a savepoint, and did not end with a COMMIT: a rollback, or a COMMIT that failed.
        if client.savepoint.take().is_some() {
            self.failed(client);
        }
        self.settle(client);
        // What is still in force is cleaned away before anybody else comes.
        client.locals = Locals::None;
    }

    /// A transaction was committed: its settings count.
    fn settle(&mut self, client: &mut Memory) {
        client.savepoint = None;
        client.locals.end();
        for pending in std::mem::take(&mut client.pending) {
            self.drifted |= matches!(pending, Pending::Reset(_) | Pending::ResetAll);
            match pending {
                Pending::Set(setting) => {
                    let value = Value::Statement(std::rc::Rc::clone(&setting.statement));
                    client.own().set(&setting.name, value.clone());
                    self.variables.set(&setting.name, value);
                }
                Pending::Reset(name) => {
                    let initial = std::rc::Rc::clone(&client.initial);
                    client.own().restore(&name, &initial);
                    self.variables.remove_unreported(&name);
                }
                Pending::Unlisten(channels) => client.unlisten(&channels),
                Pending::ResetAll => {
                    client.variables = std::rc::Rc::clone(&client.initial);
                    self.variables.take_unreported(&self.initial);
                }
            }
            if self.variables.ends_rest() {
                self.wear(Wear::Settings);
            }
        }
    }

    /// ParameterStatus came. Returns whether the client knew it already.
    pub fn reported(&mut self, client: &mut Memory, name: &str, value: &[u8]) -> bool {
        if !crate::variables::is_theirs(name) {
            return false;
        }
        let Ok(value) = std::str::from_utf8(value) else {
            // In another encoding: it is not remembered, and nobody else's.
            self.wear(Wear::Settings);
            return false;
        };
        // Wherever the path comes from, a function or a parameter: newer servers tell.
        if name == PATH && has_temporary(value.as_bytes()) && !self.ledger.is_ours() {
            client.tie.get_or_insert(Tie::Temporary);
        }
        let value = Value::Reported(std::rc::Rc::from(value));
        let changed = self.variables.set(name, value.clone());
        if changed && !self.ledger.is_ours() && Variables::is_read_by_parsing(name) {
            self.holdings.misparsed();
        }
        client.variables.is(name, &value) || !client.own().set(name, value)
    }

    /// There is no unnamed statement any more, by a message of the client's or of ours.
    pub fn no_unnamed(&mut self, client: &mut Memory, by: To) {
        self.holdings.unnamed = None;
        if by == To::Client {
            client.names.unnamed = None;
        }
    }

    /// Undoes what was noted when these were sent: the server never carried them out. The first
    /// one failed, the others were skipped.
    pub fn undo(&mut self, client: &mut Memory, never: Vec<Due>) {
        for (at, due) in never.into_iter().enumerate().rev() {
            let failed = at == 0;
            match due {
                Due::Parse(_, statement, name) => {
                    self.holdings.forget(statement.id());
                    if let Some(name) = name {
                        client.names.remove(&name);
                    }
                }
                // A Parse that fails has dropped the old one first.
                Due::ParseUnnamed(to, _) if failed => self.no_unnamed(client, to),
                Due::OwedParse(name) => drop(client.names.remove(&name)),
                Due::OwedClose(Some((name, statement))) => {
                    // It fitted before, so it fits again.
                    let _ = client.names.insert(&name, statement);
                }
                Due::Close(_, Some(statement)) => self.holdings.restore(&statement),
                Due::CloseNamed(name, statement) => {
                    self.holdings.restore(&statement);
                    // As above.
                    let _ = client.names.insert(&name, statement);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::judge;

    /// P3: what would end a server that nobody uses is unmade when its client gives it back.
    #[test]
    fn a_rest_that_ends_is_unmade() {
        let (mut talk, mut client) = (Conversation::default(), Memory::default());
        talk.carried_out(&mut client, &judge(b"set work_mem = '1MB'"), b"SET", false);
        talk.ready(&mut client, Status::Idle);
        assert_eq!(talk.wear, Wear::None);
        talk.carried_out(&mut client, &judge(b"set idle_session_timeout = 1"), b"SET", false);
        talk.ready(&mut client, Status::Idle);
        assert_eq!(talk.wear, Wear::Settings);
        let (mut next, mut out) = (Conversation::default(), Vec::new());
        let prepared = Most { count: 1, bytes: 1 };
        let rules = Rules { mode: PoolMode::Transaction, prepared, notes: Notes::No };
        next.adopt(&client, rules, &mut out);
        assert_eq!(next.wear, Wear::Settings);
    }
}
