//! Stage 8: ask the service, elsewhere again where that is safe. Not for choosing the service
//! (`route`). Called by `pipeline`.
//!
//! Invariant: a request that may have had an effect is sent once, and none is sent without a
//! `Grant`.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use common::balance::Costs;
use common::observe::Observer;
use common::rng::Rng;
use common::service::{Endpoint, Service};
use http::Response;
use thiserror::Error;
use tokio::time::Instant;
use topology::answers::Attached;
use topology::gateway::{Times, UpstreamId, UpstreamProtocol, Via};

use self::attempt::Why;
use self::gate::{Pass, Shed};
use self::retry::Budget;
use self::upstream::connection::{Outgoing, UpstreamBody};
use self::upstream::{Lease, Pace, Pool, ServiceBody};
use crate::body::{AnswerBody, BodyFault, BodyProgress, Tunnel};
use crate::exchange::{Answered, AnsweredBy, Exchange, Grant, Prepared, ResponseHead, Stage};
use crate::grpc;
use crate::halt::{Halt, Kind};
use crate::pipeline::Filter;
use crate::snapshot::Snapshot;
use crate::telemetry::Notes;
use crate::trace::{Silent, Trace};
use crate::traffic::{self, Counted};
use crate::transform::Changes;
use topology::gateway::RouteTo;

mod aggregate;
mod alarm;
mod ask;
pub mod attempt;
pub mod cache;
mod fails;
pub mod files;
pub mod gate;
pub mod held;
pub mod last_good;
mod mirror;
pub mod retry;
pub mod service;
pub mod upstream;

/// Why no answer came from the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DispatchError {
    /// The client's own body failed.
    #[error(transparent)]
    Body(BodyFault),
    /// No head within the route's timeout.
    #[error("no answer in time")]
    Timeout,
    /// No connection.
    #[error("no endpoint could be connected to")]
    Unreachable,
    /// More requests are under way than may be.
    #[error("too many requests are under way")]
    Overloaded,
    /// The connection broke, or what came was no HTTP.
    #[error("the connection broke before an answer")]
    Broken,
}

/// The stage, one per worker.
#[derive(Debug)]
pub struct Dispatch {
    own: Weak<Self>,
    snapshot: Arc<Snapshot>,
    observer: Observer,
    lanes: Vec<RefCell<Rc<Lane>>>,
    rng: Rng,
    /// What the file changes of calls.
    changes: Option<Rc<Changes>>,
    /// Calls of aggregates that failed.
    failed: fails::Counts,
}

/// One service on one worker, with the endpoints that there were when it was made.
#[derive(Debug)]
struct Lane {
    pool: Rc<Pool>,
    budget: Rc<RefCell<Budget>>,
    /// What answers of its endpoints cost.
    costs: Rc<Costs>,
    /// What is counted of them.
    counted: Vec<Counted>,
    /// Copies under way.
    mirrored: Rc<Cell<u32>>,
    /// Requests that were too many.
    shed: metrics::Counter,
}

/// How a request is sent.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    lane: usize,
    deadline: Instant,
    /// When the whole exchange must have ended.
    end: Option<Instant>,
    times: Times,
    /// It is a gRPC call: client and service may take turns for as long as they like.
    streams: bool,
    /// It is one, of the client's or of ours: a call says in its own way that nobody is there.
    call: bool,
    attempts: u8,
    /// Of whoever asks, where the balance hashes.
    hash: u64,
    /// Whether another protocol may be answered with.
    upgrade: bool,
}

impl Dispatch {
    /// For one worker; connections to services that have not changed since `before` are kept.
    pub fn new(
        snapshot: &Arc<Snapshot>,
        observer: &Observer,
        changes: Option<Rc<Changes>>,
        before: Option<&Self>,
    ) -> Rc<Self> {
        let lane = |upstream: &Arc<service::Upstream>| {
            let mut known = before.into_iter().flat_map(|before| &before.lanes);
            let known = known.find_map(|lane| {
                let lane = lane.borrow();
                Arc::ptr_eq(&lane.pool.upstream, upstream).then(|| Rc::clone(&lane))
            });
            RefCell::new(known.unwrap_or_else(|| Rc::new(Lane::new(upstream, observer))))
        };
        Rc::new_cyclic(|own| Self {
            own: Weak::clone(own),
            snapshot: Arc::clone(snapshot),
            observer: observer.clone(),
            lanes: snapshot.upstreams.iter().map(lane).collect(),
            rng: Rng::from_os(),
            changes,
            failed: fails::Counts::default(),
        })
    }

    /// A service's lane, with the endpoints that it has now.
    fn lane(&self, at: usize) -> Option<Rc<Lane>> {
        let mut lane = self.lanes.get(at)?.borrow_mut();
        if !lane.pool.is_current() {
            *lane = Rc::new(lane.follow(&self.observer));
        }
        Some(Rc::clone(&lane))
    }

    /// Lets a request in where few enough are under way, to its service and to all; it is in for as
    /// long as it keeps its passes.
    async fn admit(&self, passes: &mut Vec<Pass>, plan: &Plan) -> Result<(), Halt> {
        let upstream = self.snapshot.upstreams.get(plan.lane).ok_or(Halt::from(Kind::NoRoute))?;
        // The service's own line first: who waits in it takes no place from other services.
        for gate in [&upstream.gate, &self.snapshot.gate].into_iter().flatten() {
            match gate.enter(plan.deadline).await {
                Ok(pass) => passes.push(pass),
                Err(Shed) => {
                    self.lane(plan.lane).inspect(|lane| lane.shed.increment(1));
                    return Err(DispatchError::Overloaded.into());
                }
            }
        }
        Ok(())
    }

    /// Closes connections that nobody needs, and those to endpoints that are gone.
    pub fn sweep(&self) {
        (0..self.lanes.len()).filter_map(|at| self.lane(at)).for_each(|lane| lane.pool.sweep());
    }
}

impl Filter for Dispatch {
    const STAGE: Stage = Stage::Dispatch;
    type In = Prepared;
    type Out = Answered;
    type Plan = Option<Plan>;

    fn plan(&self, x: &Exchange, input: &Prepared, trace: &mut impl Trace) -> Self::Plan {
        if let RouteTo::Aggregate(id) = input.to {
            self.calls(id, trace);
        }
        let to = input.to.service()?;
        let model = &self.snapshot.upstreams.get(to.0)?.model;
        trace.note(Stage::Dispatch, || {
            let how = match model.via {
                Via::Balancer => "through a balancer",
                Via::Endpoints => "straight to its endpoints",
            };
            let attempts = model.retry.attempts.max(1);
            let s = if attempts == 1 { "" } else { "s" };
            format!("to {} {how}, at most {attempts} attempt{s}", model.service)
        });
        self.planned_to(x, to, input)
    }

    async fn request(&self, x: &mut Exchange, input: Prepared) -> Result<Answered, Halt> {
        match input.to {
            RouteTo::Files(id) => {
                x.passes(Stage::Dispatch, "files", "");
                let site = self.snapshot.files.get(id.0).ok_or(Halt::from(Kind::NoRoute))?;
                let route = self.snapshot.group.routes.get(input.route.0);
                let route = route.ok_or(Halt::from(Kind::NoRoute))?;
                // Boxed: opening a file takes more room than asking a service.
                return Box::pin(site.answer(x, &route.path, input)).await;
            }
            RouteTo::Aggregate(id) => {
                x.passes(Stage::Dispatch, "aggregate", "");
                return Box::pin(self.aggregate(x, id, input)).await;
            }
            RouteTo::Service(_) | RouteTo::Given(_) => {}
        }
        match &self.snapshot.cache {
            Some(cache) => Box::pin(cache::through(self, cache, x, input)).await,
            None => self.forward(x, input).await,
        }
    }
}

impl Dispatch {
    /// How a request is sent to one of the services.
    fn planned_to(&self, x: &Exchange, to: UpstreamId, input: &Prepared) -> Option<Plan> {
        let route = self.snapshot.group.routes.get(input.route.0)?;
        let upstream = self.snapshot.upstreams.get(to.0)?;
        let model = &upstream.model;
        let times = route.times.over(&model.times);
        // What a gRPC client will wait, if the service can speak it at all.
        let streams = x.grpc && model.protocol != UpstreamProtocol::Http1;
        let bound = if streams { grpc::timeout(&input.head.headers) } else { None };
        let call = streams || x.calling.is_some();
        let total = [times.total, bound].into_iter().flatten().min();
        let (deadline, end) = (x.began + route.timeout, total.map(|total| x.began + total));
        let hash = upstream.hash(x, input);
        let attempts = model.retry.attempts.max(1);
        let upgrade = false;
        Some(Plan { lane: to.0, deadline, end, times, streams, call, attempts, hash, upgrade })
    }

    /// For what goes on when its exchange has ended.
    fn own(&self) -> Option<Rc<Self>> {
        self.own.upgrade()
    }

    fn planned(&self, x: &Exchange, input: &Prepared) -> Option<Plan> {
        self.plan(x, input, &mut Silent)
    }

    /// The service's own answer.
    async fn forward(&self, x: &mut Exchange, input: Prepared) -> Result<Answered, Halt> {
        let plan = self.planned(x, &input).ok_or(Halt::from(Kind::NoRoute))?;
        let plan = Plan { upgrade: input.upgrade.is_some(), ..plan };
        let begun = Instant::now();
        let Prepared { head, mut body, grant, route, .. } = input;
        // Browsers send what they say at once: bounds hold for them.
        if plan.streams && x.web.is_none() {
            body.stream(plan.times.idle);
        }
        let request = Outgoing { head: Rc::new(head), body, hints: x.hints.clone() };
        self.admit(&mut x.passes, &plan).await?;
        if self.mirror(route, &request) {
            x.passes(Stage::Dispatch, "mirror", "");
        }
        x.passes(Stage::Dispatch, "to", Attached::Service);
        let asked = self.fetch(&grant, &plan, request, x.notes.as_ref()).await;
        x.progress.upstream += begun.elapsed();
        asked
    }

    /// The answer of whoever is asked.
    async fn fetch(
        &self,
        grant: &Grant,
        plan: &Plan,
        request: Outgoing,
        notes: Option<&Rc<Notes>>,
    ) -> Result<Answered, Halt> {
        let lane = self.lane(plan.lane).ok_or(Halt::from(Kind::NoRoute))?;
        let progress = request.body.progress();
        let asked = self.ask(grant, &lane, plan, request, notes).await;
        let (response, lease) = asked.map_err(|why| fault(why, &progress))?;
        let pace = Pace::new(plan.times.idle, plan.end);
        answer(response, lease, plan.upgrade, pace)
    }
}

impl Plan {
    /// For a request that is sent so much later than its exchange began.
    fn moved(self, by: Duration) -> Self {
        Self { deadline: self.deadline + by, end: self.end.map(|end| end + by), ..self }
    }
}

impl Lane {
    fn new(upstream: &Arc<service::Upstream>, observer: &Observer) -> Self {
        let pool = Pool::new(upstream);
        let service = &pool.roster.service;
        let counted = service.endpoints.iter().map(|e| counted(service, e, observer)).collect();
        let costs = Rc::new(Costs::new(service.endpoints.len()));
        Self {
            budget: Rc::new(RefCell::new(Budget::new(Instant::now()))),
            costs,
            counted,
            mirrored: Rc::default(),
            shed: shed(observer, upstream),
            pool,
        }
    }

    /// With the endpoints that there are now; what is known of those that stay is kept.
    fn follow(&self, observer: &Observer) -> Self {
        let roster = Arc::clone(&self.pool.upstream.roster());
        let former = roster.former(&self.pool.roster);
        let known = |(endpoint, former): (&Arc<Endpoint>, &Option<usize>)| {
            let known = former.and_then(|at| self.counted.get(at)).cloned();
            known.unwrap_or_else(|| counted(&roster.service, endpoint, observer))
        };
        Self {
            counted: roster.service.endpoints.iter().zip(&former).map(known).collect(),
            costs: Rc::new(self.costs.carried(&former)),
            pool: self.pool.follow(Arc::clone(&roster), &former),
            budget: Rc::clone(&self.budget),
            mirrored: Rc::clone(&self.mirrored),
            shed: self.shed.clone(),
        }
    }
}

fn counted(service: &Service, endpoint: &Endpoint, observer: &Observer) -> Counted {
    traffic::of_endpoint(&service.name, &endpoint.name, &observer.metrics)
}

fn shed(observer: &Observer, upstream: &service::Upstream) -> metrics::Counter {
    let help = "Requests that were too many at a time for their service or for the group.";
    let labels = [("service", upstream.model.service.as_str())];
    observer.metrics.counter("aqueduct_http_shed_total", help, &labels)
}

fn fault(why: Why, body: &BodyProgress) -> DispatchError {
    match (body.fault(), why) {
        (Some(fault), _) => DispatchError::Body(fault),
        (None, Why::Timeout | Why::Late) => DispatchError::Timeout,
        (None, Why::Connect | Why::Nobody) => DispatchError::Unreachable,
        (None, Why::Stale | Why::Refused | Why::Broken) => DispatchError::Broken,
    }
}

/// The service's answer. A protocol change that nobody asked for is no answer (RFC 9110 §15.2.2).
fn answer(
    response: Response<UpstreamBody>,
    lease: Lease,
    upgrade: bool,
    pace: Pace,
) -> Result<Answered, Halt> {
    let (head, body) = response.into_parts();
    let body = match body {
        UpstreamBody::Upgrade(_) if !upgrade => return Err(DispatchError::Broken.into()),
        UpstreamBody::Upgrade(upstream) => {
            AnswerBody::Tunnel(Box::new(Tunnel { upstream, in_flight: lease.into_tunnel() }))
        }
        body @ (UpstreamBody::Http1(_) | UpstreamBody::Http2(_)) => {
            AnswerBody::Service(Box::new(ServiceBody::new(body, lease, pace)))
        }
    };
    let head = ResponseHead { status: head.status, headers: head.headers };
    Ok(Answered { head, body, by: AnsweredBy::Service })
}
