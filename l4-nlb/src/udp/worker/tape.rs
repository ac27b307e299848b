//! Hands datagrams that pass to the recorder, as they look from outside. Not for writing them. Called
//! by the worker.
//!
//! Invariant: without a recorder it costs one comparison.

use std::net::{IpAddr, SocketAddr};

use common::net::batch::Arrival;

use super::Worker;

impl Worker {
    /// Client → listener.
    pub(super) fn tape_up(&self, arrival: &Arrival, payload: &[u8]) {
        if let Some(recorder) = &self.lane.recorder {
            let local =
                SocketAddr::new(arrival.local.unwrap_or(self.local.ip()), self.local.port());
            recorder.datagram(arrival.peer, (arrival.peer, local), payload);
        }
    }

    /// Listener → client.
    pub(super) fn tape_down(&self, peer: SocketAddr, local: Option<IpAddr>, payload: &[u8]) {
        if let Some(recorder) = &self.lane.recorder {
            let local = SocketAddr::new(local.unwrap_or(self.local.ip()), self.local.port());
            recorder.datagram(peer, (local, peer), payload);
        }
    }
}
