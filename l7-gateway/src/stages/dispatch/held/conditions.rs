//! Conditional requests: whether a request goes on, is answered 304, or has failed (RFC 9110 §13).
//! Not for ranges, except for whether `If-Range` lets them be. Called by `files` and `cache`.
//!
//! Invariant: what cannot be read never makes a condition true that guards a change, nor one false
//! that saves a transfer.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{Validators, date};

/// What conditions come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As if there were none.
    Go,
    /// 304: the client has it.
    Unchanged,
    /// 412: it is not what the client thinks.
    Failed,
}

/// All conditions of a GET or HEAD in their order (RFC 9110 §13.2.2).
pub fn judge(asked: &HeaderMap, held: &Validators) -> Verdict {
    if asked.contains_key(header::IF_MATCH) {
        if !names(asked, &header::IF_MATCH, held, Comparison::Strong) {
            return Verdict::Failed;
        }
    } else if let (Some(limit), Some(modified)) =
        (single(asked, &header::IF_UNMODIFIED_SINCE).and_then(date), held.modified)
        && modified > limit
    {
        return Verdict::Failed;
    }
    fresh(asked, held)
}

/// The conditions that a cache may answer (RFC 9111 §4.3.2).
pub fn fresh(asked: &HeaderMap, held: &Validators) -> Verdict {
    let unchanged = if asked.contains_key(header::IF_NONE_MATCH) {
        names(asked, &header::IF_NONE_MATCH, held, Comparison::Weak)
    } else {
        let since = single(asked, &header::IF_MODIFIED_SINCE).and_then(date);
        since.zip(held.modified).is_some_and(|(since, modified)| modified <= since)
    };
    if unchanged { Verdict::Unchanged } else { Verdict::Go }
}

/// Whether `If-Range`, if there is one, lets a range be answered (RFC 9110 §13.1.5).
pub fn range_holds(asked: &HeaderMap, held: &Validators, now: SystemTime) -> bool {
    if !asked.contains_key(header::IF_RANGE) {
        return true;
    }
    let Some(wanted) = single(asked, &header::IF_RANGE) else { return false };
    let text = wanted.as_bytes();
    if is_tag(text) {
        return held.tag.as_ref().is_some_and(|tag| strong(tag.as_bytes()) && tag == wanted);
    }
    // RFC 9110 §8.8.2.2: a date is strong once a later change would show another one.
    let settled = |modified: &SystemTime| *modified + Duration::from_secs(1) < now;
    held.modified.filter(settled).is_some_and(|modified| date(wanted) == Some(modified))
}

/// How tags are compared (RFC 9110 §8.8.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

impl Comparison {
    fn same(self, a: &[u8], b: &[u8]) -> bool {
        match self {
            Self::Strong => strong(a) && a == b,
            Self::Weak => opaque(a) == opaque(b),
        }
    }
}

fn strong(tag: &[u8]) -> bool {
    !tag.starts_with(b"W/")
}

fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// Whether it is one entity tag and nothing else.
pub fn is_tag(text: &[u8]) -> bool {
    next_tag(text).is_some_and(|(_, rest)| rest.is_empty())
}

/// Whether a list of tags has the one that is held, or is `*`.
fn names(asked: &HeaderMap, name: &HeaderName, held: &Validators, how: Comparison) -> bool {
    asked.get_all(name).iter().any(|value| {
        let mut rest = value.as_bytes().trim_ascii();
        if rest == b"*" {
            return true;
        }
        while let Some((tag, behind)) = next_tag(rest) {
            if held.tag.as_ref().is_some_and(|own| how.same(own.as_bytes(), tag)) {
                return true;
            }
            let comma = behind.trim_ascii_start().strip_prefix(b",");
            let Some(behind) = comma else { return false };
            rest = behind.trim_ascii_start();
        }
        false
    })
}

/// A tag, which may have commas in it, and what is behind it.
fn next_tag(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let open = if text.starts_with(b"W/") { 2 } else { 0 };
    let inner = text.get(open..)?.strip_prefix(b"\"")?;
    let length = inner.iter().position(|b| *b == b'"')?;
    let lawful = |b: &u8| *b == 0x21 || (0x23..=0x7e).contains(b) || *b >= 0x80;
    inner.get(..length)?.iter().all(lawful).then(|| text.split_at(open + length + 2))
}

/// The header, if it came once.
fn single<'h>(asked: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut all = asked.get_all(name).iter();
    all.next().filter(|_| all.next().is_none())
}

#[cfg(test)]
mod tests;
