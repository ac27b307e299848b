//! A service that keeps every byte that reaches it and judges it more strictly than any program that
//! may stand behind the gateway: what one of them could read in another way is a danger.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};

use super::answer::find;

/// The service.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    connections: Rc<RefCell<Vec<Connection>>>,
    task: JoinHandle<()>,
}

/// What came over one connection.
#[derive(Debug, Default)]
struct Connection {
    /// All of it.
    bytes: Vec<u8>,
    /// Requests that ended.
    whole: Vec<Seen>,
    /// How many bytes they have.
    judged: usize,
    danger: Option<String>,
    ended: bool,
}

/// A whole request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The request line without its version.
    pub(crate) line: String,
    /// The other lines.
    pub(crate) fields: Vec<String>,
    pub(crate) body: Vec<u8>,
}

/// What reached the service since it was asked last.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) requests: Vec<Seen>,
    /// All bytes, those of unfinished requests included.
    pub(crate) bytes: Vec<u8>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Recorder {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections: Rc<RefCell<Vec<Connection>>> = Rc::default();
        let kept = Rc::clone(&connections);
        let task = spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = kept.borrow().len();
                kept.borrow_mut().push(Connection::default());
                spawn_local(serve(stream, Rc::clone(&kept), number));
            }
        });
        Self { address, connections, task }
    }

    /// What came, once nothing is under way any more: an unfinished request must have been given up.
    pub(crate) async fn reached(&self) -> Result<Reached, String> {
        let settled = async {
            while !self.connections.borrow().iter().all(Connection::settled) {
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(PATIENCE, settled).await.is_err() {
            return Err("an unfinished request is not given up".to_owned());
        }
        let mut reached = Reached { requests: Vec::new(), bytes: Vec::new() };
        let mut connections = self.connections.borrow_mut();
        for connection in connections.iter_mut() {
            if let Some(danger) = connection.danger.take() {
                return Err(format!("{danger}: {}", connection.bytes.escape_ascii()));
            }
            reached.requests.append(&mut connection.whole);
            reached.bytes.append(&mut connection.bytes);
            connection.judged = 0;
        }
        Ok(reached)
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

async fn serve(mut stream: TcpStream, kept: Rc<RefCell<Vec<Connection>>>, number: usize) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = stream.read(&mut bytes).await {
        let answers = kept.borrow_mut()[number].take(&bytes[..read]);
        let Some(answers) = answers else { break };
        for _ in 0..answers {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if stream.write_all(answer).await.is_err() {
                break;
            }
        }
    }
    kept.borrow_mut()[number].ended = true;
}

impl Connection {
    fn settled(&self) -> bool {
        self.ended || self.judged == self.bytes.len()
    }

    /// How many requests these bytes finish; `None`: they are dangerous.
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        self.bytes.extend_from_slice(bytes);
        let before = self.whole.len();
        loop {
            match request(&self.bytes[self.judged..]) {
                Ok(Some((seen, length))) => {
                    self.whole.push(seen);
                    self.judged += length;
                }
                Ok(None) => return Some(self.whole.len() - before),
                Err(danger) => {
                    self.danger = Some(danger);
                    return None;
                }
            }
        }
    }
}

/// A whole request at the start of `bytes`, and its length.
fn request(bytes: &[u8]) -> Result<Option<(Seen, usize)>, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return if bytes.contains(&0) { Err("a NUL".to_owned()) } else { Ok(None) };
    };
    let head = &bytes[..end];
    if head.iter().any(|b| matches!(b, 0..=8 | 11 | 12 | 14..=31 | 127)) {
        return Err("a control byte".to_owned());
    }
    let head = String::from_utf8_lossy(head).into_owned();
    let mut lines = head.split("\r\n").map(str::to_owned);
    let line = target(&lines.next().unwrap_or_default())?;
    let fields: Vec<String> = lines.collect();
    for field in &fields {
        judge(field)?;
    }
    let rest = &bytes[end + 4..];
    let body = match framing(&fields)? {
        Framing::Length(length) => rest.get(..length).map(|body| (body.to_vec(), length)),
        Framing::Chunked => chunks(rest)?,
    };
    Ok(body.map(|(body, length)| (Seen { line, fields, body }, end + 4 + length)))
}

/// The request line without its version.
fn target(line: &str) -> Result<String, String> {
    let danger = || format!("the request line {line:?}");
    let short = line.strip_suffix(" HTTP/1.1").ok_or_else(danger)?;
    let (method, target) = short.split_once(' ').ok_or_else(danger)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let clean = |b: u8| b.is_ascii_graphic() && !b"#\\\"<>^`{|}".contains(&b);
    let fold = path.to_ascii_lowercase();
    let tricks = ["//", "%2f", "%5c", "%00", "%0d", "%0a", "%2e"];
    let dots = |segment: &str| [".", ".."].contains(&segment.split(';').next().unwrap_or_default());
    let fine = method.bytes().all(token)
        && !matches!(method, "" | "CONNECT" | "TRACE")
        && path.starts_with('/')
        && path.bytes().all(clean)
        && query.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
        && !tricks.iter().any(|trick| fold.contains(trick))
        && !path.split('/').any(dots);
    if fine { Ok(short.to_owned()) } else { Err(danger()) }
}

/// One field, by itself.
fn judge(field: &str) -> Result<(), String> {
    let danger = || format!("the field {field:?}");
    let (name, value) = field.split_once(':').ok_or_else(danger)?;
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) || field.contains(['\r', '\n']) {
        return Err(danger());
    }
    let folded: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let folded = folded.to_ascii_lowercase();
    let spelled = name.eq_ignore_ascii_case(&folded);
    let hop = [
        "te",
        "trailer",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "expect",
        "http2-settings",
    ];
    let tricks = [
        "x-original-url",
        "x-rewrite-url",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
    ];
    let framing = ["transfer-encoding", "content-length", "host", "connection", "upgrade"];
    let ours =
        ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id", "traceparent"];
    let identity = ["x-user-id", "x-scopes", "x-consumer", "x-real-ip", "forwarded", "tracestate"];
    let is = |names: &[&str]| names.contains(&folded.as_str());
    let value = value.trim().to_ascii_lowercase();
    let allowed = match folded.as_str() {
        "connection" => value == "upgrade",
        "upgrade" => value == "websocket",
        _ => !is(&hop) && !is(&tricks) && !is(&identity),
    };
    let alias = (is(&framing) || is(&ours)) && !spelled;
    if allowed && !alias { Ok(()) } else { Err(danger()) }
}

enum Framing {
    Length(usize),
    Chunked,
}

/// What the fields say together.
fn framing(fields: &[String]) -> Result<Framing, String> {
    let values = |wanted: &str| -> Vec<String> {
        let split = fields.iter().filter_map(|field| field.split_once(": "));
        let found = split.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.to_owned()).collect()
    };
    if values("host").len() != 1 {
        return Err("not one host".to_owned());
    }
    match (&values("content-length")[..], &values("transfer-encoding")[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) => {
            length.parse().map(Framing::Length).map_err(|_| "a length".to_owned())
        }
        ([], [coding]) if coding == "chunked" => Ok(Framing::Chunked),
        other => Err(format!("framed by {other:?}")),
    }
}

/// The body and the length of chunks without extensions and trailers; `None`: more must come.
fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let rest = &bytes[at..];
        let Some(line) = find(rest, b"\r\n") else {
            let fine = rest.len() < 20 && rest.iter().all(|b| b.is_ascii_hexdigit() || *b == b'\r');
            return if fine { Ok(None) } else { Err("a chunk's size".to_owned()) };
        };
        let text = std::str::from_utf8(&rest[..line]).unwrap_or_default();
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
        let size = usize::from_str_radix(text, 16).ok().filter(|_| digits);
        let size = size.ok_or_else(|| format!("a chunk's size {text:?}"))?;
        let end = at + line + 2 + size;
        let Some(tail) = bytes.get(end..end + 2) else { return Ok(None) };
        if tail != b"\r\n" {
            return Err("a chunk's end, or a trailer".to_owned());
        }
        body.extend_from_slice(&bytes[end - size..end]);
        at = end + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}
