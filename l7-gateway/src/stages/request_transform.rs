//! Stage 7: what the service will be sent. Not for removing what a client may not say: stage 2 has.
//! Called by `pipeline`.
//!
//! Invariant: our own headers are attached last, and no token passes a route that authenticates.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Uri, Version};

use crate::exchange::{Caller, Exchange, Identity, Prepared, Routed, Stage, Target};
use crate::halt::{Halt, Kind};
use crate::pipeline::Filter;
use crate::trace::{Silent, Trace};

const USER: HeaderName = HeaderName::from_static("x-user-id");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The stage.
#[derive(Debug)]
pub struct RequestTransform;

/// What happens to the client's `Authorization`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The gateway has used it: it goes no further.
    Stripped,
    /// The gateway asked nobody: it is the service's to judge.
    Passed,
}

impl Filter for RequestTransform {
    const STAGE: Stage = Stage::RequestTransform;
    type In = Routed;
    type Out = Prepared;
    type Plan = Token;

    fn plan(&self, _x: &Exchange, input: &Routed, trace: &mut impl Trace) -> Token {
        let token = match input.grant.caller() {
            Caller::Known(_) => Token::Stripped,
            Caller::Anonymous => Token::Passed,
        };
        trace.note(Stage::RequestTransform, || format!("Authorization is {token:?}"));
        token
    }

    async fn request(&self, x: &mut Exchange, input: Routed) -> Result<Prepared, Halt> {
        let token = self.plan(x, &input, &mut Silent);
        let Routed { request, grant, route, to } = input;
        let request = *request;
        let mut headers = request.headers;
        if token == Token::Stripped {
            headers.remove(header::AUTHORIZATION);
        }
        if let Some(user) = grant.caller().identity().and_then(Identity::user) {
            headers.insert(USER, user.clone());
        }
        attach(x, &request.target, &mut headers);
        if let Some(protocol) = &request.upgrade {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, protocol.clone());
        }
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.method = request.method;
        head.uri = origin_form(&request.target).ok_or(Halt::from(Kind::Malformed))?;
        head.version = Version::HTTP_11;
        head.headers = headers;
        Ok(Prepared { head, body: request.body, upgrade: request.upgrade, grant, route, to })
    }
}

/// Sets what services may believe because only we say it.
fn attach(x: &Exchange, target: &Target, headers: &mut HeaderMap) {
    headers.insert(header::HOST, target.authority.clone());
    headers.insert(REQUEST_ID, x.request_id.header());
    headers.insert(TRACE_PARENT, x.trace.header());
    if let Some(state) = x.continued.as_ref().and_then(|before| before.state.as_ref()) {
        headers.insert(TRACE_STATE, state.clone());
    }
    headers.insert(FORWARDED_FOR, client(x.peer.address()));
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(x.peer.scheme()));
    headers.insert(FORWARDED_HOST, target.authority.clone());
}

fn client(address: IpAddr) -> HeaderValue {
    HeaderValue::from_str(&address.to_string()).expect("invariant: an address is visible ASCII")
}

/// `/path?query` (RFC 9112 §3.2.1).
fn origin_form(target: &Target) -> Option<Uri> {
    let text = match &target.query {
        None => Bytes::copy_from_slice(target.path.as_bytes()),
        Some(query) => Bytes::from(format!("{}?{query}", target.path)),
    };
    Uri::from_maybe_shared(text).ok()
}
