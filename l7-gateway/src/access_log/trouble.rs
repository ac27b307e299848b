//! Whether the log loses lines, told once when it begins and once when it is over. Not for counting
//! them. Run on the control runtime, which never writes the log.
//!
//! Invariant: two tellings of the same kind never follow each other.

use std::sync::Arc;
use std::time::Duration;

use common::observe::Observer;
use tokio::time::interval;

use super::ring::Fate;
use crate::events::{LogFails, LogRecovered};

/// How the log does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Trouble {
    #[default]
    None,
    /// Lines are lost; so many were before.
    Since(u64),
}

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Fails,
    Recovered { lost: u64 },
}

/// Looks once a second, until it is dropped.
pub async fn watch(fate: Arc<Fate>, observer: Observer) {
    let (mut seen, mut trouble) = ((fate.lost(), fate.batches()), Trouble::None);
    let mut tick = interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let now = (fate.lost(), fate.batches());
        match trouble.look(seen, now) {
            None => {}
            Some(Told::Fails) => observer.emit(LogFails { fault: fate.take_fault() }),
            Some(Told::Recovered { lost }) => observer.emit(LogRecovered { lost }),
        }
        seen = now;
    }
}

impl Trouble {
    /// From lines lost and batches written, before and now.
    fn look(&mut self, before: (u64, u64), now: (u64, u64)) -> Option<Told> {
        match *self {
            Self::None if now.0 > before.0 => {
                *self = Self::Since(before.0);
                Some(Told::Fails)
            }
            Self::Since(lost) if now.0 == before.0 && now.1 > before.1 => {
                *self = Self::None;
                Some(Told::Recovered { lost: now.0 - lost })
            }
            Self::None | Self::Since(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G19, O5: a log that fails is told once, and once that it is well again; silence is neither.
    #[test]
    fn trouble_is_told_once_and_its_end_once() {
        let mut trouble = Trouble::None;
        let steps = [
            ((0, 5), None),
            ((3, 5), Some(Told::Fails)),
            ((9, 6), None),
            ((9, 6), None),
            ((12, 6), None),
            ((12, 7), Some(Told::Recovered { lost: 12 })),
            ((12, 8), None),
            ((13, 9), Some(Told::Fails)),
            ((13, 10), Some(Told::Recovered { lost: 1 })),
        ];
        let mut before = (0, 0);
        for (now, told) in steps {
            assert_eq!(trouble.look(before, now), told, "{before:?} to {now:?}");
            before = now;
        }
    }
}
