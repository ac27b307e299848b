//! Who may log in, and what a role must prove: the users of the file, and roles that were looked up. Not for
//! asking: that is `lookup`. Kept by the snapshot.
//!
//! Invariant: of a role that was looked up a verifier or a hash is kept, never a password.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::secret::{self, Secret};
use rand::RngCore;
use topology::Place;
use topology::pool::{Console, Settings};

use super::{Count, SnapshotError};
use crate::scram::{self, Verifier};

/// As PostgreSQL's default, for verifiers made from plain passwords.
const ITERATIONS: u32 = 4096;

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

pub(super) fn credential(
    user: &str,
    place: Place,
    secret: &Secret,
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
    if text.starts_with("SCRAM-SHA-256$") {
        return Credential::stored(text).ok_or_else(wrong);
    }
    match Credential::stored(text).ok_or_else(wrong)? {
        // The file has the password itself, which logs in everywhere.
        Credential::Scram(verifier) => {
            Ok(Credential::Password(Secret::new(text.as_bytes().to_vec()), verifier))
        }
        other => Ok(other),
    }
}

/// A lookup as the file has it.
pub(super) fn lookup(
    said: &topology::pool::Lookup,
    users: &BTreeMap<String, Arc<User>>,
    former: Option<&Lookup>,
    most: u32,
) -> Result<Lookup, SnapshotError> {
    let name = said.user.to_string();
    let secret = |at: &topology::At<topology::SecretRef>| {
        let fault = |source| SnapshotError::Secret { user: name.clone(), place: at.place, source };
        secret::read(&at.value).map_err(fault)
    };
    let password = said.password.as_ref().map(secret).transpose()?;
    let known = users.get(&name);
    let former = former.filter(|former| former.user.name == name).map(|former| &former.user);
    let user = match (known, password) {
        (Some(user), None) => Arc::clone(user),
        (known, password) => {
            let count = match known {
                Some(user) => Arc::clone(&user.connections),
                None => Count::again(former.map(|user| &user.connections), most),
            };
            Arc::new(User::at_server(&name, password, count))
        }
    };
    Ok(Lookup {
        user,
        database: said.database.as_ref().map(|at| at.value.to_string()),
        query: said.query.clone(),
        cache: said.cache,
    })
}

/// Roles that were looked up, by database and name. None is in here that has not proved to be it, so
/// that nobody fills it with names of his invention.
#[derive(Default)]
pub(super) struct Learned(Mutex<BTreeMap<(String, String), Arc<User>>>);

/// Roles beyond which those are forgotten that nobody uses.
const MOST_LEARNED: usize = 10_000;

impl Learned {
    pub(super) fn get(&self, database: &str, role: &str) -> Option<Arc<User>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&(database.to_owned(), role.to_owned())).cloned()
    }

    pub(super) fn keep(&self, database: &str, role: &str, credential: Credential, most: u32) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_LEARNED {
            all.retain(|_, user| Arc::strong_count(user) > 1 || user.connections.now() > 0);
        }
        // One limit for a role, whatever the database.
        let same = all.iter().find(|((_, name), _)| name == role);
        let connections =
            same.map_or_else(|| Count::new(most), |(_, user)| user.connections.clone());
        let fresh = User {
            name: role.to_owned(),
            credential,
            server_password: None,
            console: Console::No,
            connections,
        };
        let key = (database.to_owned(), role.to_owned());
        if !all.get(&key).is_some_and(|known| known.logs_in_as(&fresh)) {
            all.insert(key, Arc::new(fresh));
        }
    }

    /// Another bound for each.
    pub(super) fn bound(&self, most: u32) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for user in all.values() {
            Count::again(Some(&user.connections), most);
        }
    }
}

impl Credential {
    /// What a server has stored for a role; `None`: it begins like a verifier and is none. Of a plain
    /// password a verifier is made, which takes milliseconds: not on a worker.
    pub fn stored(text: &str) -> Option<Self> {
        if text.starts_with("SCRAM-SHA-256$") {
            return Verifier::parse(text).map(Self::Scram);
        }
        let hex = text.strip_prefix("md5").filter(|hex| hex.len() == 32);
        if hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Some(Self::Md5(text.to_owned()));
        }
        Some(Self::Scram(derived(text)))
    }
}

fn derived(password: &str) -> Verifier {
    let mut salt = [0; 16];
    rand::rng().fill_bytes(&mut salt);
    Verifier::derive(password, &salt, ITERATIONS)
}

impl User {
    /// A role as servers know it; no client can prove to be it.
    pub(super) fn at_server(name: &str, password: Option<Secret>, connections: Arc<Count>) -> Self {
        Self {
            name: name.to_owned(),
            credential: Credential::Trust,
            server_password: password,
            console: Console::No,
            connections,
        }
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
