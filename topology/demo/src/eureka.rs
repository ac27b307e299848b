//! A service registry that answers as Netflix Eureka's REST operations do, in JSON: register, renew, leave, the whole
//! registry, what changed lately with the sum over all. Not a cluster, and nothing is kept over a restart. Run by
//! `main`, so that a stack with a registry runs on one machine.
//!
//! Invariant: the sum over statuses is that of the instances which the same answer's registry holds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::answer::Answer;
use crate::http::{Program, serve};
use crate::options::RegistryArgs;
use crate::shutdown::{asked, say};

/// Listens and serves until TERM or INT.
pub(crate) async fn run(args: RegistryArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {}: {error}", args.listen))?;
    say(&format!("{} listens on {}", args.name, listener.local_addr()?));
    serve(listener, &args.name, Registry::default(), asked()).await
}

#[derive(Debug, Default)]
struct Registry(Mutex<Book>);

/// Who is there, and what changed.
#[derive(Debug, Default)]
struct Book {
    /// By application and id.
    instances: BTreeMap<(String, String), Lease>,
    /// The newest come last.
    changes: VecDeque<(Instant, String, Value)>,
}

#[derive(Debug)]
struct Lease {
    instance: Value,
    renewed: Instant,
    lasts: Duration,
}

impl Book {
    fn register(&mut self, application: &str, instance: Value, now: Instant) -> Option<()> {
        let id = instance["instanceId"].as_str()?.to_owned();
        let lasts = instance["leaseInfo"]["durationInSecs"].as_u64();
        let lasts = lasts.map_or(LEASE, Duration::from_secs);
        let lease = Lease { instance: instance.clone(), renewed: now, lasts };
        let known = self.instances.insert((application.to_owned(), id), lease).is_some();
        self.changed(application, instance, if known { "MODIFIED" } else { "ADDED" }, now);
        Some(())
    }

    fn renew(&mut self, application: &str, id: &str, now: Instant) -> Option<()> {
        let lease = self.instances.get_mut(&(application.to_owned(), id.to_owned()))?;
        lease.renewed = now;
        Some(())
    }

    fn leave(&mut self, application: &str, id: &str, now: Instant) -> Option<()> {
        let lease = self.instances.remove(&(application.to_owned(), id.to_owned()))?;
        self.changed(application, lease.instance, "DELETED", now);
        Some(())
    }

    fn changed(&mut self, application: &str, mut instance: Value, action: &str, now: Instant) {
        instance["actionType"] = action.into();
        self.changes.push_back((now, application.to_owned(), instance));
    }

    /// Gives up who was silent for too long, and forgets old changes.
    fn tidy(&mut self, now: Instant) {
        let silent = |lease: &Lease| now.duration_since(lease.renewed) > lease.lasts;
        let gone = self.instances.iter().filter(|(_, lease)| silent(lease));
        let gone: Vec<(String, String)> = gone.map(|(key, _)| key.clone()).collect();
        for (application, id) in gone {
            self.leave(&application, &id, now);
        }
        while self.changes.front().is_some_and(|(at, ..)| now.duration_since(*at) > KEPT) {
            self.changes.pop_front();
        }
    }

    fn whole(&self) -> Value {
        let all = self.instances.iter();
        self.told(all.map(|((application, _), lease)| (application, &lease.instance)))
    }

    fn delta(&self) -> Value {
        self.told(self.changes.iter().map(|(_, application, instance)| (application, instance)))
    }

    fn told<'a>(&self, instances: impl Iterator<Item = (&'a String, &'a Value)>) -> Value {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for lease in self.instances.values() {
            *counts.entry(lease.instance["status"].as_str().unwrap_or("UNKNOWN")).or_default() += 1;
        }
        let sum: String = counts.iter().map(|(status, n)| format!("{status}_{n}_")).collect();
        // One after the other, since an instance may have come, gone and come.
        let applications: Vec<Value> = instances
            .map(|(name, instance)| json!({ "name": name, "instance": [instance] }))
            .collect();
        json!({ "applications": {
            "versions__delta": "1", "apps__hashcode": sum, "application": applications,
        } })
    }
}

impl Program for Registry {
    async fn answer(&self, request: Request<Bytes>) -> Answer {
        let now = Instant::now();
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.tidy(now);
        let path = request.uri().path().trim_end_matches('/');
        let Some(place) = path.strip_prefix("/eureka/apps") else {
            return Answer::not_found("ask GET /eureka/apps");
        };
        let segments: Vec<&str> = place.split('/').filter(|segment| !segment.is_empty()).collect();
        let done = match (request.method(), segments.as_slice()) {
            (&Method::GET, []) => return Answer::ok(book.whole()),
            (&Method::GET, ["delta"]) => return Answer::ok(book.delta()),
            (&Method::POST, [application]) => {
                let body = serde_json::from_slice::<Value>(request.body()).unwrap_or_default();
                match book.register(application, body["instance"].clone(), now) {
                    Some(()) => return Answer::new(StatusCode::NO_CONTENT, json!({})),
                    None => return Answer::bad_request("an instance has an instanceId"),
                }
            }
            (&Method::PUT, [application, id]) => book.renew(application, id, now),
            (&Method::DELETE, [application, id]) => book.leave(application, id, now),
            _ => None,
        };
        match done {
            Some(()) => Answer::ok(json!({})),
            None => Answer::not_found(format!("{path} is not registered")),
        }
    }
}

/// An instance that renews nothing for so long is given up, unless it has said how long.
const LEASE: Duration = Duration::from_secs(30);
/// How long changes are told: longer than anybody waits between two questions.
const KEPT: Duration = Duration::from_secs(180);

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(registry: &Registry, method: &str, path: &str) -> Answer {
        let body = json!({ "instance": { "instanceId": "a-1", "status": "UP" } }).to_string();
        let request = Request::builder().method(method).uri(path).body(Bytes::from(body));
        registry.answer(request.expect("a request")).await
    }

    /// D2: who registers is told of, and so is its end: when it says so, and when it is silent.
    #[tokio::test(start_paused = true)]
    async fn instances_come_and_go() {
        let registry = Registry::default();
        assert_eq!(ask(&registry, "PUT", "/eureka/apps/A/a-1").await.status, 404);
        assert_eq!(ask(&registry, "POST", "/eureka/apps/A").await.status, 204);
        let all = ask(&registry, "GET", "/eureka/apps").await.body;
        assert_eq!(all["applications"]["apps__hashcode"], "UP_1_");
        assert_eq!(all["applications"]["application"][0]["instance"][0]["instanceId"], "a-1");
        assert_eq!(ask(&registry, "DELETE", "/eureka/apps/A/a-1").await.status, 200);
        ask(&registry, "POST", "/eureka/apps/A").await;
        tokio::time::advance(LEASE + Duration::from_secs(1)).await;
        let delta = ask(&registry, "GET", "/eureka/apps/delta").await.body;
        assert_eq!(delta["applications"]["apps__hashcode"], "");
        let changes = delta["applications"]["application"].as_array().expect("a list");
        let actions: Vec<_> = changes.iter().map(|c| &c["instance"][0]["actionType"]).collect();
        assert_eq!(actions, ["ADDED", "DELETED", "ADDED", "DELETED"]);
    }
}
