//! Addresses of servers that the file names: looked up once for all workers, kept for `dns_max_ttl`, used in
//! turn, and looked up again while connections rest on them. Not for the question itself: that is the system's
//! resolver. Asked for each connection; driven by the first worker's sweep.
//!
//! Invariant: a lookup that fails takes no address away, and one that hangs holds nobody up who has one, so that a
//! resolver that is down closes nothing and keeps nobody out.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use topology::pool::{ServerAddress, Settings};

use crate::events::{NameFailed, NameMoved};
use crate::server::connect::Dialled;
use crate::worker::Worker;

/// Who knows addresses; tests put their own in the system's place.
pub trait Resolve: Send + Sync {
    /// All addresses of a name.
    fn resolve(&self, name: &str) -> Resolving;
}

/// A lookup under way.
pub type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// The resolver of the system: its hosts file, its search list, its name servers.
struct System;

impl Resolve for System {
    fn resolve(&self, name: &str) -> Resolving {
        let (to, from) = oneshot::channel();
        let name = name.to_owned();
        // A thread of its own: one that waits for a dead name server must not keep a runtime from ending.
        let thread = std::thread::Builder::new().name("lookup".to_owned());
        let asked = thread.spawn(move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            let _gone = to.send(found.map(|all| all.map(|at| at.ip()).collect()));
        });
        Box::pin(async move {
            asked?;
            from.await.map_err(io::Error::other)?
        })
    }
}

/// How long answers hold.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// `dns_max_ttl`.
    pub found: Duration,
    /// `dns_nxdomain_ttl`.
    pub failed: Duration,
}

impl From<&Settings> for Hold {
    fn from(settings: &Settings) -> Self {
        Self { found: settings.dns_max_ttl, failed: settings.dns_nxdomain_ttl }
    }
}

/// All names, of all workers.
pub struct Names {
    resolver: Arc<dyn Resolve>,
    hosts: Mutex<BTreeMap<Box<str>, Arc<Host>>>,
    /// How often an address was taken away.
    changes: AtomicU64,
    /// Lookups under way.
    asking: AtomicUsize,
}

/// A name and what is known of it.
pub struct Host {
    name: Box<str>,
    known: Mutex<Known>,
    /// Held by who asks: others wait for the same answer.
    asks: tokio::sync::Mutex<()>,
    /// Where the next connection begins.
    next: AtomicUsize,
}

#[derive(Default)]
struct Known {
    /// As they were found last.
    addresses: Vec<IpAddr>,
    /// When it was last asked for; `None`: it is to be asked for.
    answered: Option<Instant>,
    /// The last lookup failed.
    fault: Option<(io::ErrorKind, String)>,
}

/// What a connection rests on: one of a name's addresses. While there is one, the name is followed.
#[derive(Clone, Default)]
pub struct Lead(Option<(Arc<Host>, IpAddr)>);

/// A name as the admin database shows it.
pub struct NameRow {
    /// The name.
    pub name: String,
    /// How long what is known still holds.
    pub left: Duration,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What a lookup has brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Brought {
    /// What was known, or more; for the first time, too.
    Same,
    /// Some address is the name's no more.
    Moved(Vec<IpAddr>),
    /// Nothing.
    Failed(String),
}

/// What somebody who connects needs of a lookup.
enum Need {
    /// What is known holds.
    Nothing,
    /// What is known is old: it is used once more, and looked up for who comes next.
    News,
    /// Nothing is known.
    All,
}

/// Names come from the file; more are looked up without being kept.
const MOST_NAMES: usize = 4096;
/// Addresses of one name.
const MOST_ADDRESSES: usize = 64;
/// A name that connections rest on is looked up no sooner again, whatever `dns_max_ttl` says.
const SOONEST: Duration = Duration::from_secs(1);

impl Default for Names {
    fn default() -> Self {
        Self::new(Arc::new(System))
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} names", lock(&self.hosts).len())
    }
}

impl Names {
    /// None, by this resolver.
    pub fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self {
            resolver,
            hosts: Mutex::default(),
            changes: AtomicU64::new(0),
            asking: AtomicUsize::new(0),
        }
    }

    fn host(&self, name: &str) -> Arc<Host> {
        let mut hosts = lock(&self.hosts);
        if let Some(host) = hosts.get(name) {
            return Arc::clone(host);
        }
        let host = Arc::new(Host::new(name));
        if hosts.len() < MOST_NAMES {
            hosts.insert(name.into(), Arc::clone(&host));
        }
        host
    }

    /// Looks a name up; who comes while somebody else asks has that answer.
    async fn ask(&self, host: &Host, hold: Hold) -> Brought {
        let _asks = host.asks.lock().await;
        if !lock(&host.known).is_due(hold, Instant::now()) {
            return Brought::Same;
        }
        let _counted = Counted::enter(&self.asking);
        let found = self.resolver.resolve(&host.name).await;
        let brought = lock(&host.known).take(found, Instant::now());
        if matches!(brought, Brought::Moved(_)) {
            self.changes.fetch_add(1, Ordering::Release);
        }
        brought
    }

    /// How often an address was taken away from a name.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Names that connections rest on and that are to be looked up again; those that nobody rests on any more
    /// are forgotten when they hold no longer.
    fn due(&self, hold: Hold, now: Instant) -> Vec<Arc<Host>> {
        let hold = Hold { found: hold.found.max(SOONEST), failed: hold.failed.max(SOONEST) };
        let mut due = Vec::new();
        lock(&self.hosts).retain(|_, host| {
            let is_due = host.asks.try_lock().is_ok() && lock(&host.known).is_due(hold, now);
            let followed = Arc::strong_count(host) > 1;
            if is_due && followed {
                due.push(Arc::clone(host));
            }
            followed || !is_due
        });
        due
    }

    /// All names, for those who show them.
    pub fn rows(&self, hold: Hold, now: Instant) -> Vec<NameRow> {
        let hosts = lock(&self.hosts);
        let row = |host: &Arc<Host>| {
            let known = lock(&host.known);
            let age = known.answered.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
            NameRow {
                name: host.name.to_string(),
                left: known.time(hold).saturating_sub(age),
                addresses: known.addresses.clone(),
            }
        };
        hosts.values().map(row).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.hosts).len()
    }

    /// Lookups under way.
    pub fn asking(&self) -> usize {
        self.asking.load(Ordering::Relaxed)
    }
}

impl Host {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            known: Mutex::default(),
            asks: tokio::sync::Mutex::new(()),
            next: AtomicUsize::new(0),
        }
    }

    /// Its addresses, for each connection beginning with the next one.
    fn in_turn(&self) -> io::Result<Vec<IpAddr>> {
        let known = lock(&self.known);
        let mut all = known.addresses.clone();
        if all.is_empty() {
            let fault = known.fault.clone();
            let (kind, what) = fault.unwrap_or((io::ErrorKind::NotFound, "no address".to_owned()));
            return Err(io::Error::new(kind, what));
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % all.len();
        all.rotate_left(turn);
        Ok(all)
    }

    /// None of its addresses lets anybody connect: it may lead elsewhere by now. Whether it is to be looked up.
    fn doubt(&self, now: Instant) -> bool {
        let mut known = lock(&self.known);
        let old = known.answered.is_some_and(|at| now.saturating_duration_since(at) >= SOONEST);
        if old {
            known.answered = None;
        }
        old
    }
}

impl Known {
    fn time(&self, hold: Hold) -> Duration {
        if self.fault.is_some() { hold.failed } else { hold.found }
    }

    fn is_due(&self, hold: Hold, now: Instant) -> bool {
        let time = self.time(hold);
        self.answered.is_none_or(|at| now.saturating_duration_since(at) >= time)
    }

    /// What who connects needs of a lookup.
    fn need(&self, hold: Hold, now: Instant) -> Need {
        match (self.is_due(hold, now), self.addresses.is_empty()) {
            (false, _) => Need::Nothing,
            (true, false) => Need::News,
            (true, true) => Need::All,
        }
    }

    fn take(&mut self, found: io::Result<Vec<IpAddr>>, now: Instant) -> Brought {
        self.answered = Some(now);
        let found = found.and_then(|mut all| {
            all.sort_unstable();
            all.dedup();
            all.truncate(MOST_ADDRESSES);
            let empty = || io::Error::new(io::ErrorKind::NotFound, "no address");
            if all.is_empty() { Err(empty()) } else { Ok(all) }
        });
        match found {
            Err(fault) => {
                let told = fault.to_string();
                self.fault = Some((fault.kind(), told.clone()));
                Brought::Failed(told)
            }
            Ok(all) => {
                self.fault = None;
                let before = std::mem::replace(&mut self.addresses, all);
                let lost = before.iter().any(|one| !self.addresses.contains(one));
                if lost { Brought::Moved(self.addresses.clone()) } else { Brought::Same }
            }
        }
    }
}

impl Lead {
    /// Whether the address is still the name's; what rests on no name holds for ever.
    pub fn holds(&self) -> bool {
        self.0.as_ref().is_none_or(|(host, at)| lock(&host.known).addresses.contains(at))
    }
}

impl Worker {
    /// Connects; to a name's addresses in turn, until one lets us.
    ///
    /// # Errors
    /// The name has no address, or as the last one says.
    pub async fn dial(&self, address: &ServerAddress) -> io::Result<(Dialled, Lead)> {
        let ServerAddress::Name(name, port) = address else {
            return Ok((self.dialer.dial(address).await?, Lead::default()));
        };
        let (names, hold) = (Arc::clone(&self.snapshot().names), Hold::from(&*self.settings()));
        let host = names.host(name);
        let need = lock(&host.known).need(hold, Instant::now());
        match need {
            Need::Nothing => {}
            Need::News => self.look_up(&names, &host, hold),
            Need::All => {
                let brought = names.ask(&host, hold).await;
                tell(&self.observer, &host, &brought);
            }
        }
        let mut last = None;
        for at in host.in_turn()? {
            let address = ServerAddress::Ip(SocketAddr::new(at, *port));
            match self.dialer.dial(&address).await {
                Ok(dialled) => return Ok((dialled, Lead(Some((host, at))))),
                Err(fault) => last = Some(fault),
            }
        }
        if host.doubt(Instant::now()) {
            self.look_up(&names, &host, hold);
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    /// Looks up again what is due. For all workers the first one does it.
    pub(crate) fn follow_names(&self) {
        if self.id.0 != 0 {
            return;
        }
        let (names, hold) = (Arc::clone(&self.snapshot().names), Hold::from(&*self.settings()));
        let rarely = Hold { found: hold.found.max(SOONEST), failed: hold.failed.max(SOONEST) };
        for host in names.due(hold, Instant::now()) {
            self.look_up(&names, &host, rarely);
        }
    }

    /// Looks a name up while what is known of it stays in use; not if somebody does already.
    fn look_up(&self, names: &Arc<Names>, host: &Arc<Host>, hold: Hold) {
        if host.asks.try_lock().is_err() {
            return;
        }
        let (names, host, observer) = (Arc::clone(names), Arc::clone(host), self.observer.clone());
        tokio::task::spawn_local(async move {
            let brought = names.ask(&host, hold).await;
            tell(&observer, &host, &brought);
        });
    }
}

fn tell(observer: &common::observe::Observer, host: &Host, brought: &Brought) {
    let name = &*host.name;
    match brought {
        Brought::Same => {}
        Brought::Moved(to) => observer.emit(NameMoved { name, to }),
        Brought::Failed(cause) => observer.emit(NameFailed { name, cause }),
    }
}

/// A lookup under way, counted until it is over or given up.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// D1, P2: an address that is gone is a change, one that is new is none; a lookup that fails, or brings
    /// nothing, takes no address away and holds for a time of its own.
    #[tokio::test(start_paused = true)]
    async fn what_a_lookup_brings() {
        let (mut known, now) = (Known::default(), Instant::now());
        let hold = Hold { found: Duration::from_secs(15), failed: Duration::from_secs(3) };
        assert!(known.is_due(hold, now));
        assert_eq!(known.take(Ok(vec![ip(2), ip(1), ip(2)]), now), Brought::Same);
        assert_eq!(known.addresses, [ip(1), ip(2)]);
        assert!(!known.is_due(hold, now + Duration::from_secs(14)));
        assert!(known.is_due(hold, now + Duration::from_secs(15)));
        assert_eq!(known.take(Ok(vec![ip(1), ip(2), ip(3)]), now), Brought::Same);
        for nothing in [Ok(Vec::new()), Err(io::Error::other("no name server"))] {
            assert!(matches!(known.take(nothing, now), Brought::Failed(_)));
            assert_eq!(known.addresses.len(), 3);
            assert!(known.is_due(hold, now + Duration::from_secs(3)));
        }
        assert_eq!(known.take(Ok(vec![ip(3)]), now), Brought::Moved(vec![ip(3)]));
    }
}
