//! Byte ranges: what is asked for, and how an answer with one or several is put together (RFC 9110
//! §14). Not for reading the bytes. Called by `files` and `cache`.
//!
//! Invariant: ranges that are answered do not overlap, so an answer is never much longer than what it
//! is of.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

/// First and last byte, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub first: u64,
    /// The last byte.
    pub last: u64,
}

impl Span {
    /// Bytes in it.
    pub fn length(self) -> u64 {
        self.last - self.first + 1
    }

    /// `Content-Range` of it.
    fn of(self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.first, self.last)
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All of it; also where nothing that can be read is asked for.
    Whole,
    /// These, in the order of the request; at least one.
    Parts(Vec<Span>),
    /// 416: none of it is there, or too many or overlapping ones are asked for.
    Refused,
}

/// More at once is an attack, or no use.
const MOST: usize = 16;

/// The ranges of a GET for something of this size.
pub fn asked(headers: &HeaderMap, size: u64) -> Asked {
    let mut lines = headers.get_all(header::RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Asked::Whole };
    let Some((unit, set)) = line.to_str().ok().and_then(|text| text.split_once('=')) else {
        return Asked::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Asked::Whole;
    }
    let mut spans = Vec::new();
    let mut count = 0;
    for spec in set.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        count += 1;
        if count > MOST {
            return Asked::Refused;
        }
        match span(spec, size) {
            // RFC 9110 §14.2: an invalid set is ignored.
            None => return Asked::Whole,
            Some(span) => spans.extend(span),
        }
    }
    if count == 0 {
        return Asked::Whole;
    }
    let overlap = |at: usize, a: &Span| {
        spans.iter().skip(at + 1).any(|b| a.first <= b.last && b.first <= a.last)
    };
    if spans.is_empty() || spans.iter().enumerate().any(|(at, a)| overlap(at, a)) {
        return Asked::Refused;
    }
    Asked::Parts(spans)
}

/// `Some(None)`: valid, but not there. `None`: invalid.
fn span(spec: &str, size: u64) -> Option<Option<Span>> {
    let (first, last) = spec.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // What is longer than a number can be is beyond every end.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    if first.is_empty() {
        let suffix = number(last)?.min(size);
        return Some((suffix > 0).then(|| Span { first: size - suffix, last: size - 1 }));
    }
    let first: u64 = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    Some((first < size).then(|| Span { first, last: last.min(size - 1) }))
}

/// The body of an answer as pieces of what is held, with text between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Text before a piece, and the piece.
    pub pieces: Vec<(Bytes, Span)>,
    /// Text behind the last one.
    pub tail: Bytes,
}

impl Layout {
    /// All of it.
    pub fn whole(size: u64) -> Self {
        let all = (size > 0).then(|| (Bytes::new(), Span { first: 0, last: size - 1 }));
        Self { pieces: all.into_iter().collect(), tail: Bytes::new() }
    }

    /// Some of it; sets `Content-Range`, or the type of an answer with several parts, whose boundary
    /// is `boundary`.
    pub fn parts(spans: &[Span], size: u64, boundary: &str, headers: &mut HeaderMap) -> Self {
        let text = |text: String| HeaderValue::try_from(text);
        if let [span] = spans {
            if let Ok(range) = text(span.of(size)) {
                headers.insert(header::CONTENT_RANGE, range);
            }
            return Self { pieces: vec![(Bytes::new(), *span)], tail: Bytes::new() };
        }
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.map(|kind| format!("Content-Type: {kind}\r\n")).unwrap_or_default();
        let piece = |span: &Span| {
            let range = span.of(size);
            let head = format!("\r\n--{boundary}\r\n{kind}Content-Range: {range}\r\n\r\n");
            (Bytes::from(head), *span)
        };
        let pieces = spans.iter().map(piece).collect();
        if let Ok(kind) = text(format!("multipart/byteranges; boundary={boundary}")) {
            headers.insert(header::CONTENT_TYPE, kind);
        }
        Self { pieces, tail: Bytes::from(format!("\r\n--{boundary}--\r\n")) }
    }

    /// Bytes of the whole body.
    pub fn length(&self) -> u64 {
        let pieces = self.pieces.iter().map(|(text, span)| text.len() as u64 + span.length());
        pieces.sum::<u64>() + self.tail.len() as u64
    }

    /// The body, of something that is held in memory.
    pub fn cut(&self, whole: &Bytes) -> Bytes {
        let slice = |span: &Span| {
            let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(whole.len());
            whole.slice(at(span.first)..at(span.last + 1))
        };
        match (self.pieces.as_slice(), self.tail.is_empty()) {
            ([], true) => Bytes::new(),
            ([(text, span)], true) if text.is_empty() => slice(span),
            (pieces, _) => {
                let mut body = Vec::with_capacity(usize::try_from(self.length()).unwrap_or(0));
                for (text, span) in pieces {
                    body.extend_from_slice(text);
                    body.extend_from_slice(&slice(span));
                }
                body.extend_from_slice(&self.tail);
                body.into()
            }
        }
    }
}

#[cfg(test)]
mod tests;
