//! What an operator must hear of a balancer. Not for what happens per flow: `meters` counts that.
//! Endpoints going up and down are in `common::service::events`.
//!
//! Invariant: labels are names from the topology file.

use std::io;
use std::net::SocketAddr;

use common::observe::{Event, Observer};
use common::reload;
use tracing::Level;

use crate::control::Change;

/// The instance serves.
#[derive(Debug)]
pub struct Started {
    /// Threads that serve.
    pub workers: usize,
    /// Listeners.
    pub listeners: usize,
}

/// A listener is bound.
#[derive(Debug)]
pub struct Listening<'a> {
    /// Its name.
    pub listener: &'a str,
    /// Its address.
    pub address: SocketAddr,
    /// Whom it sends to.
    pub service: &'a str,
    /// What moves its bytes.
    pub plane: &'static str,
}

/// Clients of a public listener can choose their endpoint: its hash has no secret.
#[derive(Debug)]
pub struct HashUnkeyed<'a> {
    /// Its name.
    pub listener: &'a str,
}

/// Connections wait because descriptors or memory are exhausted.
#[derive(Debug)]
pub struct AcceptStalled<'a> {
    /// Its name.
    pub listener: &'a str,
    /// The system's word.
    pub cause: &'a io::Error,
}

/// A changed file is in force.
#[derive(Debug)]
pub struct Reloaded<'a> {
    /// What it did.
    pub change: &'a Change,
}

/// A full table gave flows up; told at most once in ten seconds per listener.
#[derive(Debug)]
pub struct FlowsEvicted<'a> {
    /// Its name.
    pub listener: &'a str,
    /// Since the last time it was told.
    pub count: u64,
}

/// Clients were turned away; told at most once in ten seconds per listener and reason.
#[derive(Debug)]
pub struct ClientsRefused<'a> {
    /// The listener.
    pub listener: &'a str,
    /// As the label `reason` of `aqueduct_l4_refused_total`.
    pub reason: &'static str,
    /// Since the last time it was told.
    pub count: u64,
}

/// Nothing new is taken; what runs may finish.
#[derive(Debug)]
pub struct Draining {
    /// Flows that are still there.
    pub flows: u64,
}

/// A worker could not take its sockets over; the instance stops.
#[derive(Debug)]
pub struct WorkerFailed<'a> {
    /// The system's word.
    pub cause: &'a io::Error,
}

/// All workers have ended.
#[derive(Debug)]
pub struct Stopped;

impl Event for Started {
    fn emit(&self, to: &Observer) {
        let (instance, workers, listeners) = (&*to.instance, self.workers, self.listeners);
        tracing::event!(Level::INFO, instance, workers, listeners, "started");
    }
}

impl Event for Listening<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, listener, service) = (&*to.instance, self.listener, self.service);
        let (address, plane) = (self.address, self.plane);
        tracing::event!(Level::INFO, instance, listener, %address, service, plane, "listening");
    }
}

impl Event for HashUnkeyed<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, listener) = (&*to.instance, self.listener);
        let message = "public listener without hash-key: clients can choose their endpoint";
        tracing::event!(Level::WARN, instance, listener, message);
    }
}

impl Event for AcceptStalled<'_> {
    fn emit(&self, to: &Observer) {
        let labels = [("listener", self.listener)];
        let help =
            "Reports, at most one in ten seconds, that accepting pauses for want of descriptors.";
        to.metrics.counter("aqueduct_l4_accept_stalled_total", help, &labels).increment(1);
        let (instance, listener, cause) = (&*to.instance, self.listener, self.cause);
        tracing::event!(Level::ERROR, instance, listener, %cause, "accepting paused");
    }
}

impl Event for Reloaded<'_> {
    fn emit(&self, to: &Observer) {
        let Change { added, removed, kept, waiting } = self.change;
        let (instance, kept) = (&*to.instance, kept.len());
        let (added, removed) = (added.join(", "), removed.join(", "));
        tracing::event!(Level::INFO, instance, %added, %removed, kept, "reloaded");
        reload::events::applied(to, waiting);
    }
}

impl Event for FlowsEvicted<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, listener, count) = (&*to.instance, self.listener, self.count);
        tracing::event!(Level::WARN, instance, listener, count, "flows evicted: table full");
    }
}

impl Event for ClientsRefused<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, listener) = (&*to.instance, self.listener);
        let (reason, count) = (self.reason, self.count);
        tracing::event!(Level::WARN, instance, listener, reason, count, "clients refused");
    }
}

impl Event for Draining {
    fn emit(&self, to: &Observer) {
        tracing::event!(Level::INFO, instance = &*to.instance, flows = self.flows, "draining");
    }
}

impl Event for WorkerFailed<'_> {
    fn emit(&self, to: &Observer) {
        tracing::event!(Level::ERROR, instance = &*to.instance, cause = %self.cause, "worker failed");
    }
}

impl Event for Stopped {
    fn emit(&self, to: &Observer) {
        tracing::event!(Level::INFO, instance = &*to.instance, "stopped");
    }
}
