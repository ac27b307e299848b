//! The bounded buffer between a worker and the one thread that writes the log. Not for formatting.
//! Called by the sink (push) and by the writer's thread (drain).
//!
//! Invariant: a ring never holds more than its capacity, and a push never waits for a write.

use std::fs::File;
use std::io::{self, Write};

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::Counter;
use topology::gateway::AccessLog;

/// Bytes per worker: about 2000 lines, 100 ms of a busy core.
const CAPACITY: usize = 1 << 20;
/// Lines gather for so long before they are written: one system call for many.
const GATHER: Duration = Duration::from_millis(10);

/// Lines of one worker that are not written yet.
#[derive(Debug)]
pub struct Ring {
    lines: Mutex<Vec<u8>>,
    bell: Arc<Bell>,
    dropped: Counter,
}

impl Ring {
    /// Takes a line, or drops and counts it when the writer is behind.
    pub fn push(&self, line: &[u8]) {
        let mut lines = locked(&self.lines);
        if lines.len() + line.len() > CAPACITY {
            drop(lines);
            return self.dropped.increment(1);
        }
        let first = lines.is_empty();
        lines.extend_from_slice(line);
        drop(lines);
        if first {
            self.bell.ring();
        }
    }
}

/// Wakes the writer.
#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<Wake>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wake {
    #[default]
    Sleep,
    Write,
    End,
}

impl Bell {
    fn ring(&self) {
        let mut rung = locked(&self.rung);
        if *rung == Wake::Sleep {
            *rung = Wake::Write;
            self.changed.notify_one();
        }
    }

    fn end(&self) {
        *locked(&self.rung) = Wake::End;
        self.changed.notify_one();
    }

    /// Waits for work, then lets more of it gather.
    fn wait(&self) -> Wake {
        let rung = locked(&self.rung);
        let waited = self.changed.wait_while(rung, |wake| *wake == Wake::Sleep);
        let rung = waited.unwrap_or_else(PoisonError::into_inner);
        let gathered = self.changed.wait_timeout_while(rung, GATHER, |wake| *wake != Wake::End);
        let mut rung = gathered.unwrap_or_else(PoisonError::into_inner).0;
        let wake = *rung;
        if wake == Wake::Write {
            *rung = Wake::Sleep;
        }
        wake
    }
}

/// The thread that writes, and the rings it drains.
#[derive(Debug)]
pub struct Writer {
    rings: Vec<Arc<Ring>>,
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Opens the log and starts the thread; `None` where no log is wanted.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or the thread not started.
    pub fn start(log: &AccessLog, workers: usize, dropped: &Counter) -> io::Result<Option<Self>> {
        let out: Box<dyn Write + Send> = match log {
            AccessLog::Off => return Ok(None),
            AccessLog::Stdout => Box::new(io::stdout()),
            AccessLog::File(path) => {
                Box::new(File::options().create(true).append(true).open(&path.value)?)
            }
        };
        Self::over(out, workers, dropped).map(Some)
    }

    /// Over any sink of bytes.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn over(
        mut out: Box<dyn Write + Send>,
        workers: usize,
        dropped: &Counter,
    ) -> io::Result<Self> {
        let bell = Arc::new(Bell::default());
        let ring =
            || Ring { lines: Mutex::default(), bell: Arc::clone(&bell), dropped: dropped.clone() };
        let rings: Vec<_> = (0..workers).map(|_| Arc::new(ring())).collect();
        let (to_drain, to_hear, lost) = (rings.clone(), Arc::clone(&bell), dropped.clone());
        let thread =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
                let mut batch = Vec::new();
                loop {
                    let wake = to_hear.wait();
                    for ring in &to_drain {
                        drain(ring, &mut batch, &mut *out, &lost);
                    }
                    if wake == Wake::End {
                        return;
                    }
                }
            })?;
        Ok(Self { rings, bell, thread: Some(thread) })
    }

    /// The ring of a worker.
    pub fn ring(&self, worker: usize) -> Option<Arc<Ring>> {
        self.rings.get(worker).cloned()
    }
}

impl Drop for Writer {
    /// Writes what is left, then ends the thread.
    fn drop(&mut self) {
        self.bell.end();
        if let Some(thread) = self.thread.take() {
            // A panic of it has lost lines, nothing else.
            let _lost = thread.join();
        }
    }
}

fn drain(ring: &Ring, batch: &mut Vec<u8>, out: &mut dyn Write, lost: &Counter) {
    batch.clear();
    std::mem::swap(&mut *locked(&ring.lines), batch);
    if batch.is_empty() {
        return;
    }
    if out.write_all(batch).and_then(|()| out.flush()).is_err() {
        lost.increment(batch.iter().filter(|&&b| b == b'\n').count() as u64);
    }
}

/// A panic elsewhere leaves whole lines behind, so a poisoned lock is as good as any.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::observe::Metrics;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            locked(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// G19: every line of every worker is written, also those that come last.
    #[test]
    fn the_writer_drains_all_rings_before_it_ends() {
        let out = Shared::default();
        let dropped = Metrics::new().counter("dropped", "lost lines", &[]);
        let writer = Writer::over(Box::new(out.clone()), 2, &dropped).expect("a thread");
        for worker in 0..2 {
            let ring = writer.ring(worker).expect("a ring");
            (0..100).for_each(|_| ring.push(b"line\n"));
        }
        drop(writer);
        assert_eq!(locked(&out.0).len(), 2 * 100 * 5);
    }

    /// G19: a writer that is stuck costs lines, which are counted, never memory or time.
    #[test]
    fn a_full_ring_drops_and_counts() {
        let metrics = Metrics::new();
        let dropped = metrics.counter("dropped", "lost lines", &[]);
        let ring = Ring { lines: Mutex::default(), bell: Arc::default(), dropped };
        let line = vec![b'x'; CAPACITY / 4];
        (0..7).for_each(|_| ring.push(&line));
        assert_eq!(locked(&ring.lines).len(), CAPACITY);
        assert!(metrics.render().contains("dropped 3"), "{}", metrics.render());
    }
}
