//! Compressed bodies: small ones that stand for large ones at every door that reads bodies, and answers that are
//! compressed while they come.

use std::io::Write as _;
use std::process::Command;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology};

const PROTO: &str = r#"syntax = "proto3";
package shop;
import "google/api/annotations.proto";
message Item { string name = 1; }
service Shop {
  rpc Put(Item) returns (Item) { option (google.api.http) = { post: "/call/items" body: "*" }; }
}
"#;

const DESCRIPTION: &str = r#"{ "openapi": "3.1.0", "paths": { "/described": { "post": { "requestBody": { "content": {
  "application/json": { "schema": { "type": "object" } } } } } } } }"#;

/// What the table's bombs become at least: more than any door reads.
const BURST: usize = 16 << 20;

/// A text of JSON that goes on and on, in a form of a few bytes.
fn bomb(coding: &str) -> Vec<u8> {
    let text = [&b"{\"name\":\""[..], &vec![b'x'; BURST]].concat();
    match coding {
        "gzip" => {
            let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            to.write_all(&text).expect("in memory");
            to.finish().expect("in memory")
        }
        "br" => {
            let mut to = brotli::CompressorWriter::new(Vec::new(), 4096, 1, 22);
            to.write_all(&text).expect("in memory");
            to.into_inner()
        }
        // Frames one behind the other are one body: a gigabyte.
        "zstd" => zstd::encode_all(text.as_slice(), 1).expect("in memory").repeat(64),
        // A window that no reader of bodies makes room for (RFC 9659 §3), 64 MiB.
        _ => {
            let mut to = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("a form");
            to.window_log(26).expect("a window");
            to.write_all(&text).expect("in memory");
            to.finish().expect("in memory")
        }
    }
}

/// G13, G15, G23: what stands for more than a door reads is refused in every form, whatever the door is for, no service
/// is asked, and the process does not grow.
#[test]
fn bombs_stay_outside_of_every_door() {
    let this = std::env::current_exe().expect("this program");
    let mut child = Command::new(this);
    child.args(["--exact", "bombs::every_door_alone", "--ignored", "--nocapture"]);
    let out = child.output().expect("it runs");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
}

/// What the kernel counts of this process, in bytes.
fn counted(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it is there");
    let kilobytes: usize = line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("kB");
    kilobytes << 10
}

#[tokio::test]
#[ignore = "a process of its own, begun by the other one"]
async fn every_door_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (proto, description) = (folder.path().join("shop.proto"), folder.path().join("api.json"));
    std::fs::write(&proto, PROTO).expect("written");
    std::fs::write(&description, DESCRIPTION).expect("written");
    let forms = ["gzip", "br", "zstd", "wide zstd"].map(|form| (form, bomb(form)));
    local(async {
        let fake = Fake::new(Act::Answer("done")).await;
        let routes = format!(
            "    upstreams: {{ call: {{ protocol: http2 }} }}
    routes:
      - {{ path: /changed, to: user, transform: {{ request: {{ body: {{ max: 256KiB, json: [{{ remove: a }}] }} }} }} }}
      - {{ path: /described, to: user, validate: {{ openapi: {}, max: 256KiB }} }}
      - {{ path: /call/*, to: call, transcode: {{ protos: {}, max: 256KiB }} }}",
            description.display(),
            proto.display()
        );
        let address = fake.address;
        let services = format!("  user: {{ endpoints: [{address}] }}\n  call: {{ endpoints: [{address}] }}");
        let rig = Rig::new(&topology(&services, &routes));
        // The most that was counted is what is counted now (proc(5), `clear_refs`).
        std::fs::write("/proc/self/clear_refs", "5").expect("it is our own");
        let before = counted("VmRSS:");
        for door in ["/changed", "/described", "/call/items"] {
            for (form, body) in &forms {
                assert!(body.len() < 256 << 10, "{form} is small enough: {}", body.len());
                let coding = form.rsplit(' ').next().unwrap_or_default();
                let (mut stream, _task) = rig.connect();
                let head = format!(
                    "POST {door} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n\
                     Content-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all(&[head.as_bytes(), body].concat()).await.expect("taken");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.expect("an end");
                let status = if *form == "wide zstd" { "422" } else { "413" };
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{door} {form}: {answer}");
            }
        }
        assert_eq!(fake.seen.connections.get(), 0);
        // Windows of the decoders are most of it.
        let grown = counted("VmHWM:").saturating_sub(before);
        assert!(grown < 48 << 20, "grown by {grown}");
    })
    .await;
}

/// What has come of a compressed body, perhaps not all of it.
fn come(coding: &str, bytes: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => {
            let mut to = flate2::write::GzDecoder::new(Vec::new());
            to.write_all(bytes).and_then(|()| to.flush()).expect("sound so far");
            to.get_ref().clone()
        }
        "br" => {
            let mut to = brotli::DecompressorWriter::new(Vec::new(), 4096);
            to.write_all(bytes).and_then(|()| to.flush()).expect("sound so far");
            to.get_ref().clone()
        }
        _ => {
            let mut to = zstd::stream::write::Decoder::new(Vec::new()).expect("a form");
            to.write_all(bytes).and_then(|()| to.flush()).expect("sound so far");
            to.get_ref().clone()
        }
    }
}

/// The bytes of all chunks that are whole.
fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let length = std::str::from_utf8(&rest[..end]).expect("a length");
        let length = usize::from_str_radix(length, 16).expect("a length");
        let Some(chunk) = rest.get(end + 2..end + 2 + length) else { break };
        all.extend_from_slice(chunk);
        rest = rest.get(end + 4 + length..).unwrap_or_default();
    }
    all
}

/// G13: what has come of a stream is sent on in every form before more comes, and can be read.
#[tokio::test]
async fn streams_are_not_held_back_in_any_form() {
    for coding in ["gzip", "br", "zstd"] {
        local(async {
            let text = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
                        9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n";
            let fake = Fake::new(Act::Keep(text)).await;
            let route = "    routes: [{ path: /*, to: user, compress: { min: 0B } }]";
            let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
            let rig = Rig::new(&topology(&services, route));
            let (mut stream, _task) = rig.connect();
            let ask = format!("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n");
            stream.write_all(ask.as_bytes()).await.expect("taken");
            let mut all = Vec::new();
            loop {
                let body = all.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
                let body = body.and_then(|at| all.get(at..)).map(unchunked).unwrap_or_default();
                if come(coding, &body) == b"data: 1\n\ndata: 2\n\n" {
                    break;
                }
                let read = stream.read_buf(&mut all).await.expect("alive");
                assert!(read > 0, "{coding}: what came is sent on before the end");
            }
            let head = String::from_utf8_lossy(&all).into_owned();
            assert!(head.contains(&format!("content-encoding: {coding}\r\n")), "{head}");
        })
        .await;
    }
}
