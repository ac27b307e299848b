//! TCP as a relay wants it: a stream that is shared by reference, that tells of a reset while nobody
//! reads, and that is noticed when its peer is gone. Not for copying (`relay`) and not for accepting
//! (`accept`). Called by l4-nlb per connection.
//!
//! Invariant: no call here waits for the kernel and none but the `set` ones is made twice for nothing:
//! after a short read or write the stream counts as drained or full until the kernel says otherwise.

use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, Protocol, SockRef, Socket as Socket2, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::bind;
use super::relay::Wire;

/// A TCP stream by reference: both directions and the watch for its reset share it.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a>(pub &'a TcpStream);

impl AsyncRead for Tcp<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            let room = buffer.initialize_unfilled();
            let asked = room.len();
            match self.0.try_io(Interest::READABLE, || receive(self.0, room)) {
                Ok(got) => {
                    if got > 0 && got < asked {
                        exhausted(self.0, Interest::READABLE);
                    }
                    buffer.advance(got);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Tcp<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_io(Interest::WRITABLE, || give(self.0, bytes)) {
                Ok(taken) => {
                    if taken > 0 && taken < bytes.len() {
                        exhausted(self.0, Interest::WRITABLE);
                    }
                    return Poll::Ready(Ok(taken));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(self.0).shutdown(Shutdown::Write))
    }
}

/// A connection that a relay copies through while a reset of it is looked for.
pub trait Socket: Wire {
    /// What the bytes go through.
    type Through<'a>: Wire
    where
        Self: 'a;
    /// Ends when the peer has reset the connection, also when it has finished sending before.
    type Failure<'a>: Future<Output = io::Error> + Unpin
    where
        Self: 'a;

    /// Both, for as long as the connection is borrowed.
    fn parts(&mut self) -> (Self::Through<'_>, Self::Failure<'_>);

    /// Makes the kernel notice a peer that is gone within `limit`.
    fn set_vigilance(&self, limit: Duration);
}

impl Socket for TcpStream {
    type Through<'a> = Tcp<'a>;
    type Failure<'a> = Failure<'a>;

    fn parts(&mut self) -> (Tcp<'_>, Failure<'_>) {
        (Tcp(self), Failure { stream: self, waiting: None })
    }

    fn set_vigilance(&self, limit: Duration) {
        // Fails only on a socket that is gone already.
        let _gone = set_vigilance(&SockRef::from(self), limit);
    }
}

impl Wire for Tcp<'_> {
    fn abort(&mut self) {
        // Fails only on a socket that is gone already.
        let _gone = SockRef::from(self.0).set_linger(Some(Duration::ZERO));
    }

    fn tcp(&self) -> Option<&TcpStream> {
        Some(self.0)
    }
}

/// Straight to the kernel: libc's own calls are cancellation points, which costs as much again.
fn receive(stream: &TcpStream, room: &mut [u8]) -> io::Result<usize> {
    let (got, _) = rustix::net::recv(stream, room, RecvFlags::empty())?;
    Ok(got)
}

fn give(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)?)
}

/// Remembers that the kernel has no more bytes, or no more room, so that the next try waits for its
/// word instead of asking it. Safe on a runtime of one thread: readiness only comes between polls.
pub(super) fn exhausted(stream: &TcpStream, interest: Interest) {
    let _told = stream.try_io(interest, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
}

/// Ends when the peer has reset the connection or the kernel has given it up, also when the peer has
/// finished sending long before. Costs nothing until it is polled.
#[derive(Debug)]
pub struct Failure<'a> {
    stream: &'a TcpStream,
    waiting: Option<Waiting<'a>>,
}

type Ready = io::Result<tokio::io::Ready>;

struct Waiting<'a>(Pin<Box<dyn Future<Output = Ready> + 'a>>);

impl std::fmt::Debug for Waiting<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waiting")
    }
}

impl Future for Failure<'_> {
    type Output = io::Error;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Error> {
        let stream = self.stream;
        loop {
            let waiting = self
                .waiting
                .get_or_insert_with(|| Waiting(Box::pin(stream.ready(Interest::ERROR))));
            let ready = ready!(waiting.0.as_mut().poll(cx));
            self.waiting = None;
            if let Err(error) = ready {
                return Poll::Ready(error);
            }
            if let Ok(Some(error)) | Err(error) = stream.take_error() {
                return Poll::Ready(error);
            }
            exhausted(stream, Interest::ERROR);
        }
    }
}

/// Connects a socket that does not block, and waits for the outcome. Cancelling it gives the attempt
/// up.
///
/// # Errors
/// What the peer or the network answered.
pub async fn connect(socket: Socket2, to: SocketAddr) -> io::Result<TcpStream> {
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(IN_PROGRESS) => {}
        Err(error) => return Err(error),
    }
    let stream = TcpStream::from_std(socket.into())?;
    poll_fn(|cx| stream.poll_write_ready(cx)).await?;
    // Asked only when the kernel has told of an error: one call less for each connection.
    match stream.try_io(Interest::ERROR, || stream.take_error()) {
        Ok(Some(error)) => Err(error),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(None) | Err(_) => Ok(stream),
    }
}

/// A socket to be connected to `to`, with `TCP_NODELAY`.
///
/// # Errors
/// When no descriptor is left.
pub fn socket(to: SocketAddr) -> io::Result<Socket2> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket2::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Gives the socket an address of somebody else's, so that the peer sees that client (`IP_TRANSPARENT`,
/// ip(7)): its port too, unless that is in use towards another peer.
///
/// # Errors
/// Without CAP_NET_ADMIN, or when the address is of another family.
pub fn impersonate(socket: &Socket2, client: SocketAddr) -> io::Result<()> {
    let client = bind::foreign(socket, client)?;
    // Several connections may leave from one client's port, to different endpoints.
    socket.set_reuse_address(true)?;
    match socket.bind(&client.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            socket.bind(&SocketAddr::new(client.ip(), 0).into())
        }
        bound => bound,
    }
}

/// Whether this process may use [`impersonate`].
///
/// # Errors
/// The kernel's word when it may not: it lacks CAP_NET_ADMIN.
pub fn may_impersonate() -> io::Result<()> {
    Socket2::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?.set_ip_transparent_v4(true)
}

/// `EINPROGRESS` of connect(2) on a socket that does not block.
const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();

/// Makes the kernel notice a peer that is gone: after half of `limit` in silence, at most [`QUIET`],
/// it is asked every [`PROBE`]; when it has answered nothing, or taken nothing of what waits for it,
/// for `limit`, the connection fails (RFC 5482; RFC 9293 §3.8.4). Connections accepted from a
/// listener have its settings.
///
/// # Errors
/// When the socket is gone already.
pub fn set_vigilance(socket: &SockRef<'_>, limit: Duration) -> io::Result<()> {
    let quiet = (limit / 2).clamp(Duration::from_secs(1), QUIET);
    let probes = TcpKeepalive::new().with_time(quiet).with_interval(PROBE);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(limit))
}

/// Silence after which a peer is asked whether it is there.
pub const QUIET: Duration = Duration::from_secs(60);
/// Between two such questions.
pub const PROBE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests;
