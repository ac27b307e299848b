//! Rate, errors and quantiles by route and by endpoint, as operators see them (`/traffic`). Not for
//! counting: the sink and `dispatch` do, into the series that are named here. Called by `inspect`.
//!
//! Invariant: there is a row for each name of the file that is in force, and for nothing else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::observe::{Latency, Metrics, Observer};
use common::snapshot::Published;
use serde_json::{Value, json};
use tokio::time::{Instant, interval};
use topology::{EndpointName, ServiceName};

use crate::snapshot::Snapshot;

/// How long it took, and how often it failed.
pub type Counted = (Arc<Latency>, Arc<AtomicU64>);

/// The series of a route; the empty name is that of requests that no route matched.
pub fn of_route(name: &str, metrics: &Metrics) -> Counted {
    let labels = [("route", name)];
    let help = "Time from a request's head to the last byte of its answer";
    let seconds = metrics.latency("aqueduct_http_request_seconds", help, &labels);
    let help = "Requests that were answered 5xx";
    (seconds, metrics.tally("aqueduct_http_request_errors_total", help, &labels))
}

/// The series of an endpoint.
pub fn of_endpoint(service: &ServiceName, endpoint: &EndpointName, metrics: &Metrics) -> Counted {
    let labels = [("service", service.as_str()), ("endpoint", endpoint.as_str())];
    let help = "Time from an attempt's beginning to the head of the endpoint's answer, or its end";
    let seconds = metrics.latency("aqueduct_http_attempt_seconds", help, &labels);
    let help = "Attempts that were answered 5xx or not at all";
    (seconds, metrics.tally("aqueduct_http_attempt_errors_total", help, &labels))
}

/// What is shown of an instance.
#[derive(Debug)]
pub struct Traffic {
    published: Arc<Published<Snapshot>>,
    metrics: Metrics,
    rates: Mutex<Rates>,
}

/// Counts of a while ago, and what they grew by since the time before.
#[derive(Debug)]
struct Rates {
    at: Instant,
    known: HashMap<Key, (u64, f64)>,
}

/// A route, or a service with one of its endpoints.
type Key = (Arc<str>, Option<EndpointName>);

/// How long a rate is measured.
const WINDOW: Duration = Duration::from_secs(10);

impl Traffic {
    /// Of the living parts of an instance.
    pub fn new(published: &Arc<Published<Snapshot>>, observer: &Observer) -> Arc<Self> {
        let rates = Mutex::new(Rates { at: Instant::now(), known: HashMap::new() });
        let (published, metrics) = (Arc::clone(published), observer.metrics.clone());
        Arc::new(Self { published, metrics, rates })
    }

    /// Measures rates, until it is dropped.
    pub async fn keep(self: Arc<Self>) {
        let mut tick = interval(WINDOW);
        loop {
            tick.tick().await;
            self.measure(Instant::now());
        }
    }

    /// Takes what has come since it was called last for the rate.
    pub fn measure(&self, now: Instant) {
        let snapshot = self.published.load_full();
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = now.saturating_duration_since(rates.at).as_secs_f64();
        let rows = routes(&snapshot).chain(endpoints(&snapshot));
        let grown = rows.map(|key| {
            let count = self.counted(&key).0.count();
            let before = rates.known.get(&key).map_or(0, |(before, _)| *before);
            let rate =
                if seconds > 0.0 { count.saturating_sub(before) as f64 / seconds } else { 0.0 };
            (key, (count, rate))
        });
        *rates = Rates { at: now, known: grown.collect() };
    }

    fn counted(&self, (name, endpoint): &Key) -> Counted {
        match endpoint {
            None => of_route(name, &self.metrics),
            Some(endpoint) => of_endpoint(&ServiceName::new(name), endpoint, &self.metrics),
        }
    }

    /// As JSON: since the start, but for the rate, which is of the last ten seconds that are over.
    pub fn show(&self) -> Value {
        let snapshot = self.published.load_full();
        let rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |key: Key| {
            let (seconds, errors) = self.counted(&key);
            let micros = |quantile: f64| {
                let time = seconds.quantile(quantile)?;
                u64::try_from(time.as_micros()).ok()
            };
            let mut row = json!({
                "total": seconds.count(),
                "errors": errors.load(Ordering::Relaxed),
                "per_second": rates.known.get(&key).map_or(0.0, |(_, rate)| *rate),
                "p50_us": micros(0.5),
                "p90_us": micros(0.9),
                "p99_us": micros(0.99),
            });
            let names = match key {
                (route, None) => vec![("route", route.to_string())],
                (service, Some(endpoint)) => {
                    vec![("service", service.to_string()), ("endpoint", endpoint.to_string())]
                }
            };
            if let Some(row) = row.as_object_mut() {
                row.extend(names.into_iter().map(|(key, name)| (key.to_owned(), name.into())));
            }
            row
        };
        json!({
            "routes": routes(&snapshot).map(row).collect::<Vec<_>>(),
            "endpoints": endpoints(&snapshot).map(row).collect::<Vec<_>>(),
        })
    }
}

fn routes(snapshot: &Snapshot) -> impl Iterator<Item = Key> {
    let names = snapshot.group.routes.iter().map(|route| route.name.as_str());
    names.chain([""]).map(|name| (Arc::from(name), None))
}

/// Of services that routes lead to in two ways, once.
fn endpoints(snapshot: &Snapshot) -> impl Iterator<Item = Key> {
    let mut keys: Vec<Key> = Vec::new();
    for upstream in &snapshot.upstreams {
        let service: Arc<str> = Arc::from(upstream.model.service.as_str());
        let roster = upstream.roster();
        let own = roster.service.endpoints.iter();
        keys.extend(own.map(|endpoint| (Arc::clone(&service), Some(endpoint.name.clone()))));
    }
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
}
