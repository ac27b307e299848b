//! Cancel requests: from a client's key to the query that its owner runs right now, and no other.
//! Not for `query_timeout`'s decision. Called by the listener (through the home worker) and by
//! whoever has to end a query.
//!
//! Invariant: a server is not released while a cancel request to it is on its way.

use std::io;
use std::rc::Rc;

use pgpool_wire::startup::{self, CancelKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::scram;
use crate::server::Facts;
use crate::server::tls::Way;
use crate::worker::{Dial, Worker};

/// Requests to one server at a time; more are no use.
const MOST_AT_ONCE: u32 = 2;

/// Forwards a request if its key belongs to a client with a running query. Ends when the server has
/// closed the request's connection: only then has the signal been sent.
pub async fn forward(worker: &Rc<Worker>, key: &CancelKey) {
    let Some(facts) = find(worker, key) else { return };
    if facts.cancels.get() >= MOST_AT_ONCE {
        return;
    }
    facts.cancels.set(facts.cancels.get() + 1);
    let _guard = Underway(Rc::clone(&facts));
    // Late or failed, the client learns it by its query going on, as with PostgreSQL itself. But
    // nobody can say any more whether and when it arrives: whoever came next could be hit.
    let longest = worker.snapshot().settings.cancel_wait_timeout;
    if !matches!(timeout(longest, send(&*worker.dialer, &facts)).await, Ok(Ok(()))) {
        facts.condemned.set(true);
    }
}

/// The server that runs a query for the key's owner.
fn find(worker: &Worker, key: &CancelKey) -> Option<Rc<Facts>> {
    let entry = worker.client(key.pid)?;
    if !scram::same(&entry.secret, &key.secret) {
        return None;
    }
    entry.running()
}

/// Sends the server's own key to it and waits until it closes the connection.
///
/// # Errors
/// The server cannot be reached.
pub async fn send(dialer: &dyn Dial, facts: &Facts) -> io::Result<()> {
    let Some(key) = &facts.key else { return Ok(()) };
    let dialled = dialer.dial(&facts.peer).await?;
    let way = if facts.encrypted { Way::Encrypted } else { Way::Plain };
    let secured = facts.security.secure(dialled, &facts.address, way).await;
    let mut io = secured.map_err(|fault| io::Error::other(fault.to_string()))?.io;
    let mut out = Vec::new();
    startup::put_cancel(&mut out, key);
    io.write_all(&out).await?;
    let mut nothing = [0; 1];
    match io.read(&mut nothing).await {
        // It says no goodbye inside TLS.
        Err(fault) if fault.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}

/// A request on its way.
struct Underway(Rc<Facts>);

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.cancels.set(self.0.cancels.get().saturating_sub(1));
        self.0.settled.notify_waiters();
        self.0.settled.notify_one();
    }
}
