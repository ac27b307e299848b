//! Questions to a registry over HTTP, one at a time on a connection that is kept, and answers that go on
//! line by line. Not for what answers mean. Called by `consul`, `etcd`, `eureka` and `kubernetes`, and by
//! those of `register`.
//!
//! Invariant: an answer, or a line of one, is bounded in size; what does not go on is bounded in time; and
//! only the address of the file is asked.

use std::time::Duration;

use bytes::Bytes;
use common::fetch::{HttpFetch, Line};
use common::secret;
use common::tls::client::Roots;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;
use topology::model::Registry;
use topology::{At, Place, SecretRef};

use crate::fault::Fault;

/// A registry, and the connection to it.
pub(crate) struct Web {
    registry: Registry,
    whom: Option<HttpFetch>,
    line: Option<Line<Full<Bytes>>>,
}

/// An answer that goes on. Dropping it closes the connection.
pub(crate) struct Stream {
    body: Incoming,
    /// What was read and is no whole line yet.
    rest: Vec<u8>,
    /// How much of it has no end of a line.
    searched: usize,
    _line: Line<Full<Bytes>>,
}

impl Stream {
    /// The next line; `None`: it has ended. Cancel safe.
    pub(crate) async fn line(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        loop {
            let fresh = self.rest.get(self.searched..).unwrap_or_default();
            if let Some(end) = fresh.iter().position(|byte| *byte == b'\n') {
                let rest = self.rest.split_off(self.searched + end + 1);
                self.searched = 0;
                return Ok(Some(std::mem::replace(&mut self.rest, rest)));
            }
            self.searched = self.rest.len();
            if self.rest.len() > LONGEST {
                return Err(Fault::TooLarge(LONGEST));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    self.rest.extend(frame.data_ref().map_or(&[][..], |data| &data[..]));
                }
                Some(Err(_broken)) => return Err(Fault::Broken),
                None => return Ok(None),
            }
        }
    }
}

/// What shows who we are: in no log and no `Debug`.
pub(crate) fn sensitive(text: &str) -> Result<HeaderValue, Fault> {
    let mut value = HeaderValue::from_str(text).map_err(|_| Fault::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The header that shows a bearer of this token (RFC 6750 §2.1), read anew: a file may have a new one.
pub(crate) fn bearer(token: Option<&SecretRef>) -> Result<HeaderMap, Fault> {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        let token = secret::read(token)?;
        let bearer = format!("Bearer {}", token.as_str()?);
        headers.insert(header::AUTHORIZATION, sensitive(&bearer)?);
    }
    Ok(headers)
}

impl Web {
    /// Asks nothing yet.
    pub(crate) fn new(registry: &Registry) -> Self {
        Self { registry: registry.clone(), whom: None, line: None }
    }

    /// What is there, below the registry's own path. Cancel safe: dropping it closes the connection.
    pub(crate) async fn get(
        &mut self,
        path: &str,
        headers: &HeaderMap,
        patience: Duration,
    ) -> Result<Response<Bytes>, Fault> {
        self.ask((Method::GET, path), headers, Bytes::new(), patience).await
    }

    /// What is answered to this. Cancel safe as `get`.
    pub(crate) async fn post(
        &mut self,
        path: &str,
        headers: &HeaderMap,
        body: &Value,
        patience: Duration,
    ) -> Result<Response<Bytes>, Fault> {
        self.ask((Method::POST, path), headers, Bytes::from(body.to_string()), patience).await
    }

    /// What is answered to this, with a body or without. Cancel safe as `get`, but what it asks for may have
    /// been done; it may even be done twice.
    pub(crate) async fn send(
        &mut self,
        (method, path): (Method, &str),
        headers: &HeaderMap,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Response<Bytes>, Fault> {
        let mut headers = headers.clone();
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        self.ask((method, path), &headers, body, patience).await
    }

    /// What is answered to this, or what is there, line by line. Cancel safe as `get`.
    pub(crate) async fn stream(
        &mut self,
        path: &str,
        headers: &HeaderMap,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Stream, Fault> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let line = self.line.take();
        let begun = timeout(patience, self.begin(line, (method, path), headers, body)).await;
        let (line, response) = begun.map_err(|_late| Fault::Late(patience))??;
        match response.status() {
            StatusCode::OK => Ok(Stream {
                body: response.into_body(),
                rest: Vec::new(),
                searched: 0,
                _line: line,
            }),
            status => Err(Fault::Status(status)),
        }
    }

    async fn ask(
        &mut self,
        what: (Method, &str),
        headers: &HeaderMap,
        body: Bytes,
        patience: Duration,
    ) -> Result<Response<Bytes>, Fault> {
        let line = self.line.take();
        match timeout(patience, self.exchange(line, what, headers, body)).await {
            Ok(answer) => answer,
            Err(_late) => Err(Fault::Late(patience)),
        }
    }

    async fn exchange(
        &mut self,
        kept: Option<Line<Full<Bytes>>>,
        what: (Method, &str),
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, Fault> {
        let (mut line, response) = self.begin(kept, what, headers, body).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST).collect().await.map_err(|fault| {
            if fault.is::<LengthLimitError>() { Fault::TooLarge(LONGEST) } else { Fault::Broken }
        })?;
        if line.sender.ready().await.is_ok() {
            self.line = Some(line);
        }
        if !head.status.is_success() {
            return Err(Fault::Status(head.status));
        }
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    /// The head of an answer, over a kept connection or a new one.
    async fn begin(
        &mut self,
        kept: Option<Line<Full<Bytes>>>,
        (method, path): (Method, &str),
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<(Line<Full<Bytes>>, Response<Incoming>), Fault> {
        if self.whom.is_none() {
            let place = Place::default();
            let ca = self.registry.ca.clone();
            let roots = ca.map_or(Roots::System, |value| Roots::Pem(At { value, place }));
            self.whom = Some(HttpFetch::trusting(&self.registry.address, &roots)?);
        }
        let Some(whom) = &self.whom else { return Err(Fault::Broken) };
        let mut kept = kept.filter(|line| !line.sender.is_closed());
        loop {
            let (mut line, fresh) = match kept.take() {
                Some(line) => (line, false),
                None => match whom.open().await {
                    Ok(line) => (line, true),
                    Err(fault) => {
                        // Its authority may have changed: the file is read again.
                        self.whom = None;
                        return Err(fault.into());
                    }
                },
            };
            match line
                .sender
                .send_request(request(whom, (&method, path), headers, body.clone())?)
                .await
            {
                Ok(response) => return Ok((line, response)),
                // A kept connection may end as it is used.
                Err(_) if !fresh => {}
                Err(_) => return Err(Fault::Broken),
            }
        }
    }
}

/// An answer as what it should be.
pub(crate) fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(bytes).map_err(|fault| Fault::Nonsense(fault.to_string()))
}

fn request(
    whom: &HttpFetch,
    (method, path): (&Method, &str),
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, Fault> {
    let base = whom.uri().path().trim_end_matches('/');
    let request = Request::builder()
        .method(method)
        .uri(format!("{base}{path}"))
        .header(header::HOST, whom.authority())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "aqueduct")
        .body(Full::new(body));
    let mut request = request.map_err(|fault| Fault::Nonsense(fault.to_string()))?;
    request.headers_mut().extend(headers.clone());
    Ok(request)
}

/// No registry says more of its services.
const LONGEST: usize = 16 << 20;
