//! Where a service's endpoints come from, as a watch of whole sets: from the topology file, from DNS,
//! from a list that somebody else writes, or from a registry. Not for asking whether an endpoint lives (`common::health`).
//! Runs on the control runtime; called by the tiers when a file is in force and when a set changes.
//!
//! Invariant: a source that fails, or says nonsense, leaves the last set in force; and a set that has had
//! endpoints is emptied only by one who has said so for a while.
#![forbid(unsafe_code)]

mod consul;
mod dns;
mod eds;
mod etcd;
mod eureka;
pub mod events;
mod fault;
mod file;
pub mod found;
mod instance;
mod keep;
mod kubernetes;
pub mod register;
mod status;
#[cfg(test)]
#[path = "testing/tests.rs"]
mod testing;
mod web;

use std::sync::Arc;
use std::time::Duration;

use common::observe::Observer;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;
use topology::model::{Discover, DiscoverSource};
use topology::{At, Endpoint, Place, ServiceName};

pub use crate::status::Status;

use crate::fault::Fault;
use crate::keep::{Keeper, Source};

/// Begins to watch a service's endpoints: those of the file never change, a source is asked again and
/// again. Needs a tokio runtime; dropping the last clone of the answer ends the asking.
pub fn watch(
    service: &ServiceName,
    endpoints: &[Endpoint],
    discover: Option<&At<Discover>>,
    observer: &Observer,
) -> Endpoints {
    let source = discover.map_or_else(String::new, |at| at.value.source.to_string());
    let publisher = Publisher::of(endpoints, source);
    let mut watched = publisher.endpoints();
    if let Some(discover) = discover {
        let keeper = Keeper::new(service, discover, publisher, observer);
        let task = with_source(&discover.value, Run(keeper));
        watched.task = Some(Arc::new(Task(task.abort_handle())));
    }
    watched
}

/// Asks a source once, for at most so long: which endpoints it names.
///
/// # Errors
/// In an operator's words, why there is no answer.
pub async fn ask_once(discover: &Discover, patience: Duration) -> Result<Vec<Endpoint>, String> {
    let asked = with_source(discover, Once(discover.version.clone()));
    // Whoever does not answer is asked no longer.
    let _task = Task(asked.abort_handle());
    match timeout(patience, asked).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(ended)) => Err(ended.to_string()),
        Err(_late) => Err("no answer in time".to_owned()),
    }
}

/// What is done with a source, whichever it is.
trait With {
    type Output: Send + 'static;
    fn with(self, source: impl Source) -> JoinHandle<Self::Output>;
}

/// To ask it for ever.
struct Run(Keeper);

impl With for Run {
    type Output = ();
    fn with(self, source: impl Source) -> JoinHandle<()> {
        tokio::spawn(self.0.run(source))
    }
}

/// To ask it once.
struct Once(Option<String>);

impl With for Once {
    type Output = Result<Vec<Endpoint>, String>;
    fn with(self, mut source: impl Source) -> JoinHandle<Self::Output> {
        tokio::spawn(async move {
            let mut answer = source.ask().await;
            for _ in 1..TRIES {
                // One of several servers may be away; who says nonsense is there.
                if !answer.as_ref().is_err_and(|fault| !matches!(fault, Fault::Nonsense(_))) {
                    break;
                }
                answer = source.ask().await;
            }
            let answer = answer.map_err(|fault| fault.to_string())?;
            let settled = instance::settle(answer.instances, self.0.as_deref(), Place::default());
            match answer.nonsense.filter(|_| settled.endpoints.is_empty()) {
                Some(cause) => Err(cause),
                None => Ok(settled.endpoints),
            }
        })
    }
}

/// Servers of a registry that are asked before it counts as away.
const TRIES: usize = 3;

/// The source that the file names.
fn with_source<W: With>(discover: &Discover, with: W) -> JoinHandle<W::Output> {
    match &discover.source {
        DiscoverSource::Dns { .. } | DiscoverSource::Srv { .. } => {
            with.with(dns::Questions::new(discover))
        }
        DiscoverSource::File { path } => with.with(file::Listed::new(path)),
        DiscoverSource::Consul(settings) => with.with(consul::Consul::new(settings)),
        DiscoverSource::Etcd(settings) => with.with(etcd::Etcd::new(settings)),
        DiscoverSource::Eureka(settings) => with.with(eureka::Eureka::new(settings)),
        DiscoverSource::Kubernetes(settings) => with.with(kubernetes::Kubernetes::new(settings)),
        DiscoverSource::Eds(settings) => {
            with.with(eds::Eds::new(settings, discover.version.as_deref()))
        }
    }
}

/// What asks; it ends with its last reader.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The endpoints of one service, now and later. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Endpoints {
    sets: watch::Receiver<Arc<[Endpoint]>>,
    status: Arc<Status>,
    task: Option<Arc<Task>>,
}

impl Endpoints {
    /// The set in force.
    pub fn current(&self) -> Arc<[Endpoint]> {
        self.sets.borrow().clone()
    }

    /// How the source stands.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Waits for the next set and returns it; for ever where the source cannot change. Several
    /// changes between two calls are one. Cancel safe.
    pub async fn changed(&mut self) -> Arc<[Endpoint]> {
        if self.sets.changed().await.is_err() {
            // The source has ended: the last set stays.
            std::future::pending::<()>().await;
        }
        self.sets.borrow_and_update().clone()
    }
}

/// The source's end: what a provider publishes by, and a test.
#[derive(Debug)]
pub struct Publisher {
    sets: watch::Sender<Arc<[Endpoint]>>,
    status: Arc<Status>,
}

impl Publisher {
    /// A source with its first set.
    pub fn new(first: &[Endpoint]) -> Self {
        Self::of(first, String::new())
    }

    fn of(first: &[Endpoint], source: String) -> Self {
        let status = Arc::new(Status::new(source));
        Self { sets: watch::Sender::new(Arc::from(first)), status }
    }

    /// The readers' end.
    pub fn endpoints(&self) -> Endpoints {
        let (sets, status) = (self.sets.subscribe(), Arc::clone(&self.status));
        Endpoints { sets, status, task: None }
    }

    /// Replaces the set; an empty or an equal one changes nothing, and says so.
    pub fn publish(&self, next: &[Endpoint]) -> bool {
        !next.is_empty() && self.replace(next)
    }

    /// Says that the set is what it is: whoever waits for an answer has one.
    fn confirm(&self) {
        self.sets.send_modify(|_same| {});
    }

    /// Whether there is an endpoint now.
    fn has_endpoints(&self) -> bool {
        !self.sets.borrow().is_empty()
    }

    /// There is no endpoint any more.
    fn clear(&self) -> bool {
        self.replace(&[])
    }

    fn replace(&self, next: &[Endpoint]) -> bool {
        let changed = self.sets.send_if_modified(|set| {
            let changes = **set != *next;
            if changes {
                *set = Arc::from(next);
            }
            changes
        });
        if changed {
            self.status.changed();
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use common::observe::Observer;
    use topology::{EndpointName, Weight};

    use super::*;

    fn endpoints(ports: &[u16]) -> Vec<Endpoint> {
        let endpoint = |&port: &u16| Endpoint {
            name: EndpointName::new(&format!("e{port}")),
            address: ([127, 0, 0, 1], port).into(),
            weight: Weight(1),
            zone: None,
            place: Place::default(),
        };
        ports.iter().map(endpoint).collect()
    }

    /// N1: the file's endpoints are there at once and never change.
    #[tokio::test(start_paused = true)]
    async fn the_file_is_a_source_that_stays() {
        let own = endpoints(&[1, 2]);
        let mut watched = watch(&ServiceName::new("game"), &own, None, &Observer::new("nlb-1"));
        assert_eq!(*watched.current(), *own);
        let day = Duration::from_secs(86_400);
        assert!(timeout(day, watched.changed()).await.is_err());
    }

    /// N1: a source that empties leaves the last set in force.
    #[tokio::test(start_paused = true)]
    async fn an_empty_set_is_not_handed_out() {
        let source = Publisher::new(&endpoints(&[1]));
        let mut watched = source.endpoints();
        assert!(!source.publish(&[]) && !source.publish(&endpoints(&[1])));
        assert!(source.publish(&endpoints(&[1, 2])));
        assert_eq!(watched.changed().await.len(), 2);
    }
}
