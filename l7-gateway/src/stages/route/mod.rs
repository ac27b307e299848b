//! Stage 6: the route, once everybody has agreed to the request. Not for the look-up (`matcher`) and
//! not for the endpoint (`dispatch`). Called by `pipeline`.
//!
//! Invariant: a route whose sunset has passed is never taken.

use std::sync::Arc;
use std::time::SystemTime;

use common::balance::HashKey;
use http::HeaderValue;
use thiserror::Error;
use topology::gateway::{RouteTo, Sticky};
use topology::units::{Day, ServiceName};

use crate::access_log::line::civil;
use crate::exchange::{Admitted, Candidate, Exchange, Identity, RouteId, Routed, Stage};
use crate::halt::Halt;
use crate::pipeline::Filter;
use crate::predicate::{self, Asked};
use crate::snapshot::Snapshot;
use crate::trace::{Silent, Trace};

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
}

/// The stage, one per worker.
#[derive(Debug)]
pub struct Route {
    snapshot: Arc<Snapshot>,
    services: Vec<ServiceName>,
}

impl Route {
    /// For one worker, with service names in its own memory.
    pub fn new(snapshot: &Arc<Snapshot>) -> Self {
        let group = &snapshot.group;
        let service =
            |upstream: &topology::gateway::Upstream| ServiceName::new(upstream.service.as_str());
        let services = group.upstreams.iter().map(service).collect();
        Self { snapshot: Arc::clone(snapshot), services }
    }
}

impl Filter for Route {
    const STAGE: Stage = Stage::Route;
    type In = Admitted;
    type Out = Routed;
    type Plan = Result<RouteId, RouteError>;

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
        match route.sunset {
            Some(last) if day_of(x.wall) > last => Err(RouteError::Sunset),
            _ => Ok(id),
        }
    }

    async fn request(&self, x: &mut Exchange, input: Admitted) -> Result<Routed, Halt> {
        let route = self.plan(x, &input, &mut Silent)?;
        let model = self.snapshot.group.routes.get(route.0).ok_or(RouteError::NoRoute)?;
        let to = side(model, x, &input);
        x.record.service = to.service().and_then(|id| self.services.get(id.0).cloned());
        Ok(Routed { request: input.request, grant: input.grant, route, to })
    }
}

/// Which side of its split a request is on. Of ten thousand tickets everybody holds one, by a hash
/// that no change of the parts moves; each share has the lowest that are left.
fn side(route: &topology::gateway::Route, x: &Exchange, input: &Admitted) -> RouteTo {
    if route.split.is_empty() {
        return route.to;
    }
    let key = HashKey::from_names([route.name.as_str()]);
    let address = || key.client(x.peer.address());
    let hash = match &route.sticky {
        Sticky::Address => address(),
        Sticky::User => {
            let user = input.grant.caller().identity().map(Identity::user_header);
            user.map_or_else(address, |user| key.hash(user.as_bytes()))
        }
        Sticky::Cookie(name) => predicate::cookie(&input.request.headers, name)
            .map_or_else(address, |value| key.hash(value.as_bytes())),
    };
    let ticket = hash % 10_000;
    let mut sum = 0;
    let share = route.split.iter().find(|share| {
        sum += u64::from(share.part.0) * 100;
        ticket < sum
    });
    share.map_or(route.to, |share| RouteTo::Service(share.to))
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
