//! Connections to one HTTP/1.1 server, kept and reused, bounded in number. Not for timing. Used by
//! `https`.
//!
//! Invariant: an exchange either saw the whole answer or is a [`Fault`].

use std::cell::{Cell, RefCell};
use std::iter::StepBy;
use std::net::SocketAddr;
use std::ops::RangeFrom;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use crate::replay::target;

/// Where and how to connect.
#[derive(Clone)]
pub(super) struct Settings {
    address: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Settings {
    /// TLS when the URL says https; then `ca` signed the server's certificate.
    ///
    /// # Errors
    /// The authority file cannot be read or holds no certificate.
    pub(super) fn new(url: &Uri, address: SocketAddr, ca: &Path) -> Result<Self> {
        if url.scheme_str() != Some("https") {
            return Ok(Self { address, tls: None });
        }
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned())
            .with_context(|| format!("{host}: no name that a certificate can have"))?;
        Ok(Self { address, tls: Some((connector(ca)?, name)) })
    }
}

fn connector(ca: &Path) -> Result<TlsConnector> {
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
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
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
}

type Sender = SendRequest<Full<Bytes>>;

/// The connections of one lane.
pub(super) struct Wire {
    settings: Settings,
    permits: Semaphore,
    idle: RefCell<Vec<Sender>>,
    clients: RefCell<StepBy<RangeFrom<u64>>>,
    opened: Cell<u64>,
}

impl Wire {
    /// At most `most` connections at a time; the next one opened is that of the next of `clients`.
    pub(super) fn new(settings: Settings, most: usize, clients: StepBy<RangeFrom<u64>>) -> Self {
        Self {
            settings,
            permits: Semaphore::new(most),
            idle: RefCell::default(),
            clients: RefCell::new(clients),
            opened: Cell::new(0),
        }
    }

    /// Connections opened so far.
    pub(super) fn opened(&self) -> u64 {
        self.opened.get()
    }

    /// Sends the request on a free connection, in turn when none is free. Dropped midway, it
    /// closes its connection.
    pub(super) async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Fault> {
        let _permit = self.permits.acquire().await.map_err(|_| Fault::Overload)?;
        let (mut sender, response) = self.respond(request).await?;
        let status = response.status().as_u16();
        let bytes = drain(response.into_body()).await?;
        if sender.ready().await.is_ok() {
            self.idle.borrow_mut().push(sender);
        }
        Ok(Answer { status, bytes })
    }

    /// The answer's head. A kept connection that the server closed meanwhile costs no error when
    /// the request did not leave: it goes out on a fresh one.
    async fn respond(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Sender, Response<Incoming>), Fault> {
        while let Some(mut sender) = self.kept() {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((sender, response)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Fault::of(error.error())),
                },
            }
        }
        let mut sender = self.open().await?;
        let response = sender.send_request(request).await.map_err(|error| Fault::of(&error))?;
        Ok((sender, response))
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        std::iter::from_fn(|| idle.pop()).find(|sender| !sender.is_closed())
    }

    async fn open(&self) -> Result<Sender, Fault> {
        let stream = self.connect().await.map_err(|_| Fault::Connect)?;
        self.opened.set(self.opened.get() + 1);
        match &self.settings.tls {
            None => start(stream).await,
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), stream).await;
                start(tls.map_err(|_| Fault::Tls)?).await
            }
        }
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        let to = self.settings.address;
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        let client = self.clients.borrow_mut().next().unwrap_or_default();
        let from = target::client_address(to.ip(), u32::try_from(client).unwrap_or_default());
        socket.bind((from, 0).into())?;
        socket.set_nodelay(true)?;
        socket.connect(to).await
    }
}

/// HTTP over a fresh connection, driven by a task of its own.
async fn start(io: impl AsyncRead + AsyncWrite + Unpin + 'static) -> Result<Sender, Fault> {
    let (sender, connection) =
        http1::handshake(TokioIo::new(io)).await.map_err(|error| Fault::of(&error))?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

async fn drain(mut body: Incoming) -> Result<u64, Fault> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Fault::Truncated)?;
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(bytes)
}
