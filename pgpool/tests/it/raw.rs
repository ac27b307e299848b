//! A client that speaks in bytes, and messages to say. Not for what a driver does. Used by tests that
//! must send what no driver sends, or stop where none stops.
//!
//! Invariant: every message that comes is kept whole, in order.

use pgpool_wire::backend;
use pgpool_wire::frame::{self, Found};
use pgpool_wire::frontend;
use pgpool_wire::startup::{CancelKey, V3_0, Version, put_cancel, put_startup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One message of a server: type byte and body.
pub(crate) type Message = (u8, Vec<u8>);

/// Nothing takes so long: a test that waits for an answer that never comes says so.
const TOO_LONG: std::time::Duration = std::time::Duration::from_secs(120);

/// A client that speaks in bytes.
pub(crate) struct Raw {
    /// Its socket.
    pub(crate) socket: TcpStream,
    port: u16,
    input: Vec<u8>,
    at: usize,
    /// Cancels its queries.
    pub(crate) key: CancelKey,
}

impl Raw {
    /// Logs in as `open` to `shop`.
    pub(crate) async fn login(port: u16) -> Self {
        Self::login_with(port, &[]).await
    }

    /// The same with more startup parameters.
    pub(crate) async fn login_with(port: u16, more: &[(&str, &str)]) -> Self {
        Self::login_as(V3_0, port, more).await
    }

    /// The same by a version of the protocol.
    pub(crate) async fn login_as(version: Version, port: u16, more: &[(&str, &str)]) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).await.expect("open");
        socket.set_nodelay(true).expect("a socket option");
        let mut hello = Vec::new();
        let named = |name: &str| more.iter().any(|(other, _)| *other == name);
        let who = [("user", "open"), ("database", "shop")];
        let who: Vec<_> = who.into_iter().filter(|(name, _)| !named(name)).collect();
        put_startup(&mut hello, version, &[&who[..], more].concat());
        let key = CancelKey { pid: 0, secret: Vec::new() };
        let mut raw = Self { socket, port, input: Vec::new(), at: 0, key };
        raw.socket.write_all(&hello).await.expect("sent");
        let messages = raw.until_ready(1).await;
        let key = messages.iter().find(|(tag, _)| *tag == b'K');
        let (_, key) = key.unwrap_or_else(|| panic!("no login: {}", text(&messages)));
        raw.key = backend::key(key).expect("a key");
        raw
    }

    /// Sends.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // It may have been closed: the answers tell.
        let _ = self.socket.write_all(bytes).await;
    }

    /// Sends and reads up to ReadyForQuery: type bytes, and everything.
    pub(crate) async fn ask(&mut self, bytes: &[u8]) -> (String, Vec<u8>) {
        self.send(bytes).await;
        let messages = self.until_ready(1).await;
        let mut all = Vec::new();
        for (tag, body) in &messages {
            frame::put(&mut all, *tag, |out| out.extend_from_slice(body));
        }
        (tags(&messages), all)
    }

    /// Everything up to and with so many ReadyForQuery; shorter when the connection has ended.
    pub(crate) async fn until_ready(&mut self, count: usize) -> Vec<Message> {
        let (mut all, mut seen) = (Vec::new(), 0);
        while seen < count {
            let Some(message) = self.message().await else { break };
            seen += usize::from(message.0 == b'Z');
            all.push(message);
        }
        all
    }

    /// The front of a message whose end did not come.
    pub(crate) fn left_over(&self) -> &[u8] {
        &self.input[self.at..]
    }

    /// The next message; `None`: the connection has ended.
    pub(crate) async fn message(&mut self) -> Option<Message> {
        loop {
            let rest = &self.input[self.at..];
            if let Found::Whole(frame) = frame::next(rest, 1 << 26).expect("a server's message") {
                let message = (frame.tag, frame.body.to_vec());
                self.at += frame.raw.len();
                return Some(message);
            }
            self.input.drain(..self.at);
            self.at = 0;
            let read = tokio::time::timeout(TOO_LONG, self.socket.read_buf(&mut self.input)).await;
            if !matches!(read.expect("an answer or an end"), Ok(count) if count > 0) {
                return None;
            }
        }
    }

    /// Sends a cancel request for what this client runs, and waits until it was taken.
    pub(crate) async fn cancel(port: u16, key: &CancelKey) {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.expect("open");
        let mut out = Vec::new();
        put_cancel(&mut out, key);
        socket.write_all(&out).await.expect("sent");
        let _ = socket.read(&mut [0; 1]).await;
    }

    /// Where it is connected to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// Type bytes.
pub(crate) fn tags(messages: &[Message]) -> String {
    messages.iter().map(|(tag, _)| *tag as char).collect()
}

/// For a person.
pub(crate) fn text(messages: &[Message]) -> String {
    let one = |(tag, body): &Message| {
        let body = String::from_utf8_lossy(body.get(..200).unwrap_or(body)).into_owned();
        format!("{} {:?}\n", *tag as char, body)
    };
    messages.iter().map(one).collect()
}

/// The columns of a DataRow as text.
pub(crate) fn columns(body: &[u8]) -> Vec<String> {
    let mut rest = &body[2..];
    let mut all = Vec::new();
    while let Some((length, more)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length);
        let length = if length == u32::MAX { 0 } else { length as usize };
        all.push(String::from_utf8_lossy(&more[..length]).into_owned());
        rest = &more[length..];
    }
    all
}

/// A simple query.
pub(crate) fn query(sql: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::put_query(&mut out, sql.as_bytes());
    out
}

/// Parse without parameter types.
pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::put_parse(&mut out, name.as_bytes(), format!("{sql}\0\0\0").as_bytes());
    out
}

/// Bind of text parameters.
pub(crate) fn bind(portal: &str, statement: &str, parameters: &[&str]) -> Vec<u8> {
    let mut rest = vec![0, 0];
    rest.extend_from_slice(&(parameters.len() as u16).to_be_bytes());
    for parameter in parameters {
        rest.extend_from_slice(&(parameter.len() as u32).to_be_bytes());
        rest.extend_from_slice(parameter.as_bytes());
    }
    rest.extend_from_slice(&[0, 0]);
    let mut out = Vec::new();
    let length = u32::try_from(rest.len()).expect("short");
    frontend::put_bind_head(&mut out, portal.as_bytes(), statement.as_bytes(), length);
    out.extend_from_slice(&rest);
    out
}

/// Describe or Close (`message`) of a statement or portal (`kind`).
pub(crate) fn subject(message: u8, kind: u8, name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put(&mut out, message, |out| {
        out.push(kind);
        out.extend_from_slice(name.as_bytes());
        out.push(0);
    });
    out
}

/// Execute, at most `rows` (0: all).
pub(crate) fn execute(portal: &str, rows: u32) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put(&mut out, b'E', |out| {
        out.extend_from_slice(portal.as_bytes());
        out.push(0);
        out.extend_from_slice(&rows.to_be_bytes());
    });
    out
}

/// A message without a body: Sync, Flush, CopyDone, Terminate.
pub(crate) fn bare(tag: u8) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::put_empty(&mut out, tag);
    out
}

/// CopyData.
pub(crate) fn data(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put(&mut out, b'd', |out| out.extend_from_slice(text.as_bytes()));
    out
}
