//! What one instance runs with, built from the topology file and checked against the world:
//! databases, users with their secrets read, limits, TLS. Not for connections. Built once at start,
//! shared read-only by all workers.
//!
//! Invariant: secrets are in here and nowhere else, and nothing in here prints them.

mod admission;
mod count;
mod database;
mod families;
mod strangers;
mod users;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use common::secret::{self, Missing, SecretError};
use common::tls::TlsError;
use rand::RngCore;
use tokio_rustls::TlsAcceptor;
use topology::pool::{Group, Instance, ListenAddress, ServerAddress, Servers, Settings, SslMode};
use topology::telemetry::PoolTelemetry;
use topology::{Place, SourceFile, Topology};

use admission::admission;
use count::Bounds;
pub use count::{Beside, Count, Held};
pub use database::Database;
use families::Families;
use strangers::Iterations;
pub use users::{Credential, Lookup, Standing, User};
use users::{Learned, Standings, lookup, read_user};

use crate::family::marks::Marks;
use crate::fatal::Refusal;
use crate::hba::{Maps, Rules};
use crate::names::Names;
use crate::pool::whole::Wholes;
use crate::readiness::Readiness;
use crate::scram;
use crate::server::tls::Security;

/// Name of the admin database.
pub const CONSOLE: &str = "pgbouncer";

/// One instance's configuration in force.
#[derive(Clone)]
pub struct Snapshot {
    /// The group's name.
    pub group: String,
    /// The instance's name.
    pub instance: String,
    /// By the name that clients use.
    pub databases: BTreeMap<String, Arc<Database>>,
    /// What every other name stands for.
    any: Option<Arc<Database>>,
    /// Databases that clients have named and that this stands for.
    found: Arc<Mutex<BTreeMap<String, Arc<Database>>>>,
    /// By name.
    pub users: BTreeMap<String, Arc<User>>,
    /// Of their verifiers.
    iterations: Iterations,
    /// Who was looked up and has proved to be it.
    learned: Arc<Learned>,
    standings: Standings,
    /// What pools have that is spread over workers.
    pub wholes: Arc<Wholes>,
    /// Where names of servers lead.
    pub names: Arc<Names>,
    /// Which databases' servers answer.
    pub readiness: Arc<Readiness>,
    /// Limits and times.
    pub settings: Settings,
    /// What is told of single queries.
    pub telemetry: PoolTelemetry,
    /// TLS towards clients.
    pub tls: Option<TlsAcceptor>,
    /// What TLS is to clients by TCP.
    pub sslmode: SslMode,
    /// Rules of who may log in how; `None`: each user by its secret.
    pub rules: Option<Rules>,
    /// From names of the system and of certificates to roles.
    pub maps: Maps,
    /// What an operator should know of the files that were read.
    pub notes: Vec<String>,
    /// As whom this process runs.
    pub uid: u32,
    /// What SCRAM-SHA-256-PLUS binds a login to (RFC 5929 §4: a hash of the certificate); `None`:
    /// it is not offered, because there is no certificate, or more than one to choose from.
    pub binding: Option<Vec<u8>>,
    /// Clients of the instance, all workers.
    pub clients: Arc<Count>,
    /// Makes the salts of plain passwords and of users that do not exist.
    pub seed: [u8; 32],
    /// Its own number among its peers; 0: it has none. As at start: clients have been told.
    pub peer_id: u8,
    /// Where cancel requests of others' clients go.
    pub peers: BTreeMap<u8, Peer>,
    /// All users of a database are at home on one worker, because they share a limit. As at start:
    /// nobody moves.
    pub together: bool,
    /// The newest timelines that were ever seen.
    pub marks: Arc<Marks>,
    /// Where the instance listens and where its admin listener is.
    pub addresses: (Vec<ListenAddress>, Option<SocketAddr>),
    /// What it was read from.
    pub source: Arc<SourceFile>,
}

/// A process that shares a port with this one.
#[derive(Clone)]
pub struct Peer {
    /// Where it alone listens.
    pub at: ServerAddress,
    /// Cancel requests on their way to it.
    pub requests: Arc<Count>,
}

/// Why a configuration that reads well cannot run.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No such instance.
    #[error("the topology file has no pool instance {0:?}")]
    NoInstance(String),
    /// A secret cannot be read or is none.
    #[error("secret of user {user:?}: {source}")]
    Secret {
        /// Whose.
        user: String,
        /// Where it is named.
        place: Place,
        /// Why.
        source: SecretError,
    },
    /// What admin listeners ask for cannot be read.
    #[error(transparent)]
    Admin(#[from] Missing),
    /// A secret is empty.
    #[error(
        "the secret of user {user:?} is empty: write a SCRAM verifier, an md5 hash or a password"
    )]
    Empty {
        /// Whose.
        user: String,
        /// Where it is named.
        place: Place,
    },
    /// A SCRAM verifier that is none.
    #[error(
        "the secret of user {user:?} begins like a SCRAM verifier and is none: copy rolpassword from pg_authid as it is"
    )]
    Verifier {
        /// Whose.
        user: String,
        /// Where it is named.
        place: Place,
    },
    /// Rules cannot be read.
    #[error("{reference}: {what}")]
    Rules {
        /// Where they are.
        reference: String,
        /// Where that is named.
        place: Place,
        /// What is wrong with them.
        what: String,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl SnapshotError {
    /// Where the reference stands that is at fault.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::NoInstance(_) => None,
            Self::Secret { place, .. }
            | Self::Empty { place, .. }
            | Self::Rules { place, .. }
            | Self::Verifier { place, .. } => Some(*place),
            Self::Tls(fault) => Some(fault.place()),
            Self::Admin(fault) => Some(fault.place),
        }
    }
}

impl Snapshot {
    /// Reads what the file names. Blocking: for start and reload.
    ///
    /// # Errors
    /// With the place of the reference that is at fault.
    pub fn build<'t>(
        topology: &'t Topology,
        instance: &str,
        before: Option<&Self>,
    ) -> Result<(Self, &'t Group, &'t Instance), SnapshotError> {
        let (group, instance_of) = topology
            .pool(instance)
            .ok_or_else(|| SnapshotError::NoInstance(instance.to_owned()))?;
        let mut bounds = Bounds::default();
        let known = before.map(|snapshot| &snapshot.standings);
        let standings = Standings::new(group, known, &mut bounds);
        let fresh = || std::array::from_fn(|_| rand::rng().next_u32() as u8);
        let seed = before.map_or_else(fresh, |snapshot| snapshot.seed);
        let mut users = BTreeMap::new();
        for user in &group.users {
            if user.looked_up {
                continue;
            }
            let read = read_user(user, &standings, &seed)?;
            users.insert(user.name.as_str().to_owned(), Arc::new(read));
        }
        let offered = group.tls.as_ref().filter(|_| group.sslmode > SslMode::Disable);
        let tls = offered.map(|tls| common::tls::server::config(tls, &[ALPN]));
        let binding = offered.map(channel_binding).transpose()?.flatten();
        let marks = before.map_or_else(Arc::default, |snapshot| Arc::clone(&snapshot.marks));
        let families = Families::new(&marks);
        let kept = (families, &mut bounds);
        let (databases, any) = databases(group, (&users, &standings), before, kept)?;
        let learned = before.map_or_else(Default::default, |snapshot| snapshot.learned.clone());
        let mut found = before.map(Self::found).unwrap_or_default();
        found.retain(|name, _| any.is_some() && !databases.contains_key(name));
        for ((name, known), any) in found.iter_mut().zip(any.iter().cycle()) {
            let counts = any.counts(known, &mut bounds);
            *known = Arc::new(any.named(name, counts));
        }
        let (rules, maps, notes) = admission(topology, group)?;
        let snapshot = Self {
            any,
            found: Arc::new(Mutex::new(found)),
            sslmode: group.sslmode,
            rules,
            maps,
            notes,
            uid: nix::unistd::geteuid().as_raw(),
            binding,
            group: group.name.to_string(),
            instance: instance.to_owned(),
            databases,
            iterations: Iterations::of(users.values().map(|user| &user.credential)),
            users,
            learned,
            standings,
            wholes: before.map_or_else(Arc::default, |snapshot| Arc::clone(&snapshot.wholes)),
            names: before.map_or_else(Arc::default, |snapshot| Arc::clone(&snapshot.names)),
            readiness: before.map_or_else(Arc::default, |snapshot| Arc::clone(&snapshot.readiness)),
            settings: group.settings.clone(),
            telemetry: group.telemetry.clone(),
            tls: tls.transpose()?.map(TlsAcceptor::from),
            clients: bounds.again(
                before.map(|snapshot| &snapshot.clients),
                group.settings.max_client_conn.get(),
            ),
            seed,
            peer_id: before.map_or(instance_of.peer_id.unwrap_or(0), |snapshot| snapshot.peer_id),
            peers: peers(group, before, &mut bounds),
            together: before.map_or_else(|| shares(group), |snapshot| snapshot.together),
            marks,
            addresses: (
                instance_of.listen.iter().map(|at| at.value.clone()).collect(),
                instance_of.admin.as_ref().map(|at| at.value),
            ),
            source: Arc::clone(&topology.source),
        };
        bounds.hold();
        Ok((snapshot, group, instance_of))
    }

    /// The database that a client means by a name.
    pub fn database(&self, name: &str) -> Option<Arc<Database>> {
        if let Some(database) = self.databases.get(name) {
            return Some(Arc::clone(database));
        }
        let any = self.any.as_ref()?;
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = found.get(name) {
            return Some(Arc::clone(database));
        }
        if found.len() >= MOST_FOUND {
            // Nobody uses them.
            found.retain(|_, database| Arc::strong_count(database) > 1 || !database.is_deserted());
        }
        let counts = (Count::new(any.connections.most()), Count::new(any.clients.most()));
        let database = Arc::new(any.named(name, counts));
        found.insert(name.to_owned(), Arc::clone(&database));
        Some(database)
    }

    /// Whether a database has this name, without making one.
    pub fn knows(&self, name: &str) -> bool {
        self.databases.contains_key(name) || self.found().contains_key(name)
    }

    /// All databases that have a name.
    pub fn all_databases(&self) -> Vec<Arc<Database>> {
        let mut all: Vec<_> = self.databases.values().cloned().collect();
        all.extend(self.found().into_values());
        all
    }

    /// Whether `*` stands for databases that are not in the file.
    pub fn has_any(&self) -> bool {
        self.any.is_some()
    }

    /// Whether `*` stands for this database.
    pub fn is_found(&self, name: &str) -> bool {
        !self.databases.contains_key(name)
    }

    /// Forgets databases that `*` has stood for and that no pool and no client has, but for those that something else
    /// `keeps`.
    pub fn forget_found(&self, keeps: impl Fn(&str) -> bool) {
        if self.any.is_some() {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            let used = |one: &Arc<Database>| Arc::strong_count(one) > 1 || !one.is_deserted();
            found.retain(|name, database| used(database) || keeps(name));
        }
    }

    fn found(&self) -> BTreeMap<String, Arc<Database>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Over how many workers a pool of a database is spread.
    pub fn shards(&self, database: &str) -> usize {
        let database = self.databases.get(database).or(self.any.as_ref());
        let own = database.and_then(|database| database.terms.pool_shards);
        own.unwrap_or(self.settings.pool_shards).get() as usize
    }

    /// What is proved to a database's servers by a role.
    pub fn server_user(&self, database: &Database, role: &str) -> Option<Arc<User>> {
        if let Some(login) = &database.login {
            return Some(Arc::clone(login));
        }
        let user = self.client_user(database, role)?;
        Some(match &database.password {
            Some(password) => {
                let standing = user.standing.clone();
                Arc::new(User::at_server(role, Some(password.clone()), standing))
            }
            None => user,
        })
    }

    /// A role that has logged in as a client: of the file, or looked up.
    fn client_user(&self, database: &Database, role: &str) -> Option<Arc<User>> {
        if let Some(user) = self.users.get(role) {
            return Some(Arc::clone(user));
        }
        database.lookup.as_ref()?;
        let credential = self.learned.get(&database.name, role)?;
        Some(Arc::new(User::learned(role, credential, self.standings.of(role))))
    }

    /// Places for a client of a database among those of its database and user.
    ///
    /// # Errors
    /// One of the two has too many.
    pub fn admit(&self, database: &Database, role: &str) -> Result<(Held, Held), Refusal> {
        let full = |limit, count: &Count| Refusal::TooManyOf(limit, count.most());
        let clients = &self.standings.of(role).clients;
        Ok((
            Held::enter(&database.clients)
                .ok_or_else(|| full("max_db_client_connections", &database.clients))?,
            Held::enter(clients).ok_or_else(|| full("max_user_client_connections", clients))?,
        ))
    }

    /// Where a role is looked up that wants a database, if it is not among the users.
    pub fn lookup(&self, database: &str, role: &str) -> Option<Arc<Lookup>> {
        if self.users.contains_key(role) {
            return None;
        }
        self.databases.get(database).or(self.any.as_ref())?.lookup.clone()
    }

    /// The lookup by which a role asks a database.
    pub fn asking(&self, database: &str, role: &str) -> Option<Arc<Lookup>> {
        let all =
            self.databases.values().chain(&self.any).filter_map(|d| Some((d, d.lookup.as_ref()?)));
        let asks = |(one, lookup): &(&Arc<Database>, &Arc<Lookup>)| {
            let own = one.name == ANY || one.name == database;
            lookup.user.name == role && lookup.database.as_deref().map_or(own, |d| d == database)
        };
        all.into_iter().find(asks).map(|(_, lookup)| Arc::clone(lookup))
    }

    /// Keeps a role that was looked up and has proved to be it.
    pub fn learn(&self, database: &str, role: &str, credential: Credential) {
        self.learned.keep(database, role, credential, &self.standings);
    }
}

/// Databases that clients have named, beyond which unused ones are forgotten.
const MOST_FOUND: usize = 1000;
/// The name that stands for every other.
const ANY: &str = "*";

/// PostgreSQL 17's name for itself in TLS.
pub const ALPN: &[u8] = b"postgresql";

/// `tls-server-end-point` of the only certificate.
fn channel_binding(tls: &topology::gateway::Tls) -> Result<Option<Vec<u8>>, TlsError> {
    let [certificate] = tls.certificates.as_slice() else { return Ok(None) };
    let loaded = common::tls::store::load(certificate)?;
    Ok(loaded.key.cert.first().and_then(|leaf| scram::end_point(leaf)))
}

type Databases = (BTreeMap<String, Arc<Database>>, Option<Arc<Database>>);

fn peers(group: &Group, before: Option<&Snapshot>, bounds: &mut Bounds) -> BTreeMap<u8, Peer> {
    let mut peer = |said: &topology::pool::Peer| {
        let known = before.and_then(|snapshot| snapshot.peers.get(&said.id));
        let requests = bounds.again(known.map(|peer| &peer.requests), said.most.get());
        (said.id, Peer { at: said.at.clone(), requests })
    };
    group.peers.iter().map(&mut peer).collect()
}

/// Whether users of a database share a limit on server connections.
fn shares(group: &Group) -> bool {
    let most = group.settings.max_db_connections;
    let bounds = |database: &topology::pool::Database| database.terms.max_connections;
    group.databases.iter().any(|database| bounds(database).unwrap_or(most) > 0)
}

/// What clients may name, and what stands for every other name.
fn databases(
    group: &Group,
    (users, standings): (&BTreeMap<String, Arc<User>>, &Standings),
    before: Option<&Snapshot>,
    (mut families, bounds): (Families, &mut Bounds),
) -> Result<Databases, SnapshotError> {
    let (mut all, mut any) = (BTreeMap::new(), None);
    for database in &group.databases {
        let name = database.name.to_string();
        let kept = (&mut families, &mut *bounds);
        let mut read = read_database(database, &group.settings, before, kept)?;
        if let Some(said) = &database.lookup {
            read.lookup = Some(Arc::new(lookup(said, users, standings)?));
        }
        if let Some(login) = &database.login {
            let secret = |at: &topology::At<topology::SecretRef>| {
                secret::read(&at.value).map_err(|source| SnapshotError::Secret {
                    user: format!("of database {name}"),
                    place: at.place,
                    source,
                })
            };
            let password = login.password.as_ref().map(secret).transpose()?;
            match &login.user {
                Some(role) => {
                    // Databases that log in as the same role share its limit.
                    let standing = || standings.of(role.as_str());
                    read.login = Some(match (users.get(role.as_str()), password) {
                        (Some(user), None) => Arc::clone(user),
                        (_, password) => {
                            Arc::new(User::at_server(role.as_str(), password, standing()))
                        }
                    });
                }
                None => read.password = password,
            }
        }
        if name == ANY {
            any = Some(Arc::new(read));
        } else {
            all.insert(name, Arc::new(read));
        }
    }
    Ok((all, any))
}

fn read_database(
    database: &topology::pool::Database,
    settings: &Settings,
    before: Option<&Snapshot>,
    (families, bounds): (&mut Families, &mut Bounds),
) -> Result<Database, TlsError> {
    let (servers, is_replica) = match &database.servers {
        Servers::Primary(address) => {
            let all = std::iter::once(address).chain(&database.also);
            (all.map(|at| at.value.clone()).collect(), false)
        }
        Servers::Replicas(all) => (all.iter().map(|a| a.value.clone()).collect(), true),
    };
    let name = database.name.as_str();
    let known = before.filter(|snapshot| snapshot.knows(name));
    let known = known.and_then(|snapshot| snapshot.database(name));
    Ok(Database {
        security: Arc::new(Security::new(&database.tls)?),
        name: name.to_owned(),
        server_name: database.server_name.clone(),
        servers,
        order: database.order,
        is_replica,
        membership: families.membership(database, before, is_replica),
        prelude: Arc::new(database.prelude.clone()),
        mode: database.mode,
        pool_size: database.pool_size.get(),
        most_per_user: u32::MAX,
        terms: database.terms,
        sign: known.as_ref().map_or_else(Arc::default, |database| Arc::clone(&database.sign)),
        connections: bounds.again(
            known.as_ref().map(|database| &database.connections),
            database.terms.max_connections.unwrap_or(settings.max_db_connections),
        ),
        clients: bounds.again(
            known.as_ref().map(|database| &database.clients),
            database.terms.max_clients.unwrap_or(settings.max_db_client_connections),
        ),
        login: None,
        password: None,
        lookup: None,
    })
}
