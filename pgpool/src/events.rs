//! What an operator must hear of a pooler, each with its log line and metric. Not for what happens
//! per query: those are counters in `pool::Meters`.
//!
//! Invariant: no secret and no SQL; labels are names from the topology file.

use std::fmt::Display;
use std::net::SocketAddr;

use common::observe::{Event, Observer};
pub use common::reload::events::ReloadRefused;
use topology::pool::ServerAddress;
use tracing::Level;

/// A server let us in.
pub struct ServerConnected<'a> {
    /// Of which database.
    pub database: &'a str,
    /// As whom.
    pub user: &'a str,
    /// Where.
    pub address: &'a ServerAddress,
}

impl Event for ServerConnected<'_> {
    fn emit(&self, to: &Observer) {
        let labels = [("database", self.database), ("user", self.user)];
        let help = "Server connections made.";
        to.metrics.counter("aqueduct_pg_server_connects_total", help, &labels).increment(1);
        let (instance, database, user) = (&*to.instance, self.database, self.user);
        tracing::event!(Level::DEBUG, instance, database, user, address = %self.address, "server connected");
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

/// A client did not get in.
pub struct LoginRefused<'a> {
    /// From where.
    pub address: SocketAddr,
    /// What it was told.
    pub cause: &'a dyn Display,
}

impl Event for LoginRefused<'_> {
    fn emit(&self, to: &Observer) {
        let help = "Clients that did not get in.";
        to.metrics.counter("aqueduct_pg_logins_refused_total", help, &[]).increment(1);
        let instance = &*to.instance;
        tracing::event!(Level::INFO, instance, address = %self.address, cause = %self.cause, "login refused");
    }
}

/// A client was ended by us or by a server's fault.
pub struct ClientEnded<'a> {
    /// Its database.
    pub database: &'a str,
    /// Its user.
    pub user: &'a str,
    /// What it was told.
    pub cause: &'a dyn Display,
}

impl Event for ClientEnded<'_> {
    fn emit(&self, to: &Observer) {
        let labels = [("database", self.database), ("user", self.user)];
        let help = "Clients ended by the pooler.";
        to.metrics.counter("aqueduct_pg_clients_ended_total", help, &labels).increment(1);
        let (instance, database, user) = (&*to.instance, self.database, self.user);
        tracing::event!(Level::INFO, instance, database, user, cause = %self.cause, "client ended");
    }
}

/// Listening begins.
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    /// With how many workers.
    pub workers: usize,
}

impl Event for Listening {
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
