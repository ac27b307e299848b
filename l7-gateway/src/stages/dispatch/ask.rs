//! Asking a service: attempts at one endpoint after another until one answers or no further one is
//! allowed, and what they tell of the endpoints. Not for the rules of retries (`retry`) and not for a
//! single attempt (`attempt`). Called by `dispatch`.
//!
//! Invariant: a further attempt goes to an endpoint that was not tried, as long as there is one.

use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::balance::{Answered, Costs, Wish};
use common::service::events::{EndpointEjected, EndpointReturned};
use common::service::{Failing, Trial};
use http::request::Parts;
use http::{Method, Response, header};
use tokio::time::{Instant, sleep};
use topology::gateway::{Retry, RetryOn};

use super::attempt::{Aim, Failure, Why, attempt};
use super::retry::{self, Reached};
use super::upstream::connection::{Outgoing, UpstreamBody};
use super::upstream::{Lease, Reuse};
use super::{Dispatch, Lane, Plan};
use crate::body::{BodyProgress, RequestBody, Tape};
use crate::exchange::Grant;
use crate::grpc;
use crate::hints::Hints;
use crate::telemetry::Notes;
use crate::telemetry::notes::Outcome;

/// An answer's head, and the connection that its body comes over.
type Answer = (Response<UpstreamBody>, Lease);

impl Dispatch {
    /// Attempts until one answers, or no further one is allowed.
    pub(super) async fn ask(
        &self,
        _proof: &Grant,
        begun: &Rc<Lane>,
        plan: &Plan,
        request: Outgoing,
        notes: Option<&Rc<Notes>>,
    ) -> Result<Answer, Why> {
        begun.budget.borrow_mut().deposit();
        let (rules, mut lane) = (&begun.pool.upstream.model.retry, Rc::clone(begun));
        let mut tried = Tried::default();
        let (mut next, mut now) = (request, Instant::now());
        // The best that came of it so far, and how long to wait where only tried endpoints are left.
        let (mut so_far, mut pause): (Result<Answer, Why>, _) = (Err(Why::Nobody), Duration::ZERO);
        loop {
            let Some(chosen) = lane.choose(plan.hash, &mut tried, now) else { return so_far };
            // Who could not be connected to a moment ago cannot be now.
            if chosen.again && matches!(so_far, Err(Why::Connect)) {
                return so_far;
            }
            if chosen.again && !pause.is_zero() {
                if plan.deadline.saturating_duration_since(now) <= pause {
                    return so_far;
                }
                // Boxed: few requests are asked again.
                Box::pin(sleep(pause)).await;
            }
            let to = To { lane: &lane, plan, notes };
            let last = tried.attempts >= plan.attempts;
            let spare = if last { None } else { Spare::of(&mut next, rules) };
            let (head, progress) = (Rc::clone(&next.head), next.body.progress());
            let outcome = self.hedged(to, &mut tried, chosen, next, spare.as_ref()).await;
            next = match outcome {
                Ok(answer) => {
                    let status = RetryOn::Status(answer.0.status().as_u16());
                    let wanted = spare.as_ref().filter(|_| rules.on.contains(&status));
                    let again = wanted.and_then(|spare| spare.request(&progress));
                    let Some(again) = again.filter(|_| lane.withdraw()) else { return Ok(answer) };
                    pause = asked_pause(&answer.0).max(self.rng.jitter(BACKOFF, 50));
                    so_far = Ok(answer);
                    again
                }
                Err(failure) => {
                    so_far = so_far.or(Err(failure.why));
                    if last || !may_retry(&lane, &head.method, &failure, &progress) {
                        return so_far;
                    }
                    // A kept connection that had ended is no reason to wait.
                    let wait = failure.why != Why::Stale;
                    pause = if wait { self.rng.jitter(BACKOFF, 50) } else { Duration::ZERO };
                    let spare = || spare.and_then(|spare| spare.request(&progress));
                    match failure.unsent.or_else(spare) {
                        Some(request) => request,
                        None => return so_far,
                    }
                }
            };
            now = Instant::now();
            lane = self.refreshed(lane, plan, &mut tried);
        }
    }

    /// The lane with the endpoints that there are by now: a further attempt goes to none that is gone.
    fn refreshed(&self, lane: Rc<Lane>, plan: &Plan, tried: &mut Tried) -> Rc<Lane> {
        let next = self.lane(plan.lane).filter(|_| !lane.pool.is_current());
        let Some(next) = next else { return lane };
        let former = next.pool.roster.former(&lane.pool.roster);
        let again = former.iter().enumerate().filter_map(|(index, former)| {
            former.filter(|former| tried.endpoints.contains(former)).map(|_| index)
        });
        tried.endpoints = again.collect();
        next
    }

    /// One attempt; and where the service wants it and the first takes its time, a second one beside
    /// it. The first good answer counts, and the other attempt is dropped.
    async fn hedged(
        &self,
        to: To<'_>,
        tried: &mut Tried,
        chosen: Chosen,
        request: Outgoing,
        spare: Option<&Spare>,
    ) -> Result<Answer, Failure> {
        let after = to.lane.pool.upstream.model.retry.hedge;
        let harmless = |spare: &&Spare| spare.tape.is_none() && spare.head.method.is_safe();
        match (after, spare.filter(harmless)) {
            // Boxed: its futures are large, and few services are hedged.
            (Some(after), Some(spare)) => {
                Box::pin(self.race(to, tried, chosen, request, (spare, after))).await
            }
            _ => self.once(to, chosen, request).await,
        }
    }

    /// Two attempts, the second begun some time after the first.
    async fn race(
        &self,
        to: To<'_>,
        tried: &mut Tried,
        chosen: Chosen,
        request: Outgoing,
        (spare, after): (&Spare, Duration),
    ) -> Result<Answer, Failure> {
        let To { lane, plan, .. } = to;
        let mut first = pin!(self.once(to, chosen, request));
        tokio::select! {
            biased;
            outcome = &mut first => return outcome,
            () = sleep(after) => {}
        }
        let other = lane
            .choose(plan.hash, tried, Instant::now())
            .filter(|other| !other.again && lane.withdraw());
        let second = other.zip(spare.request(&BodyProgress::default()));
        let Some((other, copy)) = second else { return first.await };
        let mut second = pin!(self.once(to, other, copy));
        tokio::select! {
            biased;
            outcome = &mut first => if good(&outcome) { outcome } else { second.await.or(outcome) },
            outcome = &mut second => if good(&outcome) { outcome } else { first.await.or(outcome) },
        }
    }

    /// One attempt, and what it tells of its endpoint.
    async fn once(
        &self,
        To { lane, plan, notes }: To<'_>,
        chosen: Chosen,
        mut request: Outgoing,
    ) -> Result<Answer, Failure> {
        let Chosen { endpoint, trial, first, .. } = chosen;
        let noting = notes.and_then(|notes| {
            let known = lane.pool.roster.service.endpoints.get(endpoint)?;
            // A head of its own: each attempt tells its own span.
            let head = Rc::make_mut(&mut request.head);
            Some(notes.begin((&known.name, known.address), &mut head.headers))
        });
        let progress = request.body.progress();
        let reuse = if first.is_some() { Reuse::Allowed } else { Reuse::Fresh };
        let now = first.unwrap_or_else(Instant::now);
        let Plan { deadline, end, ref times, streams, .. } = *plan;
        let aim = Aim { endpoint, reuse, now, deadline, end, times, streams };
        let watch = Watch::new(&lane.costs, endpoint, now);
        let outcome = attempt(&lane.pool, aim, request).await;
        if let Some(noting) = noting {
            noting.end(match &outcome {
                Ok((response, _)) => Outcome::Status(response.status().as_u16()),
                Err(failure) => Outcome::Failed(failure.why.cause()),
            });
        }
        let seen = Seen::of(&outcome, &lane.pool.upstream.model.eject.statuses, plan.call);
        let now = Instant::now();
        watch.count(lane, seen, now);
        // Neither a client that breaks off nor one that gives a call too little time says anything of
        // the endpoint.
        let hurried = streams && end.is_some_and(|end| now >= end);
        if progress.fault().is_none() && !hurried {
            watch.stop(seen, now);
            self.report(lane, endpoint, seen, now);
        }
        drop(trial);
        outcome
    }

    /// Passive health: what the data path saw of an endpoint.
    fn report(&self, lane: &Lane, index: usize, seen: Seen, now: Instant) {
        let service = &lane.pool.roster.service;
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
            Seen::Failure(Why::Stale | Why::Refused) => return,
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
    /// The endpoint for the next attempt.
    fn choose(&self, hash: u64, tried: &mut Tried, now: Instant) -> Option<Chosen> {
        let roster = &self.pool.roster;
        loop {
            let wish = Wish { hash, avoid: &tried.endpoints, costs: Some(&self.costs) };
            let endpoint = roster.select(wish, now)?;
            let again = tried.endpoints.contains(&endpoint);
            if !again {
                tried.endpoints.push(endpoint);
            }
            match roster.service.endpoints.get(endpoint)?.state.admit(now) {
                Ok(trial) => {
                    tried.attempts = tried.attempts.saturating_add(1);
                    let first = (tried.attempts == 1).then_some(now);
                    return Some(Chosen { endpoint, trial, again, first });
                }
                // Somebody was faster.
                Err(_) if again => return None,
                Err(_) => {}
            }
        }
    }

    /// One more request than clients sent: within the budget, or not at all.
    fn withdraw(&self) -> bool {
        self.budget.borrow_mut().withdraw(Instant::now())
    }
}

/// What is asked, and how.
#[derive(Clone, Copy, Debug)]
struct To<'a> {
    lane: &'a Lane,
    plan: &'a Plan,
    notes: Option<&'a Rc<Notes>>,
}

/// Where an attempt goes.
#[derive(Debug)]
struct Chosen {
    endpoint: usize,
    /// It finds out whether the endpoint is well again.
    trial: Option<Trial>,
    /// The endpoint was tried for this request before.
    again: bool,
    /// It is the first attempt, and begins now.
    first: Option<Instant>,
}

/// What was tried for a request.
#[derive(Debug, Default)]
struct Tried {
    endpoints: Vec<usize>,
    attempts: u8,
}

/// What a request is made of once more.
#[derive(Debug)]
struct Spare {
    head: Rc<Parts>,
    /// Its body, if it has one.
    tape: Option<Rc<Tape>>,
    hints: Option<Hints>,
}

impl Spare {
    /// Of a request that may be sent twice.
    fn of(request: &mut Outgoing, rules: &Retry) -> Option<Self> {
        if !retry::repeatable(&request.head.method, &rules.methods) {
            return None;
        }
        let body = &mut request.body;
        let tape = (!body.is_empty()).then(|| body.record(LARGEST_REPLAY));
        let hints = request.hints.clone();
        Some(Self { head: Rc::clone(&request.head), tape, hints })
    }

    fn request(&self, sent: &BodyProgress) -> Option<Outgoing> {
        let body = match &self.tape {
            None => RequestBody::empty(),
            Some(tape) => RequestBody::replay(tape, sent)?,
        };
        Some(Outgoing { head: Rc::clone(&self.head), body, hints: self.hints.clone() })
    }
}

/// Of a body that is kept to be sent again, in bytes.
const LARGEST_REPLAY: usize = 16 * 1024;

/// Before an endpoint that failed is tried again, on average.
const BACKOFF: Duration = Duration::from_millis(10);

/// How long the service wants to be left alone (RFC 9110 §10.2.3); dates are for longer times than a
/// request has.
fn asked_pause<B>(response: &Response<B>) -> Duration {
    let asked = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    Duration::from_secs(asked.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Whether an attempt has ended a hedged request.
fn good(outcome: &Result<Answer, Failure>) -> bool {
    outcome.as_ref().is_ok_and(|(response, _)| !response.status().is_server_error())
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
    fn of<B, L>(outcome: &Result<(Response<B>, L), Failure>, failing: &[u16], call: bool) -> Self {
        match outcome {
            Ok((response, _))
                if call && grpc::status(response.headers()) == Some(grpc::UNAVAILABLE) =>
            {
                Self::Bad
            }
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
    fn new(costs: &Rc<Costs>, endpoint: usize, began: Instant) -> Self {
        Self { costs: Rc::clone(costs), endpoint, began, told: false }
    }

    /// What operators see of the endpoint. A kept connection that had ended was no attempt.
    fn count(&self, lane: &Lane, seen: Seen, now: Instant) {
        let failed = match seen {
            Seen::Failure(Why::Stale | Why::Refused) => return,
            Seen::Answer { error } => error,
            Seen::Bad | Seen::Failure(_) => true,
        };
        if let Some(counted) = lane.counted.get(self.endpoint) {
            counted.0.record(now - self.began);
            counted.1.fetch_add(u64::from(failed), Ordering::Relaxed);
        }
    }

    fn stop(mut self, seen: Seen, now: Instant) {
        self.told = true;
        let answered = match seen {
            Seen::Failure(Why::Stale | Why::Refused) => return,
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

/// A second copy of a safe request without a body.
pub(super) fn copy(request: &Outgoing) -> Option<(Parts, RequestBody)> {
    let harmless = request.head.method.is_safe() && request.body.is_empty();
    harmless.then(|| (Parts::clone(&request.head), RequestBody::empty()))
}

fn may_retry(lane: &Lane, method: &Method, failure: &Failure, body: &BodyProgress) -> bool {
    let rules = &lane.pool.upstream.model.retry;
    let wanted = match failure.why {
        Why::Connect => rules.on.contains(&RetryOn::Connect),
        Why::Stale | Why::Refused => true,
        Why::Broken => rules.on.contains(&RetryOn::Reset),
        Why::Late => rules.on.contains(&RetryOn::Timeout),
        Why::Timeout | Why::Nobody => false,
    };
    let reached = failure.reached();
    wanted
        && retry::harmless(method, &rules.methods, reached)
        && (reached == Reached::Service || !body.started())
        // What never reached a service is no load on it.
        && (reached == Reached::Nothing || lane.withdraw())
}
