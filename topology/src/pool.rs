//! The `pools:` section resolved: what one `pgpool` instance is told, under PgBouncer's names for
//! what PgBouncer has. Not for how it is done: that is the crate `pgpool`.
//!
//! Invariant: every database has a primary, every user a name, and names are unique per group.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::model::Run;
use crate::register::Register;
use crate::telemetry::PoolTelemetry;
use crate::tls::Tls;
use crate::units::{At, DatabaseName, GroupName, InstanceName, Place, SecretRef, UserName};
use crate::upstream::UpstreamTls;

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
    /// What TLS is to clients over TCP.
    pub sslmode: SslMode,
    /// Rules of who may log in how; `None`: each user by its secret.
    pub hba: Option<At<SecretRef>>,
    /// Maps from names of the system and of certificates to roles.
    pub ident: Option<At<SecretRef>>,
    /// Processes that may share a port with each other, by their `peer-id`.
    pub peers: Vec<Peer>,
    /// Limits and times.
    pub settings: Settings,
    /// What is told of single queries.
    pub telemetry: PoolTelemetry,
    /// Where the instances are entered; `None`: nowhere.
    pub register: Option<Register>,
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
    pub listen: Vec<At<ListenAddress>>,
    /// Mode of its unix sockets' files (default 0770).
    pub socket_mode: SocketMode,
    /// Group of its unix sockets' files; `None`: the process's.
    pub socket_group: Option<String>,
    /// Its number among `peers`; its TCP ports may be shared with theirs. `None`: it has none.
    pub peer_id: Option<u8>,
    /// Admin listener; `None`: none.
    pub admin: Option<At<SocketAddr>>,
    /// What registries are told instead of where it listens.
    pub advertise: Option<SocketAddr>,
    /// Where its key stands.
    pub place: Place,
}

/// A process that cancel requests are forwarded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its `peer-id`, 1 to 127.
    pub id: u8,
    /// Where it listens and no other does.
    pub at: ServerAddress,
    /// Requests to it at a time (default `default_pool_size`).
    pub most: NonZeroU32,
}

impl Instance {
    /// The first address that others can reach by network.
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.listen.iter().find_map(|at| at.value.ip())
    }
}

/// Where clients connect. Written as `ADDRESS:PORT`, or `unix:/FOLDER:PORT` for the socket
/// `/FOLDER/.s.PGSQL.PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// By TCP.
    Ip(SocketAddr),
    /// By a socket of this host, by its folder and port.
    Unix(PathBuf, u16),
}

impl ListenAddress {
    /// The TCP address, where there is one.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(..) => None,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(folder, port) => write!(f, "unix:{}:{port}", folder.display()),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.parse()? {
            ServerAddress::Ip(address) => Ok(Self::Ip(address)),
            ServerAddress::Unix(folder, port) if port > 0 => Ok(Self::Unix(folder, port)),
            ServerAddress::Unix(..) | ServerAddress::Name(..) => Err(()),
        }
    }
}

/// Mode of a socket's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(pub u32);

impl FromStr for SocketMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.bytes().all(|b| b.is_ascii_digit()) && (3..=4).contains(&text.len());
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o777);
        mode.map(Self).ok_or(())
    }
}

/// A database as clients name it.
#[derive(Clone, Debug)]
pub struct Database {
    /// The name that clients use; `*`: every name that no other has.
    pub name: DatabaseName,
    /// The name on the server (default: the same).
    pub server_name: String,
    /// Which servers serve it.
    pub servers: Servers,
    /// More servers that do the same as its primary.
    pub also: Vec<At<ServerAddress>>,
    /// Which of these a connection goes to (default `round-robin`).
    pub order: HostOrder,
    /// Who may become the primary and how reads are spread, where there are replicas; the same for a
    /// database and its alias.
    pub replication: Option<Replication>,
    /// TLS towards its servers.
    pub tls: ServerTls,
    /// Who logs in to its servers; `None`: the client's own role.
    pub login: Option<ServerLogin>,
    /// Where roles are looked up that are not in `users`; `None`: they may not log in.
    pub lookup: Option<Lookup>,
    /// What its servers are told before anybody uses them.
    pub prelude: Prelude,
    /// When a server connection goes back to the pool.
    pub mode: PoolMode,
    /// Most server connections per user of it (default `default_pool_size`).
    pub pool_size: NonZeroU32,
    /// What holds for it in place of what holds for all.
    pub terms: DatabaseTerms,
    /// What `aqueduct up` starts; ignored by `pgpool`.
    pub run: Option<At<Run>>,
    /// Where its key stands.
    pub place: Place,
}

/// What a server is told before anybody uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prelude {
    /// Settings of its login, where the client has none of its own.
    pub settings: Vec<(String, String)>,
    /// PgBouncer's `connect_query`.
    pub query: Option<String>,
}

/// What a database has in place of what `settings` say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatabaseTerms {
    /// `pool_shards`.
    pub pool_shards: Option<NonZeroU32>,
    /// `min_pool_size`.
    pub min_pool_size: Option<u32>,
    /// `reserve_pool_size`.
    pub reserve_pool_size: Option<u32>,
    /// `max_db_connections`.
    pub max_connections: Option<u32>,
    /// `max_db_client_connections`.
    pub max_clients: Option<u32>,
    /// `server_lifetime`.
    pub server_lifetime: Option<Duration>,
}

/// What a role has in place of what its database and `settings` say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserTerms {
    /// `pool_mode`.
    pub mode: Option<PoolMode>,
    /// `pool_size`.
    pub pool_size: Option<NonZeroU32>,
    /// `reserve_pool_size`.
    pub reserve_pool_size: Option<u32>,
    /// `max_user_connections`.
    pub max_connections: Option<u32>,
    /// `max_user_client_connections`.
    pub max_clients: Option<u32>,
    /// `query_timeout`.
    pub query_timeout: Option<Duration>,
    /// `transaction_timeout`.
    pub transaction_timeout: Option<Duration>,
    /// `idle_transaction_timeout`.
    pub idle_transaction_timeout: Option<Duration>,
    /// `client_idle_timeout`.
    pub client_idle_timeout: Option<Duration>,
}

/// Who logs in to servers, whoever the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLogin {
    /// The role; `None`: the client's.
    pub user: Option<UserName>,
    /// Its password; `None`: that of the role in `users`.
    pub password: Option<At<SecretRef>>,
}

/// A query that says what a role must prove: PgBouncer's `auth_query`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Who asks: `auth_user`.
    pub user: UserName,
    /// Its password; `None`: that of the role in `users`, if it is there.
    pub password: Option<At<SecretRef>>,
    /// Which database is asked, as clients name it: `auth_dbname`; `None`: the one that the client wants.
    pub database: Option<At<DatabaseName>>,
    /// With the role as `$1`; one row of a name and a verifier (default [`LOOKUP`]).
    pub query: String,
    /// How long an answer holds (default 1 s).
    pub cache: Duration,
}

/// Roles that may log in, with NULL in place of a verifier that is valid no more. Every name in it is
/// qualified, so that no `search_path` leads it astray.
pub const LOOKUP: &str = "SELECT rolname, CASE WHEN rolvaliduntil OPERATOR(pg_catalog.<) pg_catalog.now() \
     THEN NULL ELSE rolpassword END FROM pg_catalog.pg_authid \
     WHERE rolname OPERATOR(pg_catalog.=) $1::pg_catalog.text AND rolcanlogin";

/// Where a PostgreSQL server is. Written as `ADDRESS:PORT`, `HOST:PORT`, or `unix:/FOLDER:PORT` for its
/// socket `/FOLDER/.s.PGSQL.PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerAddress {
    /// By number.
    Ip(SocketAddr),
    /// By name; looked up again every `dns_max_ttl`.
    Name(Box<str>, u16),
    /// A socket of this host, by its folder and port.
    Unix(PathBuf, u16),
}

impl ServerAddress {
    /// The number, where there is one.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Name(..) | Self::Unix(..) => None,
        }
    }

    /// Its number, name or folder.
    pub fn host(&self) -> String {
        match self {
            Self::Ip(address) => address.ip().to_string(),
            Self::Name(host, _) => host.to_string(),
            Self::Unix(folder, _) => folder.display().to_string(),
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Name(_, port) | Self::Unix(_, port) => *port,
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(folder, port) => write!(f, "unix:{}:{port}", folder.display()),
        }
    }
}

impl FromStr for ServerAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let port = port.parse().map_err(|_| ())?;
        if let Some(folder) = host.strip_prefix("unix:") {
            let lawful = folder.starts_with('/') && folder.len() < 90;
            return lawful.then(|| Self::Unix(folder.into(), port)).ok_or(());
        }
        let part = |part: &str| {
            let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            (1..=63).contains(&part.len()) && part.bytes().all(letter)
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        // Digits and dots alone are a number that went wrong.
        let number = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let lawful = host.len() <= 253 && host.split('.').all(part) && !number;
        lawful.then(|| Self::Name(host.into(), port)).ok_or(())
    }
}

/// Which servers serve a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// Reads and writes: the primary.
    Primary(At<ServerAddress>),
    /// Reads: any of these that is fit, or else the primary. Made for a database with replicas under
    /// the name of its `replica-alias` (default `NAME_ro`).
    Replicas(Vec<At<ServerAddress>>),
}

/// Which of several equal servers a new connection goes to: PgBouncer's `load_balance_hosts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostOrder {
    /// Each in its turn; one that lets nobody connect is passed over.
    RoundRobin,
    /// The same as before, until it lets nobody connect.
    Sticky,
}

/// When an instance says that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadyWhen {
    /// As soon as it listens, as PgBouncer.
    Running,
    /// While a server of one named database at least answers.
    SomeDatabase,
    /// While a server of each named database answers.
    AllDatabases,
}

/// TLS towards servers, by libpq's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Whether there is any, and what a certificate must prove (default `prefer`).
    pub mode: SslMode,
    /// How it begins (default `postgres`).
    pub negotiation: SslNegotiation,
    /// Authorities, the name that a certificate must have, and one of ours.
    pub credentials: UpstreamTls,
}

/// libpq's `sslmode`, towards servers or, the other way round, towards clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// In clear.
    Disable,
    /// In clear; encrypted where the server refuses that.
    Allow,
    /// Encrypted where the server can; over loopback where it insists.
    Prefer,
    /// Encrypted; the certificate counts only where authorities are named.
    Require,
    /// The certificate comes from one of the authorities.
    VerifyCa,
    /// And has the server's name.
    VerifyFull,
}

/// libpq's `sslnegotiation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslNegotiation {
    /// The server is asked first.
    Postgres,
    /// TLS from the first byte (PostgreSQL 17).
    Direct,
}

/// A primary and its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication {
    /// The name of the database.
    pub name: DatabaseName,
    /// The name of its replicas.
    pub alias: DatabaseName,
    /// The primary of the file, then the replicas; each may become the primary.
    pub members: Vec<ServerAddress>,
    /// Which reads of clients of the database go to a replica (default `asked`).
    pub reads: Reads,
    /// A replica that is further behind gets no reads (default 10 s).
    pub max_lag: Duration,
    /// Time between two looks at each server (default 500 ms).
    pub check_every: Duration,
}

/// Which reads of clients of a database go to one of its replicas; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reads {
    /// None: only the alias leads to replicas.
    Alias,
    /// Those for which the client says so, by `pgpool.role` or a leading comment (default).
    Asked,
    /// Transactions that begin `READ ONLY` as well.
    ReadOnly,
    /// Single statements that can be told to read alone as well.
    Automatic,
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
    /// It is looked up as who is not in the file; the entry has its terms alone.
    pub looked_up: bool,
    /// What holds for it in place of what holds for all.
    pub terms: UserTerms,
    /// Password towards servers where the secret alone cannot log in before a client has
    /// (`min_pool_size`, checks); `None`: the client's own proof is reused.
    pub server_password: Option<At<SecretRef>>,
    /// Rights on the admin database `pgbouncer`.
    pub console: Console,
    /// Where its key stands.
    pub place: Place,
}

/// How users prove themselves where no rule says it: PgBouncer's `auth_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthType {
    /// By an md5 answer; by SCRAM where the secret is a verifier.
    Md5,
    /// By SCRAM-SHA-256 alone.
    Scram,
    /// By the password itself, over TLS or on this host.
    Plain,
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

/// TCP's signs of life, towards clients and servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// `tcp_keepalive` (default yes).
    pub on: bool,
    /// `tcp_keepidle`, the silence before the first (default 1 min).
    pub idle: Duration,
    /// `tcp_keepintvl`, the time between two; `None`: the system's.
    pub interval: Option<Duration>,
    /// `tcp_keepcnt`, how many may be lost; `None`: as the system says.
    pub count: Option<u32>,
    /// `tcp_user_timeout`, how long what was sent may stay without an answer; `None`: as the system says.
    pub user_timeout: Option<Duration>,
}

/// Limits and times, PgBouncer's names and meanings.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "as PgBouncer's file says them, one by one")]
pub struct Settings {
    /// Most clients of the instance (default 1000).
    pub max_client_conn: NonZeroU32,
    /// Server connections per database and user (default 20).
    pub default_pool_size: NonZeroU32,
    /// Over how many workers the clients of one pool are spread (default 1).
    pub pool_shards: NonZeroU32,
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
    /// Most clients of one database (default 0: no bound of its own).
    pub max_db_client_connections: u32,
    /// Most clients of one user, all databases (default 0: no bound of its own).
    pub max_user_client_connections: u32,
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
    /// A transaction that takes longer is ended (default zero: never).
    pub transaction_timeout: Duration,
    /// Named prepared statements kept per server connection (default 200; 0: not in transaction
    /// mode).
    pub max_prepared_statements: u32,
    /// Bytes of their SQL kept per server connection (default 8 MiB).
    pub max_prepared_bytes: usize,
    /// Most servers of a pool that session state ties to their clients (default 0: no bound of its own).
    pub max_pinned: u32,
    /// Clients listen by way of one server connection together (default no).
    pub shared_listen: bool,
    /// Most channels of one client that listens so (default 100; 0: no bound of its own).
    pub max_listen_channels: u32,
    /// The longest pause between two tries of a server that lets nobody in (default 5 s).
    pub server_login_retry: Duration,
    /// When the instance is ready (default: while some database's servers answer).
    pub ready_when: ReadyWhen,
    /// A database whose servers have not answered for so long is away (default 10 s).
    pub server_away_after: Duration,
    /// A client that has waited so long for a server is told (default 5 s; zero: never).
    pub query_wait_notify: Duration,
    /// A cancel request takes no longer (default 10 s).
    pub cancel_wait_timeout: Duration,
    /// Asked of servers that nobody has used for `server_check_delay` (default `select 1`; empty: they
    /// are not asked).
    pub server_check_query: String,
    /// See `server_check_query` (default 30 s).
    pub server_check_delay: Duration,
    /// The server that has rested longest is used next, not the one that rested least (default no).
    pub server_round_robin: bool,
    /// In session mode a server that is to be closed is closed after the transaction (default no: when its
    /// client leaves).
    pub server_fast_close: bool,
    /// A database that `*` stands for is forgotten when nobody has used it for so long (default 1 h; zero: never).
    pub autodb_idle_timeout: Duration,
    /// How long addresses of servers' names hold (default 15 s).
    pub dns_max_ttl: Duration,
    /// How long a lookup that failed holds (default 15 s).
    pub dns_nxdomain_ttl: Duration,
    /// How a peer is noticed that has gone without a word.
    pub keepalive: Keepalive,
    /// Run in session mode when a client has left that may have left anything (default `DISCARD ALL`; empty: nothing
    /// is run for what is not known).
    pub server_reset_query: String,
    /// Whether it is run at each release in the other modes too (default no).
    pub server_reset_query_always: bool,
    /// Startup parameters that are dropped, in lower case (default none).
    pub ignore_startup_parameters: Vec<String>,
    /// How users prove themselves where no rule says it (default: as each secret can).
    pub auth_type: Option<AuthType>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        for text in ["127.0.0.1:0", "[::]:6432", "unix:/run/pgpool:6432"] {
            let read = text.parse::<ListenAddress>();
            assert_eq!(read.map(|address| address.to_string()).as_deref(), Ok(text));
        }
        for text in ["db:5432", "unix:/run:0", "unix:run:1", "6432"] {
            assert_eq!(text.parse::<ListenAddress>(), Err(()), "{text}");
        }
        assert_eq!("0777".parse(), Ok(SocketMode(0o777)));
        for text in ["77", "0888", "1777", "+777"] {
            assert_eq!(text.parse::<SocketMode>(), Err(()), "{text}");
        }
    }

    #[test]
    fn addresses_of_servers() {
        let read = |text: &str| text.parse::<ServerAddress>();
        for text in
            ["127.0.0.1:5432", "[::1]:5432", "db-1.internal:5432", "unix:/run/postgresql:5432"]
        {
            assert_eq!(read(text).map(|address| address.to_string()).as_deref(), Ok(text));
        }
        for text in
            ["db", "db:", "db:x", ":1", "1.2.3:5", "a b:5", "unix:run:5", "a..b:5", "db:70000"]
        {
            assert_eq!(read(text), Err(()), "{text}");
        }
    }
}
