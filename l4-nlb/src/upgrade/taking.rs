//! The new process's side: takes the old one's sockets before it starts, and its flows when it is
//! ready for them. Not for binding what the old one did not have. Blocking: before the data path runs.
//!
//! Invariant: nothing is read or accepted before the old process has given everything.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use common::upgrade::taking::{self, Former};

use super::endpoints::KnownService;
use super::{Fault, Offer, Shard, Site, Tongue};
use crate::crew::Socket;
use crate::listener::{Place, Sockets};
use crate::udp::handover::Handed;

/// What an old process left to this one.
#[derive(Debug)]
pub struct Estate {
    former: Former<Tongue>,
    listeners: Vec<(Site, Vec<Socket>)>,
    admin: Option<TcpListener>,
    /// What it knew of them.
    pub(crate) endpoints: Vec<KnownService>,
}

/// What the old process offers, if this one was started by it. To be asked once, at the very start.
///
/// # Errors
/// When there is an old process, and it does not go on.
pub fn inherited() -> Result<Option<Estate>, Fault> {
    let Some(former) = taking::inherited()? else { return Ok(None) };
    receive(former).map(Some)
}

/// Hears what the old process offers.
fn receive(former: Former<Tongue>) -> Result<Estate, Fault> {
    let (mut listeners, mut admin, mut endpoints) = (Vec::new(), None, Vec::new());
    former.offers(|offer, with| match offer {
        Offer::Listener(site) => {
            let udp = site.udp;
            let sockets = with.into_iter().map(|socket| socket_of(socket, udp)).collect();
            listeners.push((site, sockets));
        }
        Offer::Admin => admin = with.into_iter().next().map(TcpListener::from),
        Offer::Endpoints(known) => endpoints = known,
    })?;
    Ok(Estate { former, listeners, admin, endpoints })
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
        let site = Site::from(place);
        let (_, sockets) = self.listeners.iter_mut().find(|(known, _)| *known == site)?;
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
        self.former.gifts(|Shard { listener, shard, flows }, upstream| {
            let upstream = upstream.into_iter().map(UdpSocket::from).collect();
            let site = self.listeners.get(listener).map(|(site, _)| site);
            let mut listeners = sockets.iter_mut();
            let own = listeners.find(|own| Some(&Site::from(&own.place)) == site);
            // A listener that this file has no more: its flows end here.
            let Some(own) = own else { return };
            if shard < own.each.len() {
                own.handed.resize_with(own.handed.len().max(shard + 1), Handed::default);
            }
            if let Some(place) = own.handed.get_mut(shard) {
                *place = Handed { sockets: upstream, flows };
            }
        })
    }

    /// Says that this process reads and accepts; the old one ends.
    ///
    /// # Errors
    /// The old one goes on, and this one must not.
    pub(crate) fn serving(&self) -> Result<(), Fault> {
        self.former.serving()
    }
}
