//! The filters of a route in the order in which its requests and answers pass them (spec G2), from the file alone, and
//! what an exchange has passed. Not for passing them: the stages do. Called by `preview` and `aqueduct check`.
//!
//! Invariant: what a request passes that goes through is what stands here, each at its place
//! (`what_runs_is_what_is_printed`).

use std::cell::RefCell;
use std::fmt;

use topology::answers::{Attached, Word};
use topology::gateway::{Access, Auth, Consumer, Group, Route, RouteTo};
use topology::transform::{AnswerChange, RequestChange, Transform};
use topology::upstream::{Upstream, UpstreamId};

use crate::exchange::Stage;

/// A filter at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The stage that it is part of.
    pub stage: Stage,
    /// The word of the file for it.
    pub filter: &'static str,
    /// Who has asked for it, or which one it is; may be empty.
    pub of: String,
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.stage as usize, self.filter)?;
        if self.of.is_empty() { Ok(()) } else { write!(f, " ({})", self.of) }
    }
}

/// What an exchange has passed, for whoever wants to know.
#[derive(Debug, Default)]
pub struct Ledger(RefCell<Vec<Placed>>);

impl Ledger {
    /// It passes this one.
    pub fn note(&self, stage: Stage, filter: &'static str, of: String) {
        self.0.borrow_mut().push(Placed { stage, filter, of });
    }

    /// All so far.
    pub fn noted(&self) -> Vec<Placed> {
        self.0.borrow().clone()
    }
}

/// Whose requests are meant.
#[derive(Clone, Copy, Debug)]
pub enum Callers<'c> {
    /// Nobody who is a consumer.
    Others,
    /// This consumer's.
    One(&'c str),
    /// Everybody's: each consumer is named where it has a filter of its own.
    All,
}

/// The filters of a route, where it leads to one of these services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Those that a request passes, the first one first.
    pub request: Vec<Placed>,
    /// Those that its answer passes.
    pub answer: Vec<Placed>,
}

impl Order {
    /// Of all that the route's requests may pass, wherever it leads them.
    pub fn of_all(group: &Group, route: &Route) -> Self {
        let mut to: Vec<UpstreamId> = route.to.service().into_iter().collect();
        to.extend(route.split.iter().map(|part| part.to));
        to.dedup();
        Self::of(group, route, &to, Callers::All)
    }

    /// Of what the requests of some pass.
    pub fn of(group: &Group, route: &Route, to: &[UpstreamId], callers: Callers<'_>) -> Self {
        let ends = route.maintenance.is_some() || matches!(route.to, RouteTo::Given(_));
        let to = if ends { &[] } else { to };
        let callers = if ends { Callers::Others } else { callers };
        let reading = Reading { group, route, to, callers, ends };
        Self { request: reading.request(), answer: reading.answer() }
    }
}

/// Whether a change speaks of requests.
pub fn of_requests(model: &Transform) -> bool {
    let model = &model.request;
    *model != RequestChange { body: model.body.clone(), ..RequestChange::default() }
}

/// Whether a change speaks of answers.
pub fn of_answers(model: &Transform) -> bool {
    let model = &model.answer;
    *model != AnswerChange { body: model.body.clone(), ..AnswerChange::default() }
}

struct Reading<'g> {
    group: &'g Group,
    route: &'g Route,
    to: &'g [UpstreamId],
    callers: Callers<'g>,
    /// Its requests come no further than stage 6.
    ends: bool,
}

type List = Vec<Placed>;

fn add(list: &mut List, stage: Stage, filter: &'static str, of: &impl ToString) {
    list.push(Placed { stage, filter, of: of.to_string() });
}

impl<'g> Reading<'g> {
    fn request(&self) -> List {
        let Self { group, route, .. } = *self;
        let (mut list, policy) = (List::new(), &route.policy);
        if let Some(cors) = &policy.cors {
            add(&mut list, Stage::Normalise, "cors", &cors.by);
        }
        self.limits(&mut list, Stage::Normalise, true);
        if matches!(policy.auth, Auth::Asked(_)) {
            add(&mut list, Stage::Authn, "auth", &"");
        }
        if restricts(policy) {
            add(&mut list, Stage::Authz, "access", &"");
        }
        if let Some(asked) = &policy.authorize {
            add(&mut list, Stage::Authz, "authorize", &asked.url.value);
        }
        self.limits(&mut list, Stage::RateLimit, false);
        if route.sunset.is_some() {
            add(&mut list, Stage::Route, "sunset", &"");
        }
        if route.maintenance.is_some() {
            add(&mut list, Stage::Route, "maintenance", &"");
            return list;
        }
        if !route.split.is_empty() {
            add(&mut list, Stage::Route, "split", &"");
        }
        if matches!(route.to, RouteTo::Given(_)) {
            add(&mut list, Stage::Route, "answer", &"");
            return list;
        }
        self.changes(&mut list);
        let service = |list: &mut List| {
            for (name, _) in self.services() {
                add(list, Stage::Dispatch, "to", &name);
            }
        };
        match route.to {
            RouteTo::Files(_) => add(&mut list, Stage::Dispatch, "files", &""),
            RouteTo::Aggregate(_) => add(&mut list, Stage::Dispatch, "aggregate", &""),
            RouteTo::Service(_) | RouteTo::Given(_) => {
                if group.cache.is_some() && route.cache.is_some() {
                    add(&mut list, Stage::Dispatch, "cache", &"");
                }
                if route.mirror.is_some() {
                    add(&mut list, Stage::Dispatch, "mirror", &"");
                }
                service(&mut list);
            }
        }
        list
    }

    /// Stage 7.
    fn changes(&self, list: &mut List) {
        const AT: Stage = Stage::RequestTransform;
        let Self { group, route, .. } = *self;
        let contract = route.contract.as_ref();
        let own = |by| contract.filter(|one| (one.by == Attached::Listener) == by);
        let all = self.places(own(true), |one| one.contract.as_ref(), own(false), |_| None);
        all.into_iter().for_each(|(of, _)| add(list, AT, "validate", &of));
        let all = self.places(
            group.external.as_ref(),
            |one| one.external.as_ref(),
            route.external.as_ref(),
            |to| to.external.as_ref(),
        );
        all.into_iter().for_each(|(of, _)| add(list, AT, "external", &of));
        let changes = self.transforms();
        for (of, _) in changes.iter().filter(|(_, model)| of_requests(model)) {
            add(list, AT, "transform", &of);
        }
        for (of, _) in changes.iter().filter(|(_, model)| model.request.body.is_some()) {
            add(list, AT, "transform of the body", &of);
        }
        let all = self.places(None, |_| None, None, |to| to.contract.as_ref());
        all.into_iter().for_each(|(of, _)| add(list, AT, "validate", &of));
        if route.transcode.is_some() {
            add(list, AT, "transcode", &"");
        }
        if route.grpc_web {
            add(list, AT, "grpc-web", &"");
        }
    }

    fn answer(&self) -> List {
        const AT: Stage = Stage::ResponseTransform;
        let Self { group, route, .. } = *self;
        let mut list = List::new();
        let ending = &route.deprecation;
        let ending = ending.since.is_some() || ending.link.is_some() || ending.successor.is_some();
        if ending || route.sunset.is_some() {
            add(&mut list, Stage::Route, "deprecated", &"");
        }
        if !route.policy.limits.is_empty() {
            add(&mut list, Stage::RateLimit, "limits", &"");
        }
        if let Some(cors) = &route.policy.cors {
            add(&mut list, Stage::Normalise, "cors", &cors.by);
        }
        if route.transcode.is_some() && !self.ends {
            add(&mut list, AT, "transcode", &"");
        }
        let changes = self.transforms();
        for (of, model) in changes.iter().rev() {
            // A file's bytes are what they are.
            let service = !self.ends && !matches!(route.to, RouteTo::Files(_));
            if model.answer.body.is_some() && service {
                add(&mut list, AT, "transform of the body", &of);
            }
        }
        for (of, _) in changes.iter().rev().filter(|(_, model)| of_answers(model)) {
            add(&mut list, AT, "transform", &of);
        }
        if !self.ends {
            let all = self.places(
                group.external.as_ref(),
                |one| one.external.as_ref(),
                route.external.as_ref(),
                |to| to.external.as_ref(),
            );
            for (of, _) in all.iter().rev().filter(|(_, model)| model.answers) {
                add(&mut list, AT, "external", &of);
            }
        }
        self.forms(&mut list);
        if route.grpc_web && !self.ends {
            add(&mut list, AT, "grpc-web", &"");
        }
        if route.security_headers.is_some() {
            add(&mut list, AT, "security-headers", &"");
        }
        if !route.response_headers.is_empty() {
            add(&mut list, AT, "response-headers", &"");
        }
        list
    }

    /// Compressing: one place's word counts, where several callers are meant perhaps each one's.
    fn forms(&self, list: &mut List) {
        let (group, route) = (self.group, self.route);
        let mut words: Vec<(String, &Word<_>)> = Vec::new();
        let consumers = self.consumers().into_iter();
        words.extend(consumers.map(|(of, one)| (of, &one.compress)));
        let special = words.iter().filter(|(_, word)| !word.is_silent()).count();
        words.push((Attached::Route.to_string(), &route.compress));
        words.extend(self.services().into_iter().map(|(of, to)| (of, &to.compress)));
        words.push((Attached::Listener.to_string(), &group.compress));
        let said: Vec<_> = words.into_iter().filter(|(_, word)| !word.is_silent()).collect();
        let most = match self.callers {
            // Consumers' own words, and the one for everybody else.
            Callers::All => special + 1,
            Callers::One(_) | Callers::Others => 1,
        };
        for (of, word) in said.into_iter().take(most) {
            if word.rules().is_some() {
                add(list, Stage::ResponseTransform, "compress", &of);
            }
        }
    }

    fn limits(&self, list: &mut List, stage: Stage, early: bool) {
        let limits = self.route.policy.limits.iter().filter_map(|id| self.group.limits.get(id.0));
        for limit in limits.filter(|limit| limit.is_early() == early) {
            add(list, stage, "limit", &limit.name);
        }
    }

    fn transforms(&self) -> Vec<(String, &'g Transform)> {
        self.places(
            self.group.transform.as_ref(),
            |one| one.transform.as_ref(),
            self.route.transform.as_ref(),
            |to| to.transform.as_ref(),
        )
    }

    /// What the four places have, from the outermost.
    fn places<T>(
        &self,
        listener: Option<&'g T>,
        consumer: impl Fn(&'g Consumer) -> Option<&'g T>,
        route: Option<&'g T>,
        service: impl Fn(&'g Upstream) -> Option<&'g T>,
    ) -> Vec<(String, &'g T)> {
        let mut all = Vec::new();
        all.extend(listener.map(|one| (Attached::Listener.to_string(), one)));
        let consumers = self.consumers().into_iter();
        all.extend(consumers.filter_map(|(of, one)| Some((of, consumer(one)?))));
        all.extend(route.map(|one| (Attached::Route.to_string(), one)));
        let services = self.services().into_iter();
        all.extend(services.filter_map(|(of, one)| Some((of, service(one)?))));
        all
    }

    fn consumers(&self) -> Vec<(String, &'g Consumer)> {
        let all = self.group.consumers.iter();
        match self.callers {
            Callers::Others => Vec::new(),
            Callers::One(name) => {
                let own = all.filter(|one| one.name == name);
                own.map(|one| (Attached::Consumer.to_string(), one)).collect()
            }
            Callers::All => all.map(|one| (format!("the consumer {}", one.name), one)).collect(),
        }
    }

    fn services(&self) -> Vec<(String, &'g Upstream)> {
        let all = self.to.iter().filter_map(|id| self.group.upstreams.get(id.0));
        let called = |one: &Upstream| match self.to {
            [_] => Attached::Service.to_string(),
            _ => format!("the service {}", one.service),
        };
        all.map(|one| (called(one), one)).collect()
    }
}

/// Whether not everybody may do everything.
pub fn restricts(policy: &topology::gateway::RoutePolicy) -> bool {
    !policy.scopes.is_empty() || !policy.allow.is_empty() || policy.access == Access::Deny
}
