//! The bounded buffer between a worker and the one thread that writes the log. Not for formatting and
//! not for writing (`writer`). Called by the sink (push) and by the writer's thread (take).
//!
//! Invariant: a ring never holds more than its capacity, and a push never waits for a write.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::Counter;

/// Bytes per worker: about 2000 lines, 100 ms of a busy core.
pub(super) const CAPACITY: usize = 1 << 20;
/// Lines gather for so long before they are written: one system call for many.
pub(super) const GATHER: Duration = Duration::from_millis(10);

/// Lines of one worker that are not written yet.
#[derive(Debug)]
pub struct Ring {
    lines: Mutex<Vec<u8>>,
    bell: Arc<Bell>,
    fate: Arc<Fate>,
}

impl Ring {
    pub(super) fn new(bell: &Arc<Bell>, fate: &Arc<Fate>) -> Self {
        Self { lines: Mutex::default(), bell: Arc::clone(bell), fate: Arc::clone(fate) }
    }

    /// Takes a line, or drops and counts it when the writer is behind.
    pub fn push(&self, line: &[u8]) {
        let mut lines = locked(&self.lines);
        if lines.len() + line.len() > CAPACITY {
            drop(lines);
            return self.fate.lose(1);
        }
        let first = lines.is_empty();
        lines.extend_from_slice(line);
        drop(lines);
        if first {
            self.bell.ring();
        }
    }

    /// Moves the lines that are there into an empty buffer, whose memory the ring uses next.
    pub(super) fn take(&self, into: &mut Vec<u8>) {
        std::mem::swap(&mut *locked(&self.lines), into);
    }
}

/// What became of the lines: counted where they are lost or written, read by who tells operators.
#[derive(Debug)]
pub struct Fate {
    lost: AtomicU64,
    batches: AtomicU64,
    fault: Mutex<Option<String>>,
    counter: Counter,
}

impl Fate {
    /// Nothing has happened yet; the counter is what operators see of lost lines.
    pub fn new(counter: &Counter) -> Arc<Self> {
        let (lost, batches) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { lost, batches, fault: Mutex::default(), counter: counter.clone() })
    }

    pub(super) fn lose(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
        self.counter.increment(lines);
    }

    pub(super) fn fail(&self, lines: u64, fault: &std::io::Error) {
        *locked(&self.fault) = Some(fault.to_string());
        self.lose(lines);
    }

    pub(super) fn write(&self) {
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    /// Lines that were lost so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Batches that were written so far.
    pub(super) fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// What the system said last; `None`: it takes its time.
    pub(super) fn take_fault(&self) -> Option<String> {
        locked(&self.fault).take()
    }
}

/// Wakes the writer.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Rung {
    wake: Wake,
    /// The file to go on with.
    next: Option<File>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Wake {
    #[default]
    Sleep,
    Write,
    End,
}

impl Bell {
    fn ring(&self) {
        let mut rung = locked(&self.rung);
        if rung.wake == Wake::Sleep {
            rung.wake = Wake::Write;
            self.changed.notify_one();
        }
    }

    /// Has the writer go on with another file.
    pub(super) fn turn_to(&self, file: File) {
        locked(&self.rung).next = Some(file);
        self.ring();
    }

    pub(super) fn end(&self) {
        locked(&self.rung).wake = Wake::End;
        self.changed.notify_one();
    }

    /// Waits for work, then lets more of it gather.
    pub(super) fn wait(&self) -> (Wake, Option<File>) {
        let rung = locked(&self.rung);
        let waited = self.changed.wait_while(rung, |rung| rung.wake == Wake::Sleep);
        let rung = waited.unwrap_or_else(PoisonError::into_inner);
        let gathered = self.changed.wait_timeout_while(rung, GATHER, |rung| rung.wake != Wake::End);
        let mut rung = gathered.unwrap_or_else(PoisonError::into_inner).0;
        let wake = rung.wake;
        if wake == Wake::Write {
            rung.wake = Wake::Sleep;
        }
        (wake, rung.next.take())
    }
}

/// A panic elsewhere leaves whole lines behind, so a poisoned lock is as good as any.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::observe::Metrics;

    /// G19: a writer that is stuck costs lines, which are counted, never memory or time.
    #[test]
    fn a_full_ring_drops_and_counts() {
        let metrics = Metrics::new();
        let fate = Fate::new(&metrics.counter("dropped", "lost lines", &[]));
        let ring = Ring::new(&Arc::default(), &fate);
        let line = vec![b'x'; CAPACITY / 4];
        (0..7).for_each(|_| ring.push(&line));
        assert_eq!(locked(&ring.lines).len(), CAPACITY);
        assert!(metrics.render().contains("dropped 3"), "{}", metrics.render());
        assert_eq!(fate.lost(), 3);
    }
}
