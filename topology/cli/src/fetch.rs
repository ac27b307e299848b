//! Questions to one admin listener, or to a demo service. Not an HTTP client for anything else, and not
//! for what the answers mean. Used by `up`, `watch`, `check --live` and `explain --live`.
//!
//! Invariant: an answer is at most 4 MiB, and the token goes to the listener that the file names.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use common::secret::Secret;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Asked once, within [`PATIENCE`]: status and body. Cancel safe.
pub(crate) async fn get(at: SocketAddr, path: &str) -> anyhow::Result<(u16, Bytes)> {
    let mut talk = Talk::new(at, None)?;
    tokio::time::timeout(PATIENCE, talk.ask(Method::GET, path))
        .await
        .with_context(|| format!("http://{at}{path} did not answer within 2 s"))?
}

/// One admin listener, over a connection that is kept.
#[derive(Debug)]
pub(crate) struct Talk {
    at: SocketAddr,
    authorization: Option<HeaderValue>,
    kept: Option<SendRequest<Empty<Bytes>>>,
}

impl Talk {
    /// Connects with the first question.
    pub(crate) fn new(at: SocketAddr, token: Option<&Secret>) -> anyhow::Result<Self> {
        let bearer = |token: &Secret| {
            let text = token.as_str().context("the admin token")?;
            let mut value = HeaderValue::try_from(format!("Bearer {}", text.trim()))?;
            value.set_sensitive(true);
            anyhow::Ok(value)
        };
        Ok(Self { at, authorization: token.map(bearer).transpose()?, kept: None })
    }

    /// Status and body. Cancelling gives the connection up.
    pub(crate) async fn ask(&mut self, method: Method, path: &str) -> anyhow::Result<(u16, Bytes)> {
        let mut sender = match self.kept.take() {
            Some(kept) if kept.is_ready() => kept,
            _ => self.connect().await?,
        };
        let mut request = Request::builder().method(method).uri(path);
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.header(HOST, self.at.to_string()).body(Empty::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| anyhow!("the answer broke off: {error}"))?;
        // Else it is not ready for the next one, though it will be in a moment.
        if sender.ready().await.is_ok() {
            self.kept = Some(sender);
        }
        Ok((status, body.to_bytes()))
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        let stream = TcpStream::connect(self.at).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the sender, hence with this.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// A listener that has not answered by then is taken for dead.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
const LARGEST: usize = 4 << 20;
