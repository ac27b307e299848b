//! HTTP/2 over TLS, chosen by ALPN, with bodies of the test's own. Used by the tests.
//!
//! Invariant: a connection that is not HTTP/2 is an error.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use http::Request;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::clients::http::Answer;
use crate::pki::Trust;

/// What is sent.
pub type Body = BoxBody<bytes::Bytes, std::io::Error>;

/// A kept connection; many requests at once.
#[derive(Clone, Debug)]
pub struct Connection {
    sender: SendRequest<Body>,
}

/// A TLS connection to `api.example` on which both sides speak HTTP/2.
///
/// # Errors
/// No connection, no trust, or another protocol.
pub async fn secure(to: SocketAddr, trust: &Trust) -> Result<TlsStream<TcpStream>> {
    let mut config = trust.config().as_ref().clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(to).await.context("connect")?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("api.example").context("a name")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "another protocol");
    Ok(stream)
}

impl Connection {
    /// To `api.example`.
    ///
    /// # Errors
    /// As [`secure`].
    pub async fn tls(to: SocketAddr, trust: &Trust) -> Result<Self> {
        let io = TokioIo::new(secure(to, trust).await?);
        let (sender, connection) = handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Sends a request; returns as soon as the answer's head is there.
    ///
    /// # Errors
    /// The stream or connection ended.
    pub async fn open(&mut self, request: Request<Body>) -> Result<http::Response<Incoming>> {
        self.sender.ready().await.context("a living connection")?;
        self.sender.send_request(request).await.context("an answer")
    }

    /// GET, with the whole answer.
    ///
    /// # Errors
    /// As [`Connection::open`], or the answer is not whole.
    pub async fn get(&mut self, path: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        let (head, body) = self.open(request("GET", path, fields, empty())?).await?.into_parts();
        let body = body.collect().await.context("a whole body")?.to_bytes();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }
}

/// A request to `https://api.example`.
///
/// # Errors
/// A name or value that HTTP does not allow.
pub fn request(
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: Body,
) -> Result<Request<Body>> {
    let uri = format!("https://api.example{path}");
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    Ok(request.body(body)?)
}

/// Nothing.
pub fn empty() -> Body {
    Full::default().map_err(|never| match never {}).boxed()
}
