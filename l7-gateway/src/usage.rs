//! Who calls which version of an interface (spec G14): counts by route and consumer, for as long as anybody does.
//! Not for what callers are told: that is `stages/route/ending`. Counted by stage 6, shown by `inspect`.
//!
//! Invariant: a route that neither has a version nor ends costs one look at an empty place, a name that is known
//! is counted as itself, and names are bounded for all workers together.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use common::observe::Metrics;
use serde_json::{Value, json};
use topology::gateway::{Group, Route};

use crate::exchange::{Caller, RouteId, Voucher};

/// Consumers that are counted by name, of all routes together.
const MOST: usize = 1000;

/// Route and version.
type Version = (Box<str>, Box<str>);

/// With the consumer.
type Key = (Version, Box<str>);

/// All counts of an instance.
#[derive(Debug)]
pub struct Usage {
    metrics: Metrics,
    rows: Mutex<BTreeMap<Key, Arc<Row>>>,
    /// All that are counted by name, once there is no room for others: found without a lock.
    full: OnceLock<Known>,
}

/// Rows by version and consumer.
type Known = HashMap<Version, HashMap<Box<str>, Arc<Row>>>;

/// How often one consumer called one version.
#[derive(Debug)]
struct Row {
    total: Arc<AtomicU64>,
    /// The last time, in seconds since 1970.
    last: AtomicU64,
}

impl Row {
    fn count(&self, seconds: u64) {
        self.total.fetch_add(1, Ordering::Relaxed);
        self.last.store(seconds, Ordering::Relaxed);
    }
}

/// Whether callers of a route are counted.
fn counted(route: &Route) -> bool {
    let ending = &route.deprecation;
    ending.version.is_some() || ending.since.is_some() || route.sunset.is_some()
}

fn version(route: &Route) -> Version {
    (route.name.as_str().into(), route.deprecation.version.as_deref().unwrap_or_default().into())
}

impl Usage {
    /// Of a group; what is known of versions that are still there is kept.
    pub fn new(group: &Group, metrics: &Metrics, before: Option<&Self>) -> Arc<Self> {
        let known = before.map(|before| before.rows.lock().unwrap_or_else(PoisonError::into_inner));
        let there: HashSet<Version> =
            group.routes.iter().filter(|r| counted(r)).map(version).collect();
        let rows = known.iter().flat_map(|known| known.iter());
        let rows = rows.filter(|((version, _), _)| there.contains(version));
        let rows = rows.map(|(key, row)| (key.clone(), Arc::clone(row))).collect();
        let full = OnceLock::new();
        Arc::new(Self { metrics: metrics.clone(), rows: Mutex::new(rows), full })
    }

    /// The row of a consumer by its name; `None`: too many others have one.
    fn named(&self, version: &Version, consumer: &str) -> Option<Arc<Row>> {
        match self.full.get() {
            Some(known) => known.get(version)?.get(consumer).cloned(),
            None => self.row(version, consumer, Bounded::Yes),
        }
    }

    /// The row of a consumer, made if there is room; `None`: too many others have one.
    fn row(&self, version: &Version, consumer: &str, bounded: Bounded) -> Option<Arc<Row>> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let room = bounded == Bounded::No || rows.len() < MOST;
        let key = (version.clone(), Box::from(consumer));
        if let Some(known) = rows.get(&key) {
            return Some(Arc::clone(known));
        }
        let labels = [("route", &*version.0), ("version", &*version.1), ("consumer", consumer)];
        let help = "Requests to routes that have a version or will end, by consumer.";
        let total = || self.metrics.tally("aqueduct_http_version_requests_total", help, &labels);
        if !room {
            self.full.get_or_init(|| by_version(&rows));
            return None;
        }
        let row = Arc::new(Row { total: total(), last: AtomicU64::new(0) });
        rows.insert(key, Arc::clone(&row));
        Some(row)
    }

    /// For an operator, by route and version.
    pub fn show(&self) -> Value {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |(((route, version), consumer), row): (&Key, &Arc<Row>)| {
            json!({
                "route": route,
                "version": version,
                "consumer": consumer,
                "total": row.total.load(Ordering::Relaxed),
                "last": row.last.load(Ordering::Relaxed),
            })
        };
        rows.iter().map(row).collect()
    }
}

fn by_version(rows: &BTreeMap<Key, Arc<Row>>) -> Known {
    let mut known = Known::new();
    for ((version, consumer), row) in rows {
        let own = known.entry(version.clone()).or_default();
        own.insert(consumer.clone(), Arc::clone(row));
    }
    known
}

/// Whether a name is one of many.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bounded {
    Yes,
    No,
}

/// The counts of one worker.
#[derive(Debug)]
pub struct Counters {
    usage: Arc<Usage>,
    routes: Vec<Option<Own>>,
}

/// What one worker knows of one route.
#[derive(Debug)]
struct Own {
    version: Version,
    /// Whom nobody knows, users, and who is one too many.
    nobody: OnceCell<Option<Arc<Row>>>,
    users: OnceCell<Option<Arc<Row>>>,
    others: OnceCell<Option<Arc<Row>>>,
    named: RefCell<HashMap<Box<str>, Arc<Row>>>,
}

impl Counters {
    /// For one worker.
    pub fn new(usage: &Arc<Usage>, routes: &[Route]) -> Self {
        let own = |route: &Route| {
            counted(route).then(|| Own {
                version: version(route),
                nobody: OnceCell::new(),
                users: OnceCell::new(),
                others: OnceCell::new(),
                named: RefCell::default(),
            })
        };
        Self { usage: Arc::clone(usage), routes: routes.iter().map(own).collect() }
    }

    /// Somebody calls.
    pub fn count(&self, id: RouteId, caller: &Caller, now: SystemTime) {
        let Some(Some(own)) = self.routes.get(id.0) else { return };
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.with(own, caller, |row| row.count(since.as_secs()));
    }

    fn with(&self, own: &Own, caller: &Caller, count: impl Fn(&Row)) {
        let many = |place: &OnceCell<Option<Arc<Row>>>, name| {
            let found = || self.usage.row(&own.version, name, Bounded::No);
            place.get_or_init(found).iter().for_each(|row| count(row));
        };
        let name = match caller.identity() {
            None => return many(&own.nobody, "none"),
            Some(identity) => match (identity.consumer(), identity.voucher()) {
                (Some(consumer), _) => consumer,
                // Users are too many for a label.
                (None, Voucher::Issuer(_)) => return many(&own.users, "users"),
                (None, _) => identity.subject(),
            },
        };
        if let Some(row) = own.named.borrow().get(name) {
            return count(row);
        }
        match self.usage.named(&own.version, name) {
            Some(row) => {
                count(&row);
                own.named.borrow_mut().insert(name.into(), row);
            }
            None => many(&own.others, "others"),
        }
    }
}

#[cfg(test)]
mod tests;
