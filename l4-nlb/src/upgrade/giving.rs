//! The old process's side: starts the new program and gives it everything. Not for stopping the data
//! path: `control` does that between the two halves. Blocking: on a thread of its own.
//!
//! Invariant: what is given stays here too until the new process says that it serves.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::endpoints::KnownService;
use super::{Fault, Offer, Peer, START, STEP, VARIABLE, VERSION, Word};
use crate::crew::Socket;
use crate::listener::Place;
use crate::udp::handover::Handed;

/// A listener on its way.
#[derive(Debug)]
pub(crate) struct Gift {
    pub(crate) place: Place,
    /// Duplicates.
    pub(crate) sockets: Vec<Socket>,
}

/// A new process that waits for the flows.
#[derive(Debug)]
pub(crate) struct Armed {
    peer: Peer,
    child: Child,
}

/// Starts the program that this process was started as, with the same arguments and environment.
pub(crate) fn start() -> Result<(UnixStream, Child), Fault> {
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
    Ok((own, child))
}

/// The path of the running program, whether or not another file has taken its place.
fn image() -> Result<PathBuf, Fault> {
    let path = std::env::current_exe().map_err(Fault::Spawn)?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

/// Offers the listeners, and waits until the new process has read its file and bound what is new.
/// When that fails the new process is ended.
pub(crate) fn offer(
    (stream, child): (UnixStream, Child),
    gifts: &[Gift],
    admin: Option<&OwnedFd>,
    endpoints: Vec<KnownService>,
) -> Result<Armed, Fault> {
    let armed = Armed { peer: Peer::new(stream)?, child };
    let peer = &armed.peer;
    let offered = || {
        peer.say(&Word::Hello { version: VERSION }, &[])?;
        for Gift { place, sockets } in gifts {
            let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
            peer.say(&Word::Listener(Offer::from(place)), &sockets)?;
        }
        if let Some(admin) = admin {
            peer.say(&Word::Admin, &[admin.as_fd()])?;
        }
        peer.say(&Word::Endpoints(endpoints), &[])?;
        peer.say(&Word::Offered, &[])?;
        peer.wait(START, |word| matches!(word, Word::Armed))
    };
    match offered() {
        Ok(()) => Ok(armed),
        Err(fault) => Err(armed.give_up(fault)),
    }
}

impl Armed {
    /// Gives the flows of each listener's shards, and waits until the new process serves. When that
    /// fails the new process is ended.
    pub(crate) fn give(self, shards: &[Vec<Handed>]) -> Result<u32, Fault> {
        let given = || {
            for (listener, shards) in shards.iter().enumerate() {
                for (shard, handed) in shards.iter().enumerate() {
                    let sockets: Vec<_> = handed.sockets.iter().map(AsFd::as_fd).collect();
                    let flows = handed.flows.clone();
                    self.peer.say(&Word::Shard { listener, shard, flows }, &sockets)?;
                }
            }
            self.peer.say(&Word::Given, &[])?;
            self.peer.wait(STEP, |word| matches!(word, Word::Serving))
        };
        match given() {
            Ok(()) => Ok(self.child.id()),
            Err(fault) => Err(self.give_up(fault)),
        }
    }

    fn give_up(mut self, fault: Fault) -> Fault {
        // It must not begin to read what this process goes on with.
        let _gone = self.child.kill();
        let _reaped: io::Result<_> = self.child.wait();
        fault
    }
}
