//! A small number that is worked out now and then, however often it is asked for: what takes a look at
//! every endpoint, and is wanted for every request. Called by `Service` and `balance`.
//!
//! Invariant: it is never older than a turn, a few milliseconds.

use std::sync::atomic::{AtomicU64, Ordering};

/// The number with the turn it is of, which begins at 1; 0: none yet.
#[derive(Debug, Default)]
pub struct Remembered(AtomicU64);

impl Remembered {
    /// The number of this turn. Threads that ask at the same time may each work it out.
    pub fn get(&self, turn: u64, work_out: impl FnOnce() -> u16) -> u16 {
        let known = self.0.load(Ordering::Relaxed);
        if known >> 16 == turn + 1 {
            return (known & 0xffff) as u16;
        }
        let number = work_out();
        self.0.store(((turn + 1) << 16) | u64::from(number), Ordering::Relaxed);
        number
    }
}
