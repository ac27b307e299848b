//! Whether a PostgreSQL is there: a connection that asks for encryption, as far as clients' connections would be
//! encrypted, and ends before a login. Not for who is let in, nor for what it does. Asked by `readiness`.
//!
//! Invariant: it leaves no line in the server's log. A server that has said yes to TLS complains of a client that goes
//! then, so the handshake is made, and its end waited for: to go with tickets unread would be a reset. Where nothing is
//! encrypted GSSAPI is asked for, of which no answer obliges anybody.

use std::time::Duration;

use pgpool_wire::startup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use topology::pool::ServerAddress;

use super::connect::{ConnectError, Dialled};
use super::tls::{Security, Way};
use crate::stream::Stream;
use crate::worker::Worker;

/// How long a server may take to close its end.
const GOODBYE: Duration = Duration::from_millis(500);

/// Asks once.
///
/// # Errors
/// Nobody is there, or no PostgreSQL, or none that can be reached as the file says.
pub async fn knock(
    worker: &Worker,
    security: &Security,
    address: &ServerAddress,
) -> Result<(), ConnectError> {
    let (dialled, _lead) = worker.dial(address).await?;
    let mut io = match security.ways(address).first() {
        None | Some(Way::Plain) => answers(dialled).await?,
        Some(way) => security.secure(dialled, address, *way).await?.io,
    };
    let goodbye = async {
        io.shutdown().await?;
        while io.read(&mut [0; 512]).await? > 0 {}
        std::io::Result::Ok(())
    };
    // It has answered, however it goes.
    let _gone = timeout(GOODBYE, goodbye).await;
    Ok(())
}

/// In clear: an answer of one byte, which is `E` where the server is too full to look.
async fn answers(mut dialled: Dialled) -> Result<Stream, ConnectError> {
    let mut out = Vec::new();
    startup::put_gss_request(&mut out);
    dialled.io.write_all(&out).await?;
    let mut answer = [0; 1];
    match (dialled.io.read(&mut answer).await?, answer) {
        (0, _) => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        (_, [b'N' | b'G' | b'E']) => Ok(dialled.io),
        _ => Err(ConnectError::Unexpected),
    }
}
