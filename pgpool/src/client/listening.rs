//! LISTEN of a client that has no server: asked of its pool's ear, answered by us, and what the ear has heard told
//! between two answers. Not for LISTEN inside transactions or by the extended protocol, which ties its client to
//! a server. Called by the session loop.
//!
//! Invariant: a LISTEN is answered only after the server has listened, and nothing is told inside an answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pgpool_wire::backend::{self, Status};
use pgpool_wire::{frame, frontend};
use tokio::sync::oneshot;
use topology::pool::PoolMode;

use super::Client;
use super::entry::{ClientPhase, Ending};
use crate::ear::wish::{self, Wish};
use crate::ear::{Answer, Listening};
use crate::fatal::Refusal;

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
    pub(super) fn wish(&self, body: &[u8]) -> Option<Wish> {
        let wish = wish::read(frontend::query(body).ok()?)?;
        let listens = self.memory.listening.is_some();
        let shares = || {
            let settings = &self.worker.snapshot().settings;
            settings.shared_listen && self.home.mode() != PoolMode::Session && self.is_read_alike()
        };
        match wish {
            Wish::Unlisten(_) => listens.then_some(wish),
            Wish::Listen(_) => shares().then_some(wish),
        }
    }

    /// Notifications come in the encoding of the connection that listens.
    fn is_read_alike(&self) -> bool {
        const ENCODING: &str = "client_encoding";
        let servers = self.home.welcome();
        let servers = servers.as_ref().and_then(|said| said.variables.value(ENCODING));
        self.memory.variables.value(ENCODING) == servers
    }

    /// Carries out the wish at the front of the carry, which has this length.
    pub(super) async fn hear(&mut self, wish: Wish, length: usize) -> Heard {
        let channel = match wish {
            Wish::Listen(channel) => channel,
            Wish::Unlisten(channel) => {
                if let Some(listening) = &self.memory.listening {
                    listening.unlisten(channel.as_ref());
                }
                return self.answered(length, |out| backend::put_command(out, "UNLISTEN"));
            }
        };
        let (pool, entry) = (&self.home, &self.entry);
        let fresh = || Box::new(Listening::new(pool, entry));
        let listening = self.memory.listening.get_or_insert_with(fresh);
        let most = self.worker.snapshot().settings.max_listen_channels;
        if listening.has(channel.as_bytes()) {
            return self.answered(length, |out| backend::put_command(out, "LISTEN"));
        }
        if most > 0 && listening.len() >= most as usize {
            let refusal = Refusal::TooManyChannels(most);
            return self.answered(length, |out| refusal.put_error(out));
        }
        let from = listening.listen(channel);
        self.listen(from, length).await
    }

    async fn listen(&mut self, mut from: oneshot::Receiver<Answer>, length: usize) -> Heard {
        self.worker.tick();
        let now = self.worker.now();
        let time = self.worker.snapshot().settings.query_wait_timeout;
        let deadline = (!time.is_zero()).then_some((now + time, Ending::QueryWait));
        self.entry.enter(ClientPhase::Waiting, deadline);
        let answer = std::future::poll_fn(|cx| self.poll_answer(&mut from, cx)).await;
        match answer {
            Err(heard) => heard,
            Ok(Answer::Listens) => self.answered(length, |out| backend::put_command(out, "LISTEN")),
            Ok(Answer::Refused(body)) => self.answered(length, |out| {
                frame::put(out, backend::tag::ERROR, |out| out.extend_from_slice(&body));
            }),
            Ok(Answer::Failed(refusal)) => self.answered(length, |out| refusal.put_error(out)),
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

    /// Answers the statement at the front of the carry.
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
