//! From a client's startup packet to a session: who it is, whether it may, and what it is told
//! about its server. Not for proofs, which are in `auth`, and not for the packet itself, which the
//! listener has read. Called once per client on its home worker.
//!
//! Invariant: nothing that depends on the database is told before the client has proved who it is.

use std::rc::Rc;

use pgpool_wire::backend::{self, Authentication, Status};
use pgpool_wire::frame::{self, Found};
use pgpool_wire::frontend::tag;
use pgpool_wire::startup::{CancelKey, Startup, V3_2};
use rand::RngCore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::auth;
use super::entry::{Entry, Who};
use super::rules;
use super::source::Source;
use crate::events::ClientConnected;
use crate::fatal::Refusal;
use crate::hba::Asking;
use crate::lookup;
use crate::pool::{Pool, Welcome};
use crate::relay::link::Memory;
use crate::snapshot::{CONSOLE, Credential, Held, Snapshot};
use crate::stream::Stream;
use crate::worker::Worker;
use topology::pool::{Console, SslMode};

/// Longest message of a client that is not logged in.
const LONGEST: u32 = 8192;

/// A client that is not inside yet.
pub struct Door {
    /// Its socket.
    pub io: Stream,
    /// What was read and not understood yet.
    pub input: Vec<u8>,
}

/// Who has been let in, and where.
pub enum Admitted {
    /// To a database.
    Client(Guest),
    /// To the admin database.
    Console(crate::admin::Guest),
}

/// A client that is logged in.
pub struct Guest {
    /// Its place in the worker's list.
    pub listed: Listed,
    /// Where its servers come from.
    pub pool: Rc<Pool>,
    /// Its session.
    pub memory: Memory,
    /// Its places among the clients of its database and user.
    pub shares: (Held, Held),
}

/// A client's place in its worker's list; given back when dropped.
pub struct Listed {
    /// The client.
    pub entry: Rc<Entry>,
    worker: Rc<Worker>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.worker.leave(self.entry.pid);
    }
}

impl Door {
    /// Before anything was read.
    pub fn new(io: Stream) -> Self {
        Self { io, input: Vec::new() }
    }

    /// Writes.
    ///
    /// # Errors
    /// The client is gone, which nobody needs to be told.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let written = async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        };
        written.await.map_err(|_| gone())
    }

    /// The next message, which must be a `p` (password or SASL).
    ///
    /// # Errors
    /// The client is gone, or sent something else or too much.
    pub async fn password(&mut self) -> Result<Vec<u8>, Refusal> {
        loop {
            if let Found::Whole(frame) = frame::next(&self.input, LONGEST)? {
                if frame.tag != tag::PASSWORD {
                    return Err(Refusal::Protocol("expected a password message".to_owned()));
                }
                let body = frame.body.to_vec();
                let used = frame.raw.len();
                self.input.drain(..used);
                return Ok(body);
            }
            if !matches!(self.io.read_buf(&mut self.input).await, Ok(count) if count > 0) {
                return Err(gone());
            }
        }
    }
}

fn gone() -> Refusal {
    Refusal::Protocol("the client closed the connection during the login".to_owned())
}

/// Lets a client in.
///
/// # Errors
/// What it must be told. Cancelling closes the connection.
pub async fn admit(
    worker: &Rc<Worker>,
    door: &mut Door,
    startup: &Startup,
    source: Source,
) -> Result<Admitted, Refusal> {
    let name = startup.parameter("user").unwrap_or_default();
    if name.is_empty() {
        return Err(Refusal::Protocol("no user name in the startup packet".to_owned()));
    }
    let database = startup.parameter("database").filter(|d| !d.is_empty()).unwrap_or(name);
    if asks_for_replication(startup) {
        return Err(Refusal::Replication);
    }
    negotiate(door, startup).await?;
    let snapshot = worker.snapshot();
    if !door.io.is_encrypted() && snapshot.sslmode >= SslMode::Require && source.ip().is_some() {
        return Err(Refusal::TlsRequired);
    }
    if is_owner(&snapshot, name, database, source) {
        return console(door, name, Console::Admin).await.map(Admitted::Console);
    }
    let way = auth::Way {
        seed: &snapshot.seed,
        binding: snapshot.binding.as_deref().filter(|_| door.io.is_encrypted()),
    };
    let asking = Asking { database, user: name, source, encrypted: door.io.is_encrypted() };
    let method = rules::method(&snapshot, &door.io, &asking)?;
    let user = snapshot.users.get(name);
    let looked_up = match user {
        Some(_) => None,
        None => lookup::find(worker, database, name).await?,
    };
    let credential = user.map(|user| &user.credential).or(looked_up.as_ref());
    let proof = auth::prove(door, credential, name, (method, way)).await?;
    let unknown = || Refusal::PasswordFailed(name.to_owned());
    if database == CONSOLE {
        let rights = user.ok_or_else(unknown)?.console;
        return console(door, name, rights).await.map(Admitted::Console);
    }
    match looked_up {
        Some(credential) => learn(worker, (database, name), credential),
        None => drop(user.ok_or_else(unknown)?),
    }
    let Some(pool) = worker.pool(database, name) else {
        return Err(Refusal::NoSuchDatabase(database.to_owned()));
    };
    if worker.is_held(database, crate::admin::verbs::Hold::Disabled) {
        return Err(Refusal::Disabled(database.to_owned()));
    }
    let shares = worker.snapshot().admit(&pool.database(), name)?;
    if let Some(caught) = proof.filter(|_| pool.database().passes_clients_on()) {
        pool.caught.keep(&caught.salt, caught.iterations, caught.keys);
    }
    let mut memory = Memory::default();
    let mut asked = crate::variables::Variables::default();
    asked
        .start(&startup.parameters)
        .map_err(|name| Refusal::Protocol(format!("unsupported startup parameter: {name}")))?;
    let role = Rc::from(pool.user().name.as_str());
    let listed = list(worker, door, startup, (source, role));
    worker.observer.emit(ClientConnected { client: &listed.entry });
    let welcome = welcome(worker, &pool).await?;
    let mut initial = welcome.variables.clone();
    initial.overlay(&asked);
    memory.initial = pool.shared(initial);
    memory.variables = Rc::clone(&memory.initial);
    let mut out = Vec::new();
    greet(&welcome, &memory, &listed.entry, &mut out);
    door.write(&out).await?;
    Ok(Admitted::Client(Guest { listed, pool, memory, shares }))
}

/// Keeps what a role has proved that was looked up. Its servers were perhaps logged in to by another
/// verifier.
fn learn(worker: &Rc<Worker>, (database, role): (&str, &str), credential: Credential) {
    let snapshot = worker.snapshot();
    snapshot.learn(database, role, credential);
    let Some(pool) = worker.pool(database, role) else { return };
    let known = pool.database();
    if let Some(user) = snapshot.server_user(&known, role).filter(|u| !pool.user().logs_in_as(u)) {
        pool.follow(&known, &user);
    }
}

fn asks_for_replication(startup: &Startup) -> bool {
    let value = startup.parameter("replication").unwrap_or("off").to_ascii_lowercase();
    !matches!(value.as_str(), "off" | "false" | "no" | "0")
}

/// Says which version is spoken and which protocol options are unknown, where there is need.
async fn negotiate(door: &mut Door, startup: &Startup) -> Result<(), Refusal> {
    let spoken = startup.negotiated();
    if startup.version == spoken && startup.protocol_options().next().is_none() {
        return Ok(());
    }
    let mut out = Vec::new();
    backend::put_negotiate(&mut out, spoken, startup.protocol_options());
    door.write(&out).await
}

fn list(
    worker: &Rc<Worker>,
    door: &Door,
    startup: &Startup,
    (source, role): (Source, Rc<str>),
) -> Listed {
    let user = startup.parameter("user").unwrap_or_default();
    let who = Who {
        database: Rc::from(startup.parameter("database").unwrap_or(user)),
        user: Rc::from(user),
        application: Rc::from(startup.parameter("application_name").unwrap_or_default()),
        source,
        role,
        encrypted: door.io.is_encrypted(),
    };
    // Protocol 3.2 allows up to 256 bytes; 32 are beyond guessing.
    let mut secret = vec![0; if startup.negotiated() == V3_2 { 32 } else { 4 }];
    rand::rng().fill_bytes(&mut secret);
    let now = worker.now();
    let entry = worker.enter(|pid| Entry::new(pid, secret.into(), who, now));
    Listed { entry, worker: Rc::clone(worker) }
}

/// What the pool's servers say of themselves; the first client waits for the first server.
async fn welcome(worker: &Rc<Worker>, pool: &Rc<Pool>) -> Result<Rc<Welcome>, Refusal> {
    if let Some(welcome) = pool.welcome() {
        return Ok(welcome);
    }
    let server = super::server_of(worker, pool).await?;
    pool.checkin(server);
    pool.welcome().ok_or(Refusal::ServerLost)
}

/// Everything up to the first ReadyForQuery.
fn greet(welcome: &Welcome, memory: &Memory, entry: &Entry, out: &mut Vec<u8>) {
    backend::put_authentication(out, Authentication::Ok);
    for (name, value) in &welcome.parameters {
        let own = memory.variables.value(name).unwrap_or(value);
        backend::put_parameter(out, name, own);
    }
    let key = CancelKey { pid: entry.pid, secret: entry.secret.to_vec() };
    backend::put_key(out, &key);
    backend::put_ready(out, Status::Idle);
}

/// Whether it is whoever runs this process, by a socket of this host: PgBouncer's user `pgbouncer`, who
/// needs no password.
fn is_owner(snapshot: &Snapshot, name: &str, database: &str, source: Source) -> bool {
    let owner = matches!(source, Source::Unix { uid, .. } if uid == snapshot.uid);
    owner && name == CONSOLE && database == CONSOLE && !snapshot.users.contains_key(CONSOLE)
}

async fn console(
    door: &mut Door,
    user: &str,
    rights: Console,
) -> Result<crate::admin::Guest, Refusal> {
    if rights == Console::No {
        return Err(Refusal::ConsoleDenied(user.to_owned()));
    }
    let mut out = Vec::new();
    backend::put_authentication(&mut out, Authentication::Ok);
    let version = format!("{}/pgpool", crate::admin::show::VERSION);
    for (name, value) in [
        ("server_version", version.as_str()),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO"),
        ("TimeZone", "GMT"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", "on"),
        ("integer_datetimes", "on"),
    ] {
        backend::put_parameter(&mut out, name, value);
    }
    backend::put_key(&mut out, &CancelKey { pid: 0, secret: vec![0; 4] });
    backend::put_ready(&mut out, Status::Idle);
    door.write(&out).await?;
    Ok(crate::admin::Guest { user: user.to_owned(), rights })
}
