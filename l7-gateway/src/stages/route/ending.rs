//! What clients of a route are told that nobody should use any more (RFC 9745, RFC 8594), and who they are.
//! Not for the end itself: that is stage 6's plan. Called by stage 6 on both sides.
//!
//! Invariant: a route that does not end costs one look at an empty table.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use common::observe::Metrics;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use topology::gateway::Route;

use crate::exchange::{Caller, RouteId};

/// Routes that end.
#[derive(Debug)]
pub struct Endings {
    headers: HashMap<RouteId, Vec<(HeaderName, HeaderValue)>>,
    callers: RefCell<HashMap<(RouteId, Box<str>), metrics::Counter>>,
    metrics: Metrics,
}

impl Endings {
    /// Of a group.
    pub fn new(routes: &[Route], metrics: &Metrics) -> Self {
        let all = routes.iter().enumerate().map(|(index, route)| (RouteId(index), told(route)));
        let headers = all.filter(|(_, headers)| !headers.is_empty()).collect();
        Self { headers, callers: RefCell::default(), metrics: metrics.clone() }
    }

    /// Somebody still calls.
    pub fn count(&self, id: RouteId, route: &Route, caller: &Caller) {
        if !self.headers.contains_key(&id) {
            return;
        }
        let name = match caller.identity() {
            None => "none",
            // Users are too many for a label.
            Some(identity) => identity.consumer().unwrap_or("users"),
        };
        let mut callers = self.callers.borrow_mut();
        let name = if callers.len() < MOST || name == "none" { name } else { "others" };
        let counter = callers.entry((id, name.into())).or_insert_with(|| {
            let help = "Requests to routes that are deprecated or will end, by consumer.";
            let labels = [("route", route.name.as_str()), ("consumer", name)];
            self.metrics.counter("aqueduct_http_deprecated_requests_total", help, &labels)
        });
        counter.increment(1);
    }

    /// What every answer of it says.
    pub fn respond(&self, route: Option<RouteId>, headers: &mut HeaderMap) {
        if self.headers.is_empty() {
            return;
        }
        for (name, value) in route.and_then(|id| self.headers.get(&id)).into_iter().flatten() {
            if *name == header::LINK {
                headers.append(name, value.clone());
            } else {
                headers.insert(name, value.clone());
            }
        }
    }
}

/// Names that are counted by themselves, on each worker.
const MOST: usize = 1000;

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
