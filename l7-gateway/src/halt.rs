//! Early ends: the one table from what went wrong to status, code and RFC 9457 problem body. Not for
//! deciding: stages raise their own errors, this module alone says which status they are. Called by
//! every stage (`?`) and by `pipeline`.
//!
//! Invariant: no other module writes a status code; nothing of an error's inner text reaches a
//! client.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::body::{AnswerBody, BodyFault};
use crate::codec::Fault;
use crate::contract::Breach;
use crate::exchange::{Answered, AnsweredBy, Exchange, ResponseHead};
use crate::external::ExternalError;
use crate::grpc;
use crate::grpc::details::{self, Refusal};
use crate::stages::authn::{AuthnError, Wanted};
use crate::stages::authz::AuthzError;
use crate::stages::dispatch::DispatchError;
use crate::stages::dispatch::files::open::Lack;
use crate::stages::normalise::NormaliseError;
use crate::stages::rate_limit::LimitError;
use crate::stages::route::RouteError;
use crate::transcode::NoCall;
use crate::transcode::message::MessageError;
use crate::transform::{Failure, Refused, TransformError};

mod kinds;

pub use kinds::{Kind, Row};

/// How an exchange ends before a service has answered.
#[derive(Debug)]
pub enum Halt {
    /// With this answer of ours.
    Reply(Reply),
    /// With this answer, which the file gives.
    Given(Box<Answered>),
    /// Without an answer: the connection or stream ends.
    Disconnect,
}

/// An answer of ours.
#[derive(Debug)]
pub struct Reply {
    kind: Kind,
    detail: Option<Cow<'static, str>>,
    /// What the access record says of it, and no client is told.
    reason: Option<Box<str>>,
    /// A change that failed and is counted.
    failure: Option<Failure>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Reply {
    /// An answer without further words.
    pub fn new(kind: Kind) -> Self {
        Self { kind, detail: None, reason: None, failure: None, headers: Vec::new() }
    }

    /// Says more to the operator.
    #[must_use]
    pub fn reason(mut self, text: impl Into<Box<str>>) -> Self {
        self.reason = Some(text.into());
        self
    }

    /// Says more to the client; never text of an inner error.
    #[must_use]
    pub fn detail(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(text.into());
        self
    }

    /// Adds a header, for example `WWW-Authenticate` or `Retry-After`.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// `Retry-After` in seconds (RFC 9110 §10.2.3).
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        self.header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// The last one on its connection: what follows a request like this is not waited for.
    #[must_use]
    pub fn last(self) -> Self {
        self.header(header::CONNECTION, HeaderValue::from_static("close"))
    }

    /// What it says in a header, if it does.
    pub fn said(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    fn problem(&self, x: &Exchange) -> Bytes {
        let row = self.kind.row();
        let mut body = serde_json::json!({
            "type": "about:blank",
            "title": row.title,
            "status": row.status.as_u16(),
            "code": row.code,
            "request_id": x.request_id.to_string(),
        });
        if let (Some(detail), Some(map)) = (&self.detail, body.as_object_mut()) {
            map.insert("detail".to_owned(), detail.as_ref().into());
        }
        Bytes::from(body.to_string())
    }
}

impl Reply {
    /// The same to a gRPC client: an answer of trailers alone, which no client takes for a message.
    fn for_call(self, request_id: &str) -> Answered {
        let (row, code) = (self.kind.row(), code_for_calls(self.kind));
        let mut headers = grpc::end(code, row.title);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let seconds = self.said(&header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let refusal = Refusal {
            code,
            message: row.title,
            reason: row.code,
            more: self.detail.as_deref(),
            of_request: matches!(self.kind, Kind::Malformed | Kind::Invalid),
            again_in: seconds.and_then(|seconds| seconds.parse().ok()),
            request_id,
        };
        if let Some(told) = refusal.field() {
            headers.insert(details::NAME, told);
        }
        headers.extend(self.headers);
        let head = ResponseHead { status: StatusCode::OK, headers };
        Answered { head, body: AnswerBody::Empty, by: AnsweredBy::Gateway }
    }
}

/// The gRPC code of a status (gRPC's "HTTP to gRPC Status Code Mapping"). What was too slow is told as
/// such: clients may repeat a call that is `UNAVAILABLE`, and this one may have had an effect; one whose answer
/// is there has had it.
fn code_for_calls(kind: Kind) -> u8 {
    if matches!(kind, Kind::AnswerUnchangeable | Kind::AnswerUnfiltered) {
        return 13;
    }
    match kind.row().status {
        StatusCode::BAD_REQUEST => 13,
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::FORBIDDEN => 7,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => 12,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => 4,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => 8,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE => grpc::UNAVAILABLE,
        _ => 2,
    }
}

/// The status of a gRPC code (google.rpc.Code).
pub fn status_of_call(code: u8) -> StatusCode {
    match code {
        0 => StatusCode::OK,
        // The client has gone: what nginx calls it.
        1 => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The end of a gRPC call whose answer breaks off.
pub fn broken_call(fault: BodyFault) -> HeaderMap {
    match fault {
        BodyFault::Idle | BodyFault::Late => grpc::end(4, "The service took too long"),
        _ => grpc::end(grpc::UNAVAILABLE, "The service broke off"),
    }
}

impl From<Reply> for Halt {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

impl From<Kind> for Halt {
    fn from(kind: Kind) -> Self {
        Self::Reply(Reply::new(kind))
    }
}

/// What an answer is that is made of what is held here: a file, or a kept answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// All of it.
    Whole,
    /// Some of it.
    Part,
    /// Nothing: the client has it.
    Unchanged,
}

impl ResponseHead {
    /// The head of such an answer.
    pub fn held(what: Held, headers: HeaderMap) -> Self {
        let status = match what {
            Held::Whole => StatusCode::OK,
            Held::Part => StatusCode::PARTIAL_CONTENT,
            Held::Unchanged => StatusCode::NOT_MODIFIED,
        };
        Self { status, headers }
    }
}

impl Answered {
    /// What a caller is told of an answer that is none to a call (gRPC's "HTTP to gRPC Status Code Mapping").
    pub fn uncalled(status: StatusCode) -> Self {
        let code = match status {
            StatusCode::BAD_REQUEST => 13,
            StatusCode::UNAUTHORIZED => 16,
            StatusCode::FORBIDDEN => 7,
            StatusCode::NOT_FOUND => 12,
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => grpc::UNAVAILABLE,
            _ => 2,
        };
        let mut headers = grpc::end(code, "The answer is none to a call");
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let head = ResponseHead { status: StatusCode::OK, headers };
        Self { head, body: AnswerBody::Empty, by: AnsweredBy::Gateway }
    }

    /// With what stages have said to the client in the answer before it, which stays said.
    #[must_use]
    pub fn in_place_of(mut self, before: &HeaderMap) -> Self {
        let headers = &mut self.head.headers;
        let alone = |name: &HeaderName| {
            let name = name.as_str();
            ["deprecation", "sunset"].contains(&name)
                || name.starts_with("access-control-")
                || name.starts_with("ratelimit")
        };
        for name in before.keys().filter(|name| alone(name)) {
            headers.remove(name);
        }
        let ending = |value: &HeaderValue| {
            let text = value.to_str().unwrap_or_default();
            ["deprecation", "sunset", "successor-version"]
                .iter()
                .any(|rel| text.contains(&format!("rel=\"{rel}\"")))
        };
        for (name, value) in before {
            if alone(name) || *name == header::VARY || (*name == header::LINK && ending(value)) {
                headers.append(name, value.clone());
            }
        }
        self
    }

    /// The answer that a halt stands for.
    pub fn ours(x: &Exchange, mut halt: Halt) -> Self {
        if let Halt::Reply(reply) = &mut halt {
            if let Some(reason) = reply.reason.take() {
                // The first one is why the client was told something else; others follow from it.
                x.record.reason.get_or_init(|| reason);
            }
            if let Some(failure) = reply.failure {
                x.record.route.fail(failure);
            }
        }
        match halt {
            Halt::Disconnect => Self {
                head: ResponseHead { status: StatusCode::BAD_GATEWAY, headers: HeaderMap::new() },
                body: AnswerBody::Empty,
                by: AnsweredBy::Nobody,
            },
            Halt::Given(answer) => *answer,
            Halt::Reply(reply) if x.grpc => reply.for_call(&x.request_id.to_string()),
            Halt::Reply(reply) => {
                let mut headers = HeaderMap::new();
                let body = if reply.kind == Kind::Preflight {
                    AnswerBody::Empty
                } else {
                    headers.insert(
                        header::CONTENT_TYPE,
                        HeaderValue::from_static("application/problem+json"),
                    );
                    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                    AnswerBody::Whole(reply.problem(x))
                };
                headers.extend(reply.headers);
                let head = ResponseHead { status: reply.kind.row().status, headers };
                Self { head, body, by: AnsweredBy::Gateway }
            }
        }
    }
}

impl From<Fault> for Halt {
    fn from(fault: Fault) -> Self {
        let kind = match fault {
            Fault::HeadTimeout => Kind::HeadTimeout,
            Fault::HeadTooLarge | Fault::TooManyHeaders => Kind::HeadTooLarge,
            Fault::TargetTooLong => Kind::TargetTooLong,
            Fault::Expectation => Kind::Expectation,
            _ => Kind::Malformed,
        };
        Reply::new(kind).detail(fault.to_string()).last().into()
    }
}

impl From<NormaliseError> for Halt {
    fn from(error: NormaliseError) -> Self {
        let kind = match error {
            NormaliseError::TargetTooLong => Kind::TargetTooLong,
            NormaliseError::BodyTooLarge => Kind::BodyTooLarge,
            NormaliseError::NoRoute => return Kind::NoRoute.into(),
            NormaliseError::Misdirected => return Kind::Misdirected.into(),
            NormaliseError::TooManyHeaders => Kind::HeadTooLarge,
            NormaliseError::Path
            | NormaliseError::Query
            | NormaliseError::Host
            | NormaliseError::Connection
            | NormaliseError::Forwarded
            | NormaliseError::Method => Kind::Malformed,
        };
        Reply::new(kind).detail(error.to_string()).last().into()
    }
}

impl From<AuthnError> for Halt {
    fn from(error: AuthnError) -> Self {
        match error {
            AuthnError::KeysDown => Reply::new(Kind::IdentityUnavailable).retry_after(1).into(),
            AuthnError::StoreAway | AuthnError::DenylistAway => {
                Reply::new(Kind::IdentityUnavailable).retry_after(1).into()
            }
            // RFC 6750 §3.1: who sent no token is told no error code.
            AuthnError::Missing(Wanted::Token) => challenge(Kind::Unauthenticated, "Bearer".into()),
            AuthnError::Missing(Wanted::Key) => challenge(Kind::Unauthenticated, "ApiKey".into()),
            AuthnError::Missing(Wanted::TokenOrKey) => {
                challenge(Kind::Unauthenticated, "Bearer, ApiKey".into())
            }
            // A handshake is over: no challenge could ask for a certificate.
            AuthnError::Missing(Wanted::Certificate) | AuthnError::OddPrincipal => {
                Reply::new(Kind::Forbidden).detail(error.to_string()).into()
            }
            AuthnError::Malformed => refused("Bearer", "invalid_request", &error),
            AuthnError::Token(_) | AuthnError::RevokedToken => {
                refused("Bearer", "invalid_token", &error)
            }
            AuthnError::SeveralKeys => refused("ApiKey", "invalid_request", &error),
            AuthnError::UnknownKey | AuthnError::ExpiredKey | AuthnError::RevokedKey => {
                refused("ApiKey", "invalid_key", &error)
            }
        }
    }
}

impl From<AuthzError> for Halt {
    fn from(error: AuthzError) -> Self {
        match error {
            AuthzError::Anonymous => challenge(Kind::Unauthenticated, "Bearer".to_owned()),
            AuthzError::Unanswered => Reply::new(Kind::IdentityUnavailable).retry_after(1).into(),
            AuthzError::NotAllowed | AuthzError::Closed | AuthzError::Forbidden => {
                Reply::new(Kind::Forbidden).detail(error.to_string()).into()
            }
            AuthzError::InsufficientScope { required } => {
                let scopes = required.join(" ");
                let text = format!("Bearer error=\"insufficient_scope\", scope=\"{scopes}\"");
                challenge(Kind::Forbidden, text)
            }
        }
    }
}

impl From<LimitError> for Halt {
    fn from(error: LimitError) -> Self {
        match error {
            LimitError::Exceeded { retry_after } => {
                Reply::new(Kind::TooManyRequests).retry_after(retry_after).into()
            }
            LimitError::StoreAway => Reply::new(Kind::LimitsUnavailable).retry_after(1).into(),
        }
    }
}

/// Says why a token is refused: the error's own sentence, which repeats nothing of the token.
fn refused(scheme: &str, code: &str, error: &AuthnError) -> Halt {
    let text = format!("{scheme} error=\"{code}\", error_description=\"{error}\"");
    challenge(Kind::Unauthenticated, text)
}

/// With `WWW-Authenticate` (RFC 6750 §3).
fn challenge(kind: Kind, text: String) -> Halt {
    let reply = Reply::new(kind);
    match HeaderValue::try_from(text) {
        Ok(value) => reply.header(header::WWW_AUTHENTICATE, value).into(),
        Err(_) => reply.into(),
    }
}

impl From<RouteError> for Halt {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::NoRoute => Kind::NoRoute.into(),
            RouteError::Method { allow } => {
                Reply::new(Kind::MethodNotAllowed).header(header::ALLOW, allow).into()
            }
            RouteError::Sunset => Kind::Gone.into(),
            RouteError::Closed(rules) => {
                let reply = Reply::new(Kind::Closed).retry_after(rules.retry_after.as_secs());
                rules.detail.into_iter().fold(reply, Reply::detail).into()
            }
        }
    }
}

impl From<DispatchError> for Halt {
    fn from(error: DispatchError) -> Self {
        match error {
            DispatchError::Body(BodyFault::TooLarge) => {
                Reply::new(Kind::BodyTooLarge).last().into()
            }
            DispatchError::Body(BodyFault::Idle | BodyFault::Late) => {
                Reply::new(Kind::BodyTimeout).last().into()
            }
            DispatchError::Body(fault @ BodyFault::Malformed) => {
                Reply::new(Kind::Malformed).detail(fault.to_string()).last().into()
            }
            DispatchError::Body(BodyFault::Broken) => Self::Disconnect,
            DispatchError::Timeout => Kind::UpstreamTimeout.into(),
            DispatchError::Unreachable => {
                Reply::new(Kind::UpstreamUnavailable).retry_after(1).into()
            }
            DispatchError::Overloaded => Reply::new(Kind::Overloaded).retry_after(1).into(),
            DispatchError::Broken => Kind::UpstreamFailed.into(),
        }
    }
}

impl From<Refused> for Halt {
    fn from(refused: Refused) -> Self {
        let failure = refused.failure();
        let mut halt = Self::of(refused);
        if let Self::Reply(reply) = &mut halt {
            reply.failure = failure;
        }
        halt
    }
}

impl Halt {
    fn of(refused: Refused) -> Self {
        match refused {
            Refused::Request(why) => match why.cause() {
                TransformError::Body(fault) => DispatchError::Body(*fault).into(),
                _ => {
                    let text = why.to_string();
                    Reply::new(Kind::Unchangeable)
                        .reason(format!("request: {text}"))
                        .detail(text)
                        .into()
                }
            },
            Refused::Call(why @ (MessageError::Foreign | MessageError::Coding)) => {
                Reply::new(Kind::UnsupportedType).detail(why.to_string()).into()
            }
            Refused::Call(why @ MessageError::TooLarge) => {
                Reply::new(Kind::BodyTooLarge).detail(why.to_string()).into()
            }
            Refused::Call(why) => Reply::new(Kind::Malformed).detail(why.to_string()).into(),
            Refused::NoCall(NoCall::Path) => Kind::NoRoute.into(),
            Refused::NoCall(NoCall::Method(methods)) => {
                let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
                match HeaderValue::try_from(names.join(", ")) {
                    Ok(allow) => RouteError::Method { allow }.into(),
                    Err(_) => Kind::MethodNotAllowed.into(),
                }
            }
            Refused::Breach(Breach::NoPath) => Kind::NoRoute.into(),
            Refused::Breach(Breach::Method { allow }) => RouteError::Method { allow }.into(),
            Refused::Breach(why @ (Breach::Kind(_) | Breach::Coding)) => {
                Reply::new(Kind::UnsupportedType).detail(why.to_string()).into()
            }
            Refused::Breach(why @ Breach::TooLarge) => {
                Reply::new(Kind::BodyTooLarge).detail(why.to_string()).into()
            }
            Refused::Breach(why) => Reply::new(Kind::Invalid).detail(why.to_string()).into(),
            // Clients need not know what services answer.
            Refused::Answer(why) => {
                Reply::new(Kind::AnswerUnchangeable).reason(format!("answer: {why}")).into()
            }
        }
    }
}

impl From<ExternalError> for Halt {
    fn from(error: ExternalError) -> Self {
        match error {
            ExternalError::Away => Reply::new(Kind::FilterUnavailable).retry_after(1).into(),
            // The service has done what it was asked: nobody is invited to ask again.
            ExternalError::AnswerAway => Kind::AnswerUnfiltered.into(),
        }
    }
}

impl From<Lack> for Halt {
    fn from(lack: Lack) -> Self {
        match lack {
            Lack::Missing | Lack::Folder => Kind::NotFound.into(),
            Lack::Trouble => Reply::new(Kind::FilesUnavailable).retry_after(1).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G2, G4: a call that was carried out is not said to be one that may be repeated.
    #[test]
    fn calls_that_were_carried_out_are_not_unavailable() {
        for (kind, code) in [
            (Kind::AnswerUnchangeable, 13),
            (Kind::AnswerUnfiltered, 13),
            (Kind::FilterUnavailable, 14),
            (Kind::UpstreamFailed, 14),
        ] {
            let answer = Reply::new(kind).for_call("r-1");
            assert_eq!(grpc::status(&answer.head.headers), Some(code), "{kind:?}");
        }
    }

    /// G15: what is no answer to a call is told by its status.
    #[test]
    fn foreign_answers_have_codes() {
        for (status, code) in [
            (200, 2),
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (418, 2),
            (429, 14),
            (502, 14),
            (503, 14),
            (504, 14),
        ] {
            let answer = Answered::uncalled(StatusCode::from_u16(status).expect("a status"));
            assert_eq!(grpc::status(&answer.head.headers), Some(code), "{status}");
            assert!(grpc::is_content(&answer.head.headers));
        }
    }
}
