//! From client to server: each message is noted, some are renamed, left out or preceded by one of
//! ours. Not for sockets and not for deciding when a server is free. Called by the relay with what
//! was read from a client.
//!
//! Invariant: a message goes to the server only after its reply was noted in the ledger, and no
//! server sees a statement name that a client chose unless that client keeps the server.

use std::rc::Rc;

use pgpool_wire::backend::Status;
use pgpool_wire::frame::{self, Found, Frame, Head};
use pgpool_wire::frontend::{self, Bind, Parse, Subject, tag};
use topology::pool::PoolMode;

use super::edit::Edit;
use super::link::{Conversation, Memory, Rules};
use crate::fatal::Refusal;
use crate::prepared::{Holding, Statement, Statements};
use crate::query::{self, Tie, Trace};
use crate::server::status::{Due, To, Unnamed};

/// A message up to this length is looked at as a whole; a longer one streams.
pub const WHOLE: usize = 32 << 10;
/// Replies that a client may leave unread before its messages wait.
const MOST_DUE: usize = 8192;
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
            let busy = self.client.stepwise && self.server.ledger.owes_ready();
            if busy || self.server.ledger.len() > MOST_DUE {
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
        let follows = self.rules.mode != PoolMode::Session;
        let names = matches!(frame.tag, tag::PARSE | tag::BIND | tag::DESCRIBE | tag::CLOSE);
        if follows && names && self.server.ledger.may_forget() {
            return Ok(false);
        }
        self.client.said.binds += u32::from(frame.tag == tag::BIND);
        match frame.tag {
            tag::QUERY => {
                let trace = query::judge(frontend::query(frame.body)?);
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
            tag::PARSE => self.server.ledger.sent(Due::ParsePlain),
            tag::BIND if follows => return self.bind(frame.body, length, edit),
            tag::BIND => self.server.ledger.sent(Due::Bind),
            tag::DESCRIBE if follows => return self.describe(frame, edit),
            tag::DESCRIBE => self.server.ledger.sent(Due::Describe),
            tag::CLOSE if follows => return self.close(frame, edit),
            tag::CLOSE => self.server.ledger.sent(Due::Close(To::Client, None)),
            tag::EXECUTE => self.execute(frontend::execute(frame.body)?),
            tag::SYNC => self.server.ledger.sent(Due::Sync),
            tag::FUNCTION_CALL => self.server.ledger.sent(Due::Function),
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
        match head.tag {
            _ if self.server.ledger.is_skipping() => {}
            tag::COPY_DATA => {}
            // Only its front is seen: the server is cleaned afterwards.
            tag::QUERY => self.query(Trace::Unknown),
            tag::FUNCTION_CALL => self.server.ledger.sent(Due::Function),
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

    /// `RESET`, `DISCARD ALL`: to the server they mean its own login, to the client its own. What
    /// it asked for then is set again before anything else is said.
    fn reset(&mut self, trace: Trace, length: usize, edit: &mut Edit<'_>) -> bool {
        // Only what ends with ReadyForQuery is sure to be answered: the rest is not waited for.
        if self.server.ledger.owes_ready() {
            return false;
        }
        let alone = self.server.ledger.owes_nobody();
        edit.pass(length);
        self.query(trace);
        if alone {
            edit.put(|out| self.server.set_again(self.client, out));
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
                let Some(statement) = self.ensure(name.as_bytes(), &statement, edit) else {
                    return Ok(false);
                };
                let sql = [&b"DEALLOCATE "[..], statement.name()].concat();
                edit.skip(length);
                edit.put(|out| frontend::put_query(out, &sql));
            }
        }
        self.query(trace);
        Ok(true)
    }

    /// What must be known before the statement runs: a tie counts even if it fails half way.
    fn leave(&mut self, trace: &Trace) {
        if let Trace::Pin(tie) = trace {
            self.client.tie.get_or_insert(*tie);
        }
    }

    fn parse(&mut self, frame: Frame<'_>, edit: &mut Edit<'_>) -> Result<bool, Refusal> {
        let parse = Parse::read(frame.body)?;
        if parse.name.is_empty() {
            self.parse_unnamed(&parse);
            edit.pass(frame.raw.len());
            return Ok(true);
        }
        self.client.said.parses += 1;
        if self.rules.max_prepared == 0 {
            self.client.tie.get_or_insert(Tie::Prepare);
            self.server.ledger.sent(Due::ParsePlain);
            edit.pass(frame.raw.len());
            return Ok(true);
        }
        if self.server.ledger.decides(parse.name) {
            return Ok(false);
        }
        if let Some(known) = self.client.names.find(parse.name).map(Rc::clone) {
            return self.parse_again(&known, &parse, frame.raw.len(), edit);
        }
        let settled = self.client.pending.is_empty() && !self.server.ledger.may_set();
        let statement = if settled {
            let terms = self.client.variables.terms();
            self.statements.intern(parse.rest, terms, || query::judge(parse.query))
        } else {
            // Nobody can say yet under which settings it is parsed, or they may be undone.
            self.statements.make(Some(parse.rest.into()), query::judge(parse.query))
        };
        match self.server.holdings.holding(&statement, self.server.ledger.piece()) {
            Holding::Unknown => return Ok(false),
            Holding::Held if self.server.ledger.owes_ready() => return Ok(false),
            Holding::Held if self.server.ledger.status() == Status::Failed => {
                return self.parse_afresh(&parse, statement.trace.clone(), frame.raw.len(), edit);
            }
            Holding::Held | Holding::SentHere => {
                self.server.ledger.sent(Due::OwedParse(parse.name.into()));
                edit.skip(frame.raw.len());
            }
            Holding::Missing => self.send_parse(&statement, &parse, frame.raw.len(), edit),
        }
        if self.client.names.insert(parse.name, statement) {
            Ok(true)
        } else {
            Err(Refusal::TooMuchPrepared)
        }
    }

    fn send_parse(
        &mut self,
        statement: &Rc<Statement>,
        parse: &Parse<'_>,
        length: usize,
        edit: &mut Edit<'_>,
    ) {
        self.client.said.sent += 1;
        self.server.holdings.sent(statement, self.server.ledger.piece());
        let due = Due::Parse(To::Client, Rc::clone(statement), Some(parse.name.into()));
        self.close_first(statement, edit);
        self.server.ledger.sent(due);
        edit.skip(length);
        edit.put(|out| frontend::put_parse(out, statement.name(), parse.rest));
    }

    /// Where the server may have something else under the name, it goes before the Parse.
    fn close_first(&mut self, statement: &Statement, edit: &mut Edit<'_>) {
        if self.server.holdings.doubtful {
            self.server.ledger.sent(Due::Close(To::Pool, None));
            let name = statement.name();
            edit.put(|out| frontend::put_subject(out, tag::CLOSE, Subject::Statement, name));
        }
    }

    /// In a failed transaction the server takes the end of a transaction and refuses all else: it is
    /// asked, under a name that nobody shares.
    fn parse_afresh(
        &mut self,
        parse: &Parse<'_>,
        trace: Trace,
        length: usize,
        edit: &mut Edit<'_>,
    ) -> Result<bool, Refusal> {
        let statement = self.statements.make(Some(parse.rest.into()), trace);
        self.send_parse(&statement, parse, length, edit);
        if self.client.names.insert(parse.name, statement) {
            Ok(true)
        } else {
            Err(Refusal::TooMuchPrepared)
        }
    }

    /// A name that is taken: the server itself says so, at the right place in the pipeline.
    fn parse_again(
        &mut self,
        known: &Rc<Statement>,
        parse: &Parse<'_>,
        length: usize,
        edit: &mut Edit<'_>,
    ) -> Result<bool, Refusal> {
        let Some(known) = self.ensure(parse.name, known, edit) else { return Ok(false) };
        self.server.ledger.sent(Due::ParsePlain);
        edit.skip(length);
        edit.put(|out| frontend::put_parse(out, known.name(), parse.rest));
        Ok(true)
    }

    fn parse_unnamed(&mut self, parse: &Parse<'_>) {
        let known = self.client.names.unnamed.as_ref();
        let again = known.filter(|known| known.rest.as_deref() == Some(parse.rest)).map(Rc::clone);
        let statement = again.unwrap_or_else(|| {
            self.statements.make(Some(parse.rest.into()), query::judge(parse.query))
        });
        self.server.ledger.sent(Due::ParseUnnamed(To::Client, statement));
    }

    /// A Parse that is not kept: it lives on this server, and so does its client from now on.
    fn large_parse(
        &mut self,
        head: Head,
        body: &[u8],
        edit: &mut Edit<'_>,
    ) -> Result<Large, Refusal> {
        let Some(end) = body.iter().take(LONGEST_NAMES).position(|b| *b == 0) else {
            return names_late(body).map(|()| Large::Incomplete);
        };
        let name = body.get(..end).unwrap_or_default();
        if self.server.ledger.decides(name) {
            return Ok(Large::Waits);
        }
        let statement = self.statements.make(None, Trace::Unknown);
        self.client.tie.get_or_insert(Tie::Size);
        if name.is_empty() {
            self.server.ledger.sent(Due::ParseUnnamed(To::Client, statement));
            self.client.left = head.total();
            return Ok(Large::Started);
        }
        self.server.holdings.sent(&statement, self.server.ledger.piece());
        let due = Due::Parse(To::Client, Rc::clone(&statement), Some(name.into()));
        self.server.ledger.sent(due);
        let rest = head.body as usize - end - 1;
        edit.skip(frame::HEADER + end + 1);
        edit.put(|out| put_large_parse(out, statement.name(), rest));
        self.client.left = rest;
        if self.client.names.insert(name, statement) {
            Ok(Large::Started)
        } else {
            Err(Refusal::TooMuchPrepared)
        }
    }

    /// Makes sure that the server has the statement of a name when the next message arrives, and
    /// tells which one that is; `None`: nobody can say yet whether it has.
    fn ensure(
        &mut self,
        name: &[u8],
        statement: &Rc<Statement>,
        edit: &mut Edit<'_>,
    ) -> Option<Rc<Statement>> {
        let piece = self.server.ledger.piece();
        match self.server.holdings.holding(statement, piece) {
            Holding::Held | Holding::SentHere => Some(Rc::clone(statement)),
            Holding::Unknown => None,
            Holding::Missing => {
                // What was too large to keep is on the server that its client keeps, or nowhere.
                let Some(rest) = &statement.rest else { return Some(Rc::clone(statement)) };
                if let Some(other) = self.reread(statement, rest) {
                    self.client.names.replace(name, &other);
                    return self.ensure(name, &other, edit);
                }
                self.client.said.sent += 1;
                self.close_first(statement, edit);
                self.server.holdings.sent(statement, piece);
                let due = Due::Parse(To::Pool, Rc::clone(statement), None);
                self.server.ledger.sent(due);
                edit.put(|out| frontend::put_parse(out, statement.name(), rest));
                Some(Rc::clone(statement))
            }
        }
    }

    /// Constants are read when a text is parsed (`date '01/02/2020'`). If its client has changed how
    /// since it named it, a server that parses it now parses another statement than those who share
    /// the first one mean.
    fn reread(&mut self, statement: &Statement, rest: &[u8]) -> Option<Rc<Statement>> {
        let terms = self.client.variables.terms();
        let differs = statement.terms().is_some_and(|known| known != terms);
        differs.then(|| self.statements.intern(rest, terms, || statement.trace.clone()))
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
        } else if trace != Trace::Nothing {
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
        // The server keeps it for others; only this client's name goes.
        let closed = known.map(|statement| (name.into(), statement));
        self.server.ledger.sent(Due::OwedClose(closed));
        edit.skip(frame.raw.len());
        Ok(true)
    }

    fn execute(&mut self, portal: &[u8]) {
        let known = if portal.is_empty() { self.client.portal.clone() } else { None };
        let trace = known.unwrap_or(Trace::Nothing);
        self.server.ledger.sent(Due::Execute(trace));
    }
}

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

/// The front of a Parse under another name, `rest` bytes to follow.
fn put_large_parse(out: &mut Vec<u8>, name: &[u8], rest: usize) {
    let length = u32::try_from(4 + name.len() + 1 + rest).unwrap_or(u32::MAX);
    out.push(tag::PARSE);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(name);
    out.push(0);
}
