//! What one worker has, as plain values that can be sent to whoever asks. Not for how it is shown:
//! that is `show`. Made by the worker on request, joined by the admin database and `/endpoints`.
//!
//! Invariant: taking a report changes nothing.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use pgpool_wire::startup::Replication;
use tokio::sync::{mpsc, oneshot};
use topology::pool::{PoolMode, ServerAddress};

use super::seat::Visitor;
use super::verbs::Hold;
use crate::client::entry::{ClientPhase, Entry};
use crate::client::source::Source;
use crate::pool::{Counters, Load, Pool};
use crate::server::{Facts, ServerPhase};
use crate::snapshot::CONSOLE;
use crate::worker::{Message, Worker};

/// One worker's, or all workers', pools, clients and servers.
#[derive(Debug, Default)]
pub struct Report {
    /// Pools.
    pub pools: Vec<PoolRow>,
    /// Clients.
    pub clients: Vec<ClientRow>,
    /// Clients of the admin database.
    pub consoles: Vec<ClientRow>,
    /// Servers.
    pub servers: Vec<ServerRow>,
    /// How many of these.
    pub counts: Counts,
    /// Databases that are paused or disabled.
    pub held: HashSet<(String, Hold)>,
    /// Whether all databases are paused.
    pub paused: bool,
    /// Whether `SUSPEND` is in force.
    pub suspended: bool,
}

/// How many clients and servers there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Clients.
    pub clients: usize,
    /// Of these, those that are logging in.
    pub logins: usize,
    /// Servers.
    pub servers: usize,
    /// Consoles that have come so far.
    pub visits: u64,
}

/// How much is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// All.
    Rows,
    /// No row of a client or of a server: there may be ten thousands.
    Counts,
}

/// A pool.
#[derive(Debug)]
pub struct PoolRow {
    /// Its database.
    pub database: String,
    /// Its user.
    pub user: String,
    /// When servers go back.
    pub mode: PoolMode,
    /// Servers and waiters.
    pub load: Load,
    /// Clients that have a server, or need none.
    pub active: usize,
    /// How long the first in the queue has waited.
    pub waited: Duration,
    /// Cancel requests on their way.
    pub cancels: u32,
    /// Servers that wait for the last of these before somebody else gets them.
    pub hit: usize,
    /// Whether it is paused.
    pub paused: bool,
    /// Counters since the start.
    pub totals: Counters,
    /// Counters of the last whole period.
    pub recent: Counters,
    /// How long that was.
    pub period: Duration,
    /// Which pool it is: its shards' rows are one.
    pub whole: usize,
    /// Servers of all shards that are there, come or go.
    pub held: usize,
    /// Of these, between two shards.
    pub moving: usize,
}

/// A client.
#[derive(Debug)]
pub struct ClientRow {
    /// Its number.
    pub pid: u32,
    /// Its user.
    pub user: String,
    /// Its database.
    pub database: String,
    /// What it does.
    pub phase: ClientPhase,
    /// From where.
    pub source: Source,
    /// Our end of its connection.
    pub local: Option<SocketAddr>,
    /// When it came.
    pub connected: SystemTime,
    /// When it last began something.
    pub requested: SystemTime,
    /// How long it has waited.
    pub waited: Duration,
    /// Its server.
    pub server: Option<u64>,
    /// The cipher suite, if bytes travel encrypted.
    pub cipher: Option<&'static str>,
    /// Statements that it has named.
    pub prepared: usize,
    /// What it is here for.
    pub replication: Replication,
    /// What it calls itself.
    pub application: String,
}

/// A server connection.
#[derive(Debug)]
pub struct ServerRow {
    /// Numbers connections of one worker.
    pub id: u64,
    /// Its user.
    pub user: String,
    /// Its database.
    pub database: String,
    /// What it does.
    pub phase: ServerPhase,
    /// Where.
    pub address: ServerAddress,
    /// Our own end.
    pub local: Option<SocketAddr>,
    /// When it was made.
    pub connected: SystemTime,
    /// When it was last given or taken.
    pub requested: SystemTime,
    /// Whether it is closed when it is next free.
    pub condemned: bool,
    /// The client that has it.
    pub client: Option<u32>,
    /// Its process.
    pub pid: u32,
    /// The cipher suite, if bytes travel encrypted.
    pub cipher: Option<&'static str>,
    /// Prepared statements that it holds.
    pub prepared: usize,
    /// What its client calls itself.
    pub application: String,
    /// What it is for.
    pub replication: Replication,
}

impl Report {
    /// What a worker has.
    pub fn of(worker: &Worker) -> Self {
        Self::with(worker, Detail::Rows)
    }

    /// What a worker has, as far as it is asked for.
    pub fn with(worker: &Worker, detail: Detail) -> Self {
        worker.tick();
        let clients = worker.clients();
        let pools = worker.pools();
        let login = clients.iter().filter(|entry| entry.phase() == ClientPhase::Login);
        let counts = Counts {
            clients: clients.len(),
            logins: login.count(),
            servers: pools.iter().map(|pool| pool.servers().len()).sum(),
            visits: worker.visits(),
        };
        let (listed, shown) = match detail {
            Detail::Rows => (&clients[..], &pools[..]),
            Detail::Counts => (&[][..], &[][..]),
        };
        Self {
            counts,
            held: worker.held(),
            paused: worker.is_held("", Hold::Paused) && !worker.is_held("", Hold::Suspended),
            suspended: worker.is_held("", Hold::Suspended),
            pools: pools.iter().map(|pool| pool_row(worker, pool, &clients)).collect(),
            clients: listed.iter().map(|entry| client_row(worker, entry)).collect(),
            consoles: worker.each_console(console_row),
            servers: shown
                .iter()
                .flat_map(|pool| {
                    let row = |facts: &std::rc::Rc<Facts>| server_row(worker, pool, facts);
                    pool.servers().iter().map(row).collect::<Vec<_>>()
                })
                .collect(),
        }
    }

    /// What all workers have; one that ends meanwhile counts as empty.
    pub async fn of_all(peers: &[mpsc::UnboundedSender<Message>]) -> Self {
        Self::all_with(peers, Detail::Rows).await
    }

    /// The same, as far as it is asked for.
    pub async fn all_with(peers: &[mpsc::UnboundedSender<Message>], detail: Detail) -> Self {
        let mut all = Self::default();
        for peer in peers {
            let (to, from) = oneshot::channel();
            if peer.send(Message::Report(detail, to)).is_err() {
                continue;
            }
            if let Ok(report) = from.await {
                all.pools.extend(report.pools);
                all.clients.extend(report.clients);
                all.consoles.extend(report.consoles);
                all.servers.extend(report.servers);
                all.counts.clients += report.counts.clients;
                all.counts.logins += report.counts.logins;
                all.counts.servers += report.counts.servers;
                all.counts.visits += report.counts.visits;
                all.held.extend(report.held);
                all.paused |= report.paused;
                all.suspended |= report.suspended;
            }
        }
        all.pools
            .sort_by(|a, b| (&a.database, &a.user, a.whole).cmp(&(&b.database, &b.user, b.whole)));
        all.pools.dedup_by(|next, first| first.whole == next.whole && first.join(next));
        all
    }
}

impl PoolRow {
    /// Whether it has no server, none comes and none goes.
    pub fn is_bare(&self) -> bool {
        // A server between two shards is in neither's load.
        self.load.servers() + self.held == 0
    }

    /// Adds another shard; always `true`.
    fn join(&mut self, other: &Self) -> bool {
        self.load = self.load.plus(&other.load);
        self.active += other.active;
        self.waited = self.waited.max(other.waited);
        self.cancels += other.cancels;
        self.hit += other.hit;
        self.paused |= other.paused;
        self.totals = self.totals.plus(&other.totals);
        self.recent = self.recent.plus(&other.recent);
        self.period = self.period.max(other.period);
        // The same of all, looked at one after the other.
        self.held = self.held.max(other.held);
        self.moving = self.moving.max(other.moving);
        true
    }
}

fn is_of(entry: &Entry, pool: &Pool) -> bool {
    *entry.database == *pool.database().name && *entry.role == *pool.user().name
}

fn pool_row(worker: &Worker, pool: &Pool, clients: &[std::rc::Rc<Entry>]) -> PoolRow {
    let active = clients.iter().filter(|entry| {
        is_of(entry, pool) && matches!(entry.phase(), ClientPhase::Active | ClientPhase::Idle)
    });
    PoolRow {
        database: pool.database().name.clone(),
        user: pool.user().name.clone(),
        mode: pool.mode(),
        load: pool.load(),
        active: active.count(),
        waited: pool.oldest_wait(worker.now()),
        cancels: pool.servers().iter().map(|facts| facts.cancels.get()).sum(),
        hit: pool.servers().iter().filter(|facts| is_hit(facts)).count(),
        paused: pool.is_paused(),
        totals: pool.meters.totals.all(),
        recent: pool.recent(),
        period: worker.period.lasted(),
        whole: std::sync::Arc::as_ptr(&pool.whole) as usize,
        held: pool.whole.held(),
        moving: pool.whole.moving(),
    }
}

/// Whether cancel requests alone keep it from the next client.
fn is_hit(facts: &Facts) -> bool {
    facts.cancels.get() > 0 && facts.client.get().is_none()
}

fn console_row(pid: u32, visitor: &Visitor) -> ClientRow {
    let Visitor { who, connected, .. } = visitor;
    ClientRow {
        pid,
        user: who.user.to_string(),
        database: CONSOLE.to_owned(),
        phase: ClientPhase::Active,
        source: who.source,
        local: who.local,
        connected: *connected,
        requested: *connected,
        waited: Duration::ZERO,
        server: None,
        cipher: who.cipher,
        replication: who.replication,
        application: who.application.to_string(),
        prepared: 0,
    }
}

fn client_row(worker: &Worker, entry: &Entry) -> ClientRow {
    let now = worker.now();
    let waited = entry.waiting.get().map(|since| now.saturating_duration_since(since));
    ClientRow {
        pid: entry.pid,
        user: entry.user.to_string(),
        database: entry.database.to_string(),
        phase: entry.phase(),
        source: entry.source,
        local: entry.local,
        connected: entry.connected,
        requested: ago(now.saturating_duration_since(entry.requested.get())),
        waited: waited.unwrap_or_default(),
        server: entry.server().map(|facts| facts.id),
        cipher: entry.cipher,
        prepared: entry.prepared.get(),
        replication: entry.replication,
        application: entry.application.borrow().to_string(),
    }
}

fn server_row(worker: &Worker, pool: &Pool, facts: &Facts) -> ServerRow {
    let now = worker.now();
    let client = facts.client.get().and_then(|pid| worker.client(pid));
    let application = client.map(|entry| entry.application.borrow().to_string());
    ServerRow {
        id: facts.id,
        user: pool.user().name.clone(),
        database: pool.database().name.clone(),
        phase: facts.phase.get(),
        address: facts.peer.clone(),
        local: facts.local,
        connected: ago(now.saturating_duration_since(facts.born)),
        requested: ago(now.saturating_duration_since(facts.used.get())),
        condemned: facts.condemned.get() || !pool.is_current(facts),
        client: facts.client.get(),
        pid: facts.key.as_ref().map_or(0, |key| key.pid),
        cipher: facts.cipher,
        prepared: facts.prepared.get(),
        application: application.unwrap_or_default(),
        replication: facts.replication,
    }
}

fn ago(time: Duration) -> SystemTime {
    SystemTime::now().checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Moves the gauges of a worker's pools.
pub fn show_gauges(worker: &Worker) {
    let clients = worker.clients();
    for pool in worker.pools() {
        let count = |phase| {
            let those = clients.iter().filter(|e| is_of(e, &pool) && e.phase() == phase);
            those.count()
        };
        let load = pool.load();
        let clients = [ClientPhase::Active, ClientPhase::Waiting, ClientPhase::Idle].map(count);
        let [active, waiting, idle] = clients;
        let share = [active, waiting, idle, load.active + load.cleaning, load.idle];
        let gauges = pool.meters.clients.iter().chain(&pool.meters.servers);
        let sums = pool.whole.sums(worker.id.0, share);
        gauges.zip(sums).for_each(|(gauge, sum)| gauge.set(sum));
        let totals = &pool.meters.totals;
        let worked = totals.query_micros.get();
        let idle = totals.transaction_micros.get().saturating_sub(worked);
        let held = pool.meters.held.iter().zip(&pool.meters.told);
        for ((counter, told), micros) in held.zip([worked, idle]) {
            // Another shard adds to it as well.
            let seconds = micros / 1_000_000;
            counter.increment(seconds.saturating_sub(told.get()));
            told.set(told.get().max(seconds));
        }
    }
}
