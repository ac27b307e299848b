//! HTTP/1.1 with and without TLS, one connection at a time so that a test decides which instance it
//! reaches. Used by the tests and `tier`.
//!
//! Invariant: an answer is whole: head, body and its proper end.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::pki::Trust;

pub use http::Request;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its fields.
    pub headers: http::HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// A field as text; empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A TLS connection to `api.example`.
///
/// # Errors
/// No connection, or no trust.
pub async fn secure(to: SocketAddr, trust: &Trust) -> Result<TlsStream<TcpStream>> {
    secured(TcpStream::connect(to).await.context("connect")?, trust).await
}

async fn secured(stream: TcpStream, trust: &Trust) -> Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("api.example").context("a name")?;
    let stream = TlsConnector::from(trust.config()).connect(name, stream).await;
    stream.context("handshake")
}

/// A kept connection.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// TLS for `api.example`.
    ///
    /// # Errors
    /// No connection, or no trust.
    pub async fn tls(to: SocketAddr, trust: &Trust) -> Result<Self> {
        Self::over(secure(to, trust).await?).await
    }

    /// The same from this address of the client's.
    ///
    /// # Errors
    /// No connection, or no trust.
    pub async fn tls_from(from: IpAddr, to: SocketAddr, trust: &Trust) -> Result<Self> {
        let socket = TcpSocket::new_v4().context("a socket")?;
        socket.bind(SocketAddr::new(from, 0)).context("the client's address")?;
        let stream = socket.connect(to).await.context("connect")?;
        Self::over(secured(stream, trust).await?).await
    }

    /// Without TLS.
    ///
    /// # Errors
    /// No connection.
    pub async fn plain(to: SocketAddr) -> Result<Self> {
        Self::over(TcpStream::connect(to).await.context("connect")?).await
    }

    async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Sends a request and takes the whole answer.
    ///
    /// # Errors
    /// The connection ended, or the answer is not whole.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer> {
        self.sender.ready().await.context("a free connection")?;
        let response = self.sender.send_request(request).await.context("an answer")?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.context("a whole body")?.to_bytes();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// GET with further fields.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub async fn get(&mut self, path: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        self.send(request("GET", path, fields)?).await
    }
}

/// A request to `api.example` without a body.
///
/// # Errors
/// A name or value that HTTP does not allow.
pub fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Result<Request<Full<Bytes>>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "api.example");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    Ok(request.body(Full::default())?)
}

/// One GET over a plain connection of its own.
///
/// # Errors
/// As [`Connection::send`].
pub async fn plain(to: SocketAddr, path: &str) -> Result<Answer> {
    Connection::plain(to).await?.get(path, &[]).await
}
