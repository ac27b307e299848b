//! The `pools:` section resolved: what one `pgpool` instance is told, under PgBouncer's names for
//! what PgBouncer has. Not for how it is done: that is the crate `pgpool`.
//!
//! Invariant: every database has a primary, every user a name, and names are unique per group.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::model::Run;
use crate::tls::Tls;
use crate::units::{At, DatabaseName, GroupName, InstanceName, Place, SecretRef, UserName};

/// Poolers for the same databases.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name in the file.
    pub name: GroupName,
    /// The processes.
    pub instances: Vec<Instance>,
    /// What clients may name; a replica alias is an entry of its own.
    pub databases: Vec<Database>,
    /// Who may log in.
    pub users: Vec<User>,
    /// TLS towards clients; `None`: `SSLRequest` is answered `N`.
    pub tls: Option<Tls>,
    /// Limits and times.
    pub settings: Settings,
    /// How long a drain may take before what is left is ended (default 30 s).
    pub drain: Duration,
    /// Where its key stands.
    pub place: Place,
}

/// One `pgpool` process.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Unique in the file.
    pub name: InstanceName,
    /// Where it listens.
    pub listen: At<SocketAddr>,
    /// Admin listener; `None`: none.
    pub admin: Option<At<SocketAddr>>,
    /// Where its key stands.
    pub place: Place,
}

/// A database as clients name it.
#[derive(Clone, Debug)]
pub struct Database {
    /// The name that clients use.
    pub name: DatabaseName,
    /// The name on the server (default: the same).
    pub server_name: String,
    /// Which servers serve it.
    pub servers: Servers,
    /// When a server connection goes back to the pool.
    pub mode: PoolMode,
    /// Most server connections per user of it (default `default_pool_size`).
    pub pool_size: NonZeroU32,
    /// What `aqueduct up` starts; ignored by `pgpool`.
    pub run: Option<At<Run>>,
    /// Where its key stands.
    pub place: Place,
}

/// Which servers serve a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// Reads and writes: the primary.
    Primary(At<SocketAddr>),
    /// Reads alone: any of these. Made for a database with replicas under the name of its
    /// `replica-alias` (default `NAME_ro`).
    Replicas(Vec<At<SocketAddr>>),
}

/// When a server connection goes back to its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolMode {
    /// When the client leaves.
    Session,
    /// When the transaction ends (default).
    Transaction,
    /// After each statement; transactions of several statements are refused.
    Statement,
}

/// Who may log in.
#[derive(Clone, Debug)]
pub struct User {
    /// The role, the same towards clients and servers.
    pub name: UserName,
    /// A SCRAM-SHA-256 verifier, an md5 hash or a password; `None`: trust, which is a warning.
    pub secret: Option<At<SecretRef>>,
    /// Password towards servers where the secret alone cannot log in before a client has
    /// (`min_pool_size`, checks); `None`: the client's own proof is reused.
    pub server_password: Option<At<SecretRef>>,
    /// Rights on the admin database `pgbouncer`.
    pub console: Console,
    /// Where its key stands.
    pub place: Place,
}

/// Rights on the admin database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// None (default).
    No,
    /// `SHOW` alone.
    Stats,
    /// All commands.
    Admin,
}

/// Limits and times, PgBouncer's names and meanings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Most clients of the instance (default 1000).
    pub max_client_conn: NonZeroU32,
    /// Server connections per database and user (default 20).
    pub default_pool_size: NonZeroU32,
    /// Kept open when nobody needs them (default 0).
    pub min_pool_size: u32,
    /// Extra ones for clients that waited `reserve_pool_timeout` (default 0).
    pub reserve_pool_size: u32,
    /// When the reserve opens (default 5 s).
    pub reserve_pool_timeout: Duration,
    /// Most server connections of one database, all users (default 0: no bound of its own).
    pub max_db_connections: u32,
    /// Most server connections of one user, all databases (default 0: no bound of its own).
    pub max_user_connections: u32,
    /// How long a query waits for a server connection (default 120 s; zero: for ever).
    pub query_wait_timeout: Duration,
    /// An unused server connection is closed after it (default 10 min).
    pub server_idle_timeout: Duration,
    /// A server connection is closed after it, when unused (default 1 h).
    pub server_lifetime: Duration,
    /// Connecting and logging in to a server (default 15 s).
    pub server_connect_timeout: Duration,
    /// Logging in as a client (default 60 s).
    pub client_login_timeout: Duration,
    /// A client without a query is closed after it (default zero: never).
    pub client_idle_timeout: Duration,
    /// A client idle inside a transaction is closed after it (default zero: never).
    pub idle_transaction_timeout: Duration,
    /// A query that takes longer is cancelled (default zero: never).
    pub query_timeout: Duration,
    /// Named prepared statements kept per server connection (default 200; 0: not in transaction
    /// mode).
    pub max_prepared_statements: u32,
    /// Run when a used server connection changes hands in session mode (default `DISCARD ALL`).
    pub server_reset_query: String,
}
