//! What a source says of one server, and how a set of endpoints comes of many such. Not for asking.
//! Called by `keep` for every answer.
//!
//! Invariant: a set is in a fixed order, has each address and each name once, at most [`MOST`] of them,
//! and none that cannot be sent to.

use std::collections::HashSet;
use std::net::SocketAddr;

use topology::list::{Listed, ListedHealth};
use topology::units::ZoneName;
use topology::{Endpoint, EndpointName, Place, Weight};

/// A server as a source names it. Those that are down are not named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    /// A stable name; without one its address is.
    pub(crate) name: Option<String>,
    pub(crate) address: SocketAddr,
    pub(crate) weight: Weight,
    pub(crate) zone: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) takes: Takes,
}

/// Whether something new may go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    New,
    /// It is leaving: what it has may finish.
    Nothing,
}

impl Instance {
    /// Nothing but an address.
    pub(crate) fn at(address: SocketAddr) -> Self {
        let (name, zone, version) = (None, None, None);
        Self { name, address, weight: Weight::default(), zone, version, takes: Takes::New }
    }

    /// Whether anything can be sent there.
    pub(crate) fn is_sound(&self) -> bool {
        !self.address.ip().is_unspecified() && self.address.port() != 0
    }

    /// As a list has it; `None`: it is down.
    pub(crate) fn listed(listed: Listed) -> Option<Self> {
        let takes = match listed.health {
            ListedHealth::Up => Takes::New,
            ListedHealth::Draining => Takes::Nothing,
            ListedHealth::Down => return None,
        };
        let Listed { name, address, weight, zone, version, .. } = listed;
        Some(Self { name, address, weight, zone, version, takes })
    }
}

/// A set of endpoints, and how many instances are not in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) endpoints: Vec<Endpoint>,
    /// They take nothing new.
    pub(crate) draining: usize,
    /// There were too many.
    pub(crate) over: usize,
}

/// The set that instances make. Those that take nothing new are in it only when all are so: a server
/// that is leaving is better than none.
pub(crate) fn settle(all: Vec<Instance>, version: Option<&str>, place: Place) -> Settled {
    let wanted = |i: &Instance| version.is_none_or(|wanted| i.version.as_deref() == Some(wanted));
    let mut all: Vec<Instance> = all.into_iter().filter(|i| i.is_sound() && wanted(i)).collect();
    // Who takes something new comes first where an address is named twice.
    all.sort_by_key(|i| (i.address, i.takes == Takes::Nothing));
    all.dedup_by_key(|i| i.address);
    let draining = all.iter().filter(|i| i.takes == Takes::Nothing).count();
    if draining < all.len() {
        all.retain(|i| i.takes == Takes::New);
    }
    let over = all.len().saturating_sub(MOST);
    all.truncate(MOST);
    let mut names = HashSet::new();
    let endpoint = |i: Instance| {
        let own = i.name.filter(|name| names.insert(name.clone()));
        // Named by its address, the same server keeps its clients whatever the answer's order.
        let name = own.unwrap_or_else(|| i.address.to_string());
        Endpoint {
            name: EndpointName::new(&name),
            address: i.address,
            weight: i.weight,
            zone: i.zone.as_deref().map(ZoneName::new),
            place,
        }
    };
    Settled { endpoints: all.into_iter().map(endpoint).collect(), draining, over }
}

/// Most endpoints of one service.
pub(crate) const MOST: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(last: u8, takes: Takes) -> Instance {
        Instance { takes, ..Instance::at(([10, 0, 0, last], 80).into()) }
    }

    fn ports(settled: &Settled) -> Vec<String> {
        settled.endpoints.iter().map(|e| e.name.to_string()).collect()
    }

    /// D3: who is leaving is in the set only when everybody is; a version chooses its own.
    #[test]
    fn who_is_leaving_is_the_last_choice() {
        let (stays, leaves) = (instance(2, Takes::New), instance(1, Takes::Nothing));
        let settled = settle(vec![leaves.clone(), stays], None, Place::default());
        assert_eq!((ports(&settled), settled.draining), (vec!["10.0.0.2:80".to_owned()], 1));
        let settled = settle(vec![leaves], None, Place::default());
        assert_eq!((ports(&settled), settled.draining), (vec!["10.0.0.1:80".to_owned()], 1));
        let new = Instance { version: Some("v2".to_owned()), ..instance(3, Takes::New) };
        let all = vec![new, instance(4, Takes::New)];
        assert_eq!(ports(&settle(all, Some("v2"), Place::default())), ["10.0.0.3:80"]);
    }

    /// D1, O5: a set is bounded and in order, whatever is answered, and its names tell endpoints apart.
    #[test]
    fn answers_are_bounded() {
        let named = |i: u32| Instance {
            name: (i < 2).then(|| "same".to_owned()),
            ..Instance::at(SocketAddr::new(std::net::Ipv4Addr::from(i % 2000).into(), 80))
        };
        let mut many: Vec<Instance> = (0..5000).map(named).collect();
        many.push(Instance::at(([10, 0, 0, 1], 0).into()));
        let settled = settle(many.clone(), None, Place::default());
        assert_eq!((settled.endpoints.len(), settled.over), (MOST, 999));
        assert!(settled.endpoints.iter().all(|e| !e.address.ip().is_unspecified()));
        let names: HashSet<_> = settled.endpoints.iter().map(|e| e.name.clone()).collect();
        assert_eq!(names.len(), MOST);
        many.reverse();
        let again = settle(many, None, Place::default());
        let addresses = |s: &Settled| s.endpoints.iter().map(|e| e.address).collect::<Vec<_>>();
        assert_eq!(addresses(&again), addresses(&settled), "in whatever order");
    }
}
