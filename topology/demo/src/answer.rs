//! One JSON answer of a demo service. Not for how it is sent: that is `http`. Made by every service.
//!
//! Invariant: the body is an object, so that the server's name can be added to it.

use http::StatusCode;
use serde_json::{Map, Value, json};

/// Status and JSON object of a reply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// Members of the body.
    pub(crate) body: Map<String, Value>,
}

impl Answer {
    /// 200 with this body; anything but an object becomes the member `value`.
    pub(crate) fn ok(body: Value) -> Self {
        Self::new(StatusCode::OK, body)
    }

    /// Any status with this body.
    pub(crate) fn new(status: StatusCode, body: Value) -> Self {
        let body = match body {
            Value::Object(members) => members,
            other => Map::from_iter([("value".to_owned(), other)]),
        };
        Self { status, body }
    }

    /// A refusal: a stable word and a sentence.
    pub(crate) fn refuse(status: StatusCode, error: &str, detail: impl Into<String>) -> Self {
        Self::new(status, json!({ "error": error, "detail": detail.into() }))
    }

    /// 404.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::refuse(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// 400.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::refuse(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// 503: something behind this service is away.
    pub(crate) fn away(detail: impl Into<String>) -> Self {
        Self::refuse(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    }

    /// The body with the server's name, as bytes to send.
    pub(crate) fn render(mut self, server: &str) -> (StatusCode, Vec<u8>) {
        self.body.insert("server".to_owned(), Value::String(server.to_owned()));
        let mut bytes = Value::Object(self.body).to_string().into_bytes();
        bytes.push(b'\n');
        (self.status, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_names_its_server() {
        let (status, bytes) = Answer::ok(json!([1])).render("user-1");
        assert_eq!(status, StatusCode::OK);
        let body: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(body, json!({ "server": "user-1", "value": [1] }));
    }
}
