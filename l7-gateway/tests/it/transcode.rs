//! HTTP and JSON in front, gRPC behind.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, Response};

use crate::peers::{Asked, Fake2};
use crate::rig::{Rig, local, topology};

const PROTO: &str = r#"syntax = "proto3";
package shop.v1;
import "google/api/annotations.proto";
service Cart {
  rpc Get(Request) returns (Item) { option (google.api.http) = { get: "/v1/items/{id}" }; }
  rpc Add(Item) returns (Item) { option (google.api.http) = { post: "/v1/items" body: "*" }; }
  rpc Watch(Request) returns (stream Item) { option (google.api.http) = { get: "/v1/items:watch" }; }
}
message Request { int64 id = 1; }
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
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shop.proto");
    std::fs::write(&file, PROTO).expect("written");
    let script = script.clone();
    let fake = Fake2::new(100, move |asked| Box::pin(play(script.clone(), asked))).await;
    let rig = Rig::new(&topology(
        &format!("  cart: {{ endpoints: [{}] }}", fake.address),
        &format!(
            "    upstreams: {{ cart: {{ protocol: http2 }} }}\n    routes:\n      - {{ path: /*, to: cart, transcode: {{ protos: {}, max: 1KiB }} }}",
            file.display()
        ),
    ));
    (rig.raw(request).await, Rc::clone(&fake.seen))
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
            (post("text/plain", "{}"), "400", "the body is no JSON"),
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
