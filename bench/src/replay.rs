//! How fast `aqueduct replay` itself is: against sinks that do as little as can be, on the same cores.
//! Not about any tier. Run by the program `replay`.
//!
//! Invariant: a rate counts only when the generator kept its own schedule at it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use common::net::batch::Batch;
use common::net::bind::{Reuse, udp};
use http_body_util::Full;
use hyper::Response;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use crate::process::beside;

/// What one run of the tool said.
#[derive(Clone, Debug)]
pub struct Run {
    /// Sent per second.
    pub rate: f64,
    /// Of those that were asked for, percent sent over 3 ms late.
    pub late_percent: f64,
    /// Difference between the schedule and the send, 99th percentile in ms.
    pub error_p99_ms: f64,
    /// Latency of answers, where there are any, 99th percentile in ms.
    pub p99_ms: Option<f64>,
}

/// Which traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Datagrams to a socket that is read and never answers.
    Udp,
    /// HTTPS requests over kept HTTP/1.1 connections.
    Https,
    /// HTTPS requests over kept HTTP/2 connections, many at a time on each.
    Http2,
}

/// Runs the tool at a rate for so many seconds.
///
/// # Errors
/// It fails, or says nothing that can be read.
pub fn run(kind: Kind, sink: SocketAddr, rate: f64, seconds: f64, folder: &Path) -> Result<Run> {
    let json = folder.join("report.json");
    let mut command = Command::new(beside("aqueduct")?);
    command.arg("replay");
    match kind {
        Kind::Udp => {
            let players = 500.0;
            let each = (rate / players).to_string();
            command.args(["udp", "--target", &sink.to_string(), "--players", "500"]);
            command.args(["--rate", &each, "--size", "80..220", "--wait", "0"]);
        }
        Kind::Https | Kind::Http2 => {
            let url = format!("https://localhost:{}/api", sink.port());
            command.args(["https", "--url", &url, "--anonymous", "--rate", &rate.to_string()]);
            command.arg("--ca").arg(folder.join("ca.pem"));
            if kind == Kind::Http2 {
                command.args(["--http", "2", "--connections", "8"]);
            }
        }
    }
    command.args(["--seconds", &seconds.to_string(), "--json"]).arg(&json);
    let output = command.output().context("starting aqueduct")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&json)?)?;
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64);
    let sent = number("/sent").or_else(|| number("/requests")).context("nothing was sent")?;
    let failed = number("/errors_percent").unwrap_or(0.0);
    ensure!(failed == 0.0, "{failed} % of the requests failed");
    Ok(Run {
        rate: sent / number("/seconds").context("no time")?,
        late_percent: number("/late_percent").context("no lateness")?,
        error_p99_ms: number("/lateness_ms/p99").context("no lateness")?,
        p99_ms: number("/figures/p99"),
    })
}

/// What the machine itself costs a schedule, whoever keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Percent of all moments that a thread which does nothing else comes to over 3 ms late.
    pub late_percent: f64,
    /// How late it comes, 99th percentile in ms.
    pub error_p99_ms: f64,
}

/// Watches the clock on every core at once for so many seconds: what is missed there, nobody keeps.
pub fn machine(seconds: f64) -> Machine {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let watches: Vec<_> = (0..cores).map(|_| std::thread::spawn(move || watch(seconds))).collect();
    let mut late: Vec<f64> =
        watches.into_iter().filter_map(|watch| watch.join().ok()).flatten().collect();
    late.sort_by(f64::total_cmp);
    let over = late.iter().filter(|late| **late > 0.003).count();
    let p99 = late.get(late.len() * 99 / 100).copied().unwrap_or_default();
    Machine {
        late_percent: 100.0 * over as f64 / late.len().max(1) as f64,
        error_p99_ms: p99 * 1e3,
    }
}

/// How late each moment of a schedule was seen, one every 20 microseconds.
fn watch(seconds: f64) -> Vec<f64> {
    const STEP: f64 = 20e-6;
    let (start, mut due, mut late) = (tokio::time::Instant::now(), 0.0, Vec::new());
    while due < seconds {
        let now = start.elapsed().as_secs_f64();
        while due <= now {
            late.push(now - due);
            due += STEP;
        }
    }
    late
}

/// Reads datagrams on a thread of its own until the process ends.
///
/// # Errors
/// No socket.
pub fn udp_sink() -> Result<SocketAddr> {
    let socket = udp("127.0.0.1:0".parse()?, Reuse::No)?;
    let address = socket.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let Ok(socket) = tokio::net::UdpSocket::from_std(socket) else { return };
            let mut batch = Batch::new();
            while socket.readable().await.is_ok() {
                batch.clear();
                let read = socket.try_io(tokio::io::Interest::READABLE, || batch.receive(&socket));
                if read.is_err_and(|fault| fault.kind() != io::ErrorKind::WouldBlock) {
                    return;
                }
            }
        });
    });
    Ok(address)
}

/// Answers every request with the same two bytes, over TLS, on a thread of its own: over HTTP/2 where the
/// client asks for it.
///
/// # Errors
/// No certificate or no socket.
pub fn https_sink(folder: &Path) -> Result<SocketAddr> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    std::fs::write(folder.join("ca.pem"), made.cert.pem())?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|fault| anyhow::anyhow!("{fault}"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                let _small = stream.set_nodelay(true);
                tokio::spawn(answer(acceptor.clone(), stream));
            }
        });
    });
    Ok(address)
}

async fn answer(acceptor: TlsAcceptor, stream: tokio::net::TcpStream) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let ok = |_| async { Ok::<_, Infallible>(Response::new(Full::new(&b"ok"[..]))) };
        let served = http2::Builder::new(TokioExecutor::new());
        let served = served.serve_connection(TokioIo::new(stream), service_fn(ok)).await;
        return served.map_err(io::Error::other);
    }
    let (mut head, mut filled) = (vec![0; 16 << 10], 0);
    loop {
        let Some(room) = head.get_mut(filled..).filter(|room| !room.is_empty()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let read = stream.read(room).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        if head.get(..filled).is_some_and(|head| head.ends_with(b"\r\n\r\n")) {
            filled = 0;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
            stream.flush().await?;
        }
    }
}
