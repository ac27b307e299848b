//! What has to run for a topology, and what has to be ready before what: from the model and the lists
//! that it names. Not for how anything is started (`launch`) or asked whether it is ready (`ready`). Made
//! once by `up`.
//!
//! Invariant: `after` holds indexes of parts of the same plan, and following it never leads back.

pub(crate) mod asks;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::bail;
use topology::gateway::IssuerKeys;
use topology::l4::Protocol;
use topology::model::{Dependency, Run};
use topology::pool::{Console, Servers};
use topology::units::{Place, SecretRef};
use topology::{Topology, pool};

/// Everything that one `up` starts.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In an order in which each comes after those it needs.
    pub(crate) parts: Vec<Part>,
}

/// One process.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Unique in the plan: the instance's name, or made from the service's.
    pub(crate) name: String,
    /// What it is.
    pub(crate) does: Does,
    /// Where it listens; the first is shown.
    pub(crate) listens: Vec<Listen>,
    /// Its admin listener.
    pub(crate) admin: Option<SocketAddr>,
    /// Whom it talks to at its start.
    pub(crate) needs: Vec<SocketAddr>,
    /// Whom it talks to besides, and starts without where they wait for it.
    pub(crate) asks: Vec<SocketAddr>,
    /// Which parts must be ready before it starts.
    pub(crate) after: Vec<usize>,
}

/// One port of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    /// TCP or UDP.
    pub(crate) protocol: Protocol,
    /// Where.
    pub(crate) address: SocketAddr,
    /// What it is for, in the user's words.
    pub(crate) purpose: String,
    /// Where the file says so.
    pub(crate) place: Place,
}

/// What a part is, and what its start needs to know beyond its addresses.
#[derive(Debug, Clone)]
pub(crate) enum Does {
    /// One of the three tiers.
    Tier(Tier),
    /// `demo WORDS…`.
    Demo {
        /// The subcommand and further words.
        words: Vec<String>,
        /// What it connects to.
        uses: Vec<Use>,
    },
    /// The token issuer behind a gateway's `jwks:` on this machine.
    Issuer {
        /// `iss`.
        issuer: String,
        /// `aud`.
        audience: String,
    },
    /// A PostgreSQL primary.
    Primary(Primary),
    /// A streaming replica.
    Replica {
        /// Whose.
        primary: SocketAddr,
    },
    /// A Redis.
    Redis,
}

/// A tier's binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Tier 1 and 3.
    Nlb,
    /// Tier 2.
    Gateway,
    /// Tier 3.
    Pool,
}

/// What a primary must hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Primary {
    /// Databases by their name on the server.
    pub(crate) databases: Vec<String>,
    /// Who owns the databases: the first role.
    pub(crate) roles: Vec<Role>,
}

/// One login role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Role {
    /// Its name.
    pub(crate) name: String,
    /// Where pgpool finds its secret.
    pub(crate) secret: Option<SecretRef>,
}

/// Something a demo service connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Use {
    /// As the file names it.
    pub(crate) name: String,
    /// Where it answers.
    pub(crate) to: Reach,
}

/// How a dependency is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Plain HTTP.
    Http(SocketAddr),
    /// SQL through the pooler.
    Sql {
        /// A pooler's listener.
        address: SocketAddr,
        /// As clients name it.
        database: String,
        /// Who logs in.
        role: Role,
    },
}

impl Plan {
    /// What runs for this topology, in an order that works.
    pub(crate) fn new(topology: &Topology) -> anyhow::Result<Self> {
        let mut parts = Vec::new();
        postgres(topology, &mut parts);
        redis(topology, &mut parts);
        issuers(topology, &mut parts);
        pools(topology, &mut parts);
        services(topology, &mut parts);
        gateways(topology, &mut parts);
        nlbs(topology, &mut parts);
        let after: Vec<Vec<usize>> =
            parts.iter().map(|part| listening(&part.needs, &parts)).collect();
        for (index, (part, mut after)) in parts.iter_mut().zip(after).enumerate() {
            after.retain(|other| *other != index);
            part.after = after;
        }
        ordered(parts)
    }

    /// How many steps lie before each part: parts of one level start side by side.
    pub(crate) fn levels(&self) -> Vec<usize> {
        let mut levels: Vec<usize> = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let before = part.after.iter().filter_map(|index| levels.get(*index)).max();
            levels.push(before.map_or(0, |level| level + 1));
        }
        levels
    }
}

impl Part {
    fn new(name: impl Into<String>, does: Does, listens: Vec<Listen>) -> Self {
        Self {
            name: name.into(),
            does,
            listens,
            admin: None,
            needs: Vec::new(),
            asks: Vec::new(),
            after: Vec::new(),
        }
    }

    /// The kind, as the views show it.
    pub(crate) fn kind(&self) -> &str {
        match &self.does {
            Does::Tier(tier) => tier.binary(),
            Does::Demo { words, .. } => words.first().map_or("demo", String::as_str),
            Does::Issuer { .. } => "issuer",
            Does::Primary(_) | Does::Replica { .. } => "postgres",
            Does::Redis => "redis",
        }
    }

    /// `l7-gateway gw-1`, or the name alone where it says all.
    pub(crate) fn title(&self) -> String {
        if self.kind() == self.name {
            self.name.clone()
        } else {
            format!("{} {}", self.kind(), self.name)
        }
    }

    /// The address that the views show; every part has one.
    pub(crate) fn address(&self) -> SocketAddr {
        let unspecified = || SocketAddr::from(([0, 0, 0, 0], 0));
        self.listens.first().map_or_else(unspecified, |listen| listen.address)
    }

    /// `127.0.0.1:7777/udp :8443`: all but the admin listener, a repeated host left out.
    pub(crate) fn addresses(&self) -> String {
        let mut text = String::new();
        for listen in self.listens.iter().filter(|l| Some(l.address) != self.admin) {
            if text.is_empty() {
                text = listen.to_string();
                continue;
            }
            let whole = listen.to_string();
            let host = self.address().ip();
            let port = whole.strip_prefix(&host.to_string()).unwrap_or(&whole);
            text.push_str(&format!(" {port}"));
        }
        text
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.protocol {
            Protocol::Tcp => write!(f, "{}", self.address),
            Protocol::Udp => write!(f, "{}/udp", self.address),
        }
    }
}

impl Tier {
    /// The file name of its program.
    pub(crate) fn binary(self) -> &'static str {
        match self {
            Self::Nlb => "l4-nlb",
            Self::Gateway => "l7-gateway",
            Self::Pool => "pgpool",
        }
    }
}

fn tcp(address: SocketAddr, purpose: impl Into<String>, place: Place) -> Listen {
    Listen { protocol: Protocol::Tcp, address, purpose: purpose.into(), place }
}

/// One primary per address that a database with `run: postgres` names, and its replicas.
fn postgres(topology: &Topology, parts: &mut Vec<Part>) {
    let mut primaries: BTreeMap<SocketAddr, (Primary, Place)> = BTreeMap::new();
    let mut replicas: BTreeMap<SocketAddr, (SocketAddr, Place)> = BTreeMap::new();
    for group in &topology.pools {
        for database in group.databases.iter().filter(|database| is_run(database)) {
            let Servers::Primary(at) = &database.servers else { continue };
            // The file's check allows nothing else beside `run`.
            let Some(address) = at.value.ip() else { continue };
            let (primary, _) =
                primaries.entry(address).or_insert_with(|| (Primary::default(), at.place));
            insert(&mut primary.databases, database.server_name.clone());
            for role in roles(group) {
                insert(&mut primary.roles, role);
            }
            for replica in replicas_of(group, database) {
                let Some(number) = replica.value.ip() else { continue };
                replicas.entry(number).or_insert((address, replica.place));
            }
        }
    }
    for (n, (address, (primary, place))) in primaries.into_iter().enumerate() {
        let listens = vec![tcp(address, "the PostgreSQL primary", place)];
        parts.push(Part::new(numbered("primary", n), Does::Primary(primary), listens));
    }
    for (n, (address, (primary, place))) in replicas.into_iter().enumerate() {
        let listens = vec![tcp(address, "a PostgreSQL replica", place)];
        let mut part = Part::new(numbered("replica", n), Does::Replica { primary }, listens);
        part.needs.push(primary);
        parts.push(part);
    }
}

fn is_run(database: &pool::Database) -> bool {
    database.run.as_ref().is_some_and(|run| run.value == Run::Postgres)
}

/// The addresses of the alias that stands for a database's replicas.
fn replicas_of<'a>(
    group: &'a pool::Group,
    database: &'a pool::Database,
) -> impl Iterator<Item = &'a topology::At<pool::ServerAddress>> {
    let aliases = group.databases.iter().filter(|other| other.server_name == database.server_name);
    aliases.flat_map(|alias| match &alias.servers {
        Servers::Replicas(list) => list.as_slice(),
        Servers::Primary(_) => &[],
    })
}

/// The group's roles; those that own data come first.
fn roles(group: &pool::Group) -> Vec<Role> {
    let mut users: Vec<&pool::User> = group.users.iter().collect();
    users.sort_by_key(|user| user.console != Console::No);
    let role = |user: &&pool::User| Role {
        name: user.name.as_str().to_owned(),
        secret: user.secret.as_ref().map(|secret| secret.value.clone()),
    };
    users.iter().map(role).collect()
}

/// One Redis per store on this machine that asks for no password.
fn redis(topology: &Topology, parts: &mut Vec<Part>) {
    let mut addresses: BTreeMap<SocketAddr, Place> = BTreeMap::new();
    for store in topology.gateways.iter().filter_map(|group| group.limit_store.as_ref()) {
        // Nodes of a cluster know each other: whoever has one has started it.
        if let [only] = &store.redis[..]
            && let Some(address) = local(&only.value, "redis://", 6379)
        {
            addresses.entry(address).or_insert(only.place);
        }
    }
    for (n, (address, place)) in addresses.into_iter().enumerate() {
        let listens = vec![tcp(address, "the limit store", place)];
        parts.push(Part::new(numbered("redis", n), Does::Redis, listens));
    }
}

/// One issuer per key set on this machine: of gateways, and of services that verify tokens themselves.
fn issuers(topology: &Topology, parts: &mut Vec<Part>) {
    let gateways = topology.gateways.iter().flat_map(|group| &group.issuers).filter_map(|issuer| {
        let IssuerKeys::Url(url) = &issuer.keys else { return None };
        let audience = issuer.audiences.first().cloned().unwrap_or_default();
        Some((url.value.clone(), url.place, issuer.issuer.clone(), audience))
    });
    let services = topology.services.iter().filter_map(|service| {
        let run = service.run.as_ref()?;
        let Run::Demo(words) = &run.value else { return None };
        let after = |name: &str| words.iter().skip_while(|word| *word != name).nth(1).cloned();
        // What the program takes where it is told nothing.
        let issuer = after("--issuer").unwrap_or_else(|| "https://id.example".to_owned());
        let audience = after("--audience").unwrap_or_else(|| "api".to_owned());
        Some((after("--jwks")?, run.place, issuer, audience))
    });
    let mut known: Vec<SocketAddr> = Vec::new();
    for (url, place, issuer, audience) in gateways.chain(services) {
        let Some(address) = local(&url, "http://", 80) else { continue };
        let served = topology.services.iter().flat_map(|service| &service.endpoints);
        if known.contains(&address) || served.into_iter().any(|e| e.address == address) {
            continue;
        }
        known.push(address);
        let does = Does::Issuer { issuer, audience };
        let listens = vec![tcp(address, "the token issuer", place)];
        parts.push(Part::new(numbered("issuer", known.len() - 1), does, listens));
    }
}

fn pools(topology: &Topology, parts: &mut Vec<Part>) {
    for group in &topology.pools {
        let needs: Vec<SocketAddr> = group.databases.iter().flat_map(servers).collect();
        for instance in &group.instances {
            let purpose = || format!("pgpool {}", instance.name);
            let own = instance.listen.iter().filter_map(|at| Some((at.value.ip()?, at.place)));
            let listens = own.map(|(address, place)| tcp(address, purpose(), place)).collect();
            let mut part = Part::new(instance.name.as_str(), Does::Tier(Tier::Pool), listens);
            with_admin(&mut part, instance.admin.as_ref());
            part.needs.clone_from(&needs);
            part.asks = asks::pool_asks(group);
            parts.push(part);
        }
    }
}

fn servers(database: &pool::Database) -> Vec<SocketAddr> {
    match &database.servers {
        Servers::Primary(at) => at.value.ip().into_iter().collect(),
        Servers::Replicas(list) => list.iter().filter_map(|at| at.value.ip()).collect(),
    }
}

/// One demo process per endpoint of a service with `run:`.
fn services(topology: &Topology, parts: &mut Vec<Part>) {
    for service in &topology.services {
        let Some(Run::Demo(words)) = service.run.as_ref().map(|run| &run.value) else { continue };
        let protocol = match words.first().map(String::as_str) {
            Some("game") => Protocol::Udp,
            _ => Protocol::Tcp,
        };
        let uses: Vec<Use> =
            service.uses.iter().filter_map(|used| reach(topology, &used.value)).collect();
        let needs = service.uses.iter().flat_map(|used| behind(topology, &used.value));
        let needs: Vec<SocketAddr> = needs.collect();
        for (n, endpoint) in service.endpoints.iter().enumerate() {
            let listens = vec![Listen {
                protocol,
                address: endpoint.address,
                purpose: format!("service {}", service.name),
                place: endpoint.place,
            }];
            let does = Does::Demo { words: words.clone(), uses: uses.clone() };
            let mut part = Part::new(format!("{}-{}", service.name, n + 1), does, listens);
            part.needs.clone_from(&needs);
            part.asks = asks::named_in(words);
            parts.push(part);
        }
    }
}

/// Where a service finds what it uses.
fn reach(topology: &Topology, used: &Dependency) -> Option<Use> {
    let (name, to) = match used {
        Dependency::Service(name) => {
            let service = topology.services.iter().find(|service| service.name == *name)?;
            (name.to_string(), Reach::Http(service.endpoints.first()?.address))
        }
        Dependency::Listener(group, name) => {
            let group = topology.nlbs.iter().find(|g| g.name == *group)?;
            let listener = group.listeners.iter().find(|listener| listener.name == *name)?;
            let address = listener.at.value.on(group.instances.first()?);
            (format!("{}/{name}", group.name), Reach::Http(address))
        }
        Dependency::Gateway(name) => {
            let group = topology.gateways.iter().find(|group| group.name == *name)?;
            (name.to_string(), Reach::Http(group.instances.first()?.listen.value))
        }
        Dependency::Database(group, name) => {
            let group = topology.pools.iter().find(|g| g.name == *group)?;
            let address = group.instances.first()?.tcp()?;
            let role = roles(group).into_iter().next()?;
            let sql = Reach::Sql { address, database: name.to_string(), role };
            (format!("{}/{name}", group.name), sql)
        }
    };
    Some(Use { name, to })
}

/// What must run before something that uses this: the pooler of a database, the servers behind a
/// listener (not the listener: it may also lead to who asks).
fn behind(topology: &Topology, used: &Dependency) -> Vec<SocketAddr> {
    let endpoints = |service: &topology::Service| -> Vec<SocketAddr> {
        service.endpoints.iter().map(|endpoint| endpoint.address).collect()
    };
    match used {
        Dependency::Service(name) => {
            let found = topology.services.iter().find(|service| service.name == *name);
            found.map(endpoints).unwrap_or_default()
        }
        Dependency::Listener(group, name) => {
            let groups = topology.nlbs.iter().filter(|g| g.name == *group);
            let mut listeners = groups.flat_map(|g| &g.listeners);
            let found = listeners.find(|listener| listener.name == *name);
            found
                .map(|listener| listener.services().flat_map(endpoints).collect())
                .unwrap_or_default()
        }
        Dependency::Gateway(_) => Vec::new(),
        Dependency::Database(group, _) => {
            let groups = topology.pools.iter().filter(|g| g.name == *group);
            groups.flat_map(|g| &g.instances).filter_map(pool::Instance::tcp).collect()
        }
    }
}

fn gateways(topology: &Topology, parts: &mut Vec<Part>) {
    for group in &topology.gateways {
        let needs = asks::gateway_needs(topology, group);
        for instance in &group.instances {
            let purpose = format!("gateway {}", instance.name);
            let listens = vec![tcp(instance.listen.value, purpose, instance.listen.place)];
            let mut part = Part::new(instance.name.as_str(), Does::Tier(Tier::Gateway), listens);
            with_admin(&mut part, instance.admin.as_ref());
            part.needs.clone_from(&needs);
            part.asks = asks::gateway_asks(group);
            parts.push(part);
        }
    }
}

fn nlbs(topology: &Topology, parts: &mut Vec<Part>) {
    for group in &topology.nlbs {
        let needs = asks::nlb_needs(topology, group);
        for instance in &group.instances {
            let listens = group.listeners.iter().map(|listener| Listen {
                protocol: listener.protocol,
                address: listener.at.value.on(instance),
                purpose: format!("listener {}/{} of {}", group.name, listener.name, instance.name),
                place: listener.at.place,
            });
            let does = Does::Tier(Tier::Nlb);
            let mut part = Part::new(instance.name.as_str(), does, listens.collect());
            with_admin(&mut part, instance.admin.as_ref());
            part.needs.clone_from(&needs);
            parts.push(part);
        }
    }
}

fn with_admin(part: &mut Part, admin: Option<&topology::At<SocketAddr>>) {
    let Some(admin) = admin else { return };
    part.admin = Some(admin.value);
    let purpose = format!("the admin listener of {}", part.name);
    part.listens.push(tcp(admin.value, purpose, admin.place));
}

/// Parts that listen at one of these addresses.
fn listening(at: &[SocketAddr], parts: &[Part]) -> Vec<usize> {
    let listens = |other: &Part| other.listens.iter().any(|l| at.contains(&l.address));
    let found = parts.iter().enumerate().filter(|(_, other)| listens(other));
    found.map(|(index, _)| index).collect()
}

/// Brings parts into an order in which each follows those it needs, and those it asks where that can be;
/// ties in the given order.
fn ordered(mut parts: Vec<Part>) -> anyhow::Result<Plan> {
    let asked: Vec<Vec<usize>> = parts.iter().map(|part| listening(&part.asks, &parts)).collect();
    let mut order: Vec<usize> = Vec::with_capacity(parts.len());
    while order.len() < parts.len() {
        let free = |index: &usize, wanted: &[usize]| {
            let waits = |other: &usize| other != index && !order.contains(other);
            !order.contains(index) && !wanted.iter().any(waits)
        };
        let ready = |index: &usize| free(index, &parts[*index].after);
        let all = || (0..parts.len()).filter(ready);
        let next = all().find(|index| free(index, &asked[*index])).or_else(|| all().next());
        let Some(index) = next else {
            let stuck = parts.iter().enumerate().filter(|(index, _)| !order.contains(index));
            let names: Vec<&str> = stuck.map(|(_, part)| part.name.as_str()).collect();
            bail!("these wait for each other, so that none can start first: {}", names.join(", "));
        };
        let before = asked[index].iter().filter(|other| order.contains(other)).copied();
        let before: Vec<usize> = before.collect();
        before.into_iter().for_each(|other| insert(&mut parts[index].after, other));
        order.push(index);
    }
    let position: BTreeMap<usize, usize> =
        order.iter().enumerate().map(|(position, index)| (*index, position)).collect();
    let mut sorted: Vec<(usize, Part)> = parts
        .into_iter()
        .enumerate()
        .filter_map(|(index, mut part)| {
            part.after = part.after.iter().filter_map(|i| position.get(i).copied()).collect();
            Some((*position.get(&index)?, part))
        })
        .collect();
    sorted.sort_by_key(|(position, _)| *position);
    Ok(Plan { parts: sorted.into_iter().map(|(_, part)| part).collect() })
}

/// The address of a URL on this machine's loopback; `None` when it is elsewhere, or has a user.
fn local(url: &str, scheme: &str, port: u16) -> Option<SocketAddr> {
    let authority = url.strip_prefix(scheme)?.split(['/', '?']).next()?;
    let authority = authority.replace("localhost", "127.0.0.1");
    let address = authority
        .parse::<SocketAddr>()
        .ok()
        .or_else(|| Some(SocketAddr::new(authority.parse().ok()?, port)))?;
    address.ip().is_loopback().then_some(address)
}

fn numbered(name: &str, n: usize) -> String {
    if n == 0 { name.to_owned() } else { format!("{name}-{}", n + 1) }
}

fn insert<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
