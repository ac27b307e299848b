//! Stage 1: the handshake, the protocol it agrees on, and what it says of the peer. Not for
//! certificates: the snapshot has them. Called by `connection`.
//!
//! Invariant: a client that does not finish its handshake in time is gone.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::exchange::Transport;

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 and 1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A finished handshake.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// The connection.
    pub stream: TlsStream<IO>,
    /// Chosen by ALPN (RFC 7301); HTTP/1.1 without it.
    pub protocol: Protocol,
    /// For the exchanges on it.
    pub transport: Transport,
    /// How long it took.
    pub took: Duration,
}

/// Shakes hands within `limit`. Dropping the future closes the connection.
///
/// # Errors
/// The client is no TLS client, wants what is not offered, or is too slow.
pub async fn accept<IO>(
    config: &Arc<ServerConfig>,
    io: IO,
    limit: Duration,
) -> io::Result<Accepted<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let begun = Instant::now();
    let acceptor = TlsAcceptor::from(Arc::clone(config));
    let stream =
        timeout(limit, acceptor.accept(io)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let (_, tls) = stream.get_ref();
    let protocol = match tls.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let sni = tls.server_name().map(str::to_owned);
    let transport = Transport::Tls { sni };
    Ok(Accepted { stream, protocol, transport, took: begun.elapsed() })
}
