//! Prepared statements that follow their client from server to server: which names a client uses,
//! which statements a server holds, and the texts behind both, kept once per worker. Not for the
//! messages, which the relay writes. Called by the relay and when a server changes hands.
//!
//! Invariant: a server's name for a statement is made from its worker and its text's id, so two clients can never
//! mean different statements by one server name.

use std::borrow::Borrow;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use crate::family::Functions;
use crate::query::reads::{Access, access};
use crate::query::{Tie, Trace};

/// What all names of one client may hold together, in bytes of SQL and names.
pub const MOST_CLIENT_BYTES: usize = 16 << 20;
/// Names of one client.
pub const MOST_CLIENT_NAMES: usize = 10_000;

/// One statement's text and parameter types.
#[derive(Debug)]
pub struct Statement {
    id: u64,
    name: Box<[u8]>,
    /// Query, its zero byte, and the parameter types, as in Parse; `None`: too large to be kept,
    /// so it lives on one server only and its client stays there.
    pub rest: Option<Box<[u8]>>,
    /// What running it leaves behind.
    pub trace: Trace,
    /// The settings under which it was parsed.
    terms: u64,
    /// All who send this text under these settings mean it.
    shared: bool,
    /// What it needs of a server, once that was found out.
    access: Cell<Option<Access>>,
}

impl Statement {
    /// The name that servers know it by.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The settings under which it was parsed; `None`: nobody else uses it.
    pub fn terms(&self) -> Option<u64> {
        self.shared.then_some(self.terms)
    }

    /// Stays the same while the text is in use anywhere on this worker.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its SQL; `None`: it was too large to be kept.
    pub fn text(&self) -> Option<&[u8]> {
        self.rest.as_deref().and_then(|rest| rest.split(|byte| *byte == 0).next())
    }

    /// What it needs of a server; see [`access`].
    pub fn access(&self, functions: Option<&Functions>) -> Access {
        let Some(text) = self.text() else { return Access::Unknown };
        // Before the catalogue was read, much is unknown.
        if functions.is_none_or(Functions::is_empty) {
            return access(text, functions);
        }
        let known = self.access.get().unwrap_or_else(|| access(text, functions));
        self.access.set(Some(known));
        known
    }

    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    /// Whether it may be a `LISTEN` or `UNLISTEN`, and nothing else.
    fn may_listen(&self) -> bool {
        matches!(self.trace, Trace::Pin(Tie::Listen) | Trace::Unlistens(_))
    }
}

/// Compared by text and by the settings under which it was parsed.
struct Text(Rc<Statement>);

/// What a text is looked up by: a trait object, so that nothing is copied to look.
trait Key {
    fn key(&self) -> (u64, &[u8]);
}

impl Key for Text {
    fn key(&self) -> (u64, &[u8]) {
        (self.0.terms, self.0.rest.as_deref().unwrap_or_default())
    }
}

impl Key for (u64, &[u8]) {
    fn key(&self) -> (u64, &[u8]) {
        *self
    }
}

impl<'a> Borrow<dyn Key + 'a> for Text {
    fn borrow(&self) -> &(dyn Key + 'a) {
        self
    }
}

impl Hash for dyn Key + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for dyn Key + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for dyn Key + '_ {}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Text {}

/// All statement texts of a worker, each once.
#[derive(Default)]
pub struct Statements {
    known: HashSet<Text, foldhash::fast::RandomState>,
    next: Cell<u64>,
    sweep_at: usize,
    /// Goes into names: a server may move to another worker, which numbers its own.
    worker: usize,
}

impl Statements {
    /// Those of a worker.
    pub fn new(worker: usize) -> Self {
        Self { worker, ..Self::default() }
    }

    /// The statement of a named Parse; the same text under the same settings (`terms`, see
    /// [`crate::variables::Variables::terms`]) gives the same statement.
    pub fn intern(
        &mut self,
        rest: &[u8],
        terms: u64,
        trace: impl FnOnce() -> Trace,
    ) -> Rc<Statement> {
        let key: &dyn Key = &(terms, rest);
        if let Some(Text(statement)) = self.known.get(key) {
            return Rc::clone(statement);
        }
        if self.known.len() >= self.sweep_at {
            // Whoever is alone here is used by no client and no server any more.
            self.known.retain(|Text(statement)| Rc::strong_count(statement) > 1);
            self.sweep_at = (self.known.len() * 2).max(1024);
        }
        let statement = self.make_under(Some(rest.into()), Some(terms), trace());
        self.known.insert(Text(Rc::clone(&statement)));
        statement
    }

    /// A statement that nobody shares: unnamed, or too large to keep (`rest` is `None`).
    pub fn make(&self, rest: Option<Box<[u8]>>, trace: Trace) -> Rc<Statement> {
        self.make_under(rest, None, trace)
    }

    fn make_under(
        &self,
        rest: Option<Box<[u8]>>,
        terms: Option<u64>,
        trace: Trace,
    ) -> Rc<Statement> {
        let id = self.next.get();
        self.next.set(id + 1);
        let name = format!("aqueduct_{}_{id}", self.worker).into_bytes().into();
        let (shared, terms) = (terms.is_some(), terms.unwrap_or_default());
        Rc::new(Statement { id, name, rest, trace, terms, shared, access: Cell::new(None) })
    }
}

/// The names that one client has given.
#[derive(Default)]
pub struct Names {
    named: HashMap<Box<[u8]>, Rc<Statement>, foldhash::fast::RandomState>,
    bytes: usize,
    /// One of them was a `LISTEN` or `UNLISTEN`.
    listen: bool,
    /// The unnamed statement, as the client's last Parse made it.
    pub unnamed: Option<Rc<Statement>>,
}

impl Names {
    /// The statement of a name.
    pub fn find(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        self.named.get(name)
    }

    /// Whether a Bind may mean a `LISTEN` or `UNLISTEN`.
    pub fn may_listen(&self) -> bool {
        self.listen || self.unnamed.as_ref().is_some_and(|statement| statement.may_listen())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// All names.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Rc<Statement>)> {
        self.named.iter().map(|(name, statement)| (&**name, statement))
    }

    /// Remembers a name. `false`: the client has reached its bound and nothing was remembered.
    #[must_use]
    pub fn insert(&mut self, name: &[u8], statement: Rc<Statement>) -> bool {
        let more = name.len() + statement.bytes();
        if self.named.len() >= MOST_CLIENT_NAMES || self.bytes + more > MOST_CLIENT_BYTES {
            return false;
        }
        self.remove(name);
        self.bytes += more;
        self.listen |= statement.may_listen();
        self.named.insert(name.into(), statement);
        true
    }

    /// Lets a name mean the same text parsed anew.
    pub fn replace(&mut self, name: &[u8], statement: &Rc<Statement>) {
        if let Some(known) = self.named.get_mut(name) {
            debug_assert_eq!(known.rest, statement.rest, "the same text");
            *known = Rc::clone(statement);
        }
    }

    /// Forgets a name.
    pub fn remove(&mut self, name: &[u8]) -> Option<Rc<Statement>> {
        let statement = self.named.remove(name)?;
        self.bytes -= name.len() + statement.bytes();
        Some(statement)
    }

    /// `DEALLOCATE ALL`, `DISCARD ALL`: forgets all names but those for which `stays` holds, and
    /// the unnamed statement.
    pub fn retain(&mut self, stays: impl Fn(&[u8]) -> bool) {
        self.named.retain(|name, _| stays(name));
        self.bytes = self.named.iter().map(|(name, held)| name.len() + held.bytes()).sum();
        self.unnamed = None;
    }
}

/// How a server stands to a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// It has answered ParseComplete.
    Held,
    /// Sent in the piece of the pipeline (between two Syncs) that is still being written: if it
    /// fails, so does everything after it.
    SentHere,
    /// Sent in an earlier piece and not answered yet: nobody can say.
    Unknown,
    /// It does not have it.
    Missing,
}

struct Hold {
    statement: Rc<Statement>,
    confirmed: bool,
    piece: u64,
    used: u64,
    /// The answer (see [`Holdings::end_answer`]) in which it was confirmed.
    answer: u64,
}

/// The statements that one server holds.
#[derive(Default)]
pub struct Holdings {
    held: HashMap<u64, Hold, foldhash::fast::RandomState>,
    /// Of the SQL of all that is held.
    bytes: usize,
    turn: u64,
    /// Counts answers.
    answers: u64,
    /// The server may have statements under our names that are not what we take them for: each
    /// Parse needs a Close before it.
    pub doubtful: bool,
    /// Id of the statement that stands as the unnamed one.
    pub unnamed: Option<u64>,
}

impl Holdings {
    /// Whether the server has a statement; `piece` numbers the pipeline's pieces.
    pub fn holding(&mut self, statement: &Statement, piece: u64) -> Holding {
        self.turn += 1;
        let Some(hold) = self.held.get_mut(&statement.id) else { return Holding::Missing };
        hold.used = self.turn;
        if hold.confirmed {
            Holding::Held
        } else if hold.piece == piece {
            Holding::SentHere
        } else {
            Holding::Unknown
        }
    }

    /// A Parse of it was sent in `piece`.
    pub fn sent(&mut self, statement: &Rc<Statement>, piece: u64) {
        self.turn += 1;
        let hold = Hold {
            statement: Rc::clone(statement),
            confirmed: false,
            piece,
            used: self.turn,
            answer: 0,
        };
        self.bytes += statement.bytes();
        if let Some(before) = self.held.insert(statement.id, hold) {
            self.bytes -= before.statement.bytes();
        }
    }

    /// ParseComplete came.
    pub fn confirm(&mut self, id: u64) {
        if let Some(hold) = self.held.get_mut(&id) {
            hold.confirmed = true;
            hold.answer = self.answers;
        }
    }

    /// ReadyForQuery came.
    pub fn end_answer(&mut self) {
        self.answers += 1;
    }

    /// A setting that parsing reads has changed somewhere in this answer: what was parsed in it, or
    /// is on its way, may have been parsed under either value, and is shared with nobody.
    pub fn misparsed(&mut self) {
        let answer = self.answers;
        let before = self.held.len();
        self.retain(|hold| hold.confirmed && hold.answer != answer);
        self.doubtful |= self.held.len() != before;
    }

    /// The server has shown that it holds something else than we think.
    pub fn doubt(&mut self) {
        self.clear_confirmed();
        self.doubtful = true;
    }

    /// Its Parse failed or was skipped, or it was closed.
    pub fn forget(&mut self, id: u64) {
        if let Some(hold) = self.held.remove(&id) {
            self.bytes -= hold.statement.bytes();
        }
    }

    fn retain(&mut self, stays: impl Fn(&Hold) -> bool) {
        let bytes = &mut self.bytes;
        self.held.retain(|_, hold| {
            let stays = stays(hold);
            *bytes -= if stays { 0 } else { hold.statement.bytes() };
            stays
        });
    }

    /// A Close of it was skipped: it is still there.
    pub fn restore(&mut self, statement: &Rc<Statement>) {
        self.sent(statement, 0);
        self.confirm(statement.id);
    }

    /// `DEALLOCATE ALL` or `DISCARD ALL` was answered. What is still on its way stays.
    pub fn clear_confirmed(&mut self) {
        self.retain(|hold| !hold.confirmed);
        self.unnamed = None;
    }

    /// Whether the server may have any statement under one of our names.
    pub fn has_left(&self) -> bool {
        self.doubtful || !self.held.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether it holds no more than it should.
    pub fn fits(&self, most: Most) -> bool {
        self.held.len() <= most.count && self.bytes <= most.bytes
    }

    /// Takes out what was used longest ago, until the rest fits. Only what can be sent again.
    pub fn evict(&mut self, most: Most) -> Vec<Rc<Statement>> {
        if self.fits(most) {
            return Vec::new();
        }
        let mut by_use: Vec<_> = self
            .held
            .values()
            .filter(|hold| hold.confirmed && hold.statement.rest.is_some())
            .map(|hold| (hold.used, Rc::clone(&hold.statement)))
            .collect();
        by_use.sort_unstable_by_key(|(used, _)| *used);
        let mut gone = Vec::new();
        for (_, statement) in by_use {
            if self.fits(most) {
                break;
            }
            self.forget(statement.id);
            gone.push(statement);
        }
        gone
    }
}

/// Bounds on what a server holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Statements; 0: their client keeps the server.
    pub count: usize,
    /// Bytes of their SQL.
    pub bytes: usize,
}

#[cfg(test)]
mod tests;
