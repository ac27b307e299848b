//! TLS towards servers: whether, how a certificate is judged, and what a login is bound to. Not for
//! the login itself. Used by every connection to a server: the pool's, the watch's, a cancel request's.
//!
//! Invariant: a byte that comes before the handshake is refused, never taken for one inside it; and
//! what must be encrypted is never sent in clear, whatever the server answers.

use std::sync::Arc;

use common::tls::TlsError;
use common::tls::client::{self, Roots};
use common::tls::libpq::{Judge, Names};
use pgpool_wire::startup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use topology::gateway::UpstreamTls;
use topology::pool::{ServerAddress, ServerTls, SslMode, SslNegotiation};

use super::connect::{ConnectError, Dialled};
use crate::scram;
use crate::stream::Stream;

/// PostgreSQL 17's name for itself in TLS.
const ALPN: &[u8] = b"postgresql";

/// How servers of a database are reached.
#[derive(Debug)]
pub struct Security {
    /// As the file has it.
    pub terms: ServerTls,
    config: Arc<ClientConfig>,
}

/// Which way a connection is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In clear.
    Plain,
    /// Encrypted, or in clear if the server knows no TLS.
    Either,
    /// Encrypted.
    Encrypted,
}

impl Security {
    /// Reads what the file names. Blocking.
    ///
    /// # Errors
    /// With the place of the reference that is at fault.
    pub fn new(terms: &ServerTls) -> Result<Self, TlsError> {
        let UpstreamTls { ca, certificate, .. } = &terms.credentials;
        let own = certificate.as_ref();
        let roots = ca.clone().map_or(Roots::System, Roots::Pem);
        let judge = match terms.mode {
            SslMode::VerifyFull => Judge::new(&roots, Names::Checked)?,
            SslMode::VerifyCa => Judge::new(&roots, Names::Any)?,
            // As libpq: authorities that are named are asked.
            SslMode::Require if ca.is_some() => Judge::new(&roots, Names::Any)?,
            _ => Judge::about_nothing(),
        };
        let config = client::judged_by(Arc::new(judge), own, &[ALPN])?;
        Ok(Self { terms: terms.clone(), config })
    }

    /// The ways to try, in order.
    pub fn ways(&self, address: &ServerAddress) -> &'static [Way] {
        match (self.terms.mode, address) {
            (SslMode::Disable, _) | (_, ServerAddress::Unix(..)) => &[Way::Plain],
            // Nobody is on the way; but the server may insist.
            (SslMode::Prefer, ServerAddress::Ip(at)) if at.ip().is_loopback() => {
                &[Way::Plain, Way::Encrypted]
            }
            (SslMode::Allow, _) => &[Way::Plain, Way::Encrypted],
            (SslMode::Prefer, _) => &[Way::Either],
            (SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull, _) => &[Way::Encrypted],
        }
    }

    /// Tries the ways in their order, as long as the server refuses who comes so.
    ///
    /// # Errors
    /// Of the last way; where the server knows no TLS, what the way before it was told.
    pub async fn try_ways<T>(
        &self,
        address: &ServerAddress,
        mut attempt: impl AsyncFnMut(Way) -> Result<T, ConnectError>,
    ) -> Result<T, ConnectError> {
        let (ways, mut refused) = (self.ways(address), None);
        for (at, way) in ways.iter().enumerate() {
            match attempt(*way).await {
                // Perhaps another way is let in.
                Err(fault @ ConnectError::Refused(..)) if at + 1 < ways.len() => {
                    refused = Some(fault);
                }
                // There is no other: what the first one was told counts.
                Err(ConnectError::NoTls) => return Err(refused.unwrap_or(ConnectError::NoTls)),
                outcome => return outcome,
            }
        }
        Err(ConnectError::NoTls)
    }

    /// Encrypts a fresh connection to `address`.
    ///
    /// # Errors
    /// The server knows no TLS and must, or cannot show who it is.
    pub async fn secure(
        &self,
        mut dialled: Dialled,
        address: &ServerAddress,
        way: Way,
    ) -> Result<Dialled, ConnectError> {
        let direct = self.terms.negotiation == SslNegotiation::Direct;
        if way == Way::Plain || (!direct && !ask(&mut dialled.io, way).await?) {
            return Ok(dialled);
        }
        let Stream::Plain(socket) = dialled.io else { return Ok(dialled) };
        let name = self.name(address)?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let tls = connector.connect(name, socket).await.map_err(ConnectError::Tls)?;
        let alpn = tls.get_ref().1.alpn_protocol();
        if direct && alpn != Some(ALPN) {
            return Err(ConnectError::NoTls);
        }
        dialled.io = Stream::Connected(Box::new(tls));
        Ok(dialled)
    }

    /// The name that the certificate must have.
    fn name(&self, address: &ServerAddress) -> Result<ServerName<'static>, ConnectError> {
        if let Some(name) = &self.terms.credentials.name {
            return ServerName::try_from(name.value.clone()).map_err(|_| ConnectError::NoTls);
        }
        match address {
            ServerAddress::Ip(address) => Ok(ServerName::from(address.ip())),
            ServerAddress::Name(host, _) => {
                ServerName::try_from(host.to_string()).map_err(|_| ConnectError::NoTls)
            }
            ServerAddress::Unix(..) => Err(ConnectError::NoTls),
        }
    }
}

/// `SSLRequest`; whether the server is ready for a handshake.
async fn ask(io: &mut Stream, way: Way) -> Result<bool, ConnectError> {
    let mut out = Vec::new();
    startup::put_ssl_request(&mut out);
    io.write_all(&out).await?;
    let mut answer = [0; 2];
    // CVE-2021-23222: whatever comes with the answer came before the handshake.
    match (io.read(&mut answer).await?, answer.first(), way) {
        (0, ..) => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        (1, Some(b'S'), _) => Ok(true),
        (1, Some(b'N'), Way::Either) => Ok(false),
        (1, Some(b'N'), _) => Err(ConnectError::NoTls),
        _ => Err(ConnectError::Unexpected),
    }
}

/// What SCRAM-SHA-256-PLUS binds a login to over this connection (RFC 5929 §4).
pub fn binding(io: &Stream) -> Option<Vec<u8>> {
    let Stream::Connected(tls) = io else { return None };
    let leaf = tls.get_ref().1.peer_certificates()?.first()?;
    scram::end_point(leaf)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P4, O5: bytes that come with the answer to SSLRequest are refused, and what must be encrypted
    /// does not go on in clear.
    #[tokio::test]
    async fn answers_to_ssl_request() {
        for (answer, way, expected) in [
            (&b"S"[..], Way::Encrypted, Some(true)),
            (b"N", Way::Either, Some(false)),
            (b"N", Way::Encrypted, None),
            (b"Sx", Way::Either, None),
            (b"Nx", Way::Either, None),
            (b"E", Way::Either, None),
            (b"", Way::Either, None),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(64);
            theirs.write_all(answer).await.expect("sent");
            let mut request = [0; 8];
            let mut io = Stream::Memory(Box::new(ours));
            let server = async {
                theirs.read_exact(&mut request).await.expect("asked");
                theirs.shutdown().await.expect("closed");
            };
            let (asked, ()) = tokio::join!(ask(&mut io, way), server);
            assert_eq!(asked.ok(), expected, "{answer:?}");
            assert_eq!(request, [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f]);
        }
    }
}
