//! What filters read of clients and of programs outside: bodies that are changed by path, bodies held against schemas, gRPC-Web
//! in text, and what external filters say. The first byte chooses which. Run by `make fuzz`.
//!
//! Invariant: a body is changed whole into JSON or refused, and no text is read as more than it is.
#![no_main]

use l7_gateway::external::told;
use l7_gateway::grpc_web::decoded;
use l7_gateway::strict;
use l7_gateway::transform::json::Document;
use libfuzzer_sys::fuzz_target;
use topology::transform::{JsonName, JsonStep, JsonValue};

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    match choice % 4 {
        0 => changes(bytes),
        1 => documents(bytes),
        2 => texts(bytes),
        _ => sayings(bytes),
    }
});

fn member(name: &str) -> JsonName {
    JsonName::Member(name.to_owned())
}

fn changes(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(mut document) = Document::read(text) else { return };
    let (a, b) = (member("a"), member("b"));
    let steps = [
        JsonStep::Set(vec![a.clone(), b.clone()], JsonValue::Json("[1]".to_owned())),
        JsonStep::Remove(vec![b.clone(), JsonName::Each, a.clone()]),
        JsonStep::Rename(vec![a.clone()], "b".to_owned()),
        JsonStep::Move(vec![b.clone(), a.clone()], vec![a, b]),
    ];
    for step in &steps {
        // What is refused is not sent on.
        if document.apply(step, &mut std::iter::empty()).is_err() {
            return;
        }
        let written = document.written();
        assert!(Document::read(&written).is_ok(), "{written} of {text}");
    }
}

fn documents(bytes: &[u8]) {
    // Read strictly it is a document that everybody reads: whatever else is in it.
    if strict::read(bytes, usize::MAX).is_ok() {
        let text = std::str::from_utf8(bytes).expect("text");
        assert!(Document::read(text).is_ok(), "{text}");
    }
}

fn texts(bytes: &[u8]) {
    if let Some(read) = decoded(bytes) {
        assert!(read.len() <= bytes.len() / 4 * 3);
        let lawful = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
        assert!(bytes.len() % 4 == 0 && bytes.iter().all(lawful));
    }
}

fn sayings(bytes: &[u8]) {
    let Ok(told::Said::Answer(answer)) = told::read(bytes) else { return };
    assert!((200..=599).contains(&answer.head.status.as_u16()));
    assert!(!answer.head.headers.contains_key("content-length"));
}
