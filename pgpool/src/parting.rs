//! `SHUTDOWN WAIT_FOR_SERVERS` and `WAIT_FOR_CLIENTS`: nobody new is let in but to the admin database, by unix
//! socket, and the instance ends when what is waited for has gone. Not for a drain, which tells clients to go.
//! Begun by the admin database and by PgBouncer's signals, by way of `control`.
//!
//! Invariant: what is begun is never taken back, and a client in the middle of something is left alone.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::admin::verbs::Hold;
use crate::client::entry::{ClientPhase, Ending};
use crate::pool::Pause;
use crate::worker::Worker;

/// What the end waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// That every server is released; who waits for one is told to go.
    Servers,
    /// That every client has left.
    Clients,
}

/// Whether a worker's clients are to be the last.
#[derive(Debug, Default)]
pub struct Parting {
    wait: Cell<Option<Wait>>,
    /// Whether all is paused for it alone.
    holds: Cell<bool>,
    begun: Notify,
}

impl Parting {
    /// What is waited for, if it has begun.
    pub fn wait(&self) -> Option<Wait> {
        self.wait.get()
    }

    /// Waits until it begins. Cancel safe.
    pub async fn begun(&self) {
        let begun = self.begun.notified();
        if self.wait.get().is_none() {
            begun.await;
        }
    }
}

/// Begins it on one worker; how many clients were told to go. Said again, what was said last counts: who waits for
/// clients needs no pause any more, and they need servers.
pub fn begin(worker: &Rc<Worker>, wait: Wait) -> usize {
    worker.parting.wait.set(Some(wait));
    worker.parting.begun.notify_waiters();
    if wait == Wait::Clients {
        if worker.parting.holds.take() {
            worker.hold("", Hold::Paused, Pause::Running);
        }
        return 0;
    }
    if !worker.is_held("", Hold::Paused) {
        worker.parting.holds.set(true);
    }
    worker.hold("", Hold::Paused, Pause::Paused);
    worker.end(|entry| entry.phase() == ClientPhase::Waiting, Ending::ShuttingDown)
}
