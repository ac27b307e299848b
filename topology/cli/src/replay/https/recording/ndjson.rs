//! A request per line, as JSON: what the gateway records, its access log, or targets with base64
//! bodies. Used by `recording`.
//!
//! Invariant: a line is one request or one fault.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::{Expected, Found, Timed, answered, lines, name_of, request, sort, time, whole};

#[derive(Deserialize)]
struct Line {
    method: Option<String>,
    url: Option<String>,
    path: Option<String>,
    /// `METHOD path`, as in the access log.
    endpoint: Option<String>,
    host: Option<String>,
    #[serde(default, alias = "header")]
    headers: BTreeMap<String, Values>,
    /// Base64.
    body: Option<String>,
    timestamp: Option<String>,
    at_ms: Option<f64>,
    #[serde(rename = "userId")]
    user: Option<Value>,
    #[serde(alias = "connection_id")]
    session: Option<String>,
    route: Option<String>,
    status: Option<u16>,
    bytes_out: Option<u64>,
    /// Of the answer's body, in hexadecimal digits.
    body_sha256: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    One(String),
    Many(Vec<String>),
}

pub(super) fn parse(text: &str) -> Found {
    sort(lines(text).map(|(place, line)| (place, whole(line).and_then(parse_line))))
}

fn parse_line(text: &str) -> Result<Timed> {
    let line: Line = serde_json::from_str(text)?;
    let (method, path) = line.endpoint.as_deref().and_then(|e| e.split_once(' ')).unzip();
    let method = line.method.as_deref().or(method).unwrap_or("GET");
    let target = line.url.as_deref().or(line.path.as_deref()).or(path);
    let target = target.context("says no url, path or endpoint")?;
    let body = BASE64_STANDARD.decode(line.body.unwrap_or_default()).context("body: no base64")?;
    let fields = line.headers.iter().flat_map(|(name, values)| {
        let values = match values {
            Values::One(value) => std::slice::from_ref(value),
            Values::Many(values) => values.as_slice(),
        };
        values.iter().map(move |value| (name.as_str(), value.as_str()))
    });
    let mut recorded = request(method, target, fields, body)?;
    recorded.user = line.user.as_ref().and_then(name_of).or(recorded.user);
    recorded.host = line.host.or(recorded.host);
    recorded.session = line.session;
    recorded.route = line.route.filter(|route| !route.is_empty()).unwrap_or(recorded.route);
    recorded.expected = Expected {
        status: line.status.map(answered).transpose()?.flatten(),
        bytes: line.bytes_out,
        digest: line.body_sha256.as_deref().map(digest).transpose()?,
    };
    let seconds =
        line.timestamp.as_deref().map(|t| time::instant(t).context("timestamp: not RFC 3339"));
    Ok((line.at_ms.map(|ms| ms / 1e3).or(seconds.transpose()?), recorded))
}

fn digest(text: &str) -> Result<[u8; 32]> {
    let fault = "body_sha256: not 64 hexadecimal digits";
    ensure!(text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()), fault);
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair)?, 16)?;
    }
    Ok(digest)
}
