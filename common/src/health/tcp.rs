//! The check `tcp`: a connection is accepted. Called by `health`.
//!
//! Invariant: nothing is sent; the connection is closed at once.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::{Answer, Fault};

pub(super) async fn ask(address: SocketAddr) -> Result<Answer, Fault> {
    TcpStream::connect(address).await?;
    Ok(Answer::Ready)
}
