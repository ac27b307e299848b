//! Where a flow would go, told by the gate, the selector and the table themselves without a socket. Not
//! for the data path. Called by `aqueduct explain`, with a group of the topology file.
//!
//! Invariant: where the balance hashes it names the endpoint that every instance of the group would take
//! while all endpoints live.

use common::balance::HashKey;
use common::observe::Observer;
use topology::Topology;
use topology::l4::{Group, Instance};
use topology::units::{ListenerName, ServiceName};

use crate::gate::Refusal;
use crate::secrets;
use crate::select::FlowKey;
use crate::snapshot::{Lane, Snapshot};
use crate::tcp::hello::Hello;
use crate::tcp::opening;

/// A group as one of its instances would run it.
#[derive(Debug)]
pub struct Preview {
    snapshot: Snapshot,
    /// Why the key of the hash is not known here: then nobody can tell where a hash leads.
    pub keyless: Option<String>,
}

/// Where a flow would go.
#[derive(Clone, Debug)]
pub struct Foreseen {
    /// Why it would be turned away.
    pub refused: Option<Refusal>,
    /// The service.
    pub service: Option<ServiceName>,
    /// The position of the target among the listener's.
    pub target: Option<usize>,
    /// The index of the endpoint among the service's, where the choice is a hash.
    pub endpoint: Option<usize>,
    /// Which part of all clients each endpoint has, where the choice is a hash.
    pub shares: Option<Vec<f64>>,
}

impl Preview {
    /// For an instance of the group. Reads the key of the hash: blocking.
    pub fn new(topology: &Topology, group: &Group, instance: &Instance) -> Self {
        let (key, keyless) = match secrets::hash_key(topology, group) {
            Ok(key) => (key, None),
            Err(error) => (HashKey::from_names([]), Some(error.to_string())),
        };
        let metrics = Observer::new(instance.name.as_str()).metrics;
        let own = (key, instance.zone.as_ref(), &instance.name);
        Self { snapshot: Snapshot::build(group, own, &metrics, None), keyless }
    }

    /// A flow to a listener; `hello` is what its client says first where it speaks TLS. `None`: the
    /// group has no such listener.
    pub fn ask(
        &self,
        listener: &ListenerName,
        flow: FlowKey,
        hello: Option<&Hello>,
    ) -> Option<Foreseen> {
        let lane = self.snapshot.lanes.iter().find(|lane| lane.rules.name == *listener)?;
        let mut foreseen = Foreseen {
            refused: lane.gate.screen(flow.client.ip()).err(),
            service: None,
            target: None,
            endpoint: None,
            shares: None,
        };
        let route = match opening::route(lane, hello) {
            Ok(route) => route,
            Err(refusal) => {
                foreseen.refused = foreseen.refused.or(Some(refusal));
                return Some(foreseen);
            }
        };
        let name = &route.service.name;
        foreseen.target = position(lane, name, hello);
        foreseen.service = Some(name.clone());
        foreseen.shares = route.selector.shares();
        // Others depend on what other clients do.
        if foreseen.shares.is_some() && self.keyless.is_none() {
            foreseen.endpoint = route.selector.select(route.service, flow, &[]);
        }
        Some(foreseen)
    }
}

/// Which of the listener's targets leads to the service for this client.
fn position(lane: &Lane, service: &ServiceName, hello: Option<&Hello>) -> Option<usize> {
    let fits = |target: &topology::l4::Target| {
        let when = target.when.as_ref();
        target.to.name == *service
            && when.is_none_or(|when| hello.is_some_and(|hello| opening::matches(when, hello)))
    };
    lane.rules.targets.iter().position(fits)
}
