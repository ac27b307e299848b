//! What RFC 9111 says of an answer: whether it may be kept, how long it is fresh, whether a kept one
//! answers a request. Not for keeping. Called by `cache`.
//!
//! Invariant: pure. Where two readings are possible, the one that keeps less counts.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use topology::gateway::CachePolicy;

use crate::cache_control::Control;
use crate::stages::dispatch::held::date;

/// Who may be given a kept answer; each includes the former.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Open {
    /// Who shows nothing.
    ToStrangers,
    /// Also who sends `Authorization` (RFC 9111 §3.5).
    ToAuthorised,
    /// Also who sends cookies.
    ToAll,
}

impl Open {
    /// What a request needs.
    pub fn needed(headers: &HeaderMap) -> Self {
        if headers.contains_key(header::COOKIE) {
            // RFC 9111 asks for less; but what a session sees often lacks `private`.
            Self::ToAll
        } else if headers.contains_key(header::AUTHORIZATION) {
            Self::ToAuthorised
        } else {
            Self::ToStrangers
        }
    }

    fn of(control: &Control) -> Self {
        if control.has("public") || control.has("s-maxage") {
            Self::ToAll
        } else if control.has("must-revalidate") {
            Self::ToAuthorised
        } else {
            Self::ToStrangers
        }
    }
}

/// Under what terms an answer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Its age when it came.
    pub age: Duration,
    /// Fresh until this age.
    pub lifetime: Duration,
    /// Never given without asking the service (`no-cache`).
    pub always_ask: bool,
    /// Never given stale (`must-revalidate`, `proxy-revalidate`, `s-maxage`).
    pub never_stale: bool,
    /// Given stale for so long while a fresh one is fetched.
    pub while_revalidate: Duration,
    /// Given stale for so long in place of an error.
    pub if_error: Duration,
    /// Who may be given it.
    pub open: Open,
}

/// When and how an answer came.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    /// When its head was there.
    pub at: SystemTime,
    /// How long it was waited for.
    pub delay: Duration,
}

/// The terms under which an answer may be kept (RFC 9111 §3). `None`: it may not.
pub fn terms(
    needed: Open,
    status: StatusCode,
    headers: &HeaderMap,
    policy: &CachePolicy,
    came: Came,
) -> Option<Terms> {
    let control = Control::of(headers);
    let refused = ["no-store", "private"].into_iter().any(|name| control.has(name));
    let open = Open::of(&control);
    if refused
        || !KEPT.contains(&status)
        || open < needed
        || headers.contains_key(header::SET_COOKIE)
        || headers.contains_key(header::CONTENT_RANGE)
        || vary(headers).is_none()
    {
        return None;
    }
    let always_ask = control.has("no-cache");
    let told = lifetime(&control, headers, came.at);
    let lifetime = told.or(policy.fresh.filter(|_| !always_ask)).or(always_ask.then_some(NONE))?;
    let validated =
        headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED);
    if (always_ask || lifetime.is_zero()) && !validated {
        return None;
    }
    let never = ["must-revalidate", "proxy-revalidate"].into_iter().any(|name| control.has(name));
    let (while_revalidate, if_error) =
        (control.seconds("stale-while-revalidate"), control.seconds("stale-if-error"));
    // RFC 9111 §5.2.2.10: `s-maxage` alone forbids it too, unless the same answer allows it.
    let never_stale = never || control.has("s-maxage") && while_revalidate.or(if_error).is_none();
    Some(Terms {
        age: age(headers, came),
        lifetime,
        always_ask,
        never_stale,
        while_revalidate: while_revalidate.unwrap_or(policy.stale_while_revalidate),
        if_error: if_error.unwrap_or(policy.stale_if_error),
        open,
    })
}

const NONE: Duration = Duration::ZERO;

/// Answers that are kept, if their service says how long they are fresh.
const KEPT: [StatusCode; 11] = [
    StatusCode::OK,
    StatusCode::NON_AUTHORITATIVE_INFORMATION,
    StatusCode::NO_CONTENT,
    StatusCode::MULTIPLE_CHOICES,
    StatusCode::MOVED_PERMANENTLY,
    StatusCode::FOUND,
    StatusCode::TEMPORARY_REDIRECT,
    StatusCode::PERMANENT_REDIRECT,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::GONE,
];

/// How long an answer is fresh, where it says so (RFC 9111 §4.2.1).
fn lifetime(control: &Control, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    if let Some(seconds) = control.seconds("s-maxage").or_else(|| control.seconds("max-age")) {
        return Some(seconds);
    }
    let expires = headers.get(header::EXPIRES)?;
    let since = headers.get(header::DATE).and_then(date).unwrap_or(now);
    // RFC 9111 §5.3: what is no date, `0` above all, has expired.
    let lasting = date(expires).and_then(|expires| expires.duration_since(since).ok());
    Some(lasting.unwrap_or_default())
}

/// RFC 9111 §4.2.3: the age of an answer when it came.
fn age(headers: &HeaderMap, came: Came) -> Duration {
    let told = headers.get(header::AGE).and_then(|value| value.to_str().ok());
    let told = Duration::from_secs(told.and_then(|text| text.trim().parse().ok()).unwrap_or(0));
    let sent = headers.get(header::DATE).and_then(date);
    let apparent = sent.and_then(|sent| came.at.duration_since(sent).ok()).unwrap_or_default();
    // Dates have whole seconds: up to one is not age.
    let apparent = apparent.saturating_sub(Duration::from_secs(1));
    apparent.max(told.saturating_add(came.delay))
}

/// The fields that choose between answers (RFC 9111 §4.1). `None`: no request is like another, or
/// there are too many.
pub fn vary(headers: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for value in headers.get_all(header::VARY) {
        for name in value.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| name != "*")?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    (names.len() <= MOST_FIELDS).then_some(names)
}

/// More fields than this make every request one of its own.
const MOST_FIELDS: usize = 8;

/// What a request says in a field, its lines as one.
pub fn said(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let lines: Vec<&[u8]> =
        headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii()).collect();
    (!lines.is_empty()).then(|| lines.join(&b","[..]))
}

/// What a kept answer is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is the answer.
    Answer,
    /// It is the answer, and a fresh one is to be fetched behind it.
    AnswerAndFetch,
    /// The service is to be asked whether it still holds.
    Ask,
}

/// Whether a kept answer of this age answers a request (RFC 9111 §4.2, §4.2.4, §5.2.1).
pub fn reuse(terms: &Terms, age: Duration, asked: &Control) -> Use {
    let limit = asked.seconds("max-age");
    let too_old = limit.is_some_and(|limit| limit.is_zero() || age > limit);
    if terms.always_ask || too_old || asked.has("no-cache") {
        return Use::Ask;
    }
    let spare = asked.seconds("min-fresh").unwrap_or_default();
    if terms.lifetime > age.saturating_add(spare) {
        return Use::Answer;
    }
    let staleness = age.saturating_sub(terms.lifetime);
    if terms.never_stale || !spare.is_zero() {
        return Use::Ask;
    }
    // Without seconds: however stale.
    let unbounded = asked.says_alone("max-stale");
    if unbounded || asked.seconds("max-stale").is_some_and(|most| staleness <= most) {
        return Use::Answer;
    }
    let behind = staleness < terms.while_revalidate;
    if behind { Use::AnswerAndFetch } else { Use::Ask }
}

/// Whether a kept answer may stand in for an error (RFC 5861 §4).
pub fn instead_of_error(terms: &Terms, age: Duration) -> bool {
    let staleness = age.saturating_sub(terms.lifetime);
    !terms.never_stale && !terms.always_ask && staleness < terms.if_error
}

/// `Age` as it is written.
pub fn told(age: Duration) -> HeaderValue {
    HeaderValue::from(age.as_secs())
}

#[cfg(test)]
mod tests;
