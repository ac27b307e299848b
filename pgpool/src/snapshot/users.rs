//! Who may log in, and what a role must prove: the users of the file, and roles that were looked up. Not for
//! asking: that is `lookup`. Kept by the snapshot.
//!
//! Invariant: of a role that was looked up is kept what the lookup has given, a password only where it has given
//! nothing else, in memory that is wiped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::secret::{self, Secret};
use rand::RngCore;
use topology::pool::{Console, Group, UserTerms};
use topology::{Form, Place};

use super::strangers::Iterations;
use super::{Bounds, Count, Database, Held, Snapshot, SnapshotError};
use crate::pool::PERIOD;
use crate::scram::{self, Verifier};

/// As PostgreSQL's default, for verifiers made from plain passwords.
pub(super) const ITERATIONS: u32 = 4096;

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
    /// What is counted of it, and what holds for it alone.
    pub standing: Standing,
}

/// What is counted of a role in all databases together, and what holds for it alone.
#[derive(Clone)]
pub struct Standing {
    /// Server connections.
    pub connections: Arc<Count>,
    /// Clients.
    pub clients: Arc<Count>,
    /// What holds for it in place of what holds for all.
    pub terms: UserTerms,
}

/// Standings by role: of those in the file, of those who log in to servers, and of those who were
/// looked up and have proved to be it. A role keeps its counts from one configuration to the next.
#[derive(Clone, Default)]
pub(super) struct Standings {
    counts: Arc<Mutex<BTreeMap<String, Counts>>>,
    terms: Arc<BTreeMap<String, UserTerms>>,
    /// Bounds of who has none of its own.
    most: (u32, u32),
}

/// Server connections and clients.
type Counts = (Arc<Count>, Arc<Count>);

/// Roles and databases beyond which those are forgotten that nobody uses.
const MOST_LEARNED: usize = 10_000;

impl Standings {
    pub(super) fn new(group: &Group, before: Option<&Self>, all: &mut Bounds) -> Self {
        let terms = group.users.iter().map(|user| (user.name.to_string(), user.terms));
        let settings = &group.settings;
        let standings = Self {
            counts: before.map_or_else(Default::default, |before| Arc::clone(&before.counts)),
            terms: Arc::new(terms.collect()),
            most: (settings.max_user_connections, settings.max_user_client_connections),
        };
        for (role, counts) in &*standings.lock() {
            let (connections, clients) = standings.bounds(role);
            all.again(Some(&counts.0), connections);
            all.again(Some(&counts.1), clients);
        }
        standings
    }

    pub(super) fn of(&self, role: &str) -> Standing {
        let mut all = self.lock();
        if all.len() >= MOST_LEARNED && !all.contains_key(role) {
            all.retain(|_, counts| Arc::strong_count(&counts.0) > 1 || counts.1.now() > 0);
        }
        let (connections, clients) = all.entry(role.to_owned()).or_insert_with(|| {
            let (connections, clients) = self.bounds(role);
            (Count::new(connections), Count::new(clients))
        });
        Standing {
            connections: Arc::clone(connections),
            clients: Arc::clone(clients),
            terms: self.terms.get(role).copied().unwrap_or_default(),
        }
    }

    fn bounds(&self, role: &str) -> (u32, u32) {
        let terms = self.terms.get(role).copied().unwrap_or_default();
        let (connections, clients) = self.most;
        (terms.max_connections.unwrap_or(connections), terms.max_clients.unwrap_or(clients))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Counts>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client must prove.
#[derive(Clone)]
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

/// Where roles are looked up.
pub struct Lookup {
    /// Who asks.
    pub user: Arc<User>,
    /// Which database is asked; `None`: the one that the client wants.
    pub database: Option<String>,
    /// With the role as `$1`.
    pub query: String,
    /// How long an answer holds.
    pub cache: Duration,
}

pub(super) fn read_user(
    user: &topology::pool::User,
    standings: &Standings,
    seed: &[u8; 32],
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
        Some(reference) => credential(&name, reference.place, &read(reference)?, seed)?,
    };
    let server_password = user.server_password.as_ref().map(read).transpose()?;
    Ok(User {
        credential,
        server_password,
        console: user.console,
        standing: standings.of(&name),
        name,
    })
}

pub(super) fn credential(
    user: &str,
    place: Place,
    secret: &Secret,
    seed: &[u8; 32],
) -> Result<Credential, SnapshotError> {
    let text = secret.as_str().map_err(|source| SnapshotError::Secret {
        user: user.to_owned(),
        place,
        source,
    })?;
    if text.is_empty() {
        return Err(SnapshotError::Empty { user: user.to_owned(), place });
    }
    let wrong = || SnapshotError::Verifier { user: user.to_owned(), place };
    Credential::stored(text, scram::salt_of(seed, user.as_bytes())).ok_or_else(wrong)
}

/// A lookup as the file has it.
pub(super) fn lookup(
    said: &topology::pool::Lookup,
    users: &BTreeMap<String, Arc<User>>,
    standings: &Standings,
) -> Result<Lookup, SnapshotError> {
    let name = said.user.to_string();
    let secret = |at: &topology::At<topology::SecretRef>| {
        let fault = |source| SnapshotError::Secret { user: name.clone(), place: at.place, source };
        secret::read(&at.value).map_err(fault)
    };
    let password = said.password.as_ref().map(secret).transpose()?;
    let user = match (users.get(&name), password) {
        (Some(user), None) => Arc::clone(user),
        (_, password) => Arc::new(User::at_server(&name, password, standings.of(&name))),
    };
    Ok(Lookup {
        user,
        database: said.database.as_ref().map(|at| at.value.to_string()),
        query: said.query.clone(),
        cache: said.cache,
    })
}

/// What roles must prove that were looked up, by database and name. None is in here that has not proved
/// to be it, so that nobody fills it with names of his invention.
#[derive(Default)]
pub(super) struct Learned(Mutex<Proved>);

#[derive(Default)]
struct Proved {
    all: BTreeMap<(String, String), Credential>,
    iterations: Iterations,
}

impl Learned {
    pub(super) fn get(&self, database: &str, role: &str) -> Option<Credential> {
        self.lock().all.get(&(database.to_owned(), role.to_owned())).cloned()
    }

    pub(super) fn keep(
        &self,
        database: &str,
        role: &str,
        credential: Credential,
        standings: &Standings,
    ) {
        let Proved { all, iterations } = &mut *self.lock();
        if all.len() >= MOST_LEARNED {
            all.retain(|(_, role), _| {
                let standing = standings.of(role);
                standing.clients.now() > 0 || standing.connections.now() > 0
            });
            *iterations = Iterations::of(all.values());
        }
        iterations.add(&credential);
        let before = all.insert((database.to_owned(), role.to_owned()), credential);
        before.iter().for_each(|before| iterations.take_away(before));
    }

    fn lock(&self) -> MutexGuard<'_, Proved> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Snapshot {
    /// Who logs in to a database's servers for a client of this name.
    pub fn role<'a>(&'a self, database: &str, user: &'a str) -> &'a str {
        let database = self.databases.get(database).or(self.any.as_ref());
        let login = database.and_then(|database| database.login.as_ref());
        login.map_or(user, |login| login.name.as_str())
    }

    /// Who logs in to a database's servers, whoever the client is.
    pub fn forced(database: &Database) -> Option<&str> {
        database.login.as_ref().map(|login| login.name.as_str())
    }

    /// How long averages look back.
    pub fn period(&self) -> Duration {
        match &self.source.form {
            Form::PgBouncer(process) => Duration::from_secs(process.stats_period.into()),
            Form::Topology => PERIOD,
        }
    }

    /// What a role had to prove that was looked up and has proved it.
    pub fn learned(&self, database: &str, role: &str) -> Option<Credential> {
        self.learned.get(database, role)
    }

    /// What a name is asked with that nobody has: keys are those of chance, and what is told of them could be
    /// somebody's.
    pub fn stranger(&self, name: &str) -> Verifier {
        let mut chance = [0; 32];
        rand::rng().fill_bytes(&mut chance);
        let all = self.iterations.clone().with(&self.learned.lock().iterations);
        Verifier::of_chance(name.as_bytes(), &self.seed, chance, |lot| all.drawn(lot))
    }

    /// Places for a client that had them in another process, whatever the bounds.
    pub fn readmit(&self, database: &Database, role: &str) -> (Held, Held) {
        (Held::keep(&database.clients), Held::keep(&self.standings.of(role).clients))
    }
}

impl Credential {
    /// What [`Credential::kept`] reads back, of a role that was looked up.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Scram(verifier) => Some(verifier.text()),
            Self::Md5(hash) => Some(hash.clone()),
            Self::Trust | Self::Password(..) => None,
        }
    }

    /// A verifier or a hash, as servers store it; `None`: anything else.
    pub fn kept(text: &str) -> Option<Self> {
        if text.starts_with("SCRAM-SHA-256$") {
            return Verifier::parse(text).map(Self::Scram);
        }
        let hex = text.strip_prefix("md5").filter(|hex| hex.len() == 32);
        let hash = hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        hash.then(|| Self::Md5(text.to_owned()))
    }

    /// What a server, or the file, has stored for a role; `None`: it begins like a verifier and is none. A plain
    /// password logs in everywhere, and a verifier is made of it with this salt, which takes milliseconds: not on a
    /// worker.
    pub fn stored(text: &str, salt: [u8; 16]) -> Option<Self> {
        if text.starts_with("SCRAM-SHA-256$") {
            return Self::kept(text);
        }
        let password = || {
            let verifier = Verifier::derive(text, &salt, ITERATIONS);
            Self::Password(Secret::new(text.as_bytes().to_vec()), verifier)
        };
        Some(Self::kept(text).unwrap_or_else(password))
    }
}

impl User {
    /// A role as servers know it; no client can prove to be it.
    pub(super) fn at_server(name: &str, password: Option<Secret>, standing: Standing) -> Self {
        Self {
            name: name.to_owned(),
            credential: Credential::Trust,
            server_password: password,
            console: Console::No,
            standing,
        }
    }

    /// One that was looked up.
    pub(super) fn learned(name: &str, credential: Credential, standing: Standing) -> Self {
        Self { credential, ..Self::at_server(name, None, standing) }
    }

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
