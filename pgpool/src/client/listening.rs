//! LISTEN of a client that has no server: asked of its pool's ear, answered by us, and what the ear has heard told
//! between two answers. Not for LISTEN inside transactions or among other statements, which ties its client to a
//! server. Called by the session loop.
//!
//! Invariant: a LISTEN is answered only after the server has listened, and nothing is told inside an answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pgpool_wire::backend::{self, Status};
use pgpool_wire::frame::{self, Frame};
use pgpool_wire::frontend;
use tokio::sync::oneshot;
use topology::pool::PoolMode;

use super::asked::{self, Asked, Made, Piece};
use super::entry::{ClientPhase, Ending};
use super::{Client, Local};
use crate::ear::wish::{self, Channel, Wish};
use crate::ear::{Answer, Listening};
use crate::fatal::Refusal;
use crate::query;

/// What became of a wish.
pub(super) enum Heard {
    /// It was answered.
    Done,
    /// A server must do it.
    Server,
    /// The client is gone.
    Left,
    /// It is to be ended.
    Refused(Refusal),
}

impl Client {
    /// The wish that a query is, if the pool's ear may fulfil it.
    pub(super) fn wish(&self, frame: Frame<'_>) -> Option<Asked> {
        let wish = wish::read(frontend::query(frame.body).ok()?)?;
        self.may_hear(&wish).then(|| Asked::simply(wish, frame.raw.len()))
    }

    /// The same for what begins with Parse or Bind.
    pub(super) fn piece(&self, bytes: &[u8]) -> Local {
        if self.memory.listening.is_none() && !self.shares() {
            return Local::Work;
        }
        let asked = match asked::read(bytes, &self.memory.names) {
            Piece::Wish(asked) => asked,
            Piece::Partial => return Local::More,
            Piece::Other => return Local::Work,
        };
        // Where none is kept, a statement with a name ties its client to the server that has it.
        let kept = self.worker.snapshot().settings.max_prepared_statements > 0;
        match self.may_hear(&asked.wish) && (kept || !asked.names()) {
            true => Local::Wish(asked),
            false => Local::Work,
        }
    }

    fn may_hear(&self, wish: &Wish) -> bool {
        match wish {
            Wish::Unlisten(_) => self.memory.listening.is_some(),
            Wish::Listen(_) => self.shares(),
        }
    }

    fn shares(&self) -> bool {
        let shared = self.worker.snapshot().settings.shared_listen;
        shared && self.home.mode() != PoolMode::Session && self.is_read_alike()
    }

    /// Notifications come in the encoding of the connection that listens.
    fn is_read_alike(&self) -> bool {
        const ENCODING: &str = "client_encoding";
        let servers = self.home.welcome();
        let servers = servers.as_ref().and_then(|said| said.variables.value(ENCODING));
        self.memory.variables.value(ENCODING) == servers
    }

    /// Carries out the wish at the front of the carry.
    pub(super) async fn hear(&mut self, asked: Asked) -> Heard {
        let channel = match &asked.wish {
            Wish::Listen(channel) => channel,
            Wish::Unlisten(channel) => {
                if let Some(listening) = &self.memory.listening {
                    listening.unlisten(channel.as_ref());
                }
                return self.done(asked, "UNLISTEN");
            }
        };
        let (pool, entry) = (&self.home, &self.entry);
        let fresh = || Box::new(Listening::new(pool, entry));
        let listening = self.memory.listening.get_or_insert_with(fresh);
        let most = self.worker.snapshot().settings.max_listen_channels;
        if listening.has(channel.as_bytes()) {
            return self.done(asked, "LISTEN");
        }
        if most > 0 && listening.len() >= most as usize {
            let refusal = Refusal::TooManyChannels(most);
            return self.refused(asked, |out| refusal.put_error(out));
        }
        let from = listening.listen(Channel::clone(channel));
        self.listen(from, asked).await
    }

    async fn listen(&mut self, mut from: oneshot::Receiver<Answer>, asked: Asked) -> Heard {
        self.worker.tick();
        let now = self.worker.now();
        let time = self.worker.snapshot().settings.query_wait_timeout;
        let deadline = (!time.is_zero()).then_some((now + time, Ending::QueryWait));
        self.entry.enter(ClientPhase::Waiting, deadline);
        let answer = std::future::poll_fn(|cx| self.poll_answer(&mut from, cx)).await;
        match answer {
            Err(heard) => heard,
            Ok(Answer::Listens) => self.done(asked, "LISTEN"),
            Ok(Answer::Refused(body)) => self.refused(asked, |out| {
                frame::put(out, backend::tag::ERROR, |out| out.extend_from_slice(&body));
            }),
            Ok(Answer::Failed(refusal)) => self.refused(asked, |out| refusal.put_error(out)),
            Ok(Answer::NoRoom) => Heard::Server,
        }
    }

    fn poll_answer(
        &mut self,
        from: &mut oneshot::Receiver<Answer>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Answer, Heard>> {
        if let Some(ending) = self.entry.ending(cx) {
            return Poll::Ready(Err(Heard::Refused(self.refusal(ending))));
        }
        if let Poll::Ready(answer) = Pin::new(from).poll(cx) {
            return Poll::Ready(answer.map_err(|_| Heard::Server));
        }
        self.read_ahead(cx).map(|_| Err(Heard::Left))
    }

    /// Answers the wish at the front of the carry: it was fulfilled.
    fn done(&mut self, asked: Asked, command: &str) -> Heard {
        self.forget_unnamed(&asked);
        let Asked { length, before, after, made, closed, .. } = asked;
        if let Err(refusal) = self.keep(made) {
            return Heard::Refused(refusal);
        }
        for name in closed {
            match &*name {
                b"" => self.memory.names.unnamed = None,
                name => drop(self.memory.names.remove(name)),
            }
        }
        self.answered(length, |out| {
            out.extend_from_slice(&before);
            backend::put_command(out, command);
            out.extend_from_slice(&after);
        })
    }

    /// The same: it was refused; what its client has said after it, up to Sync, is left out.
    fn refused(&mut self, asked: Asked, error: impl FnOnce(&mut Vec<u8>)) -> Heard {
        self.forget_unnamed(&asked);
        let Asked { length, before, made, .. } = asked;
        if let Err(refusal) = self.keep(made) {
            return Heard::Refused(refusal);
        }
        self.answered(length, |out| {
            out.extend_from_slice(&before);
            error(out);
        })
    }

    /// A simple query destroys the unnamed statement (manual, "Extended Query").
    fn forget_unnamed(&mut self, asked: &Asked) {
        if asked.is_simple() {
            self.memory.names.unnamed = None;
        }
    }

    /// The statement stays: it may be run again, here or on a server.
    fn keep(&mut self, made: Option<Made>) -> Result<(), Refusal> {
        let Some((name, rest)) = made else { return Ok(()) };
        let text = rest.split(|byte| *byte == 0).next().unwrap_or_default();
        let trace = || query::judge(text);
        let (mut statements, names) = (self.worker.statements.borrow_mut(), &mut self.memory.names);
        if name.is_empty() {
            let trace = trace();
            names.unnamed = Some(statements.make(Some(rest), trace));
            return Ok(());
        }
        let statement = statements.intern(&rest, self.memory.variables.terms(), trace);
        names.insert(&name, statement).then_some(()).ok_or(Refusal::TooMuchPrepared)
    }

    /// Answers what is at the front of the carry.
    fn answered(&mut self, length: usize, answer: impl FnOnce(&mut Vec<u8>)) -> Heard {
        // Without the room that the statement took.
        self.carry = self.carry.split_off(length);
        self.out.fill(|out| {
            answer(out);
            backend::put_ready(out, Status::Idle);
        });
        Heard::Done
    }

    /// What the ear has heard for it goes out once all before it has.
    pub(super) fn tell_heard(&mut self) {
        if self.out.is_empty() {
            let mut out = std::mem::take(&mut self.out);
            out.fill(|out| self.heard(out));
            self.out = out;
        }
    }

    /// Appends a part of what its pool's ear has heard for it. Its encoding may have changed since its LISTEN.
    pub fn heard(&self, out: &mut Vec<u8>) {
        if let Some(listening) = &self.memory.listening
            && !listening.tell(|| self.is_read_alike(), out)
        {
            self.entry.end(Ending::Deaf);
        }
    }
}
