//! Binds the listeners of an instance, one socket per worker, and runs a worker's share of them.
//! Not for what happens to a connection (`tcp`) or a datagram (`udp`). Called by `lib` at start.
//!
//! Invariant: all listeners are bound before any worker starts, or none stays bound.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;

use common::lifecycle::Shutdown;
use common::net::accept::Acceptor;
use common::net::bind;
use common::observe::Observer;
use tokio::task::JoinSet;
use topology::l4::{Group, Instance, Listener, Protocol};

use crate::snapshot::LaneSource;
use crate::tcp;
use crate::udp::{Plane, UserSpace};

/// A worker's socket of a listener.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// A listener that could not be bound.
#[derive(Debug)]
pub(crate) struct Unbound<'a> {
    pub(crate) listener: &'a Listener,
    pub(crate) address: SocketAddr,
    pub(crate) source: io::Error,
}

/// The addresses in the group's order, and for each worker a socket of each listener.
pub(crate) type Bound = (Vec<SocketAddr>, Vec<Vec<Socket>>);

/// Binds all listeners for so many workers.
pub(crate) fn bind<'a>(
    group: &'a Group,
    instance: &Instance,
    workers: NonZeroUsize,
) -> Result<Bound, Unbound<'a>> {
    let mut addresses = Vec::new();
    let mut shares: Vec<Vec<Socket>> = (0..workers.get()).map(|_| Vec::new()).collect();
    for listener in &group.listeners {
        let address = listener.at.value.on(instance);
        let (bound, sockets) = sockets(listener.protocol, address, workers)
            .map_err(|source| Unbound { listener, address, source })?;
        addresses.push(bound);
        shares.iter_mut().zip(sockets).for_each(|(share, socket)| share.push(socket));
    }
    Ok((addresses, shares))
}

fn sockets(
    protocol: Protocol,
    address: SocketAddr,
    workers: NonZeroUsize,
) -> io::Result<(SocketAddr, Vec<Socket>)> {
    let sockets: Vec<Socket> = match protocol {
        Protocol::Tcp => bind::tcp_group(address, workers)?.into_iter().map(Socket::Tcp).collect(),
        Protocol::Udp => bind::udp_group(address, workers)?.into_iter().map(Socket::Udp).collect(),
    };
    let bound = match sockets.first() {
        Some(Socket::Tcp(socket)) => socket.local_addr()?,
        Some(Socket::Udp(socket)) => socket.local_addr()?,
        None => address,
    };
    Ok((bound, sockets))
}

/// One worker's share.
#[derive(Debug)]
pub(crate) struct Share {
    /// In the order of the lanes.
    pub(crate) sockets: Vec<Socket>,
    pub(crate) lanes: Vec<LaneSource>,
    /// Sockets that each UDP listener may open towards endpoints.
    pub(crate) upstream_sockets: usize,
    pub(crate) observer: Observer,
    pub(crate) shutdown: Shutdown,
}

impl Share {
    /// Runs all of it until the instance has drained or stopped. Needs a `LocalSet`.
    pub(crate) async fn run(self) -> io::Result<()> {
        let mut running = JoinSet::new();
        for (socket, lane) in self.sockets.into_iter().zip(self.lanes) {
            let (observer, shutdown) = (self.observer.clone(), self.shutdown.clone());
            match socket {
                Socket::Tcp(socket) => {
                    let acceptor = Acceptor::new(socket)?;
                    running.spawn_local(async move {
                        tcp::Worker::new(lane, observer).run(acceptor, shutdown).await;
                    });
                }
                Socket::Udp(socket) => {
                    let plane = UserSpace::new(lane, socket, self.upstream_sockets, observer)?;
                    running.spawn_local(plane.forward(shutdown));
                }
            }
        }
        while let Some(ended) = running.join_next().await {
            if let Err(panic) = ended
                && panic.is_panic()
            {
                std::panic::resume_unwind(panic.into_panic());
            }
        }
        Ok(())
    }
}
