//! Connections to one server, kept and reused, bounded in number: HTTP/1.1, one request at a time
//! on each, or HTTP/2. Not for timing. Used by `https`.
//!
//! Invariant: an exchange either saw the whole answer or is a [`Fault`]; requests of a session share
//! connections and the client's address.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::iter::StepBy;
use std::net::SocketAddr;
use std::ops::RangeFrom;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{Context as Digest, SHA256};
use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio_rustls::TlsConnector;

use super::{Args, Http};
use crate::replay::target;

/// Where and how to connect.
#[derive(Clone)]
pub(super) struct Settings {
    address: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    http: Http,
    digests: bool,
}

impl Settings {
    /// TLS when the URL says https; then `ca` signed the server's certificate.
    ///
    /// # Errors
    /// The authority file cannot be read or holds no certificate.
    pub(super) fn new(args: &Args, address: SocketAddr, ca: &Path) -> Result<Self> {
        let (url, http, digests) = (&args.url, args.http, args.compare_bodies);
        if url.scheme_str() != Some("https") {
            return Ok(Self { address, tls: None, http, digests });
        }
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned())
            .with_context(|| format!("{host}: no name that a certificate can have"))?;
        Ok(Self { address, tls: Some((connector(ca, http)?, name)), http, digests })
    }
}

fn connector(ca: &Path, http: Http) -> Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca)
        .with_context(|| format!("{}: cannot read; name the authority with --ca", ca.display()))?;
    for certificate in certificates {
        let certificate = certificate.with_context(|| format!("{}: not PEM", ca.display()))?;
        roots.add(certificate).with_context(|| format!("{}: bad certificate", ca.display()))?;
    }
    ensure!(!roots.is_empty(), "{}: holds no certificate", ca.display());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = match http {
        Http::One => vec![b"http/1.1".to_vec()],
        Http::Two => vec![b"h2".to_vec()],
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Why there was no whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No TCP connection.
    Connect,
    /// No TLS session: certificate, name or protocol.
    Tls,
    /// Not answered in time.
    Timeout,
    /// The connection ended before the answer's head.
    Closed,
    /// The answer ended before its end.
    Truncated,
    /// Not HTTP.
    Protocol,
    /// Not sent: too many were waiting.
    Overload,
}

impl Fault {
    /// Its name in the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Truncated => "truncated",
            Self::Protocol => "protocol",
            Self::Overload => "overload",
        }
    }

    fn of(error: &hyper::Error) -> Self {
        if error.is_parse() { Self::Protocol } else { Self::Closed }
    }
}

/// A whole answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) bytes: u64,
    /// SHA-256 of the body, where bodies are compared.
    pub(super) digest: Option<[u8; 32]>,
}

type One = http1::SendRequest<Full<Bytes>>;
type Two = http2::SendRequest<Full<Bytes>>;

/// The connections of one lane.
pub(super) struct Wire {
    settings: Settings,
    permits: Semaphore,
    most: usize,
    /// HTTP/1.1: idle ones with their session, the longest idle first.
    idle: RefCell<VecDeque<(Option<u64>, One)>>,
    /// HTTP/2: one per place, opened when it is first needed.
    shared: Vec<Mutex<Option<Two>>>,
    /// HTTP/2: the place of the next request that belongs to no session.
    turn: Cell<u64>,
    clients: RefCell<StepBy<RangeFrom<u64>>>,
    opened: Cell<u64>,
}

impl Wire {
    /// At most `most` connections at a time; the next one opened is that of the next of `clients`.
    pub(super) fn new(settings: Settings, most: usize, clients: StepBy<RangeFrom<u64>>) -> Self {
        Self {
            permits: Semaphore::new(most),
            most,
            idle: RefCell::default(),
            shared: (0..most).map(|_| Mutex::default()).collect(),
            turn: Cell::new(0),
            clients: RefCell::new(clients),
            opened: Cell::new(0),
            settings,
        }
    }

    /// Connections opened so far.
    pub(super) fn opened(&self) -> u64 {
        self.opened.get()
    }

    /// Sends the request on a free connection of its session, in turn when none is free. Dropped
    /// midway, it closes its connection, or over HTTP/2 its stream.
    pub(super) async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        session: Option<u64>,
    ) -> Result<Answer, Fault> {
        if self.settings.http == Http::Two {
            return self.exchange_shared(request, session).await;
        }
        let _permit = self.permits.acquire().await.map_err(|_| Fault::Overload)?;
        let (mut sender, response) = self.respond(request, session).await?;
        let answer = self.drain(response).await?;
        if sender.ready().await.is_ok() {
            self.idle.borrow_mut().push_back((session, sender));
        }
        Ok(answer)
    }

    /// The answer's head. A kept connection that the server closed meanwhile costs no error when
    /// the request did not leave: it goes out on a fresh one.
    async fn respond(
        &self,
        mut request: Request<Full<Bytes>>,
        session: Option<u64>,
    ) -> Result<(One, Response<Incoming>), Fault> {
        while let Some(mut sender) = self.kept(session) {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((sender, response)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Fault::of(error.error())),
                },
            }
        }
        self.make_room();
        let mut sender: One = self.open_one(session).await?;
        let response = sender.send_request(request).await.map_err(|error| Fault::of(&error))?;
        Ok((sender, response))
    }

    /// The one that this session used last.
    fn kept(&self, session: Option<u64>) -> Option<One> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let found = idle.iter().rposition(|(of, _)| *of == session)?;
            let (_, sender) = idle.remove(found)?;
            if !sender.is_closed() {
                return Some(sender);
            }
        }
    }

    /// Opens so many connections of no session. What fails is tried again by the first request that
    /// needs it, and told then.
    pub(super) async fn open(&self, count: usize) {
        for place in 0..count.min(self.most) {
            if self.settings.http == Http::Two {
                if let (Some(place), Ok(sender)) =
                    (self.shared.get(place), self.open_one::<Two>(None).await)
                {
                    *place.lock().await = Some(sender);
                }
            } else if let Ok(sender) = self.open_one::<One>(None).await {
                self.idle.borrow_mut().push_back((None, sender));
            }
        }
    }

    async fn open_one<S: Sender>(&self, session: Option<u64>) -> Result<S, Fault> {
        match self.connected(session).await? {
            Stream::Plain(stream) => S::start(stream).await,
            Stream::Tls(stream) => S::start(*stream).await,
        }
        .map_err(|error| Fault::of(&error))
    }

    /// Closes what was idle longest when a new connection would be one too many.
    fn make_room(&self) {
        let busy = self.most - self.permits.available_permits();
        let mut idle = self.idle.borrow_mut();
        while idle.len() + busy > self.most {
            idle.pop_front();
        }
    }

    async fn exchange_shared(
        &self,
        request: Request<Full<Bytes>>,
        session: Option<u64>,
    ) -> Result<Answer, Fault> {
        let next = || self.turn.replace(self.turn.get().wrapping_add(1));
        let place = session.unwrap_or_else(next) as usize % self.most.max(1);
        let request = absolute(request, self.settings.tls.is_some());
        let mut sender = {
            let mut place = self.shared.get(place).ok_or(Fault::Overload)?.lock().await;
            match place.as_ref().filter(|sender| !sender.is_closed()) {
                Some(sender) => sender.clone(),
                None => place.insert(self.open_one(session).await?).clone(),
            }
        };
        sender.ready().await.map_err(|error| Fault::of(&error))?;
        let response = sender.send_request(request).await.map_err(|error| Fault::of(&error))?;
        self.drain(response).await
    }

    async fn connected(&self, session: Option<u64>) -> Result<Stream, Fault> {
        let stream = self.connect(session).await.map_err(|_| Fault::Connect)?;
        self.opened.set(self.opened.get() + 1);
        let Some((connector, name)) = &self.settings.tls else { return Ok(Stream::Plain(stream)) };
        let tls = connector.connect(name.clone(), stream).await.map_err(|_| Fault::Tls)?;
        Ok(Stream::Tls(Box::new(tls)))
    }

    async fn connect(&self, session: Option<u64>) -> std::io::Result<TcpStream> {
        let to = self.settings.address;
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        let next = || self.clients.borrow_mut().next().unwrap_or_default();
        let client = session.unwrap_or_else(next);
        let from = target::client_address(to.ip(), u32::try_from(client).unwrap_or_default());
        socket.bind((from, 0).into())?;
        socket.set_nodelay(true)?;
        socket.connect(to).await
    }

    async fn drain(&self, response: Response<Incoming>) -> Result<Answer, Fault> {
        let status = response.status().as_u16();
        let (mut body, mut bytes) = (response.into_body(), 0);
        let mut digest = self.settings.digests.then(|| Digest::new(&SHA256));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Fault::Truncated)?;
            let data = frame.data_ref().map(Bytes::as_ref).unwrap_or_default();
            bytes += data.len() as u64;
            if let Some(digest) = &mut digest {
                digest.update(data);
            }
        }
        let digest = digest.and_then(|digest| digest.finish().as_ref().try_into().ok());
        Ok(Answer { status, bytes, digest })
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// What requests are sent by, over a fresh connection that a task of its own drives.
trait Sender: Sized {
    async fn start(io: impl AsyncRead + AsyncWrite + Unpin + 'static) -> hyper::Result<Self>;
}

impl Sender for One {
    async fn start(io: impl AsyncRead + AsyncWrite + Unpin + 'static) -> hyper::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        tokio::task::spawn_local(connection);
        Ok(sender)
    }
}

impl Sender for Two {
    async fn start(io: impl AsyncRead + AsyncWrite + Unpin + 'static) -> hyper::Result<Self> {
        let (sender, connection) = http2::handshake(Here, TokioIo::new(io)).await?;
        tokio::task::spawn_local(connection);
        Ok(sender)
    }
}

/// Runs a connection's tasks on this lane's thread.
#[derive(Clone, Copy)]
pub(super) struct Here;

impl<F: Future + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move { drop(task.await) });
    }
}

/// HTTP/2 names the host in the URI (RFC 9113 §8.3.1).
fn absolute(mut request: Request<Full<Bytes>>, tls: bool) -> Request<Full<Bytes>> {
    let host = request.headers_mut().remove(HOST);
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(if tls { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
    parts.authority = host.and_then(|host| host.to_str().ok()?.parse().ok());
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}
