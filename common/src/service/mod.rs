//! A service as the data path sees it: its endpoints and what is known about each, process-wide.
//! Not for choosing one (`balance`) and not for asking whether it lives (`health`). Called by every
//! tier for each flow, request or checkout.
//!
//! Invariant: all workers see one state per endpoint; the data path meets no lock here.

pub mod events;
mod outlier;
mod remembered;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use topology::units::{Percent, ZoneName};
use topology::{EndpointName, ServiceName, Weight};

use outlier::{Entry, Outlier};
pub use outlier::{Failing, Passive};
pub use remembered::Remembered;

/// Named servers that do the same work.
#[derive(Debug)]
pub struct Service {
    /// Its name in the topology file.
    pub name: ServiceName,
    /// At least one; the order is the file's and means nothing.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// With a smaller part of them selectable than this, all are used.
    pub panic_threshold: Percent,
    /// How long an endpoint that is new or has come back takes to reach its whole share, where the
    /// balancing does not hash.
    pub slow_start: Option<Duration>,
    /// How its endpoints are dealt with.
    pub rules: Rules,
    born: Instant,
    panics: Remembered,
}

/// How the data path deals with the endpoints of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// When failures eject one.
    pub passive: Passive,
    /// Most in flight at one; `None`: no bound.
    pub most_active: Option<NonZeroU32>,
}

impl Rules {
    /// Whether an endpoint has room for one more.
    pub fn admits(&self, state: &EndpointState) -> bool {
        self.most_active.is_none_or(|most| state.active() < most.get())
    }
}

impl Service {
    /// Every endpoint starts healthy: traffic need not wait for the first check.
    pub fn new(model: &topology::Service) -> Arc<Self> {
        Self::with(model, Rules::default())
    }

    /// The same under these rules.
    pub fn with(model: &topology::Service, rules: Rules) -> Arc<Self> {
        Self::build(model, rules, |wanted| {
            Arc::new(Endpoint::new(wanted, Arc::new(EndpointState::new())))
        })
    }

    /// The service after a change of configuration: an endpoint that kept its name and its address
    /// keeps its state, and a new one starts slowly.
    pub fn update(&self, model: &topology::Service) -> Arc<Self> {
        self.update_with(model, self.rules)
    }

    /// The same, under these rules from now on.
    pub fn update_with(&self, model: &topology::Service, rules: Rules) -> Arc<Self> {
        let now = Instant::now();
        // A thousand endpoints may change ten times a second.
        let by_address: HashMap<SocketAddr, &Arc<Endpoint>> =
            self.endpoints.iter().map(|endpoint| (endpoint.address, endpoint)).collect();
        Self::build(model, rules, |wanted| {
            let known = by_address.get(&wanted.address).filter(|e| e.name == wanted.name);
            match known.copied() {
                Some(known) if known.weight == wanted.weight && known.zone == wanted.zone => {
                    known.clone()
                }
                Some(known) => Arc::new(Endpoint::new(wanted, known.state.clone())),
                None => {
                    let state = EndpointState::new();
                    state.start(now);
                    Arc::new(Endpoint::new(wanted, Arc::new(state)))
                }
            }
        })
    }

    /// True when too few endpoints can be selected: then all of them are used. With a threshold of
    /// 0 % that is when none can.
    pub fn panicking(&self, now: Instant) -> bool {
        let mut selectable = self.endpoints.iter().filter(|e| e.state.selectable(now));
        let Percent(threshold) = self.panic_threshold;
        let most = self.endpoints.len() * usize::from(threshold);
        match threshold {
            // One is enough, and is found soon.
            0 => selectable.next().is_none(),
            _ => selectable.count() * 100 < most.max(1),
        }
    }

    /// The same, counted now and then where it takes a look at every endpoint. `start` is any place
    /// in the list: the look for a selectable one begins there.
    pub(crate) fn panics(&self, start: usize, now: Instant) -> bool {
        if self.panic_threshold == Percent(0) {
            let (before, after) = self.endpoints.split_at_checked(start).unwrap_or_default();
            return !after.iter().chain(before).any(|e| e.state.selectable(now));
        }
        self.panics.get(self.turn(now), || u16::from(self.panicking(now))) != 0
    }

    /// Numbers spans of time in which what is remembered is not worked out again.
    pub(crate) fn turn(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_millis() as u64 / 8
    }

    /// Told by a data path that sends trials: an endpoint did what it was asked. True when it had been
    /// ejected, for the caller to emit [`events::EndpointReturned`].
    pub fn report_success(&self, endpoint: usize) -> bool {
        self.endpoints.get(endpoint).is_some_and(|endpoint| endpoint.state.outlier.success())
    }

    /// Told by a data path that sends trials: an endpoint failed. After several in a row it is ejected;
    /// then the time until it is tried again is returned, once, for the caller to emit
    /// [`events::EndpointEjected`].
    pub fn report_failure(
        &self,
        endpoint: usize,
        failing: Failing,
        now: Instant,
    ) -> Option<Duration> {
        let state = &self.endpoints.get(endpoint)?.state;
        let passive = &self.rules.passive;
        state.outlier.failure(passive, failing, now, || self.spares(endpoint, now))
    }

    /// Whether the service can do without one more endpoint.
    fn spares(&self, endpoint: usize, now: Instant) -> bool {
        let others = || self.endpoints.iter().enumerate().filter(|(index, _)| *index != endpoint);
        let out = others().filter(|(_, other)| other.state.outlier.ejected(now)).count() + 1;
        let Percent(most) = self.rules.passive.most;
        let most = (self.endpoints.len() * usize::from(most) / 100).max(usize::from(most > 0));
        out <= most && others().any(|(_, other)| other.state.selectable(now))
    }

    fn build(
        model: &topology::Service,
        rules: Rules,
        endpoint: impl Fn(&topology::Endpoint) -> Arc<Endpoint>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: model.name.clone(),
            endpoints: model.endpoints.iter().map(endpoint).collect(),
            panic_threshold: model.panic_threshold,
            slow_start: model.slow_start,
            rules,
            born: Instant::now(),
            panics: Remembered::default(),
        })
    }
}

/// One address of a service.
#[derive(Debug)]
pub struct Endpoint {
    /// Stable name; hashing depends on it.
    pub name: EndpointName,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share, as the file has it.
    pub weight: Weight,
    /// Where it stands.
    pub zone: Option<ZoneName>,
    /// What is known about it now.
    pub state: Arc<EndpointState>,
}

impl Endpoint {
    fn new(model: &topology::Endpoint, state: Arc<EndpointState>) -> Self {
        Self {
            name: model.name.clone(),
            address: model.address,
            weight: model.weight,
            zone: model.zone.clone(),
            state,
        }
    }

    /// Its share now: what an operator set, else the file's. 0: nothing new.
    pub fn weight(&self) -> u16 {
        self.state.weight().unwrap_or(self.weight.0)
    }

    /// Its share in thousandths, less while it starts slowly; at least a tenth of its weight.
    pub fn load_weight(&self, slow_start: Option<Duration>, now: Instant) -> u64 {
        let whole = u64::from(self.weight()) * 1000;
        match (slow_start, self.state.age(now)) {
            (Some(ramp), Some(age)) if age < ramp => {
                let part = age.as_millis() * u128::from(whole) / ramp.as_millis().max(1);
                (part as u64).max(whole / 10)
            }
            _ => whole,
        }
    }
}

/// Whether an endpoint has said that it takes nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// It has.
    Yes,
    /// It has not.
    No,
}

/// What an active check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Up,
    /// It does not.
    Down,
}

/// How an endpoint stands, in one word: for operators, not for the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It takes its whole share.
    Up,
    /// It takes a growing share.
    Starting,
    /// It takes nothing new: an operator or the file says so.
    Draining,
    /// It takes nothing new: it says so itself.
    Full,
    /// A check or the data path found it dead.
    Down,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Up, Self::Starting, Self::Draining, Self::Full, Self::Down];

    /// As a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::Full => "full",
            Self::Down => "down",
        }
    }
}

/// What the last active check of an endpoint found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// When it ended.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
    /// `ok`, `full`, or why it failed; at most 200 bytes.
    pub outcome: String,
}

/// The living part of an endpoint: atomics, shared by all workers.
#[derive(Debug)]
pub struct EndpointState {
    active: Arc<AtomicU32>,
    down: AtomicBool,
    draining: AtomicBool,
    full: AtomicBool,
    /// Set by an operator; [`FROM_FILE`]: not set.
    weight: AtomicU32,
    born: Instant,
    /// Milliseconds after `born` at which it became new or came back; [`ALWAYS`]: it was there.
    started: AtomicU64,
    outlier: Outlier,
    /// For operators, as all that follows; the data path never looks at it.
    flows: AtomicU64,
    failures: AtomicU64,
    checked: Mutex<Option<Checked>>,
}

/// No weight was set.
const FROM_FILE: u32 = u32::MAX;

/// It was there from the start.
const ALWAYS: u64 = u64::MAX;

impl Default for EndpointState {
    fn default() -> Self {
        Self::new()
    }
}

impl EndpointState {
    /// Healthy, idle, not draining.
    pub fn new() -> Self {
        Self {
            active: Arc::default(),
            down: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            full: AtomicBool::new(false),
            weight: AtomicU32::new(FROM_FILE),
            born: Instant::now(),
            started: AtomicU64::new(ALWAYS),
            outlier: Outlier::new(),
            flows: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            checked: Mutex::new(None),
        }
    }

    /// Connections or requests in flight.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Counts one in flight until the guard is dropped.
    pub fn enter(&self) -> InFlight {
        self.active.fetch_add(1, Ordering::Relaxed);
        InFlight(self.active.clone())
    }

    /// Counts a flow that a balancer gives it; gateways count their attempts elsewhere.
    pub fn count_flow(&self) {
        self.flows.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one that it did not take.
    pub fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Flows that a balancer gave it, and how many failures it answered them with.
    pub fn flows(&self) -> (u64, u64) {
        (self.flows.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }

    /// What the active check last said; up without one.
    pub fn healthy(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    /// Told by the active check. `Up` ends an ejection too: the check has asked the endpoint itself.
    pub fn set_healthy(&self, health: Health) {
        let was_down = self.down.swap(health == Health::Down, Ordering::Relaxed);
        if health == Health::Up {
            let _returned = self.outlier.forgive();
            if was_down {
                self.start(Instant::now());
            }
        }
    }

    /// Begins the slow start of an endpoint that is new or has come back.
    fn start(&self, now: Instant) {
        let age = now.saturating_duration_since(self.born).as_millis();
        self.started.store(u64::try_from(age).unwrap_or(ALWAYS - 1), Ordering::Relaxed);
    }

    /// How long ago it became new or came back; `None`: it was there from the start.
    fn age(&self, now: Instant) -> Option<Duration> {
        let started = self.started.load(Ordering::Relaxed);
        let age = now.saturating_duration_since(self.born);
        (started != ALWAYS).then(|| age.saturating_sub(Duration::from_millis(started)))
    }

    /// Told by the active check: it takes nothing new for now, and is well.
    pub fn set_full(&self, full: Full) {
        self.full.store(full == Full::Yes, Ordering::Relaxed);
    }

    /// The weight that an operator set.
    pub fn weight(&self) -> Option<u16> {
        u16::try_from(self.weight.load(Ordering::Relaxed)).ok()
    }

    /// Sets the weight over the file's; `None` goes back to it. Balancers that hash or write their
    /// rounds out know of it once they are built anew.
    pub fn set_weight(&self, weight: Option<u16>) {
        self.weight.store(weight.map_or(FROM_FILE, u32::from), Ordering::Relaxed);
    }

    /// What the last active check found.
    pub fn checked(&self) -> Option<Checked> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Told by the active check.
    pub fn set_checked(&self, checked: Checked) {
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = Some(checked);
    }

    /// How it stands; `slow_start` is its service's.
    pub fn condition(&self, slow_start: Option<Duration>, now: Instant) -> Condition {
        let starting = || slow_start.zip(self.age(now)).is_some_and(|(ramp, age)| age < ramp);
        match () {
            () if !self.alive(now) => Condition::Down,
            () if self.draining() || self.weight() == Some(0) => Condition::Draining,
            () if self.full.load(Ordering::Relaxed) => Condition::Full,
            () if starting() => Condition::Starting,
            () => Condition::Up,
        }
    }

    /// Takes no new flows; known ones stay.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Starts draining.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Ends draining.
    pub fn undrain(&self) {
        self.draining.store(false, Ordering::Relaxed);
    }

    /// A sign of life from the data path: ends the row of failures.
    pub fn report_success(&self) {
        let _returned = self.outlier.success();
    }

    /// A failure seen by the data path (refused, unreachable, reset before an answer). After the
    /// third in a row the endpoint is ejected; then the time until it is tried again is returned,
    /// once, for the caller to emit [`events::EndpointEjected`].
    pub fn report_failure(&self, now: Instant) -> Option<std::time::Duration> {
        self.outlier.failure(&Passive::default(), Failing::Badly, now, || true)
    }

    /// How long an ejection lasts yet; `None`: it is not ejected.
    pub fn ejected_for(&self, now: Instant) -> Option<Duration> {
        self.outlier.left(now)
    }

    /// It could not be connected to, and it is not yet time to try again.
    pub fn unreachable(&self, now: Instant) -> bool {
        self.outlier.unreachable(now)
    }

    /// Asked before a request goes to a chosen endpoint: after an ejection one at a time finds out
    /// whether it is well again.
    ///
    /// # Errors
    /// Another request is finding out.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<Option<Trial>, Tried> {
        match self.outlier.enter(now) {
            Entry::Free => Ok(None),
            Entry::Trial => Ok(Some(Trial(Arc::clone(self)))),
            Entry::Busy => Err(Tried),
        }
    }

    /// Healthy and not ejected: known flows may stay.
    pub fn alive(&self, now: Instant) -> bool {
        self.healthy() && !self.outlier.ejected(now)
    }

    /// Alive, not draining, not full, and of some weight: new flows may come.
    pub fn selectable(&self, now: Instant) -> bool {
        let full = self.full.load(Ordering::Relaxed);
        let weightless = self.weight.load(Ordering::Relaxed) == 0;
        !self.draining() && !full && !weightless && self.alive(now)
    }
}

/// A request that finds out whether an endpoint is well again; others keep away until it is dropped,
/// and further if what it found was reported as a failure.
#[derive(Debug)]
pub struct Trial(Arc<EndpointState>);

impl Drop for Trial {
    fn drop(&mut self) {
        self.0.outlier.leave();
    }
}

/// An endpoint is being tried by another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried;

/// One connection or request in flight; dropping it ends the count.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicU32>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests;
