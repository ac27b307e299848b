//! Moves the bytes of large flows from socket to socket through a pipe, without copying them into
//! this process (splice(2)). Not for small ones: two calls of it cost more than a copy of a few
//! kilobytes. Called by `relay`.
//!
//! Invariant: a pipe that goes back to its pool is empty; one with bytes in it is closed instead, so
//! that no flow ever gets another's.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::relay::{CHUNK, Fault};

/// The pipes of one worker. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Pipes(Rc<Pool>);

#[derive(Debug, Default)]
struct Pool {
    idle: RefCell<Vec<(OwnedFd, OwnedFd)>>,
    /// In the pool and out of it.
    open: Cell<usize>,
}

impl Pipes {
    /// An empty pipe; `None` when there are enough, or no descriptor is left: then copy.
    pub(super) fn take(&self) -> Option<Pipe> {
        let ends = match self.0.idle.borrow_mut().pop() {
            Some(ends) => ends,
            None if self.0.open.get() >= MOST => return None,
            None => {
                let ends = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
                self.0.open.set(self.0.open.get() + 1);
                ends
            }
        };
        Some(Pipe { ends: Some(ends), held: 0, pool: self.clone() })
    }
}

/// A pipe that is one flow's; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Reading end, writing end; `None` only while it is dropped.
    ends: Option<(OwnedFd, OwnedFd)>,
    held: usize,
    pool: Pipes,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let pool = &self.pool.0;
        match self.ends.take() {
            Some(ends) if self.held == 0 && pool.idle.borrow().len() < KEPT => {
                pool.idle.borrow_mut().push(ends);
            }
            _ => pool.open.set(pool.open.get().saturating_sub(1)),
        }
    }
}

impl Pipe {
    /// Bytes that wait in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Fills it from the sender; 0: the sender has finished. Call it empty, or it waits for ever.
    pub(super) fn poll_in(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
    ) -> Poll<io::Result<usize>> {
        let Some((_, writer)) = &self.ends else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || step(from, writer, CHUNK)) {
                Ok(came) => {
                    self.held += came;
                    return Poll::Ready(Ok(came));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Empties it into the receiver as far as that takes bytes; ready when nothing is left in it.
    pub(super) fn poll_out(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
    ) -> Poll<Result<(), Fault>> {
        let Some((reader, _)) = &self.ends else { return Poll::Ready(Ok(())) };
        while self.held > 0 {
            ready!(to.poll_write_ready(cx)).map_err(Fault::To)?;
            match to.try_io(Interest::WRITABLE, || step(reader, to, self.held)) {
                Ok(0) => return Poll::Ready(Err(Fault::To(io::ErrorKind::WriteZero.into()))),
                Ok(taken) => self.held = self.held.saturating_sub(taken),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(Fault::To(error))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn step(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    Ok(splice(from, None, to, None, most, flags)?)
}

/// Pipes of one worker at a time, two descriptors each.
const MOST: usize = 128;
/// Of them, so many are kept when nobody needs them.
const KEPT: usize = 32;

#[cfg(test)]
mod tests;
