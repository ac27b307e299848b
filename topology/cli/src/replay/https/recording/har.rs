//! HAR 1.2, as browsers save it. Used by `recording`.
//!
//! Invariant: an entry is one request or one fault; a file that is no HAR is an error.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::{Expected, Found, Timed, answered, request, sort, time};

#[derive(Deserialize)]
struct Har {
    log: Log,
}

#[derive(Deserialize)]
struct Log {
    entries: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    started_date_time: String,
    request: Request,
    response: Response,
    /// The number of the connection, where the browser tells it.
    connection: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
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
#[serde(rename_all = "camelCase")]
struct PostData {
    #[serde(default)]
    mime_type: String,
    #[serde(default)]
    text: String,
    /// Of a form; some programs write them instead of the text.
    #[serde(default)]
    params: Vec<Param>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Param {
    name: String,
    #[serde(default)]
    value: String,
    file_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    status: u16,
    /// As it was sent; -1: not known.
    #[serde(default = "unknown")]
    body_size: i64,
    #[serde(default)]
    content: Content,
}

#[derive(Default, Deserialize)]
struct Content {
    text: Option<String>,
    encoding: Option<String>,
}

fn unknown() -> i64 {
    -1
}

pub(super) fn parse(text: &str) -> Result<Found> {
    let har: Har = serde_json::from_str(text)?;
    let entries = har.log.entries.into_iter().enumerate();
    Ok(sort(entries.map(|(i, entry)| (format!("entry {i}"), parse_entry(entry)))))
}

fn parse_entry(entry: Value) -> Result<Timed> {
    let Entry { request: asked, response, started_date_time, connection } =
        serde_json::from_value(entry)?;
    let fields = asked.headers.iter().map(|f| (f.name.as_str(), f.value.as_str()));
    let body = asked.post_data.map(PostData::body).transpose()?.unwrap_or_default();
    let mut recorded = request(&asked.method, &asked.url, fields, body)?;
    recorded.session = connection.as_ref().and_then(super::name_of);
    recorded.expected = Expected {
        status: answered(response.status)?,
        bytes: u64::try_from(response.body_size).ok(),
        digest: response.content.digest()?,
    };
    let at = time::instant(&started_date_time).context("startedDateTime: not ISO 8601")?;
    Ok((Some(at), recorded))
}

impl PostData {
    fn body(self) -> Result<Vec<u8>> {
        if !self.text.is_empty() || self.params.is_empty() {
            return Ok(self.text.into_bytes());
        }
        let media = self.mime_type.split(';').next().unwrap_or_default().trim();
        let form =
            media.is_empty() || media.eq_ignore_ascii_case("application/x-www-form-urlencoded");
        ensure!(
            form && self.params.iter().all(|one| one.file_name.is_none()),
            "postData: params without text: what was sent of {media} is not known"
        );
        let pairs = self.params.iter();
        let pairs = pairs.map(|one| format!("{}={}", encoded(&one.name), encoded(&one.value)));
        Ok(pairs.collect::<Vec<_>>().join("&").into_bytes())
    }
}

/// As forms are sent (WHATWG URL §5.2).
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b' ' => "+".to_owned(),
        b'*' | b'-' | b'.' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

impl Content {
    fn digest(&self) -> Result<Option<[u8; 32]>> {
        let Some(text) = self.text.as_deref() else { return Ok(None) };
        let bytes = match self.encoding.as_deref() {
            Some("base64") => BASE64_STANDARD.decode(text).context("content: no base64")?,
            _ => text.as_bytes().to_vec(),
        };
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
        Ok(digest.as_ref().try_into().ok())
    }
}
