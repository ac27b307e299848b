//! One GET to a loopback admin listener or demo service. Not an HTTP client for anything else.
//! Used by `up` for readiness and the live view.
//!
//! Invariant: at most 256 KiB are read, within 2 s.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Status and body; cancel safe.
pub(crate) async fn get(at: SocketAddr, path: &str) -> anyhow::Result<(u16, Bytes)> {
    tokio::time::timeout(LIMIT, exchange(at, path))
        .await
        .with_context(|| format!("http://{at}{path} did not answer within 2 s"))?
}

async fn exchange(at: SocketAddr, path: &str) -> anyhow::Result<(u16, Bytes)> {
    let stream = TcpStream::connect(at).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends with the sender, hence with this function.
    tokio::spawn(connection);
    let request = Request::get(path).header(HOST, at.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), BODY).collect().await;
    Ok((status, body.map_err(|error| anyhow!("the answer broke off: {error}"))?.to_bytes()))
}

const LIMIT: Duration = Duration::from_secs(2);
const BODY: usize = 256 * 1024;
