//! Whether the files and variables that the file names are there and hold what they should: those of gateways
//! and balancers, and what admin listeners ask for. Poolers' are read by `postgres`. Called by `live`.
//!
//! Invariant: each is read by the code of the tier that will need it.

use common::secret::{self, Missing};
use common::tls::store;
use l7_gateway::preview::Preview;
use topology::gateway::Group;
use topology::problem::Problem;
use topology::{Place, Topology};

use super::wrong;

/// What an instance would miss.
pub(super) fn problems(topology: &Topology) -> Vec<Problem> {
    let keys = topology.nlbs.iter().map(|group| secret::named(group.hash_key.as_ref(), "hash-key"));
    let secrets = keys.chain([secret::admin_token(topology)]);
    let missing = secrets.filter_map(Result::err);
    let mut all: Vec<Problem> =
        missing.map(|fault: Missing| lacking(fault.place, fault.to_string())).collect();
    topology.gateways.iter().for_each(|group| all.extend(gateway(group)));
    all
}

/// Of one group: what keeps its instances from starting, all at once.
fn gateway(group: &Group) -> Vec<Problem> {
    let Some(instance) = group.instances.first() else { return Vec::new() };
    let mut group = group.clone();
    // Nothing passes that could be recorded.
    group.record = None;
    let own = group.tls.iter().flat_map(|tls| &tls.certificates);
    let own = own.filter_map(|certificate| store::load(certificate).err());
    let mut all: Vec<Problem> =
        own.map(|error| lacking(error.place(), error.to_string())).collect();
    match Preview::new(&group, &instance.name) {
        Ok(preview) => {
            all.extend(preview.absent.into_iter().map(|(place, what)| lacking(place, what)));
        }
        Err(error) => all.push(lacking(error.place(), error.to_string())),
    }
    all
}

fn lacking(at: Place, what: String) -> Problem {
    wrong(at, what, "make what it names, or correct it: no instance starts without")
}
