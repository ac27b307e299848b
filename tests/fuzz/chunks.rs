//! Chunked bodies against a reader that has all bytes at once and knows nothing but the grammar of
//! RFC 9112 §7.1. The first byte chooses how they are cut. Run by `make fuzz`.
//!
//! Invariant: both take the same bodies, and see the same bytes behind them.
#![no_main]

use bytes::BytesMut;
use l7_gateway::codec::BodyLength;
use l7_gateway::codec::body::{Decoder, Piece};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((size, bytes)) = bytes.split_first() else { return };
    assert_eq!(ours(bytes, usize::from(*size) + 1), plain(bytes));
});

/// The body and how many bytes are left behind it; `None`: it is malformed or not whole.
fn ours(bytes: &[u8], size: usize) -> Option<(Vec<u8>, usize)> {
    let mut decoder = Decoder::from(BodyLength::Chunked);
    let (mut input, mut body, mut taken) = (BytesMut::new(), Vec::new(), 0);
    for piece in bytes.chunks(size) {
        input.extend_from_slice(piece);
        taken += piece.len();
        loop {
            match decoder.next(&mut input).ok()? {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::More => break,
                Piece::Trailers(_) | Piece::End => {
                    assert!(decoder.is_done());
                    return Some((body, bytes.len() - taken + input.len()));
                }
            }
        }
    }
    None
}

fn plain(mut bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    loop {
        let line = line(&mut bytes)?;
        let (digits, extension) = match line.iter().position(|b| *b == b';') {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        let visible = |b: &u8| matches!(b, b'\t' | b' '..=b'~');
        if digits.is_empty()
            || digits.len() > 15
            || extension.len() > 256
            || !extension.iter().all(visible)
        {
            return None;
        }
        let text = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
        let size = usize::from_str_radix(text, 16).ok()?;
        if size == 0 {
            return trailers(bytes).map(|left| (body, left));
        }
        let (data, rest) = bytes.split_at_checked(size)?;
        body.extend_from_slice(data);
        bytes = rest.strip_prefix(b"\r\n")?;
    }
}

/// Up to a CRLF; an LF or a CR elsewhere ends everything.
fn line<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = bytes.iter().position(|b| *b == b'\r' || *b == b'\n')?;
    let (line, rest) = bytes.split_at(end);
    *bytes = rest.strip_prefix(b"\r\n")?;
    Some(line)
}

/// How many bytes are left behind them.
fn trailers(mut bytes: &[u8]) -> Option<usize> {
    let (mut count, mut length) = (0, 0);
    loop {
        let line = line(&mut bytes)?;
        if line.is_empty() {
            return Some(bytes.len());
        }
        count += 1;
        length += line.len() + 2;
        let colon = line.iter().position(|b| *b == b':')?;
        let (name, value) = line.split_at(colon);
        let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        let visible = |b: &u8| matches!(b, b'\t' | b' '..=b'~' | 0x80..);
        let fine = !name.is_empty() && name.iter().all(token) && value.iter().all(visible);
        if !fine || count > 32 || length > 8 * 1024 {
            return None;
        }
    }
}
