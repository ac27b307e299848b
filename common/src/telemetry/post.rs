//! One POST of protobuf over HTTP or HTTPS, bounded in time and in what is read back. Not a client for
//! services: that is `dispatch`. Called by the exporter on the control runtime.
//!
//! Invariant: only the address from the topology file is asked, redirects are not followed.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Collected, Full, Limited};
use thiserror::Error;
use tokio::time::timeout;

use crate::fetch::HttpFetch;

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
    at: HttpFetch,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Collector({})", self.at.uri())
    }
}

impl Collector {
    /// Behind an address of the topology file; asks nothing yet.
    ///
    /// # Errors
    /// It cannot be one, or TLS cannot be set up.
    pub fn new(address: &str) -> Result<Self, PostError> {
        // The default of OTLP over HTTP is a port of its own.
        let at = HttpFetch::at(address, 4318);
        Ok(Self { at: at.map_err(|fault| PostError::Away(fault.to_string()))? })
    }

    async fn connect_and_post(&self, path: &str, message: Bytes) -> Result<Bytes, PostError> {
        let broken = |fault: hyper::Error| PostError::Away(format!("no proper answer: {fault}"));
        let line = self.at.open().await;
        let mut line = line.map_err(|fault| PostError::Away(fault.to_string()))?;
        let below = self.at.uri().path().trim_end_matches('/');
        let request = Request::post(format!("{below}{path}"))
            .header(header::HOST, self.at.authority())
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::USER_AGENT, "aqueduct")
            .header(header::CONNECTION, "close")
            .body(Full::new(message))
            .map_err(|fault| PostError::Away(fault.to_string()))?;
        let response = line.sender.send_request(request).await.map_err(broken)?;
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
