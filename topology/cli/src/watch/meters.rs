//! Which numbers belong to a line of the picture. Not for drawing it: the page does. Called by the
//! watcher, with the same wiring that `graph` draws.
//!
//! Invariant: a line that nobody counts has no meter, rather than somebody else's.

use topology::Topology;
use topology::gateway::RouteTo;

use super::look::{Flow, Seen};
use super::roster::Instance;
use crate::graph::wiring::{End, Wiring, files_end, upstream_end};

/// Where what passes a line is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meter {
    /// A listener of the balancers whose box it is.
    Listener(String, String),
    /// Attempts of a gateway group at these services.
    Services(String, Vec<String>),
    /// Requests of a gateway group by these routes.
    Routes(String, Vec<String>),
    /// All that a group does.
    Whole(String),
    /// A database of a pool group.
    Database(String, String),
}

/// The meter of each line of the wiring, in its order.
pub(crate) fn of(topology: &Topology, wiring: &Wiring) -> Vec<Option<Meter>> {
    let meter = |line: &crate::graph::wiring::Line| match line.from.of.split_once(':')? {
        ("clients", _) => Some(entered(&line.to)),
        ("nlb" | "pool", _) => line.from.row.is_some().then(|| entered(&line.from)),
        ("gateway", name) => {
            let group = topology.gateways.iter().find(|group| group.name.as_str() == name)?;
            let of = line.from.of.clone();
            if line.to.of.starts_with("files:") {
                let leads = |to: &RouteTo| match to {
                    RouteTo::Files(files) => {
                        files_end(topology, group, *files) == Some(line.to.clone())
                    }
                    RouteTo::Service(_) | RouteTo::Given(_) | RouteTo::Aggregate(_) => false,
                };
                let routes = group.routes.iter().filter(|route| leads(&route.to));
                return Some(Meter::Routes(of, routes.map(|r| r.name.to_string()).collect()));
            }
            let ids = (0..group.upstreams.len()).map(topology::gateway::UpstreamId);
            let here = ids.filter(|id| upstream_end(topology, group, *id) == Some(line.to.clone()));
            let services = here.filter_map(|id| group.upstreams.get(id.0));
            let services: Vec<String> = services.map(|one| one.service.to_string()).collect();
            (!services.is_empty()).then_some(Meter::Services(of, services))
        }
        _ => None,
    };
    wiring.lines.iter().map(meter).collect()
}

/// What comes in at a box or at one of its rows.
fn entered(end: &End) -> Meter {
    let of = end.of.clone();
    match (&end.row, end.of.split_once(':')) {
        (Some(row), Some(("nlb", _))) => Meter::Listener(of, row.clone()),
        (Some(row), Some(("pool", _))) => Meter::Database(of, row.clone()),
        _ => Meter::Whole(of),
    }
}

impl Meter {
    /// What it reads now, over all instances of the group.
    pub(crate) fn read(&self, roster: &[Instance], seen: &[Seen]) -> Option<Flow> {
        let (Self::Listener(of, _)
        | Self::Services(of, _)
        | Self::Routes(of, _)
        | Self::Whole(of)
        | Self::Database(of, _)) = self;
        let own = roster.iter().zip(seen).filter(|(one, _)| one.of == *of);
        let flows = own.filter_map(|(_, seen)| self.one(seen));
        flows.reduce(|a, b| Flow { rate: a.rate + b.rate, unit: b.unit })
    }

    fn one(&self, seen: &Seen) -> Option<Flow> {
        match self {
            Self::Listener(_, name) => {
                let listener = seen.listeners.iter().find(|one| one.name == *name)?;
                match listener.packets {
                    // Of either kind of listener the other's counter stays at nothing.
                    Some(rate) if rate > 0.0 => Some(Flow { rate, unit: "packets" }),
                    _ => Some(Flow { rate: listener.bytes?, unit: "bytes" }),
                }
            }
            Self::Services(_, names) => {
                let own = seen.endpoints.iter().filter(|one| names.contains(&one.service));
                Some(Flow { rate: own.filter_map(|one| one.rate).sum(), unit: "requests" })
            }
            Self::Routes(_, names) => {
                let own = seen.routes.iter().filter(|one| names.contains(&one.name));
                Some(Flow { rate: own.map(|one| one.rate).sum(), unit: "requests" })
            }
            Self::Whole(_) => {
                let unit = match seen.unit? {
                    common::observe::admin::Unit::Queries => "queries",
                    common::observe::admin::Unit::Packets => "packets",
                    common::observe::admin::Unit::Connections => "connections",
                    common::observe::admin::Unit::Requests => "requests",
                };
                Some(Flow { rate: seen.rate?, unit })
            }
            Self::Database(_, name) => {
                let own = seen.pools.iter().filter(|one| one.database == *name);
                Some(Flow { rate: own.filter_map(|one| one.rate).sum(), unit: "queries" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::source;

    /// T6: of the documented stack every line between tiers is counted somewhere.
    #[test]
    fn lines_have_their_meters() {
        let topology = topology::parse("stack.yaml", source::BUILT_IN, "/stack".as_ref());
        let topology = topology.expect("valid");
        let wiring = Wiring::of(&topology);
        let meters = of(&topology, &wiring);
        let meter = |from: &str, to: &str| {
            let fits = |end: &End, name: &str| end.name() == name;
            let at = wiring.lines.iter().position(|l| fits(&l.from, from) && fits(&l.to, to));
            meters.get(at.expect("a line")).expect("one for each").clone()
        };
        let game = Meter::Listener("nlb:edge".into(), "game".into());
        assert_eq!(meter("edge/game", "game"), Some(game.clone()));
        assert_eq!(meter("udp", "edge/game"), Some(game));
        let user = Meter::Services("gateway:app".into(), vec!["user".into()]);
        assert_eq!(meter("app/internal/user", "internal/user"), Some(user));
        assert!(matches!(meter("app/static", "static"), Some(Meter::Routes(_, r)) if r.len() == 1));
        assert_eq!(meter("user", "data/app"), None, "the pooler does not know by whom");
    }
}
