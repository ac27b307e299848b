//! The endpoints that sources outside of the file have named. Not for asking them: that is
//! `discovery`. Kept by `control`, which builds a snapshot with them.
//!
//! Invariant: a service that names a source has the endpoints that the source gave last.

use std::sync::Arc;
use std::time::Duration;

use common::observe::Observer;
use discovery::Endpoints;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use topology::l4::Group;
use topology::model::Discover;
use topology::{Endpoint, Service, ServiceName};

use crate::upgrade::endpoints::{KnownEndpoint, KnownService};

/// All sources of an instance.
#[derive(Debug)]
pub(crate) struct Found {
    watched: Vec<Watched>,
    news: mpsc::Sender<(ServiceName, Arc<[Endpoint]>)>,
    inbox: mpsc::Receiver<(ServiceName, Arc<[Endpoint]>)>,
    /// When the snapshot may be built anew.
    due: Option<Instant>,
}

/// One service's source.
#[derive(Debug)]
struct Watched {
    service: ServiceName,
    discover: Discover,
    endpoints: Arc<[Endpoint]>,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Default for Found {
    fn default() -> Self {
        let (news, inbox) = mpsc::channel(16);
        Self { watched: Vec::new(), news, inbox, due: None }
    }
}

impl Found {
    /// Asks, and meanwhile goes by what another process has found at the same sources.
    pub(crate) fn begin(group: &Group, observer: &Observer, known: &[KnownService]) -> Self {
        let mut found = Self::default();
        found.follow(group, observer);
        found.adopt(known);
        found
    }

    /// Asks for the endpoints of exactly the services of this group that name a source.
    pub(crate) fn follow(&mut self, group: &Group, observer: &Observer) {
        let services = || group.listeners.iter().flat_map(topology::l4::Listener::services);
        let same = |service: &Service, watched: &Watched| {
            let discover = service.discover.as_ref().map(|at| &at.value);
            service.name == watched.service && discover == Some(&watched.discover)
        };
        self.watched.retain(|watched| services().any(|service| same(service, watched)));
        for service in services() {
            let Some(discover) = &service.discover else { continue };
            if self.watched.iter().any(|watched| same(service, watched)) {
                continue;
            }
            let endpoints = discovery::watch(service, observer);
            let task = tokio::spawn(tell(service.name.clone(), endpoints, self.news.clone()));
            self.watched.push(Watched {
                service: service.name.clone(),
                discover: discover.value.clone(),
                endpoints: Arc::from([]),
                task: task.abort_handle(),
            });
        }
    }

    /// Where the endpoints of a service come from, as text.
    pub(crate) fn source(&self, service: &ServiceName) -> Option<String> {
        let watched = self.watched.iter().find(|watched| watched.service == *service)?;
        Some(format!("{:?}", watched.discover))
    }

    fn adopt(&mut self, known: &[KnownService]) {
        for watched in &mut self.watched {
            let source = Some(format!("{:?}", watched.discover));
            let same = |known: &&KnownService| {
                known.name == watched.service.as_str() && known.source == source
            };
            if let Some(known) = known.iter().find(same) {
                watched.endpoints = known.endpoints.iter().map(KnownEndpoint::endpoint).collect();
            }
        }
    }

    /// The group with the endpoints that are known now.
    pub(crate) fn fill(&self, group: &Group) -> Group {
        let mut group = group.clone();
        for target in group.listeners.iter_mut().flat_map(|listener| &mut listener.targets) {
            let known = self.watched.iter().find(|watched| watched.service == target.to.name);
            if let Some(known) = known.filter(|_| target.to.discover.is_some()) {
                target.to.endpoints = known.endpoints.to_vec();
            }
        }
        group
    }

    /// Waits until endpoints have changed, and then a little: many changes are one. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        loop {
            let due = self.due;
            tokio::select! {
                news = self.inbox.recv() => {
                    let Some((service, endpoints)) = news else { continue };
                    let known = self.watched.iter_mut().find(|w| w.service == service);
                    if let Some(known) = known {
                        known.endpoints = endpoints;
                        self.due.get_or_insert_with(|| Instant::now() + GATHER);
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.due = None;
                    return;
                }
            }
        }
    }
}

/// Every set that a source gives.
async fn tell(
    service: ServiceName,
    mut endpoints: Endpoints,
    news: mpsc::Sender<(ServiceName, Arc<[Endpoint]>)>,
) {
    loop {
        let set = endpoints.changed().await;
        if news.send((service.clone(), set)).await.is_err() {
            return;
        }
    }
}

/// Tables are built at most this often.
const GATHER: Duration = Duration::from_millis(50);
