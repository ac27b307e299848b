//! The `gateways:` section resolved, one struct per stage of the pipeline: what one `l7-gateway`
//! instance is told. Not for how it is done: that is the crate `l7-gateway`.
//!
//! Invariant: every index in it (`UpstreamId`, `IssuerId`, `LimitId`) is in range.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::answers::{
    Aggregate, Attached, Compress, Deprecation, Given, Maintenance, SecurityHeaders, Word,
};
pub use crate::cache::{CachePolicy, CacheStore};
use crate::contract::Contract;
use crate::external::External;
pub use crate::files::{Files, FilesId, Links, RouteTo};
pub use crate::identity::{
    Access, Allow, ApiKeys, ApiKeysId, Auth, Authorize, Certified, Denylist, DeviceCookie,
    Introspection, KeySource, Login, PostgresTls, SignedIdentity, Told, UnansweredIs, Ways,
};
use crate::register::Register;
pub use crate::split::{Experiment, ExperimentId, HandOut, Mirror, Part, Sticky};
pub use crate::telemetry::{Recording, Sample, Telemetry};
pub use crate::tls::{Certificate, Tls};
use crate::transcode::Transcode;
use crate::transform::Transform;
use crate::units::{
    At, Day, GroupName, HostPattern, InstanceName, IssuerName, LimitName, PathPattern, Place,
    Quota, Rate, RouteName, Scope, SecretRef,
};
pub use crate::upstream::{
    Concurrency, Ejection, HashBy, Retry, RetryOn, RouteTimes, Times, Upstream, UpstreamBalance,
    UpstreamId, UpstreamProtocol, UpstreamTls, Via,
};

/// Gateways that serve the same routes under the same policy.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name in the file.
    pub name: GroupName,
    /// The processes.
    pub instances: Vec<Instance>,
    /// Peers that put a PROXY header before the first byte; from them it is required, from all
    /// others refused.
    pub trust_proxy_protocol_from: Vec<IpNet>,
    /// Proxies whose `X-Forwarded-For` is believed; `None`: nobody's.
    pub trust_forwarded_for: Option<TrustForwarded>,
    /// Stage 7: services are told `Forwarded`, too.
    pub forwarded: bool,
    /// Stage 1; `None`: plain HTTP.
    pub tls: Option<Tls>,
    /// Stage 2.
    pub front: Front,
    /// Stage 3: who may issue tokens.
    pub issuers: Vec<Issuer>,
    /// Stage 3: where API keys are written down.
    pub api_keys: Vec<ApiKeys>,
    /// Stage 3: tokens and keys that ended before their time; `None`: none do.
    pub denylist: Option<Denylist>,
    /// Stage 7: what services are told of a caller beside `X-User-Id`.
    pub identity_headers: Vec<Told>,
    /// Stage 7: a proof towards services that a gateway spoke.
    pub signed_identity: Option<SignedIdentity>,
    /// Stage 5: the limits that policies name.
    pub limits: Vec<Limit>,
    /// The claim of a token that names the caller's device, for limits by it.
    pub device_claim: Option<String>,
    /// The cookie that names a device where no claim does.
    pub device_cookie: Option<DeviceCookie>,
    /// Stage 5: where counters of shared limits live; `None`: in each process.
    pub limit_store: Option<LimitStore>,
    /// Policy of a request that no route matches; `None`: such a request is 404 at once.
    pub unmatched: Option<RoutePolicy>,
    /// Stage 6.
    pub routes: Vec<Route>,
    /// Stages 7 and 9: what is changed whatever the route.
    pub transform: Option<Transform>,
    /// Stage 9: headers of services that clients do not see, in lower case.
    pub internal_headers: Vec<String>,
    /// Stage 9: what browsers are told in answers of no route.
    pub security_headers: Option<SecurityHeaders>,
    /// Stages 7 and 9: who sees all requests that are to go on.
    pub external: Option<External>,
    /// Stage 9: which answers are compressed, where no other place says anything.
    pub compress: Word<Compress>,
    /// Stages 7 and 9: what holds for consumers.
    pub consumers: Vec<Consumer>,
    /// Stage 6: the experiments that routes name.
    pub experiments: Vec<Experiment>,
    /// Stage 8: where routes lead.
    pub upstreams: Vec<Upstream>,
    /// Stage 8: directories that routes lead to.
    pub files: Vec<Files>,
    /// Stage 6: answers of the file that routes lead to.
    pub given: Vec<Given>,
    /// Stage 8: aggregates that routes lead to.
    pub aggregates: Vec<Aggregate>,
    /// Stage 8: what is kept of answers; `None`: no route asks for it.
    pub cache: Option<CacheStore>,
    /// Stage 10.
    pub access_log: AccessLog,
    /// Requests that are recorded; `None`: none.
    pub record: Option<Recording>,
    /// Stages 2 and 10: traces.
    pub telemetry: Telemetry,
    /// Where the instances are entered; `None`: nowhere.
    pub register: Option<Register>,
    /// How long a drain may take before what is left is ended (default 30 s).
    pub drain: Duration,
    /// Where its key stands.
    pub place: Place,
}

impl Group {
    /// Every description that requests are held against, with the place of who names it, each once.
    pub fn contracts(&self) -> impl Iterator<Item = (Place, &Contract)> {
        let routes =
            self.routes.iter().filter_map(|route| Some((route.place, route.contract.as_ref()?)));
        let consumers = self.consumers.iter().filter_map(|one| one.contract.as_ref());
        let services = self.upstreams.iter().filter_map(|one| one.contract.as_ref());
        let others = consumers.chain(services).map(|model| (model.place, model));
        let mut known = HashSet::new();
        routes.chain(others).filter(move |(_, model)| known.insert(model.place))
    }
}

/// Proxies in front that tell the client's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustForwarded {
    /// Networks of the last one.
    pub from: Vec<IpNet>,
    /// How many a request passes (default 1): the client is that entry from the right.
    pub hops: NonZeroU32,
    /// Where they say it (default `X-Forwarded-For`).
    pub header: ForwardedIn,
}

/// The header in which proxies say for whom a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedIn {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// One `l7-gateway` process.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Unique in the file; `gateway_instance` of the access record.
    pub name: InstanceName,
    /// Where it listens.
    pub listen: At<SocketAddr>,
    /// Admin listener; `None`: none.
    pub admin: Option<At<SocketAddr>>,
    /// What registries are told instead of where it listens.
    pub advertise: Option<SocketAddr>,
    /// Where its key stands.
    pub place: Place,
}

/// Stage 2: what a client may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// Most connections of all workers together (default 20 000 or what descriptors allow).
    pub max_connections: NonZeroU32,
    /// Most requests to services of all workers under way at a time; `None`: no bound.
    pub concurrency: Option<Concurrency>,
    /// Most header fields (default 100).
    pub max_headers: NonZeroUsize,
    /// Most bytes of line and headers together (default 64 KiB).
    pub max_head_bytes: NonZeroUsize,
    /// Most bytes of the request target (default 8 KiB).
    pub max_uri_bytes: NonZeroUsize,
    /// Most bytes of a body (default 10 MiB).
    pub max_body_bytes: u64,
    /// TLS handshake, and PROXY header (default 5 s).
    pub handshake_timeout: Duration,
    /// From the first byte of a head to its end (default 10 s).
    pub header_timeout: Duration,
    /// Between two reads of a body (default 30 s).
    pub body_idle_timeout: Duration,
    /// A kept connection without a request (default 60 s).
    pub idle_timeout: Duration,
}

/// Stage 3: one token issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its name in the file.
    pub name: IssuerName,
    /// The exact `iss` claim.
    pub issuer: String,
    /// Accepted `aud` values; at least one.
    pub audiences: Vec<String>,
    /// Where its keys come from.
    pub keys: IssuerKeys,
    /// Accepted algorithms, never `none`; empty where the issuer is asked.
    pub algorithms: Vec<Algorithm>,
    /// Claim that names the user (default `sub`).
    pub user_claim: String,
    /// Claim that names the consumer, one of `consumers`; `None`: its tokens name none.
    pub consumer_claim: Option<String>,
    /// Claim that holds the scopes, a space-separated text or a list (default `scope`).
    pub scope_claim: String,
    /// Claim that holds the roles, likewise (default `roles`); dots lead to members.
    pub role_claim: String,
    /// Tolerance for `exp` and `nbf` (default 30 s).
    pub leeway: Duration,
    /// Where its key stands.
    pub place: Place,
}

/// Index into [`Group::issuers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IssuerId(pub usize);

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerKeys {
    /// `jwks: http(s)://…`: fetched, cached, refreshed in the background.
    Url(At<String>),
    /// `jwks: file:PATH`: a JSON key set.
    JwksFile(At<SecretRef>),
    /// `key: file:PATH`: one PEM public key (or the secret of HS256).
    Key(At<SecretRef>),
    /// `introspection`: none; the issuer is asked about each token (RFC 7662).
    Asked(Introspection),
}

/// A signature algorithm (RFC 7518 §3.1, RFC 8037). `none` cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the registered ones")]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
    HS256,
}

/// What a route asks of a request, whatever the request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePolicy {
    /// Who may call.
    pub auth: Auth,
    /// All of these scopes are required.
    pub scopes: Vec<Scope>,
    /// One of these rules must allow it; empty: see `access`.
    pub allow: Vec<Allow>,
    /// What holds without scopes and rules.
    pub access: Access,
    /// Who else is asked.
    pub authorize: Option<Authorize>,
    /// All of these limits are charged.
    pub limits: Vec<LimitId>,
    /// Cross-origin rules; `None`: no CORS header is added and preflight is an ordinary request.
    pub cors: Option<Cors>,
}

/// What holds for a consumer, by its API keys or its tokens, wherever it calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Its name.
    pub name: String,
    /// What tokens of whom call it.
    pub claimed: Vec<(IssuerId, String)>,
    /// What is changed of its requests and answers.
    pub transform: Option<Transform>,
    /// Who sees its requests that are to go on.
    pub external: Option<External>,
    /// Whether its answers are compressed.
    pub compress: Word<Compress>,
    /// What its requests must be like; `None`: anything.
    pub contract: Option<Contract>,
}

/// Cross-origin rules (Fetch standard, "HTTP-CORS protocol").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Origins, exact or below a name (`https://*.shop.example`); a single `*` means any.
    pub origins: Vec<String>,
    /// Methods named in a preflight answer.
    pub methods: Vec<String>,
    /// Request headers named in a preflight answer.
    pub headers: Vec<String>,
    /// Headers of answers that scripts may read.
    pub exposed: Vec<String>,
    /// Whether cookies may come along; not together with `*`.
    pub credentials: Credentials,
    /// How long a browser may keep the preflight answer (default 10 min).
    pub max_age: Duration,
    /// Whose they are: a route may have its service's or the listener's.
    pub by: Attached,
}

/// Whether a browser may send credentials across origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// `Access-Control-Allow-Credentials: true`.
    Allowed,
    /// The header is absent.
    Refused,
}

/// Stage 5: one budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its name in the file, part of every counter's key.
    pub name: LimitName,
    /// Whose budget: each combination of these has its own. Never empty, each once, in the order of
    /// [`LimitBy`].
    pub by: Vec<LimitBy>,
    /// Charged to callers with one of these plans alone; empty: to everybody.
    pub plans: Vec<String>,
    /// How much.
    pub allows: Allowance,
    /// Where its key stands.
    pub place: Place,
}

/// What a limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// So many requests in a time.
    Rate {
        /// How many in how long.
        rate: Rate,
        /// Most at once: a token bucket's size (default the rate's count), or a leaky bucket's line
        /// (as many as drain in a second).
        burst: NonZeroU32,
        /// How it is counted.
        algorithm: LimitAlgorithm,
    },
    /// So many requests in each day or month of the calendar.
    Quota(Quota),
    /// So many requests under way at a time, on each instance.
    Concurrent(NonZeroU32),
}

impl Limit {
    /// Whether it is charged before authentication: by the client's address, perhaps for each route,
    /// and by nothing that only a token tells.
    pub fn is_early(&self) -> bool {
        let early = |by: &LimitBy| matches!(by, LimitBy::Address | LimitBy::Route);
        let anybody = self.plans.is_empty();
        anybody && self.by.contains(&LimitBy::Address) && self.by.iter().all(early)
    }
}

/// Index into [`Group::limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LimitId(pub usize);

/// Whose budget a limit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitBy {
    /// The client's address (IPv6: its /64). Charged before authentication.
    Address,
    /// The verified user, or whoever else the caller is; anonymous requests are not charged.
    User,
    /// The consumer whose API key was shown, or whom a token names; others are not charged.
    Consumer,
    /// The device that the caller's token names in [`Group::device_claim`], or its
    /// [`Group::device_cookie`]; others are not charged.
    Device,
    /// All callers of one route together.
    Route,
    /// Everybody together.
    All,
}

/// How a budget is counted (spec G10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitAlgorithm {
    /// Refills evenly, spends up to `burst` at once (default).
    TokenBucket,
    /// Lets requests go on at even distances; a few wait for their turn, more are refused.
    LeakyBucket,
    /// The count anew at each whole multiple of the rate's time since 1970 (UTC).
    FixedWindow,
    /// Never more than the count in any window of the rate's length.
    SlidingWindow,
}

/// Where shared counters live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitStore {
    /// `redis(s)://HOST:PORT[/DB]`; several are nodes of a cluster. Never empty.
    pub redis: Vec<At<String>>,
    /// Who we are to it.
    pub login: Login,
    /// What happens while it is away.
    pub when_away: WhenAway,
    /// How long a decision may wait for it (default 20 ms, at most 1 s).
    pub timeout: Duration,
}

/// Policy while the limit store is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAway {
    /// Requests pass uncounted.
    FailOpen,
    /// Requests are refused with 503.
    FailClosed,
    /// Each instance counts alone, with the budget divided by the number of instances of the
    /// group (default).
    LocalShare,
}

/// Stage 6: which requests go where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Unique in its group; label of metrics.
    pub name: RouteName,
    /// Any of these hosts; empty: every host.
    pub hosts: Vec<HostPattern>,
    /// The path.
    pub path: PathPattern,
    /// These methods, upper case; empty: all.
    pub methods: Vec<String>,
    /// What else a request must have to be meant; all of it.
    pub when: Vec<Predicate>,
    /// What it asks, the group's defaults applied.
    pub policy: RoutePolicy,
    /// Where it leads.
    pub to: RouteTo,
    /// Whether answers are kept; `None`: they are not.
    pub cache: Option<CachePolicy>,
    /// Parts of its requests that lead elsewhere; at most 100 % together.
    pub split: Vec<Part>,
    /// Who stays on one side of the split.
    pub sticky: Sticky,
    /// Experiments that its requests take part in.
    pub experiments: Vec<ExperimentId>,
    /// Where copies of its safe requests go.
    pub mirror: Option<Mirror>,
    /// From the day after, it answers 410 (spec G14).
    pub sunset: Option<Day>,
    /// What its clients are told before that.
    pub deprecation: Deprecation,
    /// It is closed for a while.
    pub maintenance: Option<Maintenance>,
    /// Stage 9: what it says itself of compressed answers.
    pub compress: Word<Compress>,
    /// Stage 9: what browsers are told where the answer says nothing.
    pub security_headers: Option<SecurityHeaders>,
    /// Most bytes of a body; `None`: as the front has it.
    pub max_body_bytes: Option<u64>,
    /// How long all attempts together may take until the answer's head, while the client is not
    /// sending (default 15 s).
    pub timeout: Duration,
    /// How long each thing may take, where it is not as the service has it.
    pub times: RouteTimes,
    /// Headers set on every answer of it, our own included.
    pub response_headers: Vec<(String, String)>,
    /// Stages 7 and 9: what is changed of its requests and answers; `None`: nothing.
    pub transform: Option<Transform>,
    /// Stages 7 and 9: who sees its requests.
    pub external: Option<External>,
    /// Stage 7: what its requests must be like, the group's default applied; `None`: anything.
    pub contract: Option<Contract>,
    /// Stages 7 and 9: its requests become gRPC calls; `None`: they stay what they are.
    pub transcode: Option<Transcode>,
    /// Stages 7 and 9: browsers may call its service over gRPC-Web (default false).
    pub grpc_web: bool,
    /// Where it is written.
    pub place: Place,
}

/// What a request must have beside host, path and method to be meant by a route (spec G11).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Predicate {
    /// A header of this name, lower case.
    Header(String, Expected),
    /// A query parameter; of several with its name the first.
    Query(String, Expected),
    /// A cookie; of several with its name the first.
    Cookie(String, Expected),
    /// A version that `Accept` asks for; any of these. `None`: it asks for none.
    AcceptVersion(Vec<Option<String>>),
    /// What `User-Agent` says.
    Client(Client),
}

/// The value of a predicate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expected {
    /// Whatever it is.
    Any,
    /// This one, byte by byte.
    Exactly(String),
}

/// What kind of program a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// Its `User-Agent` has `Mobi`, as browsers of phones do.
    Mobile,
    /// Any other.
    Desktop,
}

/// Stage 10: where access records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Standard output (default).
    Stdout,
    /// Appended to a file.
    File(At<PathBuf>),
    /// Nowhere.
    Off,
}

/// Values of which a reload keeps what it knows when the file says the same of them elsewhere.
pub trait Unplaced {
    /// The value without the places where it is written.
    fn unplaced(&self) -> Self;
}

impl Unplaced for Issuer {
    fn unplaced(&self) -> Self {
        let keys = match &self.keys {
            IssuerKeys::Url(at) => IssuerKeys::Url(at.unplaced()),
            IssuerKeys::JwksFile(at) => IssuerKeys::JwksFile(at.unplaced()),
            IssuerKeys::Key(at) => IssuerKeys::Key(at.unplaced()),
            IssuerKeys::Asked(asked) => IssuerKeys::Asked(Introspection {
                url: asked.url.unplaced(),
                secret: asked.secret.unplaced(),
                ..asked.clone()
            }),
        };
        Self { keys, place: Place::default(), ..self.clone() }
    }
}

impl Unplaced for Contract {
    fn unplaced(&self) -> Self {
        Self { place: Place::default(), ..self.clone() }
    }
}

impl<T: Clone> Unplaced for At<T> {
    fn unplaced(&self) -> Self {
        Self { place: Place::default(), ..self.clone() }
    }
}

impl Unplaced for Limit {
    fn unplaced(&self) -> Self {
        Self { place: Place::default(), ..self.clone() }
    }
}

impl Unplaced for LimitStore {
    fn unplaced(&self) -> Self {
        let redis = self.redis.iter().map(Unplaced::unplaced).collect();
        Self { redis, login: self.login.unplaced(), ..self.clone() }
    }
}

impl Unplaced for Route {
    fn unplaced(&self) -> Self {
        let authorize = self.policy.authorize.as_ref();
        let authorize =
            authorize.map(|asked| Authorize { url: asked.url.unplaced(), ..asked.clone() });
        let place = Place::default();
        let contract = self.contract.as_ref().map(Unplaced::unplaced);
        let transcode = self.transcode.clone().map(|model| Transcode { place, ..model });
        Self {
            policy: RoutePolicy { authorize, ..self.policy.clone() },
            external: self.external.as_ref().map(Unplaced::unplaced),
            contract,
            transcode,
            place,
            ..self.clone()
        }
    }
}
