//! What one instance runs with, built from the topology file and checked against the world:
//! databases, users with their secrets read, limits, TLS. Not for connections. Built once at start,
//! shared read-only by all workers.
//!
//! Invariant: secrets are in here and nowhere else, and nothing in here prints them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::secret::{self, Missing, Secret, SecretError};
use common::tls::TlsError;
use rand::RngCore;
use tokio_rustls::TlsAcceptor;
use topology::pool::{Console, Group, Instance, PoolMode, ServerAddress, Servers, Settings};
use topology::{Place, Topology};

use crate::family::{Family, Membership, Role};
use crate::scram::{self, Verifier};
use crate::server::tls::Security;

/// Name of the admin database.
pub const CONSOLE: &str = "pgbouncer";
/// As PostgreSQL's default, for verifiers made from plain passwords.
const ITERATIONS: u32 = 4096;

/// One instance's configuration in force.
#[derive(Clone)]
pub struct Snapshot {
    /// The group's name.
    pub group: String,
    /// The instance's name.
    pub instance: String,
    /// By the name that clients use.
    pub databases: BTreeMap<String, Arc<Database>>,
    /// By name.
    pub users: BTreeMap<String, Arc<User>>,
    /// Limits and times.
    pub settings: Settings,
    /// TLS towards clients.
    pub tls: Option<TlsAcceptor>,
    /// What SCRAM-SHA-256-PLUS binds a login to (RFC 5929 §4: a hash of the certificate); `None`:
    /// it is not offered, because there is no certificate, or more than one to choose from.
    pub binding: Option<Vec<u8>>,
    /// Clients of the instance, all workers.
    pub clients: Arc<Count>,
    /// Makes the salts of users that do not exist.
    pub seed: [u8; 32],
    /// All users of a database are at home on one worker, because they share a limit. As at start:
    /// nobody moves.
    pub together: bool,
    /// Where the instance listens and where its admin listener is.
    pub addresses: (SocketAddr, Option<SocketAddr>),
}

/// A database as clients name it.
pub struct Database {
    /// The name that clients use.
    pub name: String,
    /// The name on the server.
    pub server_name: String,
    /// Where its servers are; one for a primary.
    pub servers: Vec<ServerAddress>,
    /// Whether these are replicas.
    pub is_replica: bool,
    /// Its place in a family of a primary and replicas.
    pub membership: Option<Membership>,
    /// How these are reached.
    pub security: Arc<Security>,
    /// When a server connection goes back.
    pub mode: PoolMode,
    /// Server connections per user.
    pub pool_size: u32,
    /// Server connections of all users together.
    pub connections: Arc<Count>,
}

/// Who may log in.
pub struct User {
    /// The role.
    pub name: String,
    /// What a client must prove.
    pub credential: Credential,
    /// What we prove to servers, where the credential alone does not do.
    pub server_password: Option<Secret>,
    /// Rights on the admin database.
    pub console: Console,
    /// Server connections of all databases together.
    pub connections: Arc<Count>,
}

/// What a client must prove.
pub enum Credential {
    /// Nothing.
    Trust,
    /// A SCRAM proof.
    Scram(Verifier),
    /// An md5 answer.
    Md5(String),
    /// A SCRAM proof; we know the password.
    Password(Secret, Verifier),
}

/// A bounded number that all workers share.
#[derive(Debug)]
pub struct Count {
    now: AtomicU32,
    most: AtomicU32,
}

/// One of a [`Count`]; given back when dropped.
#[derive(Debug)]
pub struct Held(Arc<Count>);

impl Count {
    /// At most `most`; 0: no bound.
    pub fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { now: AtomicU32::new(0), most: AtomicU32::new(most) })
    }

    /// The same count with another bound, or a new one: whoever is counted stays counted.
    fn again(before: Option<&Arc<Self>>, most: u32) -> Arc<Self> {
        let Some(count) = before else { return Self::new(most) };
        count.most.store(most, Ordering::Release);
        Arc::clone(count)
    }

    /// One more, unless the bound is reached.
    pub fn enter(&self) -> bool {
        let most = self.most();
        let enter = |now: u32| (most == 0 || now < most).then_some(now + 1);
        self.now.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).is_ok()
    }

    /// One less.
    pub fn leave(&self) {
        self.now.fetch_sub(1, Ordering::AcqRel);
    }

    /// How many there are.
    pub fn now(&self) -> u32 {
        self.now.load(Ordering::Acquire)
    }

    /// The bound; 0: none.
    pub fn most(&self) -> u32 {
        self.most.load(Ordering::Acquire)
    }
}

impl Held {
    /// Takes one; `None`: the bound is reached.
    pub fn enter(of: &Arc<Count>) -> Option<Self> {
        of.enter().then(|| Self(Arc::clone(of)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.leave();
    }
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
        let (group, found) = topology
            .pool(instance)
            .ok_or_else(|| SnapshotError::NoInstance(instance.to_owned()))?;
        let mut users = BTreeMap::new();
        for user in &group.users {
            let known = before.and_then(|snapshot| snapshot.users.get(user.name.as_str()));
            let read = read_user(user, &group.settings, known.map(|user| &**user))?;
            users.insert(user.name.as_str().to_owned(), Arc::new(read));
        }
        let tls = group.tls.as_ref().map(|tls| common::tls::server::config(tls, &[ALPN]));
        let binding = group.tls.as_ref().map(channel_binding).transpose()?.flatten();
        let snapshot = Self {
            binding,
            group: group.name.to_string(),
            instance: instance.to_owned(),
            databases: databases(group, before)?,
            users,
            settings: group.settings.clone(),
            tls: tls.transpose()?.map(TlsAcceptor::from),
            clients: Count::again(
                before.map(|snapshot| &snapshot.clients),
                group.settings.max_client_conn.get(),
            ),
            seed: before.map_or_else(
                || std::array::from_fn(|_| rand::rng().next_u32() as u8),
                |snapshot| snapshot.seed,
            ),
            together: before.map_or(group.settings.max_db_connections > 0, |s| s.together),
            addresses: (found.listen.value, found.admin.as_ref().map(|at| at.value)),
        };
        Ok((snapshot, group, found))
    }
}

/// PostgreSQL 17's name for itself in TLS.
const ALPN: &[u8] = b"postgresql";

/// `tls-server-end-point` of the only certificate.
fn channel_binding(tls: &topology::gateway::Tls) -> Result<Option<Vec<u8>>, TlsError> {
    let [certificate] = tls.certificates.as_slice() else { return Ok(None) };
    let loaded = common::tls::store::load(certificate)?;
    Ok(loaded.key.cert.first().and_then(|leaf| scram::end_point(leaf)))
}

type Databases = BTreeMap<String, Arc<Database>>;

fn databases(group: &Group, before: Option<&Snapshot>) -> Result<Databases, TlsError> {
    let mut families = BTreeMap::new();
    let mut read = |database: &topology::pool::Database| {
        let (servers, is_replica) = match &database.servers {
            Servers::Primary(address) => (vec![address.value.clone()], false),
            Servers::Replicas(all) => (all.iter().map(|a| a.value.clone()).collect(), true),
        };
        let known = before.and_then(|snapshot| snapshot.databases.get(database.name.as_str()));
        let security = Arc::new(Security::new(&database.tls)?);
        Ok(Arc::new(Database {
            security,
            name: database.name.to_string(),
            server_name: database.server_name.clone(),
            servers,
            is_replica,
            membership: membership(database, before, is_replica, &mut families),
            mode: database.mode,
            pool_size: database.pool_size.get(),
            connections: Count::again(
                known.map(|database| &database.connections),
                group.settings.max_db_connections,
            ),
        }))
    };
    group.databases.iter().map(|d| Ok((d.name.to_string(), read(d)?))).collect()
}

fn membership(
    database: &topology::pool::Database,
    before: Option<&Snapshot>,
    is_replica: bool,
    families: &mut BTreeMap<String, Arc<Family>>,
) -> Option<Membership> {
    let replication = database.replication.as_ref()?;
    let name = replication.name.to_string();
    let known = before.and_then(|snapshot| snapshot.databases.get(&name));
    let known = known.and_then(|database| database.membership.as_ref());
    let make = || Family::of(replication, known.map(|membership| &membership.family));
    let family = Arc::clone(families.entry(name).or_insert_with(make));
    Some(Membership {
        family,
        role: if is_replica { Role::Replica } else { Role::Primary },
        alias: replication.alias.to_string(),
        reads: replication.reads,
        max_lag: replication.max_lag,
        check_every: replication.check_every,
    })
}

fn read_user(
    user: &topology::pool::User,
    settings: &Settings,
    known: Option<&User>,
) -> Result<User, SnapshotError> {
    let name = user.name.to_string();
    let read = |reference: &topology::At<topology::SecretRef>| {
        secret::read(&reference.value).map_err(|source| SnapshotError::Secret {
            user: name.clone(),
            place: reference.place,
            source,
        })
    };
    let credential = match &user.secret {
        None => Credential::Trust,
        Some(reference) => credential(&name, reference.place, &read(reference)?)?,
    };
    let server_password = user.server_password.as_ref().map(read).transpose()?;
    Ok(User {
        credential,
        server_password,
        console: user.console,
        connections: Count::again(
            known.map(|user| &user.connections),
            settings.max_user_connections,
        ),
        name,
    })
}

fn credential(user: &str, place: Place, secret: &Secret) -> Result<Credential, SnapshotError> {
    let text = secret.as_str().map_err(|source| SnapshotError::Secret {
        user: user.to_owned(),
        place,
        source,
    })?;
    if text.is_empty() {
        return Err(SnapshotError::Empty { user: user.to_owned(), place });
    }
    if text.starts_with("SCRAM-SHA-256$") {
        let verifier = Verifier::parse(text);
        let wrong = || SnapshotError::Verifier { user: user.to_owned(), place };
        return verifier.map(Credential::Scram).ok_or_else(wrong);
    }
    let hex = text.strip_prefix("md5").filter(|hex| hex.len() == 32);
    if hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Ok(Credential::Md5(text.to_owned()));
    }
    let mut salt = [0; 16];
    rand::rng().fill_bytes(&mut salt);
    let verifier = Verifier::derive(text, &salt, ITERATIONS);
    Ok(Credential::Password(Secret::new(text.as_bytes().to_vec()), verifier))
}

impl Database {
    /// What its pools have in common with those of its alias: they are at home together.
    pub fn family_name(&self) -> &str {
        self.membership.as_ref().map_or(&self.name, |membership| membership.family.name())
    }

    /// Whether a server connection of the one would do for the other.
    pub fn reaches_as(&self, other: &Self) -> bool {
        let family = |database: &Self| {
            let membership = database.membership.as_ref();
            membership.map(|membership| (Arc::as_ptr(&membership.family), membership.role))
        };
        self.servers == other.servers
            && self.server_name == other.server_name
            && family(self) == family(other)
            && self.security.terms == other.security.terms
    }
}

impl User {
    /// Whether a server connection of the one was logged in as the other would.
    pub fn logs_in_as(&self, other: &Self) -> bool {
        let proof = |user: &Self| match &user.credential {
            Credential::Trust => String::new(),
            Credential::Md5(stored) => stored.clone(),
            Credential::Scram(verifier) => format!("{} {}", verifier.salt, verifier.iterations),
            // Its verifier is made of chance: the password counts.
            Credential::Password(secret, _) => secret.as_str().unwrap_or_default().to_owned(),
        };
        self.password() == other.password() && proof(self) == proof(other)
    }

    /// The password towards servers, where one is known.
    pub fn password(&self) -> Option<&str> {
        let own = match &self.credential {
            Credential::Password(secret, _) => Some(secret),
            _ => None,
        };
        self.server_password.as_ref().or(own)?.as_str().ok()
    }

    /// The md5 answer to a server's challenge, where hash or password are known.
    pub fn md5_answer(&self, salt: [u8; 4]) -> Option<String> {
        if let Some(password) = self.password() {
            let stored = scram::md5_hash(password.as_bytes(), &self.name);
            return Some(scram::md5_answer(&stored, salt));
        }
        match &self.credential {
            Credential::Md5(stored) => Some(scram::md5_answer(stored, salt)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact() {
        let count = Count::new(2);
        assert!(count.enter() && count.enter() && !count.enter());
        count.leave();
        assert!(count.enter());
        assert!((0..100).all(|_| Count::new(0).enter()));
    }
}
