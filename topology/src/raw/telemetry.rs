//! A group's `telemetry:` as typed.
//!
//! Invariant: none beyond `raw`'s.

use std::num::NonZeroUsize;

use ipnet::IpNet;

use crate::raw::schema::section;
use crate::raw::{Flag, Text, Typed};
use crate::telemetry::Sample;
use crate::units::{Size, Time};

section! {
    /// Traces: whose are continued, which are sampled, where their spans go.
    Telemetry {
        /// How many of the traces that begin here are sampled: services are told so (`traceparent`), and
        /// spans of those go to `otlp`. Default: 1%.
        may "sample" sample: Typed<Sample>,
        /// Networks of senders whose `traceparent` and `tracestate` are continued, their choice of what is
        /// sampled included: the peer that sent the request (a PROXY header's client where there is one),
        /// whomever its `X-Forwarded-For` names. Default: none; every request begins a trace.
        may "trust-trace-from" trust_trace_from: Vec<Typed<IpNet>>,
        /// A collector that takes OTLP (protobuf over HTTP): `http://HOST:PORT` or `https://HOST:PORT`;
        /// spans go to `/v1/traces` below it. One that is away or slow costs spans, which are counted, and
        /// no request's time. Default: no spans.
        may "otlp" otlp: Typed<Text>,
        /// Whether access records go to `/v1/logs` of `otlp` as well. Default: false.
        may "records" records: Typed<Flag>,
    }
}

section! {
    /// What poolers tell of single queries. The trace context that a text ends or begins with in a comment
    /// (`/*traceparent='…'*/`, as sqlcommenter writes it) is taken out of prepared texts in any case.
    PoolTelemetry {
        /// A query that keeps its server so long is logged, without its constants, with its trace and with
        /// how long it waited for the server. Default: none is.
        may "slow-query" slow_query: Typed<Time>,
        /// A collector that takes OTLP (protobuf over HTTP): `http://HOST:PORT` or `https://HOST:PORT`; queries
        /// whose comment names a sampled trace are spans in it, sent to `/v1/traces` below the address. One that
        /// is away or slow costs spans, which are counted, and no query's time. Default: no spans.
        may "otlp" otlp: Typed<Text>,
    }
}

section! {
    /// Files of what passes, for `aqueduct replay`. No request and no datagram waits for them; what cannot
    /// be written at once is dropped and counted.
    Recording {
        /// The folder, where each instance has files of its own; a full one becomes `FILE.1`, that one
        /// `FILE.2`, and so on.
        must "folder" folder: Typed<Text>,
        /// Which part of the clients is recorded: connections of a gateway, addresses of a balancer.
        /// Default: 100%.
        may "sample" sample: Typed<Sample>,
        /// How large a file may become, from 8MiB. Default: 64MiB.
        may "size" size: Typed<Size>,
        /// How many files are kept, the one that is written among them. Default: 4.
        may "files" files: Typed<NonZeroUsize>,
        /// Whether each answer's body is recorded as its SHA-256, which `aqueduct replay https
        /// --compare-bodies` compares with; of a gateway. Default: false.
        may "digests" digests: Typed<Flag>,
    }
}
