//! Asking a service: attempts at one endpoint after another until one answers or no further one is
//! allowed, and what they tell of the endpoints. Not for the rules of retries (`retry`) and not for a
//! single attempt (`attempt`). Called by `dispatch`.
//!
//! Invariant: a further attempt goes to an endpoint that was not tried, as long as there is one.

use std::rc::Rc;

use common::balance::{Answered, Costs, Wish};
use common::service::events::{EndpointEjected, EndpointReturned};
use common::service::{Failing, Trial};
use http::{Method, Request, Response};
use tokio::time::Instant;

use super::attempt::{Aim, Failure, Why, attempt};
use super::retry::{self, Body, Reached};
use super::upstream::connection::UpstreamBody;
use super::upstream::{Lease, Reuse};
use super::{Dispatch, Lane, Plan};
use crate::body::{BodyProgress, RequestBody};
use crate::exchange::Grant;

impl Dispatch {
    /// Attempts until one answers, or no further one is allowed.
    pub(super) async fn ask(
        &self,
        _proof: &Grant,
        lane: &Lane,
        plan: Plan,
        request: Request<RequestBody>,
    ) -> Result<(Response<UpstreamBody>, Lease), Why> {
        lane.budget.borrow_mut().deposit();
        let mut tried = Tried::default();
        let mut reuse = Reuse::Allowed;
        let mut next = request;
        loop {
            let Some((endpoint, trial)) = lane.choose(plan.hash, &mut tried) else {
                return Err(Why::Nobody);
            };
            let last = tried.attempts >= plan.attempts;
            let spare = if last { None } else { copy(&next) };
            let method = next.method().clone();
            let progress = next.body().progress();
            let Plan { deadline, end, times, .. } = plan;
            let aim = Aim { endpoint, reuse, deadline, end, times };
            let watch = Watch::new(&lane.costs, endpoint);
            let outcome = attempt(&lane.pool, aim, next).await;
            let seen = Seen::of(&outcome, &lane.pool.upstream.model.eject.statuses);
            // A client that breaks off says nothing of the endpoint.
            if progress.fault().is_none() {
                watch.stop(seen);
                self.report(lane, endpoint, seen);
            }
            drop(trial);
            let failure = match outcome {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
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
    fn report(&self, lane: &Lane, index: usize, seen: Seen) {
        let (service, now) = (&lane.pool.upstream.service, Instant::now());
        let Some(endpoint) = service.endpoints.get(index) else { return };
        let (name, endpoint) = (service.name.as_str(), endpoint.name.as_str());
        let (failing, cause) = match seen {
            Seen::Answer { .. } => {
                if service.report_success(index) {
                    self.observer.emit(EndpointReturned { service: name, endpoint });
                }
                return;
            }
            // A kept connection that the other side closed is no sign of illness.
            Seen::Failure(Why::Stale) => return,
            Seen::Failure(why @ Why::Connect) => (Failing::Unreachable, why.cause()),
            Seen::Failure(why) => (Failing::Badly, why.cause()),
            Seen::Bad => (Failing::Badly, "answers that count as failures"),
        };
        if let Some(length) = service.report_failure(index, failing, now) {
            self.observer.emit(EndpointEjected { service: name, endpoint, cause, length });
        }
    }
}

impl Lane {
    /// The endpoint for the next attempt, and the trial that it is, if it is one.
    fn choose(&self, hash: u64, tried: &mut Tried) -> Option<(usize, Option<Trial>)> {
        let (upstream, now) = (&self.pool.upstream, Instant::now());
        loop {
            let wish = Wish { hash, avoid: &tried.endpoints, costs: Some(&self.costs) };
            let endpoint = upstream.select(wish, now)?;
            let again = tried.endpoints.contains(&endpoint);
            if !again {
                tried.endpoints.push(endpoint);
            }
            match upstream.service.endpoints.get(endpoint)?.state.admit(now) {
                Ok(trial) => {
                    tried.attempts = tried.attempts.saturating_add(1);
                    return Some((endpoint, trial));
                }
                // Somebody was faster.
                Err(_) if again => return None,
                Err(_) => {}
            }
        }
    }
}

/// What was tried for a request.
#[derive(Debug, Default)]
struct Tried {
    endpoints: Vec<usize>,
    attempts: u8,
}

/// What an attempt showed of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// An answer; `error`: a 5xx.
    Answer { error: bool },
    /// An answer of a status that counts as a failure.
    Bad,
    /// None.
    Failure(Why),
}

impl Seen {
    fn of<B, L>(outcome: &Result<(Response<B>, L), Failure>, failing: &[u16]) -> Self {
        match outcome {
            Ok((response, _)) if failing.contains(&response.status().as_u16()) => Self::Bad,
            Ok((response, _)) => Self::Answer { error: response.status().is_server_error() },
            Err(failure) => Self::Failure(failure.why),
        }
    }
}

/// Takes the time of an attempt. One that is abandoned has taken at least as long as it was let.
#[derive(Debug)]
struct Watch {
    costs: Rc<Costs>,
    endpoint: usize,
    began: Instant,
    told: bool,
}

impl Watch {
    fn new(costs: &Rc<Costs>, endpoint: usize) -> Self {
        Self { costs: Rc::clone(costs), endpoint, began: Instant::now(), told: false }
    }

    fn stop(mut self, seen: Seen) {
        self.told = true;
        let now = Instant::now();
        let answered = match seen {
            Seen::Failure(Why::Stale) => return,
            Seen::Answer { error: false } => Answered::Well,
            _ => Answered::Badly,
        };
        self.costs.record(self.endpoint, now - self.began, answered, now);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.told {
            let now = Instant::now();
            self.costs.record(self.endpoint, now - self.began, Answered::Unheard, now);
        }
    }
}

/// A second copy of a request without a body, for another attempt.
pub(super) fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
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
