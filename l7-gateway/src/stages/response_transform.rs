//! Stage 9: what the client may see of an answer. Not for CORS and limits: their stages' response
//! sides have been here. Called by `pipeline` for every answer, ours too.
//!
//! Invariant: no header that names a server inside leaves, ours are set last, and nobody is told to keep an
//! error of ours.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use http_body::Body as _;
use topology::answers::{Attached, Compress, SecurityHeaders};

use crate::attached::Forms;
use crate::body::AnswerBody;
use crate::cache_control::Control;
use crate::coding::compress::Compressed;
use crate::exchange::{Answered, AnsweredBy, Exchange, ResponseHead, RouteId, Stage, Transformed};
use crate::external;
use crate::grpc;
use crate::grpc_web::{Enveloped, Web};
use crate::halt::{Halt, status_of_call};
use crate::hops::{Internal, hop_by_hop};
use crate::media;
use crate::pipeline::Filter;
use crate::snapshot::Snapshot;
use crate::trace::{Silent, Trace};
use crate::transcode::answer::{self, AnswerError, Calling, Ended, Told};
use crate::transcode::stream::Lines;
use crate::transform::{self, Changes, Passage, Refused, TransformError, is_json};
use crate::variance::{Variance, told};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The stage, one per worker.
#[derive(Debug)]
pub struct ResponseTransform {
    routes: Vec<Vec<(HeaderName, HeaderValue)>>,
    changes: Option<Rc<Changes>>,
    forms: Option<Rc<Forms>>,
    internal: Rc<Internal>,
    variance: Variance,
    snapshot: Arc<Snapshot>,
}

impl ResponseTransform {
    /// For one worker.
    pub fn new(
        snapshot: &Arc<Snapshot>,
        (changes, forms): (Option<Rc<Changes>>, Option<Rc<Forms>>),
        internal: &Rc<Internal>,
    ) -> Self {
        let header = |(name, value): &(String, String)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        };
        let of = |route: &topology::gateway::Route| {
            route.response_headers.iter().filter_map(header).collect()
        };
        let snapshot = Arc::clone(snapshot);
        Self {
            routes: snapshot.group.routes.iter().map(of).collect(),
            changes,
            forms,
            internal: Rc::clone(internal),
            variance: Variance::new(&snapshot.group),
            snapshot,
        }
    }
}

impl ResponseTransform {
    /// How an answer is compressed.
    fn rules(&self, x: &mut Exchange, route: Option<RouteId>) -> Option<Rc<Compress>> {
        let (by, rules) = self.said(x, route)?;
        x.passes(Self::STAGE, "compress", by);
        Some(rules)
    }

    fn said(&self, x: &mut Exchange, route: Option<RouteId>) -> Option<(Attached, Rc<Compress>)> {
        let forms = self.forms.as_ref()?;
        if x.progress.ran(Stage::RequestTransform) {
            return x.compress.take();
        }
        forms.early(route?).map(|(by, rules)| (by, Rc::clone(rules)))
    }

    /// Whether a route says itself which form its answers have: then they have one already.
    fn says_form(&self, route: Option<RouteId>) -> bool {
        let own = route.and_then(|id| self.routes.get(id.0));
        own.is_some_and(|own| own.iter().any(|(name, _)| *name == header::CONTENT_ENCODING))
    }
}

/// Carries out what the file changes of the body of a service's answer.
async fn changed(x: &Exchange, passage: &mut Passage, mut answer: Answered) -> Answered {
    let Answered { head, body, .. } = &mut answer;
    if says_only(x, head) {
        // What it says of the body it says of another one than this gateway would send.
        if is_json(&head.headers) || sent_before(x, head) {
            transform::stale(&mut head.headers);
        }
        return answer;
    }
    // Where there is no body, there is nothing to change (204, `Content-Length: 0`).
    let none = matches!(body, AnswerBody::Tunnel(_)) || body.is_end_stream();
    if none || grpc::is_content(&head.headers) {
        return answer;
    }
    match passage.body(x, &mut head.headers, body).await {
        Ok(Some(bytes)) => *body = AnswerBody::Whole(bytes),
        Ok(None) => {}
        Err(why) => return instead(x, &answer.head.headers, Refused::Answer(why)),
    }
    answer
}

/// Whether an answer speaks of a body without having it.
fn says_only(x: &Exchange, head: &ResponseHead) -> bool {
    x.record.method == Method::HEAD || head.status == StatusCode::NOT_MODIFIED
}

/// Whether what has not changed was sent in a form of ours before: its client has a weak validator for what its
/// service has a strong one for.
fn sent_before(x: &Exchange, head: &ResponseHead) -> bool {
    let known = x.known.as_ref().and_then(|known| known.to_str().ok());
    let tag = head.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
    let weak = known.zip(tag).is_some_and(|(known, tag)| known.contains(&format!("W/{tag}")));
    weak && head.status == StatusCode::NOT_MODIFIED
}

/// Puts an answer into the form that its client takes. Caches are told that there are others, whether there
/// is one this time or not.
fn compressed(x: &Exchange, rules: &Compress, answer: &mut Answered) {
    let (status, before) = (answer.head.status, sent_before(x, &answer.head));
    let headers = &mut answer.head.headers;
    let media = media::kind(headers);
    let is = |rule: &String| match rule.as_str() {
        begins if begins.ends_with('/') => media.starts_with(begins),
        ends if ends.starts_with('+') => media.ends_with(ends),
        whole => media == whole,
    };
    let fixed = Control::of(headers).has("no-transform");
    // What has not changed has no type as a rule; it is told as the whole was (RFC 9110 §15.4.5).
    let unchanged = status == StatusCode::NOT_MODIFIED;
    let meant = before || rules.types.iter().any(is);
    if !meant || fixed || headers.contains_key(header::CONTENT_ENCODING) {
        return;
    }
    told(headers, &ACCEPT_ENCODING);
    // A part is one of what the service would send whole; several parts have no `Content-Range` of their own.
    let part = status == StatusCode::PARTIAL_CONTENT || headers.contains_key(header::CONTENT_RANGE);
    let Some(coding) = x.coding.filter(|_| !part) else { return };
    if unchanged && !before && x.known.is_some() {
        // The client has it as the service sent it.
        return;
    }
    if unchanged || x.record.method == Method::HEAD {
        // The length would be another one, and the validator a weak one.
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let length = length.and_then(|text| text.parse::<u64>().ok());
        let none = length == Some(0)
            || [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT].contains(&status);
        if !none && length.is_none_or(|bytes| bytes >= rules.least) {
            transform::stale(headers);
            if !unchanged {
                // RFC 9110 §9.3.2: what GET would be told.
                headers.insert(header::CONTENT_ENCODING, coding.header());
            }
        }
        return;
    }
    let small = answer.body.size_hint().upper().is_some_and(|bytes| bytes < rules.least);
    let none = matches!(answer.body, AnswerBody::Tunnel(_)) || answer.body.is_end_stream();
    if small || none || grpc::is_content(headers) {
        return;
    }
    let body = std::mem::replace(&mut answer.body, AnswerBody::Empty);
    if let Some(body) = Compressed::new(body, coding) {
        transform::stale(headers);
        headers.insert(header::CONTENT_ENCODING, coding.header());
        answer.body = AnswerBody::Compressed(Box::new(body));
    }
}

const ACCEPT: HeaderValue = HeaderValue::from_static("Accept");
const ACCEPT_ENCODING: HeaderValue = HeaderValue::from_static("Accept-Encoding");

/// Whether an answer's form depends on what its client takes.
fn has_forms(headers: &HeaderMap) -> bool {
    let all = headers.get_all(header::VARY).iter().filter_map(|value| value.to_str().ok());
    let mut names = all.flat_map(|names| names.split(',')).map(str::trim);
    names.any(|name| name.eq_ignore_ascii_case("accept-encoding"))
}

/// Whether this is an error of ours, which nobody may keep.
fn is_error(answer: &Answered) -> bool {
    let Answered { head, by, .. } = answer;
    let control = head.headers.get(header::CACHE_CONTROL);
    *by == AnsweredBy::Gateway
        && (head.status.is_client_error() || head.status.is_server_error())
        && control.is_some_and(|value| value == "no-store")
}

/// Whether a header tells caches how long to keep an answer.
fn is_for_caches(name: &HeaderName) -> bool {
    *name == header::CACHE_CONTROL
        || *name == header::EXPIRES
        || ["cdn-cache-control", "surrogate-control"].contains(&name.as_str())
}

/// Tells browsers to be careful, where nobody has said anything.
fn careful(preset: SecurityHeaders, secure: bool, headers: &mut HeaderMap) {
    let mut say = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    if secure {
        // RFC 6797 §7.2: never over plain HTTP.
        say(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    say(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    say(header::REFERRER_POLICY, "strict-origin-when-cross-origin");
    match preset {
        SecurityHeaders::Api => {
            say(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'");
        }
        SecurityHeaders::Web => say(header::X_FRAME_OPTIONS, "DENY"),
    }
}

/// A call's answer as browsers take it. Where nothing but its end was said, fields say it here too.
fn enveloped(web: &Web, internal: &Rc<Internal>, answer: Answered) -> Answered {
    let mut answer = if grpc::is_content(&answer.head.headers) {
        answer
    } else {
        Answered::uncalled(answer.head.status).in_place_of(&answer.head.headers)
    };
    web.answers(&mut answer.head.headers);
    if grpc::status(&answer.head.headers).is_none() {
        let body = std::mem::replace(&mut answer.body, AnswerBody::Empty);
        let body = Enveloped::new(body, web.envelope, Rc::clone(internal));
        answer.body = AnswerBody::Enveloped(Box::new(body));
    }
    answer
}

/// A call's answer in HTTP and JSON.
async fn translated(
    x: &Exchange,
    calling: &Calling,
    internal: &Internal,
    answer: Answered,
) -> Answered {
    let before = answer.head.headers.clone();
    let refused = |why| instead(x, &before, Refused::Answer(TransformError::Call(why)));
    let Answered { mut head, body, by } = answer;
    if !grpc::is_content(&head.headers) {
        return refused(AnswerError::Foreign);
    }
    let ending = calling.ending(&head.headers);
    answer::strip(&mut head.headers);
    transform::stale(&mut head.headers);
    let kind = |headers: &mut HeaderMap, kind| headers.insert(header::CONTENT_TYPE, kind);
    let lines = if calling.events { "text/event-stream" } else { "application/x-ndjson" };
    let lines = HeaderValue::from_static(lines);
    let (ending, told) = match ending {
        // Nothing was said, and all is well.
        Some(ending) if ending.code == 0 && calling.streams => {
            kind(&mut head.headers, lines);
            return Answered { head, body: AnswerBody::Whole(Bytes::new()), by };
        }
        Some(ending) => (ending, None),
        None if calling.streams => {
            kind(&mut head.headers, lines);
            let lines = Lines::new(body, calling.clone());
            return Answered { head, body: AnswerBody::Lines(Box::new(lines)), by };
        }
        None => match answer::unary(calling, body).await {
            Ok(Ended { ending, told, behind }) => {
                answer::behind(&mut head.headers, behind, internal);
                (ending, told)
            }
            Err(why) => return refused(why),
        },
    };
    head.status = status_of_call(ending.code);
    let told = match told.filter(|_| ending.code == 0) {
        Some(told) => told,
        None if ending.code == 0 => return refused(AnswerError::Malformed),
        None => Told {
            kind: HeaderValue::from_static("application/json"),
            body: ending.status.to_string().into_bytes(),
        },
    };
    kind(&mut head.headers, told.kind);
    Answered { head, body: AnswerBody::Whole(told.body.into()), by }
}

/// Our answer in place of a service's that could not be changed; what stages have said to the client stays.
fn instead(x: &Exchange, before: &HeaderMap, why: impl Into<Halt>) -> Answered {
    Answered::ours(x, why.into()).in_place_of(before)
}

impl Filter for ResponseTransform {
    const STAGE: Stage = Stage::ResponseTransform;
    type In = Answered;
    type Out = Transformed;
    type Plan = Option<RouteId>;

    fn plan(&self, x: &Exchange, _input: &Answered, trace: &mut impl Trace) -> Self::Plan {
        let route = x.candidate.route();
        trace.note(Stage::ResponseTransform, || format!("headers of {route:?} are set"));
        route
    }

    async fn request(&self, x: &mut Exchange, mut input: Answered) -> Result<Transformed, Halt> {
        let route = self.plan(x, &input, &mut Silent);
        let headers = &mut input.head.headers;
        if input.by == AnsweredBy::Service {
            hop_by_hop(headers);
        }
        self.internal.remove(headers);
        let mut negotiated = false;
        if let Some(calling) = x.calling.take().filter(|_| input.by == AnsweredBy::Service) {
            // Lines or events, as the client takes them.
            x.passes(Self::STAGE, "transcode", "");
            negotiated = calling.streams;
            input = Box::pin(translated(x, &calling, &self.internal, input)).await;
        }
        let changes = self.changes.as_deref().filter(|all| {
            let any = x.passage.is_some() || all.any_early(route);
            any && input.by != AnsweredBy::Nobody
        });
        let mut error = is_error(&input);
        if let Some(changes) = changes {
            let mut passage =
                transform::passage(x, changes, route.and_then(|id| self.snapshot.captures(id)));
            let service = |by| matches!(by, AnsweredBy::Service | AnsweredBy::Services);
            if service(input.by) && passage.changes_bodies() {
                // Boxed: few routes change bodies.
                input = Box::pin(changed(x, &mut passage, input)).await;
                error = is_error(&input);
            }
            passage.head(x, &mut input.head, service(input.by));
        }
        let tunnel = matches!(input.body, AnswerBody::Tunnel(_));
        if !x.outside.is_empty() && !tunnel && input.by != AnsweredBy::Nobody {
            input = Box::pin(external::answer(x, input)).await;
        }
        let model = route.and_then(|id| self.snapshot.group.routes.get(id.0));
        let rules = self.rules(x, route).filter(|_| !self.says_form(route));
        if let Some(rules) = &rules {
            compressed(x, rules, &mut input);
        }
        if let Some(web) = x.web.take().filter(|_| input.by != AnsweredBy::Nobody) {
            x.passes(Self::STAGE, "grpc-web", "");
            input = enveloped(&web, &self.internal, input);
        }
        let forms = rules.is_some() && has_forms(&input.head.headers);
        let kept = input.head.status.as_u16() < 400;
        let headers = &mut input.head.headers;
        let group = &self.snapshot.group;
        let preset = model.map_or(group.security_headers, |model| model.security_headers);
        if let Some(preset) = preset {
            x.passes(Self::STAGE, "security-headers", "");
            careful(preset, x.peer.scheme() == "https", headers);
        }
        let own = route.and_then(|id| self.routes.get(id.0)).filter(|own| !own.is_empty());
        if own.is_some() {
            x.passes(Self::STAGE, "response-headers", "");
        }
        for (name, value) in own.into_iter().flatten() {
            if kept || !is_for_caches(name) {
                headers.insert(name, value.clone());
            }
        }
        if error {
            headers.remove(header::EXPIRES);
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        for (_, name) in
            [(forms, &ACCEPT_ENCODING), (negotiated, &ACCEPT)].iter().filter(|(is, _)| *is)
        {
            told(headers, name);
        }
        // An error of ours is for nobody to keep.
        if !error || route.is_none() {
            let of = (group, &self.snapshot.matcher);
            self.variance.tell(of, (route.map(|id| id.0), x.looked), headers);
        }
        headers.insert(REQUEST_ID, x.told().0.clone());
        Ok(Transformed(input))
    }
}
