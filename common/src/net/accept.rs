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
}

impl Acceptor {
    /// Takes a non-blocking listener into the current runtime. Its connections have `TCP_NODELAY`:
    /// on Linux they begin with the listener's options, so that none needs a call of its own.
    pub fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        SockRef::from(&listener).set_tcp_nodelay(true)?;
        let local = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        Ok(Self { listener, local, backoff: SHORTEST, paused: None })
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
                Ok(accepted) => {
                    self.backoff = SHORTEST;
                    return accepted;
                }
                Err(error) if lost(&error) => {}
                Err(error) => {
                    exhausted(&error);
                    self.paused = Some(Instant::now() + self.backoff);
                    self.backoff = (self.backoff * 2).min(LONGEST);
                }
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

    /// N5: accepted connections have the listener's options, without a call for each.
    #[tokio::test]
    async fn accepts_one_after_the_other() {
        let listener = super::super::bind::tcp(
            SocketAddr::from(([127, 0, 0, 1], 0)),
            super::super::bind::Reuse::No,
        )
        .unwrap();
        let address = listener.local_addr().unwrap();
        let mut acceptor = Acceptor::new(listener).unwrap();
        acceptor.set_vigilance(Duration::from_secs(90)).unwrap();
        assert_eq!(acceptor.local(), address);
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
