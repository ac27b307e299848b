//! The new process's side: takes what the old one offers before it starts, and what only one may have
//! when it is ready for that. Not for binding what the old one did not have. Blocking: before the data
//! path runs.
//!
//! Invariant: nothing is read or accepted before the old process has given everything.

use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::{Fault, Language, Peer, START, STEP, VARIABLE, Word, Words};

/// The old process.
#[derive(Debug)]
pub struct Former<L> {
    peer: Peer,
    language: PhantomData<L>,
}

/// The way to the old process, if this one was started by it. To be asked once, at the very start.
///
/// # Errors
/// When the variable is set and standard input cannot be used.
pub fn inherited<L: Language>() -> Result<Option<Former<L>>, Fault> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(None);
    }
    let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    Former::new(stream).map(Some)
}

impl<L: Language> Former<L> {
    /// At the other end of a socket.
    ///
    /// # Errors
    /// When it is no socket.
    pub fn new(stream: UnixStream) -> Result<Self, Fault> {
        Ok(Self { peer: Peer::new(stream)?, language: PhantomData })
    }

    /// Hears what it offers.
    ///
    /// # Errors
    /// When it is of another version, or does not go on.
    pub fn offers(&self, mut take: impl FnMut(L::Offer, Vec<OwnedFd>)) -> Result<(), Fault> {
        match self.hear(STEP)?.0 {
            Word::Hello { version } if version == L::VERSION => {}
            Word::Hello { version: theirs } => {
                return Err(Fault::Version { theirs, ours: L::VERSION });
            }
            word => return Err(Fault::Turn(word.to_string())),
        }
        loop {
            match self.hear(STEP)? {
                (Word::Offer(offer), with) => take(offer, with),
                (Word::Offered, _) => return Ok(()),
                (word, _) => return Err(Fault::Turn(word.to_string())),
            }
        }
    }

    /// Says that all is bound, and hears what only one may have.
    ///
    /// # Errors
    /// When it does not go on.
    pub fn gifts(&self, mut take: impl FnMut(L::Gift, Vec<OwnedFd>)) -> Result<(), Fault> {
        self.peer.say(&Words::<L>::Armed, &[])?;
        loop {
            match self.hear(START)? {
                (Word::Gift(gift), with) => take(gift, with),
                (Word::Given, _) => return Ok(()),
                (word, _) => return Err(Fault::Turn(word.to_string())),
            }
        }
    }

    /// Says that this process reads and accepts; the old one ends.
    ///
    /// # Errors
    /// The old one has given this process up, and goes on: this one must end.
    pub fn serving(&self) -> Result<(), Fault> {
        self.peer.say(&Words::<L>::Serving, &[])
    }

    /// The way to it, for what a tier has to say later.
    pub fn into_peer(self) -> Peer {
        self.peer
    }

    fn hear(&self, within: std::time::Duration) -> Result<(Words<L>, Vec<OwnedFd>), Fault> {
        self.peer.hear(Some(within))
    }
}
