//! A client that replicates: its bytes and its own server's pass as they are, COPY in both directions
//! included, until one of them has gone. Not for how it got its server (`pool::apart`) and not for queries of
//! others (`relay`). One task per client.
//!
//! Invariant: nothing of ours is put between two bytes of one message.

use std::rc::Rc;
use std::task::{Context, Poll};

use pgpool_wire::backend::tag;
use pgpool_wire::frame::{HEADER, Head, LONGEST};
use pgpool_wire::frontend::GOODBYE;

use super::entry::{Busy, ClientPhase, Ending};
use super::startup::{Door, Listed};
use crate::events::{ClientEnded, ClientLeft};
use crate::fatal::Refusal;
use crate::pool::{Pool, add};
use crate::relay::outbox::Outbox;
use crate::server::Server;
use crate::snapshot::Held;
use crate::stream::Stream;
use crate::worker::Worker;

/// Who is let in to replicate.
pub struct Guest {
    /// Its place in the worker's list.
    pub listed: Listed,
    /// Where its server counts.
    pub pool: Rc<Pool>,
    /// Its server.
    pub server: Box<Server>,
    /// Its places among the clients of its database and user.
    pub shares: (Held, Held),
    /// What it is told first.
    pub greeting: Vec<u8>,
}

/// Serves one client that replicates until it or its server has gone.
pub async fn serve(worker: Rc<Worker>, door: Door, guest: Guest) {
    let Guest { listed, pool, server, shares, greeting } = guest;
    let entry = Rc::clone(&listed.entry);
    entry.enter(ClientPhase::Active, None);
    entry.link(Some(Rc::clone(&server.facts)));
    // Whatever it runs, a cancel request can mean no other query.
    entry.mark_busy(Busy::Yes);
    server.facts.client.set(Some(entry.pid));
    let mut out = Outbox::default();
    out.keep(&greeting);
    let mut link =
        Link { io: door.io, out, early: door.input, server, walk: Walk::default(), leaving: false };
    let end = std::future::poll_fn(|cx| link.poll(&worker, &pool, &listed, cx)).await;
    entry.link(None);
    let Link { mut io, out, server, walk, leaving, .. } = link;
    let works = walk.phase == Phase::Busy && !leaving;
    pool.part(server, if works { Busy::Yes } else { Busy::No });
    let refused = match end {
        End::Left => None,
        End::Ended(ending) => Some(told(ending)),
        // It was told by the server itself, or has said goodbye to it.
        End::Lost if walk.last == tag::ERROR || leaving => None,
        End::Lost => Some(Refusal::ServerLost),
        End::Broken(refusal) => Some(refusal),
    };
    match refused {
        None => worker.observer.emit(ClientLeft { client: &entry }),
        Some(refusal) => {
            worker.observer.emit(ClientEnded { client: &entry, cause: &refusal });
            if walk.is_between() && out.is_empty() {
                super::goodbye(&mut io, &refusal).await;
            }
        }
    }
    drop((listed, shares));
}

/// What an ending means in words; times do not end who replicates.
fn told(ending: Ending) -> Refusal {
    match ending {
        Ending::Killed => Refusal::Killed,
        Ending::Removed => Refusal::Removed,
        Ending::Fenced => Refusal::Fenced,
        _ => Refusal::ShuttingDown,
    }
}

enum End {
    Left,
    Ended(Ending),
    Lost,
    Broken(Refusal),
}

enum Step {
    Moved,
    Waits,
    End(End),
}

struct Link {
    io: Stream,
    out: Outbox,
    /// What came together with the login.
    early: Vec<u8>,
    server: Box<Server>,
    walk: Walk,
    /// Its last words so far look like a goodbye.
    leaving: bool,
}

impl Link {
    fn poll(
        &mut self,
        worker: &Worker,
        pool: &Pool,
        listed: &Listed,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        if let Some(ending) = listed.entry.ending(cx) {
            return Poll::Ready(End::Ended(ending));
        }
        let mut scratch = worker.scratch.borrow_mut();
        loop {
            let steps = [
                self.read_client(&mut scratch.read, pool, cx),
                self.read_server(&mut scratch.read, pool, cx),
            ];
            let mut moved = false;
            for step in steps {
                match step {
                    Step::Moved => moved = true,
                    Step::Waits => {}
                    Step::End(end) => return Poll::Ready(end),
                }
            }
            if self.walk.may_end() && self.out.is_empty() {
                if worker.is_draining() {
                    return Poll::Ready(End::Ended(Ending::ShuttingDown));
                }
                if pool.closes_apart() {
                    return Poll::Ready(End::Broken(Refusal::Paused));
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    fn read_client(&mut self, read: &mut [u8], pool: &Pool, cx: &mut Context<'_>) -> Step {
        let Server { io, out, .. } = &mut *self.server;
        match emptied(out, io, cx) {
            Step::Moved => {}
            Step::Waits => return Step::Waits,
            // What it has said before it closed is still read.
            Step::End(_) => return Step::Waits,
        }
        let early = std::mem::take(&mut self.early);
        let bytes = if early.is_empty() {
            match self.io.poll_some(cx, read) {
                Poll::Pending => return Step::Waits,
                Poll::Ready(Ok(count)) if count > 0 => read.get(..count).unwrap_or_default(),
                Poll::Ready(_) => return Step::End(End::Left),
            }
        } else {
            &early
        };
        add(&pool.meters.totals.received, bytes.len() as u64);
        self.leaving = bytes.ends_with(GOODBYE);
        // Whether it is gone shows when it is read.
        let _gone = out.send(io, cx, bytes);
        self.walk.asked();
        Step::Moved
    }

    fn read_server(&mut self, read: &mut [u8], pool: &Pool, cx: &mut Context<'_>) -> Step {
        match emptied(&mut self.out, &mut self.io, cx) {
            Step::Moved => {}
            other => return other,
        }
        let bytes = match self.server.io.poll_some(cx, read) {
            Poll::Pending => return Step::Waits,
            Poll::Ready(Ok(count)) if count > 0 => read.get(..count).unwrap_or_default(),
            Poll::Ready(_) => return Step::End(End::Lost),
        };
        if let Err(refusal) = self.walk.pass(bytes) {
            return Step::End(End::Broken(refusal));
        }
        add(&pool.meters.totals.sent, bytes.len() as u64);
        match self.out.send(&mut self.io, cx, bytes) {
            Ok(()) => Step::Moved,
            Err(_) => Step::End(End::Left),
        }
    }
}

/// Writes what is kept; only then more is read.
fn emptied(out: &mut Outbox, io: &mut Stream, cx: &mut Context<'_>) -> Step {
    if out.is_empty() {
        return Step::Moved;
    }
    match out.poll_empty(io, cx) {
        Poll::Ready(Ok(())) => Step::Moved,
        Poll::Ready(Err(_)) => Step::End(End::Left),
        Poll::Pending => Step::Waits,
    }
}

/// Where the server's messages stand: what is in them is not looked at.
#[derive(Default)]
struct Walk {
    header: [u8; HEADER],
    /// Bytes of the header that have come.
    have: usize,
    /// Bytes of the body that have not.
    left: usize,
    /// The type of the last message.
    last: u8,
    phase: Phase,
}

/// What the server is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// It waits for a command.
    #[default]
    Idle,
    /// It carries one out.
    Busy,
    /// COPY in both directions: a stream without an end.
    Streaming,
}

impl Walk {
    /// The client has said something.
    fn asked(&mut self) {
        if self.phase == Phase::Idle {
            self.phase = Phase::Busy;
        }
    }

    /// The last message has come whole, and no part of the next.
    fn is_between(&self) -> bool {
        self.left == 0 && self.have == 0
    }

    /// Whether its client can be told goodbye without losing what it waits for.
    fn may_end(&self) -> bool {
        self.is_between() && self.phase != Phase::Busy
    }

    fn pass(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while let Some(first) = bytes.first() {
            if self.left > 0 {
                let count = self.left.min(bytes.len());
                self.left -= count;
                bytes = bytes.get(count..).unwrap_or_default();
                continue;
            }
            if let Some(slot) = self.header.get_mut(self.have) {
                *slot = *first;
            }
            self.have += 1;
            bytes = bytes.get(1..).unwrap_or_default();
            if self.have == HEADER {
                self.have = 0;
                let head = Head::read(&self.header, LONGEST)
                    .map_err(|fault| Refusal::ServerProtocol(fault.to_string()))?;
                self.begin(head.map_or(0, |head| head.body as usize));
            }
        }
        Ok(())
    }

    fn begin(&mut self, body: usize) {
        let [message, ..] = self.header;
        (self.last, self.left) = (message, body);
        self.phase = match message {
            tag::READY => Phase::Idle,
            tag::COPY_BOTH => Phase::Streaming,
            tag::COPY_DONE | tag::COMMAND_COMPLETE | tag::ERROR => Phase::Busy,
            _ => self.phase,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P1: however its bytes are cut, it is known where a server's messages end and what it does.
    #[test]
    fn messages_are_walked_in_any_pieces() {
        let mut all = Vec::new();
        let mut put = |message: u8, body: &[u8]| {
            pgpool_wire::frame::put(&mut all, message, |out| out.extend_from_slice(body));
        };
        put(tag::COPY_BOTH, &[0, 0, 0]);
        put(tag::COPY_DATA, &[7; 300]);
        let streaming = all.len();
        let mut put = |message: u8, body: &[u8]| {
            pgpool_wire::frame::put(&mut all, message, |out| out.extend_from_slice(body));
        };
        put(tag::COPY_DONE, &[]);
        put(tag::COMMAND_COMPLETE, b"START_STREAMING\0");
        put(tag::READY, b"I");
        for size in 1..=all.len() {
            let mut walk = Walk::default();
            walk.asked();
            assert!(!walk.may_end());
            for piece in all[..streaming].chunks(size) {
                walk.pass(piece).expect("lawful");
            }
            assert!(walk.may_end() && walk.phase == Phase::Streaming, "{size}");
            walk.pass(&all[streaming..=streaming]).expect("lawful");
            assert!(!walk.may_end(), "in the middle of a message");
            for piece in all[streaming + 1..].chunks(size) {
                walk.pass(piece).expect("lawful");
            }
            assert!(walk.may_end() && walk.phase == Phase::Idle, "{size}");
        }
        assert!(Walk::default().pass(b"Z\0\0\0\0").is_err(), "a length that cannot be");
    }
}
