//! Stage 6: the route, once everybody has agreed to the request. Not for the look-up (`matcher`) and
//! not for the endpoint (`dispatch`). Called by `pipeline`.
//!
//! Invariant: a route whose sunset has passed is never taken.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderValue;
use thiserror::Error;
use topology::units::{Day, ServiceName};

use crate::access_log::line::civil;
use crate::exchange::{Admitted, Candidate, Exchange, RouteId, Routed, Stage};
use crate::halt::Halt;
use crate::pipeline::Filter;
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
        let service = |route: &topology::gateway::Route| {
            let upstream = group.upstreams.get(route.to.0);
            ServiceName::new(upstream.map_or("", |upstream| upstream.service.as_str()))
        };
        let services = group.routes.iter().map(service).collect();
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
                let (host, path) = (&request.target.host, &request.target.path);
                let found = self.snapshot.matcher.find(host, path, &request.method);
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
        x.record.service = self.services.get(route.0).cloned();
        Ok(Routed { request: input.request, grant: input.grant, route })
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
