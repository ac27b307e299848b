//! What signals ask of `up`: TERM and INT its end, HUP that its file be applied; HUP of a terminal that was
//! closed is an end, too. Not for doing it. Called by `up`.
//!
//! Invariant: a HUP that comes while something else is under way is not lost.

use std::fs::File;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The end of the stack.
    End,
    /// That the file be read again.
    Again,
}

/// All of them, from the moment it was made.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    /// There was one, whoever it came from.
    hung: bool,
    /// It asked for the file, and nobody has heard it.
    again: bool,
    /// There is a terminal that could be closed.
    terminal: bool,
}

impl Signals {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            hung: false,
            again: false,
            terminal: has_terminal(),
        })
    }

    /// Waits for the next one; cancel safe.
    pub(super) async fn next(&mut self) -> Said {
        match std::mem::take(&mut self.again) {
            true => Said::Again,
            false => self.heard().await,
        }
    }

    /// Waits for one that ends everything; others are kept for [`next`](Self::next). Cancel safe.
    pub(super) async fn end(&mut self) {
        while self.heard().await == Said::Again {
            self.again = true;
        }
    }

    async fn heard(&mut self) -> Said {
        if !self.hung {
            tokio::select! {
                _ = self.term.recv() => return Said::End,
                _ = self.int.recv() => return Said::End,
                _ = self.hup.recv() => self.hung = true,
            }
        }
        if self.terminal {
            tokio::time::sleep(MOMENT).await;
        }
        self.hung = false;
        meaning(self.terminal, has_terminal())
    }
}

/// What a HUP means to somebody who had a terminal, and has one still.
fn meaning(had: bool, has: bool) -> Said {
    if had && !has { Said::End } else { Said::Again }
}

/// Whether this process has a terminal (`tty(4)`: without one it cannot be opened).
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// The system takes a terminal away a moment after it has said so.
const MOMENT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    /// T9: HUP applies the file, unless the terminal went with it.
    #[test]
    fn a_closed_terminal_is_an_end() {
        assert_eq!(meaning(true, false), Said::End);
        assert_eq!(meaning(true, true), Said::Again);
        assert_eq!(meaning(false, false), Said::Again);
    }
}
