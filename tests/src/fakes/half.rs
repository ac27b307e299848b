//! A service that gives half an answer and goes. Used by the tests.
//!
//! Invariant: what it sends before it goes is lawful as far as it reaches.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A running service.
#[derive(Debug)]
pub struct Half(JoinHandle<()>);

impl Half {
    /// The path says how it goes: `/length/…`, `/chunks/…` and `/open/…` (the connection's end ends the
    /// body) with `end` (FIN) or `reset`; any other path is answered as a whole.
    ///
    /// # Panics
    /// When the port is taken.
    pub async fn start(at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.expect("the service's port");
        Self(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
                while connections.try_join_next().is_some() {}
            }
        }))
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One request, one answer.
async fn serve(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
            return;
        }
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or_default();
    let answer = match path.split('/').nth(1) {
        Some("length") => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
        Some("chunks") => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        Some("open") => "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf",
        _ => "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nwhole",
    };
    // The peer may be gone; then there is nobody to disappoint.
    let _ = stream.write_all(answer.as_bytes()).await;
    if path.ends_with("/reset") {
        let _ = stream.set_zero_linger();
    }
}
