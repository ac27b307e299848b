//! What a server still owes: the queue of replies that are due, and the state machine that checks
//! each message against it. This is what lets a pooler add and drop messages without anyone
//! noticing, and what proves that a server may be given to somebody else. Not for bytes: it sees
//! type bytes and small facts. Called by the relay for every message of either side.
//!
//! Invariant: a server is clean only when nothing is due, the last ReadyForQuery said idle, and no
//! message was ever out of order.

use std::collections::VecDeque;
use std::rc::Rc;

use pgpool_wire::backend::{Status, tag};
use pgpool_wire::frontend::{self, Subject};

use crate::prepared::Statement;
use crate::query::Trace;

/// Why a COPY of a client that is gone fails.
const LOST: &str = "the client is gone";

/// Who gets the reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum To {
    /// The client: it sent the message.
    #[default]
    Client,
    /// Nobody: the message was ours.
    Pool,
}

/// A message that was sent, by the reply that it calls for.
#[derive(Debug)]
pub enum Due {
    /// Query: anything up to ReadyForQuery.
    Query(To, Trace),
    /// Parse of a statement under the server's name; `name` is what the client calls it.
    Parse(To, Rc<Statement>, Option<Box<[u8]>>),
    /// Parse of the unnamed statement.
    ParseUnnamed(To, Rc<Statement>),
    /// Close of the unnamed statement.
    CloseUnnamed(To),
    /// Parse that no map follows (session mode, or a pinned client).
    ParsePlain,
    /// Bind.
    Bind,
    /// Describe.
    Describe,
    /// Execute of a portal whose statement leaves this behind.
    Execute(Trace),
    /// Close; a statement of ours that was evicted.
    Close(To, Option<Rc<Statement>>),
    /// Close of a statement that the client calls so, on the server as well.
    CloseNamed(Box<[u8]>, Rc<Statement>),
    /// FunctionCall: a result and ReadyForQuery.
    Function,
    /// Sync: ReadyForQuery.
    Sync,
    /// CopyDone or CopyFail: no reply of its own.
    CopyEnd,
    /// ParseComplete that we owe the client ourselves, for this name.
    OwedParse(Box<[u8]>),
    /// CloseComplete that we owe the client ourselves, for this name and statement.
    OwedClose(Option<(Box<[u8]>, Rc<Statement>)>),
}

impl Due {
    /// The client's name that means something else afterwards.
    fn renames(&self) -> Option<&[u8]> {
        match self {
            Self::Parse(_, _, Some(name)) | Self::OwedParse(name) => Some(name),
            Self::CloseNamed(name, _) => Some(name),
            Self::OwedClose(Some((name, _))) => Some(name),
            _ => None,
        }
    }

    fn is_ours(&self) -> bool {
        matches!(self, Self::Query(To::Pool, _))
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Parse(_, statement, _) | Self::ParseUnnamed(_, statement) => statement.bytes(),
            _ => 0,
        }
    }

    fn forgets(&self) -> bool {
        let (Self::Query(To::Client, trace) | Self::Execute(trace)) = self else { return false };
        match trace.strongest() {
            Trace::Forgets | Trace::Discards | Trace::Unprepares(_) | Trace::Unknown => true,
            // What was set at the login is set again once it is answered.
            Trace::Reset(_) | Trace::ResetAll => true,
            _ => false,
        }
    }
}

/// What to do with a message of the server.
#[derive(Debug)]
pub enum Reply {
    /// It goes to the client.
    Deliver,
    /// It answers a message of ours.
    Drop,
    /// It goes to the client, and these were never carried out (the first one failed, the others
    /// were skipped), in the order in which they were sent.
    Failed(Vec<Due>),
    /// A message of ours failed that must not fail.
    OursFailed,
}

/// A statement or step that was carried out.
#[derive(Debug)]
pub enum Done {
    /// ParseComplete for a statement under the server's name.
    Parsed(u64),
    /// The unnamed statement is this one now, for the server and whoever sent it.
    Unnamed(To, Rc<Statement>),
    /// There is no unnamed statement any more.
    NoUnnamed(To),
    /// A command finished whose text leaves this behind; whether the client has asked for more behind it.
    Command(Trace, bool),
}

/// Where the unnamed statement stands for a message that is sent now.
#[derive(Debug)]
pub enum Unnamed {
    /// This one was parsed in the same piece of the pipeline.
    Here(Rc<Statement>),
    /// It was ended in the same piece.
    Gone,
    /// An earlier piece decides, and is not answered yet.
    Waits,
    /// As all answers so far have left it.
    Settled,
}

/// The server said something that is not due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message {:?} is not due", *tag as char)]
pub struct OutOfOrder {
    /// Its type byte.
    pub tag: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    None,
    In,
    Out,
}

/// The replies that one server owes.
#[derive(Debug)]
pub struct Ledger {
    due: VecDeque<Due>,
    status: Status,
    copy: Copy,
    /// An error in the extended protocol: the server skips everything up to the next Sync, which
    /// has not been sent yet.
    skipping: bool,
    /// Something happened after which order is no longer certain.
    odd: bool,
    /// Messages of the extended protocol were sent and no Sync after them: portals and an implicit
    /// transaction may be open.
    unsynced: bool,
    piece: u64,
    /// How many of what is due change what a name means.
    renames: usize,
    /// How many of what is due may make the server forget what was prepared.
    forgets: usize,
    /// How many of what is due are queries of ours.
    ours: usize,
    /// Bytes of the statements that are due.
    bytes: usize,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            due: VecDeque::new(),
            status: Status::Idle,
            copy: Copy::None,
            skipping: false,
            odd: false,
            unsynced: false,
            piece: 1,
            renames: 0,
            forgets: 0,
            ours: 0,
            bytes: 0,
        }
    }
}

impl Ledger {
    /// The server can be given to somebody else.
    pub fn is_clean(&self) -> bool {
        self.is_settled() && self.status == Status::Idle
    }

    /// Nothing is due, though a transaction may be open.
    pub fn is_settled(&self) -> bool {
        let open = self.skipping || self.unsynced || self.odd;
        self.due.is_empty() && self.copy == Copy::None && !open
    }

    /// The last ReadyForQuery.
    pub fn status(&self) -> Status {
        self.status
    }

    /// How many replies are due.
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// How many bytes the texts have whose Parse is due.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a query of ours is among what is due.
    pub fn owes_us(&self) -> bool {
        self.ours > 0
    }

    /// Whether no reply is due.
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// The server skips what is sent now, up to the next Sync.
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Number of the piece (between two Syncs) that is being written.
    pub fn piece(&self) -> u64 {
        self.piece
    }

    /// Whether what is due can be waited for although its client is gone.
    pub fn is_certain(&self) -> bool {
        !self.odd
    }

    /// The client is gone: appends what makes the server answer everything that is due, and then
    /// wait. Call it again when more was answered.
    pub fn conclude(&mut self, out: &mut Vec<u8>) {
        if self.is_fed() {
            frontend::put_copy_fail(out, LOST);
            self.sent(Due::CopyEnd);
        }
        if self.unsynced && !self.skipping {
            // A Sync alone would commit what the client never asked to be committed.
            frontend::put_subject(
                out,
                frontend::tag::DESCRIBE,
                Subject::Statement,
                LOST.as_bytes(),
            );
            self.sent(Due::Describe);
        }
        if self.skipping || self.unsynced {
            frontend::put_empty(out, frontend::tag::SYNC);
            self.sent(Due::Sync);
        }
    }

    /// Order is no longer certain: never reuse this server.
    pub fn doubt(&mut self) {
        self.odd = true;
    }

    /// A message was sent.
    pub fn sent(&mut self, message: Due) {
        match &message {
            Due::Sync if self.is_fed() => {
                // The manual, "COPY Operations": Flush and Sync are ignored during COPY IN.
                self.piece += 1;
                return;
            }
            Due::Sync => {
                self.skipping = false;
                self.unsynced = false;
                self.piece += 1;
            }
            _ if self.skipping => return,
            Due::Query(..) | Due::Function => self.piece += 1,
            Due::Close(To::Pool, _) | Due::CloseUnnamed(To::Pool) | Due::CopyEnd => {}
            _ => self.unsynced = true,
        }
        self.renames += usize::from(message.renames().is_some());
        self.forgets += usize::from(message.forgets());
        self.ours += usize::from(message.is_ours());
        self.bytes += message.bytes();
        self.due.push_back(message);
    }

    fn gone(&mut self, due: &Due) {
        self.renames -= usize::from(due.renames().is_some());
        self.forgets -= usize::from(due.forgets());
        self.ours -= usize::from(due.is_ours());
        self.bytes -= due.bytes();
    }

    /// Whether a ReadyForQuery for the client is due: until it comes, nobody can say what becomes of
    /// the transaction.
    pub fn owes_ready(&self) -> bool {
        let ready =
            |due: &Due| matches!(due, Due::Sync | Due::Function | Due::Query(To::Client, _));
        self.due.iter().any(ready)
    }

    /// Whether all that is due answers messages of ours.
    pub fn owes_nobody(&self) -> bool {
        let ours = |due: &Due| {
            matches!(due, Due::Query(To::Pool, _) | Due::Close(To::Pool, _))
                || matches!(due, Due::Parse(To::Pool, ..) | Due::CloseUnnamed(To::Pool))
        };
        self.due.iter().all(ours)
    }

    /// Whether what is due changes what a name means.
    pub fn changes(&self, name: &[u8]) -> bool {
        self.renames > 0 && self.due.iter().any(|due| due.renames() == Some(name))
    }

    /// Whether nobody can say what the server holds until it has answered. An Execute counts once
    /// its Sync was sent: before that there is no answer to wait for.
    pub fn may_forget(&self) -> bool {
        let query = |due: &Due| matches!(due, Due::Query(..)) && due.forgets();
        self.forgets > 0 && (self.due.iter().any(query) || self.earlier().any(Due::forgets))
    }

    /// Whether a statement is being closed for the client.
    pub fn closes(&self, id: u64) -> bool {
        let closes = |due: &Due| matches!(due, Due::CloseNamed(_, it) if it.id() == id);
        self.renames > 0 && self.due.iter().any(closes)
    }

    /// Whether an earlier piece of the pipeline, not answered yet, decides what a name means.
    pub fn decides(&self, name: &[u8]) -> bool {
        self.renames > 0 && self.earlier().any(|due| due.renames() == Some(name))
    }

    /// Where the unnamed statement stands.
    pub fn unnamed(&self) -> Unnamed {
        let earlier = self.earlier().count();
        for due in self.due.range(earlier..).rev() {
            match due {
                Due::ParseUnnamed(_, statement) => return Unnamed::Here(Rc::clone(statement)),
                Due::CloseUnnamed(To::Client) | Due::Query(To::Client, _) => return Unnamed::Gone,
                _ => {}
            }
        }
        let decides = |due: &Due| {
            matches!(due, Due::ParseUnnamed(..) | Due::CloseUnnamed(_) | Due::Query(To::Client, _))
        };
        if self.earlier().any(decides) { Unnamed::Waits } else { Unnamed::Settled }
    }

    /// Whether something is due that sets how later texts are read.
    pub fn may_set(&self) -> bool {
        self.due.iter().any(|due| match due {
            Due::Query(To::Client, trace) | Due::Execute(trace) => *trace != Trace::Nothing,
            _ => false,
        })
    }

    /// What is due up to the last Sync.
    fn earlier(&self) -> impl Iterator<Item = &Due> {
        let end = self.due.iter().rposition(|due| matches!(due, Due::Sync)).map_or(0, |at| at + 1);
        self.due.range(..end)
    }

    /// Whether the client has asked for anything behind what is answered now.
    fn asks_behind(&self) -> bool {
        let ours = |due: &Due| matches!(due, Due::Query(To::Pool, _) | Due::Sync | Due::CopyEnd);
        self.due.iter().skip(1).any(|due| !ours(due))
    }

    fn take(&mut self) -> Option<Due> {
        let due = self.due.pop_front()?;
        self.gone(&due);
        Some(due)
    }

    /// Whether what stands at the front is for [`Ledger::owed`]: it seldom is.
    #[inline]
    pub fn owes_own(&self) -> bool {
        matches!(self.due.front(), Some(Due::CopyEnd | Due::OwedParse(_) | Due::OwedClose(_)))
    }

    /// Takes a message in that goes on to the client and says nothing else: most do. `false`: ask
    /// [`Ledger::reply`], nothing was done.
    #[inline]
    pub fn passes(&mut self, message: u8) -> bool {
        match (message, self.due.front()) {
            (tag::DATA_ROW, Some(Due::Query(To::Client, _) | Due::Execute(_)))
            | (tag::ROW_DESCRIPTION, Some(Due::Query(To::Client, _))) => true,
            // Neither is counted in `renames`, `forgets` or `ours`.
            (tag::BIND_COMPLETE, Some(Due::Bind))
            | (tag::ROW_DESCRIPTION | tag::NO_DATA, Some(Due::Describe)) => {
                self.due.pop_front();
                true
            }
            _ => false,
        }
    }

    /// Whether a COPY takes data of which the end was not sent yet.
    #[inline]
    pub fn is_fed(&self) -> bool {
        self.copy == Copy::In && !self.copy_is_ending()
    }

    fn copy_is_ending(&self) -> bool {
        self.due.iter().any(|due| matches!(due, Due::CopyEnd))
    }

    /// Replies that we owe at the front of the queue, to be given before anything else.
    pub fn owed(&mut self) -> Option<Due> {
        while let Some(Due::CopyEnd) = self.due.front() {
            self.due.pop_front();
        }
        match self.due.front() {
            Some(Due::OwedParse(_) | Due::OwedClose(_)) => self.take(),
            _ => None,
        }
    }

    /// The server sent a message. Take what is [`Ledger::owed`] before and after.
    ///
    /// # Errors
    /// It is not due here; the server cannot be used any longer.
    pub fn reply(&mut self, message: u8) -> Result<(Reply, Option<Done>), OutOfOrder> {
        let out = OutOfOrder { tag: message };
        match message {
            tag::NOTICE | tag::PARAMETER_STATUS | tag::NOTIFICATION => {
                return Ok((self.aside(), None));
            }
            tag::ERROR => return Ok((self.error(), None)),
            _ => {}
        }
        let front = self.due.front().ok_or(out)?;
        let to = match front {
            Due::Query(to, _) | Due::Close(to, _) => *to,
            Due::Parse(to, ..) | Due::ParseUnnamed(to, _) | Due::CloseUnnamed(to) => *to,
            _ => To::Client,
        };
        let done = self.step(message).ok_or(out)?;
        let reply = if to == To::Client { Reply::Deliver } else { Reply::Drop };
        Ok((reply, done))
    }

    /// Whether the server is answering a query of ours.
    pub fn is_ours(&self) -> bool {
        self.due.front().is_some_and(Due::is_ours)
    }

    /// A message that may come at any time.
    fn aside(&self) -> Reply {
        if self.is_ours() { Reply::Drop } else { Reply::Deliver }
    }

    /// A message that answers the front of the queue; `None`: it does not.
    fn step(&mut self, message: u8) -> Option<Option<Done>> {
        let front = self.due.front()?;
        match (message, front) {
            (tag::READY, _) => None, // `ready` takes it: it carries the status.
            (tag::PARSE_COMPLETE, Due::Parse(..) | Due::ParseUnnamed(..) | Due::ParsePlain) => {
                Some(match self.take()? {
                    Due::Parse(_, statement, _) => Some(Done::Parsed(statement.id())),
                    Due::ParseUnnamed(to, statement) => Some(Done::Unnamed(to, statement)),
                    _ => None,
                })
            }
            (tag::BIND_COMPLETE, Due::Bind)
            | (tag::CLOSE_COMPLETE, Due::Close(..) | Due::CloseNamed(..))
            | (tag::NO_DATA | tag::ROW_DESCRIPTION, Due::Describe)
            | (tag::PORTAL_SUSPENDED, Due::Execute(_)) => self.pop(),
            (tag::CLOSE_COMPLETE, Due::CloseUnnamed(to)) => {
                let done = Done::NoUnnamed(*to);
                self.take()?;
                Some(Some(done))
            }
            (tag::PARAMETER_DESCRIPTION, Due::Describe)
            | (tag::ROW_DESCRIPTION | tag::EMPTY_QUERY | tag::NO_DATA, Due::Query(..))
            | (tag::DATA_ROW, Due::Query(..) | Due::Execute(_))
            | (tag::FUNCTION_RESULT, Due::Function) => Some(None),
            (tag::COMMAND_COMPLETE, Due::Query(_, trace)) => {
                let done = Done::Command(trace.clone(), self.asks_behind());
                self.end_copy();
                Some(Some(done))
            }
            (tag::COMMAND_COMPLETE | tag::EMPTY_QUERY, Due::Execute(trace)) => {
                let done = Done::Command(trace.clone(), self.asks_behind());
                self.end_copy();
                self.take()?;
                Some(Some(done))
            }
            (tag::COPY_IN, Due::Query(..) | Due::Execute(_)) => {
                self.begin_copy_in();
                Some(None)
            }
            (tag::COPY_OUT, Due::Query(..) | Due::Execute(_)) => {
                self.copy = Copy::Out;
                Some(None)
            }
            (tag::COPY_DATA | tag::COPY_DONE, Due::Query(..) | Due::Execute(_))
                if self.copy == Copy::Out =>
            {
                Some(None)
            }
            _ => None,
        }
    }

    fn pop(&mut self) -> Option<Option<Done>> {
        self.take().map(|_| None)
    }

    fn begin_copy_in(&mut self) {
        self.copy = Copy::In;
        let mut ended = false;
        let (mut at, before) = (0, self.due.len());
        self.due.retain(|due| {
            at += 1;
            ended |= matches!(due, Due::CopyEnd);
            // Sent before the end of the data: the server reads and ignores them.
            at == 1 || ended || !matches!(due, Due::Sync)
        });
        // The one behind the data ends what they seemed to end: until then an implicit transaction is open.
        let ignored = before != self.due.len();
        self.unsynced |= ignored && !self.due.iter().any(|due| matches!(due, Due::Sync));
        // Anything else before the end of the data is an error that we do not follow.
        let next = self.due.get(1);
        self.odd |= next.is_some_and(|due| !matches!(due, Due::CopyEnd));
    }

    fn end_copy(&mut self) {
        if self.copy == Copy::In
            && let Some(at) = self.due.iter().position(|due| matches!(due, Due::CopyEnd))
        {
            self.due.remove(at);
        }
        self.copy = Copy::None;
    }

    /// An ErrorResponse.
    fn error(&mut self) -> Reply {
        while let Some(Due::CopyEnd) = self.due.front() {
            self.due.pop_front();
        }
        match self.due.front() {
            None => Reply::Deliver,
            Some(Due::Query(To::Pool, _)) => Reply::OursFailed,
            Some(Due::Query(..) | Due::Function | Due::Sync) => {
                self.copy = Copy::None;
                Reply::Deliver
            }
            Some(_) => {
                self.copy = Copy::None;
                let sync = self.due.iter().position(|due| matches!(due, Due::Sync));
                self.skipping = sync.is_none();
                let end = sync.unwrap_or(self.due.len());
                let never: Vec<Due> = self.due.drain(..end).collect();
                never.iter().for_each(|due| self.gone(due));
                Reply::Failed(never)
            }
        }
    }

    /// ReadyForQuery.
    ///
    /// # Errors
    /// It is not due.
    pub fn ready(&mut self, status: Status) -> Result<(Reply, Option<Done>), OutOfOrder> {
        let reply = match self.take() {
            Some(Due::Query(To::Pool, _)) => (Reply::Drop, None),
            // A simple query destroys the unnamed statement (manual, "Extended Query").
            Some(Due::Query(..)) => (Reply::Deliver, Some(Done::NoUnnamed(To::Client))),
            Some(Due::Sync | Due::Function) => (Reply::Deliver, None),
            _ => return Err(OutOfOrder { tag: tag::READY }),
        };
        self.status = status;
        self.copy = Copy::None;
        // A simple query ends what was open before it, portals too, when it ends idle.
        self.unsynced &= status != Status::Idle || !self.due.is_empty();
        Ok(reply)
    }
}

#[cfg(test)]
mod tests;
