//! A service as a gateway sees it, resolved: where it is, how an endpoint is chosen, how long it may
//! take. Not for what an endpoint's state is: that is `common::service`. Read by stage 8.
//!
//! Invariant: none beyond the model's.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::answers::{Compress, Word};
use crate::contract::Contract;
use crate::external::External;
use crate::gateway::{Certificate, Cors, Unplaced};
use crate::model::{Discover, Endpoint, HealthCheck};
use crate::transform::Transform;
use crate::units::{At, Percent, Place, SecretRef, ServiceName};

/// Index into [`Group::upstreams`](crate::gateway::Group::upstreams).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamId(pub usize);

/// Stage 8: a service as the gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The service behind it, also where a balancer stands in between: the access record's
    /// `service`.
    pub service: ServiceName,
    /// Addresses to connect to: the service's own, or the internal balancer's listeners.
    pub endpoints: Vec<Endpoint>,
    /// Where they are learned from; `None`: they are those above.
    pub discover: Option<At<Discover>>,
    /// Who picks the server.
    pub via: Via,
    /// How an address is chosen for a request (default round robin).
    pub balance: UpstreamBalance,
    /// With a smaller part of its endpoints selectable than this, all are used.
    pub panic_threshold: Percent,
    /// How long an endpoint that is new or has come back takes to reach its whole share.
    pub slow_start: Option<Duration>,
    /// Active checks; only where the gateway picks the server.
    pub health: Option<HealthCheck>,
    /// How long things may take, where a route does not say otherwise.
    pub times: Times,
    /// What it speaks (default HTTP/1.1).
    pub protocol: UpstreamProtocol,
    /// An HTTP/2 connection carries so many requests at a time at most (default behind a balancer 1,
    /// else 100).
    pub max_streams_per_connection: NonZeroU32,
    /// A connection carries so many requests at most (default behind a balancer 1000, else no
    /// bound).
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// A connection lives so long at most (default behind a balancer 60 s, else no bound).
    pub max_connection_age: Option<Duration>,
    /// When a request is sent again.
    pub retry: Retry,
    /// When failures take an endpoint out for a while.
    pub eject: Ejection,
    /// Most requests of all workers under way at a time; `None`: no bound.
    pub concurrency: Option<Concurrency>,
    /// Most requests of all workers in flight at one endpoint; `None`: no bound.
    pub max_requests_per_endpoint: Option<NonZeroU32>,
    /// TLS towards it; `None`: plain.
    pub tls: Option<UpstreamTls>,
    /// What is changed of requests to it and of its answers; `None`: nothing.
    pub transform: Option<Transform>,
    /// Stages 7 and 9: who sees requests to it.
    pub external: Option<External>,
    /// Stage 9: whether its answers are compressed.
    pub compress: Word<Compress>,
    /// Stage 7: what requests to it must be like; `None`: anything.
    pub contract: Option<Contract>,
    /// Stage 2: cross-origin rules of routes that lead to it; they are in their policies.
    pub cors: Word<Cors>,
}

/// How long a service may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// To take a connection (default 1 s).
    pub connect: Duration,
    /// From the last byte of the request to the answer's head, in each attempt; `None`: no bound.
    pub first_byte: Option<Duration>,
    /// For each attempt until the answer's head, while the client is not sending; `None`: no bound.
    pub attempt: Option<Duration>,
    /// Between two pieces of the answer's body (default 5 min).
    pub idle: Duration,
    /// For the whole exchange, its bodies included; `None`: no bound.
    pub total: Option<Duration>,
}

/// What a route says of [`Times`]; `None`: as its service has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of `Times`")]
pub struct RouteTimes {
    pub connect: Option<Duration>,
    pub first_byte: Option<Duration>,
    pub attempt: Option<Duration>,
    pub idle: Option<Duration>,
    pub total: Option<Duration>,
}

impl RouteTimes {
    /// What holds for the route's requests to this service.
    pub fn over(&self, service: &Times) -> Times {
        Times {
            connect: self.connect.unwrap_or(service.connect),
            first_byte: self.first_byte.or(service.first_byte),
            attempt: self.attempt.or(service.attempt),
            idle: self.idle.unwrap_or(service.idle),
            total: self.total.or(service.total),
        }
    }
}

/// How an endpoint is chosen for a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamBalance {
    /// In turn, by weight.
    RoundRobin,
    /// Fewest requests in flight for its weight.
    LeastConnections,
    /// Of two random ones the one whose answers cost less: time until the head, by requests in flight,
    /// by the part of answers that are errors.
    TwoChoices,
    /// The same endpoint for whoever is the same.
    Hash(HashBy),
}

/// What is hashed; where a request has none of it, the client's address is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashBy {
    /// The verified user.
    User,
    /// The client's address.
    Address,
    /// The value of this header, lower case.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
}

/// When failures take an endpoint out for a while: no connection, a connection that breaks, no head in
/// time, and answers of some statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// So many in a row (default 3).
    pub failures: u32,
    /// Answers that count as failures (default 502, 503, 504).
    pub statuses: Vec<u16>,
    /// The first ejection; each further one soon after is twice as long (default 1 s).
    pub first: Duration,
    /// The longest ejection (default 60 s).
    pub longest: Duration,
    /// Most endpoints that may be out for bad answers (default 50 %).
    pub most: Percent,
}

impl Upstream {
    /// Whether it may be sent calls in gRPC, which need HTTP/2.
    pub fn takes_calls(&self) -> bool {
        match self.protocol {
            UpstreamProtocol::Http1 => false,
            UpstreamProtocol::Http2 => true,
            UpstreamProtocol::Auto => self.tls.is_some(),
        }
    }
}

/// What a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: by ALPN over TLS, with prior knowledge in clear text (RFC 9113 §3.3).
    Http2,
    /// Over TLS what the service prefers, in clear text HTTP/1.1.
    Auto,
}

/// When a request is sent again: elsewhere, if there is another endpoint; and at most one for five that
/// are sent for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Most tries, the first included (default 3).
    pub attempts: u8,
    /// After what (default: no connection, a broken one, no head in the time of a try).
    pub on: Vec<RetryOn>,
    /// Methods beside the safe ones whose requests may be sent twice, upper case: `PUT`, `DELETE`; with
    /// bodies up to 16 KiB.
    pub methods: Vec<String>,
    /// A safe request without a body that has no head after so long is sent to another endpoint too, and
    /// the first good answer counts; `None`: never.
    pub hedge: Option<Duration>,
}

/// What a request is sent again after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryOn {
    /// No connection.
    Connect,
    /// The connection broke before the answer's head.
    Reset,
    /// No head in the time of a try.
    Timeout,
    /// An answer of this status.
    Status(u16),
}

/// How many requests are under way at a time; others wait in line, or are shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// So many.
    pub requests: NonZeroU32,
    /// Most that wait for their turn (default 0).
    pub queue: u32,
    /// How long they wait (default 100 ms).
    pub wait: Duration,
}

/// TLS towards a service. Its certificate is always verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The authorities that its certificate must come from; `None`: the system's.
    pub ca: Option<At<SecretRef>>,
    /// The name that is asked for and that the certificate must have; `None`: the endpoint's address.
    pub name: Option<At<String>>,
    /// Shown to it (mTLS); `None`: none.
    pub certificate: Option<Certificate>,
}

/// Who picks the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// An internal `l4-nlb` listener, once per connection.
    Balancer,
    /// The gateway, once per request.
    Endpoints,
}

impl Unplaced for UpstreamTls {
    fn unplaced(&self) -> Self {
        let bare = |pair: &Certificate| Certificate {
            chain: pair.chain.unplaced(),
            key: pair.key.unplaced(),
        };
        Self {
            ca: self.ca.as_ref().map(Unplaced::unplaced),
            name: self.name.as_ref().map(Unplaced::unplaced),
            certificate: self.certificate.as_ref().map(bare),
        }
    }
}

impl Unplaced for Upstream {
    fn unplaced(&self) -> Self {
        let nowhere =
            |endpoint: &Endpoint| Endpoint { place: Place::default(), ..endpoint.clone() };
        let endpoints = self.endpoints.iter().map(nowhere).collect();
        let discover = self.discover.as_ref().map(Unplaced::unplaced);
        let tls = self.tls.as_ref().map(Unplaced::unplaced);
        let external = self.external.as_ref().map(Unplaced::unplaced);
        let contract = self.contract.as_ref().map(Unplaced::unplaced);
        Self { endpoints, discover, tls, external, contract, ..self.clone() }
    }
}
