//! Bytes between one client and the server that it has, both ways at once, until the server is free
//! again. Not for what the messages mean (`forward`, `answer`) and not for who gets which server
//! (`pool`). Called by the client's session loop; one task does both directions.
//!
//! Invariant: a side is read only when everything for the other side was written, so memory per
//! link is bounded by one scratch buffer each way.

pub mod answer;
pub mod edit;
pub mod forward;
pub mod link;
pub mod outbox;
mod trial;

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use pgpool_wire::backend::Status;
use pgpool_wire::frontend::GOODBYE;
use tokio::time::Instant;
use topology::pool::PoolMode;

use crate::client::entry::{Busy, Ending};
use crate::client::{Client, Still};
use crate::fatal::Refusal;
use crate::pool::add;
use crate::pool::terms::Pinned;
use crate::server::Server;
use crate::telemetry::{self, Went};
use crate::worker::{SCRATCH, Scratch};
use answer::{Answer, Seen};
use edit::Edit;
use forward::{Forward, Stop};
use link::Rules;
pub use trial::Trial;
use trial::{Held, hold_back};

/// How a link ended.
#[derive(Debug)]
pub enum Outcome {
    /// The server is free, the client goes on.
    Released,
    /// The client is gone.
    Left,
    /// The client is to be ended.
    Ended(Ending),
    /// The client must be told this, and goes. The server may be in any state.
    Broken(Refusal),
    /// The server is gone; the client has been told by it.
    Lost,
    /// A replica could not do it: the server is free, or gone, and the client's messages, of whose
    /// answers nothing was told, are to be carried out by the primary.
    Elsewhere(Vec<u8>),
}

/// Relays until the server is free or one side is gone. Cancelling it in the middle leaves the
/// server in an unknown state: drop it then.
pub fn run<'a>(
    client: &'a mut Client,
    server: &'a mut Server,
    trial: Option<Box<Trial>>,
) -> impl Future<Output = Outcome> + 'a {
    let rules = client.rules();
    let keeps = rules.mode == PoolMode::Session;
    let mut relay = Relay {
        client,
        server,
        rules,
        keeps,
        input: Input::Begin,
        deaf: false,
        query: None,
        transaction: None,
        watch: (Watch::None, None, None),
        trial,
        pinned: None,
    };
    let mut woken = false;
    let turn = move |cx: &mut Context<'_>| {
        // The first turn goes on where the client's session has asked already.
        if std::mem::replace(&mut woken, true) {
            relay.client.still = Still::default();
        }
        relay.poll(cx)
    };
    std::future::poll_fn(turn)
}

struct Relay<'a> {
    client: &'a mut Client,
    server: &'a mut Server,
    rules: Rules,
    /// The client keeps its server between transactions.
    keeps: bool,
    input: Input,
    /// The server takes no more; what it has said before it closed is still read.
    deaf: bool,
    query: Option<Instant>,
    transaction: Option<Instant>,
    /// What the deadline is for, and since when its query and transaction run.
    watch: (Watch, Option<Instant>, Option<Instant>),
    trial: Option<Box<Trial>>,
    /// It counts among the servers that are tied to their clients.
    pinned: Option<Pinned>,
}

/// Where the client's messages stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    /// The first ones are in the carry, and the server has still to be made the client's own.
    Begin,
    /// More is read.
    Read,
    /// The next one waits for replies.
    Blocked,
    /// What has waited is forwarded before more is read.
    Again,
    /// The client has said goodbye; what it asked for is still carried out.
    Leaving,
}

/// What the client's deadline stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    None,
    Query,
    Transaction,
    Idle,
}

/// One step of one direction.
enum Step {
    Moved,
    Waits,
    End(Outcome),
}

impl Relay<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Some(ending) = self.client.entry.ending(cx) {
            return Poll::Ready(Outcome::Ended(ending));
        }
        let mut quiet = false;
        loop {
            let mut moved = match self.read_client(cx) {
                Step::Moved => true,
                Step::Waits => false,
                Step::End(outcome) => return Poll::Ready(outcome),
            };
            // Nothing has moved since the server had nothing to say: it is not asked again.
            if !self.client.still.server && (moved || !quiet) {
                let step = self.read_server(cx);
                quiet = matches!(step, Step::Waits);
                match step {
                    Step::Moved => moved = true,
                    Step::Waits => {}
                    Step::End(outcome) => return Poll::Ready(outcome),
                }
            }
            if let Some(outcome) = self.verdict() {
                return Poll::Ready(outcome);
            }
            if moved {
                continue;
            }
            match self.tell_heard(cx) {
                Step::Moved => quiet = false,
                Step::Waits => {
                    self.watch();
                    return Poll::Pending;
                }
                Step::End(outcome) => return Poll::Ready(outcome),
            }
        }
    }

    fn read_client(&mut self, cx: &mut Context<'_>) -> Step {
        if !self.server.out.is_empty() {
            match self.server.out.poll_empty(&mut self.server.io, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => self.deaf = true,
                Poll::Pending => return Step::Waits,
            }
        }
        // What we answer ourselves is bounded by that.
        if let Some(step) = self.flush_client(cx) {
            return step;
        }
        // A cancel request that still travels means what was asked before it.
        if self.server.facts.cancels.get() > 0 && self.server.talk.ledger.is_empty() {
            return Step::Waits;
        }
        match self.input {
            _ if self.deaf => return Step::Waits,
            Input::Blocked => return self.wait_client(cx),
            Input::Leaving => return self.conclude(cx),
            Input::Begin | Input::Read | Input::Again => {}
        }
        // Behind a read that was tried in vain more may have been read than fits at once.
        let fits = self.client.carry.len() < SCRATCH;
        let reads = fits && !matches!(self.input, Input::Begin | Input::Again);
        if reads && self.client.still.client {
            return Step::Waits;
        }
        let worker = Rc::clone(&self.client.worker);
        let mut scratch = worker.scratch.borrow_mut();
        let Scratch { read, edit } = &mut *scratch;
        let held = self.client.carry.len().min(read.len());
        let (front, room) = read.split_at_mut(held);
        front.copy_from_slice(self.client.carry.get(..held).unwrap_or_default());
        let count = if !reads {
            0
        } else {
            match self.client.ask(cx, room) {
                Poll::Pending => {
                    self.client.still.client = true;
                    return Step::Waits;
                }
                Poll::Ready(Ok(count)) if count > 0 => count,
                Poll::Ready(_) => return Step::End(Outcome::Left),
            }
        };
        add(&self.client.pool.meters.totals.received, count as u64);
        let mut carry = std::mem::take(&mut self.client.carry);
        let more = if fits { Vec::new() } else { carry.split_off(held) };
        worker.reuse(carry);
        let input = read.get(..held + count).unwrap_or_default();
        let step = self.push(input, edit, cx);
        if !more.is_empty() {
            self.client.carry.extend_from_slice(&more);
            if self.input == Input::Read {
                self.input = Input::Again;
            }
        }
        step
    }

    /// The next piece has to wait: it is read all the same, so that a client that goes is noticed.
    fn wait_client(&mut self, cx: &mut Context<'_>) -> Step {
        if self.client.still.client {
            return Step::Waits;
        }
        match self.client.read_ahead(cx) {
            // One that has said goodbye behind it is gone, too, but gets what it has asked for.
            Poll::Ready(false) if !self.client.carry.ends_with(GOODBYE) => Step::End(Outcome::Left),
            Poll::Ready(_) | Poll::Pending => Step::Waits,
        }
    }

    /// The client has said goodbye. Where its server waits for what only the client could have said, the end of a
    /// COPY's data or a Sync, it is told: what was asked before is carried out, and nothing of the rest is kept.
    fn conclude(&mut self, cx: &mut Context<'_>) -> Step {
        if !self.server.talk.ledger.is_certain() {
            return Step::End(Outcome::Left);
        }
        let mut out = Vec::new();
        self.server.talk.ledger.conclude(&mut out);
        if out.is_empty() {
            return Step::Waits;
        }
        self.deaf |= self.server.out.send(&mut self.server.io, cx, &out).is_err();
        Step::Moved
    }

    /// Forwards what can be forwarded of `input`.
    fn push(&mut self, input: &[u8], out: &mut Vec<u8>, cx: &mut Context<'_>) -> Step {
        out.clear();
        let mut edit = Edit::new(input, out);
        let drifted = self.server.talk.drifted && self.server.talk.is_clean();
        if self.input == Input::Begin || drifted {
            edit.put(|out| self.server.talk.adopt(&self.client.memory, self.rules, out));
        }
        let worker = Rc::clone(&self.client.worker);
        let stop = Forward {
            client: &mut self.client.memory,
            server: &mut self.server.talk,
            statements: &mut worker.statements.borrow_mut(),
            rules: self.rules,
        }
        .run(&mut edit);
        let used = edit.consumed();
        let said = std::mem::take(&mut self.client.memory.said);
        let totals = &self.client.pool.meters.totals;
        add(&totals.client_parses, said.parses.into());
        add(&totals.server_parses, said.sent.into());
        add(&totals.binds, said.binds.into());
        if let Err(refusal) = self.pin() {
            return Step::End(Outcome::Broken(refusal));
        }
        let sent = self.server.out.send(&mut self.server.io, cx, edit.finish());
        match stop {
            Ok(Stop::Input) => self.input = Input::Read,
            Ok(Stop::Replies) => self.input = Input::Blocked,
            Ok(Stop::Terminate) => self.input = Input::Leaving,
            Err(refusal) => return Step::End(Outcome::Broken(refusal)),
        }
        self.client.carry.extend_from_slice(input.get(used..).unwrap_or_default());
        self.deaf |= sent.is_err();
        self.begin_clock();
        self.owed(out, cx)
    }

    /// Counts the server once session state ties it to the client: before what does so is sent.
    fn pin(&mut self) -> Result<(), Refusal> {
        if !self.keeps && self.pinned.is_none() && self.client.memory.tie.is_some() {
            self.pinned = Some(self.client.pool.pin(&self.client.worker)?);
        }
        Ok(())
    }

    /// What we owe the client ourselves may be due at once.
    fn owed(&mut self, out: &mut Vec<u8>, cx: &mut Context<'_>) -> Step {
        out.clear();
        let mut edit = Edit::new(&[], out);
        let mut answer = Answer { client: &mut self.client.memory, server: &mut self.server.talk };
        answer.owed(&mut edit);
        match self.client.out.send(&mut self.client.io, cx, edit.finish()) {
            Err(_) if self.input != Input::Leaving => Step::End(Outcome::Left),
            Ok(()) | Err(_) => Step::Moved,
        }
    }

    /// Writes what the client has not taken yet; `Some`: it takes no more now, or never.
    fn flush_client(&mut self, cx: &mut Context<'_>) -> Option<Step> {
        // A client that has said goodbye reads no more.
        if self.client.out.is_empty() || self.input == Input::Leaving {
            return None;
        }
        match self.client.out.poll_empty(&mut self.client.io, cx) {
            Poll::Ready(Ok(())) => None,
            Poll::Ready(Err(_)) => Some(Step::End(Outcome::Left)),
            Poll::Pending => Some(Step::Waits),
        }
    }

    fn read_server(&mut self, cx: &mut Context<'_>) -> Step {
        if let Some(step) = self.flush_client(cx) {
            return step;
        }
        let worker = Rc::clone(&self.client.worker);
        let mut scratch = worker.scratch.borrow_mut();
        let Scratch { read, edit } = &mut *scratch;
        let held = self.server.carry.len().min(read.len());
        let (front, room) = read.split_at_mut(held);
        front.copy_from_slice(self.server.carry.get(..held).unwrap_or_default());
        let count = match self.server.io.poll_some(cx, room) {
            Poll::Pending => {
                self.client.still.server = true;
                return Step::Waits;
            }
            Poll::Ready(Ok(count)) if count > 0 => count,
            Poll::Ready(_) => return Step::End(self.lost()),
        };
        self.server.carry = Vec::new();
        let input = read.get(..held + count).unwrap_or_default();
        self.pull(input, edit, cx)
    }

    /// Passes on what can be passed on of a server's `input`.
    fn pull(&mut self, input: &[u8], out: &mut Vec<u8>, cx: &mut Context<'_>) -> Step {
        out.clear();
        let mut edit = Edit::new(input, out);
        let mut answer = Answer { client: &mut self.client.memory, server: &mut self.server.talk };
        let seen = answer.run(&mut edit);
        if let Some(outcome) = self.refused() {
            return Step::End(outcome);
        }
        let used = edit.consumed();
        let bytes = edit.finish();
        add(&self.client.pool.meters.totals.sent, bytes.len() as u64);
        // A client that has said goodbye reads no more.
        let leaving = self.input == Input::Leaving;
        let held = hold_back(&mut self.trial, bytes, seen.as_ref().ok());
        let sent = match &held {
            _ if leaving => Ok(()),
            Held::All => Ok(()),
            Held::Nothing => self.client.out.send(&mut self.client.io, cx, bytes),
            Held::Before(all) => self.client.out.send(&mut self.client.io, cx, all),
        };
        let seen = match seen {
            Ok(seen) => seen,
            Err(refusal) => return Step::End(Outcome::Broken(refusal)),
        };
        self.server.carry.extend_from_slice(input.get(used..).unwrap_or_default());
        if self.input == Input::Blocked {
            self.input = Input::Again;
        }
        self.count(seen);
        if sent.is_ok() { Step::Moved } else { Step::End(Outcome::Left) }
    }

    fn begin_clock(&mut self) {
        if self.query.is_none() && !self.server.talk.ledger.is_empty() {
            self.client.worker.tick();
            let now = self.client.worker.now();
            self.query = Some(now);
            self.transaction.get_or_insert(now);
            self.client.entry.requested.set(now);
        }
    }

    fn count(&mut self, seen: Seen) {
        let meters = &self.client.pool.meters;
        add(&meters.totals.errors, u64::from(seen.errors));
        if seen.errors > 0
            && let Some(noted) = &mut self.client.memory.noted
        {
            noted.failed = true;
        }
        if seen.ready == 0 {
            return;
        }
        self.client.worker.tick();
        let now = self.client.worker.now();
        meters.sign.give();
        meters.queries.increment(u64::from(seen.ready));
        meters.transactions.increment(u64::from(seen.transactions));
        add(&meters.totals.queries, u64::from(seen.ready));
        add(&meters.totals.transactions, u64::from(seen.transactions));
        let tally = &self.client.worker.tally;
        tally.queries.fetch_add(u64::from(seen.ready), std::sync::atomic::Ordering::Relaxed);
        let took = self.query.take().map(|since| now.saturating_duration_since(since));
        if let Some(took) = took {
            meters.latency.record(took);
            tally.latency.record(took);
            add(&meters.totals.query_micros, micros(took));
        }
        if seen.transactions > 0
            && let Some(since) = self.transaction.take()
        {
            let took = now.saturating_duration_since(since);
            add(&meters.totals.transaction_micros, micros(took));
        }
        if !self.server.talk.ledger.is_empty() {
            self.query = Some(now);
            self.transaction.get_or_insert(now);
        }
        if let Some(took) = took
            && self.client.memory.noted.is_some()
        {
            let server = &self.server.facts;
            telemetry::tell(self.client, &Went { took, server });
        }
    }

    /// In statement mode a transaction block is refused before its client hears that it is open.
    fn refused(&self) -> Option<Outcome> {
        let open = self.server.talk.ledger.status() != Status::Idle;
        let refused = self.rules.mode == PoolMode::Statement && open;
        refused.then_some(Outcome::Broken(Refusal::StatementMode))
    }

    /// Whether the link is over.
    fn verdict(&mut self) -> Option<Outcome> {
        // Neither clean nor settled.
        if !self.server.talk.ledger.is_empty() {
            return None;
        }
        let clean = self.server.talk.is_clean()
            && self.server.carry.is_empty()
            && self.server.out.is_empty()
            && !self.server.talk.dying
            && self.client.memory.left == 0;
        if self.input == Input::Leaving && (clean || self.server.is_settled()) {
            return Some(Outcome::Left);
        }
        let again = self.input == Input::Again && !self.client.memory.stepwise;
        if !clean || again || self.input == Input::Begin {
            return None;
        }
        if let Some(trial) = self.trial.take().filter(|trial| trial.failed) {
            return Some(Outcome::Elsewhere(trial.input));
        }
        if !self.keeps && self.client.memory.tie.is_none() {
            return Some(Outcome::Released);
        }
        if self.client.worker.is_draining() {
            return Some(Outcome::Ended(Ending::ShuttingDown));
        }
        self.is_to_close().then_some(Outcome::Ended(Ending::Reconnected))
    }

    /// In session mode: the server was condemned, and `server_fast_close` says not to wait for its client.
    fn is_to_close(&self) -> bool {
        let (pool, facts) = (&self.client.pool, &self.server.facts);
        let condemned = facts.condemned.get() || !pool.is_current(facts);
        condemned && self.client.worker.snapshot().settings.server_fast_close
    }

    /// A client that keeps its server is told between two answers what its pool's ear has heard.
    fn tell_heard(&mut self, cx: &mut Context<'_>) -> Step {
        let between = self.server.talk.is_clean() && self.server.carry.is_empty();
        if !between || !self.client.out.is_empty() {
            return Step::Waits;
        }
        let mut heard = Vec::new();
        self.client.heard(&mut heard);
        if heard.is_empty() {
            return Step::Waits;
        }
        match self.client.out.send(&mut self.client.io, cx, &heard) {
            Ok(()) => Step::Moved,
            Err(_) => Step::End(Outcome::Left),
        }
    }

    /// Sets the deadline that fits what the client is doing, when that has changed.
    fn watch(&mut self) {
        let ledger = &self.server.talk.ledger;
        self.client.entry.prepared.set(self.client.memory.names.len());
        self.server.facts.prepared.set(self.server.talk.holdings.len());
        self.client.entry.mark_busy(match ledger.is_empty() {
            true => Busy::No,
            false if ledger.owes_us() => Busy::Prepared,
            false => Busy::Yes,
        });
        let watch = match (ledger.is_empty(), ledger.status()) {
            (false, _) => Watch::Query,
            (true, Status::Idle) => Watch::Idle,
            (true, Status::Transaction | Status::Failed) => Watch::Transaction,
        };
        let all = (watch, self.query, self.transaction);
        if std::mem::replace(&mut self.watch, all) == all {
            return;
        }
        let limits = self.client.pool.limits(&self.client.worker);
        let (time, ending) = match watch {
            Watch::Query => (limits.query, Ending::QueryTimeout),
            Watch::Transaction => (limits.idle_transaction, Ending::IdleTransaction),
            Watch::Idle | Watch::None => (limits.client_idle, Ending::ClientIdle),
        };
        let until = |since: Instant, time: Duration| (!time.is_zero()).then(|| since + time);
        let own = until(self.client.worker.now(), time).map(|until| (until, ending));
        let whole = self.transaction.and_then(|since| until(since, limits.transaction));
        let whole = whole.map(|until| (until, Ending::TransactionTimeout));
        let first = own.into_iter().chain(whole).min_by_key(|(until, _)| *until);
        self.client.entry.limit(first);
    }

    /// The server's connection has ended.
    fn lost(&mut self) -> Outcome {
        let dying = self.server.talk.dying;
        match self.trial.take() {
            // It was told to end, or could not do it: of its answer, and of its end, nothing was told.
            Some(trial) if dying || trial.failed => Outcome::Elsewhere(trial.input),
            _ if dying => Outcome::Lost,
            _ => Outcome::Broken(Refusal::ServerLost),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
