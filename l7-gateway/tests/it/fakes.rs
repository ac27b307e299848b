//! A service on loopback that does what a test asks of it and remembers what it was sent.
//!
//! Invariant: it accepts only after the test has its address, and ends with its handle.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};

/// What it does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// 200 with this body.
    Answer(&'static str),
    /// These bytes, then the connection ends.
    Raw(&'static str),
    /// These bytes; the connection stays.
    Keep(&'static str),
    /// Nothing: the connection ends.
    Hang,
    /// Nothing: the connection stays open.
    Silent,
}

/// What it remembers.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Connections accepted.
    pub(crate) connections: Cell<usize>,
    /// Each request as text, with the number of its connection (from 1).
    pub(crate) requests: RefCell<Vec<(usize, String)>>,
}

impl Seen {
    /// How many requests came.
    pub(crate) fn count(&self) -> usize {
        self.requests.borrow().len()
    }

    /// The last request.
    pub(crate) fn last(&self) -> String {
        self.requests.borrow().last().map(|(_, text)| text.clone()).unwrap_or_default()
    }
}

/// The service.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Rc<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// Does the same with every request.
    pub(crate) async fn new(act: Act) -> Self {
        Self::script(move |_, _| act).await
    }

    /// Chooses by the connection's number (from 1) and the number of the request on it (from 1).
    pub(crate) async fn script(act: impl Fn(usize, usize) -> Act + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Rc::new(Seen::default());
        let (remember, act) = (Rc::clone(&seen), Rc::new(act));
        let task = spawn_local(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = remember.connections.get() + 1;
                remember.connections.set(number);
                connections.spawn_local(serve(
                    stream,
                    number,
                    Rc::clone(&act),
                    Rc::clone(&remember),
                ));
            }
        });
        Self { address, seen, task }
    }
}

async fn serve(
    mut stream: TcpStream,
    number: usize,
    act: Rc<impl Fn(usize, usize) -> Act + 'static>,
    seen: Rc<Seen>,
) {
    let mut bytes = Vec::new();
    for request in 1.. {
        let Some(text) = next(&mut stream, &mut bytes).await else { return };
        seen.requests.borrow_mut().push((number, text));
        let (answer, last) = match act(number, request) {
            Act::Answer(body) => {
                let length = body.len();
                (format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"), false)
            }
            Act::Raw(text) => (text.to_owned(), true),
            Act::Keep(text) => (text.to_owned(), false),
            Act::Hang => return,
            Act::Silent => (String::new(), false),
        };
        if stream.write_all(answer.as_bytes()).await.is_err() || last {
            return;
        }
        if answer.starts_with("HTTP/1.1 101") {
            return echo(stream, bytes).await;
        }
    }
}

async fn echo(mut stream: TcpStream, mut bytes: Vec<u8>) {
    loop {
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
        bytes.clear();
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    }
}

/// One request with its body.
async fn next(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(length) = complete(bytes) {
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            bytes.drain(..length);
            return Some(text);
        }
        if !matches!(stream.read_buf(bytes).await, Ok(1..)) {
            return None;
        }
    }
}

fn complete(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes);
    let head = text.find("\r\n\r\n")? + 4;
    let lower = text[..head].to_ascii_lowercase();
    if lower.contains("transfer-encoding: chunked") {
        return Some(head + text[head..].find("0\r\n\r\n")? + 5);
    }
    let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let whole = head + length.and_then(|text| text.trim().parse::<usize>().ok()).unwrap_or(0);
    (bytes.len() >= whole).then_some(whole)
}
