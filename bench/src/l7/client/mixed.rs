//! Four kinds of clients at a fixed pace over TLS: kept connections, new connections, HTTP/2 and
//! WebSockets. Not for speed: it counts what goes wrong while something happens to the party.
//!
//! Invariant: a request that its server may not have seen (a reused connection ended before the first
//! byte of an answer) is a race and is asked again; any other failure is hard.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::echo::KEY;
use super::{answer, request, tls};

/// How to do it.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Where to.
    #[arg(long)]
    to: SocketAddr,
    /// For how long, in milliseconds.
    #[arg(long, default_value_t = 60_000)]
    millis: u64,
}

/// What one kind of clients found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Found {
    /// Asked, or sent to be echoed.
    pub requests: u64,
    /// Failed for good.
    pub hard: u64,
    /// Asked again because the connection had ended meanwhile; of WebSockets: connections that
    /// ended.
    pub races: u64,
    /// The first hard failure.
    pub fault: Option<String>,
}

/// What all found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct All {
    /// Kept connections.
    pub kept: Found,
    /// A connection for each request.
    pub new: Found,
    /// HTTP/2.
    pub http2: Found,
    /// WebSockets.
    pub websocket: Found,
}

type Tls = TlsStream<TcpStream>;
type Shared = Rc<RefCell<Found>>;

/// What became of one request.
enum Fate {
    Answered,
    /// Nobody may have seen it.
    Race,
    Hard(anyhow::Error),
}

/// Clients of a kind, and how many times a second each asks.
const KEPT: (u32, u64) = (8, 25);
const NEW: (u32, u64) = (2, 25);
const HTTP2: (u32, u64) = (4, 40);
const WEBSOCKET: (u32, u64) = (8, 10);
/// No answer for so long is a failure.
const PATIENCE: Duration = Duration::from_secs(10);

impl Plan {
    /// Does it.
    ///
    /// # Errors
    /// When it cannot begin.
    pub fn run(&self) -> Result<All> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let found: [Shared; 4] = Default::default();
        let local = LocalSet::new();
        let (h1, h2) = (connector(b"http/1.1")?, connector(b"h2")?);
        let end = runtime.block_on(async { Instant::now() }) + Duration::from_millis(self.millis);
        let to = self.to;
        let [kept, new, http2, websocket] = &found;
        for _ in 0..KEPT.0 {
            let kept_one = Kept { to, connector: h1.clone(), stream: None };
            local.spawn_local(repeat(kept_one, KEPT.1, end, Rc::clone(kept)));
        }
        for _ in 0..NEW.0 {
            local.spawn_local(repeat(
                New { to, connector: h1.clone() },
                NEW.1,
                end,
                Rc::clone(new),
            ));
        }
        for _ in 0..HTTP2.0 {
            let one = Http2 { to, connector: h2.clone(), sender: None };
            local.spawn_local(repeat(one, HTTP2.1, end, Rc::clone(http2)));
        }
        for _ in 0..WEBSOCKET.0 {
            let one = WebSocket { to, connector: h1.clone(), stream: None };
            local.spawn_local(repeat(one, WEBSOCKET.1, end, Rc::clone(websocket)));
        }
        runtime.block_on(local);
        let [kept, new, http2, websocket] = found.map(|found| found.take());
        Ok(All { kept, new, http2, websocket })
    }
}

fn connector(protocol: &[u8]) -> Result<TlsConnector> {
    Ok(TlsConnector::from(tls::config(protocol)?))
}

async fn connect(to: SocketAddr, connector: &TlsConnector) -> Result<Tls> {
    let stream = TcpStream::connect(to).await.context("connecting")?;
    stream.set_nodelay(true)?;
    connector.connect(tls::name(), stream).await.context("handshake")
}

/// A client of one kind.
trait Ask {
    /// Asks once, over a connection that is there, or over a new one.
    async fn ask(&mut self) -> Fate;
}

async fn repeat(mut client: impl Ask, per_second: u64, end: Instant, found: Shared) {
    let mut ticks = interval(Duration::from_millis(1000 / per_second));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while Instant::now() < end {
        ticks.tick().await;
        let mut fate = timeout(PATIENCE, client.ask()).await.unwrap_or_else(|_| {
            Fate::Hard(anyhow::anyhow!("no answer in {} s", PATIENCE.as_secs()))
        });
        let mut races = 0;
        while matches!(fate, Fate::Race) && races < 5 {
            races += 1;
            fate = client.ask().await;
        }
        let mut found = found.borrow_mut();
        found.requests += 1;
        found.races += races;
        if let Fate::Hard(fault) = fate {
            found.hard += 1;
            found.fault.get_or_insert_with(|| format!("{fault:#}"));
        }
    }
}

struct Kept {
    to: SocketAddr,
    connector: TlsConnector,
    stream: Option<Tls>,
}

impl Ask for Kept {
    async fn ask(&mut self) -> Fate {
        let mut reused = self.stream.take();
        if let Some(stream) = &mut reused
            && timeout(Duration::ZERO, stream.read(&mut [0])).await.is_ok()
        {
            // It said good-bye before we asked.
            reused = None;
        }
        let again = reused.is_some();
        let stream = match reused {
            Some(stream) => Ok(stream),
            None => connect(self.to, &self.connector).await,
        };
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(fault) => return Fate::Hard(fault),
        };
        let mut bytes = Vec::new();
        match exchange(&mut stream, request(self.to, None).as_bytes(), &mut bytes).await {
            Ok(close) => {
                self.stream = (!close).then_some(stream);
                Fate::Answered
            }
            Err(_) if again && bytes.is_empty() => Fate::Race,
            Err(fault) => Fate::Hard(fault),
        }
    }
}

struct New {
    to: SocketAddr,
    connector: TlsConnector,
}

impl Ask for New {
    async fn ask(&mut self) -> Fate {
        let asked = async {
            let mut stream = connect(self.to, &self.connector).await?;
            exchange(&mut stream, request(self.to, None).as_bytes(), &mut Vec::new()).await
        };
        asked.await.map_or_else(Fate::Hard, |_| Fate::Answered)
    }
}

/// Asks and reads the answer to its end into `bytes`; says whether the connection ends with it.
async fn exchange(stream: &mut Tls, request: &[u8], bytes: &mut Vec<u8>) -> Result<bool> {
    stream.write_all(request).await?;
    stream.flush().await?;
    loop {
        let read = stream.read_buf(bytes).await?;
        ensure!(read > 0, "closed after {} bytes of an answer", bytes.len());
        if let Some(answer) = answer(bytes).filter(|answer| answer.length <= bytes.len()) {
            ensure!(matches!(answer.status, 200 | 101), "status {}", answer.status);
            let head = String::from_utf8_lossy(bytes).to_ascii_lowercase();
            return Ok(head.contains("connection: close"));
        }
    }
}

struct Http2 {
    to: SocketAddr,
    connector: TlsConnector,
    sender: Option<SendRequest<Empty<Bytes>>>,
}

impl Http2 {
    async fn open(&self) -> Result<SendRequest<Empty<Bytes>>> {
        let stream = connect(self.to, &self.connector).await?;
        let begun =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = begun.await?;
        tokio::task::spawn_local(connection);
        Ok(sender)
    }
}

impl Ask for Http2 {
    async fn ask(&mut self) -> Fate {
        let mut reused = self.sender.take();
        if let Some(sender) = &mut reused
            && sender.ready().await.is_err()
        {
            // It said good-bye before we asked.
            reused = None;
        }
        let again = reused.is_some();
        let sender = match reused {
            Some(sender) => Ok(sender),
            None => self.open().await,
        };
        let mut sender = match sender {
            Ok(sender) => sender,
            Err(fault) => return Fate::Hard(fault),
        };
        let uri = "https://api.example/api/user/profile";
        let Ok(request) = Request::get(uri).body(Empty::new()) else { return Fate::Race };
        let answer = match sender.send_request(request).await {
            Ok(answer) => answer,
            Err(_) if again => return Fate::Race,
            Err(fault) => return Fate::Hard(fault.into()),
        };
        let whole = async {
            ensure!(answer.status() == StatusCode::OK, "status {}", answer.status());
            Ok(answer.into_body().collect().await?)
        };
        if let Err(fault) = whole.await {
            return Fate::Hard(fault);
        }
        self.sender = Some(sender);
        Fate::Answered
    }
}

struct WebSocket {
    to: SocketAddr,
    connector: TlsConnector,
    stream: Option<Tls>,
}

impl WebSocket {
    async fn open(&self) -> Result<Tls> {
        let mut stream = connect(self.to, &self.connector).await?;
        let request = format!(
            "GET /api/user/profile HTTP/1.1\r\nhost: {}\r\nupgrade: websocket\r\nconnection: \
             Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n\r\n",
            self.to
        );
        let mut bytes = Vec::new();
        exchange(&mut stream, request.as_bytes(), &mut bytes).await?;
        ensure!(bytes.starts_with(b"HTTP/1.1 101"), "no switch");
        Ok(stream)
    }

    async fn echo(stream: &mut Tls) -> Result<()> {
        // A masked text frame of six bytes (RFC 6455 §5.2).
        let frame = *b"\x81\x86\x00\x00\x00\x00hello\n";
        stream.write_all(&frame).await?;
        stream.flush().await?;
        let mut back = [0; 12];
        stream.read_exact(&mut back).await?;
        if back != frame {
            bail!("not what was sent");
        }
        Ok(())
    }
}

impl Ask for WebSocket {
    async fn ask(&mut self) -> Fate {
        let reused = self.stream.take();
        let again = reused.is_some();
        let stream = match reused {
            Some(stream) => Ok(stream),
            None => self.open().await,
        };
        match stream {
            Ok(mut stream) => match Self::echo(&mut stream).await {
                Ok(()) => {
                    self.stream = Some(stream);
                    Fate::Answered
                }
                Err(_) if again => Fate::Race,
                Err(fault) => Fate::Hard(fault),
            },
            Err(fault) => Fate::Hard(fault),
        }
    }
}
