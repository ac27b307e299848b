//! The thread that writes the log, and what it does when it cannot. Not for telling operators:
//! `trouble` does. Started by `lib`, once per instance.
//!
//! Invariant: a line is written whole or not at all, and nobody but its thread waits for a write.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use topology::gateway::AccessLog;

use super::ring::{Bell, Fate, GATHER, Ring, Wake};

/// The thread that writes, and the rings it drains.
#[derive(Debug)]
pub struct Writer {
    rings: Vec<Arc<Ring>>,
    bell: Arc<Bell>,
    path: Option<PathBuf>,
    thread: Option<JoinHandle<()>>,
    /// Hears of the thread's end.
    alive: Receiver<()>,
}

impl Writer {
    /// Opens the log and starts the thread; `None` where no log is wanted.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or the thread not started.
    pub fn start(log: &AccessLog, workers: usize, fate: &Arc<Fate>) -> io::Result<Option<Self>> {
        match log {
            AccessLog::Off => Ok(None),
            // Not through std's buffer, which hides how much was written.
            AccessLog::Stdout => {
                let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
                Self::over(Box::new(out), workers, fate).map(Some)
            }
            AccessLog::File(path) => {
                let out = open(&path.value)?;
                let mut writer = Self::over(Box::new(out), workers, fate)?;
                writer.path = Some(path.value.clone());
                Ok(Some(writer))
            }
        }
    }

    /// Over any sink of bytes.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn over(out: Box<dyn Write + Send>, workers: usize, fate: &Arc<Fate>) -> io::Result<Self> {
        let bell = Arc::new(Bell::default());
        let rings: Vec<_> = (0..workers).map(|_| Arc::new(Ring::new(&bell, fate))).collect();
        let mut pen = Pen { out, torn: Vec::new(), fate: Arc::clone(fate) };
        let (to_drain, to_hear) = (rings.clone(), Arc::clone(&bell));
        let (ended, alive) = channel();
        let run = move || {
            let _dropped_at_the_end = ended;
            let mut batch = Vec::new();
            loop {
                let (wake, next) = to_hear.wait();
                for ring in &to_drain {
                    batch.clear();
                    ring.take(&mut batch);
                    pen.write(&batch);
                }
                if let Some(file) = next {
                    pen.turn_to(Box::new(file));
                }
                if wake == Wake::End {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(run)?;
        Ok(Self { rings, bell, path: None, thread: Some(thread), alive })
    }

    /// The ring of a worker.
    pub fn ring(&self, worker: usize) -> Option<Arc<Ring>> {
        self.rings.get(worker).cloned()
    }

    /// For opening the file anew; `None` where the log is no file.
    pub fn reopener(&self) -> Option<Reopener> {
        Some(Reopener { path: self.path.clone()?, bell: Arc::clone(&self.bell) })
    }
}

impl Drop for Writer {
    /// Writes what is left, then ends the thread; one that is stuck is left to the process's end.
    fn drop(&mut self) {
        self.bell.end();
        let stuck = self.alive.recv_timeout(LAST_WORDS) == Err(RecvTimeoutError::Timeout);
        if let Some(thread) = self.thread.take().filter(|_| !stuck) {
            // A panic of it has lost lines, nothing else.
            let _lost = thread.join();
        }
    }
}

/// How long an instance that ends waits for its log.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Opens the log's file anew, after somebody has moved it away. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reopener {
    path: PathBuf,
    bell: Arc<Bell>,
}

impl Reopener {
    /// From soon on lines go to the file that has the path now, which is made if there is none. Those
    /// that were taken before go to the one that had it.
    ///
    /// # Errors
    /// It cannot be opened; the former file stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        self.bell.turn_to(open(&self.path)?);
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// For appending. A named pipe without a reader is an error: opening it would wait for one.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = File::options().create(true).append(true).custom_flags(flags).open(path)?;
    // Writing may wait: the thread has nothing else to do.
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

/// Writes whole lines.
struct Pen {
    out: Box<dyn Write + Send>,
    /// The rest of a line whose beginning was written.
    torn: Vec<u8>,
    fate: Arc<Fate>,
}

impl Pen {
    fn write(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let mut torn = std::mem::take(&mut self.torn);
        if let Err((written, fault)) = put(&mut *self.out, &torn) {
            torn.drain(..written);
            self.torn = torn;
            return self.fate.fail(count(lines), &fault);
        }
        match put(&mut *self.out, lines) {
            Ok(()) => self.fate.write(),
            Err((written, fault)) => {
                let (done, left) = lines.split_at(written);
                let mut lost = left;
                if !done.is_empty() && !done.ends_with(b"\n") {
                    let end = memchr::memchr(b'\n', left).map_or(left.len(), |at| at + 1);
                    let (rest, after) = left.split_at(end);
                    self.torn = rest.to_vec();
                    lost = after;
                }
                self.fate.fail(count(lost), &fault);
            }
        }
    }

    /// Goes on elsewhere. A line that was begun is finished where it was begun, or lost.
    fn turn_to(&mut self, out: Box<dyn Write + Send>) {
        let torn = std::mem::take(&mut self.torn);
        if let Err((_, fault)) = put(&mut *self.out, &torn) {
            self.fate.fail(1, &fault);
        }
        self.out = out;
    }
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// Writes all of it, or says how much was written before the fault.
fn put(out: &mut dyn Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while let Some(left) = bytes.get(written..).filter(|left| !left.is_empty()) {
        match out.write(left) {
            Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
            // Whoever shares standard output with us has made it so.
            Err(fault) if fault.kind() == ErrorKind::WouldBlock => {
                std::thread::park_timeout(GATHER);
            }
            Err(fault) => return Err((written, fault)),
        }
    }
    out.flush().map_err(|fault| (written, fault))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::Sender;

    use common::observe::Metrics;
    use proptest::prelude::*;

    use super::*;
    use crate::access_log::ring::{CAPACITY, locked};

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

    fn fate() -> Arc<Fate> {
        Fate::new(&Metrics::new().counter("dropped", "lost lines", &[]))
    }

    /// G19: every line of every worker is written, also those that come last.
    #[test]
    fn the_writer_drains_all_rings_before_it_ends() {
        let out = Shared::default();
        let writer = Writer::over(Box::new(out.clone()), 2, &fate()).expect("a thread");
        for worker in 0..2 {
            let ring = writer.ring(worker).expect("a ring");
            (0..100).for_each(|_| ring.push(b"line\n"));
        }
        drop(writer);
        assert_eq!(locked(&out.0).len(), 2 * 100 * 5);
    }

    /// A disk with so much room at each try, then none.
    struct Disk {
        out: Shared,
        room: Vec<usize>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.room.last_mut() {
                None => self.out.write(bytes),
                Some(0) => {
                    self.room.pop();
                    Err(ErrorKind::StorageFull.into())
                }
                Some(room) => {
                    let taken = bytes.len().min(*room);
                    *room -= taken;
                    self.out.write(bytes.get(..taken).unwrap_or_default())
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        /// G19: wherever a disk is full, what stands in the log is whole lines in order, and those
        /// that are missing were counted.
        #[test]
        fn a_full_disk_tears_no_line(
            room in prop::collection::vec(0_usize..60, 0..6),
            sizes in prop::collection::vec(prop::collection::vec(1_usize..20, 1..5), 1..20),
        ) {
            let out = Shared::default();
            let disk = Disk { out: out.clone(), room };
            let fate = fate();
            let mut pen = Pen { out: Box::new(disk), torn: Vec::new(), fate: Arc::clone(&fate) };
            let mut sent = Vec::new();
            for batch in &sizes {
                let lines: Vec<String> = (sent.len()..).zip(batch).map(|(n, size)| format!("{n}:{}\n", "x".repeat(*size))).collect();
                pen.write(lines.concat().as_bytes());
                sent.extend(lines);
            }
            // Whatever is left of a line is written when there is room again.
            for _ in 0..100 {
                pen.write(b"last\n");
            }
            let text = String::from_utf8(locked(&out.0).clone()).expect("text");
            prop_assert!(text.ends_with("last\n"));
            let written: Vec<&str> = text.split_inclusive('\n').collect();
            let mut expected = sent.iter().map(String::as_str).chain(["last\n"; 100]);
            for line in &written {
                prop_assert!(expected.any(|known| known == *line), "{line} is torn or out of order");
            }
            prop_assert_eq!(written.len() as u64 + fate.lost(), sent.len() as u64 + 100);
        }
    }

    /// Never returns from a write until it is let go.
    struct Stuck(Receiver<()>, Sender<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _told = self.1.send(());
            // An error: nobody holds it any more.
            let _let_go = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// G19: while a write does not come back, lines are taken up to a bound, then counted; the
    /// instance's end does not wait for it for ever.
    #[test]
    fn a_stuck_write_holds_nobody_up() {
        let (hold, held) = channel();
        let (told, stuck) = channel();
        let fate = fate();
        let writer = Writer::over(Box::new(Stuck(held, told)), 1, &fate).expect("a thread");
        let ring = writer.ring(0).expect("a ring");
        ring.push(b"first\n");
        stuck.recv().expect("it writes");
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        (0..CAPACITY / 1024 + 7).for_each(|_| ring.push(&line));
        assert_eq!(fate.lost(), 7);
        drop(writer);
        drop(hold);
    }

    /// O3: a file that was moved away gets what was taken before, a new one the rest; one that cannot
    /// be opened changes nothing.
    #[test]
    fn a_moved_file_is_opened_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let path = topology::At { value: at("log"), place: topology::Place::default() };
        let writer = Writer::start(&AccessLog::File(path), 1, &fate()).expect("opened");
        let writer = writer.expect("a log");
        let (ring, reopener) =
            (writer.ring(0).expect("a ring"), writer.reopener().expect("a file"));
        ring.push(b"one\n");
        std::fs::rename(at("log"), at("log.1")).expect("moved");
        std::fs::create_dir(at("log")).expect("in the way");
        assert!(reopener.reopen().is_err());
        ring.push(b"two\n");
        std::fs::remove_dir(at("log")).expect("gone");
        reopener.reopen().expect("opened");
        drop(writer);
        assert_eq!(std::fs::read_to_string(at("log.1")).expect("there"), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(at("log")).expect("there"), "");
    }
}
