//! From server to client: each message is checked against what is due, some are left out because
//! they answer ours, some of ours are put in. Not for sockets. Called by the relay with what was
//! read from a server.
//!
//! Invariant: a client sees exactly one answer for each of its messages, in its order; anything
//! that does not fit is an error, never a guess.

use pgpool_wire::backend::{self, Fields, Status, tag};
use pgpool_wire::frame::{self, Found, Frame, Head};

use super::edit::Edit;
use super::forward::OURS;
use super::link::{Conversation, Memory};
use crate::fatal::{self, Refusal};
use crate::server::status::{Done, Due, Reply, To};

/// A message up to this length is read whole where its body matters.
const WHOLE: usize = 32 << 10;
/// What an error is stands at its front, before its text, as PostgreSQL writes it.
const FRONT: usize = 1 << 10;

/// What happened while answers went by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// ReadyForQuery for the client.
    pub ready: u32,
    /// Of these, how many ended a transaction.
    pub transactions: u32,
    /// ErrorResponse for the client.
    pub errors: u32,
    /// One of these may be due to the server that was asked.
    pub elsewhere: bool,
}

/// One side's view while messages go from server to client.
pub struct Answer<'a> {
    /// The client.
    pub client: &'a mut Memory,
    /// The server.
    pub server: &'a mut Conversation,
}

impl Answer<'_> {
    /// Passes on what can be passed on of `edit`'s input; stops where a message is incomplete.
    ///
    /// # Errors
    /// The server cannot be used any longer, and its client must be told.
    pub fn run(&mut self, edit: &mut Edit<'_>) -> Result<Seen, Refusal> {
        let mut seen = Seen::default();
        loop {
            self.owed(edit);
            let rest = edit.rest();
            if self.server.left > 0 {
                let count = self.server.left.min(rest.len());
                if count == 0 {
                    return Ok(seen);
                }
                self.stream(count, edit);
                continue;
            }
            let found = frame::next(rest, frame::LONGEST)
                .map_err(|fault| Refusal::ServerProtocol(fault.to_string()))?;
            match found {
                Found::Nothing => return Ok(seen),
                Found::Whole(frame) => self.message(frame, &mut seen, edit)?,
                Found::Partial(head, _) if streams(head) => self.begin(head)?,
                Found::Partial(head, front) if head.tag == tag::ERROR && head.total() > WHOLE => {
                    if front.len() < FRONT {
                        return Ok(seen);
                    }
                    self.error(front, &mut seen)?;
                    (self.server.left, self.server.left_to) = (head.total(), To::Client);
                }
                Found::Partial(head, _) if head.total() <= WHOLE => return Ok(seen),
                Found::Partial(head, _) => {
                    let fault = format!("a message {:?} of {} bytes", head.tag as char, head.body);
                    return Err(Refusal::ServerProtocol(fault));
                }
            }
        }
    }

    /// Answers that we owe the client and whose turn has come.
    #[inline]
    pub fn owed(&mut self, edit: &mut Edit<'_>) {
        // Nothing is said inside a message.
        if self.server.left == 0 && self.server.ledger.owes_own() {
            self.put_owed(edit);
        }
    }

    #[cold]
    fn put_owed(&mut self, edit: &mut Edit<'_>) {
        while let Some(due) = self.server.ledger.owed() {
            let message = match due {
                Due::OwedParse(_) => tag::PARSE_COMPLETE,
                _ => tag::CLOSE_COMPLETE,
            };
            edit.put(|out| backend::put_empty(out, message));
        }
    }

    fn stream(&mut self, count: usize, edit: &mut Edit<'_>) {
        self.server.left -= count;
        if self.server.left_to == To::Pool {
            edit.skip(count);
        } else {
            edit.pass(count);
        }
    }

    /// A message of which the rest is still to come and whose body does not matter.
    fn begin(&mut self, head: Head) -> Result<(), Refusal> {
        let (reply, _) = self.server.ledger.reply(head.tag).map_err(out_of_order)?;
        self.server.left_to = if matches!(reply, Reply::Drop) { To::Pool } else { To::Client };
        self.server.left = head.total();
        Ok(())
    }

    fn message(
        &mut self,
        frame: Frame<'_>,
        seen: &mut Seen,
        edit: &mut Edit<'_>,
    ) -> Result<(), Refusal> {
        if self.server.ledger.passes(frame.tag) {
            edit.pass(frame.raw.len());
            return Ok(());
        }
        let delivered = match frame.tag {
            tag::READY => self.ready(frame.body, seen)?,
            tag::PARAMETER_STATUS => self.parameter(frame.body)?,
            tag::ERROR => self.error(frame.body, seen)?,
            tag::BACKEND_KEY | tag::AUTHENTICATION | tag::COPY_BOTH => {
                return Err(out_of_order(crate::server::status::OutOfOrder { tag: frame.tag }));
            }
            tag::NOTIFICATION if self.client.hears(frame.body) => false,
            // Before that nobody has listened here but somebody else.
            tag::NOTIFICATION if self.client.tie.is_some() || self.server.touched => true,
            message => {
                let (reply, done) = self.server.ledger.reply(message).map_err(out_of_order)?;
                self.done(done, frame.body);
                matches!(reply, Reply::Deliver)
            }
        };
        if delivered {
            edit.pass(frame.raw.len());
        } else {
            edit.skip(frame.raw.len());
        }
        Ok(())
    }

    fn done(&mut self, done: Option<Done>, body: &[u8]) {
        match done {
            Some(Done::Parsed(id)) => self.server.holdings.confirm(id),
            Some(Done::Unnamed(to, statement)) => {
                self.server.holdings.unnamed = Some(statement.id());
                if to == To::Client {
                    self.client.names.unnamed = Some(statement);
                }
            }
            Some(Done::NoUnnamed(by)) => self.server.no_unnamed(self.client, by),
            Some(Done::Command(trace, more)) => {
                let tag = backend::command(body).unwrap_or_default();
                self.server.carried_out(self.client, &trace, tag, more);
            }
            None => {}
        }
    }

    fn ready(&mut self, body: &[u8], seen: &mut Seen) -> Result<bool, Refusal> {
        let status =
            backend::ready(body).map_err(|fault| Refusal::ServerProtocol(fault.to_string()))?;
        let (reply, done) = self.server.ledger.ready(status).map_err(out_of_order)?;
        self.done(done, &[]);
        if matches!(reply, Reply::Drop) {
            // The query that made the server this client's own.
            self.client.take_reported(&self.server.variables);
            self.server.variables.take_unreported(&self.client.variables);
            return Ok(false);
        }
        self.server.ready(self.client, status);
        seen.ready += 1;
        seen.transactions += u32::from(status == Status::Idle);
        Ok(true)
    }

    fn parameter(&mut self, body: &[u8]) -> Result<bool, Refusal> {
        let (name, value) =
            backend::parameter(body).map_err(|fault| Refusal::ServerProtocol(fault.to_string()))?;
        let known = self.server.reported(self.client, name, value);
        let (reply, _) = self.server.ledger.reply(tag::PARAMETER_STATUS).map_err(out_of_order)?;
        // In answer to our own query it is only news if the client believed something else.
        Ok(matches!(reply, Reply::Deliver) || !known)
    }

    fn error(&mut self, body: &[u8], seen: &mut Seen) -> Result<bool, Refusal> {
        let fields = Fields::new(body);
        self.server.dying |= fields.is_fatal();
        let (reply, _) = self.server.ledger.reply(tag::ERROR).map_err(out_of_order)?;
        let first = if let Reply::Failed(never) = &reply { never.first() } else { None };
        if is_stale(fields, first) {
            // What the client has not sent yet is parsed anew; the server itself goes afterwards.
            self.server.retire = true;
            self.server.holdings.doubt();
        }
        self.server.failed(self.client);
        match reply {
            Reply::OursFailed => return Err(Refusal::Settings(fields.message())),
            Reply::Failed(never) => self.server.undo(self.client, never),
            Reply::Deliver | Reply::Drop => {}
        }
        seen.errors += 1;
        seen.elsewhere |= fatal::depends_on_server(fields.code());
        Ok(true)
    }
}

/// Messages that can be large and whose body does not matter.
fn streams(head: Head) -> bool {
    match head.tag {
        tag::DATA_ROW | tag::COPY_DATA => true,
        tag::ROW_DESCRIPTION
        | tag::NOTICE
        | tag::PARAMETER_DESCRIPTION
        | tag::FUNCTION_RESULT
        | tag::NOTIFICATION => head.total() > WHOLE,
        _ => false,
    }
}

/// Whether a server's prepared statements are no longer what we take them for: the next client that
/// means one of them would fail as well.
fn is_stale(fields: Fields<'_>, failed: Option<&Due>) -> bool {
    let code = fields.code();
    if code == Some(fatal::STALE_PLAN) {
        // Many things are "not supported"; this one is found where plans are looked at again.
        return fields.field(b'R').is_none_or(|routine| routine == b"RevalidateCachedQuery");
    }
    let ours = || fields.message().contains(&*String::from_utf8_lossy(OURS));
    match failed {
        Some(Due::Parse(..)) => code == Some(fatal::PREPARED_TWICE),
        Some(Due::Bind | Due::Describe) => code == Some(fatal::NOT_PREPARED) && ours(),
        _ => false,
    }
}

fn out_of_order(fault: crate::server::status::OutOfOrder) -> Refusal {
    Refusal::ServerProtocol(fault.to_string())
}
