//! The framing table: what is refused, what is taken, and that no split of the bytes matters.

use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, target: 256, headers: 20 };

fn judge(text: &str) -> Result<Option<Head>, Fault> {
    head(text.as_bytes(), &mut 0, LIMITS)
}

fn with(lines: &str) -> Result<Option<Head>, Fault> {
    judge(&format!("POST /v HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
}

/// G23: ambiguous framing is refused.
#[test]
fn ambiguous_heads_are_refused() {
    let cases = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Fault::Length),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Fault::Length),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Fault::Length),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Fault::Length),
        ("Content-Length: +5\r\n", Fault::Length),
        ("Content-Length: 5, 5\r\n", Fault::Length),
        ("Content-Length: 0x5\r\n", Fault::Length),
        ("Content-Length: \r\n", Fault::Length),
        ("Content-Length: 99999999999999999999\r\n", Fault::Length),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", Fault::TransferCoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Fault::TransferCoding),
        ("Transfer-Encoding: xchunked\r\n", Fault::TransferCoding),
        ("Transfer-Encoding: chunked, identity\r\n", Fault::TransferCoding),
        ("Transfer-Encoding: gzip, chunked\r\n", Fault::TransferCoding),
        ("Transfer-Encoding: \x0bchunked\r\n", Fault::Syntax),
        ("Transfer-Encoding : chunked\r\n", Fault::Syntax),
        ("Host: a\r\n", Fault::Host),
        ("X: a\r\n folded\r\n", Fault::Syntax),
        ("X: a\rb\r\n", Fault::Syntax),
        ("X: a\0b\r\n", Fault::Syntax),
        ("X Y: a\r\n", Fault::Syntax),
        ("X: a\n", Fault::Syntax),
        (": a\r\n", Fault::Syntax),
    ];
    for (lines, fault) in cases {
        assert_eq!(with(lines), Err(fault), "{lines:?}");
    }
}

/// G23: request lines that are no origin form or no HTTP/1 are refused.
#[test]
fn odd_request_lines_are_refused() {
    let cases = [
        ("GET /v HTTP/1.1\r\n\r\n", Fault::Host),
        ("GET /v HTTP/1.1\n\n", Fault::Syntax),
        ("GET /v#f HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
        ("GET /v\\x HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
        ("GET v HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Target),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Method),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Method),
        ("PRI * HTTP/2.0\r\n\r\n", Fault::Version),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Fault::Version),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Fault::TransferCoding),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::Syntax),
        ("GET /\r\n\r\n", Fault::Syntax),
        ("\x16\x03\x01\r\n\r\n", Fault::Syntax),
    ];
    for (text, fault) in cases {
        assert_eq!(judge(text), Err(fault), "{text:?}");
    }
}

#[test]
fn limits_are_kept() {
    assert_eq!(
        judge(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(256))),
        Err(Fault::TargetTooLong)
    );
    assert_eq!(judge(&format!("GET /{}", "x".repeat(400))), Err(Fault::TargetTooLong));
    assert_eq!(with(&"X: 1\r\n".repeat(20)), Err(Fault::TooManyHeaders));
    assert_eq!(with(&"X: 1\r\n".repeat(300)), Err(Fault::TooManyHeaders));
    assert_eq!(with(&format!("X: {}\r\n", "y".repeat(4096))), Err(Fault::HeadTooLarge));
    assert_eq!(
        judge(&format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(4096))),
        Err(Fault::HeadTooLarge)
    );
}

#[test]
fn plain_heads_are_taken() {
    let found = |text: &str| with(text).expect("a head").expect("complete");
    assert_eq!(found("").body, BodyLength::Exact(0));
    assert_eq!(found("Content-Length: 12\r\n").body, BodyLength::Exact(12));
    assert_eq!(found("Transfer-Encoding: Chunked\r\n").body, BodyLength::Chunked);
    assert_eq!(found("Upgrade: websocket\r\n").upgrade, Upgrade::Asked);
    assert_eq!(judge("GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
}

fn follow(text: &[u8]) -> Result<Progress, Fault> {
    Follow::from(BodyLength::Chunked).advance(text)
}

/// G23: the chunk grammar is strict.
#[test]
fn odd_chunks_are_refused() {
    let cases: [&[u8]; 14] = [
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"-5\r\n",
        b"\r\n",
        b";a\r\n",
        b"fffffffffffffffff\r\n",
        b"5\r\nhelloX\r\n",
        b"0\r\n\n",
        b"0\r\nX: a\n\r\n",
        b"0\r\nX: \0\r\n\r\n",
    ];
    for text in cases {
        assert_eq!(follow(text), Err(Fault::Chunk), "{:?}", String::from_utf8_lossy(text));
    }
    let long = [b"5;".as_slice(), &[b'a'; 300]].concat();
    assert_eq!(follow(&long), Err(Fault::Chunk));
}

#[test]
fn chunked_bodies_end_where_they_end() {
    let text = b"5;a=\"b\"\r\nhello\r\n00A\r\n0123456789\r\n0\r\nX: y\r\n\r\nGET /";
    assert_eq!(follow(text), Ok(Progress::Done(text.len() - 5)));
    assert_eq!(follow(b"5\r\nhel"), Ok(Progress::More));
    assert_eq!(Follow::Exact(3).advance(b"abcd"), Ok(Progress::Done(3)));
    assert_eq!(Follow::Exact(0).advance(b"abcd"), Ok(Progress::Done(0)));
}

fn chunked(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        out.extend(format!("{:x}\r\n", part.len()).bytes());
        out.extend(part.iter().chain(b"\r\n"));
    }
    out.extend(b"0\r\n\r\n");
    out
}

proptest! {
    /// G23: however the network cuts the bytes, the end of a body is the same.
    #[test]
    fn splits_do_not_matter(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
        cuts in prop::collection::vec(1_usize..17, 1..40),
        rest in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let body = chunked(&parts);
        let text = [body.clone(), rest].concat();
        let mut follow = Follow::from(BodyLength::Chunked);
        let (mut at, mut end) = (0, None);
        for cut in cuts.iter().cycle() {
            let piece = &text[at..text.len().min(at + cut)];
            if let Progress::Done(used) = follow.advance(piece).expect("valid") {
                end = Some(at + used);
                break;
            }
            at += piece.len();
        }
        prop_assert_eq!(end, Some(body.len()));
    }

    /// G23: whatever comes, it is judged without a panic, and at most once.
    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0_usize..300) {
        let whole = head(&bytes, &mut 0, LIMITS);
        let mut scanned = 0;
        let first = head(&bytes[..cut.min(bytes.len())], &mut scanned, LIMITS);
        if first == Ok(None) {
            prop_assert_eq!(head(&bytes, &mut scanned, LIMITS), whole);
        }
        let _ = follow(&bytes);
    }
}
