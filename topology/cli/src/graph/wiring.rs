//! Who connects to whom, as boxes with rows and lines between rows. Not for where they stand in a
//! picture: that is `layout`. Made from the resolved file, read by all formats.
//!
//! Invariant: both ends of every line are in a box that is there.

mod asked;
mod cut;
mod routes;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use topology::Topology;
use topology::gateway::{self, FilesId, RouteTo, UpstreamId};
use topology::l4;
use topology::model::Dependency;
use topology::pool::{self, Servers};

use self::routes::Rows;

/// The whole picture.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wiring {
    pub boxes: Vec<Box>,
    pub lines: Vec<Line>,
}

/// One group, service or outside system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Box {
    /// Unique: its kind and its name in the file.
    pub id: String,
    pub column: Column,
    pub title: String,
    /// What it is and how many: `l7-gateway · gw-1, gw-2`.
    pub what: String,
    pub rows: Vec<Row>,
    pub mark: Mark,
}

/// A part of a box that lines can begin or end at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Unique in its box.
    pub id: String,
    pub text: String,
    pub mark: Mark,
}

/// A connection that the file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub from: End,
    pub to: End,
    pub mark: Mark,
}

/// A box, or one of its rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct End {
    pub of: String,
    pub row: Option<String>,
}

/// From left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Column {
    Clients,
    Edge,
    Gateway,
    /// Gateways behind gateways.
    Inner,
    Internal,
    Service,
    Pool,
    Database,
}

/// What a change of the file does to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mark {
    #[default]
    Same,
    Added,
    Removed,
}

/// More rows than this are summed up in the last one.
const ROWS: usize = 12;

impl Wiring {
    /// What the file wires, as it is drawn.
    pub(crate) fn of(topology: &Topology) -> Self {
        Self::whole(topology).cut()
    }

    /// The same with every row.
    pub(crate) fn whole(topology: &Topology) -> Self {
        let mut wiring = Self::default();
        wiring.balancers(topology);
        topology.gateways.iter().for_each(|group| wiring.gateway(topology, group));
        wiring.services(topology);
        topology.pools.iter().for_each(|group| wiring.pool(topology, group));
        wiring.clients();
        wiring.settle();
        wiring
    }

    /// The box of a name.
    pub(crate) fn find(&self, id: &str) -> Option<&Box> {
        self.boxes.iter().find(|one| one.id == id)
    }

    fn push(&mut self, id: &str, column: Column, title: &str, what: String, rows: Vec<Row>) {
        if self.find(id).is_none() {
            let (id, title) = (id.to_owned(), title.to_owned());
            self.boxes.push(Box { id, column, title, what, rows, mark: Mark::Same });
        }
    }

    fn join(&mut self, from: End, to: End) {
        let line = Line { from, to, mark: Mark::Same };
        if !self.lines.contains(&line) {
            self.lines.push(line);
        }
    }

    fn balancers(&mut self, topology: &Topology) {
        for group in &topology.nlbs {
            let id = format!("nlb:{}", group.name);
            let rows = group.listeners.iter().map(listener_row).collect();
            let names = group.instances.iter().map(|i| i.name.as_str());
            // Which of the two columns is known once all lines are: see `settle`.
            let column = Column::Edge;
            self.push(&id, column, group.name.as_str(), named("l4-nlb", names), rows);
            for listener in &group.listeners {
                for service in listener.services() {
                    let name = service.name.as_str();
                    let gateway = topology.gateways.iter().any(|g| g.name.as_str() == name);
                    let to = if gateway { "gateway" } else { "service" };
                    let from = End::row(&id, listener.name.as_str());
                    self.join(from, End::whole(&format!("{to}:{name}")));
                }
            }
            self.asked_by_nlb(topology, &id, group);
        }
    }

    fn gateway(&mut self, topology: &Topology, group: &gateway::Group) {
        let id = format!("gateway:{}", group.name);
        let names = group.instances.iter().map(|i| i.name.as_str());
        let mut rows = Rows::default();
        let mut ends = Vec::new();
        for route in &group.routes {
            let targets = route
                .to
                .service()
                .into_iter()
                .chain(route.split.iter().map(|part| part.to))
                .chain(route.mirror.iter().map(|mirror| mirror.to))
                .chain(called(group, route.to));
            let mut to: Vec<End> =
                targets.filter_map(|id| upstream_end(topology, group, id)).collect();
            if let RouteTo::Files(files) = route.to {
                to.extend(files_end(topology, group, files));
            }
            // Routes that lead to the same place share a row.
            let row = to.iter().map(End::name).collect::<Vec<_>>().join(" ");
            rows.add(&row, route);
            ends.extend(to.into_iter().map(|to| (End::row(&id, &row), to)));
        }
        let what = named("l7-gateway", names);
        self.push(&id, Column::Gateway, group.name.as_str(), what, rows.done());
        for files in &group.files {
            let directory = relative(topology, files);
            let id = format!("files:{directory}");
            self.push(&id, Column::Internal, &directory, "files".to_owned(), Vec::new());
        }
        ends.into_iter().for_each(|(from, to)| self.join(from, to));
        self.asked(topology, &id, group);
    }

    fn services(&mut self, topology: &Topology) {
        for service in &topology.services {
            let id = format!("service:{}", service.name);
            let rows = match &service.discover {
                Some(_) => vec![Row::new("", "discovered")],
                None => {
                    let addresses = service.endpoints.iter().map(|e| e.address.to_string());
                    addresses.map(|address| Row::new(&address, &address)).collect()
                }
            };
            self.push(&id, Column::Service, service.name.as_str(), "service".to_owned(), rows);
            for used in &service.uses {
                self.join(End::whole(&id), used_end(&used.value));
            }
        }
    }

    fn pool(&mut self, topology: &Topology, group: &pool::Group) {
        let id = format!("pool:{}", group.name);
        let servers = format!("servers:{}", group.name);
        let names = group.instances.iter().map(|i| i.name.as_str());
        let rows = group.databases.iter().map(|database| {
            let text = format!("{}  {} per user", database.name, database.pool_size);
            Row::new(database.name.as_str(), &text)
        });
        self.push(&id, Column::Pool, group.name.as_str(), named("pgpool", names), rows.collect());
        let mut rows: Vec<Row> = Vec::new();
        for database in &group.databases {
            let (role, addresses) = match &database.servers {
                Servers::Primary(at) => ("primary", std::slice::from_ref(at)),
                Servers::Replicas(list) => ("replica", list.as_slice()),
            };
            for address in addresses.iter().chain(&database.also).map(|at| at.value.to_string()) {
                if rows.iter().all(|row| row.id != address) {
                    rows.push(Row::new(&address, &format!("{role}  {address}")));
                }
                self.join(End::row(&id, database.name.as_str()), End::row(&servers, &address));
            }
        }
        let title = group.name.as_str();
        self.push(&servers, Column::Database, title, "PostgreSQL".to_owned(), rows);
        self.asked_by_pool(topology, &id, group);
    }

    /// Whatever nobody inside connects to is there for clients.
    fn clients(&mut self) {
        let reached: BTreeSet<&End> = self.lines.iter().map(|line| &line.to).collect();
        let mut open = Vec::new();
        for one in &self.boxes {
            let (udp, whole) = (|row: &Row| row.text.contains(" udp "), End::whole(&one.id));
            match one.id.split_once(':') {
                Some(("nlb", _)) => {
                    let rows = one.rows.iter().map(|row| (udp(row), End::row(&one.id, &row.id)));
                    open.extend(rows.filter(|(_, end)| !reached.contains(end)));
                }
                Some(("gateway", _)) if !reached.contains(&whole) => open.push((false, whole)),
                Some(("pool", _)) if !reached.iter().any(|end| end.of == one.id) => {
                    open.push((false, whole));
                }
                _ => {}
            }
        }
        for (udp, to) in open {
            let (id, title) = if udp { ("clients:udp", "UDP") } else { ("clients:tcp", "TCP") };
            self.push(id, Column::Clients, title, "clients".to_owned(), Vec::new());
            self.join(End::whole(id), to);
        }
    }

    /// Balancers whom clients do not reach stand right of the gateways, and gateways that gateways lead
    /// to between them; lines that lead nowhere (a file of one tier alone) get a box.
    fn settle(&mut self) {
        let lines = self.lines.clone();
        let by = |id: &str, kind: &str| {
            lines.iter().any(|l| l.to.of == id && l.from.of != id && l.from.of.starts_with(kind))
        };
        for one in &mut self.boxes {
            if one.id.starts_with("nlb:") && !by(&one.id, "clients:") {
                one.column = Column::Internal;
            }
            if one.id.starts_with("gateway:") && by(&one.id, "gateway:") {
                one.column = Column::Inner;
            }
        }
        for end in lines.iter().map(|line| &line.to) {
            let title = end.of.split_once(':').map_or("", |(_, name)| name);
            self.push(&end.of, Column::Service, title, "elsewhere".to_owned(), Vec::new());
        }
    }
}

impl Row {
    fn new(id: &str, text: &str) -> Self {
        Self { id: id.to_owned(), text: text.to_owned(), mark: Mark::Same }
    }
}

impl End {
    /// A box.
    pub(crate) fn whole(of: &str) -> Self {
        Self { of: of.to_owned(), row: None }
    }

    /// A row of a box.
    pub(crate) fn row(of: &str, row: &str) -> Self {
        Self { of: of.to_owned(), row: Some(row.to_owned()) }
    }

    fn is_at(&self, row: &Row) -> bool {
        self.row.as_deref() == Some(row.id.as_str())
    }

    pub(crate) fn name(&self) -> String {
        let of = self.of.split_once(':').map_or(self.of.as_str(), |(_, name)| name);
        self.row.iter().fold(of.to_owned(), |of, row| format!("{of}/{row}"))
    }
}

fn listener_row(listener: &l4::Listener) -> Row {
    let protocol = match listener.protocol {
        l4::Protocol::Tcp => "tcp",
        l4::Protocol::Udp => "udp",
    };
    let at = listener.at.value.to_string();
    Row::new(listener.name.as_str(), &format!("{}  {protocol} {at}", listener.name))
}

/// `l4-nlb · nlb-1, nlb-2`, or their number where they are many.
fn named<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.len() {
        0..=3 => format!("{what} · {}", names.join(", ")),
        n => format!("{what} × {n}"),
    }
}

/// Where a route's service is: the listener of a balancer in between, a gateway group that stands as one,
/// else the service itself.
pub(crate) fn upstream_end(
    topology: &Topology,
    group: &gateway::Group,
    id: UpstreamId,
) -> Option<End> {
    let upstream = group.upstreams.get(id.0)?;
    let first = upstream.endpoints.first();
    let balancer = match upstream.via {
        gateway::Via::Balancer => first.and_then(|e| listener_at(topology, e.address)),
        gateway::Via::Endpoints => None,
    };
    let name = upstream.service.as_str();
    let gateway = topology.gateways.iter().any(|group| group.name.as_str() == name);
    let kind = if gateway { "gateway" } else { "service" };
    Some(balancer.unwrap_or_else(|| End::whole(&format!("{kind}:{name}"))))
}

/// The listener of a balancer that is at this address.
fn listener_at(topology: &Topology, address: SocketAddr) -> Option<End> {
    topology.nlbs.iter().find_map(|nlb| {
        let on = |listener: &&l4::Listener| {
            nlb.instances.iter().any(|one| listener.at.value.on(one) == address)
        };
        let listener = nlb.listeners.iter().find(on)?;
        Some(End::row(&format!("nlb:{}", nlb.name), listener.name.as_str()))
    })
}

fn used_end(used: &Dependency) -> End {
    match used {
        Dependency::Service(name) => End::whole(&format!("service:{name}")),
        Dependency::Gateway(name) => End::whole(&format!("gateway:{name}")),
        Dependency::Listener(group, name) => End::row(&format!("nlb:{group}"), name.as_str()),
        Dependency::Database(group, name) => End::row(&format!("pool:{group}"), name.as_str()),
    }
}

/// Whom the calls of an aggregate ask.
fn called(group: &gateway::Group, to: RouteTo) -> impl Iterator<Item = gateway::UpstreamId> {
    let all = match to {
        RouteTo::Aggregate(id) => group.aggregates.get(id.0),
        RouteTo::Service(_) | RouteTo::Files(_) | RouteTo::Given(_) => None,
    };
    all.into_iter().flat_map(|all| &all.calls).map(|call| call.to)
}

/// The box of a folder of files.
pub(crate) fn files_end(topology: &Topology, group: &gateway::Group, id: FilesId) -> Option<End> {
    let files = group.files.get(id.0)?;
    Some(End::whole(&format!("files:{}", relative(topology, files))))
}

/// A directory as the file names it.
fn relative(topology: &Topology, files: &gateway::Files) -> String {
    let directory = &files.directory.value;
    let short = directory.strip_prefix(&topology.source.folder).unwrap_or(directory);
    short.display().to_string()
}

#[cfg(test)]
mod tests;
