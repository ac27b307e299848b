//! A small HTTP client for one other service (another demo service, the key set): keeps
//! connections, answers JSON, bounded in time and size. Not for anything else. Used by `feed` and
//! `identity`.
//!
//! Invariant: only GET is sent, so a lost kept connection may be tried once more on a fresh one.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// One service reached by plain HTTP.
#[derive(Debug)]
pub(crate) struct Upstream {
    authority: String,
    path: String,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
}

impl Upstream {
    /// `http://HOST:PORT[/PATH]`.
    pub(crate) fn new(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            bail!("{url} must begin with http://HOST");
        };
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self {
            authority: format!("{}:{port}", authority.host()),
            path: uri.path().trim_end_matches('/').to_owned(),
            idle: Mutex::default(),
        })
    }

    /// GET of `path` below the service's own; an answer that is not 200 is an error.
    pub(crate) async fn json(&self, path: &str, headers: &HeaderMap) -> anyhow::Result<Value> {
        let answer = self.exchange(path, headers);
        tokio::time::timeout(LIMIT, answer)
            .await
            .with_context(|| format!("{} did not answer within 5 s", self.authority))?
            .with_context(|| format!("GET http://{}{}{path}", self.authority, self.path))
    }

    async fn exchange(&self, path: &str, headers: &HeaderMap) -> anyhow::Result<Value> {
        while let Some(mut sender) = self.take() {
            if sender.ready().await.is_ok()
                && let Ok(response) = sender.send_request(self.request(path, headers)?).await
            {
                return self.read(sender, response).await;
            }
        }
        let stream = TcpStream::connect(&self.authority).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let response = sender.send_request(self.request(path, headers)?).await?;
        self.read(sender, response).await
    }

    async fn read(
        &self,
        sender: SendRequest<Empty<Bytes>>,
        response: http::Response<hyper::body::Incoming>,
    ) -> anyhow::Result<Value> {
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
        let body =
            body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?.to_bytes();
        if status != http::StatusCode::OK {
            bail!("answered {status}");
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE {
            idle.push(sender);
        }
        drop(idle);
        Ok(serde_json::from_slice(&body)?)
    }

    fn take(&self) -> Option<SendRequest<Empty<Bytes>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn request(&self, path: &str, headers: &HeaderMap) -> anyhow::Result<Request<Empty<Bytes>>> {
        let mut request = Request::get(format!("{}{path}", self.path)).body(Empty::new())?;
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(HOST, self.authority.parse()?);
        Ok(request)
    }
}

const LIMIT: Duration = Duration::from_secs(5);
const BODY_LIMIT: usize = 256 * 1024;
const MOST_IDLE: usize = 16;
