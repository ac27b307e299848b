//! Connections of many clients: many short ones, large transfers, small messages at a fixed pace,
//! idle ones and stalled ones. Not for datagrams.
//!
//! Invariant: a connection that failed is counted as failed, never as a result.

use std::io::{BufRead as _, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockRef, Socket, Type};

use super::clock::{now, pause};
use super::poll;
use super::server::{Wish, println_now};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Load {
    /// Connect, 64 bytes there and back, reset; again and again.
    Short,
    /// Read as much as comes.
    Download,
    /// Write as much as goes.
    Upload,
    /// 64 bytes there and back at a fixed pace over kept connections.
    PingPong,
    /// Connect, say a word, hold until standard input ends.
    Idle,
    /// Ask for bytes without end and read none, until standard input ends.
    Stalled,
}

impl Load {
    /// Whether it lasts until its input ends, and speaks before that.
    pub fn holds(self) -> bool {
        matches!(self, Self::Idle | Self::Stalled)
    }
}

/// How to do it.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// What to do.
    #[arg(long)]
    pub load: Load,
    /// Where to.
    #[arg(long)]
    pub to: SocketAddr,
    /// The first of 64 client addresses.
    #[arg(long)]
    pub from: Ipv4Addr,
    /// Connections at a time.
    #[arg(long, default_value_t = 8)]
    pub connections: u32,
    /// Messages or connections a second over all connections; 0: as many as go.
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// For how long, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    pub millis: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Connections, messages or bytes that came through.
    pub done: u64,
    /// Connections or messages that did not.
    pub failed: u64,
    /// For how long.
    pub seconds: f64,
    /// Median latency in µs.
    pub p50_us: f64,
    /// 99th percentile in µs.
    pub p99_us: f64,
}

/// Runs the plan. `Idle` and `Stalled` say how many stand, then wait for the end of standard input.
///
/// # Errors
/// When a load cannot be begun.
pub fn run(plan: &Plan) -> Result<Outcome> {
    match plan.load {
        Load::Short => Ok(short(plan)),
        Load::Download | Load::Upload => bulk(plan),
        Load::PingPong => ping_pong(plan),
        Load::Idle | Load::Stalled => hold(plan),
    }
}

/// A connection from the `number`th client address.
pub(super) fn connect(plan: &Plan, number: u32) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let from = Ipv4Addr::from_bits(plan.from.to_bits() + number % 64);
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    let patience = Duration::from_secs(5);
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    socket.connect_timeout(&plan.to.into(), patience)?;
    Ok(socket.into())
}

fn short(plan: &Plan) -> Outcome {
    let start = now();
    let end = start + plan.millis * 1_000_000;
    let total = AtomicU64::new(0);
    let workers: Vec<_> = thread::scope(|scope| {
        let spawn = |worker| {
            let total = &total;
            scope.spawn(move || short_worker(plan, worker, (start, end), total))
        };
        let workers: Vec<_> = (0..plan.connections).map(spawn).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).collect()
    });
    let seconds = (now() - start) as f64 / 1e9;
    let mut latency = Latency::new();
    let mut outcome = Outcome { seconds, ..Outcome::default() };
    for (of_worker, done, failed) in workers {
        latency.add(&of_worker);
        outcome.done += done;
        outcome.failed += failed;
    }
    latency.tell(&mut outcome);
    outcome
}

fn short_worker(
    plan: &Plan,
    worker: u32,
    (start, end): (u64, u64),
    total: &AtomicU64,
) -> (Latency, u64, u64) {
    let (mut latency, mut done, mut failed) = (Latency::new(), 0, 0);
    let mut number = worker;
    loop {
        let mut due = now();
        let place = total.fetch_add(1, Ordering::Relaxed);
        if let Some(since) = (place * 1_000_000_000).checked_div(plan.rate) {
            due = start + since;
            if due < end {
                pause(Duration::from_nanos(due.saturating_sub(now())));
            }
        }
        if due >= end || now() >= end {
            return (latency, done, failed);
        }
        number += plan.connections;
        match exchange(plan, number) {
            Ok(()) => {
                done += 1;
                latency.record(now() - due);
            }
            Err(_) => failed += 1,
        }
    }
}

fn exchange(plan: &Plan, number: u32) -> std::io::Result<()> {
    let mut stream = connect(plan, number)?;
    let mut bytes = [Wish::Echo as u8; 64];
    stream.write_all(&bytes)?;
    stream.read_exact(&mut bytes)?;
    // A RST leaves no port in TIME_WAIT.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

fn bulk(plan: &Plan) -> Result<Outcome> {
    let down = plan.load == Load::Download;
    let wish = if down { Wish::Source } else { Wish::Sink };
    let mut streams = Vec::new();
    for number in 0..plan.connections {
        let mut stream = connect(plan, number).context("connecting")?;
        stream.write_all(&[wish as u8])?;
        streams.push(stream);
    }
    let start = now();
    let end = start + plan.millis * 1_000_000;
    let bytes = AtomicU64::new(0);
    thread::scope(|scope| {
        for stream in &mut streams {
            let bytes = &bytes;
            scope.spawn(move || {
                let mut buffer = vec![3_u8; 256 << 10];
                while now() < end {
                    let moved = if down { stream.read(&mut buffer) } else { stream.write(&buffer) };
                    let Ok(count @ 1..) = moved else { return };
                    bytes.fetch_add(count as u64, Ordering::Relaxed);
                }
            });
        }
    });
    let seconds = (now() - start) as f64 / 1e9;
    for stream in &streams {
        SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(Outcome { done: bytes.into_inner(), seconds, ..Outcome::default() })
}

fn ping_pong(plan: &Plan) -> Result<Outcome> {
    let mut streams = Vec::new();
    for number in 0..plan.connections {
        let stream = connect(plan, number).context("connecting")?;
        stream.set_nonblocking(true)?;
        streams.push(stream);
    }
    let mut waiting: Vec<Option<u64>> = vec![None; streams.len()];
    let mut latency = Latency::new();
    let start = now();
    let (end, patience) = (start + plan.millis * 1_000_000, 500_000_000);
    let (mut outcome, mut next, mut sent) = (Outcome::default(), 0, 0_u64);
    loop {
        let clock = now();
        if clock > end && (waiting.iter().all(Option::is_none) || clock > end + patience) {
            break;
        }
        let due = (clock.min(end) - start) * plan.rate / 1_000_000_000;
        // Each on the next connection that is free; who finds none waits, and that counts.
        for _ in 0..streams.len() {
            if sent < due && waiting[next].is_none() {
                streams[next].write_all(&[Wish::Echo as u8; 64])?;
                waiting[next] = Some(start + sent * 1_000_000_000 / plan.rate);
                sent += 1;
            }
            next = (next + 1) % streams.len();
        }
        let until = start + (sent + 1) * 1_000_000_000 / plan.rate;
        let spare = Duration::from_nanos(until.saturating_sub(now()).clamp(1_000, 50_000_000));
        for ready in poll::which(&streams, spare) {
            let mut bytes = [0_u8; 64];
            match streams[ready].read(&mut bytes) {
                Ok(64) => {
                    outcome.done += 1;
                    latency.record(now() - waiting[ready].take().unwrap_or(start));
                }
                Err(fault) if fault.kind() == ErrorKind::WouldBlock => {}
                _ => outcome.failed += 1,
            }
        }
    }
    outcome.seconds = (end - start) as f64 / 1e9;
    outcome.failed += waiting.iter().flatten().count() as u64;
    latency.tell(&mut outcome);
    Ok(outcome)
}

fn hold(plan: &Plan) -> Result<Outcome> {
    let mut held = Vec::new();
    let mut outcome = Outcome::default();
    for number in 0..plan.connections {
        let begun = connect(plan, number).and_then(|mut stream| {
            if plan.load == Load::Stalled {
                stream.write_all(&[Wish::Source as u8])?;
            } else {
                let mut bytes = [Wish::Echo as u8; 64];
                stream.write_all(&bytes)?;
                stream.read_exact(&mut bytes)?;
            }
            Ok(stream)
        });
        match begun {
            Ok(stream) => held.push(stream),
            Err(_) => outcome.failed += 1,
        }
        // It will not get better, and each costs five seconds.
        if outcome.failed >= 10 {
            break;
        }
    }
    outcome.done = held.len() as u64;
    println_now(&serde_json::to_string(&outcome)?)?;
    let _ = std::io::stdin().lock().lines().next();
    for stream in &held {
        SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(outcome)
}

/// Latencies, to three digits, up to a minute.
#[derive(Debug)]
struct Latency(Option<Histogram<u64>>);

impl Latency {
    fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 60_000_000_000, 3).ok())
    }

    fn record(&mut self, nanos: u64) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(nanos);
        }
    }

    fn add(&mut self, other: &Self) {
        if let (Some(own), Some(other)) = (&mut self.0, &other.0) {
            let _ = own.add(other);
        }
    }

    fn tell(&self, outcome: &mut Outcome) {
        if let Some(histogram) = &self.0 {
            outcome.p50_us = histogram.value_at_quantile(0.5) as f64 / 1e3;
            outcome.p99_us = histogram.value_at_quantile(0.99) as f64 / 1e3;
        }
    }
}
