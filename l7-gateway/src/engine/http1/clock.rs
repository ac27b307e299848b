//! How long a client is waited for. One timer per connection, moved on when it fires rather than with
//! every request. Called by `http1`.
//!
//! Invariant: it fires only when what is waited for now is overdue.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::Patience;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// The first byte of a head.
    Idle,
    /// The same, while the instance drains.
    Farewell,
    /// The rest of a head.
    Head,
}

/// The clock of a connection.
#[derive(Debug)]
pub(super) struct Clock {
    timer: Pin<Box<Sleep>>,
    patience: Patience,
    waiting: Option<Waiting>,
    due: Instant,
    /// Nothing has come yet: the first byte is waited for like a head's rest.
    first: bool,
}

/// How long a drain leaves a connection between requests open: a request that is on its way may still
/// come.
const FAREWELL: Duration = Duration::from_secs(1);

impl Clock {
    pub(super) fn new(patience: Patience) -> Self {
        let due = Instant::now() + patience.head;
        let timer = Box::pin(tokio::time::sleep_until(due));
        Self { timer, patience, waiting: None, due, first: true }
    }

    /// A request has come: what is waited for next is another one.
    pub(super) fn came(&mut self) {
        self.waiting = None;
        self.first = false;
    }

    /// Waits for this from now on, unless it does already.
    pub(super) fn wait(&mut self, waiting: Waiting) {
        if self.waiting == Some(waiting) {
            return;
        }
        self.waiting = Some(waiting);
        let Patience { head, idle } = self.patience;
        let after = match waiting {
            Waiting::Idle if self.first => head,
            Waiting::Idle => idle,
            Waiting::Farewell => FAREWELL.min(idle),
            Waiting::Head => head,
        };
        self.due = Instant::now() + after;
        if self.due < self.timer.deadline() {
            self.timer.as_mut().reset(self.due);
        }
    }

    /// Ready when it is overdue.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.timer.deadline() >= self.due {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.due);
        }
    }
}
