//! What clients of a route are told that nobody should use any more (RFC 9745, RFC 8594). Not for the end
//! itself: that is stage 6's plan; nor for who they are: that is `usage`. Called by stage 6.
//!
//! Invariant: a route that does not end costs one look.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use topology::gateway::Route;

use crate::exchange::RouteId;

/// Routes that end.
#[derive(Debug)]
pub struct Endings {
    headers: Vec<Vec<(HeaderName, HeaderValue)>>,
}

impl Endings {
    /// Of a group.
    pub fn new(routes: &[Route]) -> Self {
        Self { headers: routes.iter().map(told).collect() }
    }

    /// Whether a route ends.
    pub fn any(&self, route: Option<RouteId>) -> bool {
        route.and_then(|id| self.headers.get(id.0)).is_some_and(|told| !told.is_empty())
    }

    /// What every answer of it says.
    pub fn respond(&self, route: Option<RouteId>, headers: &mut HeaderMap) {
        for (name, value) in route.and_then(|id| self.headers.get(id.0)).into_iter().flatten() {
            if *name == header::LINK {
                headers.append(name, value.clone());
            } else {
                headers.insert(name, value.clone());
            }
        }
    }
}

fn told(route: &Route) -> Vec<(HeaderName, HeaderValue)> {
    let ending = &route.deprecation;
    let mut all = Vec::new();
    let mut say = |name: &'static str, value: String| {
        let value = HeaderValue::try_from(value).ok();
        all.extend(value.map(|value| (HeaderName::from_static(name), value)));
    };
    if let Some(since) = ending.since {
        say("deprecation", format!("@{}", since.begins()));
    }
    if let Some(last) = route.sunset {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(last.begins() + 86_400);
        say("sunset", httpdate::fmt_http_date(end));
    }
    if let Some(link) = &ending.link {
        say("link", format!("<{link}>; rel=\"deprecation\"; type=\"text/html\""));
        if route.sunset.is_some() {
            say("link", format!("<{link}>; rel=\"sunset\"; type=\"text/html\""));
        }
    }
    if let Some(successor) = &ending.successor {
        say("link", format!("<{successor}>; rel=\"successor-version\""));
    }
    all
}
