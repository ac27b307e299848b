//! What the admin listener shows of a balancer, and what an operator may change of its endpoints. Not
//! for the file: a change here lasts until the process ends.
//!
//! Invariant: no secret is shown: the model holds only references to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::observe::Observer;
use common::observe::admin::{Adjust, Inspect, Summary, Unit};
use common::service::events::EndpointAdjusted;
use common::snapshot::Published;
use discovery::found::Board;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use topology::l4::Protocol;

use crate::control::{Order, flows};
use crate::snapshot::{Lane, Snapshot};

/// The instance seen from outside.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) group: String,
    pub(crate) instance: String,
    pub(crate) workers: usize,
    pub(crate) published: Arc<Published<Snapshot>>,
    pub(crate) board: Board,
    pub(crate) observer: Observer,
    /// Told when a weight was set.
    pub(crate) reweighed: Arc<Notify>,
    pub(crate) orders: mpsc::Sender<Order>,
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

    /// Sockets are bound before the admin listener answers, and an instance without a living endpoint
    /// still serves by the panic threshold; but it must have been told of some.
    fn unready(&self) -> Vec<String> {
        self.board.unready()
    }

    fn summary(&self) -> Summary {
        let snapshot = self.published.load();
        let udp = |lane: &&Arc<Lane>| lane.rules.protocol == Protocol::Udp;
        let packets = snapshot.lanes.iter().any(|lane| udp(&lane));
        let work = |lane: &Arc<Lane>| {
            if packets { lane.meters.datagrams_total() } else { lane.meters.connections_total() }
        };
        // Of the slowest listener.
        let connecting = |quantile| {
            let slowest =
                snapshot.lanes.iter().filter_map(|l| l.meters.connect_quantile(quantile)).max();
            slowest.map(|time| time.as_micros() as u64)
        };
        Summary {
            unit: if packets { Unit::Packets } else { Unit::Connections },
            connections: flows(&snapshot),
            work_total: snapshot.lanes.iter().map(work).sum(),
            errors_total: snapshot.lanes.iter().map(|lane| lane.meters.errors_total()).sum(),
            p50_us: connecting(0.5),
            p99_us: connecting(0.99),
        }
    }

    fn latency(&self) -> Vec<(u64, u64)> {
        let mut counts = BTreeMap::new();
        for lane in &self.published.load().lanes {
            for (upper, count) in lane.meters.connect_counts() {
                *counts.entry(upper).or_insert(0) += count;
            }
        }
        counts.into_iter().collect()
    }

    fn endpoints(&self) -> Value {
        let (snapshot, now) = (self.published.load(), Instant::now());
        let services = snapshot.services().into_iter().map(|(service, _)| {
            let endpoints = service.endpoints.iter().map(|endpoint| {
                let state = &endpoint.state;
                let (flows, failures) = state.flows();
                let checked = state.checked().map(|checked| {
                    json!({
                        "outcome": checked.outcome,
                        "took_ms": checked.took.as_secs_f64() * 1e3,
                        "ago_ms": now.saturating_duration_since(checked.at).as_millis() as u64,
                    })
                });
                json!({
                    "name": endpoint.name.as_str(),
                    "address": endpoint.address.to_string(),
                    "zone": endpoint.zone.as_ref().map(topology::units::ZoneName::as_str),
                    "weight": endpoint.weight(),
                    "weight_in_file": endpoint.weight.0,
                    "condition": state.condition(service.slow_start, now).as_str(),
                    "last_check": checked,
                    "healthy": state.healthy(),
                    "selectable": state.selectable(now),
                    "draining": state.draining(),
                    "active": state.active(),
                    "flows_total": flows,
                    "failures_total": failures,
                })
            });
            let endpoints: Vec<Value> = endpoints.collect();
            let discovery = self.board.show(&service.name);
            json!({ "service": service.name.as_str(), "endpoints": endpoints, "discovery": discovery })
        });
        Value::Array(services.collect())
    }

    fn flows(&self, most: usize) -> BoxFuture<'static, Option<Value>> {
        let orders = self.orders.clone();
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            orders.send(Order::Talkers(most, reply)).await.ok()?;
            answer.await.ok()
        })
    }

    fn adjust(&self, service: &str, endpoint: &str, wish: Adjust) -> Option<()> {
        let snapshot = self.published.load();
        let services = snapshot.services();
        let (known, _) = services.iter().find(|(known, _)| known.name.as_str() == service)?;
        let state = &known.endpoints.iter().find(|e| e.name.as_str() == endpoint)?.state;
        let (word, weight) = match wish {
            Adjust::Drain => {
                state.drain();
                ("drain", None)
            }
            Adjust::Enable => {
                state.undrain();
                state.set_weight(None);
                ("enable", None)
            }
            Adjust::Weight(weight) => {
                state.set_weight(Some(weight));
                ("weight", Some(weight))
            }
        };
        self.observer.emit(EndpointAdjusted { service, endpoint, wish: word, weight });
        // Tables and rounds are built for weights: anew, soon.
        self.reweighed.notify_one();
        Some(())
    }
}

fn listener(lane: &Lane) -> Value {
    let rules = &lane.rules;
    json!({
        "name": rules.name.as_str(),
        "protocol": if rules.protocol == Protocol::Udp { "udp" } else { "tcp" },
        "hash": format!("{:?}", rules.hash),
        "on_down": format!("{:?}", rules.on_down),
        "shares": lane.selector.shares(),
        "new_flows": rules.new_flows.map(|rate| rate.to_string()),
        "new_flows_per_source": rules.new_flows_per_source.map(|rate| rate.to_string()),
        "packets_per_source": rules.packets_per_source.map(|rate| rate.to_string()),
        "transparent": rules.transparent,
        "allow": rules.allow.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "deny": rules.deny.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "accept_proxy_from": rules.accept_proxy_from.iter().map(ToString::to_string).collect::<Vec<_>>(),
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
