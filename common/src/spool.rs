//! Files of bounded number and size, filled by one thread from a bounded queue: what a tier records
//! of its traffic. Not for logs that operators read. Used by the gateway and by l4-nlb.
//!
//! Invariant: nobody but its own thread waits for a write; what does not fit is dropped and counted.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::Counter;

/// Where pieces go, and how much room they get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// The file that is written; when it is full it becomes `PATH.1`, that one `PATH.2`, and so on.
    pub path: PathBuf,
    /// Bytes of a file.
    pub size: u64,
    /// Files that are kept, the one that is written among them.
    pub files: usize,
}

/// A spool; dropping it writes what is left.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    room: Room,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    bell: Condvar,
    ended: AtomicBool,
    lost: Counter,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    pieces: u64,
}

/// Bytes that wait for the thread.
const CAPACITY: usize = 4 << 20;
/// Pieces gather for so long before they are written.
const GATHER: Duration = Duration::from_millis(20);

impl Spool {
    /// Starts the thread. `head` stands at the beginning of every file; `lost` counts what was
    /// dropped, be it that the thread was behind or that the disk refused. Files are opened with
    /// the first piece, and again after a fault.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(room: Room, head: Vec<u8>, lost: Counter) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            bell: Condvar::new(),
            ended: AtomicBool::new(false),
            lost,
        });
        let mut reel = Reel { room: room.clone(), head, file: None };
        let own = Arc::clone(&shared);
        let run = move || own.run(&mut reel);
        let thread = std::thread::Builder::new().name("spool".to_owned()).spawn(run)?;
        Ok(Self { shared, room, thread: Some(thread) })
    }

    /// What it was started with.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Takes a piece, which is written whole or not at all.
    pub fn push(&self, piece: &[u8]) {
        let mut queue = self.shared.queue();
        if queue.bytes.len() + piece.len() > CAPACITY {
            drop(queue);
            return self.shared.lost.increment(1);
        }
        let first = queue.bytes.is_empty();
        queue.bytes.extend_from_slice(piece);
        queue.pieces += 1;
        drop(queue);
        if first {
            self.shared.bell.notify_one();
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        {
            let _queue = self.shared.queue();
            self.shared.ended.store(true, Ordering::Relaxed);
        }
        self.shared.bell.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of it has lost pieces, nothing else.
            let _lost = thread.join();
        }
    }
}

impl Shared {
    /// A panic elsewhere leaves whole pieces behind.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, reel: &mut Reel) {
        let mut batch = Queue::default();
        loop {
            let ended = self.take(&mut batch);
            if let Err(_fault) = reel.write(&batch.bytes) {
                // Opened anew with the next batch: the disk may have room again.
                reel.file = None;
                self.lost.increment(batch.pieces);
            }
            batch.bytes.clear();
            batch.pieces = 0;
            if ended {
                return;
            }
            self.gather();
        }
    }

    /// Lets more pieces come together, unless this is the end.
    fn gather(&self) {
        let still = |_: &mut Queue| !self.ended.load(Ordering::Relaxed);
        drop(self.bell.wait_timeout_while(self.queue(), GATHER, still));
    }

    /// Waits for pieces; true at the end, when nothing more comes.
    fn take(&self, batch: &mut Queue) -> bool {
        let ended = || self.ended.load(Ordering::Relaxed);
        let queue = self.queue();
        let waited = self.bell.wait_while(queue, |queue| queue.bytes.is_empty() && !ended());
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *queue, batch);
        ended()
    }
}

/// The files.
struct Reel {
    room: Room,
    head: Vec<u8>,
    /// The one that is written, and how long it is.
    file: Option<(File, u64)>,
}

impl Reel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let length = bytes.len() as u64;
        let full = |(_, done): &(File, u64)| *done + length > self.room.size;
        if self.file.as_ref().is_none_or(full) {
            self.turn()?;
        }
        let Some((file, done)) = &mut self.file else { return Ok(()) };
        file.write_all(bytes)?;
        *done += length;
        Ok(())
    }

    /// Begins a new file; the oldest goes.
    fn turn(&mut self) -> io::Result<()> {
        self.file = None;
        let last = self.room.files.max(1) - 1;
        if last > 0 {
            for number in (0..last).rev() {
                let from = numbered(&self.room.path, number);
                if from.exists() {
                    std::fs::rename(&from, numbered(&self.room.path, number + 1))?;
                }
            }
        }
        if let Some(folder) = self.room.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.create(true).truncate(true).write(true).open(&self.room.path)?;
        // The mode above is that of a new file; one that was there, empty now, may be open to others.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        file.write_all(&self.head)?;
        self.file = Some((file, self.head.len() as u64));
        Ok(())
    }
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Metrics;

    fn lost(metrics: &Metrics) -> Counter {
        metrics.counter("lost", "lost pieces", &[])
    }

    fn room(folder: &Path, size: u64, files: usize) -> Room {
        Room { path: folder.join("deep/tape"), size, files }
    }

    /// R4: files are bounded in size and number, each begins with the head, and nothing is torn.
    #[test]
    fn files_are_bounded_and_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let metrics = Metrics::new();
        let mut reel =
            Reel { room: room(folder.path(), 100, 3), head: b"head\n".to_vec(), file: None };
        for i in 0..50 {
            reel.write(format!("piece {i:02}\n").as_bytes()).expect("written");
        }
        let mut names: Vec<_> = std::fs::read_dir(folder.path().join("deep"))
            .expect("there")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        for name in &names {
            let text = std::fs::read_to_string(name).expect("text");
            assert!(text.len() <= 100 && text.starts_with("head\npiece") && text.ends_with('\n'));
        }
        let newest = std::fs::read_to_string(&names[0]).expect("text");
        assert!(newest.ends_with("piece 49\n"), "{newest}");
        assert!(!metrics.render().contains("lost 1"));
    }

    /// R4: what is recorded is its owner's alone, also in a file that was there before.
    #[test]
    fn a_file_that_was_there_is_closed_to_others() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let own = room(folder.path(), 100, 1);
        std::fs::create_dir_all(own.path.parent().expect("in a folder")).expect("made");
        std::fs::write(&own.path, "old").expect("written");
        std::fs::set_permissions(&own.path, PermissionsExt::from_mode(0o644)).expect("opened");
        let mut reel = Reel { room: own.clone(), head: Vec::new(), file: None };
        reel.write(b"new").expect("written");
        let mode = std::fs::metadata(&own.path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    /// R4: what is pushed is on the disk when the spool is gone.
    #[test]
    fn nothing_is_left_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let metrics = Metrics::new();
        let own = room(folder.path(), 1 << 20, 1);
        let spool = Spool::start(own.clone(), Vec::new(), lost(&metrics)).expect("a thread");
        (0..1000).for_each(|i| spool.push(format!("{i}\n").as_bytes()));
        drop(spool);
        let text = std::fs::read_to_string(own.path).expect("text");
        assert_eq!(text.lines().count(), 1000);
    }

    /// R4: a disk that refuses costs pieces, which are counted, and nobody's time.
    #[test]
    fn a_refusing_disk_is_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("deep"), "in the way").expect("written");
        let metrics = Metrics::new();
        let own = room(folder.path(), 1 << 20, 1);
        let spool = Spool::start(own, Vec::new(), lost(&metrics)).expect("a thread");
        (0..3).for_each(|_| spool.push(b"x"));
        spool.push(&vec![0; CAPACITY + 1]);
        drop(spool);
        assert!(metrics.render().contains("lost 4"), "{}", metrics.render());
    }
}
