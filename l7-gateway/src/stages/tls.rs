//! Stage 1: the handshake, the protocol it agrees on, and what it says of the peer. Not for
//! certificates: the snapshot has them. Called by `connection`.
//!
//! Invariant: a client that does not finish its handshake in time is gone.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::tls::server;
use rustls::{CertificateError, Error, ServerConfig};
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

/// Why there was no handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFault {
    /// It was not finished in time.
    Slow,
    /// The client had to show a certificate and did not.
    NoCertificate,
    /// Its certificate is revoked.
    Revoked,
    /// Its certificate is not believed, or does not say who it is.
    Certificate,
    /// It did not name a server of ours, and must.
    ServerName,
    /// It is no TLS client, wants what is not offered, or went away.
    Other,
}

impl HandshakeFault {
    /// Its name in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Slow => "handshake_timeout",
            Self::NoCertificate => "no_certificate",
            Self::Revoked => "certificate_revoked",
            Self::Certificate => "certificate_refused",
            Self::ServerName => "server_name",
            Self::Other => "handshake",
        }
    }

    fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match inner {
            Some(Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(Error::InvalidCertificate(CertificateError::Revoked)) => Self::Revoked,
            Some(Error::InvalidCertificate(_)) => Self::Certificate,
            // What rustls says where no certificate was chosen.
            Some(Error::General(_)) => Self::ServerName,
            _ => Self::Other,
        }
    }
}

/// Shakes hands within `limit`. Dropping the future closes the connection.
///
/// # Errors
/// The client is no TLS client, wants what is not offered, or is too slow.
pub async fn accept<IO>(
    config: &Arc<ServerConfig>,
    io: IO,
    limit: Duration,
) -> Result<Accepted<IO>, HandshakeFault>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let begun = Instant::now();
    let acceptor = TlsAcceptor::from(Arc::clone(config));
    let accepting = timeout(limit, acceptor.accept(io)).await;
    let stream =
        accepting.map_err(|_| HandshakeFault::Slow)?.map_err(|e| HandshakeFault::of(&e))?;
    let (_, tls) = stream.get_ref();
    let protocol = match tls.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let sni = tls.server_name().map(str::to_owned);
    let transport = Transport::Tls { sni, principal: server::client(tls) };
    Ok(Accepted { stream, protocol, transport, took: begun.elapsed() })
}
