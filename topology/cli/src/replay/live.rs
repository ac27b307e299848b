//! What moves while a replay runs: counters that all lanes add to, the progress bar that reads
//! them, and the wish to stop early. Not for the report. Used by `udp` and `https`.
//!
//! Invariant: lanes only add; nothing here can slow them down.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use tokio::time::Instant;

use super::series::Mark;

/// Counters of a running replay.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) sent: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) failed: AtomicU64,
    stop: AtomicBool,
    marks: Mutex<Vec<Mark>>,
}

impl Live {
    /// Whether the user wants the report now.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Notes what was done to the stack.
    pub(super) fn mark(&self, mark: Mark) {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).push(mark);
    }

    /// All that was done to the stack.
    pub(super) fn marks(&self) -> Vec<Mark> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds so many.
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Relaxed);
    }

    /// Adds one.
    pub(super) fn count(counter: &AtomicU64) {
        Self::add(counter, 1);
    }
}

/// Shows progress on a terminal (nothing elsewhere) and takes Ctrl-C, until dropped or aborted.
pub(super) async fn watch(live: Arc<Live>, total: u64, what: &'static str) {
    let bar = ProgressBar::new(total).with_finish(ProgressFinish::AndClear);
    bar.set_style(style());
    let start = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = tokio::signal::ctrl_c() => live.stop.store(true, Relaxed),
        }
        let sent = live.sent.load(Relaxed);
        bar.set_position(sent);
        bar.set_message(format!(
            "{:.0} {what}/s, {} answered, {} failed",
            sent as f64 / start.elapsed().as_secs_f64().max(0.1),
            live.answered.load(Relaxed),
            live.failed.load(Relaxed)
        ));
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:32} {percent:>3}%  {msg}  {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
