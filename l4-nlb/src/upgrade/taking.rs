//! The new process's side: takes the old one's sockets before it starts, and its flows when it is
//! ready for them. Not for binding what the old one did not have. Blocking: before the data path runs.
//!
//! Invariant: nothing is read or accepted before the old process has given everything.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::endpoints::KnownService;
use super::{Fault, Offer, Peer, START, STEP, VARIABLE, VERSION, Word, out_of_turn};
use crate::crew::Socket;
use crate::listener::{Place, Sockets};
use crate::udp::handover::Handed;

/// What an old process left to this one.
#[derive(Debug)]
pub struct Estate {
    peer: Peer,
    listeners: Vec<(Offer, Vec<Socket>)>,
    admin: Option<TcpListener>,
    /// What it knew of them.
    pub(crate) endpoints: Vec<KnownService>,
}

/// The way to the old process, if this one was started by it. To be asked once, at the very start.
///
/// # Errors
/// When the variable is set and standard input is no socket.
pub fn inherited() -> Result<Option<Estate>, Fault> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(None);
    }
    let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    receive(stream).map(Some)
}

/// Hears what the old process offers.
fn receive(stream: UnixStream) -> Result<Estate, Fault> {
    let peer = Peer::new(stream)?;
    let mut estate = Estate { peer, listeners: Vec::new(), admin: None, endpoints: Vec::new() };
    match estate.peer.hear(STEP)?.0 {
        Word::Hello { version: VERSION } => {}
        Word::Hello { version } => return Err(Fault::Version(version)),
        word => return Err(out_of_turn(&word)),
    }
    loop {
        match estate.peer.hear(STEP)? {
            (Word::Listener(offer), sockets) => {
                let udp = offer.udp;
                let sockets = sockets.into_iter().map(|socket| socket_of(socket, udp)).collect();
                estate.listeners.push((offer, sockets));
            }
            (Word::Admin, sockets) => {
                estate.admin = sockets.into_iter().next().map(TcpListener::from);
            }
            (Word::Endpoints(endpoints), _) => estate.endpoints = endpoints,
            (Word::Offered, _) => return Ok(estate),
            (word, _) => return Err(out_of_turn(&word)),
        }
    }
}

fn socket_of(descriptor: OwnedFd, udp: bool) -> Socket {
    if udp {
        Socket::Udp(UdpSocket::from(descriptor))
    } else {
        Socket::Tcp(TcpListener::from(descriptor))
    }
}

impl Estate {
    /// The sockets of a listener, if the old process had it.
    pub(crate) fn take(&mut self, place: &Place) -> Option<Sockets> {
        let offer = Offer::from(place);
        let (_, sockets) = self.listeners.iter_mut().find(|(known, _)| *known == offer)?;
        let each = std::mem::take(sockets);
        let address = match each.first()? {
            Socket::Tcp(socket) => socket.local_addr().ok()?,
            Socket::Udp(socket) => socket.local_addr().ok()?,
        };
        Some(Sockets { place: place.clone(), each, handed: Vec::new(), address })
    }

    /// The old process's admin listener, if it is where this one's must be.
    pub(crate) fn take_admin(&mut self, address: std::net::SocketAddr) -> Option<TcpListener> {
        let fits = |own: std::net::SocketAddr| own == address || address.port() == 0;
        self.admin.take().filter(|admin| admin.local_addr().is_ok_and(fits))
    }

    /// Says that all is bound, and takes the flows: for each listener, in the order in which
    /// `sockets` came from it, those of its shards.
    pub(crate) fn flows(&self, sockets: &mut [Sockets]) -> Result<(), Fault> {
        self.peer.say(&Word::Armed, &[])?;
        loop {
            match self.peer.hear(START)? {
                (Word::Shard { listener, shard, flows }, upstream) => {
                    let upstream = upstream.into_iter().map(UdpSocket::from).collect();
                    let offer = self.listeners.get(listener).map(|(offer, _)| offer);
                    let mut listeners = sockets.iter_mut();
                    let own = listeners.find(|own| Some(&Offer::from(&own.place)) == offer);
                    // A listener that this file has no more: its flows end here.
                    let Some(own) = own else { continue };
                    if shard < own.each.len() {
                        own.handed.resize_with(own.handed.len().max(shard + 1), Handed::default);
                    }
                    if let Some(place) = own.handed.get_mut(shard) {
                        *place = Handed { sockets: upstream, flows };
                    }
                }
                (Word::Given, _) => return Ok(()),
                (word, _) => return Err(out_of_turn(&word)),
            }
        }
    }

    /// Says that this process reads and accepts; the old one ends. When it is gone already there is
    /// nobody to tell.
    pub(crate) fn serving(&self) {
        let _gone = self.peer.say(&Word::Serving, &[]);
    }
}
