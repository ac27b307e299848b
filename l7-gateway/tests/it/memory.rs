//! What bodies of JSON take of a process, as the kernel counts it. Not for speed.

use std::process::Command;

use http::Method;
use l7_gateway::contract::{self, Breach, Contract};
use l7_gateway::transcode::Interface;
use l7_gateway::transcode::message::message;
use topology::Place;
use topology::answers::Attached;
use topology::transcode::{Descriptions, Transcode};

/// Bytes of a body, and of the largest one.
const MOST: usize = 4 << 20;

const PROTO: &str = r#"syntax = "proto3";
import "google/protobuf/any.proto";
import "google/protobuf/struct.proto";
service S { rpc C(M) returns (M); }
message M {
  int32 a = 1; repeated M many = 2; map<string, int32> names = 3; google.protobuf.Struct notes = 4;
  repeated int32 numbers = 5; google.protobuf.Any any = 6;
}
"#;

/// A body that fills what there is.
fn filled(before: &str, each: impl Fn(usize) -> String, after: &str) -> String {
    let mut body = String::with_capacity(MOST + 64);
    body.push_str(before);
    for index in 0.. {
        let next = each(index);
        if body.len() + next.len() + after.len() > MOST {
            break;
        }
        body.push_str(&next);
    }
    body.truncate(body.len() - 1);
    body.push_str(after);
    body
}

/// Bodies that are small and mean much.
const BODIES: [&str; 9] =
    ["messages", "fields", "numbers", "names", "lists", "objects", "members", "late", "digits"];

fn body(name: &str) -> String {
    let same = |text: &'static str| move |_: usize| text.to_owned();
    let named = |index: usize| format!("\"{index:x}\":0,");
    match name {
        "messages" => filled("{\"many\":[", same("{},"), "]}"),
        "fields" => filled("{\"many\":[", same("{\"a\":1},"), "]}"),
        "numbers" => filled("{\"numbers\":[", same("0,"), "]}"),
        "names" => filled("{\"names\":{", named, "}}"),
        "lists" => filled("{\"notes\":{\"a\":[", same("[],"), "]}}"),
        "objects" => filled("{\"notes\":{\"a\":[", same("{\"a\":0},"), "]}}"),
        "members" => filled("{\"notes\":{", named, "}}"),
        "late" => filled("{\"any\":{\"many\":[", same("{\"a\":1},"), "],\"@type\":\"t/M\"}}"),
        _ => filled("{\"notes\":{\"a\":[", same("0,"), "]}}"),
    }
}

/// G15, G23, O3: whatever a body of JSON means, it takes a few times the bytes that it may have: as a call 8, as values
/// that are held against a schema 16.
#[test]
fn bodies_take_a_bounded_part_of_memory() {
    for (way, times) in [("call", 8), ("values", 16)] {
        for name in BODIES {
            let this = std::env::current_exe().expect("this program");
            let mut child = Command::new(this);
            child.args(["--exact", "memory::one_body_alone", "--ignored", "--nocapture"]);
            let out = child.env("BODY", format!("{way} {name}")).output().expect("it runs");
            let text = String::from_utf8_lossy(&out.stdout);
            let peak =
                text.lines().find_map(|line| line.split("peak=").nth(1)?.trim().parse().ok());
            let peak: usize = peak.unwrap_or_else(|| panic!("{way} {name}: {text}"));
            println!(
                "{way} {name}: {} KiB, {}.{} times",
                peak >> 10,
                peak / MOST,
                peak * 10 / MOST % 10
            );
            assert!(peak <= times * MOST, "{way} {name}: {peak}");
        }
    }
}

/// What the kernel counts, in bytes.
fn counted(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it is there");
    let kilobytes: usize = line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("kB");
    kilobytes << 10
}

#[test]
#[ignore = "a process of its own, begun by the other one"]
fn one_body_alone() {
    let Ok(wanted) = std::env::var("BODY") else { return };
    let (way, name) = wanted.split_once(' ').expect("two words");
    let body = body(name);
    let folder = tempfile::tempdir().expect("a folder");
    let before = if way == "call" {
        let file = folder.path().join("m.proto");
        std::fs::write(&file, PROTO).expect("written");
        let from = Descriptions::Sources { files: vec![file], include: Vec::new() };
        let most = MOST as u64;
        let model = Transcode { from, services: Vec::new(), most, place: Place::default() };
        let interface = Interface::new(&model).expect("descriptions");
        let meant = interface.find(&Method::POST, "/S/C").expect("a call");
        message(&meant, None, (b"{\"a\":1}", MOST)).expect("a message");
        reset();
        let before = counted("VmRSS:");
        let _ = message(&meant, None, (body.as_bytes(), MOST));
        before
    } else {
        let file = folder.path().join("d.json");
        let text = r#"{ "openapi": "3.1.0", "paths": { "/a": { "post": { "requestBody": { "content": { "application/json": {
            "schema": { "type": "object" } } } } } } } }"#;
        std::fs::write(&file, text).expect("written");
        let most = MOST as u64;
        let model = topology::contract::Contract {
            file,
            prefix: None,
            most,
            by: Attached::Route,
            place: Place::default(),
        };
        let contract = Contract::new(&model, &[]).expect("a description");
        let meant = contract.find(&Method::POST, "/a").expect("an operation");
        let mut headers = http::HeaderMap::new();
        headers.insert("content-type", "application/json".parse().expect("a value"));
        let schema = meant.kind(&headers, false).expect("its type").expect("a schema");
        contract::body(schema, b"{}", most).expect("an object");
        reset();
        let before = counted("VmRSS:");
        let judged = contract::body(schema, body.as_bytes(), most);
        assert!(matches!(judged, Ok(()) | Err(Breach::TooLarge)), "{judged:?}");
        before
    };
    println!("peak={}", counted("VmHWM:").saturating_sub(before));
}

/// The most that was counted is what is counted now (proc(5), `clear_refs`).
fn reset() {
    std::fs::write("/proc/self/clear_refs", "5").expect("it is our own");
}
