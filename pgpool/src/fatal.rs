//! Every error that pgpool tells a client, with its SQLSTATE, text and hint. Not for errors that
//! servers send: those pass as they are. The only file that writes SQLSTATEs; called wherever a
//! client has to be told something.
//!
//! Invariant: a client is told what it can act on and never an inner path, address or secret.

use std::borrow::Cow;
use std::time::Duration;

use pgpool_wire::backend::{self, Severity};
use pgpool_wire::{FrameError, Malformed, SqlState, startup::StartupError};

/// A server's "cached plan must not change result type" (`feature_not_supported`).
pub const STALE_PLAN: SqlState = SqlState::new(b"0A000");
/// A server's "prepared statement does not exist" (`invalid_sql_statement_name`).
pub const NOT_PREPARED: SqlState = SqlState::new(b"26000");
/// A server's "prepared statement already exists" (`duplicate_prepared_statement`).
pub const PREPARED_TWICE: SqlState = SqlState::new(b"42P05");

/// A server that does not take connections yet, or no more (`cannot_connect_now`, `admin_shutdown`).
pub const STARTING: SqlState = SqlState::new(b"57P03");
/// See [`STARTING`].
pub const ENDING: SqlState = SqlState::new(b"57P01");

/// Whether a server refuses a login because of its protocol's version (`feature_not_supported`,
/// `protocol_violation`).
pub fn is_about_protocol(code: SqlState) -> bool {
    code == STALE_PLAN || code == SqlState::new(b"08P01")
}

/// Whether a read that failed with this on a replica may do better on the primary: what is not
/// allowed or not possible during recovery, a conflict with it, and names that are not there yet.
pub fn depends_on_server(code: Option<SqlState>) -> bool {
    let code = code.map(|code| code.to_string()).unwrap_or_default();
    matches!(code.as_str(), "25006" | "0A000" | "40001" | "40P01") || code.starts_with("42")
}

/// Why a client gets an error from us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `max_client_conn` is reached.
    #[error("no more connections allowed (max_client_conn is {0})")]
    TooManyClients(u32),
    /// A limit on clients is reached.
    #[error("no more connections allowed ({0} is {1})")]
    TooManyOf(&'static str, u32),
    /// The startup packet names a database that the topology file does not have.
    #[error("database \"{0}\" does not exist")]
    NoSuchDatabase(String),
    /// Name or password are wrong; the same for both, so that names cannot be tried out.
    #[error("password authentication failed for user \"{0}\"")]
    PasswordFailed(String),
    /// Nobody can say who may log in.
    #[error("the user could not be looked up: {0}")]
    Lookup(&'static str),
    /// The client and we share no way to authenticate.
    #[error("authentication failed: {0}")]
    Authentication(String),
    /// `sslmode` asks for TLS.
    #[error("SSL required")]
    TlsRequired,
    /// No rule lets this client in, or one keeps it out.
    #[error("no pg_hba.conf entry for {0}")]
    NoRule(String),
    /// The admin database is for users named in the topology file.
    #[error("user \"{0}\" may not use the admin database")]
    ConsoleDenied(String),
    /// A statement of the admin database that its user may not run.
    #[error("user \"{0}\" may only SHOW")]
    ConsoleReadOnly(String),
    /// A statement that the admin database does not know.
    #[error("{0}")]
    ConsoleSyntax(String),
    /// A command of the admin database that does not fit what is paused.
    #[error("{0}")]
    ConsoleState(String),
    /// `client_login_timeout` is over.
    #[error("login took longer than {}", seconds(.0))]
    LoginTimeout(Duration),
    /// Client and we do not agree on TLS.
    #[error("TLS handshake failed: {0}")]
    Handshake(String),
    /// The opening packet is not lawful.
    #[error("{0}")]
    Startup(StartupError),
    /// A message is not lawful.
    #[error("{0}")]
    Protocol(String),
    /// The admin database has nothing to replicate.
    #[error("the admin database cannot be replicated")]
    Replication,
    /// `query_wait_timeout` is over.
    #[error("no server connection became free within {}", seconds(.0))]
    QueryWait(Duration),
    /// `query_timeout` is over.
    #[error("the query took longer than {}", seconds(.0))]
    QueryTimeout(Duration),
    /// `idle_transaction_timeout` is over.
    #[error("the transaction was idle longer than {}", seconds(.0))]
    IdleTransaction(Duration),
    /// `transaction_timeout` is over.
    #[error("the transaction took longer than {}", seconds(.0))]
    TransactionTimeout(Duration),
    /// `client_idle_timeout` is over.
    #[error("the connection was idle longer than {}", seconds(.0))]
    ClientIdle(Duration),
    /// No server of the database lets us in.
    #[error("cannot connect to a server of database \"{database}\": {reason}")]
    Unavailable {
        /// As the client names it.
        database: Box<str>,
        /// In words, without an address.
        reason: Box<str>,
    },
    /// The server's connection broke while it worked for this client.
    #[error("the server closed the connection unexpectedly")]
    ServerLost,
    /// The server said something that the protocol does not allow here.
    #[error("the server broke the protocol: {0}")]
    ServerProtocol(String),
    /// The server refused this client's own session settings.
    #[error("the server refused a session setting of this connection: {0}")]
    Settings(String),
    /// A transaction block in statement mode.
    #[error("transaction blocks are not allowed in statement pooling mode")]
    StatementMode,
    /// The pooler ends.
    #[error("the pooler is shutting down")]
    ShuttingDown,
    /// Another server has become the primary.
    #[error("the server is no longer the primary")]
    Fenced,
    /// `server_fast_close`.
    #[error("the server connection is closed after RECONNECT or a reload")]
    Reconnected,
    /// `PAUSE`, to who replicates.
    #[error("the database is paused")]
    Paused,
    /// A cancel request for a command of the admin database.
    #[error("canceling statement due to user request")]
    Cancelled,
    /// `KILL`.
    #[error("the connection was ended by an administrator")]
    Killed,
    /// `DISABLE`.
    #[error("database \"{0}\" does not allow connections")]
    Disabled(String),
    /// A reload has taken the database or the user away.
    #[error("this database or user is no longer served here")]
    Removed,
    /// The configuration cannot be read again.
    #[error("the configuration was not reloaded: {0}")]
    Reload(String),
    /// `max_pinned` is reached.
    #[error("too many connections keep a server for their session state (max_pinned is {0})")]
    TooManyPinned(u32),
    /// `max_listen_channels` is reached, or what a pool listens on in all.
    #[error("too many channels to listen on (at most {0})")]
    TooManyChannels(u32),
    /// Notifications cannot be given to a client any more.
    #[error(
        "notifications for this connection were lost: it does not read them, its client_encoding is not the one they \
         come in, or the server no longer listens"
    )]
    Deaf,
    /// Prepared statements of one client take more memory than we keep.
    #[error("too many or too large prepared statements")]
    TooMuchPrepared,
}

/// Appends a warning.
pub fn put_warning(out: &mut Vec<u8>, text: &str) {
    backend::put_error(out, Severity::Warning, SqlState::new(b"01000"), text, None);
}

/// Appends something to know.
pub fn put_notice(out: &mut Vec<u8>, text: &str) {
    backend::put_error(out, Severity::Notice, SqlState::new(b"00000"), text, None);
}

fn seconds(time: &Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

impl From<FrameError> for Refusal {
    fn from(fault: FrameError) -> Self {
        Self::Protocol(fault.to_string())
    }
}

impl From<Malformed> for Refusal {
    fn from(fault: Malformed) -> Self {
        Self::Protocol(fault.to_string())
    }
}

impl Refusal {
    /// Its SQLSTATE.
    pub fn code(&self) -> SqlState {
        SqlState::new(match self {
            Self::TooManyClients(_) | Self::TooManyOf(..) | Self::QueryWait(_) => b"53300",
            Self::NoSuchDatabase(_) => b"3D000",
            Self::PasswordFailed(_) => b"28P01",
            Self::Authentication(_)
            | Self::ConsoleDenied(_)
            | Self::TlsRequired
            | Self::NoRule(_) => b"28000",
            Self::ConsoleReadOnly(_) => b"42501",
            Self::ConsoleSyntax(_) => b"42601",
            Self::ConsoleState(_) => b"55000",
            Self::LoginTimeout(_) | Self::QueryTimeout(_) | Self::Cancelled => b"57014",
            Self::Startup(_) | Self::Handshake(_) | Self::Protocol(_) | Self::ServerProtocol(_) => {
                b"08P01"
            }
            Self::Replication | Self::StatementMode => b"0A000",
            Self::IdleTransaction(_) => b"25P03",
            Self::TransactionTimeout(_) => b"25P04",
            Self::ClientIdle(_) => b"57P05",
            Self::Unavailable { .. } | Self::Lookup(_) => b"57P03",
            Self::ServerLost => b"08006",
            Self::Settings(_) => b"22023",
            Self::ShuttingDown
            | Self::Reconnected
            | Self::Paused
            | Self::Killed
            | Self::Removed
            | Self::Fenced => b"57P01",
            Self::Disabled(_) => b"57P03",
            Self::Reload(_) => b"F0000",
            Self::TooManyPinned(_) | Self::TooManyChannels(_) | Self::Deaf => b"53400",
            Self::TooMuchPrepared => b"54000",
        })
    }

    /// What PgBouncer calls it in its log, where it has another name for it: what operators search for.
    pub fn word(&self) -> Option<Cow<'static, str>> {
        Some(Cow::Borrowed(match self {
            Self::TooManyClients(_) => "no more connections allowed (max_client_conn)",
            Self::NoSuchDatabase(name) => return Some(format!("no such database: {name}").into()),
            Self::Disabled(name) => {
                return Some(format!("database does not allow connections: {name}").into());
            }
            Self::Unavailable { reason, .. } => {
                let word = "server login has been failing, cached error";
                return Some(format!("{word}: {reason} (server_login_retry)").into());
            }
            Self::LoginTimeout(_) => "client_login_timeout",
            Self::QueryWait(_) => "query_wait_timeout",
            Self::QueryTimeout(_) => "query timeout",
            Self::IdleTransaction(_) => "idle transaction timeout",
            Self::TransactionTimeout(_) => "transaction timeout",
            Self::ClientIdle(_) => "client_idle_timeout",
            Self::ServerLost => "server conn crashed?",
            Self::Reconnected => "database configuration changed",
            Self::Removed => "database removed",
            Self::ShuttingDown => "server shutting down",
            _ => return None,
        }))
    }

    /// What the client's owner can do about it.
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::TooManyClients(_) => "Raise max_client_conn, or connect less often.",
            Self::NoSuchDatabase(_) => "The databases are those under `databases:` of the pool.",
            Self::TlsRequired => "Connect with sslmode=require or stronger.",
            Self::QueryWait(_) => {
                "All server connections are busy: look for long transactions, or raise pool_size."
            }
            Self::Unavailable { .. } => "The pooler tries again; see its log for the server.",
            Self::Lookup(_) => "The pooler's log says more; see `lookup` of its configuration.",
            Self::TooManyPinned(_) => {
                "Do without temporary tables, advisory locks and SQL PREPARE, or raise max_pinned."
            }
            Self::TooManyChannels(_) => {
                "UNLISTEN what is not needed any more, or raise max_listen_channels."
            }
            Self::Deaf => "Connect again, LISTEN again, and look what has changed meanwhile.",
            Self::StatementMode => "Use a database whose mode is `transaction`.",
            Self::ConsoleSyntax(_) => "Use SHOW HELP for the commands there are.",
            _ => return None,
        })
    }

    /// Appends it as the last message that the client gets.
    pub fn put_fatal(&self, out: &mut Vec<u8>) {
        backend::put_error(out, Severity::Fatal, self.code(), &self.to_string(), self.hint());
    }

    /// Appends it as the failure of one statement.
    pub fn put_error(&self, out: &mut Vec<u8>) {
        backend::put_error(out, Severity::Error, self.code(), &self.to_string(), self.hint());
    }
}
