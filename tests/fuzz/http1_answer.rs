//! Services' bytes as HTTP/1.1: no bytes make the codec panic, it does not matter how they are cut, and
//! what is passed on is read back with the same end. The first byte chooses the request's method. Run
//! by `make fuzz`.
//!
//! Invariant: an answer's end is told in one way.
#![no_main]

use bytes::BytesMut;
use http::Method;
use l7_gateway::codec::body::{Decoder, Piece};
use l7_gateway::codec::head::{self, HeadLimits};
use l7_gateway::codec::response::{self, Head};
use l7_gateway::codec::{BodyLength, Persistence, write};
use libfuzzer_sys::fuzz_target;

const LIMITS: HeadLimits = HeadLimits { bytes: 16_384, target: 16_384, headers: 200 };

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let method = if choice % 2 == 0 { Method::GET } else { Method::HEAD };
    let whole = read(bytes, bytes.len().max(1), &method);
    for size in [1, 7, 64] {
        assert_eq!(read(bytes, size, &method), whole, "in pieces of {size}");
    }
});

/// What becomes of bytes: statuses with bodies, and whether all of it was taken.
type Outcome = (Vec<(u16, Vec<u8>)>, bool);

fn read(bytes: &[u8], size: usize, method: &Method) -> Outcome {
    let mut answers = Vec::new();
    let (mut input, mut scanned) = (BytesMut::new(), 0);
    let mut decoder: Option<Decoder> = None;
    for piece in bytes.chunks(size) {
        input.extend_from_slice(piece);
        loop {
            if let Some(body) = &mut decoder {
                let (_, held): &mut (u16, Vec<u8>) = answers.last_mut().expect("a head came first");
                match body.next(&mut input) {
                    Ok(Piece::Data(data)) => held.extend_from_slice(&data),
                    Ok(Piece::Trailers(_) | Piece::End) => decoder = None,
                    Ok(Piece::More) => break,
                    Err(_) => return (answers, false),
                }
                continue;
            }
            match head::end(&input, &mut scanned, LIMITS) {
                Ok(None) => break,
                Ok(Some(end)) => {
                    scanned = 0;
                    let head = input.split_to(end).freeze();
                    let Ok(head) = response::parse(&head, method, LIMITS.headers) else {
                        return (answers, false);
                    };
                    passed_on(&head, method);
                    answers.push((head.parts.status.as_u16(), Vec::new()));
                    decoder = Some(head.body.into());
                }
                Err(_) => return (answers, false),
            }
        }
    }
    (answers, true)
}

/// What a client would be sent of it ends where it ended.
fn passed_on(head: &Head, method: &Method) {
    if head.body == BodyLength::UntilClose {
        return assert_eq!(head.persistence, Persistence::Close);
    }
    let status = head.parts.status;
    let bodiless = response::bodiless(method, status);
    let framing = if bodiless { write::Framing::Silent } else { head.body.into() };
    let mut out = Vec::new();
    write::response(&mut out, status, &head.parts.headers, framing, |_| {});
    let limits = HeadLimits { bytes: 1 << 20, target: 1 << 20, headers: 200 };
    let end = head::end(&out, &mut 0, limits).expect("clean").expect("whole");
    assert_eq!(end, out.len(), "{}", out.escape_ascii());
    let again = response::parse(&out.into(), method, limits.headers).expect("clean");
    assert_eq!((again.parts.status, again.body), (status, head.body));
}
