//! The new process's side: takes the old one's sockets before it starts, and says when it serves. Not for
//! binding what the old one did not have, and not for clients: they come by `link`.
//!
//! Invariant: nothing is accepted before the old process knows that all is bound, and a new process that
//! ends before it serves takes no socket's file with it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use common::upgrade::taking::{self, Former};
use common::upgrade::{Fault, Peer, blocking};
use topology::pool::ListenAddress;

use super::{Offer, Site, Tongue};
use crate::sockets::passed::Passed;
use crate::sockets::socket_path;

/// What an old process left to this one.
#[derive(Debug)]
pub struct Estate {
    former: Former<Tongue>,
    listeners: Vec<(Site, Vec<OwnedFd>)>,
    /// What was passed to it.
    passed: Vec<Passed>,
    admin: Option<TcpListener>,
    /// From where on clients are numbered.
    pub(crate) first: u32,
}

/// What the old process offers, if this one was started by it. To be asked once, at the very start.
///
/// # Errors
/// When there is an old process, and it does not go on.
pub fn inherited() -> Result<Option<Estate>, Fault> {
    let Some(former) = taking::inherited()? else { return Ok(None) };
    receive(former).map(Some)
}

/// What a process offers that has been asked to.
///
/// # Errors
/// When it does not go on.
pub fn from(stream: UnixStream) -> Result<Estate, Fault> {
    receive(Former::new(stream)?)
}

fn receive(former: Former<Tongue>) -> Result<Estate, Fault> {
    let (mut listeners, mut passed, mut admin, mut first) = (Vec::new(), Vec::new(), None, 1);
    former.offers(|offer, with| match offer {
        Offer::Passed => passed.extend(with.into_iter().map(Passed::of)),
        Offer::Listener(site) => listeners.push((site, with)),
        Offer::Admin => admin = with.into_iter().next().map(TcpListener::from),
        Offer::Numbers(count) => first = count,
    })?;
    let passed = passed.into_iter().collect::<Result<_, _>>()?;
    Ok(Estate { former, listeners, passed, admin, first })
}

impl Estate {
    /// The sockets that were passed to the old process.
    pub(crate) fn take_passed(&mut self) -> Vec<Passed> {
        std::mem::take(&mut self.passed)
    }

    /// The sockets of a listener, if the old process had it.
    pub(crate) fn take(&mut self, address: &ListenAddress) -> Option<Vec<OwnedFd>> {
        let site = Site::from(address);
        let at = self.listeners.iter().position(|(known, _)| *known == site)?;
        // In order: several may stand under the port 0.
        let (_, sockets) = self.listeners.remove(at);
        Some(sockets).filter(|sockets| !sockets.is_empty())
    }

    /// The old process's admin listener, if it is where this one's must be.
    pub(crate) fn take_admin(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let fits = |own: SocketAddr| own == address || address.port() == 0;
        self.admin.take().filter(|admin| admin.local_addr().is_ok_and(fits))
    }

    /// Says that all is bound; the old process has nothing more to give before this one serves.
    pub(crate) async fn arm(self) -> Result<Self, Fault> {
        blocking(move || self.former.gifts(|(), _| ()).map(|()| self)).await
    }

    /// Says that this process accepts; the old one drains. The way to it.
    ///
    /// # Errors
    /// The old one goes on, and this one must not.
    pub(crate) fn serving(self) -> Result<Peer, Fault> {
        self.former.serving()?;
        for (site, _) in &self.listeners {
            // It had a unix socket that this process's file has no more.
            if let Site::Unix(folder, port) = site {
                let _gone = std::fs::remove_file(socket_path(folder, *port));
            }
        }
        Ok(self.former.into_peer())
    }
}
