//! The byte streams of clients and servers behind one type: plain TCP, TLS over it, a unix socket,
//! or anything in memory for tests. Not for what the bytes mean. Built by the listener and by connects.
//!
//! Invariant: a parked stream belongs to no runtime and can be sent to another thread; reading or
//! writing it before it is revived is an error, never a wait that does not end.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};
use topology::pool::Keepalive;

use crate::client::source::Source;

/// Anything that carries bytes both ways.
pub trait Carrier: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Carrier for T {}

/// One connection.
pub enum Stream {
    /// TCP as it is.
    Plain(Movable),
    /// A client over TLS.
    Accepted(Box<server::TlsStream<Movable>>),
    /// A server over TLS.
    Connected(Box<client::TlsStream<Movable>>),
    /// A socket of this host.
    Unix(UnixStream),
    /// The same between two runtimes.
    UnixParked(std::os::unix::net::UnixStream),
    /// It has moved on, or the move failed half way.
    Gone,
    /// In memory; it is never parked.
    Memory(Box<dyn Carrier>),
}

/// A TCP socket that can leave its runtime.
#[derive(Debug)]
pub enum Movable {
    /// Registered with the runtime that uses it.
    Live(TcpStream),
    /// Between two runtimes.
    Parked(std::net::TcpStream),
    /// The move failed half way.
    Gone,
}

impl Movable {
    fn park(&mut self) -> io::Result<()> {
        if let Self::Live(socket) = std::mem::replace(self, Self::Gone) {
            *self = Self::Parked(socket.into_std()?);
        }
        Ok(())
    }

    fn revive(&mut self) -> io::Result<()> {
        if let Self::Parked(socket) = std::mem::replace(self, Self::Gone) {
            *self = Self::Live(TcpStream::from_std(socket)?);
        }
        Ok(())
    }

    /// Looks at what comes without taking it.
    pub async fn peek(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.live()?.peek(into).await
    }

    fn live(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        match self {
            Self::Live(socket) => Ok(Pin::new(socket)),
            Self::Parked(_) | Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Stream {
    /// Takes the socket out of the current runtime. Call it on the thread that used it.
    ///
    /// # Errors
    /// The socket cannot be deregistered; it is closed then.
    pub fn park(&mut self) -> io::Result<()> {
        if let Self::Unix(_) = self {
            if let Self::Unix(socket) = std::mem::replace(self, Self::Gone) {
                *self = Self::UnixParked(socket.into_std()?);
            }
            return Ok(());
        }
        self.socket().map_or(Ok(()), Movable::park)
    }

    /// Puts a parked socket into the current runtime.
    ///
    /// # Errors
    /// The socket cannot be registered; it is closed then.
    pub fn revive(&mut self) -> io::Result<()> {
        if let Self::UnixParked(_) = self {
            if let Self::UnixParked(socket) = std::mem::replace(self, Self::Gone) {
                *self = Self::Unix(UnixStream::from_std(socket)?);
            }
            return Ok(());
        }
        self.socket().map_or(Ok(()), Movable::revive)
    }

    fn socket(&mut self) -> Option<&mut Movable> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Accepted(tls) => Some(tls.get_mut().0),
            Self::Connected(tls) => Some(tls.get_mut().0),
            Self::Unix(_) | Self::UnixParked(_) | Self::Gone | Self::Memory(_) => None,
        }
    }

    /// For another process; the stream is gone here. `None`: it cannot go there, and stays.
    ///
    /// # Errors
    /// The socket cannot be deregistered; it is closed then.
    pub fn give_away(&mut self) -> io::Result<Option<OwnedFd>> {
        let stays = !matches!(self, Self::Plain(_) | Self::Unix(_) | Self::UnixParked(_));
        if stays {
            return Ok(None);
        }
        match std::mem::replace(self, Self::Gone) {
            Self::Plain(Movable::Live(socket)) => Ok(Some(socket.into_std()?.into())),
            Self::Plain(Movable::Parked(socket)) => Ok(Some(socket.into())),
            Self::Unix(socket) => Ok(Some(socket.into_std()?.into())),
            Self::UnixParked(socket) => Ok(Some(socket.into())),
            _ => Ok(None),
        }
    }

    /// From another process, parked: by TCP or by a socket of this host, as its source says.
    pub fn given(socket: OwnedFd, source: Source) -> Self {
        match source {
            Source::Ip(_) => Self::Plain(Movable::Parked(socket.into())),
            Source::Unix { .. } => Self::UnixParked(socket.into()),
        }
    }

    /// The process at the other end, and the user that it runs as; `None`: it is not of this host.
    pub fn peer_process(&self) -> Option<(u32, u32)> {
        let Self::Unix(socket) = self else { return None };
        let peer = socket.peer_cred().ok()?;
        Some((u32::try_from(peer.pid()?).ok()?, peer.uid()))
    }

    /// The cipher suite of a connection that is encrypted.
    pub fn cipher(&self) -> Option<&'static str> {
        let suite = match self {
            Self::Accepted(tls) => tls.get_ref().1.negotiated_cipher_suite(),
            Self::Connected(tls) => tls.get_ref().1.negotiated_cipher_suite(),
            _ => return None,
        };
        Some(suite.and_then(|suite| suite.suite().as_str()).unwrap_or("TLS"))
    }

    /// Our own end of a connection by network.
    pub fn local(&self) -> Option<SocketAddr> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Accepted(tls) => tls.get_ref().0,
            Self::Connected(tls) => tls.get_ref().0,
            _ => return None,
        };
        match socket {
            // On a socket of both families IPv4 is inside IPv6.
            Movable::Live(socket) => {
                let own = socket.local_addr().ok()?;
                Some(SocketAddr::new(own.ip().to_canonical(), own.port()))
            }
            _ => None,
        }
    }

    /// Reads once; zero bytes are the end of the stream.
    pub fn poll_some(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(room);
        Pin::new(self).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
    }

    /// Whether a read may bring something; `false`: the system has said nothing since one that did not.
    pub fn may_read(&self) -> bool {
        let ready = || Ok(());
        match self {
            Self::Plain(Movable::Live(socket)) => socket.try_io(Interest::READABLE, ready).is_ok(),
            Self::Unix(socket) => socket.try_io(Interest::READABLE, ready).is_ok(),
            // What was decrypted may wait inside.
            _ => true,
        }
    }

    /// Whether it has moved on.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone)
    }

    /// How the system notices that the other side has gone without a word.
    ///
    /// # Errors
    /// As the system says.
    pub fn keep_alive(&self, terms: &Keepalive) -> io::Result<()> {
        let Self::Plain(Movable::Live(socket)) = self else { return Ok(()) };
        let socket = socket2::SockRef::from(socket);
        if terms.user_timeout.is_some() {
            socket.set_tcp_user_timeout(terms.user_timeout)?;
        }
        if !terms.on {
            return socket.set_keepalive(false);
        }
        let mut alive = socket2::TcpKeepalive::new().with_time(terms.idle);
        if let Some(interval) = terms.interval {
            alive = alive.with_interval(interval);
        }
        if let Some(count) = terms.count {
            alive = alive.with_retries(count);
        }
        socket.set_tcp_keepalive(&alive)
    }

    /// The certificate that a client has shown, verified by the handshake.
    pub fn certificate(&self) -> Option<&[u8]> {
        let Self::Accepted(tls) = self else { return None };
        tls.get_ref().1.peer_certificates()?.first().map(|leaf| &**leaf)
    }

    /// Whether bytes travel encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Accepted(_) | Self::Connected(_))
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Accepted(_) => "Accepted",
            Self::Connected(_) => "Connected",
            Self::Unix(_) => "Unix",
            Self::UnixParked(_) => "UnixParked",
            Self::Gone => "Gone",
            Self::Memory(_) => "Memory",
        })
    }
}

impl AsyncRead for Movable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.live()?.poll_read(cx, into)
    }
}

impl AsyncWrite for Movable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.live()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.live()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.live()?.poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, into),
            Self::Accepted(s) => Pin::new(s).poll_read(cx, into),
            Self::Connected(s) => Pin::new(s).poll_read(cx, into),
            Self::Unix(s) => Pin::new(s).poll_read(cx, into),
            Self::UnixParked(_) | Self::Gone => {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            }
            Self::Memory(s) => Pin::new(s).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Accepted(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Connected(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Unix(s) => Pin::new(s).poll_write(cx, bytes),
            Self::UnixParked(_) | Self::Gone => {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            }
            Self::Memory(s) => Pin::new(s).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Accepted(s) => Pin::new(s).poll_flush(cx),
            Self::Connected(s) => Pin::new(s).poll_flush(cx),
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
            Self::UnixParked(_) | Self::Gone => {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            }
            Self::Memory(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Accepted(s) => Pin::new(s).poll_shutdown(cx),
            Self::Connected(s) => Pin::new(s).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Self::UnixParked(_) | Self::Gone => {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            }
            Self::Memory(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// P2: TCP's signs of life are as the file says.
    #[tokio::test]
    async fn signs_of_life() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let socket = TcpStream::connect(address).await.expect("connected");
        let stream = Stream::Plain(Movable::Live(socket));
        let seconds = Duration::from_secs;
        let mut terms = Keepalive {
            on: true,
            idle: seconds(7),
            interval: Some(seconds(3)),
            count: Some(4),
            user_timeout: Some(seconds(9)),
        };
        stream.keep_alive(&terms).expect("set");
        let Stream::Plain(Movable::Live(socket)) = &stream else { panic!("TCP") };
        let set = socket2::SockRef::from(socket);
        assert!(set.keepalive().expect("read"));
        assert_eq!(set.tcp_keepalive_time().expect("read"), seconds(7));
        assert_eq!(set.tcp_keepalive_interval().expect("read"), seconds(3));
        assert_eq!(set.tcp_keepalive_retries().expect("read"), 4);
        assert_eq!(set.tcp_user_timeout().expect("read"), Some(seconds(9)));
        terms.on = false;
        stream.keep_alive(&terms).expect("set");
        assert!(!set.keepalive().expect("read"));
    }

    /// A socket that was read in vain says so until there is more.
    #[tokio::test]
    async fn what_cannot_be_read_is_known() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut far, near) = UnixStream::pair().expect("a pair");
        let mut stream = Stream::Unix(near);
        let mut bytes = [0; 8];
        let read = std::future::poll_fn(|cx| {
            let mut room = ReadBuf::new(&mut bytes);
            Poll::Ready(Pin::new(&mut stream).poll_read(cx, &mut room))
        });
        assert!(read.await.is_pending());
        assert!(!stream.may_read());
        far.write_all(b"more").await.expect("written");
        assert_eq!(stream.read(&mut bytes).await.expect("read"), 4);
        assert!(!stream.may_read(), "less came than there was room for");
        drop(far);
        assert_eq!(stream.read(&mut bytes).await.expect("read"), 0);
        assert!(stream.may_read(), "the end stays");
    }
}
