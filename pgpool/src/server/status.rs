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

use crate::prepared::Statement;
use crate::query::Trace;

/// Who gets the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The client: it sent the message.
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
    /// Parse of the unnamed statement, with what was unnamed before (client, server).
    ParseUnnamed(To, Option<Rc<Statement>>, Option<u64>),
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
    /// A command finished whose text leaves this behind.
    Command(Trace),
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

    /// Order is no longer certain: never reuse this server.
    pub fn doubt(&mut self) {
        self.odd = true;
    }

    /// A message was sent.
    pub fn sent(&mut self, message: Due) {
        match &message {
            Due::Sync if self.copy == Copy::In && !self.copy_is_ending() => {
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
            Due::Close(To::Pool, _) | Due::CopyEnd => {}
            _ => self.unsynced = true,
        }
        self.due.push_back(message);
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
            Some(Due::OwedParse(_) | Due::OwedClose(_)) => self.due.pop_front(),
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
            Due::Parse(to, ..) | Due::ParseUnnamed(to, ..) => *to,
            _ => To::Client,
        };
        let done = self.step(message).ok_or(out)?;
        let reply = if to == To::Client { Reply::Deliver } else { Reply::Drop };
        Ok((reply, done))
    }

    /// A message that may come at any time.
    fn aside(&self) -> Reply {
        match self.due.front() {
            Some(Due::Query(To::Pool, _)) => Reply::Drop,
            _ => Reply::Deliver,
        }
    }

    /// A message that answers the front of the queue; `None`: it does not.
    fn step(&mut self, message: u8) -> Option<Option<Done>> {
        let front = self.due.front()?;
        match (message, front) {
            (tag::READY, _) => None, // `ready` takes it: it carries the status.
            (tag::PARSE_COMPLETE, Due::Parse(..) | Due::ParseUnnamed(..) | Due::ParsePlain) => {
                let parsed = self.due.pop_front()?;
                Some(match parsed {
                    Due::Parse(_, statement, _) => Some(Done::Parsed(statement.id())),
                    _ => None,
                })
            }
            (tag::BIND_COMPLETE, Due::Bind)
            | (tag::CLOSE_COMPLETE, Due::Close(..))
            | (tag::NO_DATA | tag::ROW_DESCRIPTION, Due::Describe)
            | (tag::PORTAL_SUSPENDED, Due::Execute(_)) => self.pop(),
            (tag::PARAMETER_DESCRIPTION, Due::Describe)
            | (tag::ROW_DESCRIPTION | tag::EMPTY_QUERY | tag::NO_DATA, Due::Query(..))
            | (tag::DATA_ROW, Due::Query(..) | Due::Execute(_))
            | (tag::FUNCTION_RESULT, Due::Function) => Some(None),
            (tag::COMMAND_COMPLETE, Due::Query(_, trace)) => {
                let done = Done::Command(trace.clone());
                self.end_copy();
                Some(Some(done))
            }
            (tag::COMMAND_COMPLETE | tag::EMPTY_QUERY, Due::Execute(trace)) => {
                let done = Done::Command(trace.clone());
                self.end_copy();
                self.due.pop_front();
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
        self.due.pop_front().map(|_| None)
    }

    fn begin_copy_in(&mut self) {
        self.copy = Copy::In;
        let mut ended = false;
        let mut at = 0;
        self.due.retain(|due| {
            at += 1;
            ended |= matches!(due, Due::CopyEnd);
            // Sent before the end of the data: the server reads and ignores them.
            at == 1 || ended || !matches!(due, Due::Sync)
        });
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
                Reply::Failed(self.due.drain(..end).collect())
            }
        }
    }

    /// ReadyForQuery.
    ///
    /// # Errors
    /// It is not due.
    pub fn ready(&mut self, status: Status) -> Result<Reply, OutOfOrder> {
        let reply = match self.due.pop_front() {
            Some(Due::Query(To::Pool, _)) => Reply::Drop,
            Some(Due::Query(..) | Due::Sync | Due::Function) => Reply::Deliver,
            _ => return Err(OutOfOrder { tag: tag::READY }),
        };
        self.status = status;
        self.copy = Copy::None;
        Ok(reply)
    }
}

#[cfg(test)]
mod tests;
