//! Who may call, resolved: API keys, the denylist, and the ways in which a caller says who it is. Not token issuers,
//! which are in `gateway`.
//!
//! Invariant: an `ApiKeysId` is an index into the group's sources of keys.

use std::path::PathBuf;
use std::time::Duration;

use crate::expression::Expression;
use crate::gateway::{IssuerId, Unplaced};
use crate::units::{ApiKeysName, At, Place, Scope, SecretRef};

/// Who may call a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// `none`: nobody is asked; a token that comes passes untouched (plain L7 mode).
    None,
    /// Whoever says who it is in one of these ways.
    Asked(Ways),
}

/// Ways to say who one is; one is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// A token of one of these issuers.
    pub issuers: Vec<IssuerId>,
    /// A key of one of these sources.
    pub api_keys: Vec<ApiKeysId>,
    /// The verified client certificate.
    pub certificate: Certified,
}

/// Whether a verified client certificate is enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Certified {
    /// It is.
    Enough,
    /// It is not.
    #[default]
    NotEnough,
}

/// Stage 4: who may do what on a route; what one rule allows is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// For these methods, upper case; empty: all.
    pub methods: Vec<String>,
    /// To who has all of these.
    pub scopes: Vec<Scope>,
    /// And one of these; empty: whoever.
    pub roles: Vec<String>,
    /// And of whom this is true.
    pub when: Option<Expression>,
}

/// What holds where a route has neither scopes nor rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Whoever is identified as the route asks may do all (default).
    #[default]
    Allow,
    /// Nobody may do anything.
    Deny,
}

/// Stage 3: one source of API keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeys {
    /// Its name in the file.
    pub name: ApiKeysName,
    /// The header that holds a key, lower case.
    pub header: Option<String>,
    /// The query parameter that holds a key.
    pub query: Option<String>,
    /// Where it is written whose a key is.
    pub from: KeySource,
    /// How long what a store said of a key is believed (default 30 s).
    pub keep: Duration,
    /// Where its key stands.
    pub place: Place,
}

/// Index into [`Group::api_keys`](crate::gateway::Group::api_keys).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApiKeysId(pub usize);

/// Where keys are written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `file:PATH`: one JSON object per line, read at start and with the file.
    File(At<PathBuf>),
    /// `redis(s)://HOST:PORT[/DB]`.
    Redis(At<String>, Login),
    /// `postgres://USER@HOST:PORT/DATABASE`.
    Postgres(At<String>, Login, PostgresTls),
}

/// Who we are to a store, and whose word counts for who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// Our name there; PostgreSQL's is in its address.
    pub user: Option<String>,
    /// What proves it.
    pub password: Option<At<SecretRef>>,
    /// Authorities of its certificate, PEM; `None`: the system's.
    pub ca: Option<At<SecretRef>>,
}

impl Unplaced for Login {
    fn unplaced(&self) -> Self {
        let bare = |at: &Option<At<SecretRef>>| at.as_ref().map(Unplaced::unplaced);
        Self { user: self.user.clone(), password: bare(&self.password), ca: bare(&self.ca) }
    }
}

/// Whether PostgreSQL is spoken to over TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PostgresTls {
    /// It is not.
    #[default]
    Disable,
    /// It is, by the name of its address and an authority's word, or not at all.
    VerifyFull,
}

impl KeySource {
    /// Where it is named.
    pub fn place(&self) -> Place {
        match self {
            Self::File(at) => at.place,
            Self::Redis(at, _) | Self::Postgres(at, ..) => at.place,
        }
    }
}

impl Unplaced for ApiKeys {
    fn unplaced(&self) -> Self {
        let from = match &self.from {
            KeySource::File(at) => KeySource::File(at.unplaced()),
            KeySource::Redis(at, login) => KeySource::Redis(at.unplaced(), login.unplaced()),
            KeySource::Postgres(at, login, tls) => {
                KeySource::Postgres(at.unplaced(), login.unplaced(), *tls)
            }
        };
        Self { from, place: Place::default(), ..self.clone() }
    }
}

/// Stage 3: tokens and keys that ended before their time, shared through Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denylist {
    /// `redis(s)://HOST:PORT[/DB]`.
    pub redis: At<String>,
    /// Who we are to it.
    pub login: Login,
    /// How long the last list is believed while Redis is away (default 1 h).
    pub longest_stale: Duration,
}

impl Unplaced for Denylist {
    fn unplaced(&self) -> Self {
        Self { redis: self.redis.unplaced(), login: self.login.unplaced(), ..self.clone() }
    }
}

/// What services are told of a caller beside `X-User-Id`, each in a header of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// `X-Scopes`, with spaces in between.
    Scopes,
    /// `X-User-Roles`, with spaces in between.
    Roles,
    /// `X-User-Issuer`: the issuer's name in the file.
    Issuer,
    /// `X-Consumer`.
    Consumer,
    /// `X-Consumer-Plan`.
    Plan,
    /// `X-Client-Principal`.
    Principal,
    /// `X-User-Claim-NAME`.
    Claim(String),
}

/// Stage 5: a cookie that names a client's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceCookie {
    /// Secrets of at least 32 characters, one per line; the first signs, all verify.
    pub key: At<SecretRef>,
    /// Its name (default `__Host-device`).
    pub name: String,
    /// How long a client keeps it (default 365 d).
    pub lifetime: Duration,
}

impl Unplaced for DeviceCookie {
    fn unplaced(&self) -> Self {
        Self { key: self.key.unplaced(), ..self.clone() }
    }
}

/// Stage 7: a short-lived proof that this group's gateways spoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIdentity {
    /// Secrets of at least 32 characters, one per line; the first signs.
    pub key: At<SecretRef>,
    /// How long a proof is good (default 30 s).
    pub lifetime: Duration,
}

/// Stage 4: who is asked over HTTP whether a request may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorize {
    /// `http(s)://HOST[:PORT]/PATH`.
    pub url: At<String>,
    /// How long an answer may take (default 200 ms).
    pub timeout: Duration,
    /// What happens where there is none.
    pub when_away: UnansweredIs,
    /// Headers of the request that are passed on to it, lower case.
    pub headers: Vec<String>,
    /// Headers of its answer that are passed on to the service, lower case.
    pub answer_headers: Vec<String>,
}

/// What happens to a request of which nobody says whether it may go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnansweredIs {
    /// It is 503 (default).
    #[default]
    Refused,
    /// It goes on.
    Allowed,
}

/// How an issuer is asked about tokens (RFC 7662).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introspection {
    /// `http(s)://HOST[:PORT]/PATH`.
    pub url: At<String>,
    /// Who we are to it.
    pub client: String,
    /// What proves that.
    pub secret: At<SecretRef>,
    /// How long an answer is believed, within the token's `exp` (default 30 s).
    pub keep: Duration,
    /// How long an answer may take (default 1 s).
    pub timeout: Duration,
}
