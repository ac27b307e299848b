//! Two servers, and clients that ask for whoever answers, again and again over new connections. Not for the tier
//! between them.
//!
//! Invariant: an answer counts at the moment when it is there, which is later than it was decided whom to ask.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::etcd::ask;
use super::tier::PROBE;
use crate::l4::clock::{now, pause};

/// The server that stays, and the one that comes and goes.
pub const SERVERS: [&str; 2] = ["127.0.78.42:21001", "127.0.78.42:21002"];

/// Clients at a time: more than workers, so that each worker has some.
const CLIENTS: usize = 4;

/// What the clients have seen.
#[derive(Debug, Default)]
struct Seen {
    /// When each server answered last.
    last: [AtomicU64; 2],
    failed: AtomicU64,
    ends: AtomicBool,
}

/// Servers and clients at work; they end with this.
#[derive(Debug)]
pub struct Traffic {
    seen: Arc<Seen>,
    clients: Vec<JoinHandle<()>>,
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.seen.ends.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ended = client.join();
        }
    }
}

/// Serves until this process ends.
///
/// # Errors
/// When the addresses are taken.
pub fn serve() -> Result<()> {
    for (at, name) in SERVERS.into_iter().zip(["0", "1"]) {
        let listener = TcpListener::bind(at)?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _broken = answer(stream, name);
            }
        });
    }
    Ok(())
}

/// One request, and the end.
fn answer(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (mut head, mut some) = (Vec::new(), [0; 1024]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut some)? {
            0 => return Ok(()),
            length => head.extend_from_slice(some.get(..length).unwrap_or_default()),
        }
    }
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{name}")
}

impl Traffic {
    /// Clients begin to ask.
    ///
    /// # Errors
    /// When the address of the tier is none.
    pub fn begin() -> Result<Self> {
        let seen = Arc::new(Seen::default());
        let at = PROBE.parse()?;
        let client = |_| {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || {
                while !seen.ends.load(Ordering::Relaxed) {
                    match ask(at, "GET", "/probe", &Value::Null) {
                        Ok(answer) if answer.ends_with("\r\n\r\n0") => seen.answered(0),
                        Ok(answer) if answer.ends_with("\r\n\r\n1") => seen.answered(1),
                        _ => {
                            seen.failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    pause(Duration::from_millis(1));
                }
            })
        };
        Ok(Self { clients: (0..CLIENTS).map(client).collect(), seen })
    }

    /// When a server answered last.
    pub fn last(&self, server: usize) -> u64 {
        self.seen.last.get(server).map_or(0, |last| last.load(Ordering::Relaxed))
    }

    /// How many requests had no answer.
    pub fn failed(&self) -> u64 {
        self.seen.failed.load(Ordering::Relaxed)
    }
}

impl Seen {
    fn answered(&self, server: usize) {
        if let Some(last) = self.last.get(server) {
            last.fetch_max(now(), Ordering::Relaxed);
        }
    }
}
