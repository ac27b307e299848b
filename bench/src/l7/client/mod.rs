//! Our own clients, each a process on the processor of the load: what `wrk` and `h2load` cannot do.
//! Not for judging what they find.
//!
//! Invariant: what was not answered in full is counted as failed, never as a result.

pub mod echo;
pub mod flood;
mod frames;
pub mod handshakes;
pub mod idle;
pub mod mixed;
pub mod pace;
mod tls;

use std::io::{Read, Write};
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use clap::Subcommand;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// A client and what it shall do.
#[derive(Clone, Debug, Subcommand)]
pub enum Client {
    /// Connects, shakes hands, asks once, closes; again and again.
    Handshakes(handshakes::Plan),
    /// Asks at a fixed pace.
    Pace(pace::Plan),
    /// Holds idle connections.
    Idle(idle::Plan),
    /// Attacks.
    Flood(flood::Plan),
    /// Four kinds of clients.
    Mixed(mixed::Plan),
    /// Serves.
    Echo(echo::Plan),
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Answered.
    pub done: u64,
    /// Not, or not with 200.
    pub failed: u64,
    /// For how long.
    pub seconds: f64,
    /// Median latency in µs.
    pub p50_us: f64,
    /// 99th percentile in µs.
    pub p99_us: f64,
    /// The first failure.
    pub fault: Option<String>,
}

impl Client {
    /// Does it and writes the outcome to standard output.
    ///
    /// # Errors
    /// When it cannot begin.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Handshakes(plan) => tell(&plan.run()?),
            Self::Pace(plan) => tell(&plan.run()?),
            Self::Idle(plan) => plan.run(),
            Self::Flood(plan) => tell(&plan.run()?),
            Self::Mixed(plan) => tell(&plan.run()?),
            Self::Echo(plan) => plan.run(),
        }
    }
}

fn tell(outcome: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(outcome)?)?;
    Ok(out.flush()?)
}

/// Latencies and failures as they come.
#[derive(Debug)]
struct Tally {
    latencies: Histogram<u64>,
    failed: u64,
    fault: Option<String>,
}

impl Tally {
    fn new() -> Result<Self> {
        // Up to a minute, in µs.
        Ok(Self {
            latencies: Histogram::new_with_bounds(1, 60_000_000, 3)?,
            failed: 0,
            fault: None,
        })
    }

    fn note(&mut self, nanos: u64) {
        self.latencies.saturating_record((nanos / 1000).max(1));
    }

    fn fail(&mut self, fault: &anyhow::Error) {
        self.failed += 1;
        self.fault.get_or_insert_with(|| format!("{fault:#}"));
    }

    fn add(&mut self, other: Self) -> Result<()> {
        self.failed += other.failed;
        self.fault = self.fault.take().or(other.fault);
        Ok(self.latencies.add(other.latencies)?)
    }

    fn outcome(&self, seconds: f64) -> Outcome {
        Outcome {
            done: self.latencies.len(),
            failed: self.failed,
            seconds,
            p50_us: self.latencies.value_at_quantile(0.5) as f64,
            p99_us: self.latencies.value_at_quantile(0.99) as f64,
            fault: self.fault.clone(),
        }
    }
}

/// A small request of HTTP/1.1 over a kept connection, with a token where one is given.
pub fn request(to: SocketAddr, token: Option<&str>) -> String {
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!("GET /api/user/profile HTTP/1.1\r\nhost: {to}\r\nuser-agent: bench\r\n{token}\r\n")
}

/// Asks over a kept connection and returns the answer's status.
///
/// # Errors
/// When the answer does not come whole.
pub fn ask(stream: &mut (impl Read + Write + ?Sized), request: &[u8]) -> Result<u16> {
    stream.write_all(request)?;
    stream.flush()?;
    let (mut bytes, mut filled) = ([0; 4096], 0);
    loop {
        let read = stream.read(&mut bytes[filled..])?;
        ensure!(read > 0, "closed before the answer");
        filled += read;
        if let Some(answer) = answer(&bytes[..filled]).filter(|answer| answer.length <= filled) {
            return Ok(answer.status);
        }
    }
}

/// How long the answer at the begin of `bytes` is; none while its head is not there, or it names no length.
pub(in crate::l7) fn length(bytes: &[u8]) -> Option<usize> {
    answer(bytes).map(|answer| answer.length)
}

/// An answer of HTTP/1.1 as far as it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// Bytes from its first to its last.
    length: usize,
}

/// The answer at the begin of `bytes`; none while its head is not there, or it names no length.
fn answer(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let body = if (100..200).contains(&status) {
        0
    } else {
        let mut fields = lines.filter_map(|line| line.split_once(':'));
        fields
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?
            .1
            .trim()
            .parse()
            .ok()?
    };
    Some(Answer { status, length: end + 4 + body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        assert_eq!(answer(whole), Some(Answer { status: 200, length: whole.len() }));
        assert_eq!(answer(&whole[..30]), None);
        let head = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";
        assert_eq!(answer(head), Some(Answer { status: 101, length: head.len() }));
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n"), None);
    }
}
