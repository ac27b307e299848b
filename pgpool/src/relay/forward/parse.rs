//! Parse, from client to server: what each of a client's statements is called on the server that it has.
//! Not for what becomes of a statement afterwards. Part of `forward`.
//!
//! Invariant: a Parse that is put in says the same text, under the same settings, as whoever shares the
//! statement means.

use std::rc::Rc;

use pgpool_wire::backend::Status;
use pgpool_wire::frame::{self, Frame, Head};
use pgpool_wire::frontend::{self, Parse, Subject, tag};

use super::{Forward, LONGEST_NAMES, Large, names_late};
use crate::fatal::Refusal;
use crate::prepared::{Holding, Statement};
use crate::query::{self, Tie, Trace};
use crate::relay::edit::Edit;
use crate::relay::link::{Locals, Notes};
use crate::server::status::{Due, To};
use crate::telemetry::Noted;
use crate::telemetry::comment::{self, Comment};

impl Forward<'_> {
    pub(super) fn parse(&mut self, frame: Frame<'_>, edit: &mut Edit<'_>) -> Result<bool, Refusal> {
        let mut parse = Parse::read(frame.body)?;
        let found = comment::find(parse.query);
        // Another text for each request: nothing would be prepared twice.
        let stripped = found.as_ref().map(|comment| comment.strip(parse.rest));
        if let Some(rest) = &stripped {
            let query = rest.split(|byte| *byte == 0).next().unwrap_or_default();
            parse = Parse { name: parse.name, query, rest };
        }
        if self.rules.notes != Notes::No {
            self.note(parse.query, found);
        }
        if parse.name.is_empty() {
            self.parse_unnamed(&parse);
            match &stripped {
                Some(rest) => {
                    edit.skip(frame.raw.len());
                    edit.put(|out| frontend::put_parse(out, b"", rest));
                }
                None => edit.pass(frame.raw.len()),
            }
            return Ok(true);
        }
        self.client.said.parses += 1;
        if self.rules.prepared.count == 0 {
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
        let statement = match self.terms() {
            Some(terms) => self.statements.intern(parse.rest, terms, || query::judge(parse.query)),
            None => self.statements.make(Some(parse.rest.into()), query::judge(parse.query)),
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
            // Of two Parses of one text the answers could not be told apart.
            Holding::Missing if self.server.ledger.closes(statement.id()) => {
                return self.parse_afresh(&parse, statement.trace.clone(), frame.raw.len(), edit);
            }
            Holding::Missing => self.send_parse(&statement, &parse, frame.raw.len(), edit),
        }
        if self.client.names.insert(parse.name, statement) {
            Ok(true)
        } else {
            Err(Refusal::TooMuchPrepared)
        }
    }

    /// Somebody wants to hear of it.
    #[cold]
    pub(super) fn note(&mut self, sql: &[u8], comment: Option<Comment>) {
        if comment.is_none() && self.rules.notes == Notes::Traced {
            return;
        }
        Noted::text(self.client, sql);
        if let Some(comment) = comment {
            Noted::parent(self.client, comment.parent);
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
    pub(super) fn large_parse(
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
    pub(super) fn ensure(
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
        let known = statement.terms()?;
        match self.terms() {
            Some(terms) if terms == known => None,
            Some(terms) => Some(self.statements.intern(rest, terms, || statement.trace.clone())),
            None => Some(self.statements.make(Some(rest.into()), statement.trace.clone())),
        }
    }

    /// The settings under which a server parses what is sent now; `None`: nobody can say yet, or they may be
    /// undone.
    fn terms(&self) -> Option<u64> {
        if !self.client.pending.is_empty() || self.server.ledger.may_set() {
            return None;
        }
        let own = self.client.variables.terms();
        match self.client.locals {
            Locals::None => Some(own),
            Locals::These(more) => Some(own.rotate_left(1) ^ more),
            Locals::Unknown => None,
        }
    }
}

/// The front of a Parse under another name, `rest` bytes to follow.
fn put_large_parse(out: &mut Vec<u8>, name: &[u8], rest: usize) {
    let length = u32::try_from(4 + name.len() + 1 + rest).unwrap_or(u32::MAX);
    out.push(tag::PARSE);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(name);
    out.push(0);
}
