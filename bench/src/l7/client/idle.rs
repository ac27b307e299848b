//! Holds connections: one request on each, then nothing until standard input ends. Not for load.
//!
//! Invariant: a connection counts as held only when its request was answered.

use std::io::Read as _;
use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::handshakes::ask;
use super::{frames, request, tls};

/// How to do it.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Where to.
    #[arg(long)]
    to: SocketAddr,
    /// How many.
    #[arg(long, default_value_t = 5000)]
    connections: u32,
    /// Speak HTTP/2.
    #[arg(long)]
    http2: bool,
}

/// What is held.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// Connections whose request was answered.
    pub held: u32,
}

/// Connections that are made at a time.
const AT_A_TIME: usize = 50;

impl Plan {
    /// Makes them, says how many there are, and holds them.
    ///
    /// # Errors
    /// When it cannot begin.
    pub fn run(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let held = LocalSet::new().block_on(&runtime, self.make())?;
        let count = u32::try_from(held.len())?;
        super::tell(&Held { held: count })?;
        // Until whoever started it lets go.
        std::io::stdin().lock().read_to_end(&mut Vec::new())?;
        Ok(())
    }

    async fn make(&self) -> Result<Vec<TlsStream<TcpStream>>> {
        let protocol: &[u8] = if self.http2 { b"h2" } else { b"http/1.1" };
        let connector = TlsConnector::from(tls::config(protocol)?);
        let (mut making, mut held) = (JoinSet::<Result<_>>::new(), Vec::new());
        for _ in 0..self.connections {
            if making.len() >= AT_A_TIME {
                let made = making.join_next().await;
                held.extend(made.and_then(|made| made.ok()?.ok()));
            }
            making.spawn_local(one(self.to, connector.clone(), self.http2));
        }
        while let Some(made) = making.join_next().await {
            held.extend(made.ok().and_then(Result::ok));
        }
        Ok(held)
    }
}

async fn one(to: SocketAddr, connector: TlsConnector, http2: bool) -> Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let mut stream = connector.connect(tls::name(), stream).await?;
    if http2 {
        frames::ask(&mut stream).await?;
    } else {
        ask(&mut stream, request(to, None).as_bytes()).await?;
    }
    Ok(stream)
}
