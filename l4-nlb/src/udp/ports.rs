//! The upstream sockets of one worker. A socket serves at most one flow per endpoint, so an answer's
//! socket and sender name its flow, and thousands of flows need few descriptors. Not for who
//! belongs to which endpoint. Called when flows begin, move and end, and for each answer.
//!
//! Invariant: a (socket, endpoint) pair that was given up rests before another flow gets it, so
//! that a late answer never reaches a stranger.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::net::bind;
use common::net::sys::{self, Poller};

use super::expiry::Tick;
use super::flow::FlowId;
use super::roster::MemberId;

/// A socket's place; another socket may have it later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u32);

/// How many upstream sockets may still be opened, by all workers and listeners together: whoever
/// needs them most may have most of them.
#[derive(Clone, Debug)]
pub struct Budget(Arc<AtomicUsize>);

impl Budget {
    /// Three quarters of the descriptors that the process may have (the rest is for clients,
    /// connections and files), and not more ports than the kernel gives out.
    pub fn from_limits() -> io::Result<Self> {
        let limit = sys::raise_descriptor_limit()? / 4 * 3;
        Ok(Self::of(usize::try_from(limit).unwrap_or(usize::MAX).min(PORTS)))
    }

    /// So many.
    pub fn of(sockets: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(sockets)))
    }

    fn take(&self) -> Option<Permit> {
        let less = |left: usize| left.checked_sub(1);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.is_ok().then(|| Permit(self.clone()))
    }
}

/// One socket's place in the budget; dropping it gives it back.
#[derive(Debug)]
struct Permit(Budget);

impl Drop for Permit {
    fn drop(&mut self) {
        let Self(Budget(left)) = self;
        left.fetch_add(1, Ordering::Relaxed);
    }
}

/// The sockets, and which pairs are free.
#[derive(Debug)]
pub struct Ports {
    ports: Vec<Option<Port>>,
    vacant: Vec<u32>,
    members: Vec<Member>,
    poller: Rc<Poller>,
    budget: Budget,
    open: usize,
}

#[derive(Debug)]
struct Port {
    socket: UdpSocket,
    _permit: Permit,
    family: Family,
    /// Per endpoint.
    slots: Vec<Slot>,
    used: usize,
    whose: Whose,
}

/// Who may use a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// One flow per endpoint.
    Shared,
    /// The flow of the client whose address it has.
    Client,
}

/// The sockets' side of an endpoint.
#[derive(Debug)]
struct Member {
    family: Family,
    /// Free pairs, the longest rested first; never used ones rest since tick 0.
    free: BTreeSet<(Tick, PortId)>,
}

/// One pair of socket and endpoint.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Free(Tick),
    Taken(FlowId),
}

/// Sockets of one family reach endpoints of that family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl Ports {
    /// No socket yet, and as many as the budget gives.
    pub fn new(budget: Budget) -> io::Result<Self> {
        Ok(Self {
            ports: Vec::new(),
            vacant: Vec::new(),
            members: Vec::new(),
            poller: Rc::new(Poller::new()?),
            budget,
            open: 0,
        })
    }

    /// What to wait on for answers.
    pub fn poller(&self) -> Rc<Poller> {
        self.poller.clone()
    }

    /// Open sockets.
    pub fn open(&self) -> usize {
        self.open
    }

    /// An endpoint has this place from now on, after all flows of the place's former endpoint were
    /// given up: every open socket of its family is free for it. Places are used without a gap.
    pub fn admit(&mut self, member: MemberId, family: Family, now: Tick) {
        let at = member.index();
        let mut free = BTreeSet::new();
        for (index, port) in self.ports.iter_mut().enumerate() {
            let Some(port) = port else { continue };
            port.slots.resize(port.slots.len().max(at + 1), Slot::Free(now));
            if let Some(slot) = port.slots.get_mut(at) {
                *slot = Slot::Free(now);
            }
            if port.family == family && port.whose == Whose::Shared {
                free.insert((now, PortId(index as u32)));
            }
        }
        let admitted = Member { family, free };
        match self.members.get_mut(at) {
            Some(place) => *place = admitted,
            None => self.members.push(admitted),
        }
    }

    /// A pair for a flow to this endpoint: one that has rested, else one of a new socket; `None`
    /// when no further socket may be opened.
    pub fn take(
        &mut self,
        member: MemberId,
        flow: FlowId,
        now: Tick,
    ) -> io::Result<Option<PortId>> {
        let Some(Member { family, free }) = self.members.get(member.index()) else {
            return Ok(None);
        };
        let rested = |&(since, _): &(Tick, PortId)| since == Tick(0) || now.since(since) >= REST;
        let port = match free.first().copied().filter(rested) {
            Some((_, port)) => port,
            None => {
                let Some(permit) = self.budget.take() else { return Ok(None) };
                self.open_port(*family, permit)?
            }
        };
        self.set(port, member, Slot::Taken(flow));
        Ok(Some(port))
    }

    /// A pair of a socket that has the client's own address, which is for this flow alone.
    pub fn take_as(
        &mut self,
        client: SocketAddr,
        member: MemberId,
        flow: FlowId,
    ) -> io::Result<Option<PortId>> {
        let Some(permit) = self.budget.take() else { return Ok(None) };
        let socket = bind::udp_as(client)?;
        let port = self.add(socket, Whose::Client, permit, Tick(0))?;
        self.set(port, member, Slot::Taken(flow));
        Ok(Some(port))
    }

    /// Gives a pair up; a socket without flows is closed.
    pub fn give(&mut self, port: PortId, member: MemberId, now: Tick) {
        self.set(port, member, Slot::Free(now));
        self.close_unused(port);
    }

    /// The flow that this pair serves.
    pub fn flow(&self, port: PortId, member: MemberId) -> Option<FlowId> {
        match self.port(port)?.slots.get(member.index())? {
            Slot::Taken(flow) => Some(*flow),
            Slot::Free(_) => None,
        }
    }

    /// The socket of a place.
    pub fn socket(&self, port: PortId) -> Option<&UdpSocket> {
        self.port(port).map(|port| &port.socket)
    }

    /// Takes a socket of another process over; its pairs rest first. `None`: the budget is used up,
    /// or the socket cannot be waited on.
    pub fn adopt(&mut self, socket: UdpSocket, whose: Whose, now: Tick) -> Option<PortId> {
        let permit = self.budget.take()?;
        self.add(socket, whose, permit, now).ok()
    }

    /// Gives a certain pair to a flow; `false`: another has it.
    pub fn claim(&mut self, port: PortId, member: MemberId, flow: FlowId) -> bool {
        let slot = self.port(port).and_then(|port| port.slots.get(member.index()));
        let free = matches!(slot, Some(Slot::Free(_)));
        if free {
            self.set(port, member, Slot::Taken(flow));
        }
        free
    }

    /// Closes a socket that no flow uses.
    pub fn close_unused(&mut self, id: PortId) {
        if self.port(id).is_some_and(|port| port.used == 0) {
            self.close(id);
        }
    }

    fn port(&self, port: PortId) -> Option<&Port> {
        self.ports.get(port.0 as usize)?.as_ref()
    }

    fn open_port(&mut self, family: Family, permit: Permit) -> io::Result<PortId> {
        let socket = bind::udp_upstream(family == Family::V4)?;
        self.add(socket, Whose::Shared, permit, Tick(0))
    }

    /// A socket whose pairs have rested since then.
    fn add(
        &mut self,
        socket: UdpSocket,
        whose: Whose,
        permit: Permit,
        since: Tick,
    ) -> io::Result<PortId> {
        let family = Family::of(socket.local_addr()?);
        let id = PortId(self.vacant.last().copied().unwrap_or(self.ports.len() as u32));
        self.poller.add(&socket, id.0)?;
        let slots = vec![Slot::Free(since); self.members.len()];
        let port = Some(Port { socket, _permit: permit, family, slots, used: 0, whose });
        match self.ports.get_mut(id.0 as usize) {
            Some(place) => {
                *place = port;
                self.vacant.pop();
            }
            None => self.ports.push(port),
        }
        self.open += 1;
        let reached = |member: &&mut Member| member.family == family && whose == Whose::Shared;
        for member in self.members.iter_mut().filter(reached) {
            member.free.insert((since, id));
        }
        Ok(id)
    }

    fn close(&mut self, id: PortId) {
        let Some(port) = self.ports.get_mut(id.0 as usize).and_then(Option::take) else { return };
        for (slot, member) in port.slots.iter().zip(&mut self.members) {
            if let Slot::Free(since) = slot {
                member.free.remove(&(*since, id));
            }
        }
        self.vacant.push(id.0);
        self.open -= 1;
    }

    /// Changes a slot, and keeps the free pairs and the count of used ones in step.
    fn set(&mut self, id: PortId, member: MemberId, next: Slot) {
        let Some(port) = self.ports.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        let Some(slot) = port.slots.get_mut(member.index()) else { return };
        let Some(Member { free, .. }) = self.members.get_mut(member.index()) else { return };
        match std::mem::replace(slot, next) {
            Slot::Free(since) => {
                free.remove(&(since, id));
            }
            Slot::Taken(_) => port.used -= 1,
        }
        match next {
            Slot::Free(since) if port.whose == Whose::Shared => {
                free.insert((since, id));
            }
            Slot::Free(_) => {}
            Slot::Taken(_) => port.used += 1,
        }
    }
}

/// The kernel has some 28 000 ports to give to sockets (ip_local_port_range), and others need some.
const PORTS: usize = 24_000;

/// How long a pair rests, in ticks: 1 s, longer than any answer travels.
pub(super) const REST: u32 = 10;

#[cfg(test)]
mod tests;
