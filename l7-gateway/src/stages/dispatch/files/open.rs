//! Opening files below a directory, on threads that may wait. Not for what is answered. Called by
//! `files`.
//!
//! Invariant: every path is walked by openat2(2) from the directory, below which it stays
//! (`RESOLVE_BENEATH`); no other call opens a file by name.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2};
use rustix::io::Errno;
use thiserror::Error;
use topology::gateway::{Files, Links};

use super::names::{self, Name};
use crate::coding::Coding;

/// Why there is no file to send. `halt` says which status each one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Lack {
    /// There is none of this name that may be seen.
    #[error("there is no such file")]
    Missing,
    /// The name is a directory's.
    #[error("it is a directory")]
    Folder,
    /// The system cannot open it now.
    #[error("the file cannot be read now")]
    Trouble,
}

/// A directory, and what may be found in it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    hidden: bool,
    resolve: ResolveFlags,
}

/// A file to send.
#[derive(Debug)]
pub struct Found {
    /// The file.
    pub opened: Opened,
    /// Its compressed form, if it is one.
    pub coding: Option<Coding>,
    /// All of it, if it is small.
    pub read: Option<Bytes>,
}

/// An open file in the state in which it was found.
#[derive(Debug)]
pub struct Opened {
    file: Arc<File>,
    state: State,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: u64,
}

impl Directory {
    /// As the file says.
    pub fn new(model: &Files) -> Self {
        let inside = match model.links {
            Links::Inside => ResolveFlags::BENEATH,
            Links::Anywhere => ResolveFlags::empty(),
        };
        Self {
            path: model.directory.value.clone(),
            hidden: model.hidden,
            resolve: inside | ResolveFlags::NO_MAGICLINKS,
        }
    }

    /// Whether files can be opened below it, in this way: blocking.
    ///
    /// # Errors
    /// What the system says.
    pub fn check(&self) -> io::Result<()> {
        let own = self.open()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(own, c".", flags, Mode::empty(), self.resolve)?;
        Ok(())
    }

    /// The file of this name, in the first of these forms that it has, else plain; read, if it is
    /// small and `body` is wanted.
    ///
    /// # Errors
    /// There is none.
    pub async fn find(
        self: &Arc<Self>,
        name: Name,
        codings: Vec<Coding>,
        body: bool,
    ) -> Result<Found, Lack> {
        if !self.hidden && names::hidden(&name) {
            return Err(Lack::Missing);
        }
        let own = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || own.look(&name, &codings, body));
        task.await.unwrap_or(Err(Lack::Trouble))
    }

    fn look(&self, name: &[u8], codings: &[Coding], body: bool) -> Result<Found, Lack> {
        let own = self.open().map_err(lack)?;
        for _ in 0..TRIES {
            let plain = self.regular(&own, name)?;
            let form = |coding: &Coding| {
                let name = [name, coding.extension().as_bytes()].concat();
                let opened = self.regular(&own, &name).ok()?;
                // An older one is of a file that has changed since.
                (opened.state.moment() >= plain.state.moment()).then_some((opened, Some(*coding)))
            };
            let (opened, coding) = codings.iter().find_map(form).unwrap_or((plain, None));
            if !body || opened.state.size > SMALL {
                return Ok(Found { opened, coding, read: None });
            }
            // It was written to while it was read: once more.
            let Ok(read) = opened.read(0, SMALL.min(opened.state.size)) else { continue };
            return Ok(Found { opened, coding, read: Some(read) });
        }
        Err(Lack::Trouble)
    }

    fn open(&self) -> rustix::io::Result<OwnedFd> {
        open(&self.path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    /// The regular file of this name.
    fn regular(&self, own: &OwnedFd, name: &[u8]) -> Result<Opened, Lack> {
        // Non-blocking: a pipe must not hold the thread until somebody writes to it.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let walk = || openat2(own, name, flags, Mode::empty(), self.resolve);
        // openat2(2): while something is renamed, the kernel cannot tell whether a `..` in a link
        // stays below.
        let file =
            std::iter::repeat_with(walk).take(TRIES).find(|r| !matches!(r, Err(Errno::AGAIN)));
        let file = file.unwrap_or(Err(Errno::AGAIN)).map_err(lack)?;
        let stat = fstat(&file).map_err(lack)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                Ok(Opened { file: Arc::new(file.into()), state: State::of(&stat) })
            }
            FileType::Directory => Err(Lack::Folder),
            _ => Err(Lack::Missing),
        }
    }
}

/// What cannot be seen is not there, whatever the reason: nobody learns what is inside.
fn lack(errno: Errno) -> Lack {
    const OURS: [Errno; 6] =
        [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO, Errno::AGAIN, Errno::NOSYS];
    if OURS.contains(&errno) { Lack::Trouble } else { Lack::Missing }
}

/// Times that something is tried while others change it.
const TRIES: usize = 4;

/// Files up to this size are read when they are opened.
const SMALL: u64 = 64 * 1024;

impl Opened {
    /// Bytes of it.
    pub fn size(&self) -> u64 {
        self.state.size
    }

    /// When it was last written.
    pub fn modified(&self) -> SystemTime {
        let (since, nanoseconds) = (self.state.seconds, self.state.nanoseconds);
        let whole = Duration::from_secs(since.unsigned_abs());
        match since {
            0.. => SystemTime::UNIX_EPOCH + whole + Duration::from_nanos(nanoseconds),
            _ => SystemTime::UNIX_EPOCH,
        }
    }

    /// A strong validator (RFC 9110 §8.8.3): another file, another length or a later write make
    /// another one.
    pub fn tag(&self) -> HeaderValue {
        let State { inode, size, seconds, nanoseconds } = self.state;
        let text = format!("\"{inode:x}-{size:x}-{seconds:x}.{nanoseconds:x}\"");
        HeaderValue::try_from(text).expect("invariant: hexadecimal digits are visible ASCII")
    }

    /// For reading on another thread.
    pub fn share(&self) -> Self {
        Self { file: Arc::clone(&self.file), state: self.state }
    }

    /// So many bytes from there: blocking.
    ///
    /// # Errors
    /// It is no longer as it was found: cut short, or written to.
    pub fn read(&self, from: u64, length: u64) -> io::Result<Bytes> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, from)?;
        if State::of(&fstat(&self.file)?) != self.state {
            return Err(io::Error::other("the file has changed"));
        }
        Ok(bytes.into())
    }
}

impl State {
    fn of(stat: &Stat) -> Self {
        Self {
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            seconds: stat.st_mtime,
            nanoseconds: stat.st_mtime_nsec,
        }
    }

    /// When it was last written.
    fn moment(self) -> (i64, u64) {
        (self.seconds, self.nanoseconds)
    }
}

#[cfg(test)]
mod tests;
