//! A service for the case of reloads: small answers over kept connections, and WebSockets that send
//! back what comes. Not a WebSocket server: frames are passed back as they are.
//!
//! Invariant: it never closes a connection first.

use std::net::SocketAddr;

use anyhow::Result;
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
            stream.write_all(ANSWER.as_bytes()).await?;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}
