//! What external filters are told, and what they say (docs/operations.md, "External filters"). Called by `mod`.
//!
//! Invariant: nothing that frames a message, and nothing that only this gateway may say, is theirs to change.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use common::tls::principal::Principal;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use topology::external::External;
use topology::gateway::ApiKeys;

use crate::body::AnswerBody;
use crate::exchange::{Answered, AnsweredBy, Exchange, Identity, Request, ResponseHead};
use crate::hops::{is_hop, only_ours};
use crate::query;
use crate::transform::stale;

/// Who a request is of, and which route it means.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'s> {
    /// The route's name.
    pub route: &'s str,
    /// Who calls, if that is known.
    pub caller: Option<&'s Identity>,
}

/// What becomes of a message.
#[derive(Debug)]
pub enum Said {
    /// It goes on, so changed.
    Continue(Change),
    /// This stands in its place.
    Answer(Box<Answered>),
}

impl Default for Said {
    fn default() -> Self {
        Self::Continue(Change::default())
    }
}

/// Headers, and perhaps a body, that become others.
#[derive(Debug, Default)]
pub struct Change {
    /// Names with all the values that they have from now on; none: it has none.
    set: Vec<(HeaderName, Vec<HeaderValue>)>,
    add: Vec<(HeaderName, Vec<HeaderValue>)>,
    body: Option<Bytes>,
}

impl Change {
    /// Carries out what it says of headers, and gives the body that stands in the place of the one before.
    pub fn apply(self, headers: &mut HeaderMap) -> Option<Bytes> {
        for (name, _) in &self.set {
            headers.remove(name);
        }
        for (name, values) in self.set.into_iter().chain(self.add) {
            for value in values {
                headers.append(&name, value);
            }
        }
        if self.body.is_some() {
            stale(headers);
        }
        self.body
    }

    /// The body that it gives.
    pub fn body(&self) -> Option<&Bytes> {
        self.body.as_ref()
    }
}

/// Headers that prove who somebody is.
const SECRET: [&str; 5] =
    ["authorization", "cookie", "set-cookie", "proxy-authorization", "x-api-key"];

/// Where clients of this gateway write keys, besides.
#[derive(Debug)]
pub struct Secrets {
    headers: Vec<HeaderName>,
    queries: Vec<Box<str>>,
}

impl Secrets {
    /// Of all sources of keys.
    pub fn new(sources: &[ApiKeys]) -> Self {
        let name = |text: &String| HeaderName::from_bytes(text.as_bytes()).ok();
        let headers = sources.iter().filter_map(|source| source.header.as_ref());
        let queries = sources.iter().filter_map(|source| source.query.as_deref());
        Self {
            headers: headers.filter_map(name).collect(),
            queries: queries.map(Box::from).collect(),
        }
    }

    /// A query without keys.
    fn without(&self, query: Option<&str>) -> Option<Box<str>> {
        let whole = query.map(Box::from);
        self.queries.iter().fold(whole, |left, name| query::without(&left?, name))
    }
}

fn headers(all: &HeaderMap, (model, secrets): (&External, &Secrets)) -> Value {
    let mut told: Map<String, Value> = Map::new();
    for (name, value) in all {
        let wanted = match &model.headers {
            Some(listed) => listed.iter().any(|listed| name == listed.as_str()),
            None => !SECRET.contains(&name.as_str()) && !secrets.headers.contains(name),
        };
        if wanted {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            let place = told.entry(name.as_str()).or_insert_with(|| Value::Array(Vec::new()));
            if let Some(values) = place.as_array_mut() {
                values.push(text.into());
            }
        }
    }
    told.into()
}

/// What it is told of a request.
pub fn request(
    x: &Exchange,
    request: &Request,
    model: (&External, &Secrets),
    subject: Subject<'_>,
    body: Option<&[u8]>,
) -> Bytes {
    let (target, caller) = (&request.target, subject.caller);
    let mut told = json!({
        "phase": "request",
        "id": x.request_id.to_string(),
        "route": subject.route,
        "client": x.peer.address().to_string(),
        "principal": x.peer.principal().map(Principal::as_str),
        "user": caller.and_then(Identity::user).and_then(|user| user.to_str().ok()),
        "consumer": caller.and_then(Identity::consumer),
        "method": request.method.as_str(),
        "scheme": x.peer.scheme(),
        "host": &*target.host,
        "path": &*target.path,
        "query": model.1.without(target.query.as_deref()),
        "headers": headers(&request.headers, model),
    });
    told_of(body, &mut told);
    told.to_string().into()
}

/// Adds a body: as text where it is some.
fn told_of(body: Option<&[u8]>, told: &mut Value) {
    if let (Some(body), Some(told)) = (body, told.as_object_mut()) {
        match std::str::from_utf8(body) {
            Ok(text) => told.insert("body".to_owned(), text.into()),
            Err(_) => told.insert("body_base64".to_owned(), STANDARD.encode(body).into()),
        };
    }
}

/// What it is told of an answer.
pub fn answer(
    x: &Exchange,
    head: &ResponseHead,
    model: (&External, &Secrets),
    body: Option<&[u8]>,
) -> Bytes {
    let mut told = json!({
        "phase": "answer",
        "id": x.request_id.to_string(),
        "status": head.status.as_u16(),
        "headers": headers(&head.headers, model),
    });
    told_of(body, &mut told);
    told.to_string().into()
}

/// What it may say.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Saying {
    headers: Headers,
    body: Option<String>,
    body_base64: Option<String>,
    answer: Option<Direct>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Headers {
    set: BTreeMap<String, Values>,
    add: BTreeMap<String, Values>,
    remove: Vec<String>,
}

/// What stands behind a name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Direct {
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, Values>,
    body: Option<String>,
    body_base64: Option<String>,
}

/// Values of headers that one answer may set or add: a message has no use for more, and a map of headers has an end.
const MOST_VALUES: usize = 256;

/// Headers that frame a message, or say where it goes.
const FRAMING: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::EXPECT,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Reads what it says.
///
/// # Errors
/// In words: it is not what it may say.
pub fn read(text: &[u8]) -> Result<Said, String> {
    let saying: Saying =
        serde_json::from_slice(text).map_err(|fault| format!("it says no such thing: {fault}"))?;
    if let Some(direct) = saying.answer {
        let status = StatusCode::from_u16(direct.status).ok();
        let status = status.filter(|status| (200..=599).contains(&status.as_u16()));
        let status =
            status.ok_or_else(|| format!("{} is no status of an answer", direct.status))?;
        let mut headers = HeaderMap::new();
        for (name, values) in pairs(direct.headers)? {
            for value in values {
                headers.append(&name, value);
            }
        }
        let head = ResponseHead { status, headers };
        let body = bytes(direct.body, direct.body_base64)?.unwrap_or_default();
        let body = AnswerBody::Whole(body);
        return Ok(Said::Answer(Box::new(Answered { head, body, by: AnsweredBy::Gateway })));
    }
    let Headers { set, add, remove } = saying.headers;
    let removed = remove.iter().map(|text| Ok((name(text)?, Vec::new())));
    let mut all = removed.collect::<Result<Vec<_>, String>>()?;
    all.extend(pairs(set)?);
    let body = bytes(saying.body, saying.body_base64)?;
    Ok(Said::Continue(Change { set: all, add: pairs(add)?, body }))
}

/// A body in one of its two spellings.
fn bytes(text: Option<String>, base64: Option<String>) -> Result<Option<Bytes>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err("`body` and `body_base64` are two bodies".to_owned()),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(text)) => match STANDARD.decode(text) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(_) => Err("`body_base64` is no base64".to_owned()),
        },
        (None, None) => Ok(None),
    }
}

fn pairs(all: BTreeMap<String, Values>) -> Result<Vec<(HeaderName, Vec<HeaderValue>)>, String> {
    let count = |values: &Values| match values {
        Values::One(_) => 1,
        Values::Several(values) => values.len(),
    };
    let count: usize = all.values().map(count).sum();
    if count > MOST_VALUES {
        return Err(format!("{count} values of headers are more than {MOST_VALUES}"));
    }
    let pair = |(text, values): (String, Values)| {
        let values = match values {
            Values::One(value) => vec![value],
            Values::Several(values) => values,
        };
        let values = values.into_iter().map(HeaderValue::try_from).collect::<Result<Vec<_>, _>>();
        let name = name(&text)?;
        Ok((name, values.map_err(|_| format!("`{text}` cannot have such a value"))?))
    };
    all.into_iter().map(pair).collect()
}

fn name(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::try_from(text).map_err(|_| format!("`{text}` is no header's name"))?;
    let ours = FRAMING.contains(&name) || is_hop(&name) || only_ours(&name);
    if ours { Err(format!("`{text}` is not its to change")) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use topology::units::At;

    use super::*;

    /// G2: keys are not told, wherever the file says that they stand.
    #[test]
    fn keys_are_told_to_nobody() {
        let place = topology::Place::default();
        let source = |header: Option<&str>, query: Option<&str>| ApiKeys {
            name: topology::units::ApiKeysName::new("own"),
            header: header.map(str::to_owned),
            query: query.map(str::to_owned),
            from: topology::gateway::KeySource::File(At { value: "keys".into(), place }),
            keep: std::time::Duration::ZERO,
            place,
        };
        let secrets = Secrets::new(&[source(Some("x-own"), None), source(None, Some("key"))]);
        let model = External {
            url: At { value: "http://127.0.0.1:9/".to_owned(), place },
            timeout: std::time::Duration::from_secs(1),
            when_away: topology::gateway::UnansweredIs::Refused,
            headers: None,
            body: None,
            answers: false,
            answer_body: None,
        };
        let mut all = HeaderMap::new();
        for name in ["x-own", "authorization", "x-other"] {
            all.insert(name, HeaderValue::from_static("1"));
        }
        assert_eq!(headers(&all, (&model, &secrets)), json!({ "x-other": ["1"] }));
        let asked = External { headers: Some(vec!["x-own".to_owned()]), ..model };
        assert_eq!(headers(&all, (&asked, &secrets)), json!({ "x-own": ["1"] }));
        for (query, left) in
            [("a=1&k%65y=2", Some("a=1")), ("key=2", None), ("keys=2", Some("keys=2"))]
        {
            assert_eq!(secrets.without(Some(query)).as_deref(), left, "{query}");
        }
        assert_eq!(secrets.without(None), None);
    }

    /// G2: what an external filter may say, and what it may not.
    #[test]
    fn sayings_are_read_strictly() {
        for text in ["{}", r#"{"headers":{"set":{"x-a":"1"},"remove":["x-b"]}}"#, r#"{"body":""}"#]
        {
            assert!(matches!(read(text.as_bytes()), Ok(Said::Continue(_))), "{text}");
        }
        let several = br#"{"headers":{"remove":["x-b"],"set":{"x-a":["1","2"]},"add":{"x-c":"9"}},"body_base64":"/w=="}"#;
        let Ok(Said::Continue(change)) = read(several) else { panic!("a change") };
        let mut headers = HeaderMap::new();
        let before = [("x-a", "0"), ("x-b", "0"), ("x-c", "0"), ("content-encoding", "gzip")];
        for (name, value) in before {
            headers.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(change.apply(&mut headers).as_deref(), Some(&b"\xff"[..]));
        let after =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text")));
        let mut after: Vec<_> = after.collect();
        after.sort_unstable();
        assert_eq!(after, [("x-a", "1"), ("x-a", "2"), ("x-c", "0"), ("x-c", "9")]);
        let direct = read(br#"{"answer":{"status":403,"headers":{"x-why":"a"},"body":"no"}}"#);
        let Ok(Said::Answer(answer)) = direct else { panic!("an answer") };
        assert_eq!(
            (answer.head.status.as_u16(), &answer.head.headers["x-why"]),
            (403, &"a".parse().expect("a value"))
        );
        for text in [
            "",
            "7",
            r#"{"go":1}"#,
            r#"{"answer":{"status":101}}"#,
            r#"{"answer":{"status":700}}"#,
            r#"{"headers":{"set":{"x-user-id":"root"}}}"#,
            r#"{"headers":{"set":{"X_User-Id":"root"}}}"#,
            r#"{"headers":{"set":{"Content-Length":"5"}}}"#,
            r#"{"headers":{"remove":["host"]}}"#,
            r#"{"headers":{"set":{"keep-alive":"timeout=5"}}}"#,
            r#"{"headers":{"set":{"expect":"100-continue"}}}"#,
            r#"{"headers":{"set":{"a b":"1"}}}"#,
            r#"{"headers":{"set":{"x-a":"1\r\nx-b: 2"}}}"#,
            r#"{"answer":{"status":200,"headers":{"transfer-encoding":"chunked"}}}"#,
            r#"{"headers":{"add":{"x-user-id":["7"]}}}"#,
            r#"{"headers":{"set":{"x-a":["1",2]}}}"#,
            r#"{"headers":{"add":{"x-a":["1","2\n"]}}}"#,
            r#"{"body":"a","body_base64":"YQ=="}"#,
            r#"{"body_base64":"YQ"}"#,
            r#"{"body":7}"#,
            r#"{"answer":{"status":200,"body":"a","body_base64":"YQ=="}}"#,
        ] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
    }

    /// G2: a filter that names more headers than a message can have is refused, not the end of a worker.
    #[test]
    fn headers_without_end_are_refused() {
        let names = (0..40_000).map(|n| format!("\"x-{n}\":\"\""));
        let names = names.collect::<Vec<_>>().join(",");
        for text in [
            format!("{{\"headers\":{{\"add\":{{{names}}}}}}}"),
            format!("{{\"answer\":{{\"status\":200,\"headers\":{{{names}}}}}}}"),
        ] {
            let refused = read(text.as_bytes()).expect_err("too many");
            assert!(refused.contains("more than 256"), "{refused}");
        }
    }
}
