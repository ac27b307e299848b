//! Asks at a fixed pace over kept connections, whether answers come or not. Not for the most that
//! goes.
//!
//! Invariant: an answer that is late makes those behind it late too: they count from when they were
//! due.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use rustls::{ClientConnection, StreamOwned};

use super::{Outcome, Tally, ask, request, tls};
use crate::l4::clock::{now, pause};

/// How to do it.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Where to.
    #[arg(long)]
    to: SocketAddr,
    /// Over TLS.
    #[arg(long)]
    tls: bool,
    /// Shown with each request.
    #[arg(long)]
    token: Option<String>,
    /// Requests a second over all connections.
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Kept connections.
    #[arg(long, default_value_t = 16)]
    connections: u64,
    /// For how long, in milliseconds.
    #[arg(long, default_value_t = 3000)]
    millis: u64,
}

impl Plan {
    /// Does it.
    ///
    /// # Errors
    /// When it cannot begin.
    pub fn run(&self) -> Result<Outcome> {
        let begin = now() + 50_000_000;
        let threads = (0..self.connections).map(|number| {
            let plan = self.clone();
            thread::spawn(move || plan.talk(begin, number))
        });
        let mut all = Tally::new()?;
        for thread in threads.collect::<Vec<_>>() {
            let Ok(tally) = thread.join() else { anyhow::bail!("a thread ended in a panic") };
            all.add(tally?)?;
        }
        Ok(all.outcome(self.millis as f64 / 1e3))
    }

    fn talk(&self, begin: u64, number: u64) -> Result<Tally> {
        let mut tally = Tally::new()?;
        let gap = 1_000_000_000 * self.connections / self.rate;
        let mut due = begin + gap * number / self.connections;
        let end = begin + self.millis * 1_000_000;
        let request = request(self.to, self.token.as_deref());
        let mut stream = None;
        let mut free = 0;
        while due < end {
            pause(Duration::from_nanos(due.saturating_sub(now())));
            let since = if free > due { due } else { now() };
            let asked = self.ask_over(&mut stream, request.as_bytes());
            free = now();
            match asked {
                Ok(()) => tally.note(free - since),
                Err(fault) => {
                    tally.fail(&fault);
                    stream = None;
                }
            }
            due += gap;
        }
        Ok(tally)
    }

    fn ask_over(&self, stream: &mut Option<Box<dyn Stream>>, request: &[u8]) -> Result<()> {
        let stream = match stream {
            Some(stream) => stream,
            None => stream.insert(self.connect()?),
        };
        let status = ask(stream, request)?;
        ensure!(status == 200, "status {status}");
        Ok(())
    }

    fn connect(&self) -> Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        if !self.tls {
            return Ok(Box::new(stream));
        }
        let session = ClientConnection::new(tls::config(b"http/1.1")?, tls::name())?;
        Ok(Box::new(StreamOwned::new(session, stream)))
    }
}

trait Stream: Read + Write {}
impl<IO: Read + Write> Stream for IO {}
