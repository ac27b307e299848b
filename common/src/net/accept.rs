//! Accepts connections for ever, whatever the kernel says. Not for limits on them: those are the
//! tier's. Called by every TCP listener's worker loop.
//!
//! Invariant: an error never ends the loop and never makes it spin.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// A listener with its back-off.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    backoff: Duration,
}

impl Acceptor {
    /// Takes a non-blocking listener into the current runtime.
    pub fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::from_std(listener)?, backoff: SHORTEST })
    }

    /// The next connection, with `TCP_NODELAY`. When descriptors or memory are exhausted,
    /// `exhausted` hears it and the next try comes after 5 ms to 1 s; connections wait in the
    /// kernel meanwhile. Cancel safe.
    pub async fn next(&mut self, exhausted: impl Fn(&io::Error)) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    self.backoff = SHORTEST;
                    // Fails only on a socket that is gone already; reading will tell.
                    let _gone = stream.set_nodelay(true);
                    return (stream, peer);
                }
                Err(error) if lost(&error) => {}
                Err(error) => {
                    exhausted(&error);
                    tokio::time::sleep(self.backoff).await;
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

    #[tokio::test]
    async fn accepts_one_after_the_other() {
        let listener = super::super::bind::tcp(
            SocketAddr::from(([127, 0, 0, 1], 0)),
            super::super::bind::Reuse::No,
        )
        .unwrap();
        let address = listener.local_addr().unwrap();
        let mut acceptor = Acceptor::new(listener).unwrap();
        for _ in 0..2 {
            let client = TcpStream::connect(address).await.unwrap();
            let (server, peer) = acceptor.next(|_| ()).await;
            assert_eq!(peer, client.local_addr().unwrap());
            assert!(server.nodelay().unwrap());
        }
    }
}
