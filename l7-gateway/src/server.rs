//! One worker's accept loop: takes connections up to the instance's limit and lets each run on its
//! own until it ends, or until a drain has waited long enough. Not for what happens on a connection.
//! Called by `crew`, once per listener and worker thread.
//!
//! Invariant: after a drain nothing new is taken, and the loop returns only when every connection
//! of this worker has ended.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::lifecycle::{Lifecycle, Shutdown};
use common::net::accept::Acceptor;
use common::observe::Observer;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::connection::Worker;
use crate::crew::Terms;
use crate::events::{Exhausted, Full};

/// Connections of all workers of an instance, and the most there may be.
#[derive(Debug)]
pub struct Connections {
    open: AtomicU32,
    most: AtomicU32,
    gauge: metrics::Gauge,
}

impl Connections {
    /// None yet.
    pub fn new(most: u32, observer: &Observer) -> Arc<Self> {
        let help = "Open downstream connections";
        let gauge = observer.metrics.gauge("aqueduct_http_connections", help, &[]);
        Arc::new(Self { open: AtomicU32::new(0), most: AtomicU32::new(most), gauge })
    }

    /// Lets so many in from now on; those that are open stay.
    pub fn bound(&self, most: u32) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// How many are open.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts one more until the guard is dropped; `None` when there are enough.
    fn enter(self: &Arc<Self>) -> Option<Entered> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let entered = Entered(Arc::clone(self));
        self.gauge.increment(1.0);
        (before < self.most.load(Ordering::Relaxed)).then_some(entered)
    }
}

/// One open connection.
#[derive(Debug)]
struct Entered(Arc<Connections>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.gauge.decrement(1.0);
    }
}

/// A listener as one worker has it.
#[derive(Debug)]
pub(crate) struct Place {
    /// The listener's own phases.
    pub(crate) phases: Lifecycle,
    /// Those of the connections that come now.
    pub(crate) terms: Terms,
    /// The instance's.
    pub(crate) whole: Shutdown,
}

/// Accepts until the drain, then waits for the connections that are left. Must run in a `LocalSet`.
pub(crate) async fn run(
    worker: Rc<Worker>,
    mut acceptor: Acceptor,
    connections: Arc<Connections>,
    observer: Observer,
    place: Place,
) {
    let closing = place.phases.shutdown();
    let mut tasks = JoinSet::new();
    let exhausted = |error: &io::Error| observer.emit(Exhausted { error });
    let admit = |tasks: &mut JoinSet<()>, (stream, from): (TcpStream, SocketAddr)| {
        let Some(entered) = connections.enter() else { return observer.emit(Full) };
        let (worker, shutdown) = (Rc::clone(&worker), place.terms.load().shutdown());
        tasks.spawn_local(async move {
            worker.serve(stream, from, shutdown).await;
            drop(entered);
        });
    };
    loop {
        tokio::select! {
            biased;
            () = place.whole.draining() => break,
            () = closing.draining() => break,
            Some(_) = tasks.join_next() => {}
            accepted = acceptor.next(exhausted) => admit(&mut tasks, accepted),
        }
    }
    // The kernel resets what it has taken and nobody accepts.
    let last = Instant::now() + LATE;
    while let Ok(accepted) = timeout_at(last, acceptor.next(exhausted)).await {
        admit(&mut tasks, accepted);
    }
    drop(acceptor);
    place.terms.load().drain();
    tokio::select! {
        () = async { while tasks.join_next().await.is_some() {} } => {}
        () = place.whole.stopped() => {}
        () = closing.stopped() => {}
    }
}

/// For so long a listener that closes takes what came in time.
const LATE: Duration = Duration::from_millis(20);
