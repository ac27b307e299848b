//! How a client, a login or a lookup waits for a server. Not for who comes first: that is the pool. Called by the
//! session loop, by logins and by lookups.
//!
//! Invariant: whoever stops waiting gives its place up, and a server that was given to it meanwhile goes back.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Client;
use super::entry::{ClientPhase, Ending};
use crate::fatal::{self, Refusal};
use crate::parting;
use crate::pool::waiters::Waiter;
use crate::pool::{Pool, add};
use crate::server::Server;
use crate::worker::Worker;

/// PgBouncer's words, which people search for.
const QUEUED: &str = "No server connection available in postgres backend, client being queued";

impl Client {
    /// A server for the messages in the carry.
    pub(super) async fn checkout(&mut self) -> Wait {
        let pool = Rc::clone(&self.pool);
        let now = self.worker.now();
        let taken = std::future::poll_fn(|cx| Poll::Ready(pool.take(cx, now))).await;
        self.waited = Duration::ZERO;
        if let Some(server) = taken {
            self.still.server = true;
            return Wait::Server(server);
        }
        if self.worker.parting.wait() == Some(parting::Wait::Servers) {
            return Wait::Refused(Refusal::ShuttingDown);
        }
        self.worker.tick();
        let now = self.worker.now();
        let place = Place::new(Rc::clone(&pool), pool.queue(now));
        let time = self.worker.snapshot().settings.query_wait_timeout;
        let deadline = (!time.is_zero()).then_some((now + time, Ending::QueryWait));
        self.entry.enter(ClientPhase::Waiting, deadline);
        self.entry.waiting.set(Some(now));
        let notify = self.worker.snapshot().settings.query_wait_notify;
        self.entry.nudge_at((!notify.is_zero()).then(|| now + notify));
        let outcome = std::future::poll_fn(|cx| self.poll_wait(&place, cx)).await;
        self.entry.waiting.set(None);
        self.entry.nudge_at(None);
        // Whoever gave the server has looked at the clock when its answer came.
        let waited = self.worker.now().saturating_duration_since(now);
        self.waited = waited;
        pool.meters.wait.record(waited);
        let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        let before = pool.meters.totals.wait_micros.get();
        add(&pool.meters.totals.wait_micros, micros);
        pool.meters.waited.increment((before + micros) / 1_000_000 - before / 1_000_000);
        outcome
    }

    fn poll_wait(&mut self, place: &Place, cx: &mut Context<'_>) -> Poll<Wait> {
        if let Some(ending) = self.entry.ending(cx) {
            return Poll::Ready(Wait::Refused(self.refusal(ending)));
        }
        match place.poll(cx, self.worker.now()) {
            Poll::Ready(Ok(server)) => return Poll::Ready(Wait::Server(server)),
            Poll::Ready(Err(refusal)) => return Poll::Ready(Wait::Refused(refusal)),
            Poll::Pending => {}
        }
        if self.entry.is_nudged() {
            self.out.fill(|out| fatal::put_notice(out, QUEUED));
        }
        if let Poll::Ready(Err(_)) = self.out.poll_empty(&mut self.io, cx) {
            return Poll::Ready(Wait::Left);
        }
        // Whoever leaves while waiting must not cost a server.
        self.read_ahead(cx).map(|_| Wait::Left)
    }
}

/// A server for a login or a lookup, within `query_wait_timeout`.
///
/// # Errors
/// What its client must be told.
pub async fn server_of(worker: &Worker, pool: &Rc<Pool>) -> Result<Box<Server>, Refusal> {
    let wait = worker.snapshot().settings.query_wait_timeout;
    let now = worker.now();
    if let Some(server) = std::future::poll_fn(|cx| Poll::Ready(pool.take(cx, now))).await {
        return Ok(server);
    }
    let place = Place::new(Rc::clone(pool), pool.queue(now));
    let server = std::future::poll_fn(|cx| place.poll(cx, worker.now()));
    let server = if wait.is_zero() {
        server.await?
    } else {
        timeout(wait, server).await.map_err(|_| Refusal::QueryWait(wait))??
    };
    Ok(server)
}

/// How waiting for a server ended.
pub(super) enum Wait {
    Server(Box<Server>),
    Left,
    Refused(Refusal),
}

/// A place in a pool's queue; given back when dropped.
struct Place {
    pool: Rc<Pool>,
    waiter: Rc<Waiter>,
}

impl Place {
    fn new(pool: Rc<Pool>, waiter: Rc<Waiter>) -> Self {
        Self { pool, waiter }
    }

    fn poll(&self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<Box<Server>, Refusal>> {
        self.pool.poll_waiter(&self.waiter, cx, now)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.leave(&self.waiter);
    }
}
