//! The data path's threads and the listener that they share: it may move to another address, and
//! those who came under former terms may be asked to leave, while everything else goes on. Not for
//! accepting (`server`). Started by `lib`, told by `control`.
//!
//! Invariant: a thread ends when it has been told that nothing more comes, or the instance drains, and
//! its last connection has ended.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::cli::Options;
use common::lifecycle::{Lifecycle, Shutdown};
use common::net::accept::Acceptor;
use common::net::bind;
use common::snapshot::Published;
use common::workers::{self, WorkerId, Workers};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{interval, timeout};

use crate::connection::Worker;
use crate::server::{self, Connections};

/// A listener that control holds: its phases, and those of the connections that come now.
#[derive(Debug)]
pub(crate) struct Listener {
    /// As the file has it.
    pub(crate) listen: SocketAddr,
    /// Where it is.
    pub(crate) address: SocketAddr,
    phases: Lifecycle,
    terms: Terms,
}

/// The phases of connections that come now. Others take their place when what they were promised
/// (TLS, whose certificates are believed) no longer holds.
pub(crate) type Terms = Arc<Published<Lifecycle>>;

/// A listener's share for one worker.
#[derive(Debug)]
pub(crate) struct Share {
    socket: TcpListener,
    pub(crate) phases: Lifecycle,
    pub(crate) terms: Terms,
}

impl Listener {
    /// Binds, one socket per worker.
    ///
    /// # Errors
    /// When somebody listens there already, or the address is not this host's.
    pub(crate) fn bind(listen: SocketAddr, workers: usize) -> io::Result<(Self, Vec<Share>)> {
        let count = NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN);
        let sockets = bind::tcp_group(listen, count)?;
        let address = sockets.first().map_or(Ok(listen), TcpListener::local_addr)?;
        let phases = Lifecycle::new();
        let terms = Arc::new(Published::new(Lifecycle::new()));
        let share = |socket| Share { socket, phases: phases.clone(), terms: Arc::clone(&terms) };
        let shares = sockets.into_iter().map(share).collect();
        Ok((Self { listen, address, phases, terms }, shares))
    }

    /// Asks those who are connected now to leave within `limit`; who comes from now on is not meant.
    pub(crate) fn renew(
        &self,
        limit: Duration,
        whole: Shutdown,
    ) -> impl Future<Output = ()> + use<> {
        let former = self.terms.load_full();
        self.terms.publish(Lifecycle::new());
        leave(Arc::unwrap_or_clone(former), limit, whole)
    }

    /// Takes nothing new; those who are connected leave within `limit`.
    pub(crate) fn retire(
        self,
        limit: Duration,
        whole: Shutdown,
    ) -> impl Future<Output = ()> + use<> {
        self.phases.drain();
        let connected = self.terms.load_full();
        let last = leave(Arc::unwrap_or_clone(connected), limit, whole);
        async move {
            last.await;
            self.phases.stop();
        }
    }
}

async fn leave(who: Lifecycle, limit: Duration, whole: Shutdown) {
    who.drain();
    // Both outcomes end it: the deadline, or the instance's own end.
    let _ended = timeout(limit, whole.stopped()).await;
    who.stop();
}

/// How the threads are told. Dropping it tells them that nothing more comes.
#[derive(Debug)]
pub(crate) struct Crew {
    orders: Vec<mpsc::UnboundedSender<Share>>,
}

impl Crew {
    /// Gives each worker its share of a listener.
    pub(crate) fn open(&self, shares: Vec<Share>) {
        for (share, worker) in shares.into_iter().zip(&self.orders) {
            // A worker that is gone was told of by itself.
            let _gone = worker.send(share);
        }
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.orders.len()
    }
}

/// Starts the threads, without a listener yet. Each makes its worker inside its own runtime.
pub(crate) fn start(
    count: NonZeroUsize,
    options: &Options,
    connections: &Arc<Connections>,
    make: impl Fn(usize) -> Rc<Worker> + Clone + Send + 'static,
) -> io::Result<(Crew, Workers)> {
    let (orders, inboxes): (Vec<_>, Vec<_>) =
        (0..count.get()).map(|_| mpsc::unbounded_channel()).unzip();
    let inboxes = inboxes.into_iter().map(Some).collect::<Vec<_>>();
    let inboxes = Arc::new(Mutex::new(inboxes));
    let (options, connections) = (options.clone(), Arc::clone(connections));
    let workers = workers::spawn("gateway", count, move |WorkerId(index)| {
        let mut inboxes = inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let inbox = inboxes.get_mut(index).and_then(Option::take);
        let (make, connections, options) =
            (make.clone(), Arc::clone(&connections), options.clone());
        async move {
            if let Some(inbox) = inbox {
                // In a task of its own: what a worker's runtime itself waits for is polled with every
                // request.
                let running = spawn_local(run(make(index), inbox, connections, options));
                if let Err(panic) = running.await
                    && panic.is_panic()
                {
                    std::panic::resume_unwind(panic.into_panic());
                }
            }
        }
    })?;
    Ok((Crew { orders }, workers))
}

/// One thread. Needs a `LocalSet`.
async fn run(
    worker: Rc<Worker>,
    mut inbox: mpsc::UnboundedReceiver<Share>,
    connections: Arc<Connections>,
    options: Options,
) {
    let whole = options.lifecycle.shutdown();
    let mut listening = JoinSet::new();
    let mut sweep = interval(SWEEP_EVERY);
    let mut more = true;
    loop {
        tokio::select! {
            biased;
            () = whole.draining(), if more => more = false,
            share = inbox.recv(), if more => match share {
                Some(share) => {
                    let Share { socket, phases, terms } = share;
                    // It was bound for this worker, inside whose runtime alone it can be registered.
                    let Ok(acceptor) = Acceptor::new(socket) else { continue };
                    let place = server::Place { phases, terms, whole: whole.clone() };
                    let (worker, observer) = (Rc::clone(&worker), options.observer.clone());
                    let connections = Arc::clone(&connections);
                    listening.spawn_local(async move {
                        server::run(worker, acceptor, connections, observer, place).await;
                    });
                }
                None => more = false,
            },
            Some(ended) = listening.join_next() => {
                if let Err(panic) = ended
                    && panic.is_panic()
                {
                    std::panic::resume_unwind(panic.into_panic());
                }
            }
            _ = sweep.tick(), if more || !listening.is_empty() => {
                worker.site().pipeline.dispatch.sweep();
            }
            else => return,
        }
    }
}

const SWEEP_EVERY: Duration = Duration::from_secs(5);
