//! The codec's tables: what is refused, what is taken, that no cut of the bytes matters, and that what
//! is written reads as it was meant.

use bytes::BytesMut;
use http::{Method, Uri};
use proptest::prelude::*;

use super::body::{Decoder, Piece};
use super::head::{HeadLimits, end};
use super::request::{Expect, Head, Upgrade};
use super::write::Framing;
use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, target: 256, headers: 20 };

fn judge(text: &[u8]) -> Result<Option<Head>, Fault> {
    let Some(length) = end(text, &mut 0, LIMITS)? else { return Ok(None) };
    request::parse(&Bytes::copy_from_slice(&text[..length]), LIMITS).map(Some)
}

fn fault(text: &str) -> Option<Fault> {
    judge(text.as_bytes()).err()
}

fn with(lines: &str) -> Result<Option<Head>, Fault> {
    judge(format!("POST /v HTTP/1.1\r\nHost: a\r\n{lines}\r\n").as_bytes())
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
        ("Upgrade: websocket\r\nContent-Length: 1\r\n", Fault::Length),
        ("Upgrade: websocket\r\nTransfer-Encoding: chunked\r\n", Fault::Length),
        ("Expect: 200-ok\r\n", Fault::Expectation),
        ("Host: a\r\n", Fault::Host),
        ("X: a\r\n folded\r\n", Fault::Syntax),
        ("X: a\rb\r\n", Fault::Syntax),
        ("X: a\0b\r\n", Fault::Syntax),
        ("X: a\x7fb\r\n", Fault::Syntax),
        ("X Y: a\r\n", Fault::Syntax),
        ("X: a\n", Fault::Syntax),
        (": a\r\n", Fault::Syntax),
    ];
    for (lines, expected) in cases {
        assert_eq!(with(lines).err(), Some(expected), "{lines:?}");
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
    for (text, expected) in cases {
        assert_eq!(fault(text), Some(expected), "{text:?}");
    }
}

#[test]
fn limits_are_kept() {
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(256));
    assert_eq!(fault(&long), Some(Fault::TargetTooLong));
    assert_eq!(fault(&format!("GET /{}", "x".repeat(400))), Some(Fault::TargetTooLong));
    assert_eq!(with(&"X: 1\r\n".repeat(20)).err(), Some(Fault::TooManyHeaders));
    assert_eq!(with(&"X: 1\r\n".repeat(300)).err(), Some(Fault::TooManyHeaders));
    assert_eq!(with(&format!("X: {}\r\n", "y".repeat(4096))).err(), Some(Fault::HeadTooLarge));
    let unended = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(4096));
    assert_eq!(fault(&unended), Some(Fault::HeadTooLarge));
}

#[test]
fn plain_heads_are_taken() {
    let found = |text: &str| with(text).expect("a head").expect("complete");
    assert_eq!(found("").body, BodyLength::Exact(0));
    assert_eq!(found("Content-Length: 12\r\n").body, BodyLength::Exact(12));
    assert_eq!(found("Transfer-Encoding: Chunked\r\n").body, BodyLength::Chunked);
    assert_eq!(found("Upgrade: websocket\r\n").upgrade, Upgrade::Asked);
    assert_eq!(found("Expect: 100-Continue\r\nContent-Length: 1\r\n").expect, Expect::Continue);
    assert_eq!(found("Expect: 100-continue\r\n").expect, Expect::Nothing);
    assert_eq!(found("").persistence, Persistence::Keep);
    assert_eq!(found("Connection: x, Close\r\n").persistence, Persistence::Close);
    assert_eq!(found("X: \u{e9}\t y\r\n").parts.headers["x"].as_bytes(), "\u{e9}\t y".as_bytes());
    assert!(judge(b"GET / HTTP/1.1\r\nHost: a\r\n").expect("so far well").is_none());
    let old = |lines: &str| judge(format!("GET / HTTP/1.0\r\nHost: a\r\n{lines}\r\n").as_bytes());
    let kept = |lines: &str| old(lines).expect("a head").expect("complete").persistence;
    assert_eq!(kept(""), Persistence::Close);
    assert_eq!(kept("Connection: Keep-Alive\r\n"), Persistence::Keep);
}

fn answer(method: &Method, text: &str) -> Result<(BodyLength, Persistence), Fault> {
    let found = end(text.as_bytes(), &mut 0, LIMITS)?.ok_or(Fault::Syntax)?;
    let bytes = Bytes::copy_from_slice(&text.as_bytes()[..found]);
    response::parse(&bytes, method, LIMITS.headers).map(|head| (head.body, head.persistence))
}

/// G23: a service's answer ends where its head says, in one way.
#[test]
fn answers_have_one_end() {
    use BodyLength::{Chunked, Exact, UntilClose};
    use Persistence::{Close, Keep};
    let cases = [
        ("200 OK\r\nContent-Length: 5\r\n", Ok((Exact(5), Keep))),
        ("200 OK\r\nTransfer-Encoding: chunked\r\n", Ok((Chunked, Keep))),
        ("200 OK\r\n", Ok((UntilClose, Close))),
        ("200 \r\nContent-Length: 0\r\n", Ok((Exact(0), Keep))),
        ("200\r\nContent-Length: 0\r\n", Ok((Exact(0), Keep))),
        ("204 No\r\n", Ok((Exact(0), Keep))),
        ("304 Not\r\nContent-Length: 5\r\n", Ok((Exact(0), Keep))),
        ("200 OK\r\nContent-Length: 5\r\nConnection: close\r\n", Ok((Exact(5), Close))),
        ("200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n", Err(Fault::Length)),
        ("200 OK\r\nContent-Length: 5, 5\r\n", Err(Fault::Length)),
        ("200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(Fault::Length)),
        ("200 OK\r\nTransfer-Encoding: gzip, chunked\r\n", Err(Fault::TransferCoding)),
        ("200 OK\r\nTransfer-Encoding: identity\r\n", Err(Fault::TransferCoding)),
        ("200 OK\r\nX: a\r\n b\r\n", Err(Fault::Syntax)),
        ("200 OK\r\nX : a\r\n", Err(Fault::Syntax)),
        ("200 OK\r\nX: a\0\r\n", Err(Fault::Syntax)),
        ("200 OK\r\nX: a\n", Err(Fault::Syntax)),
        ("20 OK\r\n", Err(Fault::Syntax)),
        ("700 OK\r\n", Err(Fault::Syntax)),
    ];
    for (text, expected) in cases {
        assert_eq!(answer(&Method::GET, &format!("HTTP/1.1 {text}\r\n")), expected, "{text:?}");
    }
    let told = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(answer(&Method::HEAD, told), Ok((Exact(0), Keep)));
    assert_eq!(answer(&Method::GET, "HTTP/1.0 200 OK\r\n\r\n"), Ok((UntilClose, Close)));
    let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(answer(&Method::GET, old), Err(Fault::TransferCoding));
    assert_eq!(answer(&Method::GET, "HTTP/2 200 OK\r\n\r\n"), Err(Fault::Syntax));
}

/// All of a body that is there, and how it stands behind that.
fn read(decoder: &mut Decoder, buffer: &mut BytesMut) -> Result<(Vec<u8>, Piece), Fault> {
    let mut data = Vec::new();
    loop {
        match decoder.next(buffer)? {
            Piece::Data(bytes) => data.extend_from_slice(&bytes),
            other => return Ok((data, other)),
        }
    }
}

fn chunked(text: &[u8]) -> Result<(Vec<u8>, Piece), Fault> {
    read(&mut BodyLength::Chunked.into(), &mut BytesMut::from(text))
}

/// G23: the chunk grammar is strict.
#[test]
fn odd_chunks_are_refused() {
    let cases: [&[u8]; 16] = [
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
        b"0\r\n folded: a\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
    ];
    for text in cases {
        let judged = chunked(text);
        assert!(matches!(judged, Err(Fault::Chunk)), "{:?}", String::from_utf8_lossy(text));
    }
    let long = [b"5;".as_slice(), &[b'a'; 300]].concat();
    assert_eq!(chunked(&long), Err(Fault::Chunk));
    let many = [b"0\r\n".as_slice(), &b"X: y\r\n".repeat(2000)].concat();
    assert_eq!(chunked(&many), Err(Fault::Chunk));
}

#[test]
fn chunked_bodies_end_where_they_end() {
    let mut buffer =
        BytesMut::from(&b"5;a=\"b\"\r\nhello\r\n00A\r\n0123456789\r\n0\r\nX: y\r\n\r\nGET /"[..]);
    let mut decoder = Decoder::from(BodyLength::Chunked);
    let (data, end) = read(&mut decoder, &mut buffer).expect("valid");
    assert_eq!(data, b"hello0123456789");
    let Piece::Trailers(fields) = end else { panic!("{end:?}") };
    assert_eq!((fields.len(), &fields["x"]), (1, &HeaderValue::from_static("y")));
    assert!(decoder.is_done());
    assert_eq!(decoder.next(&mut buffer), Ok(Piece::End));
    assert_eq!(buffer, "GET /", "what follows is left alone");
    assert_eq!(chunked(b"5\r\nhel"), Ok((b"hel".to_vec(), Piece::More)));
    let mut exact = Decoder::Exact(3);
    let mut buffer = BytesMut::from(&b"abcd"[..]);
    assert_eq!(read(&mut exact, &mut buffer), Ok((b"abc".to_vec(), Piece::End)));
    assert_eq!(buffer, "d");
}

fn encoded(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        write::chunk(&mut out, part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    write::trailers(&mut out, None);
    out
}

proptest! {
    /// G23: however the network cuts the bytes, a body and its end are the same, and what our writer
    /// makes our reader takes.
    #[test]
    fn splits_do_not_matter(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
        cuts in prop::collection::vec(1_usize..17, 1..40),
        rest in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let text = [encoded(&parts), rest.clone()].concat();
        let mut decoder = Decoder::from(BodyLength::Chunked);
        let (mut at, mut buffer, mut data) = (0, BytesMut::new(), Vec::new());
        for cut in cuts.iter().cycle() {
            let piece = &text[at..text.len().min(at + cut)];
            at += piece.len();
            buffer.extend_from_slice(piece);
            let (more, end) = read(&mut decoder, &mut buffer).expect("valid");
            data.extend(more);
            if end == Piece::End {
                break;
            }
        }
        prop_assert_eq!(data, parts.concat());
        prop_assert_eq!([&buffer[..], &text[at..]].concat(), rest);
    }

    /// G23: whatever comes, it is judged without a panic, and at most once.
    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0_usize..300) {
        let whole = end(&bytes, &mut 0, LIMITS);
        let mut scanned = 0;
        let first = end(&bytes[..cut.min(bytes.len())], &mut scanned, LIMITS);
        if first == Ok(None) {
            prop_assert_eq!(end(&bytes, &mut scanned, LIMITS), whole);
        }
        let _ = judge(&bytes);
        let _ = chunked(&bytes);
    }

    /// G23: what we write to a service is one request to our own strict reader, whatever fields a
    /// client had.
    #[test]
    fn written_requests_read_as_meant(
        fields in prop::collection::vec(("[a-z-]{1,14}", "[ -~]{0,30}"), 0..8),
        length in prop::option::of(0_u64..1000),
        path in "/[a-z0-9/._-]{0,40}",
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in &fields {
            let framing = ["host", "upgrade", "expect", "connection"].contains(&name.as_str());
            if let (false, Ok(name), Ok(value)) =
                (framing, HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.trim()))
            {
                headers.append(name, value);
            }
        }
        headers.insert(header::HOST, HeaderValue::from_static("a"));
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("x"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("7"));
        let framing = length.map_or(Framing::Chunked, Framing::Exact);
        let target: Uri = path.parse().expect("a path");
        let mut out = Vec::new();
        write::request(&mut out, &Method::POST, &target, &headers, framing);
        let head = judge(&out).expect("strict").expect("complete");
        prop_assert_eq!(head.body, length.map_or(BodyLength::Chunked, BodyLength::Exact));
        prop_assert_eq!(head.parts.uri.path(), path);
        for name in headers.keys().filter(|name| !super::write::FRAMES.contains(name)) {
            let all = |map: &HeaderMap| map.get_all(name).iter().cloned().collect::<Vec<_>>();
            prop_assert_eq!(all(&head.parts.headers), all(&headers));
        }
    }

    /// G23: our reader takes nothing that hyper's tokeniser does not, and reads the same in it.
    #[test]
    fn agrees_with_httparse(text in "(GET|POST|M!) /[a-z%?]{0,9} HTTP/1\\.[01]\r\n(Host: a\r\n|[A-Za-z-]{1,6}:[ \t]?[a-z0-9 \u{e9}]{0,9}[ ]?\r\n){0,5}\r\n") {
        if let Ok(Some(head)) = judge(text.as_bytes()) {
            let mut slots = [httparse::EMPTY_HEADER; 32];
            let mut plain = httparse::Request::new(&mut slots);
            prop_assert!(plain.parse(text.as_bytes()).expect("taken as well").is_complete());
            prop_assert_eq!(plain.method, Some(head.parts.method.as_str()));
            prop_assert_eq!(plain.path, head.parts.uri.path_and_query().map(http::uri::PathAndQuery::as_str));
            prop_assert_eq!(plain.headers.len(), head.parts.headers.len());
            for field in plain.headers.iter() {
                let values = head.parts.headers.get_all(field.name);
                prop_assert!(values.iter().any(|value| value.as_bytes() == field.value));
            }
        }
    }
}
