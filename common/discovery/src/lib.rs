//! Where a service's endpoints come from, as a watch of whole sets: from the topology file, or from
//! DNS. Not for asking whether an endpoint lives (`common::health`). Runs on the control runtime;
//! called by the tiers when a file is in force and when a set changes.
//!
//! Invariant: a set that is handed out has at least one endpoint, but for the first of a source that
//! has not answered yet; a source that fails or empties leaves the last set in force.
#![forbid(unsafe_code)]

mod dns;
pub mod events;

use std::sync::Arc;

use common::observe::Observer;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use topology::{Endpoint, Service};

/// Begins to watch a service's endpoints: those of the file never change, those of DNS are asked for
/// again and again. Needs a tokio runtime; dropping the last clone of the answer ends the asking.
pub fn watch(service: &Service, observer: &Observer) -> Endpoints {
    let publisher = Publisher::new(&service.endpoints);
    let mut endpoints = publisher.endpoints();
    if let Some(discover) = &service.discover {
        let source = dns::Source::new(discover.value.clone(), service.name.clone(), discover.place);
        let task = tokio::spawn(source.run(publisher, observer.clone()));
        endpoints.task = Some(Arc::new(Task(task.abort_handle())));
    }
    endpoints
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
    task: Option<Arc<Task>>,
}

impl Endpoints {
    /// The set in force.
    pub fn current(&self) -> Arc<[Endpoint]> {
        self.sets.borrow().clone()
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
}

impl Publisher {
    /// A source with its first set.
    pub fn new(first: &[Endpoint]) -> Self {
        Self { sets: watch::Sender::new(Arc::from(first)) }
    }

    /// The readers' end.
    pub fn endpoints(&self) -> Endpoints {
        Endpoints { sets: self.sets.subscribe(), task: None }
    }

    /// Replaces the set; an empty or an equal one changes nothing, and says so.
    pub fn publish(&self, next: &[Endpoint]) -> bool {
        self.sets.send_if_modified(|set| {
            let changes = !next.is_empty() && **set != *next;
            if changes {
                *set = Arc::from(next);
            }
            changes
        })
    }
}

#[cfg(test)]
mod tests {
    use common::observe::Observer;
    use topology::{EndpointName, Place, ServiceName, Weight};

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
        let service = Service {
            name: ServiceName::new("game"),
            endpoints: endpoints(&[1, 2]),
            discover: None,
            panic_threshold: topology::units::Percent(0),
            slow_start: None,
            health: None,
            run: None,
            uses: Vec::new(),
            place: Place::default(),
        };
        let mut watched = watch(&service, &Observer::new("nlb-1"));
        assert_eq!(*watched.current(), *service.endpoints);
        let day = std::time::Duration::from_secs(86_400);
        assert!(tokio::time::timeout(day, watched.changed()).await.is_err());
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
