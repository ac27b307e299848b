//! Recorded requests: HAR 1.2, or NDJSON with a request per line, the gateway's access log
//! included. Secrets of the recording are dropped: tokens are signed anew. Not for sending. Used
//! by `script`.
//!
//! Invariant: offsets begin at 0 and never go back.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::Deserialize;
use serde_json::Value;

use super::script::origin_form;

/// One request as it was.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recorded {
    /// From the first one.
    pub(super) at: Duration,
    pub(super) method: Method,
    pub(super) target: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Who asked; `None`: nobody that is known.
    pub(super) user: Option<String>,
    /// How it was answered.
    pub(super) status: Option<u16>,
}

/// Reads a `.har` file, or NDJSON of any other name.
///
/// # Errors
/// Not readable, a line that says no request (with its number), or nothing in it.
pub(super) fn read(path: &Path) -> Result<Vec<Recorded>> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("{name}: cannot read"))?;
    let is_har = path.extension().is_some_and(|extension| extension == "har");
    let timed = if is_har { har(&text) } else { ndjson(&text) };
    let recorded = from_zero(timed.with_context(|| format!("{name}: no recording"))?);
    ensure!(!recorded.is_empty(), "{name}: no request in it");
    Ok(recorded)
}

/// A request and when it was, seconds since the epoch; `None`: not written.
type Timed = (Option<f64>, Recorded);

#[derive(Deserialize)]
struct Line {
    method: Option<String>,
    url: Option<String>,
    path: Option<String>,
    /// `METHOD path`, as in the access log.
    endpoint: Option<String>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    /// Base64.
    body: Option<String>,
    timestamp: Option<String>,
    at_ms: Option<f64>,
    #[serde(rename = "userId")]
    user: Option<Value>,
    status: Option<u16>,
}

fn ndjson(text: &str) -> Result<Vec<Timed>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(i, line)| parse_line(line).with_context(|| format!("line {}", i + 1))).collect()
}

fn parse_line(text: &str) -> Result<Timed> {
    let line: Line = serde_json::from_str(text)?;
    let (method, path) = line.endpoint.as_deref().and_then(|e| e.split_once(' ')).unzip();
    let method = line.method.as_deref().or(method).unwrap_or("GET");
    let target = line.url.as_deref().or(line.path.as_deref()).or(path);
    let target = target.context("says no url, path or endpoint")?;
    let body = BASE64_STANDARD.decode(line.body.unwrap_or_default()).context("body: no base64")?;
    let fields = line.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    let mut recorded = request(method, target, fields, body)?;
    recorded.user = line.user.as_ref().and_then(name_of).or(recorded.user);
    recorded.status = line.status;
    let seconds = line.timestamp.as_deref().map(|t| instant(t).context("timestamp: not RFC 3339"));
    Ok((line.at_ms.map(|ms| ms / 1e3).or(seconds.transpose()?), recorded))
}

#[derive(Deserialize)]
struct Har {
    log: Log,
}

#[derive(Deserialize)]
struct Log {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    started_date_time: String,
    request: HarRequest,
    response: HarResponse,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HarRequest {
    method: String,
    url: String,
    #[serde(default)]
    headers: Vec<Field>,
    post_data: Option<PostData>,
}

#[derive(Deserialize)]
struct Field {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct PostData {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct HarResponse {
    status: u16,
}

fn har(text: &str) -> Result<Vec<Timed>> {
    let har: Har = serde_json::from_str(text)?;
    let entries = har.log.entries.into_iter().enumerate();
    entries.map(|(i, entry)| parse_entry(entry).with_context(|| format!("entry {i}"))).collect()
}

fn parse_entry(entry: Entry) -> Result<Timed> {
    let Entry { request: asked, response, started_date_time } = entry;
    let fields = asked.headers.iter().map(|f| (f.name.as_str(), f.value.as_str()));
    let body = asked.post_data.map(|data| data.text.into_bytes()).unwrap_or_default();
    let mut recorded = request(&asked.method, &asked.url, fields, body)?;
    // HAR 1.2: 0 stands for a request without an answer.
    recorded.status = Some(response.status).filter(|status| *status != 0);
    let at = instant(&started_date_time).context("startedDateTime: not ISO 8601")?;
    Ok((Some(at), recorded))
}

fn request<'a>(
    method: &str,
    target: &str,
    fields: impl Iterator<Item = (&'a str, &'a str)>,
    body: Vec<u8>,
) -> Result<Recorded> {
    let url: Uri = target.parse().with_context(|| format!("{target:?}: no URL"))?;
    let (mut headers, mut user) = (HeaderMap::new(), None);
    for (name, value) in fields {
        if name.eq_ignore_ascii_case("authorization") {
            user = subject(value);
        } else if let Some((name, value)) = kept(name, value) {
            headers.append(name, value);
        }
    }
    Ok(Recorded {
        at: Duration::ZERO,
        method: method.parse().with_context(|| format!("{method:?}: no method"))?,
        target: origin_form(&url),
        headers,
        body: body.into(),
        user,
        status: None,
    })
}

/// A field that a replay sends again: no secret, nothing of the old connection, no HTTP/2 pseudo
/// field.
fn kept(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name: HeaderName = name.parse().ok()?;
    let dropped = DROPPED.contains(&name.as_str());
    (!dropped).then_some((name, value.parse().ok()?))
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

/// Seconds since the epoch of an RFC 3339 time (`2026-11-20T23:45:00.5Z`, or `+01:00`).
fn instant(text: &str) -> Option<f64> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at_checked(zone)?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let mut time = time.splitn(3, ':').map(str::parse::<f64>);
    let days = days(date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?)?;
    let seconds = time.next()?.ok()? * 3600.0 + time.next()?.ok()? * 60.0 + time.next()?.ok()?;
    let seconds = days as f64 * 86_400.0 + seconds - offset(zone)?;
    seconds.is_finite().then_some(seconds)
}

/// Seconds east of Greenwich.
fn offset(zone: &str) -> Option<f64> {
    let sign = match zone.get(..1)? {
        "+" => 1.0,
        "-" => -1.0,
        _ => return (zone.len() == 1).then_some(0.0),
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    Some(sign * (hours.parse::<f64>().ok()? * 3600.0 + minutes.parse::<f64>().ok()? * 60.0))
}

/// Days from 1970-01-01 in the Gregorian calendar, by counting whole 400-year eras of 146 097 days.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let lawful = (0..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    // Years begin in March here, so that the leap day is the last of its year.
    let year = if month > 2 { year } else { year - 1 };
    let since_march = (month + 9) % 12;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = 365 * year + leap_days + (153 * since_march + 2) / 5 + day - 1;
    lawful.then_some(days - 719_468)
}

#[cfg(test)]
mod tests;
