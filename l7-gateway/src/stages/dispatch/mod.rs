//! Stage 8: ask the service, elsewhere again where that is safe. Not for choosing the service
//! (`route`). Called by `pipeline`.
//!
//! Invariant: a request that may have had an effect is sent once, and none is sent without a
//! `Grant`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use common::observe::Observer;
use common::rng::Rng;
use common::service::events::EndpointEjected;
use http::{Method, Request, Response};
use thiserror::Error;
use tokio::time::Instant;

use self::attempt::{Aim, Failure, Why, attempt};
use self::retry::{Body, Budget, Reached};
use self::upstream::connection::UpstreamBody;
use self::upstream::{Lease, Pool, Reuse, ServiceBody};
use crate::body::{AnswerBody, BodyFault, BodyProgress, RequestBody, Tunnel};
use crate::exchange::{Answered, AnsweredBy, Exchange, Grant, Prepared, ResponseHead, Stage};
use crate::halt::{Halt, Kind};
use crate::pipeline::Filter;
use crate::snapshot::Snapshot;
use crate::trace::{Silent, Trace};

pub mod attempt;
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
    /// The connection broke, or what came was no HTTP.
    #[error("the connection broke before an answer")]
    Broken,
}

/// The stage, one per worker.
#[derive(Debug)]
pub struct Dispatch {
    snapshot: Arc<Snapshot>,
    observer: Observer,
    lanes: Vec<Rc<Lane>>,
    rng: Rng,
}

/// One service on one worker.
#[derive(Debug)]
struct Lane {
    pool: Rc<Pool>,
    budget: RefCell<Budget>,
    /// Copies under way.
    mirrored: Rc<Cell<u32>>,
}

/// How a request is sent.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    lane: usize,
    deadline: Instant,
    attempts: u8,
}

impl Dispatch {
    /// For one worker; connections to services that have not changed since `before` are kept.
    pub fn new(snapshot: &Arc<Snapshot>, observer: &Observer, before: Option<&Self>) -> Self {
        let lane = |upstream: &Arc<service::Upstream>| {
            let same = |lane: &&Rc<Lane>| Arc::ptr_eq(&lane.pool.upstream, upstream);
            let known = before.and_then(|before| before.lanes.iter().find(same));
            known.cloned().unwrap_or_else(|| {
                Rc::new(Lane {
                    pool: Pool::new(Arc::clone(upstream)),
                    budget: RefCell::new(Budget::new(Instant::now())),
                    mirrored: Rc::default(),
                })
            })
        };
        Self {
            snapshot: Arc::clone(snapshot),
            observer: observer.clone(),
            lanes: snapshot.upstreams.iter().map(lane).collect(),
            rng: Rng::from_os(),
        }
    }

    /// Closes connections that nobody needs.
    pub fn sweep(&self) {
        self.lanes.iter().for_each(|lane| lane.pool.sweep());
    }
}

impl Filter for Dispatch {
    const STAGE: Stage = Stage::Dispatch;
    type In = Prepared;
    type Out = Answered;
    type Plan = Option<Plan>;

    fn plan(&self, x: &Exchange, input: &Prepared, trace: &mut impl Trace) -> Self::Plan {
        let route = self.snapshot.group.routes.get(input.route.0)?;
        let model = &self.lanes.get(input.to.0)?.pool.upstream.model;
        trace.note(Stage::Dispatch, || {
            format!(
                "to {} through {:?}, at most {} attempts",
                model.service, model.via, model.max_attempts
            )
        });
        let deadline = x.began + route.timeout;
        Some(Plan { lane: input.to.0, deadline, attempts: model.max_attempts.max(1) })
    }

    async fn request(&self, x: &mut Exchange, input: Prepared) -> Result<Answered, Halt> {
        let plan = self.plan(x, &input, &mut Silent).ok_or(Halt::from(Kind::NoRoute))?;
        let lane = self.lanes.get(plan.lane).ok_or(Halt::from(Kind::NoRoute))?;
        let upgrade = input.upgrade.is_some();
        let progress = input.body.progress();
        let begun = Instant::now();
        let Prepared { head, body, grant, route, .. } = input;
        let request = Request::from_parts(head, body);
        self.mirror(route, &request);
        let asked = self.ask(&grant, lane, plan, request).await;
        x.progress.upstream += begun.elapsed();
        let (response, lease) = asked.map_err(|why| fault(why, &progress))?;
        answer(response, lease, upgrade)
    }
}

impl Dispatch {
    /// Attempts until one answers, or no further one is allowed.
    async fn ask(
        &self,
        _proof: &Grant,
        lane: &Lane,
        plan: Plan,
        request: Request<RequestBody>,
    ) -> Result<(Response<UpstreamBody>, Lease), Why> {
        lane.budget.borrow_mut().deposit();
        let upstream = &lane.pool.upstream;
        let mut tried = Vec::new();
        let mut reuse = Reuse::Allowed;
        let mut next = request;
        loop {
            let Some(endpoint) = upstream.select(&tried, Instant::now()) else {
                return Err(Why::Connect);
            };
            tried.push(endpoint);
            let last = tried.len() >= usize::from(plan.attempts);
            let spare = if last { None } else { copy(&next) };
            let method = next.method().clone();
            let progress = next.body().progress();
            let aim = Aim { endpoint, reuse, deadline: plan.deadline };
            let failure = match attempt(&lane.pool, aim, next).await {
                Ok((response, lease)) => {
                    self.report(upstream, endpoint, None);
                    return Ok((response, lease));
                }
                Err(failure) => failure,
            };
            if progress.fault().is_none() {
                self.report(upstream, endpoint, Some(failure.why));
            }
            reuse = Reuse::Fresh;
            if last || !may_retry(lane, &method, &failure, &progress) {
                return Err(failure.why);
            }
            next = match failure.unsent.or(spare) {
                Some(request) => request,
                None => return Err(failure.why),
            };
        }
    }

    /// Passive health: what the data path saw of an endpoint.
    fn report(&self, upstream: &service::Upstream, endpoint: usize, failed: Option<Why>) {
        let Some(endpoint) = upstream.service.endpoints.get(endpoint) else { return };
        match failed {
            None => endpoint.state.report_success(),
            // A kept connection that the other side closed is no sign of illness.
            Some(Why::Stale) => {}
            Some(why) => {
                if let Some(length) = endpoint.state.report_failure(Instant::now()) {
                    let service = upstream.service.name.as_str();
                    let (endpoint, cause) = (endpoint.name.as_str(), why.cause());
                    self.observer.emit(EndpointEjected { service, endpoint, cause, length });
                }
            }
        }
    }
}

/// A second copy of a request without a body, for another attempt.
fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !request.method().is_safe() || !request.body().is_empty() {
        return None;
    }
    let mut copy = Request::new(RequestBody::empty());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}

fn may_retry(lane: &Lane, method: &Method, failure: &Failure, body: &BodyProgress) -> bool {
    let body = if body.started() { Body::Spent } else { Body::Whole };
    failure.why != Why::Timeout
        && retry::harmless(method, failure.reached(), body)
        // What never reached a service is no load on it.
        && (failure.reached() == Reached::Nothing
            || lane.budget.borrow_mut().withdraw(Instant::now()))
}

fn fault(why: Why, body: &BodyProgress) -> DispatchError {
    match (body.fault(), why) {
        (Some(fault), _) => DispatchError::Body(fault),
        (None, Why::Timeout) => DispatchError::Timeout,
        (None, Why::Connect) => DispatchError::Unreachable,
        (None, Why::Stale | Why::Broken) => DispatchError::Broken,
    }
}

/// The service's answer. A protocol change that nobody asked for is no answer (RFC 9110 §15.2.2).
fn answer(response: Response<UpstreamBody>, lease: Lease, upgrade: bool) -> Result<Answered, Halt> {
    let (head, body) = response.into_parts();
    let body = match body {
        UpstreamBody::Upgrade(_) if !upgrade => return Err(DispatchError::Broken.into()),
        UpstreamBody::Upgrade(upstream) => {
            AnswerBody::Tunnel(Box::new(Tunnel { upstream, in_flight: lease.into_tunnel() }))
        }
        body @ UpstreamBody::Http1(_) => {
            AnswerBody::Service(Box::new(ServiceBody::new(body, lease)))
        }
    };
    let head = ResponseHead { status: head.status, headers: head.headers };
    Ok(Answered { head, body, by: AnsweredBy::Service })
}
