//! The worker's side of a hand-over: says what it knows, and takes over what another knew. Not for
//! when. Called by `udp` before the first datagram and when it is paused.
//!
//! Invariant: what cannot be taken over (its endpoint is gone, no room) is left out, and its client's
//! next datagram begins a new flow.

use std::net::UdpSocket;

use tokio::time::Instant;

use super::{Flow, Seat, Worker};
use crate::udp::expiry::Tick;
use crate::udp::flow::{Client, Proof};
use crate::udp::handover::{Handed, HandedFlow};
use crate::udp::ports::{PortId, Whose};

impl Worker {
    /// All flows with duplicates of their sockets; nothing changes here. A socket that cannot be
    /// duplicated stays, and so do its flows.
    pub(in crate::udp) fn export(&mut self) -> Handed {
        let mut handed = Handed::default();
        let mut indexes = std::collections::HashMap::new();
        for (id, client, proof) in self.flows.all() {
            let Some(Flow { seat: Some(Seat { member, port, .. }), named, .. }) =
                self.flows.peek(id)
            else {
                continue;
            };
            let index = indexes.entry(*port).or_insert_with(|| {
                let socket = self.ports.socket(*port)?.try_clone().ok()?;
                handed.sockets.push(socket);
                u32::try_from(handed.sockets.len() - 1).ok()
            });
            let endpoint = self.roster.member(*member).map(|member| member.endpoint.address);
            if let (Some(socket), Some(endpoint)) = (*index, endpoint) {
                let Client { peer, local } = client;
                let named = named.as_deref().copied();
                handed.flows.push(HandedFlow { peer, local, named, endpoint, socket, proof });
            }
        }
        handed
    }

    /// Takes over what another process knew.
    pub(in crate::udp) fn adopt(&mut self, handed: Handed, now: Instant) {
        let tick = self.tick(now);
        let whose = if self.lane.rules.transparent { Whose::Client } else { Whose::Shared };
        let adopt = |socket: UdpSocket| self.ports.adopt(socket, whose, tick);
        let ports: Vec<Option<PortId>> = handed.sockets.into_iter().map(adopt).collect();
        for flow in handed.flows {
            let port = ports.get(flow.socket as usize).copied().flatten();
            if let Some(port) = port {
                self.seat(&flow, port, tick);
            }
        }
        ports.into_iter().flatten().for_each(|port| self.ports.close_unused(port));
    }

    /// One flow on a socket that was taken over.
    fn seat(&mut self, flow: &HandedFlow, port: PortId, tick: Tick) -> Option<()> {
        let member = self.roster.find(&flow.endpoint)?;
        // Its client was screened by the process that let it in.
        let source = flow.named.unwrap_or(flow.peer);
        let pass = self.lane.gate.count(source.ip()).ok()?;
        let client = Client { peer: flow.peer, local: flow.local };
        let (id, _former) = self.flows.insert(client, Flow::new(pass, tick), tick);
        if flow.proof >= Proof::Answered {
            self.flows.heard_endpoint(id, tick);
        }
        if flow.proof == Proof::Confirmed {
            self.flows.heard_client(id, tick);
        }
        if !self.ports.claim(port, member, id) {
            drop(self.end(id, tick));
            return None;
        }
        let known = self.roster.member_mut(member)?;
        known.flows += 1;
        let in_flight = known.endpoint.state.enter();
        self.flows.value(id)?.named = flow.named.map(Box::new);
        self.flows.value(id)?.seat = Some(Seat { member, port, _in_flight: in_flight });
        Some(())
    }
}
