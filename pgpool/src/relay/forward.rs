//! From client to server: each message is noted, some are renamed, left out or preceded by one of
//! ours. Not for sockets and not for deciding when a server is free. Called by the relay with what
//! was read from a client.
//!
//! Invariant: a message goes to the server only after its reply was noted in the ledger, and no
//! server sees a statement name that a client chose unless that client keeps the server.

mod parse;

use std::rc::Rc;

use pgpool_wire::frame::{self, Found, Frame, Head};
use pgpool_wire::frontend::{self, Bind, Subject, tag};
use topology::pool::PoolMode;

use super::edit::Edit;
use super::link::{Conversation, Memory, Notes, Rules};
use crate::fatal::Refusal;
use crate::prepared::{Holding, Statement, Statements};
use crate::query::{self, Trace};
use crate::server::status::{Due, To, Unnamed};
use crate::telemetry::Noted;
use crate::telemetry::comment;

/// A message up to this length is looked at as a whole; a longer one streams.
pub const WHOLE: usize = 32 << 10;
/// Replies that a client may leave unread before its messages wait.
const MOST_DUE: usize = 8192;
/// Bytes of statements whose Parse a client may leave unanswered before its messages wait.
const MOST_BYTES: usize = 1 << 20;
/// A message must show its names within so many bytes.
const LONGEST_NAMES: usize = 4096;

/// Why forwarding stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The rest is no whole message yet.
    Input,
    /// Replies must come first.
    Replies,
    /// The client says goodbye.
    Terminate,
}

/// One side's view while messages go from client to server.
pub struct Forward<'a> {
    /// The client.
    pub client: &'a mut Memory,
    /// The server.
    pub server: &'a mut Conversation,
    /// The worker's statement texts.
    pub statements: &'a mut Statements,
    /// Configuration.
    pub rules: Rules,
}

impl Forward<'_> {
    /// Forwards what can be forwarded of `edit`'s input.
    ///
    /// # Errors
    /// The client broke the protocol or a bound; the connection must end.
    pub fn run(&mut self, edit: &mut Edit<'_>) -> Result<Stop, Refusal> {
        loop {
            let rest = edit.rest();
            if self.client.left > 0 {
                let count = self.client.left.min(rest.len());
                if count == 0 {
                    return Ok(Stop::Input);
                }
                self.client.left -= count;
                edit.pass(count);
                continue;
            }
            if self.client.stepwise && self.server.ledger.owes_ready() {
                return Ok(Stop::Replies);
            }
            if self.server.ledger.len() > MOST_DUE || self.server.ledger.bytes() > MOST_BYTES {
                // Without it there may be nothing to wait for: the server answers at a Sync, and that is still to come.
                edit.put(|out| frontend::put_empty(out, tag::FLUSH));
                return Ok(Stop::Replies);
            }
            match frame::next(rest, frame::LONGEST)? {
                Found::Nothing => return Ok(Stop::Input),
                Found::Whole(frame) if frame.tag == tag::TERMINATE => return Ok(Stop::Terminate),
                Found::Whole(frame) => {
                    if !self.message(frame, edit)? {
                        return Ok(Stop::Replies);
                    }
                }
                Found::Partial(head, _) if head.total() <= WHOLE => return Ok(Stop::Input),
                Found::Partial(head, body) => match self.large(head, body, edit)? {
                    Large::Started => {}
                    Large::Incomplete => return Ok(Stop::Input),
                    Large::Waits => return Ok(Stop::Replies),
                },
            }
        }
    }

    /// Forwards one message; `false`: it has to wait for replies.
    fn message(&mut self, frame: Frame<'_>, edit: &mut Edit<'_>) -> Result<bool, Refusal> {
        let length = frame.raw.len();
        if self.server.ledger.is_skipping() && frame.tag != tag::SYNC {
            edit.pass(length);
            return Ok(true);
        }
        if self.server.ledger.is_fed() && !may_feed(frame.tag) {
            // The server refuses it, and perhaps goes: whatever waited for an answer would wait for this client.
            self.server.ledger.doubt();
            edit.pass(length);
            return Ok(true);
        }
        let follows = self.rules.mode != PoolMode::Session;
        let names = matches!(frame.tag, tag::PARSE | tag::BIND | tag::DESCRIBE | tag::CLOSE);
        // `DISCARD ALL` ends ties, and not those of what was sent behind it.
        if (names || frame.tag == tag::QUERY) && self.server.ledger.may_forget() {
            return Ok(false);
        }
        self.server.touched |= !matches!(frame.tag, tag::QUERY | tag::SYNC | tag::FLUSH);
        self.client.said.binds += u32::from(frame.tag == tag::BIND);
        match frame.tag {
            tag::QUERY => {
                let sql = frontend::query(frame.body)?;
                if self.rules.notes != Notes::No {
                    self.note(sql, comment::find(sql));
                }
                let trace = query::judge(sql);
                // Only the end of a session asks for it.
                let touches = || !follows && !query::says_nothing(sql, &trace);
                self.server.touched = self.server.touched || touches();
                if let Trace::Unprepares(name) = &trace
                    && follows
                {
                    let name = Rc::clone(name);
                    return self.deallocate(&name, trace, length, edit);
                }
                if self.server.unsets(self.client, &trace) {
                    return Ok(self.reset(trace, length, edit));
                }
                self.query(trace);
            }
            tag::PARSE if follows => return self.parse(frame, edit),
            tag::PARSE => {
                // What it is and leaves is not followed: only a whole reset ends it.
                self.server.wear(super::link::Wear::Full);
                self.server.ledger.sent(Due::ParsePlain);
            }
            tag::BIND if follows => return self.bind(frame.body, length, edit),
            tag::BIND => self.server.ledger.sent(Due::Bind),
            tag::DESCRIBE if follows => return self.describe(frame, edit),
            tag::DESCRIBE => self.server.ledger.sent(Due::Describe),
            tag::CLOSE if follows => return self.close(frame, edit),
            tag::CLOSE => self.server.ledger.sent(Due::Close(To::Client, None)),
            tag::EXECUTE => self.execute(frontend::execute(frame.body)?),
            tag::SYNC => self.server.ledger.sent(Due::Sync),
            tag::FUNCTION_CALL => self.function(frame.body),
            tag::COPY_DONE | tag::COPY_FAIL => self.server.ledger.sent(Due::CopyEnd),
            tag::COPY_DATA | tag::FLUSH => {}
            other => return Err(unexpected(other)),
        }
        edit.pass(length);
        Ok(true)
    }

    /// A message longer than [`WHOLE`] of which the front is there.
    fn large(&mut self, head: Head, body: &[u8], edit: &mut Edit<'_>) -> Result<Large, Refusal> {
        let follows = self.rules.mode != PoolMode::Session && !self.server.ledger.is_skipping();
        self.server.touched = true;
        if !follows {
            self.server.wear(super::link::Wear::Full);
        }
        match head.tag {
            _ if self.server.ledger.is_skipping() => {}
            tag::COPY_DATA => {}
            // Only its front is seen: the server is cleaned afterwards.
            tag::QUERY => self.query(Trace::Unknown),
            tag::FUNCTION_CALL => self.function(body),
            tag::PARSE if follows => return self.large_parse(head, body, edit),
            tag::PARSE => self.server.ledger.sent(Due::ParsePlain),
            tag::BIND if follows => {
                if !has_names(body)? {
                    return Ok(Large::Incomplete);
                }
                let sent = self.bind(body, frame::HEADER + body.len(), edit)?;
                if sent {
                    self.client.left = head.body as usize - body.len();
                }
                return Ok(if sent { Large::Started } else { Large::Waits });
            }
            tag::BIND => self.server.ledger.sent(Due::Bind),
            // Everything else is small by nature.
            other => return Err(unexpected(other)),
        }
        self.client.left = head.total();
        Ok(Large::Started)
    }

    fn query(&mut self, trace: Trace) {
        self.leave(&trace);
        self.server.ledger.sent(Due::Query(To::Client, trace));
    }

    /// FunctionCall, or its front: what is not known to leave nothing may leave anything.
    fn function(&mut self, body: &[u8]) {
        if !body.first_chunk().is_some_and(|id| LARGE_OBJECTS.contains(&u32::from_be_bytes(*id))) {
            self.server.done(self.client, &Trace::Unknown);
        }
        self.server.ledger.sent(Due::Function);
    }

    /// `RESET`, `DISCARD ALL`: to the server they mean its own login, to the client its own. What
    /// it asked for then is set again before anything else is said.
    fn reset(&mut self, trace: Trace, length: usize, edit: &mut Edit<'_>) -> bool {
        // Only what ends with ReadyForQuery is sure to be answered: the rest is not waited for.
        if self.server.ledger.owes_ready() {
            return false;
        }
        let alone = self.server.ledger.owes_nobody();
        edit.pass(length);
        // One that is unmade leaves the others as they are.
        let only = if let Trace::Reset(name) = &trace { Some(Rc::clone(name)) } else { None };
        self.query(trace);
        if alone {
            edit.put(|out| self.server.set_again(self.client, only.as_deref(), out));
        }
        true
    }

    /// `DEALLOCATE name` of a statement that was prepared by message, as some drivers do it: under
    /// the name that the server has.
    fn deallocate(
        &mut self,
        name: &str,
        trace: Trace,
        length: usize,
        edit: &mut Edit<'_>,
    ) -> Result<bool, Refusal> {
        if self.server.ledger.may_forget() || self.server.ledger.decides(name.as_bytes()) {
            return Ok(false);
        }
        match self.client.names.find(name.as_bytes()).map(Rc::clone) {
            None => edit.pass(length),
            Some(statement) => {
                let piece = self.server.ledger.piece();
                let statement = match self.server.holdings.holding(&statement, piece) {
                    Holding::Unknown => return Ok(false),
                    Holding::Held | Holding::SentHere => statement,
                    Holding::Missing => self.stand_in(edit),
                };
                let sql = [&b"DEALLOCATE "[..], statement.name()].concat();
                edit.skip(length);
                edit.put(|out| frontend::put_query(out, &sql));
            }
        }
        self.query(trace);
        Ok(true)
    }

    /// Something to be forgotten in place of what the server does not have: a text that may fail there would take the
    /// answer to what comes behind it away.
    fn stand_in(&mut self, edit: &mut Edit<'_>) -> Rc<Statement> {
        if !self.server.ledger.is_clean() {
            // In a transaction that has failed, or is about to, it may stay.
            self.server.wear(super::link::Wear::Full);
        }
        let nothing: &[u8] = b"\0\0\0";
        let statement = self.statements.make(Some(nothing.into()), Trace::Nothing);
        self.server.ledger.sent(Due::Parse(To::Pool, Rc::clone(&statement), None));
        edit.put(|out| frontend::put_parse(out, statement.name(), nothing));
        statement
    }

    /// What must be known before the statement runs: a tie counts even if it fails half way, and so does what may
    /// be anything.
    fn leave(&mut self, trace: &Trace) {
        match trace.strongest() {
            // What is local may never come to be, or end before more is sent.
            Trace::Nothing | Trace::Local(_) => {}
            Trace::Pin(tie) => {
                self.client.tie.get_or_insert(*tie);
            }
            trace => self.server.done(self.client, trace),
        }
    }

    /// Bind, or its front when the rest is still to come; `length` of the input are consumed.
    fn bind(&mut self, body: &[u8], length: usize, edit: &mut Edit<'_>) -> Result<bool, Refusal> {
        let bind = Bind::read(body)?;
        // The declared length counts what is still to come as well.
        let declared = Head::read(edit.rest(), frame::LONGEST)?.map_or(0, |head| head.body);
        let trace = if bind.statement.is_empty() {
            match self.own_unnamed(edit) {
                Some(trace) => trace,
                None => return Ok(false),
            }
        } else {
            if self.server.ledger.decides(bind.statement) {
                return Ok(false);
            }
            let Some(statement) = self.client.names.find(bind.statement).map(Rc::clone) else {
                self.unknown_bind(&bind, declared, length, edit);
                return Ok(true);
            };
            let Some(statement) = self.ensure(bind.statement, &statement, edit) else {
                return Ok(false);
            };
            let taken = bind.portal.len() + bind.statement.len() + 2;
            let rest = declared - u32::try_from(taken).unwrap_or(0);
            edit.put(|out| {
                frontend::put_bind_head(out, bind.portal, statement.name(), rest);
            });
            edit.skip(frame::HEADER + taken);
            edit.pass(length - frame::HEADER - taken);
            let traced = self.rules.notes == Notes::Traced && self.client.noted.is_some();
            if self.rules.notes == Notes::All || traced {
                Noted::statement(self.client, &statement);
            }
            self.bound(&bind, statement.trace.clone());
            return Ok(true);
        };
        edit.pass(length);
        self.bound(&bind, trace);
        Ok(true)
    }

    fn bound(&mut self, bind: &Bind<'_>, trace: Trace) {
        self.leave(&trace);
        if bind.portal.is_empty() {
            self.client.portal = Some(trace);
        } else if !matches!(trace, Trace::Nothing | Trace::Local(_)) {
            // Named portals are not followed one by one.
            self.server.wear(super::link::Wear::Full);
        }
        self.server.ledger.sent(Due::Bind);
    }

    /// Makes sure that the unnamed statement is the client's own when the next message arrives, and
    /// tells what it leaves behind; `None`: an earlier piece of the pipeline decides.
    fn own_unnamed(&mut self, edit: &mut Edit<'_>) -> Option<Trace> {
        match self.server.ledger.unnamed() {
            Unnamed::Here(statement) => return Some(statement.trace.clone()),
            Unnamed::Gone => return Some(Trace::Nothing),
            Unnamed::Waits => return None,
            Unnamed::Settled => {}
        }
        let Some(statement) = self.client.names.unnamed.clone() else {
            // The client has none: a stranger's must not run in its place.
            self.server.ledger.sent(Due::CloseUnnamed(To::Pool));
            edit.put(|out| frontend::put_subject(out, tag::CLOSE, Subject::Statement, b""));
            return Some(Trace::Nothing);
        };
        if self.server.holdings.unnamed != Some(statement.id())
            && let Some(rest) = &statement.rest
        {
            edit.put(|out| frontend::put_parse(out, b"", rest));
            self.server.ledger.sent(Due::ParseUnnamed(To::Pool, Rc::clone(&statement)));
        }
        Some(statement.trace.clone())
    }

    /// A name that this client never gave: only a client with statements of SQL's PREPARE may mean
    /// something by it.
    fn unknown_bind(&mut self, bind: &Bind<'_>, declared: u32, length: usize, edit: &mut Edit<'_>) {
        self.server.ledger.sent(Due::Bind);
        self.client.portal = Some(Trace::Unknown);
        if self.client.tie.is_some() && !bind.statement.starts_with(OURS) {
            edit.pass(length);
            return;
        }
        let taken = bind.portal.len() + bind.statement.len() + 2;
        let rest = declared - u32::try_from(taken).unwrap_or(0);
        edit.put(|out| frontend::put_bind_head(out, bind.portal, &missing(bind.statement), rest));
        edit.skip(frame::HEADER + taken);
        edit.pass(length - frame::HEADER - taken);
    }

    fn describe(&mut self, frame: Frame<'_>, edit: &mut Edit<'_>) -> Result<bool, Refusal> {
        let length = frame.raw.len();
        let (subject, name) = frontend::subject(frame.body)?;
        if subject == Subject::Portal {
            edit.pass(length);
        } else if name.is_empty() {
            if self.own_unnamed(edit).is_none() {
                return Ok(false);
            }
            edit.pass(length);
        } else if self.server.ledger.decides(name) {
            return Ok(false);
        } else if let Some(statement) = self.client.names.find(name).map(Rc::clone) {
            let Some(statement) = self.ensure(name, &statement, edit) else { return Ok(false) };
            edit.skip(length);
            edit.put(|out| {
                frontend::put_subject(out, tag::DESCRIBE, subject, statement.name());
            });
        } else if self.client.tie.is_some() && !name.starts_with(OURS) {
            edit.pass(length);
        } else {
            edit.skip(length);
            edit.put(|out| frontend::put_subject(out, tag::DESCRIBE, subject, &missing(name)));
        }
        self.server.ledger.sent(Due::Describe);
        Ok(true)
    }

    fn close(&mut self, frame: Frame<'_>, edit: &mut Edit<'_>) -> Result<bool, Refusal> {
        let (subject, name) = frontend::subject(frame.body)?;
        if subject == Subject::Portal || name.is_empty() {
            self.server.ledger.sent(match subject {
                Subject::Portal => Due::Close(To::Client, None),
                Subject::Statement => Due::CloseUnnamed(To::Client),
            });
            edit.pass(frame.raw.len());
            return Ok(true);
        }
        if self.server.ledger.decides(name) {
            return Ok(false);
        }
        let known = self.client.names.remove(name);
        if known.is_none() && self.client.tie.is_some() && !name.starts_with(OURS) {
            self.server.ledger.sent(Due::Close(To::Client, None));
            edit.pass(frame.raw.len());
            return Ok(true);
        }
        edit.skip(frame.raw.len());
        if let Some(statement) = &known
            && self.is_surplus(statement)
        {
            edit.put(|out| frontend::put_subject(out, tag::CLOSE, subject, statement.name()));
            self.server.holdings.forget(statement.id());
            self.server.ledger.sent(Due::CloseNamed(name.into(), Rc::clone(statement)));
            return Ok(true);
        }
        // The server keeps it for others; only this client's name goes.
        let closed = known.map(|statement| (name.into(), statement));
        self.server.ledger.sent(Due::OwedClose(closed));
        Ok(true)
    }

    /// Whether the server is to lose a statement that its client has closed: it holds too many, and a client that
    /// keeps it may go on for long.
    fn is_surplus(&mut self, statement: &Rc<Statement>) -> bool {
        let talk = &mut *self.server;
        if talk.holdings.fits(self.rules.prepared) {
            return false;
        }
        let there = talk.holdings.holding(statement, talk.ledger.piece());
        let same = |(_, other): (&[u8], &Rc<Statement>)| Rc::ptr_eq(other, statement);
        matches!(there, Holding::Held | Holding::SentHere) && !self.client.names.iter().any(same)
    }

    fn execute(&mut self, portal: &[u8]) {
        let known = if portal.is_empty() { self.client.portal.clone() } else { None };
        let trace = known.unwrap_or(Trace::Nothing);
        self.server.ledger.sent(Due::Execute(trace));
    }
}

/// Whether a message may come while a COPY takes data (manual, "COPY Operations").
fn may_feed(message: u8) -> bool {
    matches!(
        message,
        tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL | tag::FLUSH | tag::SYNC | tag::TERMINATE
    )
}

/// What libpq calls for large objects (PostgreSQL's pg_proc.dat): `lo_open`, `lo_close`, `loread`, `lowrite`, `lo_lseek`,
/// `lo_creat`, `lo_tell`, `lo_unlink`, `lo_create`, `lo_truncate`, `lo_lseek64`, `lo_tell64`, `lo_truncate64`.
const LARGE_OBJECTS: [u32; 13] =
    [952, 953, 954, 955, 956, 957, 958, 964, 715, 1004, 3170, 3171, 3172];

enum Large {
    Started,
    Incomplete,
    Waits,
}

/// How our own names begin; a client that uses them means nothing that it has made.
pub(super) const OURS: &[u8] = b"aqueduct_";

/// A name that no server has, and that still shows in the server's error what was asked for.
fn missing(name: &[u8]) -> Vec<u8> {
    [b"unprepared ", name].concat()
}

fn has_names(body: &[u8]) -> Result<bool, Refusal> {
    let ends = body.iter().take(LONGEST_NAMES).filter(|b| **b == 0).count();
    if ends >= 2 { Ok(true) } else { names_late(body).map(|()| false) }
}

fn names_late(body: &[u8]) -> Result<(), Refusal> {
    if body.len() < LONGEST_NAMES {
        return Ok(());
    }
    Err(Refusal::Protocol(format!("names of more than {LONGEST_NAMES} bytes")))
}

fn unexpected(tag: u8) -> Refusal {
    Refusal::Protocol(format!("invalid frontend message type {tag}"))
}
