//! The check `tls: NAME`: a handshake succeeds. It asks whether TLS lives there, not whose it is: the
//! certificate is not verified, and nothing is sent over the connection. Called by `health`.
//!
//! Invariant: no byte of ours follows the handshake.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Answer, Fault};
use crate::tls::client;
use crate::tls::lenient::Lenient;

pub(super) async fn ask(address: SocketAddr, name: Option<&str>) -> Result<Answer, Fault> {
    let invalid = |fault: String| Fault::Tls(std::io::Error::other(fault));
    let judge = Arc::new(Lenient);
    let config = client::judged_by(judge, None, &[]).map_err(|fault| invalid(fault.to_string()))?;
    let name = match name {
        Some(name) => ServerName::try_from(name.to_owned()).map_err(|f| invalid(f.to_string()))?,
        // Without a name none is sent (RFC 6066 §3: an address is no name).
        None => ServerName::from(address.ip()),
    };
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(name, stream).await.map_err(Fault::Tls)?;
    Ok(Answer::Ready)
}
