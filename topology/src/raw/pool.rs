//! The `pools:` section as typed.
//!
//! Invariant: none beyond `raw`'s.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use crate::pool::{
    AuthType, Console, HostOrder, ListenAddress, PoolMode, Reads, ReadyWhen, ServerAddress,
    SocketMode, SslMode, SslNegotiation,
};
use crate::raw::schema::section;
use crate::raw::{Certificate, Flag, Named, OneOrMany, PoolTelemetry, Register, Text, Tls, Typed};
use crate::units::{SecretRef, Size, Time};

section! {
    /// Poolers for the same databases.
    PoolGroup {
        /// The `pgpool` processes, by name.
        must "instances" instances: Named<PoolInstance>,
        /// What clients may name; `"*"` stands for every other name.
        must "databases" databases: Named<Database>,
        /// Who may log in, by role.
        must "users" users: Named<User>,
        /// Where roles are looked up that are not in `users` (PgBouncer's `auth_query`); a database may
        /// have one of its own. Default: such roles may not log in.
        may "lookup" lookup: Lookup,
        /// TLS towards clients. Default: none is offered.
        may "tls" tls: Tls,
        /// What TLS is to clients over TCP: `disable`: none is offered; `allow`, `prefer`: their choice;
        /// `require`: who comes without is refused; `verify-ca`, `verify-full`: and must show a certificate of
        /// `client-ca`. Default: `prefer` with `tls`, else `disable`.
        may "sslmode" sslmode: Typed<SslMode>,
        /// Rules of who may log in how, as PostgreSQL's `pg_hba.conf` has them, `file:PATH`: kinds `local`,
        /// `host`, `hostssl`, `hostnossl`; methods `trust`, `reject`, `md5`, `scram-sha-256`, `password` (with TLS
        /// or by unix socket), `cert`, `peer`; options `map` and `clientcert`, which like `cert` needs `client-ca` in `tls`,
        /// with `client-certificates: optional` if others come without. Default: each user proves who it is by its
        /// secret, from everywhere.
        may "hba" hba: Typed<SecretRef>,
        /// Maps for `peer` and `cert`, as PostgreSQL's `pg_ident.conf` has them, `file:PATH`. Default: names must
        /// be the same.
        may "ident" ident: Typed<SecretRef>,
        /// Processes that may share a port, by their `peer-id`: a cancel request that meets the wrong one is
        /// forwarded to the right one. Default: none.
        may "peers" peers: Named<Peer>,
        /// Limits and times under PgBouncer's names. Default: see each.
        may "settings" settings: Settings,
        /// Slow queries, and spans of those that carry a trace. Default: neither.
        may "telemetry" telemetry: PoolTelemetry,
        /// Registries in which the instances are entered. Default: none.
        may "register" register: Register,
        /// How long a drain may take before what is left is ended. Default: 30s.
        may "drain" drain: Typed<Time>,
    }
}

section! {
    /// One `pgpool` process.
    PoolInstance {
        /// Where clients connect, one or a list: `ADDRESS:PORT`, where port 0 lets the system choose;
        /// or `unix:/FOLDER:PORT` for the socket `/FOLDER/.s.PGSQL.PORT`.
        must "listen" listen: OneOrMany<Typed<ListenAddress>>,
        /// Who may connect to its unix sockets: the mode of their files. Default: "0770".
        may "socket-mode" socket_mode: Typed<SocketMode>,
        /// The group of its unix sockets' files, by name or number. Default: the process's.
        may "socket-group" socket_group: Typed<Text>,
        /// Its number among `peers`, 1 to 127; its TCP ports may then be shared with other processes, among
        /// which the kernel spreads clients. Default: none, and no port is shared.
        may "peer-id" peer_id: Typed<u32>,
        /// Health, metrics and drain, `ADDRESS:PORT`. Default: none.
        may "admin" admin: Typed<SocketAddr>,
        /// The address that `register` tells, `ADDRESS:PORT`. Default: the first that it listens on.
        may "advertise" advertise: Typed<SocketAddr>,
    }
}

section! {
    /// A process that cancel requests are forwarded to.
    Peer {
        /// Where it listens and no other process does: `ADDRESS:PORT`, `HOST:PORT` or `unix:/FOLDER:PORT`.
        must "at" at: Typed<ServerAddress>,
        /// Requests to it at a time. Default: `default_pool_size`.
        may "pool-size" pool_size: Typed<NonZeroU32>,
    }
}

section! {
    /// A database as clients name it.
    Database {
        /// The server for reads and writes: `ADDRESS:PORT`; `HOST:PORT`, whose addresses
        /// are used in turn; or `unix:/FOLDER:PORT`.
        must "primary" primary: Typed<ServerAddress>,
        /// More servers that do what `primary` does, each as good as the other: poolers, or nodes that all take
        /// writes. With replicas there is one primary. Default: none.
        may "also-at" also_at: Vec<Typed<ServerAddress>>,
        /// Which of these a new connection goes to: `round-robin`, each in its turn; `disable`, the same as before
        /// until it lets nobody connect. One that lets nobody connect is passed over. Default: `round-robin`.
        may "load-balance-hosts" load_balance_hosts: Typed<HostOrder>,
        /// Its streaming replicas, offered to clients under `replica-alias`. Each may be promoted:
        /// writes then go to it, and to no server with an older timeline any more. Default: none.
        may "replicas" replicas: Vec<Typed<ServerAddress>>,
        /// Which reads of clients of the database itself go to a replica, each with those before it:
        /// `alias`, none; `asked`, those of a client that says so (`SET pgpool.role = replica`,
        /// `-c pgpool.role=replica`, a leading `/* pgpool: replica */`); `read-only`, transactions
        /// that begin `READ ONLY`; `automatic`, single statements that can be told to read alone.
        /// Default: `asked`.
        may "reads" reads: Typed<Reads>,
        /// A replica that is further behind the primary gets no reads. Default: 10s.
        may "max-lag" max_lag: Typed<Time>,
        /// Time between two looks at each server: who is the primary, how far the replicas are.
        /// Default: 500ms.
        may "check-every" check_every: Typed<Time>,
        /// The name under which clients reach the replicas. Default: the database's name with
        /// `_ro`.
        may "replica-alias" replica_alias: Typed<Text>,
        /// The database's name on the servers. Default: the same.
        may "server-name" server_name: Typed<Text>,
        /// TLS towards its servers. Default: `mode: prefer`.
        may "tls" tls: ServerTls,
        /// Who logs in to its servers. Default: the client's own role.
        may "login" login: ServerLogin,
        /// Run on each of its server connections before anybody uses it, and after each reset. A server on which it
        /// fails is closed. Default: nothing.
        may "connect-query" connect_query: Typed<Text>,
        /// `client_encoding` of its server connections, for clients that ask for none. Default: the server's.
        may "client-encoding" client_encoding: Typed<Text>,
        /// `datestyle`, in the same way. Default: the server's.
        may "datestyle" datestyle: Typed<Text>,
        /// `timezone`, in the same way. Default: the server's.
        may "timezone" timezone: Typed<Text>,
        /// `application_name`, in the same way. Default: `pgpool`.
        may "application-name" application_name: Typed<Text>,
        /// Where roles are looked up that are not in `users`, for clients of this database. Default: as
        /// the group says.
        may "lookup" lookup: Lookup,
        /// When a server connection goes back to its pool. Default: `transaction`.
        may "mode" mode: Typed<PoolMode>,
        /// Most server connections per user. Default: `default_pool_size`.
        may "pool-size" pool_size: Typed<NonZeroU32>,
        /// Over how many workers each of its pools is spread. Default: `pool_shards`.
        may "pool-shards" pool_shards: Typed<NonZeroU32>,
        /// PgBouncer's `min_pool_size` for it. Default: as `settings` say.
        may "min-pool-size" min_pool_size: Typed<u32>,
        /// PgBouncer's `reserve_pool_size` for it. Default: as `settings` say.
        may "reserve-pool-size" reserve_pool_size: Typed<u32>,
        /// Most server connections of it, all users; 0: no bound. Default: `max_db_connections`.
        may "max-connections" max_connections: Typed<u32>,
        /// Most clients of it; 0: no bound. Default: `max_db_client_connections`.
        may "max-client-connections" max_clients: Typed<u32>,
        /// PgBouncer's `server_lifetime` for it. Default: as `settings` say.
        may "server-lifetime" server_lifetime: Typed<Time>,
        /// What `aqueduct up` starts: `postgres`, a primary and its streaming replicas. Ignored by
        /// `pgpool`. Default: nothing.
        may "run" run: Typed<Text>,
    }
}

section! {
    /// TLS towards servers, by libpq's names. Nothing is encrypted over a unix socket.
    ServerTls {
        /// libpq's `sslmode`. `prefer` means encrypted where the server can, and over loopback
        /// where it insists; `require` believes any certificate unless `ca` is given. Certificates are judged as libpq does.
        /// Default: `prefer`.
        may "mode" mode: Typed<SslMode>,
        /// libpq's `sslnegotiation`; `direct` begins TLS at once (PostgreSQL 17) and needs `require`
        /// or more. Default: `postgres`.
        may "negotiation" negotiation: Typed<SslNegotiation>,
        /// Authorities that a server's certificate must come from, `file:PATH`. Default: the system's.
        may "ca" ca: Typed<SecretRef>,
        /// The name that its certificate must have. Default: its host name or address.
        may "name" name: Typed<Text>,
        /// A certificate of ours to show, for `cert` in `pg_hba.conf`. Default: none.
        may "certificate" certificate: Certificate,
    }
}

section! {
    /// Who logs in to servers, whoever the client is.
    ServerLogin {
        /// The role. Default: the client's.
        may "user" user: Typed<Text>,
        /// Where its password is, `file:PATH` or `env:NAME`. Default: that of the role in `users`.
        may "password" password: Typed<SecretRef>,
    }
}

section! {
    /// A query that says which verifier a role has, asked once per login at most.
    Lookup {
        /// Who asks (PgBouncer's `auth_user`); must be able to read what `query` reads.
        must "user" user: Typed<Text>,
        /// Where its password is, `file:PATH` or `env:NAME`. Default: that of the role in `users`.
        may "password" password: Typed<SecretRef>,
        /// Which database is asked, as clients name it (`auth_dbname`). Default: the one that the client
        /// wants.
        may "database" database: Typed<Text>,
        /// With the role's name as `$1`; its answer is one row: the name, and a SCRAM-SHA-256 verifier or an
        /// md5 hash, or NULL if it may not log in. Default: `rolpassword` of `pg_authid` for a role with
        /// `LOGIN` and without a past `VALID UNTIL`.
        may "query" query: Typed<Text>,
        /// How long an answer holds, at most 1m, and a second if the role is not there; `0s`: each login asks.
        /// Logins at the same time share one question anyhow. Default: 1s.
        may "cache" cache: Typed<Time>,
    }
}

section! {
    /// A role that may log in.
    User {
        /// Where its SCRAM-SHA-256 verifier, md5 hash or password is, `file:PATH` or `env:NAME`.
        /// Default: none, which lets anybody in under this name.
        may "secret" secret: Typed<SecretRef>,
        /// Where its password towards servers is, for connections made before a client has logged
        /// in. Default: the client's own proof is reused.
        may "server-password" server_password: Typed<SecretRef>,
        /// Rights on the admin database `pgbouncer`. Default: `no`.
        may "console" console: Typed<Console>,
        /// `true`: what it must prove is looked up, as for roles that are not here; the entry says what else
        /// holds for it. Default: false.
        may "looked-up" looked_up: Typed<Flag>,
        /// When a server connection goes back to its pool. Default: as its database says.
        may "mode" mode: Typed<PoolMode>,
        /// Most server connections per database. Default: as its database says.
        may "pool-size" pool_size: Typed<NonZeroU32>,
        /// PgBouncer's `reserve_pool_size` for it. Default: as its database says.
        may "reserve-pool-size" reserve_pool_size: Typed<u32>,
        /// Most server connections of it, all databases; 0: no bound. Default: `max_user_connections`.
        may "max-connections" max_connections: Typed<u32>,
        /// Most clients of it, all databases; 0: no bound. Default: `max_user_client_connections`.
        may "max-client-connections" max_clients: Typed<u32>,
        /// PgBouncer's `query_timeout` for it. Default: as `settings` say.
        may "query-timeout" query_timeout: Typed<Time>,
        /// PgBouncer's `transaction_timeout` for it. Default: as `settings` say.
        may "transaction-timeout" transaction_timeout: Typed<Time>,
        /// PgBouncer's `idle_transaction_timeout` for it. Default: as `settings` say.
        may "idle-transaction-timeout" idle_transaction_timeout: Typed<Time>,
        /// PgBouncer's `client_idle_timeout` for it. Default: as `settings` say.
        may "client-idle-timeout" client_idle_timeout: Typed<Time>,
    }
}

section! {
    /// Limits and times, with PgBouncer's names and meanings, but with a unit on every time.
    Settings {
        /// Most clients of the instance. Default: 1000.
        may "max_client_conn" max_client_conn: Typed<NonZeroU32>,
        /// Server connections per database and user. Default: 20.
        may "default_pool_size" default_pool_size: Typed<NonZeroU32>,
        /// Over how many workers the clients of one pool are spread; its limits hold for the whole of it. More than
        /// there are workers is as many as there are. A pool that one core serves has no use for it. Default: 1.
        may "pool_shards" pool_shards: Typed<NonZeroU32>,
        /// Server connections kept open when nobody needs them. Default: 0.
        may "min_pool_size" min_pool_size: Typed<u32>,
        /// Extra server connections for clients that waited `reserve_pool_timeout`. Default: 0.
        may "reserve_pool_size" reserve_pool_size: Typed<u32>,
        /// When the reserve opens. Default: 5s.
        may "reserve_pool_timeout" reserve_pool_timeout: Typed<Time>,
        /// Most server connections of one database, all users; 0: no bound. Default: 0.
        may "max_db_connections" max_db_connections: Typed<u32>,
        /// Most server connections of one user, all databases; 0: no bound. Default: 0.
        may "max_user_connections" max_user_connections: Typed<u32>,
        /// Most clients of one database; 0: no bound. Default: 0.
        may "max_db_client_connections" max_db_client_connections: Typed<u32>,
        /// Most clients of one user, all databases; 0: no bound. Default: 0.
        may "max_user_client_connections" max_user_client_connections: Typed<u32>,
        /// How long a query waits for a server connection; 0s: for ever. Default: 2m.
        may "query_wait_timeout" query_wait_timeout: Typed<Time>,
        /// An unused server connection is closed after it. Default: 10m.
        may "server_idle_timeout" server_idle_timeout: Typed<Time>,
        /// A server connection is closed after it, once unused. Default: 1h.
        may "server_lifetime" server_lifetime: Typed<Time>,
        /// Connecting and logging in to a server. Default: 15s.
        may "server_connect_timeout" server_connect_timeout: Typed<Time>,
        /// Logging in as a client. Default: 60s.
        may "client_login_timeout" client_login_timeout: Typed<Time>,
        /// A client without a query is closed after it; 0s: never. Default: 0s.
        may "client_idle_timeout" client_idle_timeout: Typed<Time>,
        /// A client idle inside a transaction is closed after it; 0s: never. Default: 0s.
        may "idle_transaction_timeout" idle_transaction_timeout: Typed<Time>,
        /// A query that takes longer is cancelled; 0s: never. Default: 0s.
        may "query_timeout" query_timeout: Typed<Time>,
        /// A transaction that takes longer is ended, with its client; 0s: never. Default: 0s.
        may "transaction_timeout" transaction_timeout: Typed<Time>,
        /// Named prepared statements kept per server connection; 0: none in transaction mode.
        /// Default: 200.
        may "max_prepared_statements" max_prepared_statements: Typed<u32>,
        /// Most bytes of their SQL per server connection; beyond either bound what was used longest ago is closed.
        /// Default: 8MiB.
        may "max_prepared_bytes" max_prepared_bytes: Typed<Size>,
        /// Most servers of a pool that session state (temporary tables, advisory locks, `PREPARE`, cursors with
        /// hold) ties to their clients in transaction mode: a client that would tie one more is ended with 53400, so
        /// that some servers are left for the others; 0: no bound. Default: 0.
        may "max_pinned" max_pinned: Typed<u32>,
        /// Whether clients of a pool in transaction or statement mode listen (`LISTEN` outside of a transaction, by
        /// itself) by way of one server connection together. `false`: each keeps a server of its own.
        /// Default: false.
        may "shared_listen" shared_listen: Typed<Flag>,
        /// Most channels that one client listens on so; 0: no bound of its own. Default: 100.
        may "max_listen_channels" max_listen_channels: Typed<u32>,
        /// The longest pause between two tries of a server that lets nobody in; the first is a tenth of a
        /// second, each next one twice as long. Default: 5s.
        may "server_login_retry" server_login_retry: Typed<Time>,
        /// When the instance says that it is ready (`/readyz`, systemd, registries): `running`, as soon as it
        /// listens; `some-database`, while a server of one database at least answers; `all-databases`, while one of
        /// each does. Both wait at start until each has answered once, `server_away_after` at most. `*` does not
        /// count. Default: some-database.
        may "ready_when" ready_when: Typed<ReadyWhen>,
        /// A database whose servers have not answered for so long is away. Default: 10s.
        may "server_away_after" server_away_after: Typed<Time>,
        /// A client that has waited so long for a server gets a notice; 0s: never. Default: 5s.
        may "query_wait_notify" query_wait_notify: Typed<Time>,
        /// A cancel request takes no longer. Default: 10s.
        may "cancel_wait_timeout" cancel_wait_timeout: Typed<Time>,
        /// Asked of servers that nobody has used for `server_check_delay`, so that a dead one is closed
        /// before a client meets it; "-": they are not asked. Default: select 1.
        may "server_check_query" server_check_query: Typed<Text>,
        /// See `server_check_query`. Default: 30s.
        may "server_check_delay" server_check_delay: Typed<Time>,
        /// `true`: servers are used in turn, so that all stay in use. Default: false, the one that was used last,
        /// so that those which are not needed grow old and are closed.
        may "server_round_robin" server_round_robin: Typed<Flag>,
        /// `true`: in session mode, after `RECONNECT` or a reload that changes how a server is reached, its
        /// client is ended after its transaction. Default: false, when its client leaves.
        may "server_fast_close" server_fast_close: Typed<Flag>,
        /// A database that `*` stands for, with its pools, is forgotten when it has had no client and no server for so
        /// long; 0s: never. Default: 1h.
        may "autodb_idle_timeout" autodb_idle_timeout: Typed<Time>,
        /// How long addresses of a server's name hold, whatever its records say. It is then looked up again while
        /// there are connections to it, which are closed when they are free where their address is its no more.
        /// Default: 15s.
        may "dns_max_ttl" dns_max_ttl: Typed<Time>,
        /// How long a lookup of a server's name that failed holds; addresses that were known stay in use.
        /// Default: 15s.
        may "dns_nxdomain_ttl" dns_nxdomain_ttl: Typed<Time>,
        /// Whether TCP notices peers that have gone without a word. Default: true.
        may "tcp_keepalive" tcp_keepalive: Typed<Flag>,
        /// Silence before TCP's first question. Default: 1m.
        may "tcp_keepidle" tcp_keepidle: Typed<Time>,
        /// Time between two questions. Default: the system's.
        may "tcp_keepintvl" tcp_keepintvl: Typed<Time>,
        /// Questions without an answer before the connection is closed. Default: the system's.
        may "tcp_keepcnt" tcp_keepcnt: Typed<NonZeroU32>,
        /// How long sent bytes may stay unconfirmed. Default: the system's.
        may "tcp_user_timeout" tcp_user_timeout: Typed<Time>,
        /// Run in session mode when a client has left that may have left anything behind; "-": nothing is. Whatever a
        /// client's statements are known to leave (temporary tables, `LISTEN`, cursors, `PREPARE`, locks, settings) is
        /// taken away in any case; what a function does inside is left to this query. Default: `DISCARD ALL`.
        may "server_reset_query" server_reset_query: Typed<Text>,
        /// `true`: `server_reset_query` is run at each release, in transaction and statement mode too. Default:
        /// false, there settings that clients make follow them, and a server that a statement is known to have left
        /// anything else on is cleaned; what a function does inside is not known.
        may "server_reset_query_always" server_reset_query_always: Typed<Flag>,
        /// Startup parameters, separated by commas, that are dropped, not set; `options`: what stands in it. What
        /// every client has (`client_encoding`, ..) is set nonetheless. Default: none.
        may "ignore_startup_parameters" ignore_startup_parameters: Typed<Text>,
        /// How a user proves itself where no rule says it: `md5`, by the hash of what `secret` has, by SCRAM if that
        /// is a verifier; `scram-sha-256`; `plain`, the password over TLS. Default: as its secret can, by SCRAM
        /// if it can.
        may "auth_type" auth_type: Typed<AuthType>,
    }
}
