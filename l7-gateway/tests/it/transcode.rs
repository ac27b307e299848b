//! HTTP and JSON in front, gRPC behind.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, Request, Response};
use l7_gateway::snapshot::Snapshot;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use topology::Topology;

use crate::peers::{Asked, Fake2, Secure, rest};
use crate::rig::{Rig, local, topology};

const PROTO: &str = r#"syntax = "proto3";
package shop.v1;
import "google/api/annotations.proto";
import "google/api/httpbody.proto";
service Cart {
  rpc Get(Request) returns (Item) { option (google.api.http) = { get: "/v1/items/{id}" }; }
  rpc Add(Item) returns (Item) { option (google.api.http) = { post: "/v1/items" body: "*" }; }
  rpc Upload(File) returns (google.api.HttpBody) { option (google.api.http) = { post: "/v1/files/{id}" body: "body" }; }
  rpc Raw(google.api.HttpBody) returns (Item);
  rpc Watch(Request) returns (stream Item) { option (google.api.http) = { get: "/v1/items:watch" }; }
}
message Request { int64 id = 1; }
message File { int64 id = 1; google.api.HttpBody body = 2; }
message Item { int64 id = 1; string name = 2; }
"#;

/// What a service does with a call.
#[derive(Clone)]
pub(crate) struct Script {
    /// Messages of the answer.
    pub(crate) messages: Vec<&'static [u8]>,
    /// Fields behind them; `None`: the stream is reset.
    pub(crate) end: Option<Vec<(&'static str, &'static str)>>,
    pub(crate) kind: &'static str,
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(n, v)| (n.parse().expect("a name"), v.parse().expect("a value"))).collect()
}

pub(crate) async fn play(script: Script, mut asked: Asked) {
    while let Some(Ok(data)) = asked.request.body_mut().data().await {
        asked.request.body_mut().flow_control().release_capacity(data.len()).expect("taken");
    }
    let mut head = Response::new(());
    head.headers_mut().extend(fields(&[("content-type", script.kind), ("x-mine", "kept")]));
    if script.messages.is_empty()
        && let Some(end) = &script.end
    {
        head.headers_mut().extend(fields(end));
        asked.respond.send_response(head, true).expect("open");
        return;
    }
    let mut to = asked.respond.send_response(head, false).expect("open");
    for message in &script.messages {
        let length = u32::try_from(message.len()).expect("short").to_be_bytes();
        let framed: Bytes = [&[0], &length[..], message].concat().into();
        // In pieces, as a network may cut it.
        let (one, other) = framed.split_at(framed.len() / 2);
        to.send_data(Bytes::copy_from_slice(one), false).expect("open");
        to.send_data(Bytes::copy_from_slice(other), false).expect("open");
    }
    match &script.end {
        Some(end) => to.send_trailers(fields(end)).expect("open"),
        None => to.send_reset(h2::Reason::INTERNAL_ERROR),
    }
}

/// The answer to a request of a client, and what the service was asked.
async fn asked(script: &Script, request: &str) -> (String, Rc<crate::peers::Seen>) {
    asked_in("", script, request.as_bytes()).await
}

/// The same, with further settings of the route.
async fn asked_in(
    route: &str,
    script: &Script,
    request: &[u8],
) -> (String, Rc<crate::peers::Seen>) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shop.proto");
    std::fs::write(&file, PROTO).expect("written");
    let script = script.clone();
    let fake = Fake2::new(100, move |asked| Box::pin(play(script.clone(), asked))).await;
    let rig = Rig::new(&file_of(&[fake.address], &file, route));
    let (mut stream, _task) = rig.connect();
    stream.write_all(request).await.expect("taken");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an end");
    (String::from_utf8_lossy(&answer).into_owned(), Rc::clone(&fake.seen))
}

fn file_of(services: &[SocketAddr], file: &Path, route: &str) -> Topology {
    let services: Vec<String> = services.iter().map(ToString::to_string).collect();
    topology(
        &format!("  cart: {{ endpoints: [{}] }}", services.join(", ")),
        &format!(
            "    upstreams: {{ cart: {{ protocol: http2 }} }}\n    routes:\n      - {{ path: /*, to: cart, {route} transcode: {{ protos: {}, max: 1KiB }} }}",
            file.display()
        ),
    )
}

fn get(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n")
}

pub(crate) fn well(messages: Vec<&'static [u8]>) -> Script {
    Script { messages, end: Some(vec![("grpc-status", "0")]), kind: "application/grpc" }
}

/// G15: a GET becomes a call, and its message JSON with all members.
#[tokio::test]
async fn a_get_becomes_a_call() {
    local(async {
        let script = well(vec![b"\x08\x2a"]);
        let (answer, seen) =
            asked(&script, &get("/v1/items/7", "X-Mine: 1\r\nAccept: application/json\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n{\"id\":\"42\",\"name\":\"\"}"), "{answer}");
        assert!(
            answer.contains("content-type: application/json\r\n")
                && answer.contains("x-mine: kept\r\n"),
            "{answer}"
        );
        assert!(!answer.contains("grpc-"), "{answer}");
        for (name, value) in
            [("content-type", "application/grpc"), ("te", "trailers"), ("x-mine", "1")]
        {
            assert_eq!(seen.header(name).as_deref(), Some(value), "{name}");
        }
        let timeout = seen.header("grpc-timeout").expect("a deadline");
        assert!(timeout.ends_with('m') && timeout.len() <= 9, "{timeout}");
    })
    .await;
}

/// G15: errors keep their code, words and details; what is no gRPC, or too large, or cut, is 502.
#[tokio::test]
async fn errors_are_told_in_http() {
    local(async {
        let error = |code: &'static str, more: &[(&'static str, &'static str)]| {
            let end =
                [&[("grpc-status", code), ("grpc-message", "no%20such%20item")], more].concat();
            Script { messages: Vec::new(), end: Some(end), kind: "application/grpc" }
        };
        // code 5, message "x", one detail of an unknown type.
        let details = ("grpc-status-details-bin", "CAUSAXgaEAoKdHlwZS9hLkIuQxICaGk");
        for (script, status, part) in [
            (error("5", &[]), "404", "{\"code\":5,\"details\":[],\"message\":\"no such item\"}"),
            (error("5", &[details]), "404", "{\"@type\":\"type/a.B.C\",\"value\":\"aGk=\"}"),
            (error("7", &[]), "403", "no such item"),
            (error("16", &[]), "401", "no such item"),
            (error("14", &[]), "503", "no such item"),
            (error("99", &[]), "500", "no such item"),
            (Script { kind: "text/html", ..well(vec![b"x"]) }, "502", "answer_not_transformed"),
            (well(vec![b"\x08\x2a", b"\x08\x2b"]), "502", "answer_not_transformed"),
            (well(vec![b"\xff"]), "502", "answer_not_transformed"),
            (well(vec![&[b'x'; 2000]]), "502", "answer_not_transformed"),
            // Perhaps before its head is seen.
            (Script { end: None, ..well(vec![b"\x08\x2a"]) }, "502", "\"status\":502"),
        ] {
            let (answer, _) = asked(&script, &get("/v1/items/7", "")).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{part}: {answer}");
            assert!(answer.contains(part), "{part}: {answer}");
        }
        let mut late = error("9", &[]);
        late.messages = vec![b"\x08\x2a"];
        let (answer, _) = asked(&late, &get("/v1/items/7", "")).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"code\":9"), "{answer}");
    })
    .await;
}

/// G15: what no call can be made of is refused before the service.
#[tokio::test]
async fn odd_requests_never_touch_the_service() {
    local(async {
        let post = |kind: &str, body: &str| {
            let length = body.len();
            format!("POST /v1/items HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        let large = format!("{{\"name\":\"{}\"}}", "x".repeat(2000));
        for (request, status, part) in [
            (get("/v1/items/x", ""), "400", "`x` is no value of `id`"),
            (get("/v1/nothing", ""), "404", "no_route"),
            (post("text/plain", "{}"), "415", "the body is no JSON"),
            (post("application/json\r\nContent-Encoding: zip", "{}"), "415", "unknown coding"),
            (post("application/json\r\nContent-Encoding: gzip", "{}"), "422", "request_not_transformed"),
            (get("/v1/items/7", "").replace("GET", "DELETE"), "405", "allow: GET, HEAD\r\n"),
            (post("application/json", "{\"id\":"), "400", "the body is no Item"),
            (post("application/json", &large), "413", "body_too_large"),
        ] {
            let (answer, seen) = asked(&well(vec![b""]), &request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
            assert!(answer.contains(part), "{part}: {answer}");
            assert_eq!(seen.count(), 0);
        }
        let (answer, _) = asked(&well(vec![b""]), &post("application/json; charset=utf-8", "{\"id\":1}")).await;
        assert!(answer.ends_with("{\"id\":\"0\",\"name\":\"\"}"), "{answer}");
    })
    .await;
}

/// G4, G15: a call cannot become a tunnel: who asks for one is answered as if he had not.
#[tokio::test]
async fn a_call_is_no_tunnel() {
    local(async {
        let ask = "GET /v1/items/7 HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let (answer, seen) = asked(&well(vec![b"\x08\x2a"]), ask).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("{\"id\":\"42\",\"name\":\"\"}"), "{answer}");
        assert_eq!(seen.header("upgrade"), None);
    })
    .await;
}

/// G15: several messages come as lines or as events, and a failure is the last of them.
#[tokio::test]
async fn streams_come_as_lines_or_events() {
    local(async {
        let script = well(vec![b"\x08\x01", b"\x08\x02"]);
        let (answer, _) = asked(&script, &get("/v1/items:watch", "")).await;
        assert!(answer.contains("content-type: application/x-ndjson\r\n"), "{answer}");
        for line in ["{\"id\":\"1\",\"name\":\"\"}\n", "{\"id\":\"2\",\"name\":\"\"}\n"] {
            assert!(answer.contains(line), "{answer}");
        }
        assert!(answer.ends_with("0\r\n\r\n"), "{answer}");
        let (answer, _) =
            asked(&script, &get("/v1/items:watch", "Accept: text/event-stream\r\n")).await;
        assert!(answer.contains("content-type: text/event-stream\r\n"), "{answer}");
        assert!(answer.contains("data: {\"id\":\"2\",\"name\":\"\"}\n\n"), "{answer}");
        let failed = Script {
            end: Some(vec![("grpc-status", "14"), ("grpc-message", "gone")]),
            ..script.clone()
        };
        let (answer, _) = asked(&failed, &get("/v1/items:watch", "")).await;
        assert!(
            answer.contains("{\"error\":{\"code\":14,\"details\":[],\"message\":\"gone\"}}\n"),
            "{answer}"
        );
        let cut = Script { end: None, ..script };
        let (answer, _) = asked(&cut, &get("/v1/items:watch", "")).await;
        assert!(!answer.ends_with("0\r\n\r\n"), "a cut stream has no end: {answer}");
    })
    .await;
}

/// G15: a stream without a message is one, told as such.
#[tokio::test]
async fn an_empty_stream_is_an_answer() {
    local(async {
        for (lines, kind) in
            [("", "application/x-ndjson"), ("Accept: text/event-stream\r\n", "text/event-stream")]
        {
            let (answer, _) = asked(&well(Vec::new()), &get("/v1/items:watch", lines)).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains(&format!("content-type: {kind}\r\n")), "{answer}");
            assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        }
    })
    .await;
}

/// G15: a call has the time of its exchange; one of one message no more than there is until its head.
#[tokio::test]
async fn calls_have_the_time_that_there_is() {
    local(async {
        for (path, route, most) in [
            ("/v1/items/7", "", Some(15_000)),
            ("/v1/items/7", "total-timeout: 5s,", Some(5_000)),
            ("/v1/items/7", "total-timeout: 40s,", Some(15_000)),
            ("/v1/items:watch", "", None),
            ("/v1/items:watch", "total-timeout: 40s,", Some(40_000)),
        ] {
            let asking = get(path, "Grpc-Timeout: 1S\r\nGrpc-Accept-Encoding: gzip\r\n");
            let (_, seen) = asked_in(route, &well(vec![b"\x08\x2a"]), asking.as_bytes()).await;
            let told = seen.header("grpc-timeout");
            let told = told.map(|text| text.trim_end_matches('m').parse::<u32>().expect("millis"));
            // Some of it has passed.
            let fits = told.zip(most).is_none_or(|(told, most)| told <= most && told > most / 2);
            assert!(fits && told.is_some() == most.is_some(), "{path} {route}: {told:?}");
            assert_eq!(seen.header("grpc-accept-encoding").as_deref(), Some("identity"));
        }
    })
    .await;
}

/// G15: what stands behind the message is told, under names of its own; a call that has no end may have had an effect.
#[tokio::test]
async fn trailers_are_told_and_needed() {
    local(async {
        let end = vec![("grpc-status", "0"), ("x-cost", "7"), ("x-internal-server", "a")];
        let script = Script { end: Some(end), ..well(vec![b"\x08\x2a"]) };
        let (answer, _) = asked(&script, &get("/v1/items/7", "")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("grpc-trailer-x-cost: 7\r\n"), "{answer}");
        assert!(
            !answer.contains("x-internal-server") && !answer.contains("grpc-status"),
            "{answer}"
        );
        let script = Script { end: Some(vec![("x-cost", "7")]), ..script };
        let (answer, _) = asked(&script, &get("/v1/items/7", "")).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        assert!(answer.contains("answer_not_transformed"), "{answer}");
    })
    .await;
}

/// G15: bodies are read that are compressed, of whatever type a call takes, or framed though there is none.
#[tokio::test]
async fn bodies_are_read_as_they_are_meant() {
    local(async {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(b"{\"id\":1}").expect("in memory");
        let packed = packed.finish().expect("in memory");
        let post = |path: &str, lines: &str, body: &[u8]| {
            let head =
                format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n");
            [head.as_bytes(), body].concat()
        };
        let json = format!(
            "Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n",
            packed.len()
        );
        let item = "{\"id\":\"42\",\"name\":\"\"}";
        for (request, message, end) in [
            (post("/v1/items", &json, &packed), &b"\x08\x2a"[..], item),
            (post("/v1/items", "Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"), b"\x08\x2a", item),
            (
                get("/v1/items/7", "Transfer-Encoding: chunked\r\n")
                    .into_bytes()
                    .into_iter()
                    .chain(*b"0\r\n\r\n")
                    .collect(),
                b"\x08\x2a",
                item,
            ),
            (get("/v1/items/7", "").replace("GET", "HEAD").into_bytes(), b"\x08\x2a", "\r\n\r\n"),
            (
                post("/v1/files/7", "Content-Type: text/css\r\nContent-Length: 3\r\n", b"a{}"),
                b"\x0a\x08text/css\x12\x03b{}",
                "b{}",
            ),
        ] {
            let (answer, seen) = asked_in("", &well(vec![message]), &request).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert!(answer.ends_with(end), "{answer}");
            assert_eq!(seen.count(), 1);
        }
    })
    .await;
}

/// G15, G18: a service that says of calls that it is unavailable is left alone, whoever made them of requests.
#[tokio::test]
async fn unavailable_services_of_calls_are_ejected() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("shop.proto");
        std::fs::write(&file, PROTO).expect("written");
        let service =
            |script: Script| Fake2::new(100, move |asked| Box::pin(play(script.clone(), asked)));
        let sick = Script {
            messages: Vec::new(),
            end: Some(vec![("grpc-status", "14")]),
            kind: "application/grpc",
        };
        let (sick, fine) = (service(sick).await, service(well(vec![b"\x08\x2a"])).await);
        let rig = Rig::new(&file_of(&[sick.address, fine.address], &file, ""));
        for _ in 0..20 {
            rig.raw(&get("/v1/items/7", "")).await;
        }
        assert_eq!((sick.seen.count(), fine.seen.count()), (3, 17));
    })
    .await;
}

/// G15, T9: descriptions are read again with the file; one that has become nonsense changes nothing.
#[tokio::test]
async fn descriptions_are_read_again() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("shop.proto");
        std::fs::write(&file, PROTO).expect("written");
        let fake = Fake2::new(100, |asked| Box::pin(play(well(vec![b"\x08\x2a"]), asked))).await;
        let topology = file_of(&[fake.address], &file, "");
        let rig = Rig::new(&topology);
        let (group, instance) = topology.gateway("gw").expect("the instance");
        let status = async |path| rig.raw(&get(path, "")).await.get(9..12).map(str::to_owned);
        let next = || {
            let before = rig.published.load_full();
            Snapshot::build(group, &instance.name, &rig.observer, Some(&*before))
        };
        assert_eq!(status("/v2/items/7").await.as_deref(), Some("404"));
        std::fs::write(&file, PROTO.replace("/v1/items/{id}", "/v2/items/{id}")).expect("written");
        rig.published.publish(next().expect("it builds"));
        assert_eq!(status("/v2/items/7").await.as_deref(), Some("200"));
        std::fs::write(&file, "syntax = \"proto3\"; message {").expect("written");
        assert!(next().is_err());
        assert_eq!(status("/v2/items/7").await.as_deref(), Some("200"));
    })
    .await;
}

/// G15: who calls in gRPC passes a route for JSON as he came, whatever the descriptions say of the method; a browser's call does
/// where the route lets browsers call, and is no body of any type where it does not.
#[tokio::test]
async fn calls_in_grpc_pass_a_route_for_json() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("shop.proto");
        std::fs::write(&file, PROTO).expect("written");
        let fake = Fake2::new(100, |asked| Box::pin(play(well(vec![b"\x08\x2a"]), asked))).await;
        let services = format!("  cart: {{ endpoints: [{}] }}", fake.address);
        let transcode = format!("transcode: {{ protos: {} }}", file.display());
        let lines = format!(
            "    upstreams: {{ cart: {{ protocol: http2 }} }}\n    routes:\n      - {{ path: /shop.v1.Cart/*, to: cart, grpc-web: true, {transcode} }}"
        );
        let secure = Secure::new(&services, &lines);
        let mut client = secure.client().await;
        for path in ["/shop.v1.Cart/Raw", "/shop.v1.Cart/Add", "/shop.v1.Cart/Unknown"] {
            let ask = Request::post(format!("https://api.example{path}"))
                .header("content-type", "application/grpc+proto")
                .header("te", "trailers")
                .header("grpc-timeout", "20S")
                .body(())
                .expect("a request");
            let (head, mut to) = client.send_request(ask, false).expect("open");
            to.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), true).expect("open");
            let head = head.await.expect("an answer");
            assert_eq!(head.headers()["content-type"], "application/grpc", "{path}");
            let (all, trailers) = rest(&mut head.into_body()).await.expect("an end");
            assert_eq!(&all[..], b"\0\0\0\0\x02\x08\x2a", "{path}");
            assert_eq!(trailers.expect("an end")["grpc-status"], "0", "{path}");
            let seen = &fake.seen;
            assert_eq!(seen.header("content-type").as_deref(), Some("application/grpc+proto"));
        }
        let web = async |client: &mut h2::client::SendRequest<Bytes>, path: &str| {
            let ask = Request::post(format!("https://api.example{path}"))
                .header("content-type", "application/grpc-web+proto")
                .body(())
                .expect("a request");
            let (head, mut to) = client.send_request(ask, false).expect("open");
            to.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), true).expect("open");
            let head = head.await.expect("an answer");
            let status = head.status().as_u16();
            (status, rest(&mut head.into_body()).await.expect("an end").0)
        };
        let (status, all) = web(&mut client, "/shop.v1.Cart/Raw").await;
        assert!(status == 200 && all.starts_with(b"\0\0\0\0\x02\x08\x2a\x80"), "{status} {all:?}");
        let before = fake.seen.count();
        drop(client);
        let lines = lines.replace("grpc-web: true, ", "");
        let secure = Secure::new(&services, &lines);
        let mut client = secure.client().await;
        let (status, all) = web(&mut client, "/shop.v1.Cart/Raw").await;
        assert_eq!((status, fake.seen.count()), (415, before), "{all:?}");
    })
    .await;
}
