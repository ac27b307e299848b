//! One POST of protobuf over HTTP or HTTPS, bounded in time and in what is read back. Not a client for
//! services: that is `dispatch`. Called by the exporter on the control runtime.
//!
//! Invariant: only the address from the topology file is asked, redirects are not followed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::tls::client::{self, Roots};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Collected, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// Why nothing was delivered.
#[derive(Debug, Error)]
pub enum PostError {
    /// It may go better later.
    #[error("{0}")]
    Away(String),
    /// The same would be refused again.
    #[error("the collector answers {0}")]
    Refused(StatusCode),
}

/// Where messages go. Tests give one that remembers.
pub trait Post: Send + Sync {
    /// Delivers a message to a path below the collector's address; its answer is what it says of it.
    ///
    /// # Errors
    /// It was not delivered.
    fn post(
        &self,
        path: &str,
        message: Bytes,
        patience: Duration,
    ) -> impl Future<Output = Result<Bytes, PostError>> + Send;
}

/// A collector.
pub struct Collector {
    base: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Collector({})", self.base)
    }
}

impl Collector {
    /// Behind an address of the topology file; asks nothing yet.
    ///
    /// # Errors
    /// It cannot be one, or TLS cannot be set up.
    pub fn new(address: &str) -> Result<Self, PostError> {
        let wrong = || PostError::Away(format!("{address} is not an http or https address"));
        let base: Uri = address.parse().map_err(|_| wrong())?;
        let host = base.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        let tls = if base.scheme_str() == Some("https") {
            let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
            let config = client::config(&Roots::System, &[b"http/1.1"]);
            let config = config.map_err(|fault| PostError::Away(fault.to_string()))?;
            Some((TlsConnector::from(Arc::clone(&config)), name))
        } else {
            None
        };
        // The default of OTLP over HTTP is a port of its own.
        let port = base.port_u16().unwrap_or(if tls.is_some() { 443 } else { 4318 });
        Ok(Self { base, host, port, tls })
    }

    async fn connect_and_post(&self, path: &str, message: Bytes) -> Result<Bytes, PostError> {
        let failed = |fault: std::io::Error| PostError::Away(format!("cannot connect: {fault}"));
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(failed)?;
        match &self.tls {
            None => self.speak(stream, path, message).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(failed)?;
                self.speak(stream, path, message).await
            }
        }
    }

    async fn speak<S>(&self, stream: S, path: &str, message: Bytes) -> Result<Bytes, PostError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |fault: hyper::Error| PostError::Away(format!("no proper answer: {fault}"));
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let below = self.base.path().trim_end_matches('/');
        let request = Request::post(format!("{below}{path}"))
            .header(header::HOST, self.base.authority().map_or("", |it| it.as_str()))
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::USER_AGENT, "aqueduct")
            .header(header::CONNECTION, "close")
            .body(Full::new(message))
            .map_err(|fault| PostError::Away(fault.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        match response.status() {
            StatusCode::OK => {
                let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
                body.map(Collected::to_bytes)
                    .map_err(|fault| PostError::Away(format!("no proper answer: {fault}")))
            }
            // Those that OTLP calls retryable.
            status @ (StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT) => Err(PostError::Away(format!("it answers {status}"))),
            status => Err(PostError::Refused(status)),
        }
    }
}

impl Post for Collector {
    async fn post(
        &self,
        path: &str,
        message: Bytes,
        patience: Duration,
    ) -> Result<Bytes, PostError> {
        let within = timeout(patience, self.connect_and_post(path, message)).await;
        within.unwrap_or_else(|_| Err(PostError::Away(format!("no answer within {patience:?}"))))
    }
}

const LONGEST_ANSWER: usize = 64 * 1024;
