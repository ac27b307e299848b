//! One HTTP request with its response: the facts that all stages may read ([`Exchange`]) and the
//! payload each stage hands to the next (`Received` … `Answered`). Not for deciding anything: that
//! is the stages' work. Called by `connection` (makes one per request) and by every stage.
//!
//! Invariant: a payload type exists only if every stage before it has run: `Identity` is made in
//! `stages/authn` alone, `Grant` in `stages/authz` alone, and an upstream call demands a `Grant`.

use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use common::tls::principal::Principal;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use tokio::time::Instant;
use topology::answers::{Attached, Compress};
use topology::gateway::{RoutePolicy, RouteTo};

use crate::access_log::{Record, Sink};
use crate::body::{AnswerBody, RequestBody};
use crate::coding::Coding;
use crate::external::Outside;
use crate::grpc_web::Web;
use crate::hints::Hints;
use crate::ids::{self, RequestId, TraceParent};
use crate::matcher::Looked;
use crate::order::Ledger;
pub use crate::stages::authn::{Identity, Voucher};
pub use crate::stages::authz::Grant;
use crate::stages::dispatch::gate::Pass;
use crate::stages::rate_limit::Hold;
use crate::telemetry::Notes;
use crate::trace_context::Continued;
use crate::transcode::answer::Calling;
use crate::transform::Passage;
use crate::transform::early::Early;

/// The positions of the pipeline, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are those of the modules in `stages`")]
pub enum Stage {
    Tls = 1,
    Normalise = 2,
    Authn = 3,
    Authz = 4,
    RateLimit = 5,
    Route = 6,
    RequestTransform = 7,
    Dispatch = 8,
    ResponseTransform = 9,
    Emit = 10,
}

impl Stage {
    /// All of them, first to last.
    pub const ALL: [Self; 10] = [
        Self::Tls,
        Self::Normalise,
        Self::Authn,
        Self::Authz,
        Self::RateLimit,
        Self::Route,
        Self::RequestTransform,
        Self::Dispatch,
        Self::ResponseTransform,
        Self::Emit,
    ];

    /// The name in records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Normalise => "normalise",
            Self::Authn => "authn",
            Self::Authz => "authz",
            Self::RateLimit => "rate_limit",
            Self::Route => "route",
            Self::RequestTransform => "request_transform",
            Self::Dispatch => "dispatch",
            Self::ResponseTransform => "response_transform",
            Self::Emit => "emit",
        }
    }
}

/// Who is at the other end of the downstream connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client, as the PROXY header says where one is trusted, else the socket's peer; in an exchange
    /// as `X-Forwarded-For` says where that is trusted.
    pub client: SocketAddr,
    /// How the connection is protected.
    pub transport: Transport,
    /// What the balancer in front calls the connection, escaped; its flow list has the same name.
    pub connection_id: Option<Box<str>>,
    /// What services are told of the client: the same with every request.
    forwarded: OnceCell<HeaderValue>,
}

/// How the downstream connection is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Plain HTTP.
    Plain,
    /// TLS.
    Tls {
        /// The server name that the client asked for.
        sni: Option<String>,
        /// Who the client is by its verified certificate.
        principal: Option<Principal>,
    },
}

impl Peer {
    /// At the end of a new connection.
    pub fn new(client: SocketAddr, transport: Transport, connection_id: Option<Box<str>>) -> Self {
        Self { client, transport, connection_id, forwarded: OnceCell::new() }
    }

    /// The same connection with another client behind it.
    pub fn named(&self, client: SocketAddr) -> Self {
        Self::new(client, self.transport.clone(), self.connection_id.clone())
    }

    /// The client's address as a header's value.
    pub fn forwarded(&self) -> &HeaderValue {
        self.forwarded.get_or_init(|| {
            let text = Bytes::from(self.address().to_string());
            HeaderValue::from_maybe_shared(text).expect("invariant: an address is visible ASCII")
        })
    }

    /// Who the client is by its verified certificate.
    pub fn principal(&self) -> Option<&Principal> {
        match &self.transport {
            Transport::Plain => None,
            Transport::Tls { principal, .. } => principal.as_ref(),
        }
    }

    /// The client's address.
    pub fn address(&self) -> IpAddr {
        self.client.ip().to_canonical()
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        match self.transport {
            Transport::Plain => "http",
            Transport::Tls { .. } => "https",
        }
    }
}

/// What stage 2 found for host, method and path; an index into the group's routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(pub usize);

/// The outcome of the pure lookup at the end of stage 2. Stage 6 turns it into a route or a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// This route.
    Route(RouteId),
    /// The path exists, for other methods; policy and CORS of the most specific such route hold.
    OtherMethod(RouteId),
    /// No route: the group's default policy holds.
    Unmatched,
}

impl Candidate {
    /// The route whose policy holds.
    pub fn route(self) -> Option<RouteId> {
        match self {
            Self::Route(id) | Self::OtherMethod(id) => Some(id),
            Self::Unmatched => None,
        }
    }
}

/// Context of one request and its response: facts, never payloads. Dropping it writes its record.
#[derive(Debug)]
pub struct Exchange {
    /// Who asks.
    pub peer: Rc<Peer>,
    /// When the head was complete.
    pub began: Instant,
    /// The same moment as wall-clock time, for tokens and the access record.
    pub wall: SystemTime,
    /// Given to the service, the client and the log.
    pub request_id: RequestId,
    /// Its trace, and its span in it.
    pub trace: TraceParent,
    /// Both as they are told.
    told: OnceCell<(HeaderValue, HeaderValue)>,
    /// The span before it, where the trace began elsewhere.
    pub continued: Option<Box<Continued>>,
    /// What its spans will say; `None`: they are not collected.
    pub notes: Option<Rc<Notes>>,
    /// What stage 2 found.
    pub candidate: Candidate,
    /// The headers that were looked at to find it, for `Vary`.
    pub looked: Looked,
    /// `Origin` of a cross-origin request, for the CORS response side.
    pub origin: Option<HeaderValue>,
    /// Where interim answers go, if the client can be told any.
    pub hints: Option<Hints>,
    /// The request is a gRPC call: answers of ours are told in its way.
    pub grpc: bool,
    /// It is a browser's, over gRPC-Web.
    pub web: Option<Box<Web>>,
    /// Who was asked about its request, and is to be asked about its answer.
    pub outside: Vec<(&'static str, Rc<Outside>)>,
    /// What stage 5 tells the client on every answer (`RateLimit`, `RateLimit-Policy`), refused or
    /// not.
    pub limit_headers: Vec<(HeaderName, HeaderValue)>,
    /// What the file changes of it; `None`: nothing, or nobody has looked yet.
    pub passage: Option<Passage>,
    /// What is kept of its request for an answer that comes before that; `None`: nobody asks for any of it.
    pub early: Option<Box<Early>>,
    /// The gRPC call that it became.
    pub calling: Option<Box<Calling>>,
    /// How its answer is compressed; `None`: it is not, or nobody has looked yet.
    pub compress: Option<(Attached, Rc<Compress>)>,
    /// The compressed form that its answer may have.
    pub coding: Option<Coding>,
    /// What its client has already (`If-None-Match`), where an answer of no change may need it.
    pub known: Option<HeaderValue>,
    /// Cookies that stage 6 hands the client.
    pub cookies: Vec<HeaderValue>,
    /// Which stages ran, for how long, and which one halted.
    pub progress: Progress,
    /// Places that it takes among those that are under way.
    pub passes: Vec<Pass>,
    /// Places that it takes among those of one caller.
    pub holds: Vec<Hold>,
    /// Which filters it passes, where somebody wants to know.
    pub ledger: Option<Rc<Ledger>>,
    /// What the access log will say.
    pub record: Record,
}

impl Exchange {
    /// It passes a filter.
    #[inline]
    pub fn passes(&self, stage: Stage, filter: &'static str, of: impl std::fmt::Display) {
        if let Some(ledger) = &self.ledger {
            ledger.note(stage, filter, of.to_string());
        }
    }
}

/// Which stages ran and for how long.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    ran: u16,
    spent: [Duration; 11],
    halted: Option<Stage>,
    /// The stage that is under way, and since when.
    current: Option<(Stage, Instant)>,
    /// Time spent waiting for services (connect, head), part of `dispatch`.
    pub upstream: Duration,
}

impl Progress {
    /// Notes that a stage's request side was entered.
    pub fn enter(&mut self, stage: Stage) {
        self.ran |= 1 << stage as u16;
    }

    /// Notes that a stage's request side begins, where that of the one before it ends.
    pub fn begin(&mut self, stage: Stage, now: Instant) {
        self.finish(now);
        self.enter(stage);
        self.current = Some((stage, now));
    }

    /// Notes that the stage under way has ended, or was abandoned with its exchange.
    pub fn finish(&mut self, now: Instant) {
        if let Some((stage, since)) = self.current.take() {
            self.spend(stage, now.saturating_duration_since(since));
        }
    }

    /// Notes time spent in a stage.
    pub fn spend(&mut self, stage: Stage, time: Duration) {
        self.spent[stage as usize] += time;
    }

    /// Notes where a halt came from; the first one stands.
    pub fn halt(&mut self, stage: Stage) {
        self.halted.get_or_insert(stage);
    }

    /// Whether the stage's request side was entered.
    pub fn ran(&self, stage: Stage) -> bool {
        self.ran & (1 << stage as u16) != 0
    }

    /// The time that this gateway added so far: all stages but the handshake, which is a
    /// connection's, without waiting for services.
    pub fn added(&self) -> Duration {
        let stages = self.spent.iter().skip(Stage::Normalise as usize);
        stages.sum::<Duration>().saturating_sub(self.upstream)
    }

    /// Time spent in a stage.
    pub fn spent(&self, stage: Stage) -> Duration {
        self.spent[stage as usize]
    }

    /// The stage that halted, if any.
    pub fn halted(&self) -> Option<Stage> {
        self.halted
    }
}

impl Drop for Exchange {
    /// The one place where records are written: after the answer's last byte, or when a client has
    /// gone.
    fn drop(&mut self) {
        let now = Instant::now();
        self.progress.finish(now);
        Sink::write(self, now);
    }
}

/// What a client asked, in normal form: hop-by-hop headers and everything that only we may say are
/// gone.
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Host and path in the one form used for matching, policy and forwarding.
    pub target: Target,
    /// End-to-end headers without `Host`, framing and identity headers.
    pub headers: HeaderMap,
    /// The body, streamed.
    pub body: RequestBody,
    /// A protocol change that the client asks for (RFC 9110 §7.8).
    pub upgrade: Option<HeaderValue>,
}

/// The canonical request target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Lower case, without port and trailing dot.
    pub host: Box<str>,
    /// As it goes to the service: host with the port the client named.
    pub authority: HeaderValue,
    /// Begins with `/`; no dot segments, no empty segments, percent escapes in one form.
    pub path: Box<str>,
    /// Without the `?`.
    pub query: Option<Box<str>>,
}

impl Target {
    /// `/path?query` (RFC 9112 §3.2.1).
    pub fn origin_form(&self) -> Option<Uri> {
        let text = match &self.query {
            None => Bytes::copy_from_slice(self.path.as_bytes()),
            Some(query) => Bytes::from(format!("{}?{query}", self.path)),
        };
        Uri::from_maybe_shared(text).ok()
    }
}

/// Stage 1 → 2: a request as the engine parsed it, or the engine's refusal.
#[derive(Debug)]
pub struct Received {
    /// Line and headers.
    pub head: Box<http::request::Parts>,
    /// The body, streamed.
    pub body: RequestBody,
    /// What the engine found wrong with the framing; then head and body are empty stand-ins.
    pub fault: Option<crate::codec::Fault>,
}

/// Stage 2 → 3.
#[derive(Debug)]
pub struct Normalised {
    /// The request; boxed, for every stage hands it on.
    pub request: Box<Request>,
    /// What its route, or the group's default, asks of it.
    pub policy: Rc<RoutePolicy>,
}

/// Who the caller is, after authentication.
#[derive(Clone, Debug)]
pub enum Caller {
    /// The policy asks nobody.
    Anonymous,
    /// A verified identity.
    Known(Rc<Identity>),
}

impl Caller {
    /// The identity, if there is one.
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Anonymous => None,
            Self::Known(identity) => Some(identity),
        }
    }
}

/// Stage 3 → 4.
#[derive(Debug)]
pub struct Identified {
    /// The request; boxed, for every stage hands it on.
    pub request: Box<Request>,
    /// Its policy.
    pub policy: Rc<RoutePolicy>,
    /// Its caller.
    pub caller: Caller,
}

/// Stage 4 → 5.
#[derive(Debug)]
pub struct Granted {
    /// The request; boxed, for every stage hands it on.
    pub request: Box<Request>,
    /// Its policy.
    pub policy: Rc<RoutePolicy>,
    /// Proof that the caller may ask this.
    pub grant: Grant,
}

/// Stage 5 → 6.
#[derive(Debug)]
pub struct Admitted {
    /// The request; boxed, for every stage hands it on.
    pub request: Box<Request>,
    /// Proof that the caller may ask this.
    pub grant: Grant,
}

/// Stage 6 → 7.
#[derive(Debug)]
pub struct Routed {
    /// The request; boxed, for every stage hands it on.
    pub request: Box<Request>,
    /// Proof that the caller may ask this.
    pub grant: Grant,
    /// The route.
    pub route: RouteId,
    /// Where it goes.
    pub to: RouteTo,
}

/// Stage 7 → 8: what the service will be sent.
#[derive(Debug)]
pub struct Prepared {
    /// Line and headers for HTTP/1.1 (the target in origin form).
    pub head: http::request::Parts,
    /// The body, streamed.
    pub body: RequestBody,
    /// A protocol change asked for.
    pub upgrade: Option<HeaderValue>,
    /// Proof that the caller may ask this.
    pub grant: Grant,
    /// The route.
    pub route: RouteId,
    /// Where it goes.
    pub to: RouteTo,
}

/// Line and headers of an answer, a service's or ours.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// End-to-end headers.
    pub headers: HeaderMap,
}

/// Stage 8 → 9: an answer, a service's or ours.
#[derive(Debug)]
pub struct Answered {
    /// Line and headers.
    pub head: ResponseHead,
    /// The body.
    pub body: AnswerBody,
    /// Who made it.
    pub by: AnsweredBy,
}

/// Who made an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnsweredBy {
    /// A service.
    Service,
    /// Several services, whose answers became one.
    Services,
    /// This gateway: a halt.
    Gateway,
    /// Nobody: the connection ends without one.
    Nobody,
}

/// Stage 9 → 10.
#[derive(Debug)]
pub struct Transformed(pub Answered);

impl Exchange {
    /// A stage's request side begins. Where no record is written nobody asks how long each took, and
    /// their time is the first one's.
    pub fn begin(&mut self, stage: Stage) {
        if self.progress.current.is_none() {
            self.progress.begin(stage, self.began);
        } else if self.record.is_written() {
            self.progress.begin(stage, Instant::now());
        } else {
            self.progress.enter(stage);
        }
    }

    /// Its id and its trace as headers' values; the trace does not change any more.
    pub fn told(&self) -> &(HeaderValue, HeaderValue) {
        self.told.get_or_init(|| ids::headers(self.request_id, self.trace))
    }

    /// A fresh exchange; `began` and `wall` are the same moment.
    pub fn new(
        peer: Rc<Peer>,
        began: Instant,
        wall: SystemTime,
        ids: (RequestId, TraceParent),
        record: Record,
    ) -> Self {
        Self {
            peer,
            began,
            wall,
            request_id: ids.0,
            trace: ids.1,
            told: OnceCell::new(),
            continued: None,
            notes: None,
            candidate: Candidate::Unmatched,
            origin: None,
            hints: None,
            grpc: false,
            web: None,
            outside: Vec::new(),
            limit_headers: Vec::new(),
            passage: None,
            early: None,
            looked: Looked::default(),
            calling: None,
            compress: None,
            coding: None,
            known: None,
            cookies: Vec::new(),
            progress: Progress::default(),
            passes: Vec::new(),
            holds: Vec::new(),
            ledger: None,
            record,
        }
    }
}
