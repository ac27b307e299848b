//! Binds listeners and keeps them while configurations change: which sockets there are, and which
//! lane each goes by. Not for what happens to a connection (`tcp`) or a datagram (`udp`). Called by
//! `lib` at start and by `control` at each change.
//!
//! Invariant: a listener's sockets live as long as its protocol and address stay in the file,
//! whatever else of it changes.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;

use common::lifecycle::Lifecycle;
use common::net::bind;
use common::snapshot::Published;
use tokio::sync::mpsc;
use topology::l4::{Instance, Listener, Protocol};
use topology::units::ListenerName;

use crate::crew::{Share, Socket};
use crate::snapshot::{Lane, LaneSource};
use crate::udp::handover::{Ask, Handed};

/// What a listener is bound by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) protocol: Protocol,
    /// As the file has it.
    pub(crate) address: SocketAddr,
    /// Where the system chooses the port, the name tells listeners apart.
    pub(crate) name: Option<ListenerName>,
}

impl Place {
    /// Where the listener is on this instance.
    pub(crate) fn of(listener: &Listener, instance: &Instance) -> Self {
        let address = listener.at.value.on(instance);
        let name = Some(listener.name.clone()).filter(|_| address.port() == 0);
        Self { protocol: listener.protocol, address, name }
    }
}

/// Sockets of a listener that nobody reads yet.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) place: Place,
    /// One per worker, or as many as the process had that handed them over.
    pub(crate) each: Vec<Socket>,
    /// Flows that came with them, in the same order; may be shorter.
    pub(crate) handed: Vec<Handed>,
    /// Where they are.
    pub(crate) address: SocketAddr,
}

impl Sockets {
    /// Binds one per worker; nobody else may have the address.
    pub(crate) fn new(place: Place, workers: NonZeroUsize) -> io::Result<Self> {
        let address = place.address;
        let each: Vec<Socket> = match place.protocol {
            Protocol::Tcp => tcp(bind::tcp_group(address, workers)?),
            Protocol::Udp => udp(bind::udp_group(address, workers)?),
        };
        let address = match each.first() {
            Some(Socket::Tcp(socket)) => socket.local_addr()?,
            Some(Socket::Udp(socket)) => socket.local_addr()?,
            None => address,
        };
        Ok(Self { place, each, handed: Vec::new(), address })
    }
}

fn tcp(sockets: Vec<TcpListener>) -> Vec<Socket> {
    sockets.into_iter().map(Socket::Tcp).collect()
}

fn udp(sockets: Vec<UdpSocket>) -> Vec<Socket> {
    sockets.into_iter().map(Socket::Udp).collect()
}

/// A listener that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) place: Place,
    pub(crate) name: ListenerName,
    /// Duplicates, for handing them over; nobody reads them here.
    pub(crate) spare: Vec<Socket>,
    /// Where each share is asked for its flows.
    pub(crate) asks: Vec<mpsc::Sender<Ask>>,
    /// Its own phases: it may end before the instance does.
    pub(crate) lifecycle: Lifecycle,
    pub(crate) lane: Arc<Published<Lane>>,
}

impl Running {
    /// A listener and its shares, to be given to the workers.
    pub(crate) fn new(sockets: Sockets, lane: Arc<Lane>) -> (Self, Vec<Share>) {
        let Sockets { place, each, handed, .. } = sockets;
        let (name, lifecycle) = (lane.rules.name.clone(), Lifecycle::new());
        let lane = Arc::new(Published::of(lane));
        let spare = each.iter().filter_map(Socket::duplicate).collect();
        let (mut asks, mut shares) = (Vec::new(), Vec::new());
        let handed = handed.into_iter().chain(std::iter::repeat_with(Handed::default));
        for (socket, handed) in each.into_iter().zip(handed) {
            let (ask, asked) = mpsc::channel(1);
            asks.push(ask);
            let (lane, shutdown) = (LaneSource::new(lane.clone()), lifecycle.shutdown());
            shares.push(Share { socket, lane, shutdown, handed, asks: asked });
        }
        (Self { place, name, spare, asks, lifecycle, lane }, shares)
    }

    /// Goes by another lane from now on.
    pub(crate) fn change(&mut self, lane: Arc<Lane>) {
        self.name.clone_from(&lane.rules.name);
        self.lane.replace(lane);
    }
}
