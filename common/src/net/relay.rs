//! Copies bytes both ways between two streams until both are done. Not for knowing what they mean.
//! Called by l4-nlb's TCP listeners and by whatever passes an upgraded connection through.
//!
//! Invariant: at most [`CHUNK`] bytes per direction are held, and only while the receiver is
//! slower than the sender; an idle pair holds none.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::server::TlsStream;

use super::splice::{Pipe, Pipes};

/// A stream that can be ended by RST.
pub trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// Makes the drop of the stream a reset (RFC 9293 §3.5.2) instead of a close.
    fn abort(&mut self);

    /// The socket, where the bytes of the stream are the bytes of a TCP connection: then the kernel
    /// may move them by itself.
    fn tcp(&self) -> Option<&TcpStream> {
        None
    }
}

impl<W: Wire + ?Sized> Wire for Box<W> {
    fn abort(&mut self) {
        (**self).abort();
    }

    fn tcp(&self) -> Option<&TcpStream> {
        (**self).tcp()
    }
}

impl<W: Wire> Wire for &mut W {
    fn abort(&mut self) {
        (**self).abort();
    }

    fn tcp(&self) -> Option<&TcpStream> {
        (**self).tcp()
    }
}

impl Wire for TcpStream {
    fn abort(&mut self) {
        super::tcp::Tcp(self).abort();
    }
}

/// A stream that ends without `close_notify` is a broken one already (RFC 8446 §6.1); the reset frees
/// what the kernel still holds.
impl<W: Wire> Wire for TlsStream<W> {
    fn abort(&mut self) {
        self.get_mut().0.abort();
    }
}

/// In-memory streams know no reset.
impl Wire for DuplexStream {
    fn abort(&mut self) {}
}

/// What the relays of one worker share: the buffer that bytes pass through within one poll, so that
/// thousands of idle connections need one, and the pipes of large flows. Cheap to clone; one per
/// worker.
#[derive(Clone, Debug)]
pub struct Scratch {
    chunk: Rc<RefCell<Box<[u8]>>>,
    pipes: Pipes,
}

impl Default for Scratch {
    fn default() -> Self {
        let chunk = vec![0; CHUNK].into_boxed_slice();
        Self { chunk: Rc::new(RefCell::new(chunk)), pipes: Pipes::default() }
    }
}

/// How a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both sides finished.
    Closed,
    /// The downstream reset or failed; the upstream is to be reset.
    Downstream(io::Error),
    /// The upstream reset or failed; the downstream is to be reset.
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
/// one side fails (the other is reset by its drop), or nothing moved for `idle`. Dropping the future leaves the
/// streams to the caller; bytes on the way are lost.
pub async fn relay<D: Wire, U: Wire>(
    downstream: &mut D,
    upstream: &mut U,
    idle: Duration,
    scratch: &Scratch,
    meter: &impl Meter,
) -> End {
    let mut relay = Relay::default();
    let moved = Cell::new(Instant::now());
    let meter = Timed { meter, moved: &moved };
    let copy = poll_fn(|cx| relay.poll(cx, downstream, upstream, scratch, &meter));
    let end = tokio::select! {
        biased;
        end = copy => end,
        () = quiet(&moved, idle) => End::Idle,
    };
    match end {
        End::Downstream(_) => upstream.abort(),
        End::Upstream(_) => downstream.abort(),
        End::Closed | End::Idle => {}
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

/// Notes when bytes moved.
struct Timed<'a, M> {
    meter: &'a M,
    moved: &'a Cell<Instant>,
}

impl<M: Meter> Meter for Timed<'_, M> {
    fn up(&self, bytes: u64) {
        self.moved.set(Instant::now());
        self.meter.up(bytes);
    }
    fn down(&self, bytes: u64) {
        self.moved.set(Instant::now());
        self.meter.down(bytes);
    }
}

/// One relay, to be polled; the caller has the timers.
#[derive(Debug, Default)]
pub struct Relay {
    up: Direction,
    down: Direction,
}

impl Relay {
    /// With bytes that the downstream has sent already: they go up before all others.
    pub fn beginning_with(sent: Vec<u8>) -> Self {
        Self { up: Direction { held: sent, ..Direction::default() }, down: Direction::default() }
    }

    /// Whether the downstream has finished sending: nothing reads it any more, so that its reset
    /// must be looked for.
    pub fn downstream_finished(&self) -> bool {
        self.up.read_all
    }

    /// The same of the upstream.
    pub fn upstream_finished(&self) -> bool {
        self.down.read_all
    }

    /// Whether bytes were taken from one side that the other has not got yet.
    pub fn is_holding(&self) -> bool {
        let holds = |way: &Direction| !way.held.is_empty() || way.pipe.is_some();
        holds(&self.up) || holds(&self.down)
    }

    /// Moves what can be moved now; after an end that names a side, the caller aborts the other.
    /// Both streams must be the same at every call.
    pub fn poll<D: Wire, U: Wire>(
        &mut self,
        cx: &mut Context<'_>,
        downstream: &mut D,
        upstream: &mut U,
        scratch: &Scratch,
        meter: &impl Meter,
    ) -> Poll<End> {
        let first = self.up.poll(cx, downstream, upstream, scratch);
        let second = self.down.poll(cx, upstream, downstream, scratch);
        let (up, down) = (self.up.take(), self.down.take());
        if up > 0 {
            meter.up(up);
        }
        if down > 0 {
            meter.down(down);
        }
        let end = match (first, second) {
            (Poll::Ready(Err(Fault::From(e))), _) | (_, Poll::Ready(Err(Fault::To(e)))) => {
                End::Downstream(e)
            }
            (Poll::Ready(Err(Fault::To(e))), _) | (_, Poll::Ready(Err(Fault::From(e)))) => {
                End::Upstream(e)
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => End::Closed,
            (Poll::Pending, _) | (_, Poll::Pending) => return Poll::Pending,
        };
        Poll::Ready(end)
    }
}

/// Which stream of a direction failed.
pub(super) enum Fault {
    From(io::Error),
    To(io::Error),
}

/// One direction.
#[derive(Debug, Default)]
struct Direction {
    /// Read but not yet taken by the receiver.
    held: Vec<u8>,
    sent: usize,
    /// Passed on since [`Direction::take`].
    passed: u64,
    /// Bytes that came in large pieces one after the other, up to [`LARGE`].
    run: u32,
    /// Moves a large flow's bytes; bytes may wait in it.
    pipe: Option<Pipe>,
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
        scratch: &Scratch,
    ) -> Poll<Result<(), Fault>> {
        let mut turns = TURNS;
        while !self.done {
            // Back-pressure: nothing more is read before the receiver has taken what is held.
            ready!(self.poll_held(cx, to))?;
            if self.read_all {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Fault::To)?;
                self.done = true;
                break;
            }
            if turns == 0 {
                // Others of this worker have something to move too.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            turns -= 1;
            ready!(self.poll_more(cx, from, to, scratch))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes a piece from the sender, by the way that suits the flow.
    fn poll_more<F: Wire, T: Wire>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
        scratch: &Scratch,
    ) -> Poll<Result<(), Fault>> {
        let pipe = if self.run >= LARGE {
            self.pipe.take().or_else(|| scratch.pipes.take())
        } else {
            None
        };
        let length = if let (Some(mut pipe), Some(from), Some(to)) = (pipe, from.tcp(), to.tcp()) {
            let length = ready!(pipe.poll_in(cx, from)).map_err(Fault::From)?;
            self.empty(cx, pipe, to)?;
            length
        } else {
            let buffer = &mut scratch.chunk.borrow_mut();
            let mut chunk = ReadBuf::new(buffer);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut chunk)).map_err(Fault::From)?;
            self.pass(cx, to, chunk.filled())?;
            chunk.filled().len()
        };
        self.read_all = length == 0;
        // Small pieces are cheaper to copy.
        self.run = if length < PIECE { 0 } else { self.run.saturating_add(length as u32) };
        Poll::Ready(Ok(()))
    }

    /// Passes on what is in a pipe; what the receiver does not take now stays in it. An empty one
    /// may serve another flow meanwhile.
    fn empty(&mut self, cx: &mut Context<'_>, mut pipe: Pipe, to: &TcpStream) -> Result<(), Fault> {
        let before = pipe.held();
        let out = pipe.poll_out(cx, to);
        self.passed += (before - pipe.held()) as u64;
        match out {
            Poll::Ready(result) => result,
            Poll::Pending => {
                self.pipe = Some(pipe);
                Ok(())
            }
        }
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
        if self.sent > 0 {
            self.held = Vec::new();
            self.sent = 0;
        }
        if let (Some(_), Some(to)) = (&self.pipe, to.tcp())
            && let Some(pipe) = self.pipe.take()
        {
            self.empty(cx, pipe, to)?;
        }
        if self.pipe.is_some() { Poll::Pending } else { Poll::Ready(Ok(())) }
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
pub const CHUNK: usize = 64 * 1024;
/// Pieces that a direction moves before others get their turn.
const TURNS: u32 = 16;
/// A direction that has moved so much in a row is worth a pipe.
const LARGE: u32 = 256 * 1024;
/// What comes in smaller pieces is copied.
const PIECE: usize = 4 * 1024;

#[cfg(test)]
mod tests;
