//! What the admin listener shows of a balancer. Not for changing anything.
//!
//! Invariant: no secret is shown: the model holds only references to them.

use std::sync::Arc;

use common::observe::admin::{Inspect, Summary, Unit};
use common::snapshot::Published;
use serde_json::{Value, json};
use tokio::time::Instant;
use topology::l4::Protocol;

use crate::control::flows;
use crate::snapshot::{Lane, Snapshot};

/// The instance seen from outside.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) group: String,
    pub(crate) instance: String,
    pub(crate) workers: usize,
    pub(crate) published: Arc<Published<Snapshot>>,
}

impl Inspect for View {
    fn config(&self) -> Value {
        let snapshot = self.published.load();
        let listeners: Vec<Value> = snapshot.lanes.iter().map(|lane| listener(lane)).collect();
        json!({
            "tier": "l4-nlb",
            "group": self.group,
            "instance": self.instance,
            "workers": self.workers,
            "listeners": listeners,
        })
    }

    /// Sockets are bound before the admin listener answers; an instance without a living endpoint
    /// still serves by the panic threshold.
    fn unready(&self) -> Vec<String> {
        Vec::new()
    }

    fn summary(&self) -> Summary {
        let snapshot = self.published.load();
        let udp = |lane: &&Arc<Lane>| lane.rules.protocol == Protocol::Udp;
        let packets = snapshot.lanes.iter().any(|lane| udp(&lane));
        let work = |lane: &Arc<Lane>| {
            if packets { lane.meters.datagrams_total() } else { lane.meters.connections_total() }
        };
        Summary {
            unit: if packets { Unit::Packets } else { Unit::Connections },
            connections: flows(&snapshot),
            work_total: snapshot.lanes.iter().map(work).sum(),
            errors_total: snapshot.lanes.iter().map(|lane| lane.meters.errors_total()).sum(),
            p50_us: None,
            p99_us: None,
        }
    }

    fn endpoints(&self) -> Value {
        let (snapshot, now) = (self.published.load(), Instant::now());
        let services = snapshot.services().into_iter().map(|(service, _)| {
            let endpoints = service.endpoints.iter().map(|endpoint| {
                json!({
                    "name": endpoint.name.as_str(),
                    "address": endpoint.address.to_string(),
                    "weight": endpoint.weight.0,
                    "healthy": endpoint.state.healthy(),
                    "selectable": endpoint.state.selectable(now),
                    "draining": endpoint.state.draining(),
                    "active": endpoint.state.active(),
                })
            });
            let endpoints: Vec<Value> = endpoints.collect();
            json!({ "service": service.name.as_str(), "endpoints": endpoints })
        });
        Value::Array(services.collect())
    }
}

fn listener(lane: &Lane) -> Value {
    let rules = &lane.rules;
    json!({
        "name": rules.name.as_str(),
        "protocol": if rules.protocol == Protocol::Udp { "udp" } else { "tcp" },
        "to": rules.services().map(|to| to.name.as_str()).collect::<Vec<_>>(),
        "balance": format!("{:?}", rules.balance),
        "idle_ms": rules.idle.as_millis() as u64,
        "max_flows": rules.max_flows.get(),
        "max_flows_per_source": rules.max_flows_per_source.map(std::num::NonZeroU32::get),
        "proxy_protocol": rules.proxy_protocol.map(|version| format!("{version:?}")),
        "connect_timeout_ms": rules.connect_timeout.as_millis() as u64,
        "plane": if rules.protocol == Protocol::Udp { "user-space" } else { "proxy" },
    })
}
