//! Starts instances for the tests from topology text. Not for fakes.
//!
//! Invariant: every listener is bound to port 0 of its instance's address.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use l4_nlb::{Options, Running};
use topology::Topology;
use topology::l4::{ListenAt, Listener};

/// A running instance with what a test asks it for.
pub(crate) struct Balancer {
    pub(crate) running: Running,
    pub(crate) options: Options,
    pub(crate) topology: Topology,
}

impl Balancer {
    /// One listener `l` of `udp` or `tcp` to these endpoints; `change` adjusts it.
    pub(crate) async fn start(
        protocol: &str,
        endpoints: &[SocketAddr],
        change: impl FnOnce(&mut Listener),
    ) -> Self {
        Self::start_on(protocol, endpoints, [127, 0, 0, 1].into(), change).await
    }

    /// The same on another address.
    pub(crate) async fn start_on(
        protocol: &str,
        endpoints: &[SocketAddr],
        address: IpAddr,
        change: impl FnOnce(&mut Listener),
    ) -> Self {
        let mut topology = topology(protocol, endpoints);
        let listener = &mut topology.nlbs[0].listeners[0];
        listener.at.value = ListenAt::Address(SocketAddr::new(address, 0));
        change(listener);
        Self::start_with(topology).await
    }

    /// Another file with an instance `nlb-1`.
    pub(crate) async fn start_with(topology: Topology) -> Self {
        let mut options = Options::new("nlb-1");
        options.workers = NonZeroUsize::new(2);
        let running =
            l4_nlb::start(Arc::new(topology.clone()), "nlb-1", options.clone()).await.unwrap();
        Self { running, options, topology }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.running.listeners[0].1
    }

    /// Replaces the endpoints while it runs.
    pub(crate) async fn endpoints(&self, endpoints: &[SocketAddr]) {
        let mut next = self.topology.clone();
        let fresh = topology("udp", endpoints);
        next.nlbs[0].listeners[0].targets = fresh.nlbs[0].listeners[0].targets.clone();
        self.running.handle().publish(Arc::new(next)).await.unwrap();
    }

    /// The value of a series, by the start of its line; 0 when it is not there.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let text = self.options.observer.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    }

    /// Waits until a counter has exactly this value: an answer may be here before it is counted.
    pub(crate) async fn until(&self, series: &str, value: u64) {
        while self.metric(series) < value {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.metric(series), value, "{series}");
    }

    /// Waits until the admin listener shows this among the endpoints.
    pub(crate) async fn until_shown(&self, text: &str) {
        while !self.running.endpoints().to_string().contains(text) {
            tokio::task::yield_now().await;
        }
    }

    /// Ends it at once.
    pub(crate) async fn stop(self) {
        self.options.lifecycle.stop();
        self.running.finished().await.unwrap();
    }
}

/// The topology of [`Balancer::start`], with listeners still at their written ports.
pub(crate) fn topology(protocol: &str, endpoints: &[SocketAddr]) -> Topology {
    let endpoints: Vec<String> = endpoints.iter().map(|e| format!("\"{e}\"")).collect();
    let text = format!(
        "aqueduct: 1\nservices:\n  s: {{ endpoints: [{}] }}\nnlbs:\n  edge:\n    instances: {{ nlb-1: \
         {{ address: 127.0.0.1 }} }}\n    listeners:\n      l: {{ {protocol}: \"*:7777\", to: s }}\n",
        endpoints.join(", ")
    );
    topology::parse("test.yaml", &text, Path::new(".")).unwrap()
}
