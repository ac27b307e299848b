//! The endpoints that the sources of an instance have named, gathered for whoever builds tables of them.
//! Not for asking. Kept by a tier's control side, on its runtime.
//!
//! Invariant: a service that names a source has the endpoints that the source gave last; those of the
//! source before, until the new one has answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::observe::Observer;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use topology::model::Discover;
use topology::{At, Endpoint, ServiceName};

use crate::{Endpoints, Status};

/// All sources of an instance.
#[derive(Debug)]
pub struct Found {
    watched: Vec<Watched>,
    inherited: Vec<Inherited>,
    /// The first services were named.
    begun: bool,
    board: Board,
    news: mpsc::Sender<(ServiceName, Arc<[Endpoint]>)>,
    inbox: mpsc::Receiver<(ServiceName, Arc<[Endpoint]>)>,
    /// When tables may be built anew.
    due: Option<Instant>,
    /// When they were last.
    built: Option<Instant>,
}

/// What another process has found.
#[derive(Clone, Debug)]
pub struct Inherited {
    /// For which service.
    pub service: ServiceName,
    /// Where, as [`Found::source`] says it.
    pub source: String,
    /// What it was.
    pub endpoints: Vec<Endpoint>,
}

/// One service's source.
#[derive(Debug)]
struct Watched {
    service: ServiceName,
    discover: At<Discover>,
    /// `None`: nobody has said anything yet.
    endpoints: Option<Arc<[Endpoint]>>,
    status: Arc<Status>,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What operators see of all sources. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Rows>>);

#[derive(Debug, Default)]
struct Rows {
    statuses: BTreeMap<ServiceName, Arc<Status>>,
    /// Services that were there when the instance began, and of which no table holds endpoints yet.
    awaited: BTreeSet<ServiceName>,
}

impl Board {
    /// How the source of a service stands; `None`: it has none.
    pub fn show(&self, service: &ServiceName) -> Option<Value> {
        self.rows().statuses.get(service).map(|one| one.show())
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why an instance cannot serve yet: services of which nobody has named endpoints, or whose endpoints are
    /// in no table yet. One that a reload brings takes no instance out that serves others: all instances
    /// read the same file.
    pub fn unready(&self) -> Vec<String> {
        let all = self.rows();
        let awaited = all.statuses.iter().filter(|(service, _)| all.awaited.contains(*service));
        awaited
            .map(|(service, status)| format!("{service}: {} has not answered", status.source()))
            .collect()
    }
}

impl Default for Found {
    fn default() -> Self {
        let (news, inbox) = mpsc::channel(16);
        let (watched, inherited, board) = (Vec::new(), Vec::new(), Board::default());
        Self { watched, inherited, begun: false, board, news, inbox, due: None, built: None }
    }
}

impl Found {
    /// Goes by what another process has found at the same sources, until they answer.
    pub fn inheriting(inherited: Vec<Inherited>) -> Self {
        Self { inherited, ..Self::default() }
    }

    /// What operators see.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Asks for the endpoints of exactly these services from now on.
    pub fn follow<'s>(
        &mut self,
        services: impl IntoIterator<Item = (&'s ServiceName, &'s At<Discover>)>,
        observer: &Observer,
    ) {
        let mut former = std::mem::take(&mut self.watched);
        for (service, discover) in services {
            if self.watched.iter().any(|watched| watched.service == *service) {
                continue;
            }
            let known = former.iter().position(|watched| watched.service == *service);
            let known = known.map(|at| former.swap_remove(at));
            let watched = match known {
                Some(known) if known.discover.value == discover.value => known,
                other => {
                    let before = other.and_then(|known| known.endpoints.clone());
                    let before = before.or_else(|| self.inherit(service, discover));
                    self.watch(service, discover, before, observer)
                }
            };
            self.watched.push(watched);
        }
        let row = |w: &Watched| (w.service.clone(), Arc::clone(&w.status));
        let mut rows = self.board.rows();
        rows.statuses = self.watched.iter().map(row).collect();
        if !std::mem::replace(&mut self.begun, true) {
            rows.awaited = rows.statuses.keys().cloned().collect();
        }
    }

    fn served(&self) {
        let known = self.watched.iter().filter(|watched| watched.endpoints.is_some());
        let mut rows = self.board.rows();
        for watched in known {
            rows.awaited.remove(&watched.service);
        }
    }

    fn inherit(
        &mut self,
        service: &ServiceName,
        discover: &At<Discover>,
    ) -> Option<Arc<[Endpoint]>> {
        let at = self.inherited.iter().position(|one| one.service == *service)?;
        let found = self.inherited.swap_remove(at);
        let fits = found.source == told(discover) && !found.endpoints.is_empty();
        fits.then(|| Arc::from(found.endpoints))
    }

    fn watch(
        &self,
        service: &ServiceName,
        discover: &At<Discover>,
        before: Option<Arc<[Endpoint]>>,
        observer: &Observer,
    ) -> Watched {
        // What is known is what an empty answer is held against.
        let known = before.as_deref().unwrap_or_default();
        let endpoints = crate::watch(service, known, Some(discover), observer);
        let status = Arc::clone(endpoints.status());
        let task = tokio::spawn(tell(service.clone(), endpoints, self.news.clone()));
        Watched {
            service: service.clone(),
            discover: discover.clone(),
            endpoints: before,
            status,
            task: task.abort_handle(),
        }
    }

    /// Where the endpoints of a service come from, as text.
    pub fn source(&self, service: &ServiceName) -> Option<String> {
        let watched = self.watched.iter().find(|watched| watched.service == *service)?;
        Some(told(&watched.discover))
    }

    /// The endpoints that are known now; `None`: the service has no source, or nobody has said anything.
    pub fn known(&self, service: &ServiceName) -> Option<&Arc<[Endpoint]>> {
        self.watched.iter().find(|watched| watched.service == *service)?.endpoints.as_ref()
    }

    /// Waits until endpoints have changed; not less than 50 ms after it last said so, so that many
    /// changes are one. Whoever asks has built tables of what was known: from now on it is served. Cancel safe.
    pub async fn changed(&mut self) {
        if self.due.is_none() {
            self.served();
        }
        loop {
            let due = self.due;
            tokio::select! {
                // News first: what is there already belongs to this change.
                biased;
                news = self.inbox.recv() => {
                    let Some((service, endpoints)) = news else { continue };
                    let known = self.watched.iter_mut().find(|w| w.service == service);
                    if let Some(known) = known {
                        known.endpoints = Some(endpoints);
                        let now = Instant::now();
                        let soonest = self.built.map_or(now, |built| (built + GATHER).max(now));
                        self.due.get_or_insert(soonest);
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.due = None;
                    self.built = Some(Instant::now());
                    return;
                }
            }
        }
    }
}

/// A source as two processes compare it.
fn told(discover: &At<Discover>) -> String {
    format!("{:?}", discover.value)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{discover, numbers};
    use futures_util::FutureExt;
    use topology::Place;
    use topology::model::DiscoverSource;

    fn at(path: &std::path::Path) -> At<Discover> {
        let source = DiscoverSource::File { path: path.to_owned() };
        At { value: discover(source), place: Place::default() }
    }

    /// T9, D1: services come and go with the file; one whose source is another keeps its endpoints until
    /// that has answered, and one that is asked for twice is asked once.
    #[tokio::test]
    async fn a_changed_source_keeps_what_is_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, second) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
        std::fs::write(&first, "endpoints: [10.0.0.1:80]").expect("written");
        let (user, observer) = (ServiceName::new("user"), Observer::new("gw-1"));
        let mut found = Found::default();
        let board = found.board();
        let source = at(&first);
        found.follow([(&user, &source), (&user, &source)], &observer);
        assert_eq!((found.watched.len(), board.unready().len()), (1, 1));
        assert!(found.known(&user).is_none());
        found.changed().await;
        assert_eq!(found.known(&user).map(|set| numbers(set)), Some(vec![1]));
        assert_eq!(board.unready().len(), 1, "no table holds it before somebody asks for the next");
        assert!(found.changed().now_or_never().is_none() && board.unready().is_empty());
        let other = at(&second);
        found.follow([(&user, &other)], &observer);
        assert_eq!(found.known(&user).map(|set| numbers(set)), Some(vec![1]), "until it answers");
        std::fs::write(&second, "endpoints: [10.0.0.2:80]").expect("written");
        found.changed().await;
        assert_eq!(found.known(&user).map(|set| numbers(set)), Some(vec![2]));
        assert_eq!(board.show(&user).map(|shown| shown["endpoints"].clone()), Some(1.into()));
        found.follow([], &observer);
        assert!(found.known(&user).is_none() && board.show(&user).is_none());
    }

    /// D3: what another source has named is not kept for ever when its successor says that there are none, nor
    /// what another process has found.
    #[tokio::test(start_paused = true)]
    async fn what_is_inherited_can_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, second) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
        std::fs::write(&first, "endpoints: [10.0.0.1:80]").expect("written");
        std::fs::write(&second, "endpoints: []").expect("written");
        let (user, observer) = (ServiceName::new("user"), Observer::new("gw-1"));
        let mut found = Found::default();
        found.follow([(&user, &at(&first))], &observer);
        found.changed().await;
        found.follow([(&user, &at(&second))], &observer);
        found.changed().await;
        assert_eq!(found.known(&user).map(|set| set.len()), Some(0), "after it was said for long");
        let endpoints = vec![crate::testing::endpoint(7)];
        let source = told(&at(&second));
        let inherited = Inherited { service: user.clone(), source, endpoints };
        let mut found = Found::inheriting(vec![inherited]);
        found.follow([(&user, &at(&second))], &observer);
        assert_eq!(found.known(&user).map(|set| numbers(set)), Some(vec![7]));
        assert_eq!(found.board().unready().len(), 1);
        found.changed().await;
        assert!(found.board().unready().is_empty());
        assert_eq!(found.known(&user).map(|set| set.len()), Some(0));
    }

    /// D1: a service that a reload brings, and whose source is away, takes no instance out that serves.
    #[tokio::test(start_paused = true)]
    async fn a_reload_leaves_an_instance_ready() {
        let (user, late) = (ServiceName::new("user"), ServiceName::new("late"));
        let (observer, never) = (Observer::new("gw-1"), at(std::path::Path::new("/nonexistent/a")));
        let inherited =
            Inherited { service: user.clone(), source: told(&never), endpoints: Vec::new() };
        let mut found = Found::inheriting(vec![inherited]);
        found.follow([(&user, &never)], &observer);
        assert_eq!(found.board().unready().len(), 1, "nobody has ever named one");
        found.follow([(&user, &never), (&late, &never)], &observer);
        assert_eq!(found.board().unready().len(), 1);
        assert!(found.board().show(&late).is_some());
    }

    /// D2: a registry that knows no endpoint at the start has answered; what it names later waits for its turn.
    #[tokio::test(start_paused = true)]
    async fn an_instance_is_ready_when_its_tables_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, second) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
        std::fs::write(&first, "endpoints: []").expect("written");
        std::fs::write(&second, "endpoints: [10.0.0.2:80]").expect("written");
        let (none, one) = (ServiceName::new("none"), ServiceName::new("one"));
        let mut found = Found::default();
        let board = found.board();
        found.follow([(&none, &at(&first)), (&one, &at(&second))], &Observer::new("gw-1"));
        while found.known(&none).is_none() || found.known(&one).is_none() {
            assert!(!board.unready().is_empty(), "a table lacks what was named");
            found.changed().await;
        }
        assert!(found.changed().now_or_never().is_none());
        assert_eq!(board.unready(), Vec::<String>::new());
    }

    /// D2: changes within 50 ms are one; the first after a quiet time is told at once.
    #[tokio::test(start_paused = true)]
    async fn changes_are_gathered() {
        let mut found = Found::default();
        let user = ServiceName::new("user");
        let never = at(std::path::Path::new("/nonexistent/list.yaml"));
        found.follow([(&user, &never)], &Observer::new("gw-1"));
        let news = found.news.clone();
        let begun = Instant::now();
        news.send((user.clone(), Arc::from([]))).await.expect("taken");
        found.changed().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for _ in 0..10 {
            news.send((user.clone(), Arc::from([]))).await.expect("taken");
        }
        found.changed().await;
        assert_eq!(begun.elapsed(), GATHER);
        assert!(tokio::time::timeout(GATHER, found.changed()).await.is_err(), "all were one");
    }
}
