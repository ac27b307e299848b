//! Flows on their way from one process to the next. Not for the way itself (`upgrade`). Made and
//! taken by the worker, asked for by `control`.
//!
//! Invariant: a flow travels with its upstream socket, so that its endpoint sees no change.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::flow::Proof;
use crate::talkers::Talker;

/// All that a worker knows of one listener.
#[derive(Debug, Default)]
pub struct Handed {
    /// Upstream sockets.
    pub sockets: Vec<UdpSocket>,
    /// Flows, the one that was heard longest ago first.
    pub flows: Vec<HandedFlow>,
}

/// One flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedFlow {
    /// The client.
    pub peer: SocketAddr,
    /// The address it sent to, where the listener has several.
    pub local: Option<IpAddr>,
    /// Whom a trusted peer's header has named, where that is not the peer.
    pub named: Option<SocketAddr>,
    /// Its endpoint.
    pub endpoint: SocketAddr,
    /// Its upstream socket, as an index.
    pub socket: u32,
    /// How far it has proved itself.
    pub proof: Proof,
}

/// What a worker is asked.
#[derive(Debug)]
pub enum Ask {
    /// To stop reading.
    Pause(Pause),
    /// For the flows that carried most.
    Talkers {
        /// How many of them.
        most: usize,
        /// Where to say it.
        reply: oneshot::Sender<Vec<Talker>>,
    },
}

/// Asks a worker to stop reading a listener and to say what it knows.
#[derive(Debug)]
pub struct Pause {
    /// Where it says so.
    pub reply: oneshot::Sender<Handed>,
    /// What comes then; when nothing comes, it goes on as before.
    pub verdict: oneshot::Receiver<Gone>,
}

/// Somebody else has the flows now.
#[derive(Clone, Copy, Debug)]
pub struct Gone;
