//! The check `http: PATH`: one GET, answered 2xx, or 429 by a server that is full. Called by `health`.
//!
//! Invariant: the answer's body is not read; its head is bounded.

use std::net::SocketAddr;
use std::pin::pin;

use ::http::{Request, StatusCode, header};
use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Answer, Fault};

pub(super) async fn ask(address: SocketAddr, path: &str) -> Result<Answer, Fault> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD).max_headers(100);
    let (mut sender, connection) = builder.handshake(stream).await?;
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::USER_AGENT, "aqueduct-health")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| Fault::Io(std::io::ErrorKind::InvalidInput.into()))?;
    let answer = pin!(sender.send_request(request));
    let answer = match select(answer, pin!(connection)).await {
        Either::Left((answer, _connection)) => answer?,
        // The server has closed; its answer, if there was one, waits already.
        Either::Right((_ended, answer)) => answer.await?,
    };
    match answer.status() {
        status if status.is_success() => Ok(Answer::Ready),
        StatusCode::TOO_MANY_REQUESTS => Ok(Answer::Full),
        status => Err(Fault::Status(status.as_u16())),
    }
}

/// The most that the answer's head may hold, in bytes.
const HEAD: usize = 16 * 1024;
