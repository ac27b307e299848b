//! What EndpointSlices say of their endpoints (`discovery.k8s.io/v1`). Not for asking. Called by its parent.
//!
//! Invariant: a pod is named once, whatever the number of slices and address families that it is in.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use topology::Weight;
use topology::model::ServicePort;

use crate::instance::{Instance, Takes};

/// A part of a service's endpoints, all of one address family.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Slice {
    pub(super) metadata: Meta,
    address_type: String,
    endpoints: Option<Vec<Member>>,
    ports: Option<Vec<Port>>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    #[serde(default)]
    pub(super) name: String,
    pub(super) resource_version: String,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    addresses: Option<Vec<String>>,
    conditions: Option<Conditions>,
    zone: Option<String>,
    hints: Option<Hints>,
    target_ref: Option<Target>,
}

/// What is not said is unknown.
#[derive(Clone, Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    for_zones: Option<Vec<Zone>>,
}

#[derive(Clone, Deserialize)]
struct Zone {
    name: String,
}

#[derive(Clone, Deserialize)]
struct Target {
    kind: Option<String>,
    name: Option<String>,
}

#[derive(Clone, Deserialize)]
struct Port {
    name: Option<String>,
    port: Option<u16>,
}

impl Slice {
    /// How many endpoints it names.
    pub(super) fn size(&self) -> usize {
        self.endpoints.as_ref().map_or(0, Vec::len)
    }

    /// Whether it says that it belongs to this service.
    pub(super) fn is_of(&self, service: &str) -> bool {
        let labels = self.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(SERVICE_LABEL)).is_some_and(|of| of == service)
    }

    /// Without what nobody reads.
    pub(super) fn trimmed(mut self) -> Self {
        self.metadata.labels = None;
        for member in self.endpoints.iter_mut().flatten() {
            let short = |text: &String| text.len() <= LONGEST_NAME;
            member.addresses.iter_mut().for_each(|all| all.truncate(1));
            member.addresses.take_if(|all| !all.iter().all(short));
            member.zone.take_if(|zone| !short(zone));
            member.target_ref.take_if(|target| !target.name.as_ref().is_none_or(short));
            if let Some(zones) = member.hints.as_mut().and_then(|hints| hints.for_zones.as_mut()) {
                zones.retain(|zone| short(&zone.name));
                // The API allows no more.
                zones.truncate(8);
            }
        }
        self
    }

    fn ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter().flatten()
    }

    fn members(&self) -> impl Iterator<Item = (&Member, Takes)> {
        let members = self.endpoints.iter().flatten();
        members.filter_map(|member| Some((member, member.takes()?)))
    }

    /// The port that is asked for. `bare`: no slice of the service names one.
    fn port(&self, wanted: Option<&ServicePort>, bare: bool) -> Result<u16, String> {
        let slice = shown(&self.metadata.name);
        let ports = || self.ports();
        let lacks = |port: &ServicePort| format!("slice `{slice}` has no port `{port}`");
        match wanted {
            Some(ServicePort::Name(name)) => {
                let named = |port: &&Port| port.name.as_deref().unwrap_or_default() == name;
                let number = ports().find(named).and_then(|port| port.port);
                number.ok_or_else(|| lacks(&ServicePort::Name(name.clone())))
            }
            Some(ServicePort::Number(number)) => {
                // Without any port it is the pods' own matter; beside slices with ports one has none.
                let there = ports().any(|port| port.port.is_none_or(|port| port == *number));
                (there || bare)
                    .then_some(*number)
                    .ok_or_else(|| lacks(&ServicePort::Number(*number)))
            }
            None => {
                let numbers: HashSet<Option<u16>> = ports().map(|port| port.port).collect();
                match (numbers.len(), numbers.into_iter().next().flatten()) {
                    (1, Some(number)) => Ok(number),
                    (0 | 1, _) => {
                        Err(format!("slice `{slice}` names no port: say `port` in the file"))
                    }
                    _ => Err(format!("slice `{slice}` has several ports: say `port` in the file")),
                }
            }
        }
    }
}

impl Member {
    /// `None`: it serves nobody.
    fn takes(&self) -> Option<Takes> {
        let conditions = self.conditions.clone().unwrap_or_default();
        // What is unknown counts as ready, and who is ready serves.
        let ready = conditions.ready.unwrap_or(true);
        let serving = conditions.serving.unwrap_or(ready);
        if conditions.terminating.unwrap_or(false) {
            return serving.then_some(Takes::Nothing);
        }
        ready.then_some(Takes::New)
    }

    /// The zones that it is meant for.
    fn meant_for(&self) -> &[Zone] {
        let zones = self.hints.as_ref().and_then(|hints| hints.for_zones.as_deref());
        zones.unwrap_or_default()
    }

    /// The zone that it counts as one of.
    fn zone(&self, hinted: bool) -> Option<String> {
        let own = self.zone.as_ref().filter(|zone| !zone.is_empty());
        let meant = self.meant_for();
        if !hinted
            || meant.is_empty()
            || own.is_some_and(|own| meant.iter().any(|zone| zone.name == *own))
        {
            return own.cloned();
        }
        meant.first().map(|zone| zone.name.clone())
    }

    /// The pod's name, which in a stateful set stays when its address changes.
    fn pod(&self) -> Option<String> {
        let target = self.target_ref.as_ref()?;
        target.name.clone().filter(|_| target.kind.as_deref() == Some("Pod"))
    }

    /// Addresses after the first one mean nothing.
    fn ip(&self, slice: &Slice) -> Result<IpAddr, String> {
        let text = self.addresses.iter().flatten().next().map_or("", String::as_str);
        let name = shown(&slice.metadata.name);
        let ip: IpAddr = text.parse().map_err(|_| {
            format!("slice `{name}` has the address `{}`, which is no IP address", shown(text))
        })?;
        match (slice.address_type.as_str(), ip) {
            ("IPv4", IpAddr::V4(_)) | ("IPv6", IpAddr::V6(_)) => Ok(ip),
            (other, _) => {
                let other = shown(other);
                Err(format!("slice `{name}` has {ip} among addresses of type {other}"))
            }
        }
    }
}

/// All that the slices of a service name, and why a part of it is of no use.
pub(super) fn instances(
    slices: &BTreeMap<String, Slice>,
    port: Option<&ServicePort>,
) -> (Vec<Instance>, Option<String>) {
    let (mut instances, mut odd) = (Vec::new(), None);
    let bare = slices.values().all(|slice| slice.ports().next().is_none());
    // Hints count as for kube-proxy: all ready endpoints of a family have them, or the slices are changing.
    let hinted = |family: &str| {
        let slices = slices.values().filter(|slice| slice.address_type == family);
        let hints = |member: &Member| !member.meant_for().is_empty();
        slices.flat_map(Slice::members).all(|(it, takes)| takes == Takes::Nothing || hints(it))
    };
    let hinted = [hinted("IPv4"), hinted("IPv6")];
    for slice in slices.values().filter(|slice| slice.members().next().is_some()) {
        if !["IPv4", "IPv6"].contains(&slice.address_type.as_str()) {
            let (name, kind) = (shown(&slice.metadata.name), shown(&slice.address_type));
            let cause =
                format!("slice `{name}` has addresses of type {kind}: those are not looked up");
            odd.get_or_insert(cause);
            continue;
        }
        let [older, newer] = hinted;
        let hinted = if slice.address_type == "IPv4" { older } else { newer };
        let port = match slice.port(port, bare) {
            Ok(port) => port,
            Err(cause) => {
                odd.get_or_insert(cause);
                continue;
            }
        };
        for (member, takes) in slice.members() {
            match member.ip(slice) {
                Ok(ip) => instances.push(Instance {
                    name: member.pod(),
                    address: SocketAddr::new(ip, port),
                    weight: Weight::default(),
                    zone: member.zone(hinted),
                    version: None,
                    takes,
                }),
                Err(cause) => {
                    odd.get_or_insert(cause);
                }
            }
        }
    }
    // A pod has addresses of both families: those of the older one, also while they serve nobody, for its
    // slices change one after the other.
    let mut older: HashSet<String> = HashSet::new();
    for slice in slices.values().filter(|slice| slice.port(port, bare).is_ok()) {
        let members = slice.endpoints.iter().flatten();
        let reached = members.filter(|member| member.ip(slice).is_ok_and(|ip| ip.is_ipv4()));
        older.extend(reached.filter_map(Member::pod));
    }
    instances.retain(|instance| {
        instance.address.is_ipv4()
            || instance.name.as_ref().is_none_or(|name| !older.contains(name))
    });
    (instances, odd)
}

/// A text of somebody else's, short.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

/// The longest name in Kubernetes, and what no address exceeds.
const LONGEST_NAME: usize = 253;

/// What says which service a slice belongs to.
pub(super) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
