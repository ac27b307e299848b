//! HTTP and JSON for gRPC: path templates, requests that mean a call, messages of services, and how calls end. The first byte
//! chooses which. Run by `make fuzz`.
//!
//! Invariant: what a service is sent is what it would be told again, and what a client is told is JSON.
#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use l7_gateway::transcode::answer::{Calling, Messages};
use l7_gateway::transcode::message::message;
use l7_gateway::transcode::template::Template;
use l7_gateway::transcode::{Interface, Meant};
use libfuzzer_sys::fuzz_target;
use topology::Place;
use topology::transcode::{Descriptions, Transcode};

static SHOP: LazyLock<Arc<Interface>> = LazyLock::new(|| {
    let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/described/shop.proto"));
    let from = Descriptions::Sources { files: vec![file], include: Vec::new() };
    let model = Transcode { from, services: Vec::new(), most: 1 << 20, place: Place::default() };
    Interface::new(&model).expect("descriptions")
});

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    match choice % 4 {
        0 => templates(bytes),
        1 => requests(bytes),
        2 => answers(bytes),
        _ => endings(bytes),
    }
});

/// A template, and behind a line's end a path.
fn templates(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (template, path) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(template) = Template::read(template) else { return };
    let Some(found) = template.find(path) else { return };
    assert_eq!(found.len(), template.fields().count());
    for (_, value) in found {
        assert!(value.len() <= path.len(), "{value} of {path}");
    }
}

fn meant<'i>(method: &Method, path: &str) -> Option<Meant<'i>> {
    SHOP.find(method, path).ok()
}

/// A method's letter and a target, and behind a line's end a body.
fn requests(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (line, body) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    let Some((letter, target)) = line.split_first() else { return };
    let Ok(target) = std::str::from_utf8(target) else { return };
    let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
    let method = [Method::GET, Method::POST, Method::PUT][usize::from(letter % 3)].clone();
    let Some(meant) = meant(&method, path) else { return };
    let Ok(sent) = message(&meant, query, (body, 1 << 20)) else { return };
    let calling = Calling::new(meant.binding, false, 1 << 20);
    let mut messages = Messages::default();
    messages.push(&sent);
    let Ok(Some(whole)) = messages.next(1 << 20) else { panic!("our own frame") };
    assert!(messages.is_empty());
    if let Ok(told) = calling.json(&whole) {
        again(&told);
    }
}

/// What is told can be asked, and means the same.
fn again(told: &[u8]) {
    let meant = meant(&Method::POST, "/items").expect("a call");
    let asked = message(&meant, None, (told, 1 << 20));
    let asked = asked.unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(told)));
    let calling = Calling::new(meant.binding, false, 1 << 20);
    let twice = calling.json(&asked[5..]).expect("told once, told again");
    let (once, twice): (serde_json::Value, serde_json::Value) = (
        serde_json::from_slice(told).expect("JSON"),
        serde_json::from_slice(&twice).expect("JSON"),
    );
    assert_eq!(once, twice);
}

/// Pieces of a stream, each with its length before it.
fn answers(bytes: &[u8]) {
    let meant = meant(&Method::POST, "/items").expect("a call");
    let calling = Calling::new(meant.binding, false, 4096);
    let (mut messages, mut rest) = (Messages::default(), bytes);
    while let Some((length, after)) = rest.split_first() {
        let (piece, after) = after.split_at(after.len().min(usize::from(*length)));
        messages.push(piece);
        rest = after;
        while let Ok(Some(whole)) = messages.next(calling.most) {
            assert!(whole.len() <= calling.most);
            if let Ok(told) = calling.json(&whole) {
                serde_json::from_slice::<serde_json::Value>(&told).expect("JSON");
            }
        }
    }
}

/// Lines `NAME VALUE` of what ends a call.
fn endings(bytes: &[u8]) {
    let meant = meant(&Method::POST, "/items").expect("a call");
    let calling = Calling::new(meant.binding, false, 4096);
    let mut fields = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(8) {
        let (number, value) = line.split_first().unwrap_or((&0, &[]));
        let names = ["grpc-status", "grpc-message", "grpc-status-details-bin", "x-other"];
        let name = HeaderName::from_static(names[usize::from(number % 4)]);
        let Ok(value) = HeaderValue::from_bytes(value) else { continue };
        fields.append(name, value);
    }
    if let Some(ending) = calling.ending(&fields) {
        assert!(fields.contains_key("grpc-status"));
        let _ = format!("{ending:?}");
    }
}
