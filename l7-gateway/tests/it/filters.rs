//! Every filter with random heads and bodies, of clients and of services: none gets a gateway to fail, and none leaves a
//! message half-changed. Not for what a filter does: each has its own tests.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::path::Path;
use std::rc::Rc;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use crate::fakes::{Act, Fake};
use crate::peers::Fake2;
use crate::rig::{Rig, local, topology};
use crate::transcode::{Script, play};

/// A filter each, with the path below which it holds.
const FILTERS: [(&str, &str); 14] = [
    (
        "/headers",
        "transform: { request: { headers: { set: { x-a: '${request.header.x-b|none}', x-way: '${request.path}', \
         x-q: '${request.query.q}' }, add: { x-c: '${request.cookie.id}' }, rename: { x-d: x-e }, remove: [x-f] } }, \
         response: { status: { 404: 410 }, headers: { set: { x-q: '${request.query.q}' }, rename: { x-old: x-new } } } }",
    ),
    (
        "/path",
        "transform: { request: { path: '/in/${request.query.q|none}', query: { set: { via: '${request.header.x-b}' }, \
         rename: { q: r }, remove: [s] } } }",
    ),
    ("/host", "transform: { request: { host: '${request.header.x-b}' } }"),
    (
        "/json",
        "transform: { request: { body: { max: 1KiB, json: [{ set: checked, json: 'true' }, { move: a.b, to: c }, \
         { rename: 'list[].x', to: y }] } }, response: { body: { max: 1KiB, json: [{ remove: cost }] } } }",
    ),
    (
        "/cors",
        "cors: { origins: [\"https://app.example\"], methods: [GET, PUT], credentials: true }",
    ),
    ("/any", "cors: { origins: \"*\" }"),
    ("/careful", "security-headers: api"),
    ("/old", "deprecated: 2026-01-31, successor: /headers"),
    ("/small", "compress: { min: 0B }"),
    ("/web", "grpc-web: true"),
    (
        "/both",
        "compress: true, transform: { response: { body: { json: [{ set: a, json: '1' }] } } }",
    ),
    ("/asked", "external: { url: \"EXTERNAL\", body: 1KiB, answers: true }"),
    ("/api", "validate: { openapi: FOLDER/api.yaml, max: 1KiB }"),
    ("/v1", "transcode: { protos: FOLDER/shop.proto, max: 1KiB }"),
];

const PROTO: &str = "syntax = \"proto3\"; package shop.v1; import \"google/api/annotations.proto\";
service Cart {
  rpc Get(Item) returns (Item) { option (google.api.http) = { get: \"/v1/{name}\" }; }
  rpc Add(Item) returns (Item) { option (google.api.http) = { post: \"/v1/{name}\" body: \"*\" }; }
  rpc Watch(Item) returns (stream Item) { option (google.api.http) = { put: \"/v1/{name}\" body: \"inner\" }; }
}
message Item { int64 id = 1; string name = 2; Item inner = 3; repeated double list = 4; bytes raw = 5; map<string, Item> by = 6; }
";

const CONTRACT: &str = "openapi: 3.0.3\ninfo: { title: api, version: '1' }\npaths:\n  /api/{id}:\n    get: { parameters: \
     [{ name: id, in: path, required: true, schema: { type: integer } }, { name: q, in: query, schema: { type: array, items: \
     { type: integer } } }], responses: { '200': { description: a } } }\n    post: { requestBody: { content: { application/json: \
     { schema: { type: object, properties: { a: { type: object }, list: { type: array, maxItems: 3 } } } } } }, responses: \
     { '200': { description: a } } }\n";

const LINES: [&[u8]; 26] = [
    b"X-B: one",
    b"X-B: two, three",
    b"X-B: a%0d%0aX-Evil: 1",
    b"X-B: ../..//${user}",
    b"X-B: \xff\xfe\x80",
    b"X-D: 1",
    b"X-D: \xe4",
    b"X-F: ",
    b"Cookie: id=1; id=2",
    b"Cookie: id=\"a,b\"; ;=",
    b"Origin: https://app.example",
    b"Origin: null",
    b"Access-Control-Request-Method: PUT",
    b"Access-Control-Request-Method: @",
    b"Accept-Encoding: gzip, br;q=0.5, *;q=0",
    b"Accept-Encoding: zstd;q=nan, ;q=1,,identity;q=0",
    b"Accept: text/event-stream",
    b"Range: bytes=0-1",
    b"Content-Type: application/json",
    b"Content-Type: application/grpc-web-text+proto",
    b"Content-Type: application/grpc-web;\xff",
    b"Content-Type: text/plain; charset=utf-16",
    b"Content-Encoding: gzip",
    b"Content-Encoding: br, gzip",
    b"Content-Encoding: identity",
    b"TE: trailers",
];

const PATHS: [&str; 8] = ["", "/", "/7", "/%41%2e", "/a%20b/c", "/..%3b/x", "//x//", "/%ff%fe"];
const QUERIES: [&str; 8] = [
    "",
    "?",
    "?q=1",
    "?q=..&s=2",
    "?q=%2F%2e%2e&q=2",
    "?q=%ff&=&&x",
    "?q=a%0d%0ab",
    "?list=1&id=x",
];

const BODIES: [&[u8]; 12] = [
    b"",
    b"{}",
    b"{\"a\":{\"b\":[1]},\"cost\":2.50,\"list\":[{\"x\":1},{\"x\":{},\"y\":2}]}",
    b"{\"a\":1,\"a\":2,\"cost\":1}",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"{\"n\":1e999,\"m\":10000000000000000000000000,\"id\":\"-0\",\"name\":\"\\ud800\"}",
    b"\xef\xbb\xbf{}",
    b"AAAAAAA=AAAA",
    b"\0\0\0\0\x05\x08\x07\x12\x01x",
    b"\x1f\x8b\x08\0\0\0\0\0\0\xff\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0",
    b"\xff\xfe\x80",
    b"{\"name\":null,\"inner\":{\"inner\":{\"raw\":\"_-+/=\"}},\"by\":{\"a\":{}}}",
];

/// Lines of services' answers.
const SAID: [&str; 14] = [
    "Content-Type: application/json",
    "Content-Type: text/html",
    "Content-Type: application/grpc",
    "Content-Encoding: gzip",
    "Content-Encoding: br\r\nContent-Encoding: br",
    "ETag: \"1\"",
    "ETag: W/\"1\"",
    "Vary: *",
    "Vary: Origin, accept-encoding",
    "X-Old: 1\r\nX-Old: 2",
    "Cache-Control: No-Transform",
    "Access-Control-Allow-Origin: *",
    "grpc-status: 5",
    "Content-Range: bytes 0-1/9",
];

fn one<T: Copy>(rng: &mut SmallRng, all: &[T]) -> T {
    all[rng.random_range(0..all.len())]
}

/// A body, whole or with something wrong.
fn body(rng: &mut SmallRng) -> Vec<u8> {
    let mut body = one(rng, &BODIES).to_vec();
    match rng.random_range(0..6) {
        0 if !body.is_empty() => body.truncate(rng.random_range(0..body.len())),
        1 if !body.is_empty() => {
            let at = rng.random_range(0..body.len());
            body[at] = rng.random();
        }
        2 => body = body.repeat(40),
        3 => (0..rng.random_range(0..40)).for_each(|_| body.push(rng.random())),
        _ => {}
    }
    body
}

fn request(rng: &mut SmallRng) -> (&'static str, &'static str, Vec<u8>) {
    let method = one(rng, &["GET", "HEAD", "POST", "PUT", "OPTIONS"]);
    let (filter, _) = one(rng, &FILTERS);
    let mut bytes =
        format!("{method} {filter}{}{} HTTP/1.1\r\n", one(rng, &PATHS), one(rng, &QUERIES));
    bytes += "Host: a\r\nConnection: close\r\n";
    let mut bytes = bytes.into_bytes();
    for _ in 0..rng.random_range(0..6) {
        bytes.extend([one(rng, &LINES), b"\r\n"].concat());
    }
    let body = if matches!(method, "POST" | "PUT") { body(rng) } else { Vec::new() };
    if matches!(method, "POST" | "PUT") {
        bytes.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    (method, filter, bytes)
}

/// What a service says, with its body unless the method has none.
fn said(rng: &mut SmallRng, method: &str) -> Vec<u8> {
    let status =
        one(rng, &["200 OK", "200 OK", "200 OK", "404 No", "304 Same", "204 None", "206 Part"]);
    let mut head = format!("HTTP/1.1 {status}\r\n");
    for _ in 0..rng.random_range(0..5) {
        let _ = write!(head, "{}\r\n", one(rng, &SAID));
    }
    let none = status.starts_with("304") || status.starts_with("204");
    let body = if none { Vec::new() } else { body(rng) };
    let (framing, body) = match rng.random_range(0..3) {
        _ if none => (String::new(), body),
        0 if !body.is_empty() => {
            let text = format!("{:x}\r\n", body.len()).into_bytes();
            let chunked = [text, body, b"\r\n0\r\nx-trailer: 1\r\n\r\n".to_vec()].concat();
            ("Transfer-Encoding: chunked\r\n".to_owned(), chunked)
        }
        _ => (format!("Content-Length: {}\r\n", body.len()), body),
    };
    let body = if method == "HEAD" { Vec::new() } else { body };
    [format!("{head}{framing}\r\n").into_bytes(), body].concat()
}

/// What the service was sent last, and whether it answered that without a body.
type Seen = Rc<RefCell<Option<(Vec<u8>, bool)>>>;

/// A service that answers each connection's requests at random.
async fn serve(mut stream: TcpStream, mut rng: SmallRng, seen: Seen) {
    let mut bytes = Vec::new();
    loop {
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        if let Some((head, whole)) = head.and_then(|head| Some((head, length(&bytes, head)?))) {
            let sent: Vec<u8> = bytes.drain(..whole).collect();
            let method = if sent.starts_with(b"HEAD ") { "HEAD" } else { "" };
            let answer = said(&mut rng, method);
            let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
            let empty = end.is_some_and(|end| end + 4 == answer.len());
            *seen.borrow_mut() = Some((sent[head..].to_vec(), empty));
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        } else if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    }
}

/// How long a request is, once it is there.
fn length(bytes: &[u8], head: usize) -> Option<usize> {
    let lines = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    if lines.contains("transfer-encoding: chunked") {
        let end = bytes[head..].windows(5).position(|five| five == b"0\r\n\r\n");
        return end.map(|at| head + at + 5);
    }
    let length = lines.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let whole = head + length.map_or(0, |text| text.parse().expect("a number"));
    (bytes.len() >= whole).then_some(whole)
}

fn gateway(service: &str, calls: &str, external: &str, folder: &Path) -> Rig {
    let mut routes = String::from("    upstreams: { calls: { protocol: http2 } }\n    routes:\n");
    for (path, filter) in FILTERS {
        let to = if matches!(path, "/v1" | "/web") { "calls" } else { "user" };
        let filter = filter.replace("FOLDER", &folder.display().to_string());
        let filter = filter.replace("EXTERNAL", external);
        let _ = writeln!(routes, "      - {{ path: \"{path}/*\", to: {to}, {filter} }}");
    }
    let services =
        format!("  user: {{ endpoints: [{service}] }}\n  calls: {{ endpoints: [{calls}] }}");
    Rig::new(&topology(&services, &routes))
}

/// An answer is whole, and nobody's fault but its client's or its service's.
fn judge(method: &str, answer: &[u8], empty: bool, told: &str) -> Option<Vec<u8>> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").expect(told) + 4;
    let lines = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let status: u16 = lines.get(9..12).and_then(|text| text.parse().ok()).expect(told);
    assert!((200..505).contains(&status) && status != 500, "{told}");
    // An answer that has no body cannot be one that cannot be changed.
    assert!(!empty || status != 502, "{told}");
    assert!(!lines.contains("x-evil"), "{told}");
    let body = answer[head..].to_vec();
    let length = lines.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    if method == "HEAD" || matches!(status, 204 | 304) {
        assert!(body.is_empty(), "{told}");
    } else if let Some(length) = length {
        assert_eq!(length.parse(), Ok(body.len()), "{told}");
        let types: Vec<&str> = lines.split("content-type: ").skip(1).collect();
        let json = matches!(types[..], [kind] if kind.starts_with("application/json"));
        let plain = !lines.contains("content-encoding") && !body.is_empty();
        return (status == 200 && json && plain).then_some(body);
    }
    None
}

/// G2, G13, G15, G23: every filter with heads and bodies of whatever kind, on both sides.
#[tokio::test]
async fn filters_bear_whatever_comes() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("shop.proto"), PROTO).expect("written");
        std::fs::write(folder.path().join("api.yaml"), CONTRACT).expect("written");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let service = listener.local_addr().expect("an address").to_string();
        let seen = Seen::default();
        let remembered = Rc::clone(&seen);
        let serving = spawn_local(async move {
            let mut rng = SmallRng::seed_from_u64(1);
            while let Ok((stream, _)) = listener.accept().await {
                spawn_local(serve(stream, SmallRng::from_rng(&mut rng), Rc::clone(&remembered)));
            }
        });
        let turn = Rc::new(Cell::new(0_usize));
        let calls = Fake2::new(100, move |asked| {
            turn.set(turn.get() + 1);
            let messages: [&[&'static [u8]]; 4] =
                [&[b"\x08\x07"], &[b"\x12\xff"], &[], &[b"", b"\x08\x01"]];
            let ends = [Some(vec![("grpc-status", "0")]), Some(vec![("grpc-status", "x")]), None];
            let script = Script {
                messages: messages[turn.get() % 4].to_vec(),
                end: ends[turn.get() % 3].clone(),
                kind: if turn.get().is_multiple_of(5) { "text/html" } else { "application/grpc" },
            };
            Box::pin(play(script, asked))
        })
        .await;
        let filter = Fake::new(Act::Answer("{\"headers\":{\"set\":{\"x-seen\":\"yes\"}}}")).await;
        let external = format!("http://{}/", filter.address);
        let rig = gateway(&service, &calls.address.to_string(), &external, folder.path());
        let mut rng = SmallRng::seed_from_u64(8);
        for _ in 0..2500 {
            let (method, filter, bytes) = request(&mut rng);
            *seen.borrow_mut() = None;
            let (mut stream, _task) = rig.connect();
            stream.write_all(&bytes).await.expect("taken");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("an end");
            let told = format!(
                "{}\n---\n{}",
                String::from_utf8_lossy(&bytes),
                String::from_utf8_lossy(&answer)
            );
            let empty = seen.borrow().as_ref().is_some_and(|(_, empty)| *empty);
            let body = judge(method, &answer, empty, &told);
            if filter == "/json" {
                if let Some((sent, _)) = seen.borrow().as_ref().filter(|(sent, _)| !sent.is_empty())
                {
                    let sent: Value = serde_json::from_slice(sent).expect(&told);
                    assert_eq!(sent.get("checked"), Some(&Value::Bool(true)), "{told}");
                }
                if let Some(body) = body {
                    let text: &serde_json::value::RawValue =
                        serde_json::from_slice(&body).expect(&told);
                    assert!(!text.get().starts_with("{\"cost\""), "{told}");
                }
            }
        }
        serving.abort();
    })
    .await;
}
