//! The old process's side: what it offers and gives. Not for stopping the data path: `control` does that
//! between the two halves. Blocking: on a thread of its own.
//!
//! Invariant: what is given stays here too until the new process says that it serves.

use std::os::fd::{AsFd, OwnedFd};

use common::upgrade::giving::{self, Armed};

use super::endpoints::KnownService;
use super::{Fault, Offer, Shard, Site, Tongue};
use crate::crew::Socket;
use crate::listener::Place;
use crate::udp::handover::Handed;

/// A listener on its way.
#[derive(Debug)]
pub(crate) struct Gift {
    pub(crate) place: Place,
    /// Duplicates.
    pub(crate) sockets: Vec<Socket>,
}

/// Starts a new process, offers it the listeners, and waits until it has read its file and bound what
/// is new.
pub(crate) fn offer(
    gifts: &[Gift],
    admin: Option<&OwnedFd>,
    endpoints: Vec<KnownService>,
) -> Result<Armed<Tongue>, Fault> {
    let listeners = gifts.iter().map(|Gift { place, sockets }| {
        (Offer::Listener(Site::from(place)), sockets.iter().map(AsFd::as_fd).collect())
    });
    let admin = admin.into_iter().map(|admin| (Offer::Admin, vec![admin.as_fd()]));
    let endpoints = std::iter::once((Offer::Endpoints(endpoints), Vec::new()));
    giving::start()?.offer(listeners.chain(admin).chain(endpoints))
}

/// Gives the flows of each listener's shards, and waits until the new process serves; its number.
pub(crate) fn give(armed: Armed<Tongue>, shards: &[Vec<Handed>]) -> Result<u32, Fault> {
    let all = shards.iter().enumerate().flat_map(|(listener, shards)| {
        shards.iter().enumerate().map(move |(shard, handed)| {
            let sockets = handed.sockets.iter().map(AsFd::as_fd).collect();
            (Shard { listener, shard, flows: handed.flows.clone() }, sockets)
        })
    });
    armed.give(all).map(|heir| heir.process)
}
