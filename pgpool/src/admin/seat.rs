//! A console's place among those that cancel requests reach, and how what it waits for is given up. Not for
//! what it then undoes: that is `admin`. Held by the console; found by `cancel`.
//!
//! Invariant: a request ends what its console waits for when it comes, and nothing later.

use std::cell::Cell;
use std::rc::Rc;
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::client::entry::Who;
use crate::worker::Worker;

/// Ends what a console waits for.
#[derive(Debug)]
pub struct Abort {
    /// Proves that a request comes from it.
    pub secret: Box<[u8]>,
    waits: Cell<bool>,
    /// Nobody is there who could wait.
    closed: Cell<bool>,
    heard: Notify,
}

impl Abort {
    /// For a console with this secret.
    pub fn new(secret: Box<[u8]>) -> Self {
        Self { secret, waits: Cell::default(), closed: Cell::default(), heard: Notify::new() }
    }

    /// Gives up what is waited for, if anything is.
    pub fn ask(&self) {
        if self.waits.replace(false) {
            self.heard.notify_one();
        }
    }

    /// Gives up what is waited for, and whatever would be.
    pub fn close(&self) {
        self.closed.set(true);
        self.ask();
    }

    /// Waits for it; `false`: it was given up.
    pub async fn wait(&self, what: impl Future<Output = ()>) -> bool {
        if self.closed.get() {
            return false;
        }
        self.waits.set(true);
        let done = tokio::select! {
            biased;
            () = what => true,
            () = self.heard.notified() => false,
        };
        if !self.waits.replace(false) && done {
            // Asked at the very end: too late.
            self.heard.notified().await;
        }
        done
    }
}

/// A console as others see it.
pub struct Visitor {
    /// Ends what it waits for.
    pub abort: Rc<Abort>,
    /// Who it is.
    pub who: Who,
    /// When it came.
    pub connected: SystemTime,
}

/// Its place; given back when dropped.
pub struct Seat {
    /// What it takes for its server's process id.
    pub pid: u32,
    /// Ends what it waits for.
    pub abort: Rc<Abort>,
    worker: Rc<Worker>,
}

impl Seat {
    /// For a console of this worker.
    pub fn take(worker: &Rc<Worker>, pid: u32, secret: Box<[u8]>, who: Who) -> Self {
        let abort = Rc::new(Abort::new(secret));
        let connected = SystemTime::now();
        let pid = worker.seat(pid, Visitor { abort: Rc::clone(&abort), who, connected });
        Self { pid, abort, worker: Rc::clone(worker) }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.worker.leave(self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P6: only what is waited for is given up, not what comes next.
    #[tokio::test]
    async fn a_request_ends_what_is_waited_for() {
        let abort = Abort::new(Box::new([1]));
        abort.ask();
        assert!(abort.wait(std::future::ready(())).await, "it came before");
        let (done, ()) = tokio::join!(abort.wait(std::future::pending()), async { abort.ask() });
        assert!(!done);
        let late = async { abort.ask() };
        assert!(abort.wait(late).await, "it came at the very end");
        assert!(abort.wait(tokio::task::yield_now()).await, "and is forgotten");
        let (done, ()) = tokio::join!(abort.wait(std::future::pending()), async { abort.close() });
        assert!(!done);
        assert!(!abort.wait(std::future::ready(())).await, "nobody is there to wait");
    }
}
