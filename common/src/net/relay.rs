//! Copies bytes both ways between two streams until both are done. Not for knowing what they mean.
//! Called by l4-nlb's TCP listeners and by whatever passes an upgraded connection through.
//!
//! Invariant: at most `CHUNK` bytes per direction are held, and only while the receiver is
//! slower than the sender; an idle pair holds none.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// A stream that can be ended by RST.
pub trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// Makes the drop of the stream a reset (RFC 9293 §3.5.2) instead of a close.
    fn abort(&mut self);
}

impl Wire for TcpStream {
    fn abort(&mut self) {
        // Fails only on a socket that is gone already.
        let _gone = socket2::SockRef::from(&*self).set_linger(Some(Duration::ZERO));
    }
}

/// The worker's scratch buffer: bytes pass through it within one poll, so that thousands of idle
/// connections share one. Cheap to clone; one per worker.
#[derive(Clone, Debug)]
pub struct Scratch(Rc<RefCell<Box<[u8]>>>);

impl Default for Scratch {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(vec![0; CHUNK].into_boxed_slice())))
    }
}

/// How a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both sides finished.
    Closed,
    /// The downstream reset or failed; the upstream was reset.
    Downstream(io::Error),
    /// The upstream reset or failed; the downstream was reset.
    Upstream(io::Error),
    /// No byte moved for the idle time; both were closed.
    Idle,
}

/// Told of every chunk that was passed on.
pub trait Meter {
    /// Bytes from downstream to upstream.
    fn up(&self, bytes: u64);
    /// Bytes from upstream to downstream.
    fn down(&self, bytes: u64);
}

impl Meter for () {
    fn up(&self, _: u64) {}
    fn down(&self, _: u64) {}
}

/// Copies until both directions have ended (a FIN is passed on and the other direction goes on),
/// one side fails (the other is reset), or nothing moved for `idle`. Dropping the future leaves the
/// streams to the caller; bytes on the way are lost.
pub async fn relay<D: Wire, U: Wire>(
    downstream: &mut D,
    upstream: &mut U,
    idle: Duration,
    scratch: &Scratch,
    meter: &impl Meter,
) -> End {
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let moved = Cell::new(Instant::now());
    let copy = poll_fn(|cx| {
        let scratch = &mut scratch.0.borrow_mut();
        let first = up.poll(cx, downstream, upstream, scratch);
        let second = down.poll(cx, upstream, downstream, scratch);
        for (bytes, passed) in [(up.take(), true), (down.take(), false)] {
            if bytes > 0 {
                moved.set(Instant::now());
                if passed { meter.up(bytes) } else { meter.down(bytes) }
            }
        }
        match (first, second) {
            (Poll::Ready(Err(Fault::From(e))), _) | (_, Poll::Ready(Err(Fault::To(e)))) => {
                Poll::Ready(End::Downstream(e))
            }
            (Poll::Ready(Err(Fault::To(e))), _) | (_, Poll::Ready(Err(Fault::From(e)))) => {
                Poll::Ready(End::Upstream(e))
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Closed),
            (Poll::Pending, _) | (_, Poll::Pending) => Poll::Pending,
        }
    });
    let end = tokio::select! {
        biased;
        end = copy => end,
        () = quiet(&moved, idle) => End::Idle,
    };
    if matches!(end, End::Downstream(_) | End::Upstream(_)) {
        downstream.abort();
        upstream.abort();
    }
    end
}

/// Ends when `moved` is `idle` ago. One timer, moved on when it fires: not once per byte.
async fn quiet(moved: &Cell<Instant>, idle: Duration) {
    loop {
        let end = moved.get() + idle;
        sleep_until(end).await;
        if moved.get() + idle <= end {
            return;
        }
    }
}

/// Which stream of a direction failed.
enum Fault {
    From(io::Error),
    To(io::Error),
}

/// One direction.
#[derive(Default)]
struct Direction {
    /// Read but not yet taken by the receiver.
    held: Vec<u8>,
    sent: usize,
    /// Passed on since [`Direction::take`].
    passed: u64,
    read_all: bool,
    done: bool,
}

impl Direction {
    /// Moves what can be moved now; ready when the sender's FIN has been passed on.
    fn poll<F: Wire, T: Wire>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
        scratch: &mut [u8],
    ) -> Poll<Result<(), Fault>> {
        while !self.done {
            // Back-pressure: nothing more is read before the receiver has taken what is held.
            ready!(self.poll_held(cx, to))?;
            if self.read_all {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Fault::To)?;
                self.done = true;
                break;
            }
            let mut chunk = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut chunk)).map_err(Fault::From)?;
            self.read_all = chunk.filled().is_empty();
            self.pass(cx, to, chunk.filled())?;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes a chunk; what the receiver does not take now is held.
    fn pass<T: Wire>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut T,
        mut chunk: &[u8],
    ) -> Result<(), Fault> {
        while !chunk.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut *to).poll_write(cx, chunk) else {
                self.held.extend_from_slice(chunk);
                break;
            };
            let written = wrote(written)?;
            self.passed += written as u64;
            chunk = chunk.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn poll_held<T: Wire>(&mut self, cx: &mut Context<'_>, to: &mut T) -> Poll<Result<(), Fault>> {
        while let Some(rest) = self.held.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let written = wrote(ready!(Pin::new(&mut *to).poll_write(cx, rest)))?;
            self.sent += written;
            self.passed += written as u64;
        }
        self.held = Vec::new();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    fn take(&mut self) -> u64 {
        std::mem::take(&mut self.passed)
    }
}

fn wrote(written: io::Result<usize>) -> Result<usize, Fault> {
    match written {
        Ok(0) => Err(Fault::To(io::ErrorKind::WriteZero.into())),
        Ok(written) => Ok(written),
        Err(error) => Err(Fault::To(error)),
    }
}

/// Bytes read at a time, and the most that one direction holds.
const CHUNK: usize = 64 * 1024;

#[cfg(test)]
mod tests;
