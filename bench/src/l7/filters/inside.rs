//! A gateway's worker in this process, one client of it and one service behind it, all on one thread: what is counted
//! is the same at every run. Not for counting: `count` does. Run by this program itself.
//!
//! Invariant: one request is under way at a time, over one kept connection to each side.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use common::lifecycle::Lifecycle;
use common::observe::Observer;
use common::snapshot::Published;
use l7_gateway::access_log::Sink;
use l7_gateway::connection::Worker;
use l7_gateway::snapshot::Snapshot;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

use crate::l7::client::length;

/// What to ask for.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// The topology file; SERVICE in it is the service.
    #[arg(long)]
    topology: PathBuf,
    /// The path that is asked for.
    #[arg(long)]
    path: String,
    /// How many times.
    #[arg(long)]
    requests: u32,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Time outside of the kernel, of all requests, in µs.
    pub user_us: i64,
}

/// Requests before those that are timed.
const WARM: u32 = 50;

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-old: 1\r\nx-secret: 2\r\n\
    content-length: 72\r\n\r\n\
    {\"id\":7,\"name\":\"livia\",\"cost\":12.5,\"items\":[{\"id\":1},{\"id\":2},{\"id\":3}]}";

impl Plan {
    /// Asks.
    ///
    /// # Errors
    /// When the file has problems, or an answer is no 200.
    pub fn run(&self) -> Result<Outcome> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, self.ask())
    }

    async fn ask(&self) -> Result<Outcome> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let text = std::fs::read_to_string(&self.topology)?;
        let text = text.replace("SERVICE", &listener.local_addr()?.to_string());
        let folder = self.topology.parent().context("no folder")?;
        let topology = topology::parse("filters.yaml", &text, folder);
        let topology = topology.map_err(|problems| anyhow!("{problems}"))?;
        let (group, instance) = topology.gateway("gw").context("no instance gw")?;
        let observer = Observer::new("gw");
        let snapshot = Snapshot::build(group, &instance.name, &observer, None)?;
        let sink = Sink::new(&instance.name, None, Arc::default(), &observer.metrics);
        let worker = Worker::new(Arc::new(Published::new(snapshot)), sink, observer);
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawn_local(serve(stream));
            }
        });
        let (mut ours, theirs) = duplex(64 * 1024);
        let (from, lifecycle) = ("192.0.2.7:40000".parse()?, Lifecycle::new());
        let shutdown = lifecycle.shutdown();
        spawn_local(async move { worker.serve(theirs, from, shutdown).await });
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: api.example\r\nuser-agent: bench\r\naccept: */*\r\n\
             origin: https://app.example\r\nx-shop: shop-7\r\nx-debug: 1\r\nx-a: 1\r\n\r\n",
            self.path
        );
        for _ in 0..WARM {
            one(&mut ours, request.as_bytes()).await?;
        }
        let before = user_us()?;
        for _ in 0..self.requests {
            one(&mut ours, request.as_bytes()).await?;
        }
        Ok(Outcome { user_us: user_us()? - before })
    }
}

fn user_us() -> Result<i64> {
    Ok(getrusage(UsageWho::RUSAGE_SELF)?.user_time().num_microseconds())
}

/// One request and its whole answer.
async fn one(stream: &mut DuplexStream, request: &[u8]) -> Result<()> {
    stream.write_all(request).await?;
    let (mut bytes, mut filled) = ([0; 4096], 0);
    loop {
        let room = bytes.get_mut(filled..).context("a long answer")?;
        let read = stream.read(room).await?;
        ensure!(read > 0, "closed before the answer");
        filled += read;
        let have = bytes.get(..filled).unwrap_or_default();
        if length(have).is_some_and(|whole| whole <= filled) {
            ensure!(have.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(have));
            return Ok(());
        }
    }
}

/// Answers every request in the same way.
async fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::with_capacity(4096);
    while stream.read_buf(&mut bytes).await? > 0 {
        if bytes.ends_with(b"\r\n\r\n") {
            bytes.clear();
            stream.write_all(ANSWER.as_bytes()).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        assert_eq!(length(ANSWER.as_bytes()), Some(ANSWER.len()));
    }
}
