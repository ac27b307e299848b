//! Datagrams of one listener on one worker: client → endpoint and back. Not for remembering flows
//! (`flow`), sockets (`ports`) or choosing endpoints (`select`). Run by `listener`.
//!
//! Invariant: a datagram from an endpoint reaches the client whose flow its socket and sender name,
//! from the address and port that the client sent to, or nobody.

pub mod expiry;
pub mod flow;
pub mod handover;
pub mod ports;
pub mod roster;
mod worker;

use std::io;
use std::rc::Rc;
use std::time::Duration;

use common::lifecycle::Shutdown;
use common::net::batch::Batch;
use common::net::sys::Poller;
use common::observe::Observer;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::snapshot::LaneSource;
use handover::{Ask, Handed, Pause};
pub use ports::Budget;
use worker::Worker;

/// Moves the datagrams of one listener: in user space here, in the kernel one day, with the same
/// lanes, keys and counters.
pub trait Plane {
    /// Until the instance has drained (every flow quiet) or stopped. Cancelling it forgets the
    /// flows.
    fn forward(self, shutdown: Shutdown) -> impl Future<Output = ()>;
}

/// The plane that needs no privilege: recvmmsg and sendmmsg over a shared set of upstream sockets.
#[derive(Debug)]
pub struct UserSpace {
    socket: UdpSocket,
    answers: Rc<Poller>,
    worker: Worker,
    asks: mpsc::Receiver<Ask>,
}

impl UserSpace {
    /// For a socket of the listener; opens as many upstream sockets as the budget gives.
    pub fn new(
        source: LaneSource,
        socket: std::net::UdpSocket,
        budget: Budget,
        observer: Observer,
    ) -> io::Result<Self> {
        let (_nobody, asks) = mpsc::channel(1);
        Self::with(source, socket, budget, observer, (Handed::default(), asks))
    }

    /// The same with flows of a former process, and a way to be asked for its own.
    pub fn with(
        source: LaneSource,
        socket: std::net::UdpSocket,
        budget: Budget,
        observer: Observer,
        (handed, asks): (Handed, mpsc::Receiver<Ask>),
    ) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let mut worker = Worker::new(source, local, budget, observer)?;
        worker.adopt(handed, Instant::now());
        let socket = UdpSocket::from_std(socket)?;
        Ok(Self { socket, answers: worker.poller(), worker, asks })
    }
}

impl Plane for UserSpace {
    async fn forward(self, shutdown: Shutdown) {
        let Self { socket, answers, mut worker, mut asks } = self;
        let mut batch = Batch::new();
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut draining, stopped) =
            (std::pin::pin!(shutdown.draining()), std::pin::pin!(shutdown.stopped()));
        let mut stopped = stopped;
        while !worker.is_done() {
            tokio::select! {
                // An error would mean that the runtime is going down.
                Ok(()) = socket.readable() => {
                    if pass_up(&socket, &mut batch, &mut worker) {
                        worker.pass_down(&mut batch, &socket, Instant::now());
                    }
                }
                Ok(mut ready) = answers.readable() => {
                    if worker.pass_down(&mut batch, &socket, Instant::now()) {
                        pass_up(&socket, &mut batch, &mut worker);
                    } else {
                        ready.clear_ready();
                    }
                }
                _ = sweep.tick() => worker.sweep(Instant::now()),
                () = &mut draining, if !worker.is_draining() => worker.drain(),
                Some(ask) = asks.recv() => match ask {
                    Ask::Pause(Pause { reply, verdict }) => {
                        // Nobody reads meanwhile: what comes waits in the kernel.
                        let _gone = reply.send(worker.export());
                        if verdict.await.is_ok() {
                            return;
                        }
                    }
                    Ask::Talkers { most, reply } => {
                        let _gone = reply.send(worker.talkers(most, Instant::now()));
                    }
                },
                () = &mut stopped => return,
            }
        }
    }
}

/// Takes one batch of the clients' datagrams; says whether more may wait. Under load the runtime
/// does not look for news between batches, so whoever finds more in one direction looks in the other
/// too: what is answered late was carried for nothing.
fn pass_up(socket: &UdpSocket, batch: &mut Batch, worker: &mut Worker) -> bool {
    batch.clear();
    if receive(socket, batch) {
        worker.pass_up(batch, Instant::now());
    }
    batch.is_full()
}

/// Fills the batch; says whether there is anything in it.
fn receive(socket: &UdpSocket, batch: &mut Batch) -> bool {
    let received = socket.try_io(Interest::READABLE, || {
        batch.receive(socket)?;
        // Fewer than there was room for: the queue is empty, so the readiness is cleared, and the
        // next datagram wakes us without another call.
        if batch.is_full() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    });
    // What was received is in the batch, whatever the call said.
    let _emptied = received;
    !batch.is_empty()
}

/// How often idle flows are looked for.
const SWEEP: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
