//! What an operator must hear of a gateway: one struct per happening, its log line and its counter
//! side by side. Not for what happens per request: those are records and counters of the sink.
//!
//! Invariant: labels are names of the topology file.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use common::net::proxy_protocol::ReadFault;
use common::observe::{Event, Observer};
use common::reload;
use tracing::Level;

use crate::change::{Change, Connected};
use crate::engine::frames::Abuse;
use crate::stages::tls::HandshakeFault;

/// The instance serves.
#[derive(Debug)]
pub struct Started<'a> {
    /// Where.
    pub listen: SocketAddr,
    /// Its group.
    pub group: &'a str,
    /// Threads that serve.
    pub workers: usize,
    /// Routes it knows.
    pub routes: usize,
}

/// It takes nothing new and finishes what was begun.
#[derive(Debug)]
pub struct Draining {
    /// Connections that are left.
    pub connections: u32,
}

/// An HTTP/2 client sent too much that was of no use.
#[derive(Debug)]
pub struct Http2Abused {
    /// The client.
    pub client: SocketAddr,
    /// What.
    pub abuse: Abuse,
}

/// A TLS handshake was not finished.
#[derive(Debug)]
pub struct HandshakeRefused {
    /// The client.
    pub client: SocketAddr,
    /// Why.
    pub fault: HandshakeFault,
}

/// A changed file is in force.
#[derive(Debug)]
pub struct Reloaded<'a> {
    /// What it did.
    pub change: &'a Change,
}

/// The access log's file was to be opened anew.
#[derive(Debug)]
pub struct LogReopened<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// Why it could not be; the former file stays in use.
    pub fault: Option<io::Error>,
}

/// Lines of the access log are being lost.
#[derive(Debug)]
pub struct LogFails {
    /// What the system says; `None`: whoever takes them takes none.
    pub fault: Option<String>,
}

/// The access log takes lines again.
#[derive(Debug)]
pub struct LogRecovered {
    /// Lines that were lost.
    pub lost: u64,
}

/// It has ended.
#[derive(Debug)]
pub struct Stopped;

/// Descriptors or memory are exhausted: new connections wait in the kernel.
#[derive(Debug)]
pub struct Exhausted<'a> {
    /// What accept(2) said.
    pub error: &'a io::Error,
}

/// `max_connections` is reached: a connection was closed unread.
#[derive(Debug)]
pub struct Full;

/// A trusted peer sent no usable PROXY header.
#[derive(Debug)]
pub struct ProxyHeaderRefused {
    /// The peer.
    pub from: SocketAddr,
    /// What was wrong.
    pub fault: ReadFault,
}

impl Event for Started<'_> {
    fn emit(&self, to: &Observer) {
        let (listen, group, workers, routes) = (self.listen, self.group, self.workers, self.routes);
        tracing::event!(Level::INFO, instance = %to.instance, %listen, group, workers, routes, "gateway serves");
    }
}

impl Event for Draining {
    fn emit(&self, to: &Observer) {
        tracing::event!(Level::INFO, instance = %to.instance, connections = self.connections, "gateway drains");
    }
}

impl Event for Http2Abused {
    fn emit(&self, to: &Observer) {
        let help = "HTTP/2 connections that were cut off, by what their client did too much of.";
        let labels = [("abuse", self.abuse.word())];
        to.metrics.counter("aqueduct_http2_abuse_total", help, &labels).increment(1);
        // As often as clients like: the counter is for operators, the line for who looks closer.
        let (instance, client, abuse) = (&*to.instance, self.client, self.abuse.word());
        tracing::event!(Level::DEBUG, instance, %client, abuse, "HTTP/2 client cut off");
    }
}

impl Event for Reloaded<'_> {
    fn emit(&self, to: &Observer) {
        let Change { added, removed, changed, services, experiments, certificates, .. } =
            self.change;
        let Change { listen, terms, waiting, .. } = self.change;
        let (added, removed, changed) = (few(added), few(removed), few(changed));
        let (services, certificates) = (few(services), few(certificates));
        let experiments = few(experiments);
        let instance = &*to.instance;
        tracing::event!(Level::INFO, instance, %added, %removed, %changed, %services, %experiments, %certificates, "reloaded");
        if let Some(listen) = listen {
            tracing::event!(Level::INFO, instance, %listen, "listens elsewhere; who is connected leaves");
        } else if *terms == Connected::Leave {
            tracing::event!(
                Level::INFO,
                instance,
                "what TLS promises has changed; who is connected leaves"
            );
        }
        reload::events::applied(to, waiting);
    }
}

/// The first names of a list, and how many more there are.
fn few(names: &[String]) -> String {
    let (shown, more) = names.split_at(names.len().min(20));
    let mut text = shown.join(", ");
    if !more.is_empty() {
        text.push_str(&format!(" and {} more", more.len()));
    }
    text
}

impl Event for LogReopened<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, path) = (&*to.instance, self.path.display());
        match &self.fault {
            None => tracing::event!(Level::INFO, instance, %path, "access log opened anew"),
            Some(fault) => {
                let remedy = "the former file stays in use: check the path and its rights";
                tracing::event!(Level::ERROR, instance, %path, %fault, remedy, "access log not opened anew");
            }
        }
    }
}

impl Event for LogFails {
    fn emit(&self, to: &Observer) {
        log_failing(to, 1.0);
        let instance = &*to.instance;
        let fault = self.fault.as_deref().unwrap_or("its reader takes nothing");
        tracing::event!(
            Level::ERROR,
            instance,
            fault,
            "records are lost: the access log takes none"
        );
    }
}

impl Event for LogRecovered {
    fn emit(&self, to: &Observer) {
        log_failing(to, 0.0);
        let (instance, lost) = (&*to.instance, self.lost);
        tracing::event!(Level::INFO, instance, lost, "the access log takes records again");
    }
}

fn log_failing(to: &Observer, failing: f64) {
    let help = "1 while lines of the access log are lost";
    to.metrics.gauge("aqueduct_http_log_failing", help, &[]).set(failing);
}

impl Event for Stopped {
    fn emit(&self, to: &Observer) {
        tracing::event!(Level::INFO, instance = %to.instance, "gateway has stopped");
    }
}

impl Event for Exhausted<'_> {
    fn emit(&self, to: &Observer) {
        refused(to, "exhausted");
        let remedy = "raise the limit of open files, or lower max-connections";
        tracing::event!(Level::WARN, instance = %to.instance, error = %self.error, remedy, "cannot accept");
    }
}

/// An operator has kept answers forgotten.
#[derive(Debug)]
pub struct CachePurged {
    /// How many there were.
    pub count: usize,
}

impl Event for CachePurged {
    fn emit(&self, to: &Observer) {
        let (instance, count) = (&*to.instance, self.count);
        tracing::event!(Level::WARN, instance, count, "kept answers forgotten");
    }
}

impl Event for Full {
    fn emit(&self, to: &Observer) {
        refused(to, "full");
        tracing::debug!(instance = %to.instance, "a connection over max-connections was closed");
    }
}

impl Event for ProxyHeaderRefused {
    fn emit(&self, to: &Observer) {
        refused(to, "proxy_header");
        tracing::debug!(instance = %to.instance, from = %self.from, fault = %self.fault, "PROXY header refused");
    }
}

impl Event for HandshakeRefused {
    fn emit(&self, to: &Observer) {
        let word = self.fault.word();
        refused(to, word);
        tracing::debug!(instance = %to.instance, client = %self.client, fault = word, "no TLS handshake");
    }
}

/// Connections that were closed before a request.
fn refused(to: &Observer, reason: &'static str) {
    let help = "Connections closed before a request, by reason";
    let labels = [("reason", reason)];
    to.metrics.counter("aqueduct_http_refused_total", help, &labels).increment(1);
}
