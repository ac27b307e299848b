//! One connection to a PostgreSQL server: its socket, what is known of its session, and what is
//! shown of it. Not for choosing among servers: that is `pool`. Owned by the client that uses it,
//! or by its pool.
//!
//! Invariant: exactly one owner at a time; dropping it closes the connection and gives its places
//! in the limits back.

pub mod auth;
pub mod connect;
pub mod knock;
pub mod prelude;
pub mod status;
pub mod tls;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use pgpool_wire::frontend;
use pgpool_wire::startup::{CancelKey, Replication};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use topology::pool::ServerAddress;

use crate::names::Lead;
use crate::pool::whole::Permit;
use crate::relay::link::{Conversation, Wear};
use crate::relay::outbox::Outbox;
use crate::snapshot::Held;
use crate::stream::Stream;
use tls::Security;

/// One server connection.
pub struct Server {
    /// The socket.
    pub io: Stream,
    /// The session.
    pub talk: Conversation,
    /// The front of a message whose rest is still to come.
    pub carry: Vec<u8>,
    /// What the socket did not take yet.
    pub out: Outbox,
    /// What others may see of it.
    pub facts: Rc<Facts>,
    /// Places in the limits of its database and user.
    pub places: (Held, Held),
    /// Its place among the pool's servers.
    pub permit: Permit,
}

/// What others may see of a server connection.
pub struct Facts {
    /// Numbers connections of the instance.
    pub id: u64,
    /// Which of its database's servers it is.
    pub address: ServerAddress,
    /// Its number among its family's members.
    pub member: Option<usize>,
    /// Where it is connected to.
    pub peer: ServerAddress,
    /// The name's address that it rests on.
    pub lead: Lead,
    /// How it was reached; a cancel request goes the same way.
    pub security: Arc<Security>,
    /// Our own end.
    pub local: Option<SocketAddr>,
    /// Cancels its query.
    pub key: Option<CancelKey>,
    /// The cipher suite, if bytes travel encrypted.
    pub cipher: Option<&'static str>,
    /// Prepared statements that it holds.
    pub prepared: Cell<usize>,
    /// When it was connected.
    pub born: Instant,
    /// When it was last given or taken.
    pub used: Cell<Instant>,
    /// When it was last asked whether it lives.
    pub checked: Cell<Instant>,
    /// What it is doing.
    pub phase: Cell<ServerPhase>,
    /// The client that uses it.
    pub client: Cell<Option<u32>>,
    /// Cancel requests on their way to it.
    pub cancels: Cell<u32>,
    /// Woken when the last of these has arrived.
    pub settled: tokio::sync::Notify,
    /// The pool's generation when it was connected: `RECONNECT` starts a new one.
    pub generation: u64,
    /// What it is for; all but queries belongs to one client for good.
    pub replication: Replication,
    /// Set by who wants it closed when it is next free.
    pub condemned: Cell<bool>,
    /// What the server's ParameterStatus messages said at login.
    pub welcome: RefCell<Vec<(String, String)>>,
}

/// What a server connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerPhase {
    /// Waits in the pool.
    Idle,
    /// Works for a client.
    Active,
    /// Is cleaned before somebody else gets it.
    Cleaning,
    /// Was told goodbye and has not gone yet.
    Closing,
}

impl ServerPhase {
    /// PgBouncer's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Active => "active",
            Self::Cleaning => "tested",
            Self::Closing => "being_canceled",
        }
    }
}

impl Server {
    /// The proof that somebody else may have it: nothing is due, nothing is half sent or half read,
    /// no transaction is open, and nothing was ever out of order.
    pub fn is_clean(&self) -> bool {
        self.talk.is_clean()
            && self.carry.is_empty()
            && self.out.is_empty()
            && !self.talk.dying
            && self.facts.cancels.get() == 0
    }

    /// As [`Server::is_clean`], but a transaction may be open: a `ROLLBACK` makes it clean.
    pub fn is_settled(&self) -> bool {
        self.talk.ledger.is_settled()
            && self.talk.left == 0
            && self.carry.is_empty()
            && self.out.is_empty()
            && !self.talk.dying
    }

    /// Whether it can be brought back from the middle of something: all that was sent was sent
    /// whole, and what is due is known.
    pub fn is_tractable(&self) -> bool {
        self.talk.ledger.is_certain() && self.out.is_empty() && !self.talk.dying
    }

    /// Whether it must be cleaned before somebody else gets it.
    pub fn is_worn(&self) -> bool {
        self.talk.wear != Wear::None || self.talk.ended
    }
}

/// Says goodbye between two messages, and waits until the server has gone. Give it a time.
///
/// # Errors
/// The connection broke, which ends it as well.
pub async fn farewell(io: &mut Stream) -> io::Result<()> {
    io.write_all(frontend::GOODBYE).await?;
    hang_up(io).await
}

/// The same without a word: something is half said.
///
/// # Errors
/// As [`farewell`].
pub async fn hang_up(io: &mut Stream) -> io::Result<()> {
    io.shutdown().await?;
    let mut scrap = [0; 4096];
    while io.read(&mut scrap).await? > 0 {}
    Ok(())
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "server {} at {}", self.facts.id, self.facts.address)
    }
}
