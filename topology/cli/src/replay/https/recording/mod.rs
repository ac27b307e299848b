//! Recorded requests: HAR 1.2, NDJSON with a request per line (what the gateway records, its access
//! log, a list of targets), a web server's combined log, or a plain list of targets. Secrets of the
//! recording are dropped: tokens are signed anew. Not for sending. Used by `script`.
//!
//! Invariant: offsets begin at 0 and never go back; what cannot be read is told with its place, and nothing
//! of a request that is used was left out for being broken.

mod combined;
mod har;
mod ndjson;
mod targets;
mod time;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde_json::Value;

/// One request as it was.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recorded {
    /// From the first one.
    pub(super) at: Duration,
    pub(super) method: Method,
    pub(super) target: Uri,
    /// Whom it was sent to, where that is known.
    pub(super) host: Option<String>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Who asked; `None`: nobody that is known.
    pub(super) user: Option<String>,
    /// Requests of one session came over one connection.
    pub(super) session: Option<String>,
    /// What the report groups it by.
    pub(super) route: String,
    pub(super) expected: Expected,
}

/// How a request ended when it was recorded, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) status: Option<u16>,
    /// Of the body as it was sent.
    pub(crate) bytes: Option<u64>,
    /// SHA-256 of the body.
    pub(crate) digest: Option<[u8; 32]>,
}

/// All requests of a file.
#[derive(Debug, Default)]
pub(super) struct Recording {
    pub(super) requests: Vec<Recorded>,
    /// Whether it says when requests were.
    pub(super) timed: bool,
    /// What could not be read, each with its place.
    pub(super) faults: Vec<String>,
}

/// What a format reads: requests with their times, and what is broken.
type Found = (Vec<Timed>, Vec<String>);

/// A request and when it was, seconds since the epoch; `None`: not written.
type Timed = (Option<f64>, Recorded);

/// What the bytes of a body's file are.
type Bodies<'b> = &'b dyn Fn(&str) -> std::io::Result<Vec<u8>>;

/// Reads a file; which format it is, its content says.
///
/// # Errors
/// Not readable, broken where `skip` is not said (with the place), or nothing in it.
pub(super) fn read(path: &Path, skip: bool) -> Result<Recording> {
    let name = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("{name}: cannot read"))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let recording = decode(&bytes, &|file| std::fs::read(folder.join(file)));
    let recording = recording.with_context(|| format!("{name}: no recording"))?;
    if let (Some(fault), false) = (recording.faults.first(), skip) {
        let more = match recording.faults.len() - 1 {
            0 => String::new(),
            n => format!(" (and {n} more)"),
        };
        bail!("{name}: {fault}{more}; --broken skip uses the rest");
    }
    ensure!(!recording.requests.is_empty(), "{name}: no request in it");
    Ok(recording)
}

/// What is in a file, and in those that it names.
///
/// # Errors
/// It is one JSON text, and a broken one.
pub(super) fn decode(bytes: &[u8], bodies: Bodies<'_>) -> Result<Recording> {
    let (found, faults) = parse(&String::from_utf8_lossy(bytes), bodies)?;
    let timed = found.iter().any(|(at, _)| at.is_some());
    Ok(Recording { requests: from_zero(found), timed, faults })
}

/// An object that begins with `log` is HAR; lines of other objects are NDJSON; lines of a method and
/// a URL are targets; all else is a combined log.
fn parse(text: &str, bodies: Bodies<'_>) -> Result<Found> {
    // Some programs begin every file so.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines().find(|line| !line.starts_with('#')).unwrap_or_default();
    let inside = text.trim_start().strip_prefix('{').map(str::trim_start);
    match inside {
        Some(inside) if inside.starts_with("\"log\"") => har::parse(text),
        Some(_) => Ok(ndjson::parse(text)),
        None if targets::begins(first) => Ok(targets::parse(text, bodies)),
        None => Ok(combined::parse(text)),
    }
}

/// Sorts what was read from what was not, which gets its place.
fn sort(read: impl Iterator<Item = (String, Result<Timed>)>) -> Found {
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for (place, result) in read {
        match result {
            Ok(timed) => found.push(timed),
            Err(error) => faults.push(format!("{place}: {error:#}")),
        }
    }
    (found, faults)
}

/// Lines that say something, with their place.
fn lines(text: &str) -> impl Iterator<Item = (String, &str)> {
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    numbered.map(|(i, line)| (format!("line {}", i + 1), line))
}

/// What was no UTF-8 has become this character: what it was, nobody knows.
fn whole(text: &str) -> Result<&str> {
    ensure!(!text.contains(char::REPLACEMENT_CHARACTER), "a character in it is no UTF-8");
    Ok(text)
}

/// A status that was answered with; `None`: nothing was, which logs write as 0, or as 499 where the client
/// went away.
fn answered(status: u16) -> Result<Option<u16>> {
    ensure!(matches!(status, 0 | 100..=599), "{status}: no status");
    Ok(Some(status).filter(|status| !matches!(status, 0 | 499)))
}

fn request<'a>(
    method: &str,
    target: &str,
    fields: impl Iterator<Item = (&'a str, &'a str)>,
    body: Vec<u8>,
) -> Result<Recorded> {
    let url: Uri = target.parse().with_context(|| format!("{target:?}: no URL"))?;
    let (mut headers, mut user) = (HeaderMap::new(), None);
    let mut host = url.authority().map(|authority| authority.as_str().to_owned());
    for (name, value) in fields {
        if name.eq_ignore_ascii_case("authorization") {
            user = subject(value);
        } else if name.eq_ignore_ascii_case("host") {
            host = Some(value.to_owned());
        } else if let Some((name, value)) = kept(name, value)? {
            headers.append(name, value);
        }
    }
    let method: Method = method.parse().with_context(|| format!("{method:?}: no method"))?;
    Ok(Recorded {
        at: Duration::ZERO,
        route: guess(&method, url.path()),
        method,
        target: origin_form(&url),
        host,
        headers,
        body: body.into(),
        user,
        session: None,
        expected: Expected::default(),
    })
}

/// Path and query alone (RFC 9112 §3.2.1).
pub(super) fn origin_form(url: &Uri) -> Uri {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    path.parse().unwrap_or_else(|_| Uri::from_static("/"))
}

/// A name for requests alike, where the recording names no route: what looks like an id is left out.
fn guess(method: &Method, path: &str) -> String {
    let mut route = format!("{method} ");
    for segment in path.split('/').skip(1).take(4) {
        let is_version = segment.len() <= 3 && segment.starts_with('v');
        let is_id = segment.chars().any(|c| c.is_ascii_digit()) && !is_version;
        route.push('/');
        route.push_str(if is_id { "*" } else { segment });
    }
    route
}

/// A field that a replay sends again: no secret, nothing of the old connection, no HTTP/2 pseudo
/// field.
fn kept(name: &str, value: &str) -> Result<Option<(HeaderName, HeaderValue)>> {
    if name.starts_with(':') {
        return Ok(None);
    }
    let name: HeaderName = name.parse().with_context(|| format!("{name:?}: no header's name"))?;
    if DROPPED.contains(&name.as_str()) {
        return Ok(None);
    }
    // Not shown: it may be what nobody is to see.
    let value = HeaderValue::from_bytes(value.as_bytes())
        .with_context(|| format!("{name}: what it says is no header's value"))?;
    Ok(Some((name, value)))
}

/// Secrets, framing and hop-by-hop fields (RFC 9110 §7.6.1).
const DROPPED: [&str; 12] = [
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Who a recorded token spoke for, read without verifying: it is signed anew.
fn subject(authorization: &str) -> Option<String> {
    let payload = authorization.strip_prefix("Bearer ")?.split('.').nth(1)?;
    let claims: Value =
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.get("userId").or(claims.get("sub")).and_then(name_of)
}

fn name_of(id: &Value) -> Option<String> {
    match id {
        Value::String(name) => Some(name.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// In order of time, the first at 0; without a time a request follows the one before at once.
fn from_zero(mut timed: Vec<Timed>) -> Vec<Recorded> {
    let mut last = timed.iter().find_map(|(at, _)| *at).unwrap_or(0.0);
    for (at, _) in &mut timed {
        last = *at.get_or_insert(last);
    }
    timed.sort_by(|(a, _), (b, _)| a.unwrap_or(0.0).total_cmp(&b.unwrap_or(0.0)));
    let first = timed.first().and_then(|(at, _)| *at).unwrap_or(0.0);
    let offset = |at: Option<f64>| (at.unwrap_or(first) - first).clamp(0.0, LONGEST);
    timed
        .into_iter()
        .map(|(at, recorded)| Recorded { at: Duration::from_secs_f64(offset(at)), ..recorded })
        .collect()
}

/// A recording is no longer than 30 days, in seconds; what is later comes then.
const LONGEST: f64 = 30.0 * 86_400.0;

#[cfg(test)]
mod tests;
