//! Datagrams of many clients at a fixed pace, and the echoes that come back. Not for TCP.
//!
//! The pace is open loop: a datagram is sent when it is due, whatever came back, and its latency
//! counts from when it was due.
//!
//! Invariant: an echo counts only for the flow whose address and port it arrived at.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use common::net::batch::{Batch, Outgoing};
use common::net::bind::{self, Reuse};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::clock::{now, pause};
use super::poll;
use super::wire::{Header, LENGTH};

/// What to send.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Where to.
    #[arg(long)]
    pub to: SocketAddr,
    /// The first client address; the others follow.
    #[arg(long)]
    pub from: Ipv4Addr,
    /// Client addresses.
    #[arg(long, default_value_t = 64)]
    pub clients: u32,
    /// Flows of each client address, by port.
    #[arg(long, default_value_t = 1)]
    pub ports: u16,
    /// The first of these ports.
    #[arg(long, default_value_t = 20_000)]
    pub first_port: u16,
    /// Datagrams a second; 0: as many as go.
    #[arg(long)]
    pub rate: u64,
    /// For how long, in milliseconds.
    #[arg(long)]
    pub millis: u64,
    /// Bytes of a datagram.
    #[arg(long, default_value_t = 64)]
    pub size: usize,
    /// Whether they come back.
    #[arg(long)]
    pub echo: bool,
    /// Report every flow.
    #[arg(long)]
    pub track: bool,
    /// The number of the run.
    #[arg(long)]
    pub run: u32,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// When it began, on [`super::clock`].
    pub start: u64,
    /// Datagrams that were sent.
    pub sent: u64,
    /// Time from the first to the last of them.
    pub seconds: f64,
    /// Echoes.
    pub received: u64,
    /// Echoes that were another flow's.
    pub wrong: u64,
    /// Echoes that came more than once.
    pub twice: u64,
    /// Median latency in µs.
    pub p50_us: f64,
    /// 99th percentile in µs.
    pub p99_us: f64,
    /// Per flow, where asked for.
    pub flows: BTreeMap<u32, Flow>,
}

/// What one flow saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Flow {
    /// Echoes.
    pub received: u64,
    /// The endpoints that answered, each with when (in ms of the run) it first did.
    pub homes: Vec<(Ipv4Addr, f64)>,
    /// The longest time between two echoes, in ms.
    pub gap_ms: f64,
    /// The last echo, in ms of the run.
    pub last_ms: f64,
    next: u64,
}

struct Sender<'a> {
    plan: &'a Plan,
    sockets: &'a [UdpSocket],
    start: u64,
}

/// Runs the plan.
///
/// # Errors
/// When the sockets cannot be made.
pub fn run(plan: &Plan) -> Result<Outcome> {
    ensure!(plan.size >= LENGTH && plan.size <= 1472, "a datagram has {LENGTH} to 1472 bytes");
    let sockets: Vec<UdpSocket> = (0..plan.ports)
        .map(|number| {
            let any = (Ipv4Addr::UNSPECIFIED, plan.first_port + number);
            let socket = bind::udp(any.into(), Reuse::No)?;
            let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(32 << 20);
            Ok(socket)
        })
        .collect::<std::io::Result<_>>()?;
    let (sent, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let sender = Sender { plan, sockets: &sockets, start: now() };
    thread::scope(|scope| {
        let receiver = plan.echo.then(|| scope.spawn(|| receive(&sender, &sent, &done)));
        let seconds = sender.send(&sent);
        done.store(true, Ordering::Release);
        let outcome =
            receiver.map_or_else(|| Ok(Outcome::default()), thread::ScopedJoinHandle::join);
        let mut outcome = outcome.unwrap_or_default();
        outcome.start = sender.start;
        (outcome.sent, outcome.seconds) = (sent.load(Ordering::Relaxed), seconds);
        Ok(outcome)
    })
}

impl Sender<'_> {
    fn send(&self, sent: &AtomicU64) -> f64 {
        let plan = self.plan;
        let length = plan.millis * 1_000_000;
        let mut bytes = vec![vec![0x5a_u8; plan.size]; Batch::CAPACITY];
        let mut number = 0;
        loop {
            let elapsed = now() - self.start;
            if elapsed >= length {
                return elapsed as f64 / 1e9;
            }
            let due = if plan.rate == 0 {
                number + Batch::CAPACITY as u64
            } else {
                (u128::from(elapsed) * u128::from(plan.rate) / 1_000_000_000) as u64
            };
            while number < due {
                let (count, went) = self.burst(number, due, &mut bytes);
                number += count;
                sent.fetch_add(went, Ordering::Relaxed);
            }
            if plan.rate > 0 {
                pause(Duration::from_micros(200));
            }
        }
    }

    /// Sends what is due from one socket; says how many were due and how many went.
    fn burst(&self, number: u64, due: u64, bytes: &mut [Vec<u8>]) -> (u64, u64) {
        let plan = self.plan;
        let clients = u64::from(plan.clients);
        let flows = clients * u64::from(plan.ports);
        let flow = number % flows;
        let port = (flow / clients) as usize;
        // One socket has `clients` flows, one after the other.
        let alone = if plan.ports == 1 { u64::MAX } else { clients - flow % clients };
        let count = (due - number).min(alone).min(Batch::CAPACITY as u64);
        let clock = now();
        let mut out = Vec::with_capacity(Batch::CAPACITY);
        for (number, bytes) in (number..number + count).zip(bytes) {
            let flow = (number % flows) as u32;
            let exact = u128::from(number) * 1_000_000_000;
            let when = exact.checked_div(u128::from(plan.rate)).map(|since| since as u64);
            let due = when.map_or(clock, |since| self.start + since);
            let sequence = number / flows;
            let header =
                Header { echo: plan.echo, run: plan.run, flow, sequence, due, endpoint: None };
            header.write(bytes);
            let from = Ipv4Addr::from_bits(plan.from.to_bits() + flow % plan.clients);
            out.push(Outgoing { bytes, to: plan.to, from: Some(IpAddr::V4(from)) });
        }
        (count, poll::send_all(&self.sockets[port], &out))
    }
}

fn receive(sender: &Sender<'_>, sent: &AtomicU64, done: &AtomicBool) -> Outcome {
    let plan = sender.plan;
    let mut outcome = Outcome::default();
    // Up to a minute in ns, three digits exact.
    let Ok(mut latency) = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3) else {
        return outcome;
    };
    let mut batch = Batch::new();
    loop {
        let over = done.load(Ordering::Acquire);
        if over && outcome.received >= sent.load(Ordering::Relaxed) {
            break;
        }
        // After the last one is sent: what is not there in 100 ms is lost.
        let patience = if over { 100 } else { 20 };
        let ready = poll::which(sender.sockets, Duration::from_millis(patience));
        if ready.is_empty() && over {
            break;
        }
        for port in ready {
            let socket = &sender.sockets[port];
            batch.clear();
            if batch.receive(socket).is_err() {
                continue;
            }
            let clock = now();
            for (arrival, bytes) in batch.iter() {
                let Some(header) = Header::read(bytes).filter(|header| header.run == plan.run)
                else {
                    continue;
                };
                let flow = header.flow;
                let client = Ipv4Addr::from_bits(plan.from.to_bits() + flow % plan.clients);
                let own = arrival.local == Some(IpAddr::V4(client))
                    && port == (flow / plan.clients) as usize;
                if !own {
                    outcome.wrong += 1;
                    continue;
                }
                outcome.received += 1;
                latency.saturating_record(clock.saturating_sub(header.due));
                if plan.track {
                    let at = (clock - sender.start) as f64 / 1e6;
                    outcome.twice += outcome.flows.entry(flow).or_default().note(&header, at);
                }
            }
        }
    }
    outcome.p50_us = latency.value_at_quantile(0.5) as f64 / 1e3;
    outcome.p99_us = latency.value_at_quantile(0.99) as f64 / 1e3;
    outcome
}

impl Flow {
    /// Takes note of an echo; says 1 when it had been there already.
    fn note(&mut self, header: &Header, at: f64) -> u64 {
        if self.received > 0 {
            self.gap_ms = self.gap_ms.max(at - self.last_ms);
        }
        (self.received, self.last_ms) = (self.received + 1, at);
        if let Some(endpoint) = header.endpoint
            && self.homes.last().is_none_or(|(last, _)| *last != endpoint)
        {
            self.homes.push((endpoint, at));
        }
        let twice = header.sequence + 1 == self.next;
        self.next = self.next.max(header.sequence + 1);
        u64::from(twice)
    }
}
