//! The servers behind the balancers: one program that answers on every endpoint address of its
//! namespace, UDP and TCP on one port. Not part of what is measured.
//!
//! A datagram says itself whether it wants to come back; a connection says by its first byte what
//! it wants (see [`Wish`]). Commands come by standard input, one a line; each is answered by a line.
//!
//! Invariant: a datagram is counted for its run once, whether or not it is sent back; the program
//! ends when its standard input does.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use common::net::batch::{Batch, Outgoing};
use common::net::bind::{self, Reuse};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::poll;
use super::wire::{ALIVE, Header};

/// What a run has brought so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Count {
    /// Datagrams.
    pub received: u64,
    /// How the last connection of this run ended, as the server saw it.
    pub ended: Option<Ending>,
    /// Bytes that this connection brought.
    pub bytes: u64,
    /// Datagrams per endpoint.
    pub endpoints: BTreeMap<Ipv4Addr, u64>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// By a FIN.
    Finished,
    /// By a RST.
    Reset,
}

/// What a connection asks for by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Wish {
    /// Everything comes back.
    Echo = b'E',
    /// Bytes without end.
    Source = b'S',
    /// Reads and says nothing.
    Sink = b'K',
    /// Reads to the FIN, then sends [`LARGE`] bytes and closes. Followed by the run.
    AfterEnd = b'A',
    /// Sends a byte and a FIN, then reads to the end and counts. Followed by the run.
    FirstEnd = b'F',
    /// Sends a byte, waits for one, resets. Followed by the run.
    Reset = b'R',
    /// Sends a byte and a FIN, waits for a byte, resets. Followed by the run.
    EndThenReset = b'T',
}

/// What is sent after a half-close.
pub const LARGE: usize = 10 << 20;

type Counts = Arc<Mutex<HashMap<u32, Count>>>;

/// Serves until standard input ends. `only`: nothing but this address; else all.
///
/// # Errors
/// When the port is taken.
pub fn serve(port: u16, only: Option<Ipv4Addr>) -> Result<()> {
    let address = SocketAddr::from((only.unwrap_or(Ipv4Addr::UNSPECIFIED), port));
    let counts = Counts::default();
    let udp = bind::udp(address, Reuse::No)?;
    let _ = socket2::SockRef::from(&udp).set_recv_buffer_size(32 << 20);
    let seen = Arc::clone(&counts);
    thread::spawn(move || datagrams(&udp, &seen));
    for listener in bind::tcp_group(address, 2.try_into()?)? {
        let seen = Arc::clone(&counts);
        thread::spawn(move || connections(listener, &seen));
    }
    println_now("ready")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let run: u32 = line.trim().parse().context("a command is the number of a run")?;
        let count = counts.lock().ok().and_then(|mut counts| counts.remove(&run));
        println_now(&serde_json::to_string(&count.unwrap_or_default())?)?;
    }
    Ok(())
}

/// A line to whoever started this process.
///
/// # Errors
/// When nobody reads any more.
pub fn println_now(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn datagrams(socket: &std::net::UdpSocket, counts: &Counts) {
    let mut batch = Batch::new();
    let own = socket.local_addr().map(|address| address.ip());
    let mut signed: Vec<(Vec<u8>, SocketAddr, Option<IpAddr>)> = Vec::new();
    loop {
        batch.clear();
        if batch.receive(socket).is_err() {
            poll::readable(socket, Duration::from_secs(1));
            continue;
        }
        signed.clear();
        let Ok(mut counts) = counts.lock() else { return };
        for (arrival, bytes) in batch.iter() {
            if bytes == ALIVE.as_bytes() {
                signed.push((bytes.to_vec(), arrival.peer, arrival.local));
            }
            let Some(header) = Header::read(bytes) else { continue };
            let count = counts.entry(header.run).or_default();
            count.received += 1;
            let local = arrival.local.or(own.as_ref().ok().copied());
            if let Some(IpAddr::V4(endpoint)) = local {
                *count.endpoints.entry(endpoint).or_default() += 1;
            }
            if let (true, Some(local)) = (header.echo, local) {
                let mut bytes = bytes.to_vec();
                Header::sign(&mut bytes, local);
                signed.push((bytes, arrival.peer, arrival.local));
            }
        }
        drop(counts);
        let out: Vec<_> = signed
            .iter()
            .map(|(bytes, to, from)| Outgoing { bytes, to: *to, from: *from })
            .collect();
        poll::send_all(socket, &out);
    }
}

fn connections(listener: std::net::TcpListener, counts: &Counts) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            tokio::task::spawn_local(connection(stream, Arc::clone(counts)));
        }
    });
}

async fn connection(mut stream: TcpStream, counts: Counts) {
    let mut first = [0_u8; 64];
    let Ok(length @ 1..) = stream.read(&mut first).await else { return };
    let first = &first[..length];
    let run = first.get(1..5).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
    match first[0] {
        b'S' => {
            let bytes = vec![7_u8; 256 << 10];
            while stream.write_all(&bytes).await.is_ok() {}
        }
        b'K' => {
            let mut bytes = vec![0_u8; 256 << 10];
            while matches!(stream.read(&mut bytes).await, Ok(1..)) {}
        }
        b'A' | b'F' | b'R' | b'T' => {
            let (ended, bytes) = scripted(stream, first[0]).await;
            if let Ok(mut counts) = counts.lock() {
                let count = counts.entry(run).or_default();
                (count.ended, count.bytes) = (Some(ended), bytes);
            }
        }
        _ => echo(stream, first).await,
    }
}

async fn echo(mut stream: TcpStream, first: &[u8]) {
    if stream.write_all(first).await.is_err() {
        return;
    }
    // Memory of the server is not of interest, system calls are.
    let mut bytes = [0_u8; 2048];
    while let Ok(length @ 1..) = stream.read(&mut bytes).await {
        if stream.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

async fn scripted(mut stream: TcpStream, wish: u8) -> (Ending, u64) {
    match wish {
        b'A' => {
            let seen = drain(&mut stream).await;
            let _ = stream.write_all(&vec![9_u8; LARGE]).await;
            let _ = stream.shutdown().await;
            seen
        }
        b'F' => {
            let _ = stream.write_all(b"!").await;
            let _ = stream.shutdown().await;
            drain(&mut stream).await
        }
        wish => {
            let _ = stream.write_all(b"!").await;
            if wish == b'T' {
                let _ = stream.shutdown().await;
            }
            let _ = stream.read(&mut [0_u8; 1]).await;
            reset(&stream);
            (Ending::Reset, 0)
        }
    }
}

/// Closing will send a RST.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

async fn drain(stream: &mut TcpStream) -> (Ending, u64) {
    let mut bytes = vec![0_u8; 64 << 10];
    let mut total = 0;
    loop {
        match stream.read(&mut bytes).await {
            Ok(0) => return (Ending::Finished, total),
            Ok(length) => total += length as u64,
            Err(_) => return (Ending::Reset, total),
        }
    }
}
