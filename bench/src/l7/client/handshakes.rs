//! Connects, shakes hands in full, asks once, closes. Not for kept connections.
//!
//! Invariant: no session is resumed.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Result, ensure};
use clap::Args;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

use super::{Outcome, Tally, answer, request, tls};
use crate::l4::clock::now;

/// How to do it.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Where to.
    #[arg(long)]
    to: SocketAddr,
    /// At a time.
    #[arg(long, default_value_t = 32)]
    parallel: u32,
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tally = Rc::new(RefCell::new(Tally::new()?));
        let connector = TlsConnector::from(tls::config(b"http/1.1")?);
        let begin = now();
        let end = begin + self.millis * 1_000_000;
        let tasks = LocalSet::new();
        for _ in 0..self.parallel {
            let (to, tally, connector) = (self.to, Rc::clone(&tally), connector.clone());
            tasks.spawn_local(async move {
                while now() < end {
                    let begin = now();
                    match once(to, &connector).await {
                        Ok(()) => tally.borrow_mut().note(now() - begin),
                        Err(fault) => tally.borrow_mut().fail(&fault),
                    }
                }
            });
        }
        runtime.block_on(tasks);
        Ok(tally.borrow().outcome((now() - begin) as f64 / 1e9))
    }
}

async fn once(to: SocketAddr, connector: &TlsConnector) -> Result<()> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let mut stream = connector.connect(tls::name(), stream).await?;
    ask(&mut stream, request(to, None).as_bytes()).await
}

/// Asks once and reads the answer to its end.
pub(super) async fn ask<IO>(stream: &mut IO, request: &[u8]) -> Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(request).await?;
    stream.flush().await?;
    let mut bytes = Vec::with_capacity(1024);
    loop {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "closed before the answer");
        if let Some(answer) = answer(&bytes).filter(|answer| answer.length <= bytes.len()) {
            ensure!(answer.status == 200, "status {}", answer.status);
            return Ok(());
        }
    }
}
