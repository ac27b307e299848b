//! The flow table of one worker: who is known, who was heard last, who goes first when room is
//! needed. Not for sockets and not for choosing endpoints. Called by the worker loop for each
//! datagram.
//!
//! Invariant: every flow is in exactly one of three lists, by how far it has proved itself, ordered
//! by when it was last heard; so the oldest and the expired are found without a search.

use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use serde::{Deserialize, Serialize};

use super::expiry::{Linked, Links, List};

pub use super::expiry::Tick;

/// Who a flow belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// Address and port.
    pub peer: SocketAddr,
    /// The address it sent to, where the listener has several.
    pub local: Option<IpAddr>,
}

/// A flow's place in its table; another flow may have it later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId(u32);

/// How far a flow has proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Proof {
    /// Never answered.
    None,
    /// The endpoint has answered.
    Answered,
    /// The client went on after an answer: its address is real, or lucky.
    Confirmed,
}

/// Flows with what the caller keeps for each.
#[derive(Debug)]
pub struct Flows<V> {
    /// Places alone: a client is kept once, with its flow, so that the table stays in the cache.
    known: HashTable<FlowId>,
    /// Keyed at random: clients cannot make its chains long.
    hasher: RandomState,
    entries: Entries<V>,
    vacant: Vec<u32>,
    unanswered: List,
    answered: List,
    confirmed: List,
}

#[derive(Debug)]
struct Entry<V> {
    client: Client,
    value: V,
    heard: Tick,
    proof: Proof,
    linked: Linked,
}

/// Places of flows; a vacant one is `None`.
#[derive(Debug)]
struct Entries<V>(Vec<Option<Entry<V>>>);

impl<V> Entries<V> {
    fn get(&self, index: u32) -> Option<&Entry<V>> {
        self.0.get(index as usize)?.as_ref()
    }
}

impl<V> Links for Entries<V> {
    fn links(&mut self, index: u32) -> Option<&mut Linked> {
        self.0.get_mut(index as usize)?.as_mut().map(|entry| &mut entry.linked)
    }
}

impl<V> Flows<V> {
    /// Bytes per flow: its entry, and its part of the hash table at its emptiest.
    pub const COST: usize = size_of::<Option<Entry<V>>>() + 16 * (size_of::<FlowId>() + 1) / 7;

    /// An empty table.
    pub fn new() -> Self {
        Self {
            known: HashTable::new(),
            hasher: RandomState::default(),
            entries: Entries(Vec::new()),
            vacant: Vec::new(),
            unanswered: List::default(),
            answered: List::default(),
            confirmed: List::default(),
        }
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// No flow at all.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The flow of a client.
    pub fn find(&self, client: &Client) -> Option<FlowId> {
        let same = |id: &FlowId| self.client(*id).as_ref() == Some(client);
        self.known.find(self.hasher.hash_one(client), same).copied()
    }

    /// What the caller keeps for a flow.
    pub fn value(&mut self, id: FlowId) -> Option<&mut V> {
        self.entry(id).map(|entry| &mut entry.value)
    }

    /// The same, only to look at.
    pub fn peek(&self, id: FlowId) -> Option<&V> {
        self.entries.get(id.0).map(|entry| &entry.value)
    }

    /// Every flow with its client and proof, of each proof the one heard longest ago first.
    pub fn all(&self) -> impl Iterator<Item = (FlowId, Client, Proof)> {
        let lists = [&self.unanswered, &self.answered, &self.confirmed];
        let firsts = lists.map(List::oldest);
        let entry = |index: u32| self.entries.get(index);
        firsts.into_iter().flat_map(move |first| {
            std::iter::successors(first, move |&index| entry(index)?.linked.younger()).filter_map(
                move |index| {
                    let entry = entry(index)?;
                    Some((FlowId(index), entry.client, entry.proof))
                },
            )
        })
    }

    /// When it was heard last.
    pub fn heard(&self, id: FlowId) -> Option<Tick> {
        self.entries.get(id.0).map(|entry| entry.heard)
    }

    /// Whose flow it is.
    pub fn client(&self, id: FlowId) -> Option<Client> {
        self.entries.get(id.0).map(|entry| entry.client)
    }

    /// A new flow, heard now. A flow that the client has already is replaced and returned.
    pub fn insert(&mut self, client: Client, value: V, now: Tick) -> (FlowId, Option<V>) {
        let old = self.find(&client).and_then(|id| self.remove(id));
        let entry = Some(Entry {
            client,
            value,
            heard: now,
            proof: Proof::None,
            linked: Linked::default(),
        });
        let id = match self.vacant.pop() {
            Some(index) => {
                if let Some(place) = self.entries.0.get_mut(index as usize) {
                    *place = entry;
                }
                FlowId(index)
            }
            None => {
                self.entries.0.push(entry);
                FlowId(self.entries.0.len() as u32 - 1)
            }
        };
        let Self { known, hasher, entries, .. } = self;
        let hash_of = |id: &FlowId| entries.get(id.0).map_or(0, |e| hasher.hash_one(e.client));
        known.insert_unique(hasher.hash_one(client), id, hash_of);
        self.link(id);
        (id, old)
    }

    /// The client was heard. A second time within a tick changes nothing.
    pub fn heard_client(&mut self, id: FlowId, now: Tick) {
        let Some(entry) = self.entry(id) else { return };
        let proves = entry.proof == Proof::Answered;
        if entry.heard == now && !proves {
            return;
        }
        self.unlink(id);
        if let Some(entry) = self.entry(id) {
            entry.heard = now;
            if proves {
                entry.proof = Proof::Confirmed;
            }
        }
        self.link(id);
    }

    /// The endpoint was heard.
    pub fn heard_endpoint(&mut self, id: FlowId, now: Tick) {
        let Some(entry) = self.entry(id) else { return };
        if entry.heard == now && entry.proof >= Proof::Answered {
            return;
        }
        self.unlink(id);
        if let Some(entry) = self.entry(id) {
            entry.heard = now;
            entry.proof = entry.proof.max(Proof::Answered);
        }
        self.link(id);
    }

    /// The flow that makes room when it is needed: of those never answered the one that was heard
    /// longest ago, else of those not confirmed. A confirmed one never does: a flood of forged
    /// addresses must not end it.
    pub fn expendable(&self) -> Option<FlowId> {
        self.unanswered.oldest().or(self.answered.oldest()).map(FlowId)
    }

    /// A flow that was not heard for `idle` ticks, if there is one.
    pub fn expired(&self, now: Tick, idle: u32) -> Option<FlowId> {
        let oldest = [&self.unanswered, &self.answered, &self.confirmed].map(List::oldest);
        oldest
            .into_iter()
            .flatten()
            .map(FlowId)
            .find(|id| self.entries.get(id.0).is_some_and(|entry| now.since(entry.heard) >= idle))
    }

    /// Forgets a flow.
    pub fn remove(&mut self, id: FlowId) -> Option<V> {
        self.entry(id)?;
        self.unlink(id);
        let entry = self.entries.0.get_mut(id.0 as usize)?.take()?;
        let hash = self.hasher.hash_one(entry.client);
        if let Ok(found) = self.known.find_entry(hash, |known| *known == id) {
            found.remove();
        }
        self.vacant.push(id.0);
        Some(entry.value)
    }

    fn entry(&mut self, id: FlowId) -> Option<&mut Entry<V>> {
        self.entries.0.get_mut(id.0 as usize)?.as_mut()
    }

    /// Puts it at the young end of its list.
    fn link(&mut self, id: FlowId) {
        if let Some(proof) = self.entry(id).map(|entry| entry.proof) {
            let (list, entries) = self.list(proof);
            list.push(id.0, entries);
        }
    }

    fn unlink(&mut self, id: FlowId) {
        if let Some(proof) = self.entry(id).map(|entry| entry.proof) {
            let (list, entries) = self.list(proof);
            list.remove(id.0, entries);
        }
    }

    /// The list of flows with this proof, and where their links are.
    fn list(&mut self, proof: Proof) -> (&mut List, &mut Entries<V>) {
        let list = match proof {
            Proof::None => &mut self.unanswered,
            Proof::Answered => &mut self.answered,
            Proof::Confirmed => &mut self.confirmed,
        };
        (list, &mut self.entries)
    }
}

impl<V> Default for Flows<V> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
