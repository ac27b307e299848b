//! A client that speaks HTTP/2 frame by frame, lawful or not.

use std::path::Path;

use l7_gateway::Running;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::instance::connect;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RESET: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

/// A frame (RFC 9113 §4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The stream of a client's request.
pub(crate) fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// A field as it is, without a table and without Huffman (RFC 7541 §6.2.2).
pub(crate) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0][..], &text(name), &text(value)].concat()
}

/// RFC 7541 §5.2.
pub(crate) fn text(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match bytes.len().checked_sub(127) {
        None => out.push(bytes.len() as u8),
        Some(mut rest) => {
            out.push(127);
            while rest >= 128 {
                out.push((rest % 128 + 128) as u8);
                rest /= 128;
            }
            out.push(rest as u8);
        }
    }
    out.extend_from_slice(bytes);
    out
}

/// The head of `GET https://api.example/` by the static table (RFC 7541 Appendix A).
pub(crate) fn head() -> Vec<u8> {
    [&[0x82, 0x87, 0x84, 0x41, 11][..], b"api.example"].concat()
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// The client.
pub(crate) struct Client {
    io: TlsStream<TcpStream>,
    bytes: Vec<u8>,
}

impl Client {
    /// With these settings (RFC 9113 §6.5.1).
    pub(crate) async fn connect(folder: &Path, running: &Running, settings: &[u8]) -> Self {
        let io = connect(folder, running.listeners[0].1, b"h2").await;
        let mut client = Self { io, bytes: Vec::new() };
        let hello =
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, settings)[..]].concat();
        client.send(&hello).await.expect("taken");
        client
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// The next frame; `None`: the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Said> {
        loop {
            if let Some((head, rest)) = self.bytes.split_at_checked(9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                if let Some(payload) = rest.get(..length) {
                    let (kind, flags, payload) = (head[3], head[4], payload.to_vec());
                    self.bytes.drain(..9 + length);
                    return Some(Said { kind, flags, stream, payload });
                }
            }
            if !matches!(self.io.read_buf(&mut self.bytes).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// How a request ends.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Outcome {
        let mut status = None;
        while let Some(said) = self.next().await {
            let code = |at: usize| {
                said.payload.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
            };
            match said.kind {
                GOAWAY => return Outcome::Goodbye(code(4)),
                RESET if said.stream == stream => return Outcome::Reset(code(0)),
                HEADERS if said.stream == stream => {
                    status = status.or(Some(status_of(&said.payload)));
                }
                _ => {}
            }
            if said.stream == stream
                && matches!(said.kind, DATA | HEADERS)
                && said.flags & END_STREAM > 0
            {
                return Outcome::Answer(status.unwrap_or_default());
            }
        }
        Outcome::Ended
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With this status.
    Answer(u16),
    /// With this error.
    Reset(Option<u32>),
    /// With the connection, and this error.
    Goodbye(Option<u32>),
    /// With the connection.
    Ended,
}

/// The status by the static table (RFC 7541 Appendix A), or as digits behind its name.
fn status_of(block: &[u8]) -> u16 {
    match block {
        [0x88, ..] => 200,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [0x8e, ..] => 500,
        // Somewhere else: an error, whose digits may be compressed.
        _ => 499,
    }
}
