//! What a call is told of its end beside a code: `google.rpc.Status` in `grpc-status-details-bin`, with the details of
//! `google/rpc/error_details.proto` that programs read. Called by `halt`, and by `transcode` for what services say.
//!
//! Invariant: code and message are those of `grpc-status` and `grpc-message`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{HeaderName, HeaderValue};
use prost::Message;

/// The field that carries them.
pub const NAME: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// Whose reasons ours are (`google.rpc.ErrorInfo.domain`): `docs/errors.md` lists them.
const DOMAIN: &str = "aqueduct";

/// google.rpc.Status.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// As `grpc-status`.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// As `grpc-message`.
    #[prost(string, tag = "2")]
    pub message: String,
    /// What else there is to say.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Detail>,
}

/// google.protobuf.Any.
#[derive(Clone, PartialEq, Message)]
pub struct Detail {
    /// Where its type is described; the last segment names it.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// It.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// Why a call is refused: words of ours.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'r> {
    /// Its gRPC code.
    pub code: u8,
    /// One sentence for people.
    pub message: &'r str,
    /// A stable word for programs.
    pub reason: &'r str,
    /// More, for people.
    pub more: Option<&'r str>,
    /// The request itself is at fault.
    pub of_request: bool,
    /// Seconds until it may be said again.
    pub again_in: Option<i64>,
    /// How the record names it.
    pub request_id: &'r str,
}

impl Refusal<'_> {
    /// As the field carries it: without padding (gRPC over HTTP/2, "Custom-Metadata").
    pub fn field(&self) -> Option<HeaderValue> {
        let reason = self.reason.to_ascii_uppercase();
        let mut details = vec![
            packed("ErrorInfo", &ErrorInfo { reason, domain: DOMAIN.to_owned() }),
            packed("RequestInfo", &RequestInfo { request_id: self.request_id.to_owned() }),
        ];
        if let Some(seconds) = self.again_in {
            details.push(packed("RetryInfo", &RetryInfo { delay: Some(Seconds { seconds }) }));
        }
        match self.more {
            Some(text) if self.of_request => {
                let violation = Violation { description: text.to_owned() };
                details.push(packed("BadRequest", &BadRequest { violations: vec![violation] }));
            }
            Some(text) => {
                let told = LocalizedMessage { locale: "en".to_owned(), message: text.to_owned() };
                details.push(packed("LocalizedMessage", &told));
            }
            None => {}
        }
        let status = Status { code: i32::from(self.code), message: self.message.into(), details };
        HeaderValue::try_from(STANDARD_NO_PAD.encode(status.encode_to_vec())).ok()
    }
}

fn packed(name: &str, detail: &impl Message) -> Detail {
    Detail { kind: format!("type.googleapis.com/google.rpc.{name}"), value: detail.encode_to_vec() }
}

#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

#[derive(Clone, PartialEq, Message)]
struct RequestInfo {
    #[prost(string, tag = "1")]
    request_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, tag = "1")]
    delay: Option<Seconds>,
}

/// google.protobuf.Duration, in whole seconds as `Retry-After` is.
#[derive(Clone, PartialEq, Message)]
struct Seconds {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

#[derive(Clone, PartialEq, Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    violations: Vec<Violation>,
}

#[derive(Clone, PartialEq, Message)]
struct Violation {
    #[prost(string, tag = "2")]
    description: String,
}

#[derive(Clone, PartialEq, Message)]
struct LocalizedMessage {
    #[prost(string, tag = "1")]
    locale: String,
    #[prost(string, tag = "2")]
    message: String,
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use prost_reflect::DescriptorPool;
    use serde_json::json;

    use super::*;
    use crate::grpc;
    use crate::transcode::errors::Ending;

    /// G15: a refusal is read with Google's own descriptions as what it was made of.
    #[test]
    fn refusals_have_details_of_googles_types() {
        let refusal = Refusal {
            code: 14,
            message: "Too many requests",
            reason: "rate_limited",
            more: Some("of this caller"),
            of_request: false,
            again_in: Some(7),
            request_id: "r-1",
        };
        let read = |refusal: &Refusal<'_>| {
            let mut fields: HeaderMap = grpc::end(refusal.code, refusal.message);
            let value = refusal.field().expect("a value");
            assert!(!value.as_bytes().contains(&b'='), "padded: {value:?}");
            fields.insert(NAME, value);
            Ending::read(&fields, &DescriptorPool::new()).expect("an end").status
        };
        let of = |name: &str| format!("type.googleapis.com/google.rpc.{name}");
        let info =
            json!({ "@type": of("ErrorInfo"), "reason": "RATE_LIMITED", "domain": "aqueduct" });
        let request = json!({ "@type": of("RequestInfo"), "requestId": "r-1" });
        let retry = json!({ "@type": of("RetryInfo"), "retryDelay": "7s" });
        let words =
            json!({ "@type": of("LocalizedMessage"), "locale": "en", "message": "of this caller" });
        let told = json!({ "code": 14, "message": "Too many requests", "details": [info, request, retry, words] });
        assert_eq!(read(&refusal), told);
        let bad = Refusal { of_request: true, again_in: None, ..refusal };
        let violation = json!([{ "description": "of this caller" }]);
        let last = json!({ "@type": of("BadRequest"), "fieldViolations": violation });
        assert_eq!(read(&bad)["details"][2], last);
    }
}
