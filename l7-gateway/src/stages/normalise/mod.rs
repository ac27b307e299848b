//! Stage 2: one strict, normal form of the request, and the policy that its route carries. Not for
//! choosing the service: that is `route`. Called by `pipeline`.
//!
//! Invariant: what leaves here has one canonical path, one host, and no header that only we may set.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use http::header;
use http::{HeaderMap, HeaderValue, Method, Version};
use http_body::Body as _;
use thiserror::Error;
use topology::gateway::{Group, LimitId, Route, RoutePolicy};

use self::cors::CorsRules;
use crate::access_log::{RouteStats, Stats};
use crate::exchange::{
    Candidate, Exchange, Normalised, Received, Request, ResponseHead, RouteId, Stage, Target,
    Transport,
};
use crate::grpc;
use crate::grpc_web::Web;
use crate::halt::{Halt, Kind, Reply};
use crate::matcher::{Found, Looked};
use crate::pipeline::Filter;
use crate::predicate::Asked;
use crate::snapshot::Snapshot;
use crate::stages::rate_limit::{Limiter, address};
use crate::trace::{Silent, Trace};
use crate::trace_context;
use crate::transform::early::Wanted;

pub mod cors;
pub mod forwarded;
pub mod host;
pub mod path;
pub mod scrub;

/// Why a request has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NormaliseError {
    /// A path that different programs would read differently.
    #[error("the path is ambiguous: no dot segments, no escaped separators, ASCII only")]
    Path,
    /// A query with bytes that must be escaped.
    #[error("the query has bytes that must be percent-encoded")]
    Query,
    /// None, two, or one that is no host.
    #[error("exactly one valid Host is needed")]
    Host,
    /// `Connection` names a header that is no hop's business.
    #[error("Connection names a header that is end to end")]
    Connection,
    /// CONNECT or TRACE.
    #[error("CONNECT and TRACE are refused")]
    Method,
    /// More than `max_headers`.
    #[error("there are too many headers")]
    TooManyHeaders,
    /// Longer than `max_uri_bytes`.
    #[error("the path is too long")]
    TargetTooLong,
    /// `Content-Length` over `max_body_bytes`.
    #[error("the body is too large")]
    BodyTooLarge,
    /// The certificate of this connection does not cover the host.
    #[error("this connection is for another host")]
    Misdirected,
    /// A trusted proxy's word about the client cannot be read.
    #[error("Forwarded is not lawful")]
    Forwarded,
    /// No route and no default policy.
    #[error("nothing is at this path")]
    NoRoute,
}

/// The stage, one per worker.
#[derive(Debug)]
pub struct Normalise {
    snapshot: Arc<Snapshot>,
    limiter: Rc<Limiter>,
    stats: Rc<Stats>,
    /// Made with the first request of each: a reload is not to hold a worker up.
    routes: Vec<OnceCell<RouteRules>>,
    default: Option<RouteRules>,
    /// What answers to requests without a route ask of them.
    lost: Option<Box<Wanted>>,
}

/// What a route means to stage 2, in this worker's own memory.
#[derive(Debug)]
struct RouteRules {
    policy: Rc<RoutePolicy>,
    cors: Option<CorsRules>,
    stats: Option<Rc<RouteStats>>,
    /// Most bytes of a body; `None`: as the front has it.
    most: Option<u64>,
    /// Browsers may call in gRPC.
    web: bool,
    /// What early answers ask of a request.
    wanted: Option<Box<Wanted>>,
}

impl RouteRules {
    fn new(policy: &RoutePolicy, group: &Group) -> Self {
        let cors = policy.cors.as_ref().and_then(CorsRules::new);
        let (policy, wanted) = (Rc::new(policy.clone()), Wanted::of(group, None));
        Self { policy, cors, stats: None, most: None, web: false, wanted }
    }

    fn of(route: &Route, stats: Rc<RouteStats>, group: &Group) -> Self {
        let (stats, most, web) = (Some(stats), route.max_body_bytes, route.grpc_web);
        let wanted = Wanted::of(group, Some(route));
        Self { stats, most, web, wanted, ..Self::new(&route.policy, group) }
    }
}

/// The normal form, before anything is charged or removed.
#[derive(Clone, Debug)]
pub struct Form {
    /// Host and path.
    pub target: Target,
    /// The route, or why there is none.
    pub candidate: Candidate,
    /// The headers that were looked at to find it.
    pub looked: Looked,
    /// What holds for it.
    pub policy: Rc<RoutePolicy>,
    /// It is a preflight that is answered here.
    pub preflight: Preflight,
}

/// Whether a request is a preflight of a route with cross-origin rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preflight {
    /// It is answered here.
    Yes,
    /// An ordinary request.
    No,
}

impl Normalise {
    /// For one worker.
    pub fn new(snapshot: &Arc<Snapshot>, limiter: Rc<Limiter>, stats: &Rc<Stats>) -> Self {
        let group = &snapshot.group;
        Self {
            snapshot: Arc::clone(snapshot),
            limiter,
            stats: Rc::clone(stats),
            routes: group.routes.iter().map(|_| OnceCell::new()).collect(),
            default: group.unmatched.as_ref().map(|policy| RouteRules::new(policy, group)),
            lost: Wanted::of(group, None),
        }
    }

    fn rules(&self, candidate: Candidate) -> Option<&RouteRules> {
        match candidate.route() {
            Some(RouteId(index)) => {
                let route = self.snapshot.group.routes.get(index)?;
                let group = &self.snapshot.group;
                let made = || RouteRules::of(route, self.stats.of(&route.name), group);
                self.routes.get(index).map(|rules| rules.get_or_init(made))
            }
            None => self.default.as_ref(),
        }
    }

    /// Host and path in their one form.
    pub(crate) fn target(&self, x: &Exchange, input: &Received) -> Result<Target, NormaliseError> {
        let (head, front) = (&input.head, &self.snapshot.group.front);
        if matches!(head.method, Method::CONNECT | Method::TRACE) {
            return Err(NormaliseError::Method);
        }
        if head.headers.len() > front.max_headers.get() {
            return Err(NormaliseError::TooManyHeaders);
        }
        let query = head.uri.query();
        if head.uri.path().len() + query.map_or(0, str::len) > front.max_uri_bytes.get() {
            return Err(NormaliseError::TargetTooLong);
        }
        if query.is_some_and(|q| !q.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(NormaliseError::Query);
        }
        let path = path::canonical(head.uri.path())?.into_owned().into();
        let authority = host::authority(head)?;
        let host = host::name(&authority);
        if let (Transport::Tls { sni: Some(sni), .. }, Some(front)) =
            (&x.peer.transport, &self.snapshot.front)
            && !front.serves(sni, &host)
        {
            return Err(NormaliseError::Misdirected);
        }
        // As the client wrote it, where it wrote it in a header.
        let written = head.headers.get(header::HOST).cloned();
        let authority = match written {
            Some(written) => written,
            None => HeaderValue::from_str(authority.as_str()).map_err(|_| NormaliseError::Host)?,
        };
        Ok(Target { host, authority, path, query: query.map(Box::from) })
    }
}

impl Filter for Normalise {
    const STAGE: Stage = Stage::Normalise;
    type In = Received;
    type Out = Normalised;
    type Plan = Result<Form, NormaliseError>;

    fn plan(&self, x: &Exchange, input: &Received, trace: &mut impl Trace) -> Self::Plan {
        let target = self.target(x, input)?;
        let asked = cors::preflight_for(&input.head);
        let method = asked.as_ref().unwrap_or(&input.head.method);
        let found = self.snapshot.matcher.find(&Asked {
            host: &target.host,
            path: &target.path,
            query: target.query.as_deref(),
            method,
            headers: &input.head.headers,
        });
        trace.note(Stage::Normalise, || {
            let id = found.candidate.route();
            let route = id.and_then(|id| self.snapshot.group.routes.get(id.0));
            let name = route.map_or("", |route| route.name.as_str());
            let means = match found.candidate {
                Candidate::Route(_) => format!("means route {name}"),
                Candidate::OtherMethod(_) => format!("is route {name}'s, for other methods"),
                Candidate::Unmatched => "means no route".to_owned(),
            };
            format!("{method} {}{} {means}", target.host, target.path)
        });
        let rules = self.rules(found.candidate).ok_or(NormaliseError::NoRoute)?;
        if let Some(cors) = &rules.policy.cors {
            trace.note(Stage::Normalise, || format!("cross-origin rules of {}", cors.by));
        }
        if input.body.size_hint().lower() > rules.most.unwrap_or(input.body.limits().bytes) {
            return Err(NormaliseError::BodyTooLarge);
        }
        let answered = asked.is_some() && rules.cors.is_some();
        let preflight = if answered { Preflight::Yes } else { Preflight::No };
        let policy = Rc::clone(&rules.policy);
        let Found { candidate, looked, .. } = found;
        Ok(Form { target, candidate, looked, policy, preflight })
    }

    async fn request(&self, x: &mut Exchange, input: Received) -> Result<Normalised, Halt> {
        let (normalised, candidate) = self.normal(x, input, &mut Silent)?;
        address::charge(&self.limiter, x, &normalised.policy).await?;
        match candidate {
            Some(preflight) => Err(self.preflight(preflight)),
            None => Ok(normalised),
        }
    }

    fn response(&self, x: &Exchange, head: &mut ResponseHead) {
        address::respond(x, head);
        let rules = self.rules(x.candidate);
        let cors = rules.and_then(|rules| rules.policy.cors.as_ref().zip(rules.cors.as_ref()));
        if let Some((model, cors)) = cors {
            x.passes(Stage::Normalise, "cors", model.by);
            cors.respond(x.origin.as_ref(), &mut head.headers);
        }
    }
}

impl Normalise {
    /// The request side but for limits and preflights: it waits for nothing. The second value is the
    /// candidate of a preflight that is answered here.
    ///
    /// # Errors
    /// With the answer that the client gets.
    pub(crate) fn normal(
        &self,
        x: &mut Exchange,
        input: Received,
        trace: &mut impl Trace,
    ) -> Result<(Normalised, Option<Candidate>), Halt> {
        if let Some(fault) = input.fault {
            return Err(fault.into());
        }
        // Whoever sent the request is believed or not, whomever it sent it for.
        trace_context::follow(x, &input.head.headers, &self.snapshot.group.telemetry);
        let named = self.named(x, &input.head.headers);
        if let Some(recorder) = &self.snapshot.recorder {
            x.record.tape = recorder.begin(x, &input.head);
        }
        x.grpc = grpc::is_call(&input.head);
        x.record.method = input.head.method.clone();
        x.record.body_in = Some(input.body.progress());
        let form = match named.and_then(|()| self.plan(x, &input, trace)) {
            Ok(form) => form,
            Err(error) => {
                x.record.path = input.head.uri.path().into();
                self.keep(x, input, error);
                return Err(error.into());
            }
        };
        x.record.path = form.target.path.clone();
        (x.candidate, x.looked) = (form.candidate, form.looked);
        if let Some(rules) = self.rules(form.candidate) {
            if let Some(stats) = &rules.stats {
                x.record.route = Rc::clone(stats);
            }
            if rules.web
                && let Some(web) = Web::of(&input.head)
            {
                (x.grpc, x.web) = (true, Some(Box::new(web)));
            }
            if let Some(cors) = rules.policy.cors.as_ref().filter(|_| rules.cors.is_some()) {
                x.passes(Stage::Normalise, "cors", cors.by);
                x.origin = input.head.headers.get(header::ORIGIN).cloned();
            }
        }
        let upgrade = upgrade(&input);
        let Received { head, mut body, .. } = input;
        if let Some(most) = self.rules(form.candidate).and_then(|rules| rules.most) {
            body.bound(most);
        }
        let mut headers = head.headers;
        scrub::scrub(&mut headers)?;
        let (method, target) = (head.method, form.target);
        let request = Box::new(Request { method, target, headers, body, upgrade });
        if let Some(wanted) = self.rules(form.candidate).and_then(|rules| rules.wanted.as_ref()) {
            let seen = (&request.target, &request.headers);
            x.early = Some(wanted.keep(seen, &self.snapshot.group.api_keys));
        }
        let preflight = (form.preflight == Preflight::Yes).then_some(form.candidate);
        Ok((Normalised { request, policy: form.policy }, preflight))
    }

    /// The client is who trusted proxies say that it is.
    fn named(&self, x: &mut Exchange, headers: &HeaderMap) -> Result<(), NormaliseError> {
        if let Some(trust) = &self.snapshot.group.trust_forwarded_for {
            let client = forwarded::client(trust, x.peer.address(), headers);
            if let Some(client) = client.map_err(|_| NormaliseError::Forwarded)? {
                x.peer = Rc::new(x.peer.named(client));
            }
        }
        Ok(())
    }

    /// Keeps what the answer asks for of a request that no route means, if it is one.
    fn keep(&self, x: &mut Exchange, mut input: Received, why: NormaliseError) {
        if let (Some(wanted), NormaliseError::NoRoute) = (&self.lost, why)
            && let Ok(target) = self.target(x, &input)
            && scrub::scrub(&mut input.head.headers).is_ok()
        {
            let seen = (&target, &input.head.headers);
            x.early = Some(wanted.keep(seen, &self.snapshot.group.api_keys));
        }
    }

    /// What the address's limits would charge.
    pub(crate) fn charges(
        &self,
        x: &Exchange,
        policy: &RoutePolicy,
        trace: &mut impl Trace,
    ) -> Vec<LimitId> {
        let charged = address::plan(&self.limiter, x, policy, trace);
        charged.into_iter().map(|(id, _)| id).collect()
    }

    /// The answer to a preflight.
    pub(crate) fn preflight(&self, candidate: Candidate) -> Halt {
        let cors = self.rules(candidate).and_then(|rules| rules.cors.as_ref());
        let headers = cors.map(CorsRules::preflight).into_iter().flatten();
        headers
            .fold(Reply::new(Kind::Preflight), |reply, (name, value)| reply.header(name, value))
            .into()
    }
}

/// The protocol change that is asked for: WebSocket alone, others are not passed on (RFC 9110 §7.8
/// lets a server ignore them).
fn upgrade(input: &Received) -> Option<HeaderValue> {
    let names = |headers: &HeaderMap, wanted: &str| {
        let values = headers.get_all(header::CONNECTION).iter();
        let mut names = values.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        names.any(|name| name.trim().eq_ignore_ascii_case(wanted))
    };
    let head = &input.head;
    let value = head.headers.get(header::UPGRADE)?;
    let websocket = value.as_bytes().eq_ignore_ascii_case(b"websocket");
    let asked = head.version == Version::HTTP_11 && names(&head.headers, "upgrade");
    (websocket && asked && head.method == Method::GET).then(|| value.clone())
}
