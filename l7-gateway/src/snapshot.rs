//! The immutable running configuration of one instance: built and checked aside, published once,
//! loaded by every worker per connection. Not for what a worker owns (pools, caches): its pipeline
//! holds those. Called by `lib` (build) and by workers.
//!
//! Invariant: everything that depends on the world (certificates, keys) was checked when it was
//! built; a fault has the place of the reference.

use std::sync::Arc;

use common::observe::Observer;
use common::tls::TlsError;
use common::tls::server::Server;
use thiserror::Error;
use topology::Place;
use topology::gateway::Group;
use topology::units::InstanceName;

use crate::attached::Contracts;
use crate::contract::ContractError;
use crate::exchange::RouteId;
use crate::fetch::{FetchError, HttpFetch};
use crate::matcher::Matcher;
use crate::recorder::Recorder;
use crate::stages::authn::{Vouchers, VouchersError};
use crate::stages::dispatch::cache::Cache;
use crate::stages::dispatch::files::{FilesError, Site};
use crate::stages::dispatch::gate::Gate;
use crate::stages::dispatch::last_good::LastGood;
use crate::stages::dispatch::service::Upstream;
use crate::stages::rate_limit::{Limits, LimitsError};
use crate::stages::request_transform::proof::{Prover, ProverError};
use crate::transcode::{DescriptionError, Interface};
use crate::transform::facts::Captures;
use crate::usage::Usage;

/// Why a configuration that reads well cannot run here.
#[derive(Debug, Error)]
pub enum BuildError {
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Keys of issuers, API keys.
    #[error(transparent)]
    Vouchers(#[from] VouchersError),
    /// Who is asked whether requests may go on, or what becomes of them.
    #[error("whoever is asked: {source}")]
    Asked {
        /// Where it is named.
        place: Place,
        /// Why it cannot be asked.
        source: FetchError,
    },
    /// The secret of proofs.
    #[error(transparent)]
    Prover(#[from] ProverError),
    /// Limits.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// Directories.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Descriptions of calls.
    #[error(transparent)]
    Transcode(#[from] DescriptionError),
    /// Descriptions of requests.
    #[error(transparent)]
    Contract(#[from] ContractError),
}

impl BuildError {
    /// Where the reference stands in the topology file.
    pub fn place(&self) -> Place {
        match self {
            Self::Tls(error) => error.place(),
            Self::Vouchers(error) => error.place(),
            Self::Prover(error) => error.place(),
            Self::Asked { place, .. } => *place,
            Self::Limits(error) => error.place(),
            Self::Files(error) => error.place(),
            Self::Transcode(error) => error.place(),
            Self::Contract(error) => error.place(),
        }
    }
}

/// What one instance runs.
#[derive(Debug)]
pub struct Snapshot {
    /// Who it is.
    pub instance: InstanceName,
    /// The section of the topology file.
    pub group: Group,
    /// Its routes, compiled.
    pub matcher: Matcher,
    /// What names in the paths of its routes stand for, where that is asked.
    pub captures: Vec<Option<Captures>>,
    /// What its routes can call in gRPC.
    pub interfaces: Vec<Option<Arc<Interface>>>,
    /// What requests must be like.
    pub contracts: Contracts,
    /// Its services with the state of their endpoints, in the order of the group.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Its directories, in the order of the group.
    pub files: Vec<Site>,
    /// How many requests may be under way to all of its services; `None`: any number.
    pub gate: Option<Arc<Gate>>,
    /// What is kept of answers; `None`: no route asks for it.
    pub cache: Option<Cache>,
    /// What calls of aggregates were last told.
    pub last_good: LastGood,
    /// Who can say who a caller is.
    pub vouchers: Arc<Vouchers>,
    /// Who else is asked whether requests may go on, or what becomes of them, by address.
    pub authorizers: Vec<(String, Arc<HttpFetch>)>,
    /// Signs towards services that a gateway spoke; `None`: nobody asks.
    pub prover: Option<Prover>,
    /// Counters of its limits.
    pub limits: Arc<Limits>,
    /// Who calls which version.
    pub usage: Arc<Usage>,
    /// Where requests are recorded; `None`: they are not.
    pub recorder: Option<Arc<Recorder>>,
    /// Stage 1; `None`: plain HTTP.
    pub front: Option<Server>,
}

impl Snapshot {
    /// For an instance of the group. Reads certificates and keys: blocking. What `before` knows
    /// (health, fetched keys, counters) is kept as far as the file says the same of it.
    ///
    /// # Errors
    /// With the place of the reference that is at fault.
    pub fn build(
        group: &Group,
        instance: &InstanceName,
        observer: &Observer,
        before: Option<&Self>,
    ) -> Result<Self, BuildError> {
        let known = before.map(|before| before.upstreams.as_slice()).unwrap_or_default();
        let front = before.and_then(|before| before.front.as_ref());
        let limits = before.filter(|before| {
            Limits::same(&before.group, group) && before.limits.has_secrets_of(group)
        });
        Ok(Self {
            instance: instance.clone(),
            matcher: Matcher::new(&group.routes),
            captures: Captures::all(group),
            interfaces: interfaces(group)?,
            contracts: Contracts::new(group, before.map(|before| &before.contracts))?,
            upstreams: group
                .upstreams
                .iter()
                .map(|model| Upstream::new(model, known))
                .collect::<Result<_, _>>()?,
            gate: group
                .front
                .concurrency
                .map(|rules| Gate::new(rules, before.and_then(|before| before.gate.as_deref()))),
            files: group.files.iter().map(Site::new).collect::<Result<_, _>>()?,
            cache: Cache::build(
                group,
                before.and_then(|before| Some((&before.group, before.cache.as_ref()?))),
                &observer.metrics,
            ),
            last_good: LastGood::new(group, before.map(|before| &before.last_good)),
            vouchers: Vouchers::new(group, before.map(|before| &*before.vouchers))?,
            authorizers: authorizers(group)?,
            prover: group
                .signed_identity
                .as_ref()
                .map(|model| Prover::new(model, group))
                .transpose()?,
            limits: match limits {
                Some(before) => Arc::clone(&before.limits),
                None => Limits::new(group, observer.clone())?,
            },
            front: group.tls.as_ref().map(|tls| Server::new(tls, &ALPN, front)).transpose()?,
            recorder: Recorder::of(
                group,
                (instance, &observer.metrics),
                before.and_then(|before| before.recorder.as_ref()),
            ),
            usage: Usage::new(group, &observer.metrics, before.map(|before| &*before.usage)),
            group: group.clone(),
        })
    }

    /// What a route can call in gRPC; `None`: its requests stay what they are.
    pub fn interface(&self, route: RouteId) -> Option<&Arc<Interface>> {
        self.interfaces.get(route.0)?.as_ref()
    }

    /// What names in the path of a route stand for, where that is asked.
    pub fn captures(&self, route: RouteId) -> Option<&Captures> {
        self.captures.get(route.0)?.as_ref()
    }

    /// It comes into force: its bounds of requests under way hold from now on, and what only the one before it
    /// knew is forgotten.
    pub fn open_gates(&self) {
        self.last_good.settle();
        let services = self.upstreams.iter().filter_map(|upstream| upstream.gate.as_ref());
        services.chain(&self.gate).for_each(|gate| gate.open());
    }
}

/// What routes can call in gRPC, by route.
fn interfaces(group: &Group) -> Result<Vec<Option<Arc<Interface>>>, DescriptionError> {
    let routes = group.routes.iter();
    routes.map(|route| route.transcode.as_ref().map(Interface::new).transpose()).collect()
}

/// Everybody who is asked about requests, each address once.
fn authorizers(group: &Group) -> Result<Vec<(String, Arc<HttpFetch>)>, BuildError> {
    let policies = group.routes.iter().map(|route| &route.policy).chain(&group.unmatched);
    let mut all: Vec<(String, Arc<HttpFetch>)> = Vec::new();
    let asked = policies.filter_map(|policy| policy.authorize.as_ref()).map(|asked| &asked.url);
    let routes = group.routes.iter().map(|route| &route.external);
    let services = group.upstreams.iter().map(|upstream| &upstream.external);
    let consumers = group.consumers.iter().map(|consumer| &consumer.external);
    let outside = routes.chain(services).chain(consumers).chain([&group.external]).flatten();
    for url in asked.chain(outside.map(|outside| &outside.url)) {
        if all.iter().all(|(known, _)| *known != url.value) {
            let fault = |source| BuildError::Asked { place: url.place, source };
            all.push((url.value.clone(), Arc::new(HttpFetch::new(&url.value).map_err(fault)?)));
        }
    }
    Ok(all)
}

/// What is spoken over TLS, the better first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
