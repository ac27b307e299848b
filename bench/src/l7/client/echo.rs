//! A service for what nginx does not do: small answers after the whole body, and WebSockets that send
//! back what comes. Not a WebSocket server: frames are passed back as they are.
//!
//! Invariant: it never closes a connection first.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Where it listens.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    #[arg(long)]
    listen: SocketAddr,
}

/// The key of RFC 6455 §1.3, which our clients always use.
pub(super) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
    connection: Upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const ANSWER: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 6\r\n\r\nhello\n";

impl Plan {
    /// Serves until it is ended.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn run(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = TcpListener::bind(self.listen).await?;
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tokio::spawn(serve(stream));
            }
        })
    }
}

async fn serve(mut stream: TcpStream) -> Result<()> {
    let mut bytes = Vec::new();
    loop {
        while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            bytes.drain(..end + 4);
            if head.contains("\r\nupgrade: websocket") {
                stream.write_all(SWITCH.as_bytes()).await?;
                stream.write_all(&bytes).await?;
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await?;
                return Ok(());
            }
            let length = head.split("\r\ncontent-length:").nth(1);
            let length = length.and_then(|rest| rest.lines().next()?.trim().parse().ok());
            skip(&mut stream, &mut bytes, length.unwrap_or(0)).await?;
            stream.write_all(ANSWER.as_bytes()).await?;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

/// Takes a body in.
async fn skip(stream: &mut TcpStream, bytes: &mut Vec<u8>, length: usize) -> Result<()> {
    let early = bytes.len().min(length);
    bytes.drain(..early);
    let mut left = length - early;
    let mut scrap = vec![0; if left > 0 { 256 * 1024 } else { 0 }];
    while left > 0 {
        let most = left.min(scrap.len());
        let read = stream.read(&mut scrap[..most]).await?;
        ensure!(read > 0, "closed within a body");
        left -= read;
    }
    Ok(())
}
