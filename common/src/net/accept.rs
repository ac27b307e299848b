//! Accepts connections for ever, whatever the kernel says. Not for limits on them: those are the
//! tier's. Called by every TCP listener's worker loop.
//!
//! Invariant: an error never ends the loop and never makes it spin.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

use super::tcp;

/// A listener with its back-off.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    local: SocketAddr,
    backoff: Duration,
    /// Descriptors or memory are exhausted: nothing is tried before.
    paused: Option<Instant>,
    /// The end of the last pause.
    resumed: Option<Instant>,
}

impl Acceptor {
    /// Takes a non-blocking listener into the current runtime. Its connections have `TCP_NODELAY`:
    /// on Linux they begin with the listener's options, so that none needs a call of its own.
    pub fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        SockRef::from(&listener).set_tcp_nodelay(true)?;
        let local = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        Ok(Self { listener, local, backoff: SHORTEST, paused: None, resumed: None })
    }

    /// Where it listens; a connection's own local address differs where this is a wildcard.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// From now on peers that are gone are noticed within `limit` ([`tcp::set_vigilance`]).
    ///
    /// # Errors
    /// When the kernel knows no such option.
    pub fn set_vigilance(&self, limit: Duration) -> io::Result<()> {
        tcp::set_vigilance(&SockRef::from(&self.listener), limit)
    }

    /// Waits, as when descriptors are exhausted, before the next connection is taken: the caller has
    /// none for what a connection needs beside itself. Others stay in the kernel meanwhile.
    pub fn pause(&mut self) {
        let now = Instant::now();
        // A success in between, by the last descriptor there was, is none.
        if self.resumed.is_some_and(|resumed| now.saturating_duration_since(resumed) > LONGEST * 2)
        {
            self.backoff = SHORTEST;
        }
        let until = now + self.backoff;
        (self.paused, self.resumed) = (Some(until), Some(until));
        self.backoff = (self.backoff * 2).min(LONGEST);
    }

    /// The next connection. When descriptors or memory are exhausted, `exhausted` hears it and the
    /// next try comes after 5 ms to 1 s; connections wait in the kernel meanwhile. Cancel safe: the
    /// pause goes on in the next call.
    pub async fn next(&mut self, exhausted: impl Fn(&io::Error)) -> (TcpStream, SocketAddr) {
        loop {
            if let Some(until) = self.paused {
                sleep_until(until).await;
                self.paused = None;
            }
            match poll_fn(|cx| self.listener.poll_accept(cx)).await {
                Ok(accepted) => return accepted,
                Err(error) if lost(&error) => {}
                Err(error) => {
                    exhausted(&error);
                    self.pause();
                }
            }
        }
    }

    /// A connection that the kernel has shaken hands with by now, whatever the runtime has heard of it: for who is about to
    /// close, which would reset it. `None`: there is none, or nothing to take it with.
    pub fn waiting(&self) -> Option<(TcpStream, SocketAddr)> {
        let listener = SockRef::from(&self.listener);
        loop {
            match listener.accept() {
                Ok((socket, peer)) => {
                    let stream = std::net::TcpStream::from(socket);
                    let taken =
                        stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                    if let (Ok(stream), Some(peer)) = (taken, peer.as_socket()) {
                        return Some((stream, peer));
                    }
                }
                Err(error) if lost(&error) => {}
                Err(_) => return None,
            }
        }
    }
}

/// The connection ended before it was accepted (accept(2), "Error handling").
fn lost(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    matches!(
        error.kind(),
        E::ConnectionAborted
            | E::ConnectionReset
            | E::ConnectionRefused
            | E::Interrupted
            | E::NetworkDown
            | E::NetworkUnreachable
            | E::HostUnreachable
            | E::TimedOut
    )
}

const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn acceptor() -> Acceptor {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Acceptor::new(super::super::bind::tcp(any, super::super::bind::Reuse::No).unwrap()).unwrap()
    }

    /// N5: while something is lacking the pauses grow to a second, however often a connection gets
    /// through between them; long after, they begin anew.
    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_rest() {
        let mut acceptor = acceptor();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let _client = TcpStream::connect(acceptor.local()).await.unwrap();
            let start = Instant::now();
            acceptor.pause();
            acceptor.next(|_| ()).await;
            pauses.push(start.elapsed().as_millis());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        tokio::time::advance(LONGEST * 3).await;
        acceptor.pause();
        assert_eq!(acceptor.backoff, SHORTEST * 2);
    }

    /// N8: who came before the end is taken at once, though the runtime has not been told of it.
    #[tokio::test]
    async fn who_waits_is_taken_before_the_end() {
        let acceptor = acceptor();
        assert!(acceptor.waiting().is_none());
        let clients: Vec<_> =
            (0..3).map(|_| std::net::TcpStream::connect(acceptor.local()).unwrap()).collect();
        for client in &clients {
            let (_stream, peer) = acceptor.waiting().unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
        }
        assert!(acceptor.waiting().is_none());
    }

    /// N5: accepted connections have the listener's options, without a call for each.
    #[tokio::test]
    async fn accepts_one_after_the_other() {
        let mut acceptor = acceptor();
        let address = acceptor.local();
        acceptor.set_vigilance(Duration::from_secs(90)).unwrap();
        for _ in 0..2 {
            let client = TcpStream::connect(address).await.unwrap();
            let (server, peer) = acceptor.next(|_| ()).await;
            assert_eq!(peer, client.local_addr().unwrap());
            let socket = SockRef::from(&server);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(45));
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(90)));
        }
    }
}
