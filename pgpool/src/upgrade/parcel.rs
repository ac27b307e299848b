//! A client as it travels to another process: all that must be the same there, as values. Not for its
//! socket, which comes beside it, and not for building a session of it: that is `client::moving`. Written by
//! the old process, read by the new one.
//!
//! Invariant: what [`read`] lets through keeps every bound that a client has which logs in, whatever the
//! bytes were; and nobody packs what it would not let through.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pgpool_wire::startup;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::client::source::Source;
use crate::prepared::{MOST_CLIENT_BYTES, MOST_CLIENT_NAMES};
use crate::scram::{Keys, MOST_ITERATIONS};
use crate::snapshot::Credential;
use crate::variables::{Value, is_name};

/// Settings of one client: its own bound, and what servers report beside.
const MOST_SETTINGS: usize = 128;
/// The longest value or statement of a setting.
const LONGEST_SETTING: usize = 64 << 10;
/// The longest name of a database, user or application; a startup packet has no more.
const LONGEST_NAME: usize = startup::LONGEST;

/// A client on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parcel {
    /// What it takes for its server's process id.
    pub pid: u32,
    /// Proves that a cancel request comes from it.
    pub secret: Octets,
    /// As it named it.
    pub database: String,
    /// As it named it; it has proved to be it.
    pub user: String,
    /// What it calls itself.
    pub application: String,
    /// From where.
    pub source: Whence,
    /// When it came, in microseconds since 1970.
    pub connected: u64,
    /// Settings as they were after its login.
    pub initial: Vec<Setting>,
    /// Settings as they are.
    pub variables: Vec<Setting>,
    /// Prepared statements by the names that it has given.
    pub named: Vec<(Octets, Prepared)>,
    /// The unnamed statement.
    pub unnamed: Option<Prepared>,
    /// It may have written where its reads have to find it.
    pub wrote: bool,
    /// What its login has shown, with which the pooler logs in to servers.
    pub proof: Option<Proof>,
    /// What it had to prove, if that was looked up: a verifier or a hash.
    pub learned: Option<Hidden>,
}

/// From where a client comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whence {
    /// By TCP.
    Ip(SocketAddr),
    /// By a socket of this host: user, process, port.
    Unix(u32, i32, u16),
}

/// A setting, and how it is made again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting(pub String, pub Means);

/// How a setting is made again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Means {
    /// By its value, as a server reports it.
    Reported(String),
    /// By its value, as the client asked for it.
    Is(String),
    /// By the statement that made it.
    Statement(String),
}

/// A prepared statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// Query, its zero byte and the parameter types, as in Parse.
    pub rest: Octets,
    /// The settings under which it was parsed; `None`: it is nobody else's.
    pub terms: Option<u64>,
}

/// What a SCRAM login has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// Of the verifier.
    pub salt: String,
    /// Of the verifier.
    pub iterations: u32,
    /// The client's key and the server's.
    pub keys: Hidden,
}

/// Bytes; in base64 as they travel.
#[derive(Clone, PartialEq, Eq)]
pub struct Octets(pub Vec<u8>);

/// A text that nobody prints.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hidden(pub String);

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        BASE64.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl From<Source> for Whence {
    fn from(source: Source) -> Self {
        match source {
            Source::Ip(address) => Self::Ip(address),
            Source::Unix { uid, pid, port } => Self::Unix(uid, pid, port),
        }
    }
}

impl Whence {
    /// The same for the data path.
    pub fn source(&self) -> Source {
        match *self {
            Self::Ip(address) => Source::Ip(address),
            Self::Unix(uid, pid, port) => Source::Unix { uid, pid, port },
        }
    }
}

impl Setting {
    /// As a session has it.
    pub fn of(name: &str, value: &Value) -> Self {
        let means = match value {
            Value::Reported(value) => Means::Reported(value.to_string()),
            Value::Is(value) => Means::Is(value.to_string()),
            Value::Statement(statement) => Means::Statement(statement.to_string()),
        };
        Self(name.to_owned(), means)
    }

    /// The same for the data path.
    pub fn value(&self) -> Value {
        match &self.1 {
            Means::Reported(value) => Value::Reported(value.as_str().into()),
            Means::Is(value) => Value::Is(value.as_str().into()),
            Means::Statement(statement) => Value::Statement(statement.as_str().into()),
        }
    }

    fn is_lawful(&self) -> bool {
        let (Means::Reported(text) | Means::Is(text) | Means::Statement(text)) = &self.1;
        // The name goes into SQL as it is.
        let name = is_name(&self.0) && !self.0.contains(|letter: char| letter.is_uppercase());
        name && is_text(text, LONGEST_SETTING)
    }
}

impl Prepared {
    /// Its SQL.
    pub fn sql(&self) -> &[u8] {
        self.rest.0.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Exactly a text, the number of its types, and as many (manual, "Message Formats", Parse).
    fn is_lawful(&self) -> bool {
        let types = self.rest.0.get(self.sql().len() + 1..);
        let types = types.and_then(|types| types.split_first_chunk::<2>());
        types.is_some_and(|(count, types)| {
            types.len() == usize::from(u16::from_be_bytes(*count)) * 4
        })
    }
}

impl Proof {
    /// The keys.
    pub fn keys(&self) -> Option<Keys> {
        Keys::from_text(&self.keys.0)
    }

    fn is_lawful(&self) -> bool {
        let salt = is_text(&self.salt, LONGEST_NAME) && BASE64.decode(&self.salt).is_ok();
        salt && (1..=MOST_ITERATIONS).contains(&self.iterations) && self.keys().is_some()
    }
}

impl Parcel {
    /// Whether it keeps the bounds of a client that logs in.
    pub fn is_lawful(&self) -> bool {
        let names = [&self.database, &self.user, &self.application];
        let settings = [&self.initial, &self.variables];
        let learned = self.learned.as_ref().is_none_or(|it| Credential::kept(&it.0).is_some());
        self.pid != 0
            && (4..=startup::LONGEST_SECRET).contains(&self.secret.0.len())
            && names.iter().all(|name| is_text(name, LONGEST_NAME))
            && settings
                .iter()
                .all(|all| all.len() <= MOST_SETTINGS && all.iter().all(Setting::is_lawful))
            && self.are_statements_lawful()
            && self.proof.as_ref().is_none_or(Proof::is_lawful)
            && learned
    }

    fn are_statements_lawful(&self) -> bool {
        let mut seen = HashSet::new();
        let bytes = |all: usize, (name, it): &(Octets, Prepared)| {
            all.saturating_add(name.0.len()).saturating_add(it.rest.0.len())
        };
        self.named.len() <= MOST_CLIENT_NAMES
            && self.named.iter().fold(0, bytes) <= MOST_CLIENT_BYTES
            && self.unnamed.iter().all(|it| it.rest.0.len() <= MOST_CLIENT_BYTES)
            && self.named.iter().all(|(name, it)| {
                !name.0.is_empty() && !name.0.contains(&0) && it.is_lawful() && seen.insert(&name.0)
            })
            && self.unnamed.iter().all(Prepared::is_lawful)
    }
}

/// A parcel that keeps its bounds; `None`: anything else.
pub fn read(text: &[u8]) -> Option<Parcel> {
    serde_json::from_slice(text).ok().filter(Parcel::is_lawful)
}

fn is_text(text: &str, longest: usize) -> bool {
    text.len() <= longest && !text.contains('\0')
}

#[cfg(test)]
mod tests;
