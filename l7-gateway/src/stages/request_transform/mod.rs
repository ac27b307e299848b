//! Stage 7: what the service will be sent. Not for removing what a client may not say: stage 2 has.
//! Called by `pipeline`.
//!
//! Invariant: our own headers are attached last, and no token passes a route that authenticates.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};
use serde_json::Value;
use topology::ServiceName;
use topology::answers::{Attached, Compress};
use topology::gateway::{Route, RouteTo, Told};

use crate::attached::Forms;
use crate::body::RequestBody;
use crate::coding::{self, Coding};
use crate::exchange::{Caller, Exchange, Identity, Prepared, Request, Routed, Stage};
use crate::external::Externals;
use crate::external::told::Subject;
use crate::forwarded;
use crate::grpc_web::{self, Envelope, Web};
use crate::halt::{Halt, Kind};
use crate::hops::PROOF;
use crate::media;
use crate::pipeline::Filter;
use crate::snapshot::Snapshot;
use crate::trace::Trace;
use crate::transcode::answer::Calling;
use crate::transcode::bindings::Binding;
use crate::transcode::message::{self, MessageError};
use crate::transcode::{self, Interface};
use crate::transform::facts::Known;
use crate::transform::{self, Changes, Passage, Passed, Refused, TransformError};

pub mod judged;
pub mod proof;

const USER: HeaderName = HeaderName::from_static("x-user-id");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The stage, one per worker.
#[derive(Debug)]
pub struct RequestTransform {
    snapshot: Arc<Snapshot>,
    told: Vec<(HeaderName, Told)>,
    changes: Option<Rc<Changes>>,
    forms: Option<Rc<Forms>>,
    outside: Option<Rc<Externals>>,
}

impl RequestTransform {
    /// For one worker.
    pub fn new(
        snapshot: &Arc<Snapshot>,
        (changes, forms): (Option<&Rc<Changes>>, Option<&Rc<Forms>>),
        outside: Option<Rc<Externals>>,
    ) -> Self {
        let told = snapshot.group.identity_headers.iter();
        let told = told.filter_map(|told| Some((header_of(told)?, told.clone()))).collect();
        let (changes, forms) = (changes.cloned(), forms.cloned());
        Self { snapshot: Arc::clone(snapshot), told, changes, forms, outside }
    }

    /// Who is asked outside.
    pub(crate) fn outside(&self) -> Option<&Externals> {
        self.outside.as_deref()
    }

    /// Nobody outside is asked from now on: for `explain`.
    pub(crate) fn hush(&self) {
        self.outside.iter().for_each(|outside| outside.hush());
    }

    /// Asks those outside who are to see this request.
    async fn ask(
        &self,
        x: &mut Exchange,
        (outside, token): (&Externals, Token),
        input: &mut Routed,
    ) -> Result<(), Halt> {
        // They may be told of a client's token; what they set in its place is no client's.
        let came = input.request.headers.get(header::AUTHORIZATION).cloned();
        let route = self.snapshot.group.routes.get(input.route.0);
        let subject = Subject {
            route: route.map_or("", |route| route.name.as_str()),
            caller: input.grant.caller().identity(),
        };
        let (request, at) = (&mut *input.request, (input.route, input.to));
        outside.request(x, request, at, subject).await?;
        if came.as_ref() == request.headers.get(header::AUTHORIZATION) {
            strip(token, &mut request.headers);
        }
        if outside.reads_answers(input.route, input.to, subject.caller) {
            x.known = request.headers.get(header::IF_NONE_MATCH).cloned();
            transform::whole(&mut request.headers);
        }
        Ok(())
    }

    /// Carries out what the file changes of this request but for its body.
    fn change(
        &self,
        x: &Exchange,
        (changes, passed): (&Changes, Passed),
        input: &mut Routed,
    ) -> Result<(Passage, Vec<Option<String>>), TransformError> {
        let caller = input.grant.caller().identity();
        let route = self.snapshot.group.routes.get(input.route.0);
        let captures = self.snapshot.captures(input.route);
        let captures = captures.map(|captures| (captures, input.request.target.path.clone()));
        let captured = captures.as_ref().map(|(captures, path)| (*captures, &**path));
        let route = route.map_or("", |route| route.name.as_str());
        let service = x.record.service.as_ref().map(ServiceName::as_str);
        let known = Known { x, caller, route, service, captured, answers: &[] };
        changes.begin(passed, &mut input.request, known)
    }

    /// Makes the call of a request that it means.
    async fn call(
        &self,
        x: &Exchange,
        interface: &Interface,
        input: &mut Routed,
    ) -> Result<Box<Calling>, Halt> {
        let (to, request) = (input.to, &mut *input.request);
        let (route, target) = (self.snapshot.group.routes.get(input.route.0), &request.target);
        let rules = route.and_then(|route| route.transcode.as_ref().map(|rules| (route, rules)));
        let (route, rules) = rules.ok_or(Halt::from(Kind::NoRoute))?;
        let meant = interface.find(&request.method, &target.path).map_err(Refused::NoCall)?;
        let body = said(meant.binding, &request.headers, &mut request.body, rules.most).await?;
        let query = target.query.as_deref();
        let message = if meant.binding.takes_any() {
            let kind = request.headers.get(header::CONTENT_TYPE);
            let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            message::raw(&meant, query, (kind, body))
        } else {
            let most = usize::try_from(rules.most).unwrap_or(usize::MAX);
            message::message(&meant, query, (&body, most))
        };
        let message = message.map_err(Refused::Call)?;
        let accept = request.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let events = accept.is_some_and(|accept| accept.contains("text/event-stream"));
        let most = usize::try_from(rules.most).unwrap_or(usize::MAX);
        let calling = Calling::new(meant.binding, events, most);
        let path = meant.binding.call.path.as_str().into();
        request.method = Method::POST;
        request.target.path = path;
        request.target.query = None;
        // A stream may take longer than its head.
        let total = self.total(route, to);
        let head = (!calling.streams).then_some(route.timeout);
        let left = [total, head].into_iter().flatten().min();
        let left = left.map(|left| left.saturating_sub(x.began.elapsed()));
        transform::stale(&mut request.headers);
        transcode::head(&mut request.headers, left);
        let limits = request.body.limits();
        request.body = RequestBody::whole(message, limits);
        Ok(Box::new(calling))
    }

    /// How long an exchange of a route with this service may take.
    fn total(&self, route: &Route, to: RouteTo) -> Option<Duration> {
        let upstream = to.service().and_then(|to| self.snapshot.upstreams.get(to.0))?;
        route.times.over(&upstream.model.times).total
    }

    /// Attaches what services are told of a caller.
    fn tell(&self, x: &Exchange, identity: &Identity, headers: &mut HeaderMap) {
        if let Some(user) = identity.user() {
            headers.insert(USER, user.clone());
        }
        for (name, told) in &self.told {
            // What cannot stand in a header is left out.
            if let Some(value) = self.value(x, identity, told)
                && let Ok(value) = HeaderValue::try_from(value)
            {
                headers.insert(name, value);
            }
        }
    }

    fn value(&self, x: &Exchange, identity: &Identity, told: &Told) -> Option<String> {
        let some = |text: String| (!text.is_empty()).then_some(text);
        match told {
            Told::Scopes => some(proof::scopes(identity)),
            Told::Roles => some(identity.roles().join(" ")),
            Told::Issuer => {
                let issuers = &self.snapshot.group.issuers;
                identity.issuer().and_then(|id| issuers.get(id.0)).map(|i| i.name.to_string())
            }
            Told::Consumer => identity.consumer().map(str::to_owned),
            Told::Plan => identity.plan().map(str::to_owned),
            Told::Principal => x.peer.principal().map(|principal| principal.as_str().to_owned()),
            Told::Claim(name) => match identity.claim(name)? {
                Value::String(text) => some(text.clone()),
                Value::Null => None,
                other => Some(other.to_string()),
            },
        }
    }

    /// How its answer is compressed, and where that stands.
    fn form(&self, input: &Routed) -> Option<(Attached, &Rc<Compress>)> {
        self.forms.as_ref()?.on(input.route, input.to, input.grant.caller().identity())
    }

    /// Keeps what the form of the answer depends on, as clients have said it.
    fn note_form(&self, x: &mut Exchange, input: &Routed) {
        if let Some((by, rules)) = self.form(input) {
            x.compress = Some((by, Rc::clone(rules)));
            x.coding = coding::accepted(&input.request.headers).first().copied();
            x.known = input.request.headers.get(header::IF_NONE_MATCH).cloned();
        }
    }
}

fn header_of(told: &Told) -> Option<HeaderName> {
    Some(match told {
        Told::Scopes => HeaderName::from_static("x-scopes"),
        Told::Roles => HeaderName::from_static("x-user-roles"),
        Told::Issuer => HeaderName::from_static("x-user-issuer"),
        Told::Consumer => HeaderName::from_static("x-consumer"),
        Told::Plan => HeaderName::from_static("x-consumer-plan"),
        Told::Principal => HeaderName::from_static("x-client-principal"),
        Told::Claim(name) => {
            HeaderName::try_from(format!("x-user-claim-{}", name.to_ascii_lowercase())).ok()?
        }
    })
}

/// What happens to the client's `Authorization`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The gateway has used it: it goes no further.
    Stripped,
    /// The gateway asked nobody: it is the service's to judge.
    Passed,
}

impl Token {
    fn of(caller: &Caller) -> Self {
        match caller {
            Caller::Known(_) => Self::Stripped,
            Caller::Anonymous => Self::Passed,
        }
    }
}

impl Filter for RequestTransform {
    const STAGE: Stage = Stage::RequestTransform;
    type In = Routed;
    type Out = Prepared;
    type Plan = Token;

    fn plan(&self, _x: &Exchange, input: &Routed, trace: &mut impl Trace) -> Token {
        let token = Token::of(input.grant.caller());
        trace.note(Stage::RequestTransform, || match token {
            Token::Stripped => "credentials go no further".to_owned(),
            Token::Passed => "a token passes untouched: nobody here has asked for it".to_owned(),
        });
        let caller = input.grant.caller().identity();
        let held = self.snapshot.contracts.on(input.route, caller);
        let mut held = held.chain(self.snapshot.contracts.of_service(input.to)).peekable();
        if held.peek().is_some() {
            trace.note(Stage::RequestTransform, || {
                let names: Vec<String> = held.map(|(by, _)| by.to_string()).collect();
                format!("held against the description of {}", names.join(", then "))
            });
        }
        if let Some((by, _)) = self.form(input) {
            trace.note(Stage::RequestTransform, || {
                format!("its answer is compressed as {by} says, where the client takes that")
            });
        }
        let outside = self.outside.as_ref();
        if let Some(all) = outside.filter(|all| all.any(input.route, input.to, caller)) {
            trace.note(Stage::RequestTransform, || {
                let names = all.names(input.route, input.to, caller).join(", then ");
                format!("{names} would be asked; taken for a yes")
            });
        }
        let changes = self.changes.as_ref();
        if let Some(all) = changes.filter(|all| all.any(input.route, input.to, caller)) {
            trace.note(Stage::RequestTransform, || {
                let names = all.names(input.route, input.to, caller).join(", then ");
                format!("changed by {names}; its answer the other way round")
            });
        }
        token
    }

    async fn request(&self, x: &mut Exchange, mut input: Routed) -> Result<Prepared, Halt> {
        self.note_form(x, &input);
        // A second handle: the request is changed meanwhile.
        let caller = input.grant.caller().clone();
        let caller = caller.identity();
        // What clients are told to send, before anything of it is changed; whoever says that it calls, too.
        for (by, contract) in self.snapshot.contracts.on(input.route, caller) {
            x.passes(Stage::RequestTransform, "validate", by);
            Box::pin(judged::judged(contract, &mut input.request)).await?;
        }
        let token = Token::of(input.grant.caller());
        let outside = self.outside.as_ref();
        if let Some(outside) = outside.filter(|all| all.any(input.route, input.to, caller)) {
            Box::pin(self.ask(x, (outside, token), &mut input)).await?;
        } else {
            strip(token, &mut input.request.headers);
        }
        let mut asked = None;
        let changes = self.changes.as_deref();
        if let Some(all) = changes
            && let Some(passed) = all.on(input.route, input.to, caller)
        {
            asked = Some(input.request.target.authority.clone());
            let begun = self.change(x, (all, passed), &mut input);
            let (passage, texts) = begun.map_err(Refused::Request)?;
            if passage.reads_bodies() {
                // Boxed: few routes change bodies.
                Box::pin(rewritten(x, &passage, &mut input.request, texts)).await?;
            }
            if passage.changes_bodies() {
                x.known = input.request.headers.get(header::IF_NONE_MATCH).cloned();
            }
            x.passage = Some(passage);
        }
        if let Some((by, contract)) = self.snapshot.contracts.of_service(input.to) {
            x.passes(Stage::RequestTransform, "validate", by);
            Box::pin(judged::judged(contract, &mut input.request)).await?;
        }
        // Who calls in gRPC, or in a browser's form of it, has said which method and in which messages.
        if let Some(interface) = self.snapshot.interface(input.route).filter(|_| !x.grpc) {
            x.passes(Stage::RequestTransform, "transcode", "");
            x.calling = Some(Box::pin(self.call(x, interface, &mut input)).await?);
        }
        if let Some(web) = &x.web {
            x.passes(Stage::RequestTransform, "grpc-web", "");
            Box::pin(unwrapped(web, &mut input.request)).await.map_err(Refused::Request)?;
        }
        let Routed { request, grant, route, to } = input;
        let request = *request;
        let mut headers = request.headers;
        if let Some(identity) = caller {
            self.tell(x, identity, &mut headers);
        }
        if let Some(prover) = &self.snapshot.prover {
            let service = x.record.service.as_ref().map_or("", ServiceName::as_str);
            let id = x.request_id.hex();
            let id = std::str::from_utf8(&id).unwrap_or_default();
            let proof = prover.prove(caller, service, id, x.wall);
            headers.extend(proof.map(|proof| (PROOF, proof)));
        }
        attach(x, (&request.target.authority, asked.as_ref()), &mut headers);
        if self.snapshot.group.forwarded {
            forwarded(x, &mut headers);
        }
        // Neither a call nor several of them can become a tunnel: then the request is as if it had not asked (RFC 9110 §7.8).
        let one = x.calling.is_none() && to.service().is_some();
        let upgrade = request.upgrade.filter(|_| one);
        if let Some(protocol) = &upgrade {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, protocol.clone());
        }
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.method = request.method;
        head.uri = request.target.origin_form().ok_or(Halt::from(Kind::Malformed))?;
        head.version = Version::HTTP_11;
        head.headers = headers;
        Ok(Prepared { head, body: request.body, upgrade, grant, route, to })
    }
}

/// Tells in `Forwarded` what stands in `X-Forwarded-For`, `-Host` and `-Proto` (RFC 7239).
fn forwarded(x: &Exchange, headers: &mut HeaderMap) {
    let host = headers.get(FORWARDED_HOST);
    let told = host.and_then(|host| forwarded::element(x.peer.address(), host, x.peer.scheme()));
    headers.extend(told.map(|told| (header::FORWARDED, told)));
}

/// Carries out what is changed of the body, where there is one.
async fn rewritten(
    x: &Exchange,
    passage: &Passage,
    request: &mut Request,
    texts: Vec<Option<String>>,
) -> Result<(), Refused> {
    if passage.reads(request).await.map_err(Refused::Request)? {
        passage.read(x, request, texts).await.map_err(Refused::Request)?;
    }
    Ok(())
}

/// A browser's call as services take it. What comes as text is held, up to a bound.
async fn unwrapped(web: &Web, request: &mut Request) -> Result<(), TransformError> {
    web.asks(&mut request.headers);
    if web.envelope == Envelope::Text {
        let limits = request.body.limits();
        let most = limits.bytes.min(LONGEST_TEXT);
        let text = transform::gathered(&mut request.body, most).await;
        let bytes = grpc_web::decoded(&text.map_err(TransformError::Body)?);
        request.body = RequestBody::whole(bytes.ok_or(TransformError::Coded)?, limits);
    }
    Ok(())
}

/// What a request says to a call: JSON as it was before it was compressed, or whatever a call takes that takes any.
async fn said(
    binding: &Binding,
    headers: &HeaderMap,
    body: &mut RequestBody,
    most: u64,
) -> Result<Bytes, Refused> {
    let broken = |fault| Refused::Request(TransformError::Body(fault));
    transform::look(body).await.map_err(broken)?;
    if body.is_empty() {
        return Ok(Bytes::new());
    }
    let kind = media::only(headers).unwrap_or_default();
    // A call in gRPC that cannot be one here (over HTTP/1.1, or a browser's where the route has none) is no body of any type.
    let other = !binding.takes_any() || kind.starts_with("application/grpc");
    if !media::is_json(&kind) && other {
        return Err(Refused::Call(MessageError::Foreign));
    }
    if Coding::of(headers).is_err() {
        return Err(Refused::Call(MessageError::Coding));
    }
    let bytes = transform::gathered(body, most).await.map_err(broken)?;
    transform::plain(headers, bytes, most).map_err(Refused::Request)
}

/// Most bytes of a body in base64.
const LONGEST_TEXT: u64 = 4 << 20;

/// A client's token goes no further than to who was asked about it; what the file sets stays.
fn strip(token: Token, headers: &mut HeaderMap) {
    if token == Token::Stripped {
        headers.remove(header::AUTHORIZATION);
    }
}

/// Sets what services may believe because only we say it. The first host is the service's, the second the
/// client's, where that is another one.
fn attach(
    x: &Exchange,
    (host, asked): (&HeaderValue, Option<&HeaderValue>),
    headers: &mut HeaderMap,
) {
    headers.insert(header::HOST, host.clone());
    let (id, trace) = x.told();
    headers.insert(REQUEST_ID, id.clone());
    headers.insert(TRACE_PARENT, trace.clone());
    if let Some(state) = x.continued.as_ref().and_then(|before| before.state.as_ref()) {
        headers.insert(TRACE_STATE, state.clone());
    }
    headers.insert(FORWARDED_FOR, x.peer.forwarded().clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(x.peer.scheme()));
    headers.insert(FORWARDED_HOST, asked.unwrap_or(host).clone());
}
