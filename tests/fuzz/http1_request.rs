//! Clients' bytes as HTTP/1.1, read as the engine reads them: no bytes make the codec panic, it does not
//! matter how they are cut, what it takes is taken by hyper with the same meaning, and what it writes
//! is read back as it was meant. Run by `make fuzz`.
//!
//! Invariant: a request that was taken has one end.
#![no_main]

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use l7_gateway::codec::body::{Decoder, Piece};
use l7_gateway::codec::head::{self, HeadLimits};
use l7_gateway::codec::request::{self, Head};
use l7_gateway::codec::{BodyLength, write};
use libfuzzer_sys::fuzz_target;

mod oracle;

const LIMITS: HeadLimits = HeadLimits { bytes: 8192, target: 1024, headers: 100 };

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes, bytes.len().max(1));
    for size in [1, 7, 64] {
        assert_eq!(read(bytes, size), whole, "in pieces of {size}");
    }
    if let Some(Read { ends, body: Some(body), .. }) = whole.requests.first() {
        let mut scanned = 0;
        let end = head::end(bytes, &mut scanned, LIMITS).ok().flatten();
        let end = end.expect("it was read");
        let head = request::parse(&Bytes::copy_from_slice(&bytes[..end]), LIMITS);
        let head = head.expect("it was read");
        written(&head);
        oracle::agrees(&bytes[..*ends], &head.parts, body);
    }
});

/// What becomes of bytes.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    requests: Vec<Read>,
    refused: bool,
}

/// One request.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    line: String,
    fields: usize,
    /// Where it ends, once it has.
    ends: usize,
    /// Its body, once it has ended.
    body: Option<Vec<u8>>,
}

fn read(bytes: &[u8], size: usize) -> Outcome {
    let mut outcome = Outcome { requests: Vec::new(), refused: false };
    let (mut input, mut scanned) = (BytesMut::new(), 0);
    let mut decoder: Option<Decoder> = None;
    let mut taken = 0;
    for piece in bytes.chunks(size) {
        input.extend_from_slice(piece);
        taken += piece.len();
        loop {
            if let Some(body) = &mut decoder {
                let read = outcome.requests.last_mut().expect("a head came first");
                let held = read.body.get_or_insert_default();
                match body.next(&mut input) {
                    Ok(Piece::Data(data)) => held.extend_from_slice(&data),
                    Ok(Piece::Trailers(_) | Piece::End) => {
                        read.ends = taken - input.len();
                        decoder = None;
                    }
                    Ok(Piece::More) => break,
                    Err(_) => {
                        read.body = None;
                        return Outcome { refused: true, ..outcome };
                    }
                }
                continue;
            }
            match head::end(&input, &mut scanned, LIMITS) {
                Ok(None) => break,
                Ok(Some(end)) => {
                    let bytes = input.split_to(end).freeze();
                    scanned = 0;
                    let Ok(head) = request::parse(&bytes, LIMITS) else {
                        return Outcome { refused: true, ..outcome };
                    };
                    let Parts { method, uri, headers, .. } = *head.parts;
                    let line = format!("{method} {uri}");
                    let fields = headers.len();
                    outcome.requests.push(Read { line, fields, ends: 0, body: None });
                    decoder = Some(head.body.into());
                }
                Err(_) => return Outcome { refused: true, ..outcome },
            }
        }
    }
    if decoder.is_some()
        && let Some(unfinished) = outcome.requests.last_mut()
    {
        unfinished.body = None;
    }
    outcome
}

/// What we would send of it is one request, with the same end.
fn written(head: &Head) {
    let Parts { method, uri, headers, .. } = &*head.parts;
    // In origin form, as stage 7 has it.
    let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
    let target: http::Uri = format!("{}{query}", uri.path()).parse().expect("a target");
    let mut out = Vec::new();
    write::request(&mut out, method, &target, headers, head.body.into());
    let limits = HeadLimits { bytes: 1 << 20, target: 1 << 20, headers: 200 };
    let end = head::end(&out, &mut 0, limits).expect("clean").expect("whole");
    assert_eq!(end, out.len(), "{}", out.escape_ascii());
    let again = request::parse(&out.into(), limits).expect("clean");
    assert_eq!((&again.parts.method, again.body), (method, head.body));
    assert_eq!(again.parts.uri, target);
    assert!(again.body != BodyLength::UntilClose, "a request ends by itself");
}
