//! A downstream HTTP/1.1 connection that shows its parser only complete, strictly framed heads: it
//! holds back a head until its last byte is there, judges it, and follows the body to its end. Not
//! for reading headers: hyper does, once more. Called by `http1`.
//!
//! Invariant: every head that is let through has a verdict in the queue, in order; a refused head is
//! replaced by an empty request whose verdict is the fault, so that the pipeline answers it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::Fault;
use super::framing::{self, Follow, Head, HeadLimits, Progress, Upgrade};

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From a head's first byte to its last, and from the connection's start to its first byte.
    pub head: Duration,
    /// Between exchanges.
    pub idle: Duration,
}

/// What the guard and its connection tell each other.
#[derive(Clone, Debug, Default)]
pub struct Verdicts(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    queue: VecDeque<Option<Fault>>,
    /// Exchanges that were begun and whose answers are not out yet.
    open: usize,
    held: Option<Waker>,
    switched: bool,
    /// The instance drains: who asks nothing soon is let go.
    leaving: bool,
}

impl Verdicts {
    /// The verdict on the head that has just been parsed.
    pub fn next(&self) -> Option<Fault> {
        self.lock().queue.pop_front().flatten()
    }

    /// An answer is out.
    pub fn answered(&self) {
        let mut shared = self.lock();
        shared.open = shared.open.saturating_sub(1);
        if let Some(held) = shared.held.take() {
            held.wake();
        }
    }

    /// The instance drains: a connection between requests is closed after a moment, in which a
    /// request that is on its way may still come.
    pub fn leave(&self) {
        let mut shared = self.lock();
        shared.leaving = true;
        if let Some(held) = shared.held.take() {
            held.wake();
        }
    }

    /// Whether the next answer is the connection's last.
    pub fn leaving(&self) -> bool {
        self.lock().leaving
    }

    /// The connection changes its protocol: what follows is no HTTP.
    pub fn switch(&self) {
        self.lock().switched = true;
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guarded connection.
#[derive(Debug)]
pub struct Guard<IO> {
    io: IO,
    verdicts: Verdicts,
    limits: HeadLimits,
    patience: Patience,
    /// Read but not judged, or judged and not handed on.
    buffer: BytesMut,
    at: At,
    timer: Pin<Box<Sleep>>,
    /// What the timer stands for.
    waiting: Waiting,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// Between heads or in one.
    Head { scanned: usize },
    /// So many bytes of the buffer may be handed on, then comes this.
    Release { bytes: usize, then: Next },
    /// In a body.
    Body(Follow),
    /// An upgrade was asked for: nothing is judged until it is answered.
    Held,
    /// Nothing more is read: a fault was found, its answer closes the connection.
    Over,
}

#[derive(Clone, Copy, Debug)]
enum Next {
    Body(Follow),
    Held,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// For the connection's first byte.
    First,
    /// For the first byte of another head.
    Idle,
    /// The same, while the instance drains.
    Farewell,
    /// For the rest of a head.
    Head,
    /// The timer is not set.
    Nothing,
}

/// Stands for a head that was refused.
const REFUSED: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// How long a drain leaves a connection between requests open.
const FAREWELL: Duration = Duration::from_secs(1);
const READ: usize = 8 * 1024;

impl<IO> Guard<IO> {
    /// Around a connection on which nothing has been read.
    pub fn new(io: IO, limits: HeadLimits, patience: Patience) -> (Self, Verdicts) {
        let verdicts = Verdicts::default();
        let guard = Self {
            io,
            verdicts: verdicts.clone(),
            limits,
            patience,
            buffer: BytesMut::new(),
            at: At::Head { scanned: 0 },
            timer: Box::pin(tokio::time::sleep(patience.head)),
            waiting: Waiting::First,
        };
        (guard, verdicts)
    }

    /// The connection, and what was read of the next protocol.
    pub fn into_parts(self) -> (IO, BytesMut) {
        (self.io, self.buffer)
    }

    fn wait(&mut self, waiting: Waiting) {
        if self.waiting == waiting {
            return;
        }
        self.waiting = waiting;
        let after = match waiting {
            Waiting::First | Waiting::Head => self.patience.head,
            Waiting::Idle => self.patience.idle,
            Waiting::Farewell => FAREWELL.min(self.patience.idle),
            Waiting::Nothing => return,
        };
        self.timer.as_mut().reset(Instant::now() + after);
    }

    /// Judges what is buffered; true if there is something new to do.
    fn judge(&mut self, mut scanned: usize) -> bool {
        // RFC 9112 §2.2: one empty line before a request line is ignored.
        if scanned == 0 && self.buffer.starts_with(b"\r\n") {
            self.buffer.advance(2);
        }
        match framing::head(&self.buffer, &mut scanned, self.limits) {
            Ok(None) => {
                self.at = At::Head { scanned };
                false
            }
            Ok(Some(head)) => {
                let then = match head.upgrade {
                    Upgrade::Asked => Next::Held,
                    Upgrade::No => Next::Body(head.body.into()),
                };
                // A body behind an upgrade would be read as the other protocol.
                let empty = head.body == framing::BodyLength::Exact(0);
                if matches!(then, Next::Held) && !empty {
                    self.refuse(Fault::Length);
                } else {
                    self.admit(None);
                    self.at = At::Release { bytes: head.length, then };
                }
                true
            }
            Err(fault) => {
                self.refuse(fault);
                true
            }
        }
    }

    fn admit(&self, verdict: Option<Fault>) {
        let mut shared = self.verdicts.lock();
        shared.queue.push_back(verdict);
        shared.open += 1;
    }

    fn refuse(&mut self, fault: Fault) {
        self.admit(Some(fault));
        self.buffer.clear();
        self.buffer.extend_from_slice(REFUSED);
        self.at = At::Release { bytes: REFUSED.len(), then: Next::Over };
    }

    /// Hands on as much as fits of what may be handed on.
    fn release(&mut self, bytes: usize, then: Next, out: &mut ReadBuf<'_>) {
        let take = bytes.min(out.remaining());
        out.put_slice(&self.buffer.split_to(take));
        self.at = match (bytes - take, then) {
            (0, Next::Body(Follow::Exact(0))) => At::Head { scanned: 0 },
            (0, Next::Body(follow)) => At::Body(follow),
            (0, Next::Held) => At::Held,
            (0, Next::Over) => At::Over,
            (left, then) => At::Release { bytes: left, then },
        };
        self.wait(Waiting::Nothing);
    }

    /// Judges bytes of a body that stand in `buffer`.
    fn follow(&mut self, mut follow: Follow) -> io::Result<()> {
        let next = match follow.advance(&self.buffer).map_err(broken)? {
            Progress::More => At::Release { bytes: self.buffer.len(), then: Next::Body(follow) },
            Progress::Done(bytes) => At::Release { bytes, then: Next::Body(Follow::Exact(0)) },
        };
        self.at = next;
        Ok(())
    }

    /// What a reader without a byte waits for. The end of an exchange and a drain wake it.
    fn between(&self, cx: &Context<'_>) -> Waiting {
        let mut shared = self.verdicts.lock();
        shared.held = Some(cx.waker().clone());
        match (shared.open > 0, shared.leaving, self.waiting) {
            (true, ..) => Waiting::Nothing,
            (false, true, _) => Waiting::Farewell,
            (false, false, Waiting::First) => Waiting::First,
            (false, false, _) => Waiting::Idle,
        }
    }

    /// An answer to an upgrade: HTTP goes on, or nothing is judged any more.
    fn held(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut shared = self.verdicts.lock();
        if shared.open > 0 || shared.switched {
            shared.held = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(shared);
        self.at = At::Head { scanned: 0 };
        Poll::Ready(())
    }
}

/// What the first read between heads gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// A complete head, left where it is.
    Passed,
    /// Something else, kept for judging.
    Kept,
    /// The connection's end.
    End,
}

/// How much of `read` is a head and its body, and where the reader is behind it; `None`: the long
/// way is needed.
fn whole(head: Head, read: &[u8]) -> Option<(usize, At)> {
    if head.upgrade == Upgrade::Asked {
        return None;
    }
    let mut follow = Follow::from(head.body);
    match follow.advance(read.get(head.length..)?).ok()? {
        Progress::Done(used) => Some((head.length + used, At::Head { scanned: 0 })),
        Progress::More => Some((read.len(), At::Body(follow))),
    }
}

fn broken(fault: Fault) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault)
}

impl<IO: AsyncRead + Unpin> Guard<IO> {
    /// Reads what belongs to a head; zero at the end of the connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.reserve(READ);
        let before = self.buffer.len();
        self.buffer.resize(before + READ, 0);
        let mut space = ReadBuf::new(self.buffer.get_mut(before..).unwrap_or_default());
        let polled = Pin::new(&mut self.io).poll_read(cx, &mut space);
        let read = space.filled().len();
        self.buffer.truncate(before + read);
        polled.map_ok(|()| read)
    }

    /// Between heads: reads into the parser's buffer and leaves there what is a complete head with
    /// as much of its body as came along; anything else goes the long way through `buffer`.
    fn poll_first(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<First>> {
        let before = out.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, out) {
            read?;
            let read = out.filled().get(before..).unwrap_or_default();
            if read.is_empty() {
                return Poll::Ready(Ok(First::End));
            }
            let found = framing::head(read, &mut 0, self.limits).ok().flatten();
            if let Some((used, at)) = found.and_then(|head| whole(head, read)) {
                self.buffer.extend_from_slice(read.get(used..).unwrap_or_default());
                out.set_filled(before + used);
                self.admit(None);
                self.at = at;
                self.wait(Waiting::Nothing);
                return Poll::Ready(Ok(First::Passed));
            }
            self.buffer.extend_from_slice(read);
            out.set_filled(before);
            return Poll::Ready(Ok(First::Kept));
        }
        let between = self.between(cx);
        self.wait(between);
        self.poll_timer(cx).map(|()| Ok(First::End))
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting == Waiting::Nothing {
            return Poll::Pending;
        }
        self.timer.as_mut().poll(cx)
    }

    /// Waits for the rest of a head; true when there is something to do, false at the end.
    fn poll_head(&mut self, cx: &mut Context<'_>, scanned: usize) -> Poll<io::Result<bool>> {
        if scanned < self.buffer.len() && self.judge(scanned) {
            return Poll::Ready(Ok(true));
        }
        self.wait(Waiting::Head);
        match self.poll_fill(cx) {
            Poll::Ready(Ok(read)) => return Poll::Ready(Ok(read > 0)),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {}
        }
        ready!(self.poll_timer(cx));
        self.refuse(Fault::HeadTimeout);
        Poll::Ready(Ok(true))
    }

    /// Reads a body's bytes straight into the parser's buffer; what follows the body is kept.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        mut follow: Follow,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, out))?;
        let read = out.filled().get(before..).unwrap_or_default();
        if read.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match follow.advance(read).map_err(broken)? {
            Progress::More => self.at = At::Body(follow),
            Progress::Done(used) => {
                self.buffer.extend_from_slice(read.get(used..).unwrap_or_default());
                out.set_filled(before + used);
                self.at = At::Head { scanned: 0 };
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match this.at {
                At::Head { .. } if this.buffer.is_empty() => {
                    match ready!(this.poll_first(cx, out))? {
                        First::Kept => {}
                        First::Passed | First::End => return Poll::Ready(Ok(())),
                    }
                }
                At::Head { scanned } => {
                    if !ready!(this.poll_head(cx, scanned))? {
                        return Poll::Ready(Ok(()));
                    }
                }
                At::Release { bytes, then } => {
                    this.release(bytes, then, out);
                    return Poll::Ready(Ok(()));
                }
                At::Body(follow) if this.buffer.is_empty() => {
                    return this.poll_body(cx, follow, out);
                }
                At::Body(follow) => this.follow(follow)?,
                At::Held => ready!(this.held(cx)),
                // An end here would look like a client that has gone before its answer.
                At::Over => return Poll::Pending,
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
