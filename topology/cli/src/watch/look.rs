//! What one second showed: states, rates and quantiles of every instance, made from what listeners
//! say now and what they said before. Not for asking (`answer`) or keeping (`history`). The page and
//! the terminal view show it.
//!
//! Invariant: a counter that went back belongs to a new process, and gives no rate.

use std::collections::{HashMap, VecDeque};

use common::observe::admin::Unit;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::answer::{Answer, Check, EndpointSaid, Limited, Part, Series};

/// All instances at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Look {
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    /// In the roster's order.
    pub(crate) instances: Vec<Seen>,
    /// Work per second on each line of the picture; `None`: not counted there.
    pub(crate) lines: Vec<Option<Flow>>,
    /// New records of gateways and poolers, newest last.
    pub(crate) requests: Vec<Value>,
}

/// What passes a line of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Flow {
    /// Pieces of work, or bytes.
    pub(crate) rate: f64,
    pub(crate) unit: &'static str,
}

/// One instance.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) state: State,
    /// Why it is not ready, or dead.
    pub(crate) why: String,
    pub(crate) unit: Option<Unit>,
    pub(crate) connections: Option<u64>,
    /// Work per second.
    pub(crate) rate: Option<f64>,
    /// Failures per second.
    pub(crate) failing: Option<f64>,
    pub(crate) errors: Option<u64>,
    /// Of the last ten seconds, in µs.
    pub(crate) p50: Option<u64>,
    pub(crate) p99: Option<u64>,
    pub(crate) endpoints: Vec<EndpointSeen>,
    pub(crate) routes: Vec<RouteSeen>,
    pub(crate) limited: Vec<Limited>,
    pub(crate) listeners: Vec<ListenerSeen>,
    pub(crate) pools: Vec<PoolSeen>,
}

/// How an instance is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Ready,
    /// It answers and says why it is not ready.
    Waiting,
    Draining,
    /// It does not answer.
    Dead,
    /// It was not asked yet, or cannot be.
    #[default]
    Unknown,
}

/// An endpoint as an instance sees it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EndpointSeen {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) weight: u16,
    pub(crate) condition: String,
    pub(crate) active: u64,
    /// What waits for it or another of its service; `None`: there is no line.
    pub(crate) queue: Option<u64>,
    /// Attempts per second of a gateway, new flows per second of a balancer.
    pub(crate) rate: Option<f64>,
    pub(crate) unit: &'static str,
    /// Failed attempts of a gateway; of a balancer refused connections and datagrams.
    pub(crate) errors: Option<u64>,
    pub(crate) p99: Option<u64>,
    pub(crate) check: String,
    pub(crate) ago: Option<u64>,
}

/// A route of a gateway.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RouteSeen {
    pub(crate) name: String,
    pub(crate) rate: f64,
    pub(crate) total: u64,
    pub(crate) errors: u64,
    pub(crate) p50: Option<u64>,
    pub(crate) p99: Option<u64>,
}

/// A listener of a balancer.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ListenerSeen {
    pub(crate) name: String,
    pub(crate) flows: f64,
    pub(crate) connections: Option<f64>,
    pub(crate) packets: Option<f64>,
    pub(crate) bytes: Option<f64>,
    pub(crate) refused: f64,
}

/// A pool of a pooler: a database and a user.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct PoolSeen {
    pub(crate) database: String,
    pub(crate) user: String,
    pub(crate) rate: Option<f64>,
    pub(crate) clients: [f64; 3],
    pub(crate) servers: [f64; 2],
    /// Seconds that clients waited, per second.
    pub(crate) waiting: Option<f64>,
    pub(crate) waited: f64,
    /// Server connections that failed: per second, and since the start.
    pub(crate) failing: Option<f64>,
    pub(crate) failed: f64,
}

/// What an instance said before.
#[derive(Debug, Default)]
pub(crate) struct Past {
    at: Option<Instant>,
    totals: HashMap<String, f64>,
    latencies: VecDeque<Vec<(u64, u64)>>,
}

/// Looks that a quantile covers.
const SPAN: usize = 10;
/// Routes that are shown of an instance.
const ROUTES: usize = 20;

/// The growth of counters since the last look.
struct Growth<'a> {
    before: HashMap<String, f64>,
    past: &'a mut Past,
    seconds: f64,
}

impl Growth<'_> {
    /// Per second; nothing at the first look, or after a restart.
    fn of(&mut self, key: String, total: f64) -> Option<f64> {
        let before = self.before.get(&key).copied();
        self.past.totals.insert(key, total);
        let grown = total - before?;
        (self.seconds > 0.0 && grown >= 0.0).then(|| grown / self.seconds)
    }
}

impl Past {
    /// What is seen of an instance that answered.
    pub(crate) fn see(&mut self, name: &str, answer: Answer, now: Instant) -> Seen {
        let seconds = self.at.map_or(0.0, |at| now.duration_since(at).as_secs_f64());
        self.at = Some(now);
        let before = std::mem::take(&mut self.totals);
        let numbers = answer.summary.numbers;
        let state = match answer.unready.first().map(String::as_str) {
            None => State::Ready,
            Some("draining") => State::Draining,
            Some(_) => State::Waiting,
        };
        let [p50, p99] = self.quantiles(answer.summary.latency_us);
        let mut growth = Growth { before, past: self, seconds };
        let rate = growth.of("work".into(), float(numbers.work_total));
        let failing = growth.of("errors".into(), float(numbers.errors_total));
        let mut endpoints = Vec::new();
        for service in answer.services {
            let known = &answer.traffic.endpoints;
            for one in service.endpoints {
                let seen = endpoint(&service.service, one, known, &mut growth);
                endpoints.push(EndpointSeen { queue: service.waiting, ..seen });
            }
        }
        Seen {
            name: name.to_owned(),
            state,
            why: answer.unready.join("; "),
            unit: Some(numbers.unit),
            connections: Some(numbers.connections),
            rate,
            failing,
            errors: Some(numbers.errors_total),
            p50,
            p99,
            endpoints,
            routes: routes(answer.traffic.routes, &mut growth),
            limited: answer.limited,
            listeners: listeners(&answer.series, &mut growth),
            pools: pools(&answer.series, &mut growth),
        }
    }

    /// What is seen of one that did not; what it said before is forgotten.
    pub(crate) fn miss(&mut self, name: &str, why: String) -> Seen {
        *self = Self::default();
        Seen { name: name.to_owned(), state: State::Dead, why, ..Seen::default() }
    }

    /// The median and the 99th percentile of what came in the last looks.
    fn quantiles(&mut self, counts: Vec<(u64, u64)>) -> [Option<u64>; 2] {
        let total = |counts: &[(u64, u64)]| counts.iter().map(|(_, n)| n).sum::<u64>();
        if self.latencies.back().is_some_and(|last| total(last) > total(&counts)) {
            self.latencies.clear();
        }
        let oldest = self.latencies.front().cloned();
        if self.latencies.len() == SPAN {
            self.latencies.pop_front();
        }
        self.latencies.push_back(counts.clone());
        let Some(oldest) = oldest else { return [None, None] };
        let old: HashMap<u64, u64> = oldest.into_iter().collect();
        let grown = counts.into_iter().map(|(upper, n)| {
            (upper, n.saturating_sub(old.get(&upper).copied().unwrap_or_default()))
        });
        let grown: Vec<(u64, u64)> = grown.collect();
        [(1, 2), (99, 100)].map(|share| quantile(&grown, share))
    }
}

/// The value that this share of all stays below; the counts go up by value.
fn quantile(counts: &[(u64, u64)], (part, of): (u64, u64)) -> Option<u64> {
    let total: u64 = counts.iter().map(|(_, n)| n).sum();
    let rank = (total * part).div_ceil(of).max(1);
    let mut seen = 0;
    let reached = counts.iter().find(|(_, n)| {
        seen += n;
        seen >= rank
    });
    reached.map(|(upper, _)| *upper)
}

fn endpoint(
    service: &str,
    said: EndpointSaid,
    traffic: &[Part],
    growth: &mut Growth<'_>,
) -> EndpointSeen {
    let part = traffic.iter().find(|part| part.service == service && part.endpoint == said.name);
    let (mut check, ago) = match said.last_check {
        None => (String::new(), None),
        Some(Check::Word(outcome)) => (outcome, None),
        Some(Check::Whole { outcome, ago_ms }) => (outcome, Some(ago_ms)),
    };
    if let Some(ms) = said.ejected_for_ms {
        check = format!("ejected by traffic for {:.1} s more", float(ms) / 1e3);
    }
    let begun = part.map(|part| part.total).or(said.flows_total);
    EndpointSeen {
        rate: begun
            .and_then(|begun| growth.of(format!("endpoint {service} {}", said.name), float(begun))),
        unit: if said.flows_total.is_some() { "flows" } else { "requests" },
        errors: part.map(|part| part.errors).or(said.failures_total),
        p99: part.and_then(|part| part.p99_us),
        service: service.to_owned(),
        name: said.name,
        address: said.address,
        weight: said.weight,
        condition: said.condition,
        active: said.active,
        queue: None,
        check,
        ago,
    }
}

/// Those that have most to do.
fn routes(parts: Vec<Part>, growth: &mut Growth<'_>) -> Vec<RouteSeen> {
    let used = parts.into_iter().filter(|part| part.total > 0);
    let mut routes: Vec<RouteSeen> = used
        .map(|part| RouteSeen {
            rate: growth.of(format!("route {}", part.route), float(part.total)).unwrap_or(0.0),
            name: part.route,
            total: part.total,
            errors: part.errors,
            p50: part.p50_us,
            p99: part.p99_us,
        })
        .collect();
    routes.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.total.cmp(&a.total)));
    routes.truncate(ROUTES);
    routes
}

fn listeners(series: &[Series], growth: &mut Growth<'_>) -> Vec<ListenerSeen> {
    let mut all: Vec<ListenerSeen> = Vec::new();
    for one in series.iter().filter(|one| one.name.starts_with("aqueduct_l4_")) {
        let name = one.label("listener");
        let at = all.iter().position(|known| known.name == name).unwrap_or_else(|| {
            all.push(ListenerSeen { name: name.to_owned(), ..ListenerSeen::default() });
            all.len() - 1
        });
        let Some(listener) = all.get_mut(at) else { continue };
        let mut grown =
            || growth.of(format!("{} {name} {}", one.name, one.label("direction")), one.value);
        match one.name.as_str() {
            "aqueduct_l4_flows" => listener.flows = one.value,
            "aqueduct_l4_refused_total" => listener.refused += one.value,
            "aqueduct_l4_connections_total" => listener.connections = grown(),
            "aqueduct_l4_datagrams_total" => add(&mut listener.packets, grown()),
            "aqueduct_l4_bytes_total" => add(&mut listener.bytes, grown()),
            _ => {}
        }
    }
    all
}

fn pools(series: &[Series], growth: &mut Growth<'_>) -> Vec<PoolSeen> {
    let mut all: Vec<PoolSeen> = Vec::new();
    for one in series.iter().filter(|one| one.name.starts_with("aqueduct_pg_")) {
        let (database, user) = (one.label("database"), one.label("user"));
        let same = |known: &PoolSeen| known.database == database && known.user == user;
        let at = all.iter().position(same).unwrap_or_else(|| {
            let (database, user) = (database.to_owned(), user.to_owned());
            all.push(PoolSeen { database, user, ..PoolSeen::default() });
            all.len() - 1
        });
        let Some(pool) = all.get_mut(at) else { continue };
        let mut grown = || growth.of(format!("{} {database} {user}", one.name), one.value);
        match (one.name.as_str(), one.label("state")) {
            ("aqueduct_pg_queries_total", _) => pool.rate = grown(),
            ("aqueduct_pg_wait_seconds_total", _) => {
                (pool.waiting, pool.waited) = (grown(), one.value);
            }
            ("aqueduct_pg_server_failures_total", _) => {
                (pool.failing, pool.failed) = (grown(), one.value);
            }
            ("aqueduct_pg_clients", "active") => pool.clients[0] = one.value,
            ("aqueduct_pg_clients", "waiting") => pool.clients[1] = one.value,
            ("aqueduct_pg_clients", "idle") => pool.clients[2] = one.value,
            ("aqueduct_pg_servers", "active") => pool.servers[0] = one.value,
            ("aqueduct_pg_servers", "idle") => pool.servers[1] = one.value,
            _ => {}
        }
    }
    all
}

fn add(sum: &mut Option<f64>, more: Option<f64>) {
    if let Some(more) = more {
        *sum = Some(sum.unwrap_or(0.0) + more);
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests;
