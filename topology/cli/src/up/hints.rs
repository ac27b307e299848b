//! Commands that a person can paste once the stack is ready. Not for running them. Printed by `up`
//! and shown by the live view.
//!
//! Invariant: every command names this stack's own ports, files and password.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use topology::Topology;
use topology::l4::Protocol;
use topology::model::Probe;
use topology::units::PathPattern;

use crate::up::folder::Folder;
use crate::up::launch::Workshop;
use crate::up::plan::{Does, Plan, Reach, Tier};
use crate::up::source::BUILT_IN_NAME;
use crate::watch::page::Page;

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
    if let Some(at) = game(topology) {
        let command =
            format!("{tool} replay udp --target {at} --players 10 --rate 128 --seconds 5");
        hints.push(Hint { what: "10 players on the game port", command });
    }
    let tier = plan.parts.iter().find(|part| matches!(part.does, Does::Tier(Tier::Gateway)));
    let tier = tier.or_else(|| plan.parts.iter().find(|part| part.admin.is_some()));
    if let Some(admin) = tier.and_then(|part| part.admin) {
        hints.push(Hint { what: "metrics", command: format!("curl -s http://{admin}/metrics") });
    }
    hints
}

/// The live page, with the right to drain and enable.
pub(crate) fn page(page: &Page) -> Hint {
    Hint { what: "the live page", command: page.key() }
}

/// The same for who stands in the clients' namespace: what clients cannot reach is left out.
pub(crate) fn inside(hints: Vec<Hint>, namespace: &str) -> Vec<Hint> {
    let within = |hint: Hint| match hint.what {
        "metrics" | "the live page" => Some(hint),
        _ if hint.command.contains("psql") => None,
        _ => Some(Hint { command: format!("ip netns exec {namespace} {}", hint.command), ..hint }),
    };
    hints.into_iter().filter_map(within).collect()
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
        _ => format!("On this machine {}.", ports.join(", ")),
    }
}

fn https(topology: &Topology, workshop: &Workshop, tool: &str, hints: &mut Vec<Hint>) {
    let Some(group) = topology.gateways.first() else { return };
    let Some(address) = front(topology, group) else { return };
    let path = match group.routes.first().map(|route| &route.path) {
        Some(PathPattern::Prefix(path)) if path.contains("user") => format!("{path}/profile"),
        Some(PathPattern::Prefix(path)) => format!("{path}/"),
        Some(PathPattern::Exact(path) | PathPattern::Template(path)) => path.clone(),
        Some(PathPattern::Regex(_)) => "/".to_owned(),
        None => return,
    };
    let [url, replayed] = urls(group, address, &path, &workshop.folder);
    if group.issuers.is_empty() {
        hints.push(Hint { what: "a request", command: format!("curl -i {url}") });
        return;
    }
    let folder = folder_option(workshop);
    let token = format!("{tool} token --user 98765 --scope 'user:read pay'{folder}");
    for (what, more) in
        [("a request with a valid token", ""), ("with an expired one: 401", " --expired")]
    {
        let command = format!("curl -i -H \"Authorization: Bearer $({token}{more})\" {url}");
        hints.push(Hint { what, command });
    }
    if group.tls.is_some() {
        let command = format!("{tool} replay https {replayed} --rate 100 --seconds 5{folder}");
        hints.push(Hint { what: "100 requests/s for 5 s", command });
    }
}

/// Where clients reach a gateway group: the balancer's listener in front of it, else an instance.
fn front(topology: &Topology, group: &topology::gateway::Group) -> Option<SocketAddr> {
    let listener = topology.nlbs.iter().find_map(|nlb| {
        let leads_here = |endpoints: &[topology::Endpoint]| {
            endpoints.iter().any(|e| group.instances.iter().any(|i| i.listen.value == e.address))
        };
        let listener =
            nlb.listeners.iter().find(|l| l.services().any(|to| leads_here(&to.endpoints)))?;
        Some(listener.at.value.on(nlb.instances.first()?))
    });
    listener.or_else(|| Some(group.instances.first()?.listen.value))
}

/// What curl is told, and the same for `replay https`; an address that the local certificate does
/// not name is reached as `api.example`.
fn urls(
    group: &topology::gateway::Group,
    at: SocketAddr,
    path: &str,
    folder: &Folder,
) -> [String; 2] {
    let port = at.port();
    let here = at.ip().is_unspecified() || at.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST);
    let host = if here { "localhost".to_owned() } else { at.ip().to_string() };
    if group.tls.is_none() {
        let url = format!("http://{host}:{port}{path}");
        return [url.clone(), format!("--url {url}")];
    }
    let trust = format!("--cacert {}", folder.path("ca.pem").display());
    if here {
        let url = format!("https://{host}:{port}{path}");
        return [format!("{trust} {url}"), format!("--url {url}")];
    }
    let url = format!("https://api.example:{port}{path}");
    [
        format!("{trust} --resolve api.example:{port}:{host} {url}"),
        format!("--resolve api.example:{host} --url {url}"),
    ]
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

/// The first UDP listener before a game.
fn game(topology: &Topology) -> Option<SocketAddr> {
    topology.nlbs.iter().find_map(|nlb| {
        let listener = nlb.listeners.iter().find(|listener| {
            let health =
                listener.to().and_then(|to| to.health.as_ref()).map(|health| &health.probe);
            listener.protocol == Protocol::Udp && matches!(health, Some(Probe::Udp { .. }))
        })?;
        let mut at = listener.at.value.on(nlb.instances.first()?);
        if at.ip().is_unspecified() {
            at.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        Some(at)
    })
}

/// `token` finds the built-in stack's keys by itself.
fn folder_option(workshop: &Workshop) -> String {
    match Folder::named(None, BUILT_IN_NAME) {
        Ok(default) if default.root() == workshop.folder.root() => String::new(),
        _ => format!(" --state {}", workshop.folder.root().display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::provide::{Credential, Provided};
    use crate::up::source;
    use std::path::Path;

    fn shown(text: &str) -> Vec<String> {
        let topology = topology::parse("stack.yaml", text, Path::new("/stack")).expect("valid");
        let plan = Plan::new(&topology).expect("a plan");
        let mut provided = Provided::default();
        let known = Credential { secret: None, password: Some("pw".into()) };
        provided.credentials.insert("app".into(), known);
        let workshop = Workshop {
            folder: Folder::named(Some(Path::new("/stack")), "x").expect("absolute"),
            topology: "/stack/topology.yaml".into(),
            programs: "/bin".into(),
            postgres: None,
            provided,
            log: "info".into(),
            isolation: None,
        };
        let mut all: Vec<String> = hints(&topology, &plan, &workshop, "aqueduct")
            .into_iter()
            .map(|hint| hint.command)
            .collect();
        all.push(stand_ins(&plan));
        all
    }

    /// T1, T2: commands to paste name the stack's own ports, and stand-in ports are said aloud.
    #[test]
    fn commands_fit_the_stack() {
        let documented = shown(source::BUILT_IN);
        assert_eq!(
            documented[0],
            "curl -i -H \"Authorization: Bearer $(aqueduct token --user 98765 \
            --scope 'user:read pay' --state /stack)\" --cacert /stack/ca.pem \
            https://localhost:8443/api/user/profile"
        );
        assert!(documented[1].contains(" --expired)"), "{}", documented[1]);
        assert_eq!(
            documented[2],
            "aqueduct replay https --url https://localhost:8443/api/user/profile \
            --rate 100 --seconds 5 --state /stack"
        );
        assert!(documented[3].starts_with("PGPASSWORD=pw psql -h 127.0.0.1 -p 6432 -U app app "));
        assert!(documented[4].contains("--target 127.0.0.1:7777"), "{}", documented[4]);
        assert_eq!(documented[5], "curl -s http://127.0.0.1:9111/metrics");
        assert_eq!(documented[6], "On this machine 8443 stands for 443, 6432 stands for 5432.");
        let elsewhere = shown(&source::BUILT_IN.replace("127.0.0.1", "127.0.0.9"));
        assert!(elsewhere[0].contains("--resolve api.example:8443:127.0.0.9"), "{}", elsewhere[0]);
    }
}
