//! The `upstreams:` section of a gateway group as typed.
//!
//! Invariant: none beyond `raw`'s.

use std::num::NonZeroU32;

use crate::raw::schema::section;
use crate::raw::{
    Certificate, Choice, Compress, CorsChoice, External, Text, Transform, Typed, ValidateChoice,
};
use crate::units::{Percent, SecretRef, Time};
use crate::upstream::{RetryOn, UpstreamBalance, UpstreamProtocol};

section! {
    /// How a service that routes lead to is called.
    Upstream {
        /// How an address is chosen for a request: `round-robin`, `least-connections` (fewest requests
        /// in flight), `two-choices` (of two random ones the one whose answers cost less time and fail
        /// less), or the same one for each `hash:user`, `hash:address`, `hash:header:NAME` or
        /// `hash:cookie:NAME`. Default: `round-robin`.
        may "balance" balance: Typed<UpstreamBalance>,
        /// How long a connection may take. Default: 1s.
        may "connect-timeout" connect_timeout: Typed<Time>,
        /// In each attempt, from the last byte of the request to the answer's head. Default: no bound
        /// but the route's `timeout`.
        may "first-byte-timeout" first_byte_timeout: Typed<Time>,
        /// How long an attempt may take until the answer's head, while the client is not sending; then
        /// a safe request is tried elsewhere. Default: no bound but the route's `timeout`.
        may "try-timeout" try_timeout: Typed<Time>,
        /// Between two pieces of an answer's body; then the answer is broken off. Streams that are
        /// quiet for longer need more. Default: 5m.
        may "answer-idle-timeout" answer_idle_timeout: Typed<Time>,
        /// How long an exchange may take with its bodies; then it is broken off. A connection that has
        /// changed its protocol is not counted. Default: no bound.
        may "total-timeout" total_timeout: Typed<Time>,
        /// What it speaks: `http1`, `http2` (in clear text with prior knowledge), or `auto`: over TLS
        /// what it prefers (ALPN), in clear text HTTP/1.1. Default: `http1`.
        may "protocol" protocol: Typed<UpstreamProtocol>,
        /// An HTTP/2 connection carries so many requests at a time at most, 1 to 100. Default: 1 behind
        /// a balancer, which chooses once per connection, else 100.
        may "max-streams-per-connection" max_streams: Typed<NonZeroU32>,
        /// A connection carries so many requests at most. Default: 1000 behind a balancer, else no
        /// bound.
        may "max-requests-per-connection" max_requests: Typed<NonZeroU32>,
        /// A connection lives so long at most. Default: 60s behind a balancer, else no bound.
        may "max-connection-age" max_age: Typed<Time>,
        /// Most tries of a safe request, the first included, 1 to 10. Default: 3.
        may "max-attempts" max_attempts: Typed<u8>,
        /// What a safe request is tried again after, elsewhere if there is another endpoint: `connect` (no
        /// connection), `reset` (a broken one), `timeout` (of a try), and statuses, 429 or 500 to 599.
        /// Retries are at most a fifth of the requests. Default: connect, reset, timeout.
        may "retry-on" retry_on: Vec<Typed<RetryOn>>,
        /// Methods beside the safe ones whose requests may be sent twice: `PUT`, `DELETE`; with bodies
        /// up to 16KiB. Default: none.
        may "retry-methods" retry_methods: Vec<Typed<Text>>,
        /// A safe request without a body that has no answer after so long is sent to another endpoint
        /// too, and the first good answer counts. Default: never.
        may "hedge-after" hedge_after: Typed<Time>,
        /// What is changed of requests to it and of its answers. Default: nothing.
        may "transform" transform: Transform,
        /// Who sees requests to it, after those whom `defaults` and routes name. Default: nobody.
        may "external" external: External,
        /// Its answers are compressed for clients that take it: `true`, `false`, or a section. Default: as routes and
        /// `defaults` say.
        may "compress" compress: Choice<Compress>,
        /// Requests to it must be as an OpenAPI 3 description says, besides what routes ask: its path, or a section.
        /// They are held against it as the file has changed them. Default: they may be anything.
        may "validate" validate: ValidateChoice,
        /// Cross-origin rules of routes that lead to it and have none of their own, or `none`. Default: as `defaults`
        /// say.
        may "cors" cors: CorsChoice,
        /// When failures take an endpoint out for a while. Default: see each.
        may "eject" eject: Eject,
        /// Most requests of all workers under way at a time, from head to the last byte of the answer;
        /// others wait in line or are 503 at once. Default: no bound.
        may "max-requests" max_at_once: Typed<NonZeroU32>,
        /// The line before `max-requests`. Default: nobody waits.
        may "queue" queue: Queue,
        /// Most requests of all workers in flight at one endpoint; further ones go elsewhere. Default:
        /// no bound.
        may "max-requests-per-endpoint" max_per_endpoint: Typed<NonZeroU32>,
        /// TLS towards it. Default: plain.
        may "tls" tls: UpstreamTls,
    }
}

section! {
    /// A line of requests: first come, first served.
    Queue at spot {
        /// Most that wait.
        must "most" most: Typed<u32>,
        /// How long they wait before they are 503. Default: 100ms.
        may "wait" wait: Typed<Time>,
    }
}

section! {
    /// When failures in traffic take an endpoint out for a while: no connection, a connection that
    /// breaks, no head in time, answers of some statuses. Then one request at a time tries it, until one
    /// goes well.
    Eject {
        /// So many in a row, 1 to 100. Default: 3.
        may "failures" failures: Typed<u8>,
        /// Answers that count as failures, 500 to 599. Default: 502, 503, 504.
        may "statuses" statuses: Vec<Typed<u32>>,
        /// The first time out; each further one soon after is twice as long. Default: 1s.
        may "first" first: Typed<Time>,
        /// The longest time out. Default: 60s.
        may "longest" longest: Typed<Time>,
        /// Most endpoints that may be out for bad answers: at least one where there are two, never all,
        /// with 0% none. One that cannot be connected to is out whatever their number. Default: 50%.
        may "most" most: Typed<Percent>,
    }
}

section! {
    /// TLS towards a service; its certificate is always verified.
    UpstreamTls {
        /// Authorities that its certificate must come from, `file:PATH`. Default: the system's.
        may "ca" ca: Typed<SecretRef>,
        /// The name that is asked for and that its certificate must have. Default: the endpoint's
        /// address.
        may "name" name: Typed<Text>,
        /// A certificate of ours to show (mTLS). Default: none.
        may "certificate" certificate: Certificate,
    }
}
