//! The old process's side: starts the new program and gives it everything. Not for stopping the data
//! path: the tier does that between the two halves. Blocking: on a thread of its own.
//!
//! Invariant: what is given stays here too until the new process says that it serves.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{Fault, Language, Peer, START, STEP, VARIABLE, Word, Words};

/// A new process that has heard nothing yet.
#[derive(Debug)]
pub struct Successor<L> {
    peer: Peer,
    process: u32,
    /// Where this process has started it.
    child: Option<Child>,
    language: PhantomData<L>,
}

/// A new process that waits for what only one may have.
#[derive(Debug)]
pub struct Armed<L>(Successor<L>);

/// A new process that serves.
#[derive(Debug)]
pub struct Heir {
    /// Its number.
    pub process: u32,
    /// The way to it, for what a tier has to say later.
    pub peer: Peer,
}

/// Starts the program that this process was started as, with the same arguments and environment.
///
/// # Errors
/// When it cannot be started.
pub fn start<L: Language>() -> Result<Successor<L>, Fault> {
    let (own, its) = UnixStream::pair()?;
    let mut arguments = std::env::args_os();
    let called = arguments.next().map(PathBuf::from);
    // A program that was found by PATH is found where it runs from, also after it was replaced.
    let program = called.filter(|path| path.components().count() > 1).map_or_else(image, Ok)?;
    let child = Command::new(program)
        .args(arguments)
        .env(VARIABLE, "stdin")
        .stdin(Stdio::from(OwnedFd::from(its)))
        .spawn()
        .map_err(Fault::Spawn)?;
    let (peer, process) = (Peer::new(own)?, child.id());
    Ok(Successor { peer, process, child: Some(child), language: PhantomData })
}

/// A process that somebody else has started, at the other end of a socket.
///
/// # Errors
/// When it is gone already.
pub fn meet<L: Language>(stream: UnixStream, process: u32) -> Result<Successor<L>, Fault> {
    Ok(Successor { peer: Peer::new(stream)?, process, child: None, language: PhantomData })
}

/// The path of the running program, whether or not another file has taken its place.
fn image() -> Result<PathBuf, Fault> {
    let path = std::env::current_exe().map_err(Fault::Spawn)?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

impl<L: Language> Successor<L> {
    /// Offers what both may have, and waits until the new process has read its file and bound what is
    /// new. When that fails the new process is ended.
    ///
    /// # Errors
    /// When it is of another version, broken or too slow.
    pub fn offer<'a>(
        self,
        offers: impl IntoIterator<Item = (L::Offer, Vec<BorrowedFd<'a>>)>,
    ) -> Result<Armed<L>, Fault> {
        let peer = &self.peer;
        let offered = || {
            peer.say(&Words::<L>::Hello { version: L::VERSION }, &[])?;
            for (offer, with) in offers {
                peer.say(&Words::<L>::Offer(offer), &with)?;
            }
            peer.say(&Words::<L>::Offered, &[])?;
            peer.wait(START, |word: &Words<L>| matches!(word, Word::Armed))
        };
        match offered() {
            Ok(()) => Ok(Armed(self)),
            Err(fault) => Err(self.give_up(fault)),
        }
    }

    fn give_up(self, fault: Fault) -> Fault {
        self.end();
        fault
    }

    fn end(self) {
        // It must not begin to read what this process goes on with. One that somebody else has
        // started ends by itself, when the way to this one ends.
        if let Some(mut child) = self.child {
            let _gone = child.kill();
            let _reaped: io::Result<_> = child.wait();
        }
    }
}

impl<L: Language> Armed<L> {
    /// Gives nothing: the new process ends, and this one goes on.
    pub fn dismiss(self) {
        self.0.end();
    }

    /// Gives what only one may have, and waits until the new process serves. When that fails the new
    /// process is ended, or ends by itself when it says that it serves.
    ///
    /// # Errors
    /// When it is broken or too slow.
    pub fn give<'a>(
        self,
        gifts: impl IntoIterator<Item = (L::Gift, Vec<BorrowedFd<'a>>)>,
    ) -> Result<Heir, Fault> {
        let peer = &self.0.peer;
        let given = || {
            for (gift, with) in gifts {
                peer.say(&Words::<L>::Gift(gift), &with)?;
            }
            peer.say(&Words::<L>::Given, &[])?;
            peer.wait(STEP, |word: &Words<L>| matches!(word, Word::Serving))
        };
        match given() {
            Ok(()) => Ok(Heir { process: self.0.process, peer: self.0.peer }),
            Err(fault) => Err(self.0.give_up(fault)),
        }
    }
}
