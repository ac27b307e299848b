//! A service whose answers take as long as their path says: `/wait/20`, in ms. Not for load.
//!
//! Invariant: each connection has a thread of its own, so that no answer waits for another.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::l4::clock::pause;

/// Where it listens.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    #[arg(long)]
    listen: SocketAddr,
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n{\"total\":12 }";

impl Plan {
    /// Serves until it is ended.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn run(&self) -> Result<()> {
        for stream in TcpListener::bind(self.listen)?.incoming() {
            let stream = stream?;
            std::thread::spawn(move || serve(stream));
        }
        Ok(())
    }
}

fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut bytes, mut filled) = ([0; 8192], 0);
    loop {
        let read = stream.read(bytes.get_mut(filled..).unwrap_or_default())?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let head = bytes.get(..filled).unwrap_or_default();
        if head.ends_with(b"\r\n\r\n") {
            pause(Duration::from_millis(wanted(head).unwrap_or(0)));
            stream.write_all(ANSWER.as_bytes())?;
            filled = 0;
        }
    }
}

/// How long a request wants to wait.
fn wanted(head: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    line.split(' ').nth(1)?.rsplit('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::client::length;

    #[test]
    fn a_path_says_how_long() {
        assert_eq!(wanted(b"GET /wait/20 HTTP/1.1\r\nhost: a\r\n\r\n"), Some(20));
        assert_eq!(wanted(b"GET /x HTTP/1.1\r\n\r\n"), None);
        assert_eq!(length(ANSWER.as_bytes()), Some(ANSWER.len()));
    }
}
