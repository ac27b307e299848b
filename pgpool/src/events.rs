//! What an operator must hear of a pooler, each with its log line and metric. Not for what happens
//! per query: those are counters in `pool::Meters`.
//!
//! Invariant: no secret, and no SQL but the shape of a slow query; labels are names from the topology file.

use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use common::observe::{Event, Observer};
pub use common::reload::events::ReloadRefused;
use common::trace_parent::TraceParent;
pub use common::upgrade::events::{HandedOver, TakenOver, UpgradeFailed};
use pgpool_wire::startup::Startup;
use topology::pool::ServerAddress;
use tracing::Level;

use crate::admin::show::encryption;
use crate::client::entry::Entry;
use crate::client::source::Source;
use crate::client::startup::named;
use crate::family::marks::MarksError;
use crate::fatal::Refusal;
use crate::hba::Asking;
use crate::pool::Counters;
use crate::server::Facts;

/// A server let us in.
pub struct ServerConnected<'a> {
    /// Of which database.
    pub database: &'a str,
    /// As whom.
    pub user: &'a str,
    /// Where.
    pub address: &'a ServerAddress,
    /// It.
    pub server: &'a Facts,
}

impl Event for ServerConnected<'_> {
    fn emit(&self, to: &Observer) {
        let labels = [("database", self.database), ("user", self.user)];
        let help = "Server connections made.";
        to.metrics.counter("aqueduct_pg_server_connects_total", help, &labels).increment(1);
        let (instance, database, user) = (&*to.instance, self.database, self.user);
        let (id, local) = (self.server.id, self.server.local);
        tracing::event!(target: CONNECTIONS, Level::DEBUG, instance, id, database, user, address = %self.address, local = local.map(tracing::field::display), "server connected");
    }
}

/// A server did not let us in.
pub struct ServerFailed<'a> {
    /// Of which database.
    pub database: &'a str,
    /// As whom.
    pub user: &'a str,
    /// Where.
    pub address: &'a ServerAddress,
    /// Why.
    pub cause: &'a dyn Display,
}

impl Event for ServerFailed<'_> {
    fn emit(&self, to: &Observer) {
        let labels = [("database", self.database), ("user", self.user)];
        let help = "Server connections that failed.";
        to.metrics.counter("aqueduct_pg_server_failures_total", help, &labels).increment(1);
        let (instance, database, user) = (&*to.instance, self.database, self.user);
        tracing::event!(Level::WARN, instance, database, user, address = %self.address, cause = %self.cause, "server connection failed");
    }
}

/// Nobody could say what a role must prove.
pub struct LookupFailed<'a> {
    /// Which database was asked.
    pub database: &'a str,
    /// Why.
    pub cause: &'a str,
}

impl Event for LookupFailed<'_> {
    fn emit(&self, to: &Observer) {
        let help = "Lookups of roles that failed.";
        to.metrics.counter("aqueduct_pg_lookup_failures_total", help, &[]).increment(1);
        let (instance, database, cause) = (&*to.instance, self.database, self.cause);
        tracing::event!(Level::WARN, instance, database, cause, "lookup of a role failed");
    }
}

/// The name of a server cannot be looked up: what was known of it holds on.
pub struct NameFailed<'a> {
    /// Which.
    pub name: &'a str,
    /// Why.
    pub cause: &'a str,
}

impl Event for NameFailed<'_> {
    fn emit(&self, to: &Observer) {
        let help = "Lookups of servers' names that failed.";
        to.metrics.counter("aqueduct_pg_name_failures_total", help, &[]).increment(1);
        let (instance, name, cause) = (&*to.instance, self.name, self.cause);
        tracing::event!(Level::WARN, instance, name, cause, "DNS lookup failed");
    }
}

/// The name of a server leads elsewhere: connections to where it led are closed when they are free.
pub struct NameMoved<'a> {
    /// Which.
    pub name: &'a str,
    /// Where to.
    pub to: &'a [IpAddr],
}

impl Event for NameMoved<'_> {
    fn emit(&self, to: &Observer) {
        let help = "Times that a server's name was found to lead elsewhere.";
        to.metrics.counter("aqueduct_pg_name_changes_total", help, &[]).increment(1);
        let (instance, name, addresses) = (&*to.instance, self.name, self.to);
        tracing::event!(Level::INFO, instance, name, ?addresses, "the name leads elsewhere");
    }
}

/// A pool's ear is connected: it listens for its clients.
pub struct EarConnected<'a> {
    /// Of which database.
    pub database: &'a str,
    /// As whom.
    pub user: &'a str,
    /// Where.
    pub address: &'a ServerAddress,
    /// On how many channels.
    pub channels: usize,
}

impl Event for EarConnected<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, database, user) = (&*to.instance, self.database, self.user);
        let (address, channels) = (self.address, self.channels);
        tracing::event!(Level::INFO, instance, database, user, %address, channels, "listening for clients");
    }
}

/// The connection that listens for clients is lost: until there is another one, they hear nothing.
pub struct EarLost<'a> {
    /// Of which database.
    pub database: &'a str,
    /// As whom.
    pub user: &'a str,
    /// Why.
    pub cause: &'static str,
    /// On how many channels it has listened.
    pub channels: usize,
}

impl Event for EarLost<'_> {
    fn emit(&self, to: &Observer) {
        let labels = [("database", self.database), ("user", self.user)];
        let help = "Times that the connection which listens for clients was lost.";
        to.metrics.counter("aqueduct_pg_listen_losses_total", help, &labels).increment(1);
        let (instance, database, user) = (&*to.instance, self.database, self.user);
        let (cause, channels) = (self.cause, self.channels);
        tracing::event!(
            Level::WARN,
            instance,
            database,
            user,
            cause,
            channels,
            "no longer listening for clients"
        );
    }
}

/// A database has another primary, or none.
pub struct PrimaryChanged<'a> {
    /// Of which database.
    pub database: &'a str,
    /// The new one.
    pub address: Option<&'a ServerAddress>,
}

impl Event for PrimaryChanged<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, database) = (&*to.instance, self.database);
        let help = "Times that a server was found to be the primary.";
        match self.address {
            Some(address) => {
                let labels = [("database", database)];
                to.metrics.counter("aqueduct_pg_primaries_total", help, &labels).increment(1);
                tracing::event!(Level::INFO, instance, database, %address, "primary");
            }
            None => tracing::event!(Level::WARN, instance, database, "no primary"),
        }
    }
}

/// Two servers call themselves primary on the same timeline: neither gets writes.
pub struct PrimarySplit<'a> {
    /// Of which database.
    pub database: &'a str,
}

impl Event for PrimarySplit<'_> {
    fn emit(&self, to: &Observer) {
        let labels = [("database", self.database)];
        let help = "Times that two servers called themselves primary on one timeline.";
        to.metrics.counter("aqueduct_pg_splits_total", help, &labels).increment(1);
        let (instance, database) = (&*to.instance, self.database);
        tracing::event!(
            Level::ERROR,
            instance,
            database,
            "two primaries on one timeline: no writes until one of them is stopped"
        );
    }
}

/// The newest timeline could not be kept for a process that starts later.
pub struct TimelineNotKept<'a> {
    /// Of which database.
    pub database: &'a str,
    /// Why.
    pub cause: &'a MarksError,
}

impl Event for TimelineNotKept<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, database, cause) = (&*to.instance, self.database, self.cause);
        tracing::event!(Level::ERROR, instance, database, %cause, "timeline not kept");
    }
}

/// A server connection ends.
pub struct ServerClosed<'a> {
    /// Of which database.
    pub database: &'a str,
    /// As whom.
    pub user: &'a str,
    /// It.
    pub server: &'a Facts,
    /// Why.
    pub cause: &'static str,
}

impl Event for ServerClosed<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, database, user) = (&*to.instance, self.database, self.user);
        let (id, cause, age) = (self.server.id, self.cause, self.server.born.elapsed().as_secs());
        tracing::event!(target: CONNECTIONS, Level::DEBUG, instance, id, database, user, address = %self.server.peer, cause, age, "server closed");
    }
}

/// The target of what is told of every single connection.
pub const CONNECTIONS: &str = "pgpool::connections";

/// A client has said what it wants, and is about to be asked who it is.
pub struct LoginAttempt<'a> {
    /// Its number.
    pub id: u32,
    /// It.
    pub asking: &'a Asking<'a>,
    /// The cipher suite, if bytes travel encrypted.
    pub cipher: Option<&'static str>,
}

impl Event for LoginAttempt<'_> {
    fn emit(&self, to: &Observer) {
        let Asking { database, user, source, replication, .. } = *self.asking;
        let (instance, replication) = (&*to.instance, replication.name());
        let (id, tls) = (self.id, encryption(self.cipher));
        tracing::event!(target: CONNECTIONS, Level::DEBUG, instance, id, database, user, address = %source, tls, replication, "login attempt");
    }
}

/// A client is in.
pub struct ClientConnected<'a> {
    /// It.
    pub client: &'a Entry,
}

impl Event for ClientConnected<'_> {
    fn emit(&self, to: &Observer) {
        let Entry { pid: id, database, user, source, cipher, .. } = self.client;
        let instance = &*to.instance;
        tracing::event!(target: CONNECTIONS, Level::DEBUG, instance, id, database = &**database, user = &**user, address = %source, tls = cipher.is_some(), "client connected");
    }
}

/// A client has said goodbye, or is gone.
pub struct ClientLeft<'a> {
    /// It.
    pub client: &'a Entry,
}

impl Event for ClientLeft<'_> {
    fn emit(&self, to: &Observer) {
        let Entry { pid: id, database, user, source, .. } = self.client;
        let (instance, age) = (&*to.instance, age(self.client));
        tracing::event!(target: CONNECTIONS, Level::DEBUG, instance, id, database = &**database, user = &**user, address = %source, age, "client left");
    }
}

fn age(client: &Entry) -> u64 {
    client.connected.elapsed().unwrap_or_default().as_secs()
}

/// A client did not get in.
pub struct LoginRefused<'a> {
    /// Its number; 0: it has not said what it wants.
    pub id: u32,
    /// From where.
    pub source: Source,
    /// The database that it named.
    pub database: &'a str,
    /// Who it says it is.
    pub user: &'a str,
    /// What it was told.
    pub cause: &'a Refusal,
}

impl<'a> LoginRefused<'a> {
    /// Of a client that has said what it wants.
    pub fn of(id: u32, startup: &'a Startup, source: Source, cause: &'a Refusal) -> Self {
        let (database, user) = named(startup);
        Self { id, source, database, user, cause }
    }
}

impl Event for LoginRefused<'_> {
    fn emit(&self, to: &Observer) {
        let help = "Clients that did not get in.";
        to.metrics.counter("aqueduct_pg_logins_refused_total", help, &[]).increment(1);
        let (instance, id, database, user) = (&*to.instance, self.id, self.database, self.user);
        tracing::event!(Level::INFO, instance, id, database, user, address = %self.source, cause = %self.cause, word = self.cause.word().as_deref(), "login refused");
    }
}

/// A client was ended by us or by a server's fault.
pub struct ClientEnded<'a> {
    /// It.
    pub client: &'a Entry,
    /// What it was told.
    pub cause: &'a Refusal,
}

impl Event for ClientEnded<'_> {
    fn emit(&self, to: &Observer) {
        let Entry { pid: id, database, user, source, .. } = self.client;
        let (database, user) = (&**database, &**user);
        let labels = [("database", database), ("user", user)];
        let help = "Clients ended by the pooler.";
        to.metrics.counter("aqueduct_pg_clients_ended_total", help, &labels).increment(1);
        let (instance, age) = (&*to.instance, age(self.client));
        tracing::event!(Level::INFO, instance, id, database, user, address = %source, age, cause = %self.cause, word = self.cause.word().as_deref(), "client ended");
    }
}

/// A query took longer than `slow-query`.
pub struct QuerySlow<'a> {
    /// Whose.
    pub client: &'a Entry,
    /// Who carried it out.
    pub server: &'a Facts,
    /// How long that took.
    pub took: Duration,
    /// How long its client had waited for the server.
    pub waited: Duration,
    /// Its trace, if it came with one.
    pub trace: Option<TraceParent>,
    /// Its text without constants; empty: it was prepared long ago, or is too large.
    pub shape: &'a str,
}

impl Event for QuerySlow<'_> {
    fn emit(&self, to: &Observer) {
        let Entry { pid: id, database, user, .. } = self.client;
        let (database, user) = (&**database, &**user);
        let labels = [("database", database), ("user", user)];
        let help = "Queries that took longer than `slow-query`.";
        to.metrics.counter("aqueduct_pg_slow_queries_total", help, &labels).increment(1);
        let trace = self.trace.map(TraceParent::trace_hex);
        let trace = trace.as_ref().map(|digits| String::from_utf8_lossy(digits));
        let (instance, server, query) = (&*to.instance, self.server.id, self.shape);
        let [took_ms, wait_ms] = [self.took, self.waited]
            .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        tracing::event!(
            Level::INFO,
            instance,
            id,
            database,
            user,
            server,
            took_ms,
            wait_ms,
            trace = trace.as_deref(),
            query,
            "slow query"
        );
    }
}

/// Listening begins.
pub struct Listening<'a> {
    /// Where.
    pub address: &'a dyn Display,
    /// With how many workers.
    pub workers: usize,
}

impl Event for Listening<'_> {
    fn emit(&self, to: &Observer) {
        let instance = &*to.instance;
        tracing::event!(Level::INFO, instance, address = %self.address, workers = self.workers, "listening");
    }
}

/// A changed file is in force.
pub struct Reloaded<'a> {
    /// Keys that change with a restart only.
    pub waiting: &'a [&'a str],
}

impl Event for Reloaded<'_> {
    fn emit(&self, to: &Observer) {
        tracing::event!(Level::INFO, instance = &*to.instance, "reloaded");
        common::reload::events::applied(to, self.waiting);
    }
}

/// The kernel has no descriptor or memory for another connection.
pub struct AcceptExhausted<'a> {
    /// What it said.
    pub cause: &'a std::io::Error,
}

impl Event for AcceptExhausted<'_> {
    fn emit(&self, to: &Observer) {
        let help = "Times the system had no room for another connection.";
        to.metrics.counter("aqueduct_pg_accept_exhausted_total", help, &[]).increment(1);
        let instance = &*to.instance;
        tracing::event!(Level::WARN, instance, cause = %self.cause, "cannot accept connections");
    }
}

/// A cancel request was one too many, in all or from its address.
pub struct CancelRefused {
    /// From where.
    pub source: Source,
    /// Whether that was logged lately.
    pub told: bool,
}

impl Event for CancelRefused {
    fn emit(&self, to: &Observer) {
        let help = "Cancel requests that were refused because too many were on their way.";
        to.metrics.counter("aqueduct_pg_cancels_refused_total", help, &[]).increment(1);
        if !self.told {
            let (instance, address) = (&*to.instance, self.source);
            tracing::event!(Level::WARN, instance, %address, "too many cancel requests at a time, refused");
        }
    }
}

/// A command of the admin database was carried out.
pub struct ConsoleCommand<'a> {
    /// By whom.
    pub user: &'a str,
    /// What.
    pub command: &'a str,
}

impl Event for ConsoleCommand<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, user, command) = (&*to.instance, self.user, self.command);
        tracing::event!(Level::INFO, instance, user, command, "admin command");
    }
}

/// A client goes on in the process that takes over.
pub struct ClientMoved {
    /// Its number.
    pub id: u32,
}

impl Event for ClientMoved {
    fn emit(&self, to: &Observer) {
        count_move(to, "to");
        let (instance, id) = (&*to.instance, self.id);
        tracing::event!(Level::DEBUG, instance, id, "client moved on");
    }
}

/// A client goes on here that another process has served until now.
pub struct ClientTaken<'a> {
    /// It.
    pub client: &'a Entry,
}

impl Event for ClientTaken<'_> {
    fn emit(&self, to: &Observer) {
        count_move(to, "from");
        let (instance, id) = (&*to.instance, self.client.pid);
        tracing::event!(Level::DEBUG, instance, id, "client taken over");
    }
}

/// A client, or all of them, cannot move between this process and another one.
pub struct MoveFailed<'a> {
    /// Why.
    pub cause: &'a dyn Display,
}

impl Event for MoveFailed<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, cause) = (&*to.instance, self.cause);
        tracing::event!(Level::WARN, instance, %cause, "move failed");
    }
}

fn count_move(to: &Observer, which: &'static str) {
    let help = "Clients that have moved to another process of the instance, or from one.";
    to.metrics.counter("aqueduct_pg_clients_moved_total", help, &[("which", which)]).increment(1);
}

/// Something worth knowing about the configuration.
pub struct Noted<'a> {
    /// What.
    pub what: &'a str,
}

impl Event for Noted<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, what) = (&*to.instance, self.what);
        tracing::event!(Level::WARN, instance, what, "noted");
    }
}

/// The process serves; told in the drop-in form alone.
pub struct ProcessUp {
    /// Its version.
    pub version: &'static str,
}

impl Event for ProcessUp {
    fn emit(&self, to: &Observer) {
        let instance = &*to.instance;
        tracing::event!(Level::INFO, instance, "process up: pgpool {}", self.version);
    }
}

/// What a period has brought, in PgBouncer's words; told in the drop-in form alone.
pub struct Rates {
    /// Its counts.
    pub counts: Counters,
    /// Its length.
    pub seconds: u64,
}

impl Event for Rates {
    fn emit(&self, to: &Observer) {
        let instance = &*to.instance;
        tracing::event!(Level::INFO, instance, "{}", self.text());
    }
}

impl Rates {
    fn text(&self) -> String {
        let [
            given,
            xacts,
            queries,
            received,
            sent,
            xact_time,
            query_time,
            wait,
            client,
            server,
            binds,
        ] = self.counts.0;
        let rate = |count: u64| count / self.seconds.max(1);
        let each = |time: u64, of: u64| time / of.max(1);
        format!(
            "stats: {} xacts/s, {} queries/s, {} client parses/s, {} server parses/s, {} binds/s, \
             in {} B/s, out {} B/s, xact {} us, query {} us, wait {} us",
            rate(xacts),
            rate(queries),
            rate(client),
            rate(server),
            rate(binds),
            rate(received),
            rate(sent),
            each(xact_time, xacts),
            each(query_time, queries),
            each(wait, given),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// O2: the line of a period is PgBouncer's: what took time by what took it.
    #[test]
    fn rates_are_those_of_pgbouncer() {
        let counts = Counters([4, 10, 20, 1000, 2000, 500, 600, 80, 30, 40, 50]);
        let text = Rates { counts, seconds: 10 }.text();
        let expected = "stats: 1 xacts/s, 2 queries/s, 3 client parses/s, 4 server parses/s, 5 binds/s, \
                        in 100 B/s, out 200 B/s, xact 50 us, query 30 us, wait 20 us";
        assert_eq!(text, expected);
    }
}
