//! The newest timelines that were ever seen, kept over reloads and, in a folder, over restarts: what fences an
//! old primary off from a process that starts while nobody else answers. Not for who the primary is: that is
//! the family. Read at start, raised by the watch before a family goes by what it was told.
//!
//! Invariant: a mark only rises. It counts for its own cluster alone, told by PostgreSQL's system identifier:
//! a database that was made anew begins anew.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Marks of one instance.
#[derive(Debug, Default)]
pub struct Marks {
    kept: Mutex<Kept>,
    /// Held while the file is written; nobody waits for a disk to look at a mark.
    turn: Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    all: All,
    file: Option<PathBuf>,
    /// The file does not have all of them.
    behind: bool,
}

/// By database and cluster.
type All = BTreeMap<(String, i64), u32>;

/// A timeline of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// PostgreSQL's system identifier.
    pub system: i64,
    /// Counts promotions.
    pub timeline: u32,
}

/// Why marks cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum MarksError {
    /// The system does not let us.
    #[error("cannot keep timelines in {}: {source}", .path.display())]
    Io {
        /// The file or its folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was written by somebody else.
    #[error(
        "{}:{line}: this is no `TIMELINE SYSTEM DATABASE`; mend the line, or remove it to forget what was seen",
        .path.display()
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line.
        line: usize,
    },
    /// There are more than anybody has databases.
    #[error("{}: more than {MOST} timelines; remove lines of what is gone", .path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
    },
}

/// Marks of one instance.
const MOST: usize = 1024;
/// A line has less than a hundred bytes.
const MOST_BYTES: u64 = 256 << 10;

const HEAD: &str = "\
# The newest timeline that pgpool has seen of each cluster: TIMELINE SYSTEM DATABASE.
# No server on an older one gets writes. Remove a line to let one, and start pgpool again.
";

impl Marks {
    /// Keeps them in a folder from now on, and takes over what is there. Blocking.
    ///
    /// # Errors
    /// The folder cannot be read or written, or what is there is nothing that we wrote.
    pub fn keep(&self, folder: &Path, instance: &str) -> Result<(), MarksError> {
        lock(&self.kept).file = Some(folder.join(format!("{instance}.timelines")));
        // Also where there is nothing new: who cannot write it shall not start.
        self.save()
    }

    /// The newest timeline that was seen of a cluster; 0: none.
    pub fn of(&self, database: &str, system: i64) -> u32 {
        let kept = lock(&self.kept);
        // Few: a key of borrowed parts is not worth its code.
        let of = kept.all.iter().find(|((name, other), _)| name == database && *other == system);
        of.map_or(0, |(_, timeline)| *timeline)
    }

    /// Whether the file lacks something that it should have.
    pub fn is_behind(&self) -> bool {
        lock(&self.kept).behind
    }

    /// Raises a mark, in the file as well. Blocking where there is a file.
    ///
    /// # Errors
    /// The file does not have it; it counts in this process all the same.
    pub fn raise(&self, database: &str, marks: &[Mark]) -> Result<(), MarksError> {
        for mark in marks {
            raise(&mut lock(&self.kept).all, (database.to_owned(), mark.system), mark.timeline);
        }
        self.save()
    }

    fn save(&self) -> Result<(), MarksError> {
        let _turn = lock(&self.turn);
        let Kept { mut all, file, .. } = lock(&self.kept).clone();
        let saved = file.map_or(Ok(()), |file| save(&file, &mut all));
        let mut kept = lock(&self.kept);
        kept.behind = saved.is_err();
        for (key, timeline) in all {
            raise(&mut kept.all, key, timeline);
        }
        saved
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One more than there may be is let in, so that it is told.
fn raise(all: &mut All, key: (String, i64), timeline: u32) {
    if all.len() <= MOST || all.contains_key(&key) {
        let known = all.entry(key).or_default();
        *known = timeline.max(*known);
    }
}

/// Writes them and takes over what is higher there: a process that this one takes over from may have seen more.
/// Whole or not at all, and on disk when it returns.
fn save(path: &Path, all: &mut All) -> Result<(), MarksError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| MarksError::Io { path, source }
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    let folder_at = File::open(folder).map_err(io(folder))?;
    // Until it is closed.
    folder_at.lock().map_err(io(folder))?;
    for (key, timeline) in read(path)? {
        raise(all, key, timeline);
    }
    if all.len() > MOST {
        return Err(MarksError::TooMany { path: path.to_owned() });
    }
    let mut text = HEAD.to_owned();
    for ((database, system), timeline) in &*all {
        text.push_str(&format!("{timeline} {system} {database}\n"));
    }
    let next = path.with_extension("timelines.new");
    let write = || {
        let mut file = File::create(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, path)?;
        folder_at.sync_all()
    };
    write().map_err(io(path))
}

fn read(path: &Path) -> Result<All, MarksError> {
    let fault = |source| MarksError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(none) if none.kind() == io::ErrorKind::NotFound => return Ok(All::new()),
        Err(source) => return Err(fault(source)),
    };
    let mut text = String::new();
    file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(fault)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(MarksError::TooMany { path: path.to_owned() });
    }
    let mut all = All::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let wrong = || MarksError::Line { path: path.to_owned(), line: at + 1 };
        let (key, timeline) = mark(line).ok_or_else(wrong)?;
        raise(&mut all, key, timeline);
    }
    Ok(all)
}

fn mark(line: &str) -> Option<((String, i64), u32)> {
    let mut parts = line.splitn(3, ' ');
    let timeline = parts.next()?.parse().ok().filter(|timeline| *timeline > 0)?;
    let system = parts.next()?.parse().ok()?;
    let database = parts.next().filter(|name| !name.is_empty())?;
    Some(((database.to_owned(), system), timeline))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(system: i64, timeline: u32) -> [Mark; 1] {
        [Mark { system, timeline }]
    }

    /// P5: what was seen is there after a restart, for its own cluster alone; it never goes down, also where
    /// two processes write, and a name may have blanks.
    #[test]
    fn marks_outlive_their_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let (old, new) = (Marks::default(), Marks::default());
        old.keep(folder.path(), "pool-1").expect("kept");
        new.keep(folder.path(), "pool-1").expect("kept");
        old.raise("my shop", &at(-7, 3)).expect("raised");
        new.raise("my shop", &at(-7, 2)).expect("raised");
        assert_eq!(new.of("my shop", -7), 3, "what the other one has seen");
        new.raise("other", &at(9, 1)).expect("raised");
        let next = Marks::default();
        next.keep(folder.path(), "pool-1").expect("kept");
        let known = [("my shop", -7), ("other", 9), ("other", -7), ("my", -7)];
        assert_eq!(known.map(|(name, system)| next.of(name, system)), [3, 1, 0, 0]);
        let elsewhere = Marks::default();
        elsewhere.keep(folder.path(), "pool-2").expect("kept");
        assert_eq!(elsewhere.of("other", 9), 0);
        let files = fs::read_dir(folder.path()).expect("listed").count();
        assert_eq!(files, 2, "nothing half written is left");
    }

    /// P5: without a folder they are kept in memory; one that cannot be written or read is told, with the
    /// line, before anything depends on it.
    #[test]
    fn what_cannot_be_kept_is_told() {
        let marks = Marks::default();
        marks.raise("shop", &at(1, 2)).expect("raised");
        assert_eq!((marks.of("shop", 1), marks.is_behind()), (2, false));
        let folder = tempfile::tempdir().expect("a folder");
        let nowhere = marks.keep(&folder.path().join("no"), "p").expect_err("no folder");
        assert!(matches!(nowhere, MarksError::Io { .. }));
        assert!(marks.is_behind());
        let path = folder.path().join("p.timelines");
        for line in ["2 1", "x 1 shop", "0 1 shop", "2 1 ", ""] {
            fs::write(&path, format!("# said\n2 1 shop\n{line}\n")).expect("written");
            let fault = Marks::default().keep(folder.path(), "p").expect_err("no mark");
            assert!(fault.to_string().contains("p.timelines:3: "), "{fault}");
        }
        fs::write(&path, vec![b'#'; 300 << 10]).expect("written");
        let fault = Marks::default().keep(folder.path(), "p").expect_err("too large");
        assert!(matches!(fault, MarksError::TooMany { .. }));
    }

    /// P5: the number of marks is bounded.
    #[test]
    fn marks_are_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let marks = Marks::default();
        marks.keep(folder.path(), "p").expect("kept");
        let all: Vec<_> = (0..=MOST).map(|n| Mark { system: n as i64, timeline: 1 }).collect();
        assert!(matches!(marks.raise("shop", &all), Err(MarksError::TooMany { .. })));
        assert!(Marks::default().keep(folder.path(), "p").is_ok(), "what was there stays");
    }
}
