//! The access record and its way to the log: formatted once, into a bounded ring per worker, written
//! by one thread. Not for events that operators must hear: those are in `events`. Filled by the
//! stages through `Exchange`, written when the exchange is dropped, so also when a client has gone.
//!
//! Invariant: a worker never waits for the log; what does not fit is dropped and counted.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::observe::{Latency, Metrics, Recent};
use http::{HeaderValue, Method, StatusCode};
use metrics::Counter;
use tokio::time::Instant;
use topology::units::{InstanceName, RouteName, ServiceName};

use crate::body::BodyProgress;
use crate::exchange::{Exchange, Stage};
use crate::recorder::Tape;
use crate::telemetry::{Outbox, span};
use crate::traffic;
use crate::transform::Failure;

pub mod line;
pub mod ring;
pub mod trouble;
pub mod writer;

pub use ring::{Fate, Ring};
pub use writer::{Reopener, Writer};

/// What the stages note for the log beside the facts of the exchange.
pub struct Record {
    sink: Rc<Sink>,
    /// As the client sent it.
    pub method: Method,
    /// Canonical, without the query; empty where the request had none.
    pub path: Box<str>,
    /// The verified user.
    pub user: Option<HeaderValue>,
    /// Whose API key was shown.
    pub consumer: Option<HeaderValue>,
    /// What the client was answered; `None`: it had gone.
    pub status: Option<StatusCode>,
    /// How a gRPC call ended.
    pub grpc: Option<u8>,
    /// The service that was asked.
    pub service: Option<ServiceName>,
    /// Its route, and where it is counted.
    pub route: Rc<RouteStats>,
    /// Sides of a split and variants of experiments that it counts for.
    pub variants: Vec<Rc<VariantStats>>,
    /// The beginning of its line for a replay; `None`: it is not recorded.
    pub tape: Option<Box<Tape>>,
    /// The client's body.
    pub body_in: Option<Rc<BodyProgress>>,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// Why a filter failed.
    pub reason: OnceCell<Box<str>>,
    /// Which calls of an aggregate failed, and why.
    pub failed_calls: Option<Box<str>>,
    /// Whether the answer went out whole.
    pub end: End,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The answer went out whole.
    Complete,
    /// It broke off: the client went, or the service did.
    Aborted,
}

impl Record {
    /// An empty one.
    pub fn new(sink: &Rc<Sink>) -> Self {
        Self {
            sink: Rc::clone(sink),
            method: Method::GET,
            path: Box::from(""),
            user: None,
            consumer: None,
            status: None,
            grpc: None,
            service: None,
            route: Rc::clone(&sink.unmatched),
            variants: Vec::new(),
            tape: None,
            body_in: None,
            bytes_out: 0,
            reason: OnceCell::new(),
            failed_calls: None,
            end: End::Aborted,
        }
    }

    /// Whether it will be written, not just counted.
    pub fn is_written(&self) -> bool {
        let watched = || self.sink.totals.recent.is_watched();
        self.sink.ring.is_some() || self.sink.outbox.get().is_some() || watched()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Counters of one route on one worker.
#[derive(Debug)]
pub struct RouteStats {
    /// The route's name; empty where none matched.
    pub name: RouteName,
    metrics: Metrics,
    by_status: RefCell<Vec<(StatusCode, Counter)>>,
    failures: RefCell<Vec<(Failure, Counter)>>,
    seconds: Arc<Latency>,
    errors: Arc<AtomicU64>,
}

impl RouteStats {
    /// For a route of this name.
    pub fn new(name: &str, metrics: &Metrics) -> Rc<Self> {
        let (seconds, errors) = traffic::of_route(name, metrics);
        let (metrics, by_status) = (metrics.clone(), RefCell::default());
        let failures = RefCell::default();
        Rc::new(Self { name: RouteName::new(name), metrics, by_status, failures, seconds, errors })
    }

    /// Counts a change of a message that failed.
    pub fn fail(&self, failure: Failure) {
        let mut known = self.failures.borrow_mut();
        if let Some((_, counter)) = known.iter().find(|(of, _)| *of == failure) {
            return counter.increment(1);
        }
        let (side, reason) = failure;
        let labels = [("route", self.name.as_str()), ("side", side), ("reason", reason)];
        let help = "Requests and answers that could not be changed as the file says, by route, side and reason";
        let counter = self.metrics.counter("aqueduct_http_transform_failures_total", help, &labels);
        counter.increment(1);
        known.push((failure, counter));
    }

    /// The counter of a status; a service has few of them, so the list is short.
    fn count(&self, status: StatusCode) {
        let mut known = self.by_status.borrow_mut();
        if let Some((_, counter)) = known.iter().find(|(s, _)| *s == status) {
            return counter.increment(1);
        }
        let labels = [("route", self.name.as_str()), ("status", status.as_str())];
        let help = "Requests by route and status";
        let counter = self.metrics.counter("aqueduct_http_requests_total", help, &labels);
        counter.increment(1);
        known.push((status, counter));
    }
}

/// Counters of routes on one worker, over all reloads: made with the first request of each.
#[derive(Debug)]
pub struct Stats {
    metrics: Metrics,
    known: RefCell<HashMap<RouteName, Rc<RouteStats>>>,
}

impl Stats {
    /// None yet.
    pub fn new(metrics: &Metrics) -> Rc<Self> {
        Rc::new(Self { metrics: metrics.clone(), known: RefCell::default() })
    }

    /// Those of a route.
    pub fn of(&self, route: &RouteName) -> Rc<RouteStats> {
        let mut known = self.known.borrow_mut();
        if let Some(stats) = known.get(route) {
            return Rc::clone(stats);
        }
        let stats = RouteStats::new(route.as_str(), &self.metrics);
        known.insert(route.clone(), Rc::clone(&stats));
        stats
    }
}

/// Counters of one side of a split, or of one variant of an experiment, on one worker.
#[derive(Debug)]
pub struct VariantStats {
    requests: Counter,
    errors: Counter,
}

impl VariantStats {
    /// For names of the topology file: of a `route` or an `experiment`, and which side of it.
    pub fn new(of: (&'static str, &str), variant: &str, metrics: &Metrics) -> Rc<Self> {
        let (kind, name) = of;
        let labels = [("kind", kind), ("name", name), ("variant", variant)];
        let count =
            |metric: &'static str, help: &'static str| metrics.counter(metric, help, &labels);
        let requests = "Requests by side of a split or variant of an experiment";
        let errors = "Those of them that were answered 5xx, or whose client had gone";
        Rc::new(Self {
            requests: count("aqueduct_http_variant_requests_total", requests),
            errors: count("aqueduct_http_variant_errors_total", errors),
        })
    }

    fn count(&self, status: StatusCode) {
        self.requests.increment(1);
        if status.is_server_error() || status == line::CLIENT_GONE {
            self.errors.increment(1);
        }
    }
}

/// Totals of the instance, for the live view.
#[derive(Debug, Default)]
pub struct Totals {
    /// Requests that ended.
    pub requests: AtomicU64,
    /// Those that ended in a 5xx or broke off by the service's fault.
    pub errors: AtomicU64,
    /// Of all requests.
    pub latency: Latency,
    /// What an operator sees of them one by one.
    pub recent: Recent,
}

/// Where a worker's records go.
pub struct Sink {
    instance: InstanceName,
    ring: Option<Arc<Ring>>,
    totals: Arc<Totals>,
    unmatched: Rc<RouteStats>,
    added: Arc<Latency>,
    halts: Vec<Counter>,
    scratch: RefCell<Vec<u8>>,
    outbox: OnceCell<Arc<Outbox>>,
}

impl Sink {
    /// For one worker; without a ring, requests are counted but not written.
    pub fn new(
        instance: &InstanceName,
        ring: Option<Arc<Ring>>,
        totals: Arc<Totals>,
        metrics: &Metrics,
    ) -> Rc<Self> {
        let help = "Requests that a stage ended";
        let halts = Stage::ALL
            .map(|s| metrics.counter("aqueduct_http_halts_total", help, &[("stage", s.name())]));
        let help = "Time that this gateway added to a request: all but the waiting for services";
        Rc::new(Self {
            instance: instance.clone(),
            ring,
            totals,
            unmatched: RouteStats::new("", metrics),
            added: metrics.latency("aqueduct_http_added_seconds", help, &[]),
            halts: halts.into(),
            scratch: RefCell::default(),
            outbox: OnceCell::new(),
        })
    }

    /// Spans go there from now on, and records if the outbox wants them.
    pub fn collect(&self, outbox: Arc<Outbox>) {
        // It has one already: the first stays.
        let _first = self.outbox.set(outbox);
    }

    /// Counts and writes an exchange that ends now.
    pub fn write(x: &Exchange, now: Instant) {
        let (sink, record) = (&x.record.sink, &x.record);
        let elapsed = now.saturating_duration_since(x.began);
        let status = record.status.unwrap_or(line::CLIENT_GONE);
        sink.totals.requests.fetch_add(1, Ordering::Relaxed);
        sink.totals.latency.record(elapsed);
        if status.is_server_error() {
            sink.totals.errors.fetch_add(1, Ordering::Relaxed);
            record.route.errors.fetch_add(1, Ordering::Relaxed);
        }
        record.route.count(status);
        record.route.seconds.record(elapsed);
        record.variants.iter().for_each(|variant| variant.count(status));
        sink.added.record(x.progress.added());
        if let Some(counter) = x.progress.halted().and_then(|s| sink.halts.get(s as usize - 1)) {
            counter.increment(1);
        }
        if let Some(tape) = &record.tape {
            tape.end(x, elapsed);
        }
        let outbox = sink.outbox.get();
        if let (Some(outbox), Some(notes)) = (outbox, &x.notes) {
            span::spans(x, notes, elapsed).for_each(|span| outbox.span(span));
        }
        let records = outbox.filter(|outbox| outbox.wants_records());
        let wanted = sink.totals.recent.wants(now);
        if sink.ring.is_none() && records.is_none() && !wanted {
            return;
        }
        let mut text = sink.scratch.borrow_mut();
        text.clear();
        line::write(x, sink.instance.as_str(), elapsed, &mut text);
        if let Some(ring) = &sink.ring {
            ring.push(&text);
        }
        if wanted {
            sink.totals.recent.keep(&text);
        }
        if let Some(outbox) = records {
            outbox.record(span::record(x, &text));
        }
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("instance", &self.instance).finish_non_exhaustive()
    }
}
