//! How the instances of a file are at this moment: health and counters of their admin listeners. Not for
//! deciding anything. Called by `mod` with `--live`.
//!
//! Invariant: all are asked side by side, so one that is dead is told within two seconds.

use std::collections::BTreeMap;

use common::observe::admin::Summary;
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;
use topology::Topology;

use super::tree::{Explained, Step, Tone};
use crate::fetch::{PATIENCE, Talk};
use crate::watch::roster::{Instance, Roster, instances};

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

/// Asks all of them, with the file's `admin-token`.
///
/// # Errors
/// The file names a token that is not there.
pub(super) async fn ask(topology: &Topology) -> anyhow::Result<States> {
    let roster = Roster::of(topology, None)?;
    let mut asking = JoinSet::new();
    for Instance { name, admin, .. } in roster.instances {
        let talk = admin.map(|at| Talk::new(at, roster.token.as_ref())).transpose()?;
        asking.spawn(async move {
            let Some(talk) = talk else { return (name, State::Mute) };
            let state = match timeout(PATIENCE, look(talk)).await {
                Ok(Ok(state)) => state,
                Ok(Err(error)) => State::Dead(format!("{error:#}")),
                Err(_) => State::Dead("it did not answer within 2 s".to_owned()),
            };
            (name, state)
        });
    }
    Ok(asking.join_all().await.into_iter().collect())
}

async fn look(mut talk: Talk) -> anyhow::Result<State> {
    let (ready, _) = talk.ask(Method::GET, "/readyz").await?;
    let (status, summary) = talk.ask(Method::GET, "/summary").await?;
    anyhow::ensure!(status != 401, "it asks for a token that is not ours");
    let (_, endpoints) = talk.ask(Method::GET, "/endpoints").await?;
    let endpoints = serde_json::from_slice(&endpoints).as_ref().map(rows).unwrap_or_default();
    let summary = serde_json::from_slice(&summary).ok();
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
    let named = explained_names(topology, explained);
    let mut step = Step::place("now");
    let mut facts = serde_json::Map::new();
    for (name, state) in states.iter().filter(|(name, _)| named.contains(name)) {
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

/// The instances of the groups that the answer names: groups of two tiers may have one name.
fn explained_names(topology: &Topology, explained: &Explained) -> Vec<String> {
    let met = |one: &Instance| {
        let group = one.of.split_once(':').map_or("", |(_, group)| group);
        let begins = format!("{group} · {} ", one.tier.program());
        explained.steps.iter().any(|step| step.text.starts_with(&begins))
    };
    instances(topology).into_iter().filter(met).map(|one| one.name).collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// An admin listener that answers whoever has the token.
    async fn admin() -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let at = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut head).await {
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let asked = String::from_utf8(std::mem::take(&mut head)).expect("text");
                    let known = asked.contains("authorization: Bearer sesame\r\n");
                    let (status, body) = match asked.split(' ').nth(1) {
                        Some("/readyz") => ("200 OK", "ready"),
                        _ if !known => ("401 Unauthorized", ""),
                        Some("/endpoints") => (
                            "200 OK",
                            r#"[{"service":"a","endpoints":[
                            {"address":"10.0.0.1:80","condition":"down","active":3}]}]"#,
                        ),
                        _ => ("200 OK", "{}"),
                    };
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
                    stream.write_all(answer.as_bytes()).await.expect("written");
                }
            }
        });
        at
    }

    async fn said(token: &str) -> String {
        let folder = tempfile::tempdir().expect("made");
        std::fs::write(folder.path().join("token"), token).expect("written");
        let text = format!(
            "aqueduct: 1\nadmin-token: file:token\nservices: {{ a: {{ endpoints: [10.0.0.1:80] }} }}\n\
             nlbs:\n  edge:\n    instances: {{ nlb-1: {{ address: 127.0.0.1, admin: {} }} }}\n    listeners:\n      \
             web: {{ tcp: 127.0.0.1:1, to: a }}\n",
            admin().await
        );
        let topology = topology::parse("<stack>", &text, folder.path()).expect("valid");
        let states = ask(&topology).await.expect("asked");
        let mut explained = Explained::new("a question".to_owned());
        explained.steps.push(Step::place("edge · l4-nlb nlb-1"));
        add(&topology, &states, &mut explained);
        explained.text(false)
    }

    /// T5: instances that ask for the file's token get it; what they say stands in the answer.
    #[tokio::test]
    async fn instances_say_how_they_are() {
        let told = said("sesame").await;
        assert!(told.contains("nlb-1 is ready"), "{told}");
        assert!(told.contains("a 10.0.0.1:80: down, 3 under way"), "{told}");
        let told = said("mellon").await;
        assert!(told.contains("nlb-1 is dead: it asks for a token that is not ours"), "{told}");
    }

    /// T5: a gateway's group may have the name of a balancer's: only who is met is told.
    #[test]
    fn groups_of_one_name_are_told_apart() {
        let text = "aqueduct: 1\nservices: { a: { endpoints: [10.0.0.1:80] } }\nnlbs:\n  app:\n    \
                    instances: { nlb-1: { address: 127.0.0.1 } }\n    listeners: { web: { tcp: 127.0.0.1:1, to: a } }\n\
                    gateways:\n  app:\n    instances: { gw-1: { listen: 127.0.0.1:2 } }\n    \
                    routes: [{ path: /*, to: a }]\n";
        let topology = topology::parse("<stack>", text, std::path::Path::new("/")).expect("valid");
        let mut explained = Explained::new("a question".to_owned());
        explained.steps.push(Step::place("app · l7-gateway gw-1 · on 127.0.0.1:2"));
        assert_eq!(explained_names(&topology, &explained), ["gw-1"]);
    }
}
