//! The one clock of all processes of a run, and waiting. Not for dates.
//!
//! Invariant: `now` is the same clock in every namespace, so times may be compared across them.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC);
    time.map(|time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64).unwrap_or(0)
}

/// Waits in real time.
#[expect(clippy::disallowed_methods, reason = "a bench waits for real programs in real time")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
