//! Commands that a person can paste once the stack is ready. Not for running them. Printed by `up`
//! and shown by the live view.
//!
//! Invariant: every command names this stack's own ports, files and password.

use topology::Topology;
use topology::l4::Protocol;
use topology::model::Probe;
use topology::units::PathPattern;

use crate::up::launch::Workshop;
use crate::up::plan::{Does, Plan, Reach, Tier};
use crate::up::source::BUILT_IN_NAME;

/// One command and what it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hint {
    /// In a few words.
    pub(crate) what: &'static str,
    /// To paste.
    pub(crate) command: String,
}

/// What fits this stack.
pub(crate) fn hints(
    topology: &Topology,
    plan: &Plan,
    workshop: &Workshop,
    tool: &str,
) -> Vec<Hint> {
    let mut hints = Vec::new();
    https(topology, workshop, tool, &mut hints);
    sql(plan, workshop, &mut hints);
    if let Some(port) = game(topology) {
        let command = format!(
            "{tool} replay udp --target 127.0.0.1:{port} --players 10 --rate 128 --seconds 5"
        );
        hints.push(Hint { what: "10 players on the game port", command });
    }
    let tier = plan.parts.iter().find(|part| matches!(part.does, Does::Tier(Tier::Gateway)));
    let tier = tier.or_else(|| plan.parts.iter().find(|part| part.admin.is_some()));
    if let Some(admin) = tier.and_then(|part| part.admin) {
        hints.push(Hint { what: "metrics", command: format!("curl -s http://{admin}/metrics") });
    }
    hints
}

/// The ports of this machine that stand for well-known ones, as one sentence; empty when none.
pub(crate) fn stand_ins(plan: &Plan) -> String {
    let known = [(8443, 443), (8080, 80), (6432, 5432)];
    let ports: Vec<String> = known
        .into_iter()
        .filter(|(here, _)| {
            plan.parts.iter().flat_map(|p| &p.listens).any(|l| l.address.port() == *here)
        })
        .map(|(here, there)| format!("{here} stands for {there}"))
        .collect();
    match ports.as_slice() {
        [] => String::new(),
        _ => format!("On this machine {}.", ports.join(" and ")),
    }
}

fn https(topology: &Topology, workshop: &Workshop, tool: &str, hints: &mut Vec<Hint>) {
    let Some(group) = topology.gateways.first() else { return };
    let Some((address, tls)) = front(topology, group) else { return };
    let path = match group.routes.first().map(|route| &route.path) {
        Some(PathPattern::Prefix(path)) if path.contains("user") => format!("{path}/profile"),
        Some(PathPattern::Prefix(path)) => format!("{path}/"),
        Some(PathPattern::Exact(path)) => path.clone(),
        None => return,
    };
    let (scheme, trust) = if tls {
        ("https", format!(" --cacert {}", workshop.folder.path("ca.pem").display()))
    } else {
        ("http", String::new())
    };
    let url = format!("{scheme}://{address}{path}");
    if group.issuers.is_empty() {
        hints.push(Hint { what: "a request", command: format!("curl -i{trust} {url}") });
        return;
    }
    let folder = folder_option(workshop);
    let token = format!("{tool} token --user 98765 --scope 'user:read pay'{folder}");
    for (what, more) in
        [("a request with a valid token", ""), ("with an expired one: 401", " --expired")]
    {
        let command = format!("curl -i{trust} -H \"Authorization: Bearer $({token}{more})\" {url}");
        hints.push(Hint { what, command });
    }
}

/// Where clients reach a gateway group: the balancer's listener in front of it, else an instance.
fn front(topology: &Topology, group: &topology::gateway::Group) -> Option<(String, bool)> {
    let listener = topology.nlbs.iter().find_map(|nlb| {
        let leads_here = |endpoints: &[topology::Endpoint]| {
            endpoints.iter().any(|e| group.instances.iter().any(|i| i.listen.value == e.address))
        };
        let listener = nlb.listeners.iter().find(|l| leads_here(&l.to.endpoints))?;
        Some(listener.at.value.on(nlb.instances.first()?))
    });
    let address = listener.or_else(|| Some(group.instances.first()?.listen.value))?;
    let address = match address.ip().is_loopback() || address.ip().is_unspecified() {
        true => format!("localhost:{}", address.port()),
        false => address.to_string(),
    };
    Some((address, group.tls.is_some()))
}

fn sql(plan: &Plan, workshop: &Workshop, hints: &mut Vec<Hint>) {
    let reach = plan.parts.iter().find_map(|part| match &part.does {
        Does::Demo { uses, .. } => uses.iter().find_map(|used| match &used.to {
            Reach::Sql { address, database, role } => Some((address, database, role)),
            Reach::Http(_) => None,
        }),
        _ => None,
    });
    let Some((address, database, role)) = reach else { return };
    let Ok(password) = workshop.provided.password(&role.name) else { return };
    let command = format!(
        "PGPASSWORD={password} psql -h {} -p {} -U {} {database} -c 'SELECT * FROM users WHERE id = 98765'",
        address.ip(),
        address.port(),
        role.name
    );
    hints.push(Hint { what: "SQL through pgpool", command });
}

/// The port of the first UDP listener before a game.
fn game(topology: &Topology) -> Option<u16> {
    let nlb = topology.nlbs.iter().find_map(|nlb| {
        let listener = nlb.listeners.iter().find(|listener| {
            let health = listener.to.health.as_ref().map(|health| &health.probe);
            listener.protocol == Protocol::Udp && matches!(health, Some(Probe::Udp { .. }))
        })?;
        Some(listener.at.value.on(nlb.instances.first()?))
    });
    nlb.map(|address| address.port())
}

/// `token` finds the built-in stack's keys by itself.
fn folder_option(workshop: &Workshop) -> String {
    let default = crate::up::folder::Folder::named(None, BUILT_IN_NAME);
    match default {
        Ok(default) if default.root() == workshop.folder.root() => String::new(),
        _ => format!(" --state {}", workshop.folder.root().display()),
    }
}
