//! The data path's threads: each runs a share of every listener, and is told when listeners come.
//! Not for what happens to a connection (`tcp`) or a datagram (`udp`). Started by `lib`, told by
//! `control`.
//!
//! Invariant: a thread ends when it has been told that nothing more comes and its last listener has
//! ended.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use common::cli::Options;
use common::lifecycle::Shutdown;
use common::net::accept::Acceptor;
use common::observe::Observer;
use common::workers::{self, WorkerId, Workers};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::events::WorkerFailed;
use crate::snapshot::LaneSource;
use crate::tcp;
use crate::udp::handover::{Ask, Handed};
use crate::udp::{Budget, Plane, UserSpace};

/// A worker's socket of a listener.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Socket {
    /// Another descriptor of the same socket; `None` when the process may have no more.
    pub(crate) fn duplicate(&self) -> Option<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp).ok(),
            Self::Udp(socket) => socket.try_clone().map(Self::Udp).ok(),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// A listener's share for one worker.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) socket: Socket,
    pub(crate) lane: LaneSource,
    /// The phases of the listener.
    pub(crate) shutdown: Shutdown,
    /// Flows of a former process, and where it is asked for its own (UDP).
    pub(crate) handed: Handed,
    pub(crate) asks: mpsc::Receiver<Ask>,
}

/// How the threads are told. Dropping it tells them that nothing more comes.
#[derive(Debug)]
pub(crate) struct Crew {
    orders: Vec<mpsc::UnboundedSender<Share>>,
}

impl Crew {
    /// Gives each worker its share: the n-th socket is the n-th worker's.
    pub(crate) fn open(&self, shares: impl IntoIterator<Item = Share>) {
        for (share, worker) in shares.into_iter().zip(self.orders.iter().cycle()) {
            // A worker that is gone was told of by itself.
            let _gone = worker.send(share);
        }
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.orders.len()
    }
}

/// Starts the threads, without any listener yet.
pub(crate) fn start(count: NonZeroUsize, options: &Options) -> io::Result<(Crew, Workers)> {
    let budget = Budget::from_limits()?;
    let (orders, inboxes): (Vec<_>, Vec<_>) =
        (0..count.get()).map(|_| mpsc::unbounded_channel()).unzip();
    let inboxes = inboxes.into_iter().map(Some).collect::<Vec<_>>();
    let inboxes = Arc::new(Mutex::new(inboxes));
    let options = options.clone();
    let workers = workers::spawn("l4-nlb", count, move |WorkerId(index)| {
        let mut inboxes = inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let inbox = inboxes.get_mut(index).and_then(Option::take);
        let (options, budget) = (options.clone(), budget.clone());
        async move {
            let Some(inbox) = inbox else { return };
            if let Err(cause) = run(inbox, &budget, &options.observer).await {
                options.observer.emit(WorkerFailed { cause: &cause });
                options.lifecycle.stop();
            }
        }
    })?;
    Ok((Crew { orders }, workers))
}

/// One thread. Needs a `LocalSet`.
async fn run(
    mut inbox: mpsc::UnboundedReceiver<Share>,
    budget: &Budget,
    observer: &Observer,
) -> io::Result<()> {
    let mut running = JoinSet::new();
    let mut closed = false;
    loop {
        tokio::select! {
            share = inbox.recv(), if !closed => match share {
                Some(share) => open(share, budget, observer, &mut running)?,
                None => closed = true,
            },
            Some(ended) = running.join_next() => {
                if let Err(panic) = ended
                    && panic.is_panic()
                {
                    std::panic::resume_unwind(panic.into_panic());
                }
            }
            else => return Ok(()),
        }
    }
}

fn open(
    share: Share,
    budget: &Budget,
    observer: &Observer,
    running: &mut JoinSet<()>,
) -> io::Result<()> {
    let Share { socket, lane, shutdown, handed, asks } = share;
    let observer = observer.clone();
    match socket {
        Socket::Tcp(socket) => {
            let acceptor = Acceptor::new(socket)?;
            running.spawn_local(async move {
                tcp::Worker::new(lane, observer).run(acceptor, shutdown).await;
            });
        }
        Socket::Udp(socket) => {
            let own = (handed, asks);
            let plane = UserSpace::with(lane, socket, budget.clone(), observer, own)?;
            running.spawn_local(plane.forward(shutdown));
        }
    }
    Ok(())
}
