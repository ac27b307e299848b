//! Answers out of what is held here, files and kept answers: conditions, ranges and dates of RFC 9110.
//! Not for where the bytes are. Called by `files` and `cache`.
//!
//! Invariant: pure; a range that is handed out lies within the representation.

use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, header};

pub mod conditions;
pub mod ranges;

/// What tells one state of a representation from another.
#[derive(Clone, Debug, Default)]
pub struct Validators {
    /// `ETag` as it is sent.
    pub tag: Option<HeaderValue>,
    /// `Last-Modified`, in whole seconds.
    pub modified: Option<SystemTime>,
}

impl Validators {
    /// Those of an answer.
    pub fn of(headers: &HeaderMap) -> Self {
        let tag = headers.get(header::ETAG).filter(|tag| conditions::is_tag(tag.as_bytes()));
        let modified = headers.get(header::LAST_MODIFIED).and_then(date);
        Self { tag: tag.cloned(), modified }
    }
}

/// A date in any of the forms that must be read (RFC 9110 §5.6.7).
pub fn date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()
}

/// A date in the one form that is written.
pub fn stamp(at: SystemTime) -> HeaderValue {
    let text = httpdate::fmt_http_date(at);
    HeaderValue::try_from(text).expect("invariant: a date is visible ASCII")
}
