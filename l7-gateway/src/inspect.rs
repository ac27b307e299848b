//! What the admin listener shows of a gateway, and what an operator may change of its endpoints: until
//! the process ends. Called by
//! `common::observe::admin` on the control runtime.
//!
//! Invariant: no secret and no token is shown.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::observe::Observer;
use common::observe::admin::{Adjust, Inspect, Purge, Summary, Unit};
use common::service::events::EndpointAdjusted;
use common::snapshot::Published;
use discovery::found::Board;
use discovery::register::Board as Registrations;
use serde_json::{Value, json};
use tokio::time::Instant;
use topology::gateway::{Auth, Certified, Group, Route};
use topology::units::Scope;

use crate::access_log::Totals;
use crate::events::CachePurged;
use crate::server::Connections;
use crate::snapshot::Snapshot;
use crate::stages::rate_limit::refused::Row;
use crate::traffic::Traffic;

/// The answers.
#[derive(Debug)]
pub struct Inspection {
    published: Arc<Published<Snapshot>>,
    totals: Arc<Totals>,
    connections: Arc<Connections>,
    traffic: Arc<Traffic>,
    board: Board,
    registrations: Registrations,
    observer: Observer,
}

impl Inspection {
    /// Over the living parts of an instance.
    pub fn new(
        published: &Arc<Published<Snapshot>>,
        totals: &Arc<Totals>,
        connections: &Arc<Connections>,
        observer: &Observer,
    ) -> Self {
        Self {
            published: Arc::clone(published),
            totals: Arc::clone(totals),
            connections: Arc::clone(connections),
            traffic: Traffic::new(published, observer),
            board: Board::default(),
            registrations: Registrations::default(),
            observer: observer.clone(),
        }
    }

    /// And over the sources of its endpoints.
    pub fn with_sources(self, board: Board) -> Self {
        Self { board, ..self }
    }

    /// And over the registries that it is entered in.
    pub fn with_registrations(self, registrations: Registrations) -> Self {
        Self { registrations, ..self }
    }
}

impl Inspection {
    /// Measures rates, until it is dropped.
    pub fn measure(&self) -> impl Future<Output = ()> + Send + use<> {
        Arc::clone(&self.traffic).keep()
    }
}

impl Inspect for Inspection {
    fn config(&self) -> Value {
        let snapshot = self.published.load();
        let group = &snapshot.group;
        let front = &group.front;
        json!({
            "instance": snapshot.instance.as_str(),
            "group": group.name.as_str(),
            "tls": group.tls.is_some(),
            "trust_proxy_protocol_from":
                group.trust_proxy_protocol_from.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "trust_forwarded_for": group.trust_forwarded_for.as_ref().map(|trust| json!({
                "from": trust.from.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "hops": trust.hops,
            })),
            "front": {
                "max_connections": front.max_connections,
                "max_headers": front.max_headers,
                "max_head_bytes": front.max_head_bytes,
                "max_uri_bytes": front.max_uri_bytes,
                "max_body_bytes": front.max_body_bytes,
                "handshake_timeout_ms": millis(front.handshake_timeout),
                "header_timeout_ms": millis(front.header_timeout),
                "body_idle_timeout_ms": millis(front.body_idle_timeout),
                "idle_timeout_ms": millis(front.idle_timeout),
            },
            "issuers": group.issuers.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(),
            "limits": group.limits.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(),
            "routes": group.routes.iter().map(|route| self::route(&snapshot, route)).collect::<Vec<_>>(),
            "drain_ms": millis(group.drain),
        })
    }

    fn unready(&self) -> Vec<String> {
        let mut unready = self.published.load().vouchers.waiting();
        unready.extend(self.board.unready());
        unready
    }

    fn registrations(&self) -> Option<Value> {
        Some(self.registrations.show())
    }

    fn summary(&self) -> Summary {
        let micros = |quantile: f64| {
            let time = self.totals.latency.quantile(quantile)?;
            u64::try_from(time.as_micros()).ok()
        };
        Summary {
            unit: Unit::Requests,
            connections: u64::from(self.connections.open()),
            work_total: self.totals.requests.load(Ordering::Relaxed),
            errors_total: self.totals.errors.load(Ordering::Relaxed),
            p50_us: micros(0.5),
            p99_us: micros(0.99),
        }
    }

    fn latency(&self) -> Vec<(u64, u64)> {
        self.totals.latency.counts()
    }

    fn requests(&self, most: usize) -> Option<Vec<Value>> {
        Some(self.totals.recent.look(most))
    }

    fn limited(&self) -> Option<Value> {
        let snapshot = self.published.load();
        let row = |row: Row| {
            let limit = snapshot.group.limits.get(row.limit.0).map(|limit| limit.name.as_str());
            json!({ "limit": limit, "key": row.key, "refused": row.count })
        };
        Some(snapshot.limits.refused().rows().into_iter().map(row).collect())
    }

    fn callers(&self) -> Option<Value> {
        Some(self.published.load().usage.show())
    }

    fn traffic(&self) -> Option<Value> {
        Some(self.traffic.show())
    }

    fn endpoints(&self) -> Value {
        let (snapshot, now) = (self.published.load(), Instant::now());
        let services = snapshot.upstreams.iter().map(|upstream| {
            let roster = upstream.roster();
            let endpoints = roster.service.endpoints.iter().map(|endpoint| {
                let state = &endpoint.state;
                let checked = state.checked().map(|checked| checked.outcome);
                json!({
                    "name": endpoint.name.as_str(),
                    "address": endpoint.address.to_string(),
                    "weight": endpoint.weight(),
                    "weight_in_file": endpoint.weight.0,
                    "condition": state.condition(roster.service.slow_start, now).as_str(),
                    "ejected_for_ms": state.ejected_for(now).map(millis),
                    "last_check": checked,
                    "healthy": state.healthy(),
                    "selectable": state.selectable(now),
                    "draining": state.draining(),
                    "active": state.active(),
                })
            });
            json!({
                "service": upstream.model.service.as_str(),
                "waiting": upstream.gate.as_ref().and_then(|gate| gate.waiting()),
                "via": format!("{:?}", upstream.model.via).to_lowercase(),
                "endpoints": endpoints.collect::<Vec<_>>(),
                "discovery": self.board.show(&upstream.model.service),
            })
        });
        services.collect()
    }

    fn purge(&self, what: Purge<'_>) -> Option<usize> {
        let count = self.published.load().cache.as_ref()?.purge(what);
        self.observer.emit(CachePurged { count });
        Some(count)
    }

    fn adjust(&self, service: &str, endpoint: &str, wish: Adjust) -> Option<()> {
        let snapshot = self.published.load();
        let (word, weight) = match wish {
            Adjust::Drain => ("drain", None),
            Adjust::Enable => ("enable", None),
            Adjust::Weight(weight) => ("weight", Some(weight)),
        };
        let mut found = None;
        // Routes may lead to a service in two ways; it is drained in both.
        for upstream in &snapshot.upstreams {
            let own = upstream.model.service.as_str() == service;
            let roster = upstream.roster();
            let mut endpoints = roster.service.endpoints.iter().filter(|_| own);
            let Some(known) = endpoints.find(|e| e.name.as_str() == endpoint) else { continue };
            match wish {
                Adjust::Drain => known.state.drain(),
                Adjust::Enable => {
                    known.state.undrain();
                    known.state.set_weight(None);
                }
                Adjust::Weight(weight) => known.state.set_weight(Some(weight)),
            }
            upstream.reweigh();
            found = Some(());
        }
        found?;
        self.observer.emit(EndpointAdjusted { service, endpoint, wish: word, weight });
        Some(())
    }
}

fn route(snapshot: &Snapshot, route: &Route) -> Value {
    let service = route
        .to
        .service()
        .and_then(|to| snapshot.upstreams.get(to.0))
        .map(|u| u.model.service.as_str());
    let scopes = route.policy.scopes.iter().map(Scope::as_str);
    json!({
        "name": route.name.as_str(),
        "service": service,
        "auth": auth(&snapshot.group, &route.policy.auth),
        "scopes": scopes.collect::<Vec<_>>(),
        "methods": route.methods,
        "timeout_ms": millis(route.timeout),
    })
}

/// What `auth` of a route names.
fn auth(group: &Group, auth: &Auth) -> Vec<String> {
    let Auth::Asked(ways) = auth else { return vec!["none".to_owned()] };
    let issuers = ways.issuers.iter().filter_map(|id| group.issuers.get(id.0));
    let keys = ways.api_keys.iter().filter_map(|id| group.api_keys.get(id.0));
    let certificate = (ways.certificate == Certified::Enough).then(|| "certificate".to_owned());
    let names = issuers.map(|issuer| issuer.name.to_string());
    names.chain(keys.map(|keys| keys.name.to_string())).chain(certificate).collect()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
