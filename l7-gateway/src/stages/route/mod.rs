//! Stage 6: the route, once everybody has agreed to the request. Not for the look-up (`matcher`) and
//! not for the endpoint (`dispatch`). Called by `pipeline`.
//!
//! Invariant: a route whose sunset has passed is never taken.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use common::calendar::civil;
use common::observe::Metrics;
use http::{HeaderValue, header};
use thiserror::Error;
use topology::answers::{GivenId, Maintenance};
use topology::gateway::{ExperimentId, RouteTo};
use topology::units::{Day, ServiceName};

use self::ending::Endings;
use self::experiment::Trial;
use self::split::{Split, Subject};
use crate::exchange::{
    Admitted, Candidate, Exchange, Identity, ResponseHead, RouteId, Routed, Stage,
};
use crate::halt::Halt;
use crate::pipeline::Filter;
use crate::predicate::Asked;
use crate::snapshot::Snapshot;
use crate::trace::{Silent, Trace};
use crate::transform::Refused;
use crate::transform::facts::{Facts, Known};
use crate::usage::Counters;

pub mod ending;
pub mod experiment;
pub mod given;
pub mod split;

/// Why there is no route.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RouteError {
    /// Nothing matches.
    #[error("no route matches host and path")]
    NoRoute,
    /// The path exists for other methods.
    #[error("the path exists for other methods")]
    Method {
        /// Value of `Allow`.
        allow: HeaderValue,
    },
    /// Its day has passed.
    #[error("the route was withdrawn")]
    Sunset,
    /// It is closed for a while.
    #[error("the route is closed for a while")]
    Closed(Maintenance),
}

/// The stage, one per worker.
#[derive(Debug)]
pub struct Route {
    snapshot: Arc<Snapshot>,
    services: Vec<ServiceName>,
    /// Routes whose requests are divided.
    splits: HashMap<RouteId, Split>,
    experiments: Vec<Trial>,
    endings: Endings,
    callers: Counters,
}

/// What is decided of a request.
#[derive(Clone, Debug)]
pub struct Chosen {
    route: RouteId,
    to: RouteTo,
    /// The part of the split, if it is in one.
    part: Option<usize>,
    /// The part's cookie is handed out.
    handed: bool,
    /// Experiments with the variant and whether its cookie is handed out.
    variants: Vec<(ExperimentId, usize, bool)>,
}

impl Route {
    /// For one worker, with service names in its own memory.
    pub fn new(snapshot: &Arc<Snapshot>, metrics: &Metrics) -> Self {
        let group = &snapshot.group;
        let service =
            |upstream: &topology::gateway::Upstream| ServiceName::new(upstream.service.as_str());
        let services: Vec<ServiceName> = group.upstreams.iter().map(service).collect();
        let divided = group.routes.iter().enumerate().filter(|(_, route)| !route.split.is_empty());
        let splits = divided
            .map(|(index, route)| (RouteId(index), Split::new(route, &services, metrics)))
            .collect();
        let experiments = group.experiments.iter().map(|e| Trial::new(e, metrics)).collect();
        let endings = Endings::new(&group.routes);
        let callers = Counters::new(&snapshot.usage, &group.routes);
        Self { snapshot: Arc::clone(snapshot), services, splits, experiments, endings, callers }
    }

    /// The end at an answer that is in the file.
    fn given(&self, x: &Exchange, input: &Admitted, route: RouteId, id: GivenId) -> Halt {
        let Some(given) = self.snapshot.group.given.get(id.0) else {
            return RouteError::NoRoute.into();
        };
        let request = &*input.request;
        let known = Known {
            x,
            caller: input.grant.caller().identity(),
            route: self.snapshot.group.routes.get(route.0).map_or("", |route| route.name.as_str()),
            service: None,
            captured: self.snapshot.captures(route).map(|all| (all, &*request.target.path)),
            answers: &[],
        };
        let answer = given::answer(given, &Facts { known, seen: request.into() });
        answer
            .map_or_else(|why| Refused::Request(why).into(), |answer| Halt::Given(Box::new(answer)))
    }

    /// Which side of its split a request is on, and its variants.
    fn choose(
        &self,
        route: RouteId,
        model: &topology::gateway::Route,
        who: &Subject<'_>,
        trace: &mut impl Trace,
    ) -> Chosen {
        let mut chosen =
            Chosen { route, to: model.to, part: None, handed: false, variants: Vec::new() };
        if let Some(split) = self.splits.get(&route)
            && let Some((part, handed)) = split.part(model, who)
            && let Some(taken) = model.split.get(part)
        {
            (chosen.to, chosen.part, chosen.handed) =
                (RouteTo::Service(taken.to), Some(part), handed);
            trace.note(Stage::Route, || {
                let name = self.services.get(taken.to.0).map_or("", ServiceName::as_str);
                let why = if handed || taken.cookie.is_none() { "ticket" } else { "cookie" };
                format!("by its {why} it is in the {} of {name}", taken.part)
            });
        }
        for id in &model.experiments {
            let Some(trial) = self.experiments.get(id.0) else { continue };
            if let Some((variant, handed)) = trial.variant(who) {
                chosen.variants.push((*id, variant, handed));
                trace.note(Stage::Route, || {
                    format!("in {} it has {}", trial.name(), trial.variant_name(variant))
                });
            }
        }
        chosen
    }
}

impl Filter for Route {
    const STAGE: Stage = Stage::Route;
    type In = Admitted;
    type Out = Routed;
    type Plan = Result<Chosen, RouteError>;

    fn plan(&self, x: &Exchange, input: &Admitted, trace: &mut impl Trace) -> Self::Plan {
        let id = match x.candidate {
            Candidate::Unmatched => return Err(RouteError::NoRoute),
            Candidate::Route(id) => id,
            Candidate::OtherMethod(_) => {
                let request = &input.request;
                let found = self.snapshot.matcher.find(&Asked {
                    host: &request.target.host,
                    path: &request.target.path,
                    query: request.target.query.as_deref(),
                    method: &request.method,
                    headers: &request.headers,
                });
                let allow = found.allow.ok_or(RouteError::NoRoute)?;
                return Err(RouteError::Method { allow });
            }
        };
        let route = self.snapshot.group.routes.get(id.0).ok_or(RouteError::NoRoute)?;
        trace.note(Stage::Route, || format!("route {} is taken", route.name));
        if route.sunset.is_some_and(|last| day_of(x.wall) > last) {
            return Err(RouteError::Sunset);
        }
        if let Some(maintenance) = &route.maintenance {
            return Err(RouteError::Closed(maintenance.clone()));
        }
        let who = Subject {
            user: input.grant.caller().identity().map(Identity::subject_header),
            address: x.peer.address(),
            headers: &input.request.headers,
        };
        Ok(self.choose(id, route, &who, trace))
    }

    async fn request(&self, x: &mut Exchange, mut input: Admitted) -> Result<Routed, Halt> {
        // Who comes too late is counted too.
        if let Candidate::Route(id) = x.candidate {
            self.callers.count(id, input.grant.caller(), x.wall);
            let route = self.snapshot.group.routes.get(id.0);
            if route.is_some_and(|route| route.sunset.is_some()) {
                x.passes(Stage::Route, "sunset", "");
            }
        }
        let chosen = self.plan(x, &input, &mut Silent).inspect_err(|why| {
            if matches!(why, RouteError::Closed(_)) {
                x.passes(Stage::Route, "maintenance", "");
            }
        })?;
        if self.splits.contains_key(&chosen.route) {
            x.passes(Stage::Route, "split", "");
        }
        if let RouteTo::Given(id) = chosen.to {
            x.passes(Stage::Route, "answer", "");
            return Err(self.given(x, &input, chosen.route, id));
        }
        x.record.service = chosen.to.service().and_then(|id| self.services.get(id.0).cloned());
        let secure = x.peer.scheme() == "https";
        if let Some(split) = self.splits.get(&chosen.route) {
            x.record.variants.extend(split.stats(chosen.part).cloned());
            let cookie = split.cookie(chosen.part.filter(|_| chosen.handed), secure);
            x.cookies.extend(cookie.cloned());
        }
        for (id, variant, handed) in &chosen.variants {
            let Some(trial) = self.experiments.get(id.0) else { continue };
            x.record.variants.extend(trial.stats(*variant).cloned());
            if let Some((name, value)) = trial.header(*variant) {
                input.request.headers.insert(name, value.clone());
            }
            x.cookies.extend(trial.cookie(*variant, secure).filter(|_| *handed).cloned());
        }
        let Chosen { route, to, .. } = chosen;
        Ok(Routed { request: input.request, grant: input.grant, route, to })
    }

    fn response(&self, x: &Exchange, head: &mut ResponseHead) {
        if self.endings.any(x.candidate.route()) {
            x.passes(Stage::Route, "deprecated", "");
        }
        self.endings.respond(x.candidate.route(), &mut head.headers);
        // Nobody is to stay where it fails.
        if !head.status.is_server_error() {
            for cookie in &x.cookies {
                head.headers.append(header::SET_COOKIE, cookie.clone());
            }
        }
    }
}

/// The UTC day of a moment.
fn day_of(at: SystemTime) -> Day {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = civil(since.as_secs() / 86_400);
    // Years of `Day` end at 9999; months and days are small by construction.
    let small = |n: u64| u8::try_from(n).unwrap_or(u8::MAX);
    Day { year: u16::try_from(year).unwrap_or(u16::MAX), month: small(month), day: small(day) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// G14: a route answers through the whole of its last day (UTC), and not a second longer.
    #[test]
    fn a_sunset_ends_with_its_day() {
        let last = Day { year: 2026, month: 11, day: 20 };
        let midnight = SystemTime::UNIX_EPOCH + Duration::from_secs(20_778 * 86_400);
        assert!(day_of(midnight - Duration::from_secs(1)) == last);
        assert!(day_of(midnight) > last);
        assert!(day_of(midnight + Duration::from_secs(86_400 * 365)) > last);
    }
}
