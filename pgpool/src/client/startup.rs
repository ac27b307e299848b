//! From a client's startup packet to a session: who it is, whether it may, and what it is told
//! about its server. Not for proofs, which are in `auth`, and not for the packet itself, which the
//! listener has read. Called once per client on its home worker.
//!
//! Invariant: nothing that depends on the database is told before the client has proved who it is.

use std::rc::Rc;

use pgpool_wire::backend::{self, Authentication, Status};
use pgpool_wire::frame::{self, Found};
use pgpool_wire::frontend::tag;
use pgpool_wire::startup::{CancelKey, Replication, Startup, V3_2};
use rand::RngCore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::entry::{Entry, Who};
use super::rules;
use super::source::Source;
use super::{auth, replication};
use crate::admin::seat::Seat;
use crate::events::{ClientConnected, LoginAttempt};
use crate::fatal::Refusal;
use crate::hba::Asking;
use crate::lookup;
use crate::pool::{Pool, Welcome};
use crate::query::Tie;
use crate::relay::link::Memory;
use crate::server::connect::Asked;
use crate::snapshot::{CONSOLE, Credential, Held, Snapshot};
use crate::stream::Stream;
use crate::variables::is_ignored;
use crate::worker::Worker;
use topology::pool::{Console, SslMode};

/// Longest message of a client that is not logged in.
const LONGEST: u32 = 8192;

/// A client that is not inside yet.
pub struct Door {
    /// Its socket.
    pub io: Stream,
    /// The number that it is about to have.
    pub id: u32,
    /// What was read and not understood yet.
    pub input: Vec<u8>,
}

/// Who has been let in, and where.
pub enum Admitted {
    /// To a database.
    Client(Guest),
    /// To a database, with a server of its own.
    Replication(Box<super::replication::Guest>),
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

impl Listed {
    /// A client that the worker's list has.
    pub(super) fn new(entry: Rc<Entry>, worker: Rc<Worker>) -> Self {
        Self { entry, worker }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.worker.leave(self.entry.pid);
    }
}

impl Door {
    /// Before anything was read.
    pub fn new(io: Stream, id: u32) -> Self {
        Self { io, id, input: Vec::new() }
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

/// The database and the user that a client names: without a database, or with an empty one, the one called as
/// the user (manual, "Start-up").
pub fn named(startup: &Startup) -> (&str, &str) {
    let user = startup.parameter("user").unwrap_or_default();
    let database = startup.parameter("database").filter(|name| !name.is_empty());
    (database.unwrap_or(user), user)
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
    let (database, name) = named(startup);
    if name.is_empty() {
        return Err(Refusal::Protocol("no user name in the startup packet".to_owned()));
    }
    let replication = startup.replication().map_err(|value| {
        Refusal::Protocol(format!("invalid value for parameter \"replication\": {value:?}"))
    })?;
    if replication != Replication::No && database == CONSOLE {
        return Err(Refusal::Replication);
    }
    negotiate(door, startup).await?;
    let snapshot = worker.snapshot();
    if !door.io.is_encrypted() && snapshot.sslmode >= SslMode::Require && source.ip().is_some() {
        return Err(Refusal::TlsRequired);
    }
    let encrypted = door.io.is_encrypted();
    let asking = Asking { database, user: name, source, encrypted, replication };
    worker.observer.emit(LoginAttempt { id: door.id, asking: &asking, cipher: door.io.cipher() });
    if is_owner(&snapshot, name, database, source) {
        return console(worker, (door, startup), source, Console::Admin).await;
    }
    let way = auth::Way {
        snapshot: &snapshot,
        binding: snapshot.binding.as_deref().filter(|_| door.io.is_encrypted()),
    };
    let method = rules::method(&snapshot, &door.io, &asking).await?;
    let user = snapshot.users.get(name);
    let looked_up = match user {
        Some(_) => None,
        None => lookup::find(worker, database, name).await?,
    };
    let credential = user.map(|user| &user.credential).or(looked_up.as_ref());
    let method = rules::settled(method, &snapshot, credential, &asking);
    let proof = auth::prove(door, credential, name, (method, way)).await?;
    let unknown = || Refusal::PasswordFailed(name.to_owned());
    if database == CONSOLE {
        let rights = user.ok_or_else(unknown)?.console;
        return console(worker, (door, startup), source, rights).await;
    }
    if worker.parting.wait().is_some() {
        return Err(Refusal::ShuttingDown);
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
    if let Some(caught) = proof.filter(|_| takes_proofs(&pool)) {
        pool.whole.caught.keep(&caught.salt, caught.iterations, caught.keys);
    }
    let mut asked = crate::variables::Variables::default();
    asked
        .start(&startup.parameters, &worker.snapshot().settings.ignore_startup_parameters)
        .map_err(|name| Refusal::Protocol(format!("unsupported startup parameter: {name}")))?;
    let role = worker.name(&pool.user().name);
    let listed = list(worker, door, startup, (source, role));
    worker.observer.emit(ClientConnected { client: &listed.entry });
    if replication != Replication::No {
        let guest = replicate(worker, startup, (listed, pool, shares)).await?;
        return Ok(Admitted::Replication(Box::new(guest)));
    }
    let welcome = welcome(worker, &pool).await?;
    let (mut memory, mut initial) = (Memory::default(), welcome.variables.clone());
    initial.overlay(&asked);
    memory.initial = pool.shared(initial);
    memory.variables = Rc::clone(&memory.initial);
    memory.tie = memory.initial.makes_temporary().then_some(Tie::Temporary);
    let mut out = Vec::new();
    let own = |name: &str| memory.variables.value(name);
    greet(&welcome.parameters, own, &listed.entry, &mut out);
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

/// Connects the server of a client that replicates. What the client asks for goes into its login: a physical
/// replication connection takes no SET, and who replicates synchronously is known by its application_name.
async fn replicate(
    worker: &Rc<Worker>,
    startup: &Startup,
    (listed, pool, shares): (Listed, Rc<Pool>, (Held, Held)),
) -> Result<replication::Guest, Refusal> {
    let ours = |name: &str| {
        matches!(name, "user" | "database" | "replication") || name.starts_with("_pq_.")
    };
    let ignored = &worker.snapshot().settings.ignore_startup_parameters;
    let dropped = |name: &str| ours(name) || is_ignored(name, ignored);
    let parameters = startup.parameters.iter().filter(|(name, _)| !dropped(name)).cloned();
    let parameters: Vec<_> = parameters.collect();
    let asked = Asked { replication: listed.entry.replication, parameters: &parameters };
    let (server, said) = pool.connect_apart(worker, asked).await?;
    let mut greeting = Vec::new();
    greet(&said, |_| None, &listed.entry, &mut greeting);
    Ok(replication::Guest { listed, pool, server, shares, greeting })
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
    let who = who(worker, door, startup, (source, role));
    let (secret, now) = (secret(startup), worker.now());
    let entry = worker.enter(door.id, |pid| Entry::new(pid, secret, who, now));
    Listed { entry, worker: Rc::clone(worker) }
}

fn who(worker: &Worker, door: &Door, startup: &Startup, (source, role): (Source, Rc<str>)) -> Who {
    let (database, user) = named(startup);
    Who {
        database: worker.name(database),
        user: worker.name(user),
        application: worker.name(startup.parameter("application_name").unwrap_or_default()),
        source,
        role,
        local: door.io.local(),
        cipher: door.io.cipher(),
        replication: startup.replication().unwrap_or_default(),
    }
}

/// What proves that a cancel request comes from this client.
fn secret(startup: &Startup) -> Box<[u8]> {
    // Protocol 3.2 allows up to 256 bytes; 32 are beyond guessing.
    let mut secret = vec![0; if startup.negotiated() == V3_2 { 32 } else { 4 }];
    rand::rng().fill_bytes(&mut secret);
    secret.into()
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
fn greet<'a>(
    said: &'a [(String, String)],
    own: impl Fn(&str) -> Option<&'a str>,
    entry: &Entry,
    out: &mut Vec<u8>,
) {
    backend::put_authentication(out, Authentication::Ok);
    for (name, value) in said {
        backend::put_parameter(out, name, own(name).unwrap_or(value));
    }
    let key = CancelKey { pid: entry.pid, secret: entry.secret.to_vec() };
    backend::put_key(out, &key);
    backend::put_ready(out, Status::Idle);
}

/// Whether the pool logs in to servers by what its clients have proved: with a password it derives keys for the servers'
/// salt, which is not ours.
fn takes_proofs(pool: &Pool) -> bool {
    pool.database().passes_clients_on() && pool.user().password().is_none()
}

/// Whether it is whoever runs this process, by a socket of this host: PgBouncer's user `pgbouncer`, who
/// needs no password, whatever users and rules say of that name.
fn is_owner(snapshot: &Snapshot, name: &str, database: &str, source: Source) -> bool {
    let owner = matches!(source, Source::Unix { uid, .. } if uid == snapshot.uid);
    owner && name == CONSOLE && database == CONSOLE
}

async fn console(
    worker: &Rc<Worker>,
    (door, startup): (&mut Door, &Startup),
    source: Source,
    rights: Console,
) -> Result<Admitted, Refusal> {
    let (_, user) = named(startup);
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
    let who = who(worker, door, startup, (source, worker.name(CONSOLE)));
    let seat = Seat::take(worker, door.id, secret(startup), who);
    let key = CancelKey { pid: seat.pid, secret: seat.abort.secret.to_vec() };
    backend::put_key(&mut out, &key);
    backend::put_ready(&mut out, Status::Idle);
    door.write(&out).await?;
    Ok(Admitted::Console(crate::admin::Guest { user: user.to_owned(), rights, seat }))
}

#[cfg(test)]
mod tests {
    use pgpool_wire::startup::{self, Opening, V3_0, put_startup};

    use super::*;

    /// P1: a database without a name is the user's, wherever it is looked at.
    #[test]
    fn a_database_without_a_name_is_the_users() {
        let all: [(&[(&str, &str)], _); 3] = [
            (&[("user", "app")], ("app", "app")),
            (&[("user", "app"), ("database", "")], ("app", "app")),
            (&[("user", "app"), ("database", "shop")], ("shop", "app")),
        ];
        for (parameters, expected) in all {
            let mut packet = Vec::new();
            put_startup(&mut packet, V3_0, parameters);
            let Ok(Some((Opening::Startup(startup), _))) = startup::opening(&packet) else {
                panic!("a startup packet");
            };
            assert_eq!(named(&startup), expected);
        }
    }
}
