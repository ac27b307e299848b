//! A service as all workers of the instance share it: its model, the state of its endpoints, the
//! choice among them. Not for connections: each worker has its own (`upstream`). Called by
//! `snapshot` (build) and by each worker's pool.
//!
//! Invariant: an index into the endpoints means something together with its roster only; another set of
//! endpoints is another roster, which every worker goes by with its next request.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use common::balance::{Balancer, HashKey, Wish};
use common::service::{Passive, Rules, Service};
use common::snapshot::{Guard, Published};
use common::tls::{TlsError, client};
use http::HeaderValue;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use topology::gateway::{
    self, HashBy, Unplaced as _, UpstreamBalance, UpstreamProtocol, UpstreamTls,
};
use topology::{Balance, Endpoint};

use super::gate::Gate;
use super::upstream::connection::Offer;
use crate::exchange::{Exchange, Prepared};
use crate::predicate;

/// Where routes lead.
#[derive(Debug)]
pub struct Upstream {
    /// What the topology file says.
    pub model: gateway::Upstream,
    /// TLS towards it; `None`: plain.
    pub tls: Option<Secured>,
    /// How many requests may be under way; `None`: any number.
    pub gate: Option<Arc<Gate>>,
    roster: Published<Roster>,
    /// Held by whoever puts another roster in place.
    changing: Mutex<()>,
    key: HashKey,
}

/// The endpoints that there are now, with the choice among them.
#[derive(Debug)]
pub struct Roster {
    /// Endpoints with their state.
    pub service: Arc<Service>,
    balancer: Balancer,
    /// As the file or a source named them.
    named: Arc<[Endpoint]>,
}

impl Roster {
    fn new(model: &gateway::Upstream, named: &Arc<[Endpoint]>, before: Option<&Self>) -> Self {
        let service = topology::Service {
            name: model.service.clone(),
            endpoints: named.to_vec(),
            discover: None,
            panic_threshold: model.panic_threshold,
            slow_start: model.slow_start,
            health: model.health.clone(),
            run: None,
            uses: Vec::new(),
            place: named.first().map(|e| e.place).unwrap_or_default(),
        };
        let rules = rules(model);
        let service = before.map_or_else(
            || Service::with(&service, rules),
            |before| before.service.update_with(&service, rules),
        );
        let balancer = balancer(model, &service);
        Self { service, balancer, named: Arc::clone(named) }
    }

    /// The endpoint for the next attempt: one that was not tried yet, else any again.
    pub fn select(&self, wish: Wish<'_>, now: Instant) -> Option<usize> {
        let again = || self.balancer.select_by(&self.service, Wish { avoid: &[], ..wish }, now);
        self.balancer.select_by(&self.service, wish, now).or_else(again)
    }

    /// Where each of its endpoints stood in a former one.
    pub fn former(&self, before: &Self) -> Vec<Option<usize>> {
        let state = |endpoint: &Arc<common::service::Endpoint>| Arc::as_ptr(&endpoint.state);
        let known = before.service.endpoints.iter().enumerate();
        let known: HashMap<_, _> = known.map(|(at, endpoint)| (state(endpoint), at)).collect();
        self.service.endpoints.iter().map(|e| known.get(&state(e)).copied()).collect()
    }
}

/// How connections to a service are secured.
#[derive(Debug)]
pub struct Secured {
    config: Arc<ClientConfig>,
    /// The same for HTTP/1.1 alone.
    http1: Arc<ClientConfig>,
    /// The name that is asked for; `None`: each endpoint's address.
    name: Option<ServerName<'static>>,
}

impl Secured {
    fn new(tls: &UpstreamTls, protocol: UpstreamProtocol) -> Result<Self, TlsError> {
        let name = tls.name.as_ref().map(|at| {
            ServerName::try_from(at.value.clone()).map_err(|fault| TlsError::Refused {
                what: "name",
                place: at.place,
                reason: fault.to_string(),
            })
        });
        let alpn: &[&[u8]] = match protocol {
            UpstreamProtocol::Http1 => &[b"http/1.1"],
            UpstreamProtocol::Http2 => &[b"h2"],
            UpstreamProtocol::Auto => &[b"h2", b"http/1.1"],
        };
        let config = client::for_service(tls, alpn)?;
        let mut http1 = Arc::clone(&config);
        if protocol != UpstreamProtocol::Http1 {
            Arc::make_mut(&mut http1).alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        Ok(Self { config, http1, name: name.transpose()? })
    }

    /// The handshake on a new connection.
    pub async fn secure(
        &self,
        stream: TcpStream,
        endpoint: SocketAddr,
        offer: Offer,
    ) -> io::Result<TlsStream<TcpStream>> {
        let config = match offer {
            Offer::Usual => &self.config,
            Offer::Http1 => &self.http1,
        };
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(endpoint.ip()));
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await
    }
}

impl Upstream {
    /// Every endpoint starts healthy; what `before` knows of one that is still there is kept.
    ///
    /// # Errors
    /// When what its TLS needs cannot be read.
    pub fn new(model: &gateway::Upstream, before: &[Arc<Self>]) -> Result<Arc<Self>, TlsError> {
        // Certificates are read again: the files may have changed.
        let tls = model.tls.as_ref().map(|tls| Secured::new(tls, model.protocol)).transpose()?;
        let akin =
            |old: &&Arc<Self>| old.model.service == model.service && old.model.via == model.via;
        let same = |old: &&Arc<Self>| akin(old) && old.model.unplaced() == model.unplaced();
        if let Some(known) = before.iter().find(same).filter(|_| tls.is_none()) {
            return Ok(Arc::clone(known));
        }
        let former = before.iter().find(akin).map(|old| old.roster.load_full());
        // What a source has named stays until it says otherwise.
        let named = match (&former, &model.discover) {
            (Some(former), Some(_)) => Arc::clone(&former.named),
            _ => Arc::from(model.endpoints.as_slice()),
        };
        let roster = Roster::new(model, &named, former.as_deref());
        // Two balancers may stand before one service, each with a gate of its own.
        let places = |model: &gateway::Upstream| -> Vec<_> {
            model.endpoints.iter().map(|endpoint| endpoint.address).collect()
        };
        let exact = |old: &&Arc<Self>| akin(old) && places(&old.model) == places(model);
        let only = || before.iter().filter(akin).count() == 1;
        let former =
            before.iter().find(exact).or_else(|| before.iter().find(akin).filter(|_| only()));
        let former = former.and_then(|old| old.gate.as_deref());
        let gate = model.concurrency.map(|rules| Gate::new(rules, former));
        let key = key(model);
        let (model, roster, changing) = (model.clone(), Published::new(roster), Mutex::default());
        Ok(Arc::new(Self { model, tls, gate, roster, changing, key }))
    }

    /// The endpoints that there are now; for a short, synchronous use.
    pub fn roster(&self) -> Guard<Arc<Roster>> {
        self.roster.load()
    }

    /// Goes by these endpoints from now on, on every worker: what is known of those that stay is kept,
    /// and what is under way at those that go may end.
    pub fn follow(&self, named: &Arc<[Endpoint]>) {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.roster.load();
        if !Arc::ptr_eq(&before.named, named) {
            self.roster.publish(Roster::new(&self.model, named, Some(&before)));
        }
    }

    /// The endpoint of a request's first attempt, where only the request decides; every endpoint that
    /// is not known to be ill counts.
    pub fn foresee(&self, x: &Exchange, input: &Prepared, now: Instant) -> Option<usize> {
        matches!(self.model.balance, UpstreamBalance::Hash(_)).then_some(())?;
        self.roster().select(Wish { hash: self.hash(x, input), avoid: &[], costs: None }, now)
    }

    /// Goes by the weights that endpoints have now.
    pub fn reweigh(&self) {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.roster.load();
        let balancer = balancer(&self.model, &before.service);
        let (service, named) = (Arc::clone(&before.service), Arc::clone(&before.named));
        self.roster.publish(Roster { service, balancer, named });
    }

    /// Of whoever asks, where the balance hashes.
    pub fn hash(&self, x: &Exchange, input: &Prepared) -> u64 {
        let UpstreamBalance::Hash(by) = &self.model.balance else { return 0 };
        let headers = &input.head.headers;
        let known = match by {
            HashBy::Address => None,
            HashBy::User => {
                let identity = input.grant.caller().identity();
                identity.map(|identity| identity.subject_header().as_bytes())
            }
            HashBy::Header(name) => headers.get(name).map(HeaderValue::as_bytes),
            HashBy::Cookie(name) => predicate::cookie(headers, name).map(str::as_bytes),
        };
        known.map_or_else(|| self.key.client(x.peer.address()), |bytes| self.key.hash(bytes))
    }
}

fn rules(model: &gateway::Upstream) -> Rules {
    let eject = &model.eject;
    Rules {
        passive: Passive {
            failures: eject.failures,
            backoff: eject.first,
            longest: eject.longest,
            most: eject.most,
        },
        most_active: model.max_requests_per_endpoint,
    }
}

/// Of its name alone: a change of its endpoints must not move everybody.
fn key(model: &gateway::Upstream) -> HashKey {
    HashKey::from_names([model.service.as_str()])
}

fn balancer(model: &gateway::Upstream, service: &Service) -> Balancer {
    let balance = match model.balance {
        UpstreamBalance::RoundRobin => Balance::RoundRobin,
        UpstreamBalance::LeastConnections => Balance::LeastConnections,
        UpstreamBalance::TwoChoices => Balance::TwoChoices,
        // By a hash of whatever; the balancer is handed it.
        UpstreamBalance::Hash(_) => Balance::ClientAddress,
    };
    Balancer::new(balance, service, key(model))
}
