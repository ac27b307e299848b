//! How the instances of a file are at this moment: health and counters of their admin listeners. Not for
//! deciding anything. Called by `mod` with `--live`.
//!
//! Invariant: all are asked side by side, so one that is dead is told within two seconds.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use common::observe::admin::Summary;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use topology::Topology;

use super::tree::{Explained, Step, Tone};
use crate::fetch;

/// What an instance says of itself.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// It has no admin listener.
    Mute,
    /// It does not answer; why.
    Dead(String),
    /// It answers.
    Alive {
        /// It takes new work.
        ready: bool,
        summary: Option<Summary>,
        /// By service and endpoint: condition and what is under way.
        endpoints: Vec<(String, String, String, u64)>,
    },
}

/// Instances by name.
pub(super) type States = BTreeMap<String, State>;

/// Asks all of them.
pub(super) async fn ask(topology: &Topology) -> States {
    let mut asking = JoinSet::new();
    for (name, admin) in instances(topology) {
        asking.spawn(async move {
            let state = match admin {
                None => State::Mute,
                Some(at) => {
                    look(at).await.unwrap_or_else(|error| State::Dead(format!("{error:#}")))
                }
            };
            (name, state)
        });
    }
    asking.join_all().await.into_iter().collect()
}

fn instances(topology: &Topology) -> Vec<(String, Option<SocketAddr>)> {
    let nlbs = topology.nlbs.iter().flat_map(|group| &group.instances);
    let nlbs = nlbs.map(|one| (one.name.to_string(), one.admin.as_ref().map(|at| at.value)));
    let gateways = topology.gateways.iter().flat_map(|group| &group.instances);
    let gateways =
        gateways.map(|one| (one.name.to_string(), one.admin.as_ref().map(|at| at.value)));
    let pools = topology.pools.iter().flat_map(|group| &group.instances);
    let pools = pools.map(|one| (one.name.to_string(), one.admin.as_ref().map(|at| at.value)));
    nlbs.chain(gateways).chain(pools).collect()
}

async fn look(admin: SocketAddr) -> anyhow::Result<State> {
    let (ready, summary, endpoints) = tokio::join!(
        fetch::get(admin, "/readyz"),
        fetch::get(admin, "/summary"),
        fetch::get(admin, "/endpoints")
    );
    let (ready, _) = ready?;
    let summary = summary.ok().and_then(|(_, body)| serde_json::from_slice(&body).ok());
    let endpoints = endpoints.ok().and_then(|(_, body)| serde_json::from_slice(&body).ok());
    let endpoints = endpoints.as_ref().map(rows).unwrap_or_default();
    Ok(State::Alive { ready: ready == 200, summary, endpoints })
}

/// Service, address, condition, under way.
fn rows(endpoints: &Value) -> Vec<(String, String, String, u64)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let services = endpoints.as_array().into_iter().flatten();
    let rows = services.flat_map(|service| {
        let of = service["endpoints"].as_array().into_iter().flatten();
        of.map(move |one| {
            let active = one["active"].as_u64().unwrap_or_default();
            (text(&service["service"]), text(&one["address"]), text(&one["condition"]), active)
        })
    });
    rows.collect()
}

/// Adds what they say to an answer.
pub(super) fn add(topology: &Topology, states: &States, explained: &mut Explained) {
    let named = |name: &str| explained_names(topology, explained).iter().any(|one| one == name);
    let mut step = Step::place("now");
    let mut facts = serde_json::Map::new();
    let met: Vec<_> = states.iter().filter(|(name, _)| named(name)).collect();
    for (name, state) in met {
        let (word, mut own) = told(name, state);
        facts.insert(name.clone(), json!(word));
        if let State::Alive { endpoints, .. } = state {
            for (service, address, condition, active) in endpoints {
                let tone = if condition == "up" { Tone::Plain } else { Tone::Refused };
                own.add(tone, format!("{service} {address}: {condition}, {active} under way"));
            }
        }
        step.below.push(own);
    }
    explained.fact("live", facts);
    explained.steps.push(step);
}

fn told(name: &str, state: &State) -> (&'static str, Step) {
    match state {
        State::Mute => ("mute", Step::new(Tone::Doubt, format!("{name} has no admin listener"))),
        State::Dead(why) => ("dead", Step::new(Tone::Refused, format!("{name} is dead: {why}"))),
        State::Alive { ready: false, .. } => {
            ("unready", Step::new(Tone::Refused, format!("{name} takes nothing new")))
        }
        State::Alive { summary, .. } => {
            let counted = summary.as_ref().map_or(String::new(), |s| {
                format!(
                    ": {} open, {} done, {} errors",
                    s.connections, s.work_total, s.errors_total
                )
            });
            ("ready", Step::new(Tone::Plain, format!("{name} is ready{counted}")))
        }
    }
}

/// The instances of the groups that the answer names.
fn explained_names(topology: &Topology, explained: &Explained) -> Vec<String> {
    let starts = |group: &str| {
        let begins = format!("{group} · ");
        explained.steps.iter().any(|step| step.text.starts_with(&begins))
    };
    let nlbs = topology.nlbs.iter().filter(|group| starts(group.name.as_str()));
    let nlbs = nlbs.flat_map(|group| group.instances.iter().map(|one| one.name.to_string()));
    let gateways = topology.gateways.iter().filter(|group| starts(group.name.as_str()));
    let gateways =
        gateways.flat_map(|group| group.instances.iter().map(|one| one.name.to_string()));
    let pools = topology.pools.iter().filter(|group| starts(group.name.as_str()));
    let pools = pools.flat_map(|group| group.instances.iter().map(|one| one.name.to_string()));
    nlbs.chain(gateways).chain(pools).collect()
}
