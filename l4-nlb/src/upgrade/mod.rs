//! What this tier says when it hands over to a new process: listening sockets, UDP flows with their
//! upstream sockets, and the admin listener (N11). Not for the conversation itself, which is
//! `common::upgrade`, and not for when. `giving` is the old process's side, `taking` the new one's.
//!
//! Invariant: at every moment one process reads a UDP socket.

pub(crate) mod endpoints;
pub(crate) mod giving;
pub mod taking;

use std::net::SocketAddr;

pub use common::upgrade::Fault;
use common::upgrade::Language;
use serde::{Deserialize, Serialize};
use topology::l4::Protocol;

use crate::listener::Place;
use crate::udp::handover::HandedFlow;
use endpoints::KnownService;

/// The words of a balancer.
#[derive(Debug)]
pub(crate) struct Tongue;

impl Language for Tongue {
    const VERSION: u32 = 4;
    type Offer = Offer;
    type Gift = Shard;
}

/// What both processes may have at once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Offer {
    /// Its sockets come with it, one per worker.
    Listener(Site),
    /// Its socket comes with it.
    Admin,
    /// What is known of endpoints.
    Endpoints(Vec<KnownService>),
}

/// The flows of one worker on one listener, by the order of the offers; their upstream sockets come
/// with them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Shard {
    listener: usize,
    shard: usize,
    flows: Vec<HandedFlow>,
}

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Site {
    udp: bool,
    /// As the file has it.
    address: SocketAddr,
    /// Where the system chose the port.
    name: Option<String>,
}

impl From<&Place> for Site {
    fn from(place: &Place) -> Self {
        let name = place.name.as_ref().map(ToString::to_string);
        Self { udp: place.protocol == Protocol::Udp, address: place.address, name }
    }
}
