//! Small requests over HTTP or HTTPS, bounded in size and time: one GET on a connection of its own, or
//! inquiries on kept ones. Not a client for services. Called by telemetry, and by the gateway for keys and
//! for what others say of tokens and requests.
//!
//! Invariant: only the address from the topology file is asked, redirects are not followed.

mod http2;

use std::cell::RefCell;
use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use crate::tls::TlsError;
use crate::tls::client::{self, Roots};

pub use self::http2::Lines;

/// For the whole of it.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address is not `http://HOST…` or `https://HOST…`.
    #[error("{0} is not an http or https address")]
    Address(String),
    /// The client's side of TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] TlsError),
    /// The name is unknown, nobody listens, or the handshake failed.
    #[error("cannot connect to {host}: {source}")]
    Connect {
        /// Host and port.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// The answer broke off or is not HTTP.
    #[error("no proper answer from {host}")]
    Broken {
        /// Host and port.
        host: String,
    },
    /// Anything but 200.
    #[error("{host} answers {status}")]
    Status {
        /// Host and port.
        host: String,
        /// The status.
        status: StatusCode,
    },
    /// Longer than asked for.
    #[error("the answer of {host} is too large")]
    TooLarge {
        /// Host and port.
        host: String,
    },
    /// Not done in time.
    #[error("no answer from {host} within {limit:?}")]
    Timeout {
        /// Host and port.
        host: String,
        /// How long it had.
        limit: Duration,
    },
}

/// Where a document comes from. Tests give one that counts.
pub trait Fetch {
    /// The document, at most `most` bytes of it. Cancel safe: dropping it closes the connection.
    fn fetch(&self, most: usize) -> impl Future<Output = Result<Bytes, FetchError>> + Send;
}

/// A connection before anything is said.
enum Reached {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A document behind an address.
pub struct HttpFetch {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl std::fmt::Debug for HttpFetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpFetch({})", self.uri)
    }
}

impl HttpFetch {
    /// For an address; asks nothing yet.
    pub fn new(address: &str) -> Result<Self, FetchError> {
        Self::at(address, 80)
    }

    /// The same, with the port of those that speak no TLS and name none.
    pub fn at(address: &str, plain: u16) -> Result<Self, FetchError> {
        Self::believing(address, plain, &Roots::System, b"http/1.1")
    }

    /// The same, where authorities of the file's choice count.
    ///
    /// # Errors
    /// When the address is none, or the authorities cannot be read. Blocking: they are read here.
    pub fn trusting(address: &str, roots: &Roots) -> Result<Self, FetchError> {
        Self::believing(address, 80, roots, b"http/1.1")
    }

    fn believing(
        address: &str,
        plain: u16,
        roots: &Roots,
        speaks: &[u8],
    ) -> Result<Self, FetchError> {
        let wrong = || FetchError::Address(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| wrong())?;
        let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let behind = authority.rsplit_once(']').map_or(authority, |(_, behind)| behind);
        // A port that is none is no default.
        if behind.contains(':') && uri.port_u16().is_none() {
            return Err(wrong());
        }
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
                let config = client::config(roots, &[speaks])?;
                Some((TlsConnector::from(Arc::clone(&config)), name))
            }
            _ => return Err(wrong()),
        };
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { plain });
        Ok(Self { uri, host, port, tls })
    }

    /// The address.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    fn peer(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// `host:port` as `Host` has it.
    pub fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// A connection of its own. Cancel safe.
    ///
    /// # Errors
    /// When nobody is there, or it is not who it should be.
    pub async fn open<B>(&self) -> Result<Line<B>, FetchError>
    where
        B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + Send + 'static,
    {
        match self.connect().await? {
            Reached::Plain(stream) => self.line(stream).await,
            Reached::Tls(stream) => self.line(*stream).await,
        }
    }

    async fn connect(&self) -> Result<Reached, FetchError> {
        let failed = |source| FetchError::Connect { host: self.peer(), source };
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let Some((connector, name)) = &self.tls else { return Ok(Reached::Plain(stream)) };
        let stream = connector.connect(name.clone(), stream).await.map_err(failed)?;
        Ok(Reached::Tls(Box::new(stream)))
    }

    async fn line<S, B>(&self, stream: S) -> Result<Line<B>, FetchError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + Send + 'static,
    {
        let broken = |_| FetchError::Broken { host: self.peer() };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let driver = tokio::spawn(async move {
            // Its end is seen by the next question.
            let _ended = connection.await;
        });
        Ok(Line { sender, _driver: AbortOnDropHandle::new(driver) })
    }

    async fn connect_and_ask(&self, most: usize) -> Result<Bytes, FetchError> {
        let broken = |_| FetchError::Broken { host: self.peer() };
        let mut line = self.open().await?;
        let response = line.sender.send_request(self.request()?).await.map_err(broken)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(FetchError::Status { host: self.peer(), status });
        }
        match Limited::new(response.into_body(), most).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(fault) if fault.is::<http_body_util::LengthLimitError>() => {
                Err(FetchError::TooLarge { host: self.peer() })
            }
            Err(_) => Err(FetchError::Broken { host: self.peer() }),
        }
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, FetchError> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        Request::get(path)
            .header(header::HOST, self.authority())
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::USER_AGENT, "aqueduct")
            .header(header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|_| FetchError::Address(self.uri.to_string()))
    }
}

impl Fetch for HttpFetch {
    async fn fetch(&self, most: usize) -> Result<Bytes, FetchError> {
        match timeout(PATIENCE, self.connect_and_ask(most)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(FetchError::Timeout { host: self.peer(), limit: PATIENCE }),
        }
    }
}

/// Somebody who is asked again and again by one worker, over connections that are kept.
pub struct Inquiry {
    whom: Arc<HttpFetch>,
    timeout: Duration,
    idle: RefCell<Vec<Line<Full<Bytes>>>>,
}

/// A connection; ends with its handle.
pub struct Line<B> {
    /// Takes requests, one after the other.
    pub sender: http1::SendRequest<B>,
    _driver: AbortOnDropHandle<()>,
}

/// Most connections kept by one worker.
const MOST_IDLE: usize = 32;

impl std::fmt::Debug for Inquiry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inquiry({})", self.whom.uri)
    }
}

impl Inquiry {
    /// Whoever is behind this address, who has so long for an answer.
    pub fn new(whom: Arc<HttpFetch>, timeout: Duration) -> Self {
        Self { whom, timeout, idle: RefCell::default() }
    }

    /// Asks by a GET with these headers, or by a POST where there is a body. Cancel safe.
    pub async fn ask(
        &self,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, FetchError> {
        self.ask_within(self.timeout, LONGEST_ANSWER, (headers, body)).await
    }

    /// The same, with so long for an answer of so many bytes at most.
    pub async fn ask_within(
        &self,
        limit: Duration,
        most: usize,
        (headers, body): (HeaderMap, Bytes),
    ) -> Result<Response<Bytes>, FetchError> {
        match timeout(limit, self.exchange(&headers, &body, most)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(FetchError::Timeout { host: self.whom.peer(), limit }),
        }
    }

    async fn exchange(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
        most: usize,
    ) -> Result<Response<Bytes>, FetchError> {
        let mut again = false;
        loop {
            let kept = if again { None } else { self.idle.borrow_mut().pop() };
            let fresh = kept.is_none();
            let mut line = match kept {
                Some(line) if line.sender.is_closed() => continue,
                Some(line) => line,
                None => self.whom.open().await?,
            };
            let response = match line.sender.send_request(self.request(headers, body)?).await {
                Ok(response) => response,
                // A kept connection may end as it is used; a question may be asked twice, and no more.
                Err(_) if !fresh => {
                    again = true;
                    continue;
                }
                Err(_) => return Err(FetchError::Broken { host: self.whom.peer() }),
            };
            let (head, body) = response.into_parts();
            let read = Limited::new(body, most).collect().await;
            let read = read.map_err(|fault| {
                let host = self.whom.peer();
                if fault.is::<http_body_util::LengthLimitError>() {
                    FetchError::TooLarge { host }
                } else {
                    FetchError::Broken { host }
                }
            })?;
            let mut idle = self.idle.borrow_mut();
            if !line.sender.is_closed() && idle.len() < MOST_IDLE {
                idle.push(line);
            }
            return Ok(Response::from_parts(head, read.to_bytes()));
        }
    }

    fn request(
        &self,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Request<Full<Bytes>>, FetchError> {
        let uri = &self.whom.uri;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let method = if body.is_empty() { Method::GET } else { Method::POST };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.whom.authority())
            .body(Full::new(body.clone()))
            .map_err(|_| FetchError::Address(uri.to_string()))?;
        request.headers_mut().extend(headers.clone());
        Ok(request)
    }
}

/// Longest body of an answer that is read where nobody says more.
pub const LONGEST_ANSWER: usize = 64 << 10;

#[cfg(test)]
mod tests;
