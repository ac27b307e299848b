//! What is known of endpoints, on its way to the next process: those that a source outside of the file
//! has named, whose checks fail, and what an operator has set. Without it flows to found endpoints
//! would end with a hand-over, and a drained endpoint would take clients again. Not for flows.
//!
//! Invariant: an endpoint is known by its service, name and address; of any other nothing is taken.

use std::net::SocketAddr;
use std::sync::Arc;

use common::service::{Health, Service};
use discovery::found::Found;
use serde::{Deserialize, Serialize};
use topology::units::{EndpointName, Place, Weight, ZoneName};
use topology::{Endpoint, ServiceName};

use crate::snapshot::Snapshot;

/// A service with its endpoints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KnownService {
    pub(crate) name: String,
    /// Where its endpoints come from, as text; the file says it again.
    pub(crate) source: Option<String>,
    pub(crate) endpoints: Vec<KnownEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownEndpoint {
    name: String,
    address: SocketAddr,
    weight: u16,
    zone: Option<String>,
    down: bool,
    draining: bool,
    /// By an operator.
    set_weight: Option<u16>,
}

impl KnownEndpoint {
    /// As a source names it.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint {
            name: EndpointName::new(&self.name),
            address: self.address,
            weight: Weight(self.weight),
            zone: self.zone.as_deref().map(ZoneName::new),
            place: Place::default(),
        }
    }
}

/// What this process knows.
pub(crate) fn known(snapshot: &Snapshot, found: &Found) -> Vec<KnownService> {
    let services = snapshot.services().into_iter();
    services
        .map(|(service, _)| KnownService {
            name: service.name.to_string(),
            source: found.source(&service.name),
            endpoints: endpoints(service),
        })
        .collect()
}

fn endpoints(service: &Service) -> Vec<KnownEndpoint> {
    let known = service.endpoints.iter().map(|endpoint| KnownEndpoint {
        name: endpoint.name.to_string(),
        address: endpoint.address,
        weight: endpoint.weight.0,
        zone: endpoint.zone.as_ref().map(ToString::to_string),
        down: !endpoint.state.healthy(),
        draining: endpoint.state.draining(),
        set_weight: endpoint.state.weight(),
    });
    known.collect()
}

/// Takes over what another process knew.
pub(crate) fn adopt(snapshot: &Snapshot, known: &[KnownService]) {
    for (service, _) in snapshot.services() {
        let of = |known: &&KnownService| ServiceName::new(&known.name) == service.name;
        for known in known.iter().filter(of).flat_map(|known| &known.endpoints) {
            let same = |own: &&Arc<common::service::Endpoint>| {
                own.name.as_str() == known.name && own.address == known.address
            };
            let Some(own) = service.endpoints.iter().find(same) else { continue };
            if known.down {
                own.state.set_healthy(Health::Down);
            }
            if known.draining {
                own.state.drain();
            }
            own.state.set_weight(known.set_weight);
        }
    }
}
