//! One worker with a topology given as text, and clients that are in-memory streams.
//!
//! Invariant: nothing here listens on a port.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use common::lifecycle::Lifecycle;
use common::observe::Observer;
use common::snapshot::Published;
use l7_gateway::access_log::{Fate, Sink, Writer};
use l7_gateway::connection::Worker;
use l7_gateway::snapshot::Snapshot;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::{JoinHandle, spawn_local};
use topology::Topology;

/// The worker and what it writes.
pub(crate) struct Rig {
    pub(crate) worker: Rc<Worker>,
    pub(crate) published: Arc<Published<Snapshot>>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) observer: Observer,
    pub(crate) log: Log,
    writer: Option<Writer>,
}

/// The access log in memory.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("whole").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The address that in-memory clients come from.
pub(crate) fn client() -> SocketAddr {
    "192.0.2.7:40000".parse().expect("an address")
}

/// A topology whose gateway is `gw`, with the `gateways: app:` section's inner lines given.
pub(crate) fn topology(services: &str, gateway: &str) -> Topology {
    let text = format!(
        "aqueduct: 1\nservices:\n{services}\ngateways:\n  app:\n    instances:\n      \
         gw: {{ listen: 127.0.0.1:0 }}\n{gateway}\n"
    );
    let parsed = topology::parse("test.yaml", &text, Path::new("/nowhere"));
    parsed.map_err(|problems| problems.to_string()).expect("a valid topology")
}

/// A service of one endpoint and a route that leads all paths to it.
pub(crate) fn one(address: SocketAddr) -> Topology {
    topology(
        &format!("  user: {{ endpoints: [{address}] }}"),
        "    routes:\n      - { path: /*, to: user }",
    )
}

impl Rig {
    pub(crate) fn new(topology: &Topology) -> Self {
        Self::of(topology, "gw")
    }

    /// A worker of this instance.
    pub(crate) fn of(topology: &Topology, name: &str) -> Self {
        let (group, instance) = topology.gateway(name).expect("the instance");
        let observer = Observer::new(name);
        let snapshot = Snapshot::build(group, &instance.name, &observer, None).expect("it builds");
        let log = Log::default();
        let dropped = observer.metrics.counter("dropped", "lost lines", &[]);
        let fate = Fate::new(&dropped);
        let writer = Writer::over(Box::new(log.clone()), 1, &fate).expect("a thread");
        let sink = Sink::new(&instance.name, writer.ring(0), Arc::default(), &observer.metrics);
        let published = Arc::new(Published::new(snapshot));
        let worker = Worker::new(Arc::clone(&published), sink, observer.clone());
        Self { worker, published, lifecycle: Lifecycle::new(), observer, log, writer: Some(writer) }
    }

    /// Requests go to another worker of the same process from now on; it writes no records.
    pub(crate) fn another_worker(&mut self) {
        let name = self.published.load().instance.clone();
        let sink = Sink::new(&name, None, Arc::default(), &self.observer.metrics);
        let published = Arc::clone(&self.published);
        self.worker = Worker::new(published, sink, self.observer.clone());
    }

    /// The file changes to this.
    pub(crate) fn reload(&self, topology: &Topology) {
        let before = self.published.load_full();
        let (group, instance) = topology.gateway(before.instance.as_str()).expect("the instance");
        let (name, observer) = (&instance.name, &self.observer);
        let next = Snapshot::build(group, name, observer, Some(&before)).expect("it builds");
        next.open_gates();
        self.published.publish(next);
    }

    /// A client's connection, and the task that serves it.
    pub(crate) fn connect(&self) -> (DuplexStream, JoinHandle<()>) {
        self.connect_from(client())
    }

    pub(crate) fn connect_from(&self, from: SocketAddr) -> (DuplexStream, JoinHandle<()>) {
        let (ours, theirs) = duplex(64 * 1024);
        let (worker, shutdown) = (Rc::clone(&self.worker), self.lifecycle.shutdown());
        (ours, spawn_local(async move { worker.serve(theirs, from, shutdown).await }))
    }

    /// Everything that comes back for these bytes until the connection ends.
    pub(crate) async fn raw(&self, bytes: &str) -> String {
        let (mut stream, _task) = self.connect();
        stream.write_all(bytes.as_bytes()).await.expect("taken");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an end");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// One request with these header lines, then the connection's end.
    pub(crate) async fn get(&self, path: &str, lines: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n"))
            .await
    }

    /// The lines of the access log, after everything was written.
    pub(crate) fn records(&mut self) -> Vec<serde_json::Value> {
        drop(self.writer.take());
        let bytes = self.log.0.lock().expect("whole");
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// Reads until the text is there.
pub(crate) async fn until(stream: &mut DuplexStream, wanted: &str) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if text.contains(wanted) {
            return text;
        }
        let read = stream.read_buf(&mut bytes).await.expect("alive");
        assert!(read > 0, "ended with {text:?}");
    }
}

/// Runs a test on one worker's runtime.
pub(crate) async fn local<F: Future>(test: F) -> F::Output {
    tokio::task::LocalSet::new().run_until(test).await
}

/// Time passes, whatever is going on.
pub(crate) async fn pass(time: std::time::Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
