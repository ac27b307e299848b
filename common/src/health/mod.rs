//! Active checks: asks every endpoint of a service at intervals and tells its state. Not for what
//! the data path sees by itself (`service` counts that). Runs on the control runtime, one task per
//! endpoint.
//!
//! Invariant: a check ends within its timeout and holds at most a few kilobytes of the answer.

mod grpc;
mod http;
mod tcp;
mod tls;
mod udp;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use topology::HealthCheck;

use crate::observe::Observer;
use crate::rng::Rng;
use crate::service::events::{self, EndpointDown, EndpointUp};
use crate::service::{Checked, Endpoint, EndpointState, Full, Health, Service};

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The system's word: refused, unreachable, reset.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No answer in time.
    #[error("no answer within the timeout")]
    Timeout,
    /// An answer that is not 2xx.
    #[error("status {0}")]
    Status(u16),
    /// The handshake failed.
    #[error("TLS: {0}")]
    Tls(io::Error),
    /// An answer of `grpc.health.v1` that is not SERVING, or no such answer.
    #[error("gRPC: {0}")]
    Grpc(String),
    /// The answer is not HTTP.
    #[error("not an HTTP answer: {0}")]
    Http(#[from] hyper::Error),
}

/// A good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It may have traffic.
    Ready,
    /// It is well and takes nothing new for now.
    Full,
}

/// Asks an endpoint once. Cancelling it closes what it opened.
pub trait Probe: Send + Sync + 'static {
    /// Ok when the endpoint is well. The caller limits the time.
    fn ask(&self, address: SocketAddr) -> impl Future<Output = Result<Answer, Fault>> + Send;
}

impl Probe for topology::model::Probe {
    async fn ask(&self, address: SocketAddr) -> Result<Answer, Fault> {
        match self {
            Self::Tcp => tcp::ask(address).await,
            Self::Tls { name } => tls::ask(address, name.as_deref()).await,
            Self::Grpc { service } => grpc::ask(address, service).await,
            Self::Http { path } => http::ask(address, path).await,
            Self::Udp { request } => udp::ask(address, request).await,
        }
    }
}

/// The checks of several services that come and go. Dropping it ends all of them.
#[derive(Debug, Default)]
pub struct Checks {
    running: Vec<Running>,
    tasks: JoinSet<()>,
}

/// What is asked of an endpoint, and the task that asks.
#[derive(Debug)]
struct Running {
    state: Arc<EndpointState>,
    check: HealthCheck,
    task: AbortHandle,
}

impl Checks {
    /// Checks exactly these services from now on. An endpoint that is still there and asked the
    /// same goes on being asked: its answers in a row are not forgotten.
    pub fn update<'a>(
        &mut self,
        services: impl IntoIterator<Item = (&'a Arc<Service>, &'a HealthCheck)>,
        observer: &Observer,
    ) {
        // Ten thousand endpoints may be looked through ten times a second.
        let mut former: HashMap<_, Vec<Running>> = HashMap::new();
        for running in self.running.drain(..) {
            former.entry(Arc::as_ptr(&running.state)).or_default().push(running);
        }
        for (service, check) in services {
            for endpoint in &service.endpoints {
                let known = former.get_mut(&Arc::as_ptr(&endpoint.state)).and_then(|known| {
                    let at = known.iter().position(|known| known.check == *check)?;
                    Some(known.swap_remove(at))
                });
                self.running.push(known.unwrap_or_else(|| {
                    let probe = Arc::new(check.probe.clone());
                    let watcher = Watcher::new(service, endpoint, check, observer);
                    let task = self.tasks.spawn(watcher.run(probe));
                    Running { state: endpoint.state.clone(), check: check.clone(), task }
                }));
            }
        }
        former.into_values().flatten().for_each(|gone| gone.task.abort());
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Watches one endpoint.
struct Watcher {
    service: Arc<Service>,
    endpoint: Arc<Endpoint>,
    check: HealthCheck,
    observer: Observer,
    rng: Rng,
}

impl Watcher {
    fn new(
        service: &Arc<Service>,
        endpoint: &Arc<Endpoint>,
        check: &HealthCheck,
        observer: &Observer,
    ) -> Self {
        let (service, endpoint) = (service.clone(), endpoint.clone());
        let (check, observer) = (check.clone(), observer.clone());
        Self { service, endpoint, check, observer, rng: Rng::from_os() }
    }

    async fn run(self, probe: Arc<impl Probe>) {
        let (service, endpoint) = (self.service.name.as_str(), self.endpoint.name.as_str());
        events::up(
            &self.observer,
            service,
            endpoint,
            if self.endpoint.state.healthy() { 1.0 } else { 0.0 },
        );
        let mut tally = Tally::default();
        loop {
            // From start to start, ± 10 %, so that instances and endpoints do not march in step.
            let began = Instant::now();
            let next = began + self.rng.jitter(self.check.interval, 10);
            let asked = timeout(self.check.timeout, probe.ask(self.endpoint.address)).await;
            let outcome = asked.unwrap_or(Err(Fault::Timeout));
            let state = &self.endpoint.state;
            let full = if matches!(outcome, Ok(Answer::Full)) { Full::Yes } else { Full::No };
            state.set_full(full);
            self.record(began, &outcome);
            match tally.count(outcome.is_ok(), state.healthy(), &self.check) {
                Some(Health::Up) => {
                    state.set_healthy(Health::Up);
                    self.observer.emit(EndpointUp { service, endpoint });
                }
                Some(Health::Down) => {
                    state.set_healthy(Health::Down);
                    let cause = outcome.err().map(|fault| fault.to_string()).unwrap_or_default();
                    self.observer.emit(EndpointDown { service, endpoint, cause: &cause });
                }
                None => {}
            }
            sleep_until(next).await;
        }
    }

    /// Keeps what was found for operators, and counts it.
    fn record(&self, began: Instant, outcome: &Result<Answer, Fault>) {
        let (service, endpoint) = (self.service.name.as_str(), self.endpoint.name.as_str());
        let (word, mut text) = match outcome {
            Ok(Answer::Ready) => ("ok", "ok".to_owned()),
            Ok(Answer::Full) => ("full", "full".to_owned()),
            Err(fault) => ("failed", fault.to_string()),
        };
        text.truncate(text.floor_char_boundary(LONGEST));
        let at = Instant::now();
        self.endpoint.state.set_checked(Checked { at, took: at - began, outcome: text });
        events::checked(&self.observer, service, endpoint, word);
    }
}

/// Of a cause that is kept, in bytes.
const LONGEST: usize = 200;

/// Answers in a row.
#[derive(Debug, Default)]
struct Tally {
    good: u8,
    bad: u8,
}

impl Tally {
    /// Counts an answer; says what the endpoint becomes by it, if anything.
    fn count(&mut self, good: bool, healthy: bool, check: &HealthCheck) -> Option<Health> {
        if good {
            (self.good, self.bad) = (self.good.saturating_add(1), 0);
            return (!healthy && self.good >= check.rise).then_some(Health::Up);
        }
        (self.good, self.bad) = (0, self.bad.saturating_add(1));
        (healthy && self.bad >= check.fall).then_some(Health::Down)
    }
}

#[cfg(test)]
mod tests;
