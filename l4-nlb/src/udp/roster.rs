//! The endpoints that one worker knows, under numbers that stay while configurations change. Not for
//! choosing among them. Called for each datagram (by number), for each answer (by address) and at
//! each new snapshot.
//!
//! Invariant: a number means one endpoint as long as any flow of this worker belongs to it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use common::service::{Endpoint, Service};

/// An endpoint's number in this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberId(u32);

impl MemberId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a worker knows of an endpoint.
#[derive(Debug)]
pub struct Member {
    /// The endpoint itself.
    pub endpoint: Arc<Endpoint>,
    /// The configuration still has it.
    pub current: bool,
    /// Flows of this worker that belong to it.
    pub flows: u32,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Roster {
    members: Vec<Member>,
    by_address: HashMap<SocketAddr, MemberId>,
    by_index: Vec<MemberId>,
}

impl Roster {
    /// Takes over the endpoints of a new snapshot; returns those that are new here.
    pub fn update(&mut self, service: &Service) -> Vec<MemberId> {
        for member in &mut self.members {
            let still = service.endpoints.iter().find(|e| e.address == member.endpoint.address);
            member.current = still.is_some();
            // What is known of it may have begun anew (another weight, another name).
            if let Some(endpoint) = still {
                member.endpoint = endpoint.clone();
            }
        }
        let mut fresh = Vec::new();
        let numbers = service.endpoints.iter().map(|endpoint| {
            self.by_address.get(&endpoint.address).copied().unwrap_or_else(|| {
                let id = Self::place(&mut self.members, &mut self.by_address, endpoint);
                fresh.push(id);
                id
            })
        });
        self.by_index = numbers.collect();
        fresh
    }

    /// The number of the service's endpoint at this index.
    pub fn at(&self, index: usize) -> Option<MemberId> {
        self.by_index.get(index).copied()
    }

    /// The endpoint with this address.
    pub fn find(&self, address: &SocketAddr) -> Option<MemberId> {
        self.by_address.get(address).copied()
    }

    /// What is known of a number.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.get(id.index())
    }

    /// The same, for counting flows.
    pub fn member_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.members.get_mut(id.index())
    }

    /// A number for a new endpoint: that of one that is gone and forgotten, else the next.
    fn place(
        members: &mut Vec<Member>,
        by_address: &mut HashMap<SocketAddr, MemberId>,
        endpoint: &Arc<Endpoint>,
    ) -> MemberId {
        let member = Member { endpoint: endpoint.clone(), current: true, flows: 0 };
        let gone = members.iter().position(|member| !member.current && member.flows == 0);
        let id = match gone.and_then(|at| Some((at, members.get_mut(at)?))) {
            Some((at, place)) => {
                by_address.remove(&place.endpoint.address);
                *place = member;
                MemberId(at as u32)
            }
            None => {
                members.push(member);
                MemberId(members.len() as u32 - 1)
            }
        };
        by_address.insert(endpoint.address, id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::service;

    /// N3: numbers stay over a change; that of an endpoint that is gone is used again once its
    /// flows have ended.
    #[tokio::test(start_paused = true)]
    async fn numbers_stay_over_changes() {
        let mut roster = Roster::default();
        let (a, b) = (Service::new(&service(&[1, 2])), Service::new(&service(&[3, 2])));
        let fresh = roster.update(&a);
        assert_eq!(fresh, [MemberId(0), MemberId(1)]);
        roster.member_mut(MemberId(0)).unwrap().flows = 1;
        assert_eq!(roster.update(&b), [MemberId(2)], "0 still has a flow");
        assert_eq!((roster.at(0), roster.at(1)), (Some(MemberId(2)), Some(MemberId(1))));
        assert!(!roster.member(MemberId(0)).unwrap().current);
        roster.member_mut(MemberId(0)).unwrap().flows = 0;
        let c = Service::new(&service(&[4, 3, 2]));
        assert_eq!(roster.update(&c), [MemberId(0)]);
        assert_eq!(roster.find(&c.endpoints[0].address), Some(MemberId(0)));
        assert_eq!(roster.find(&a.endpoints[0].address), None);
    }
}
