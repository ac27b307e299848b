//! The immutable running configuration of one instance: built and checked aside, published once,
//! loaded by every worker per connection. Not for what a worker owns (pools, caches): its pipeline
//! holds those. Called by `lib` (build) and by workers.
//!
//! Invariant: everything that depends on the world (certificates, keys) was checked when it was
//! built; a fault has the place of the reference.

use std::sync::Arc;

use common::observe::Observer;
use common::tls::store::Loaded;
use common::tls::{TlsError, server, store};
use rustls::ServerConfig;
use thiserror::Error;
use topology::Place;
use topology::gateway::{Group, Tls};
use topology::units::InstanceName;

use crate::matcher::Matcher;
use crate::stages::authn::{Keys, KeysError};
use crate::stages::dispatch::service::Upstream;
use crate::stages::rate_limit::{Limits, LimitsError};

/// Why a configuration that reads well cannot run here.
#[derive(Debug, Error)]
pub enum BuildError {
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Keys of issuers.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Limits.
    #[error(transparent)]
    Limits(#[from] LimitsError),
}

impl BuildError {
    /// Where the reference stands in the topology file.
    pub fn place(&self) -> Place {
        match self {
            Self::Tls(error) => error.place(),
            Self::Keys(error) => error.place(),
            Self::Limits(error) => error.place(),
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
    /// Its services with the state of their endpoints, in the order of the group.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Key sets of its issuers.
    pub keys: Arc<Keys>,
    /// Counters of its limits.
    pub limits: Arc<Limits>,
    /// Certificates; `None`: plain HTTP.
    pub front: Option<Front>,
}

/// Stage 1 of a listener with TLS.
#[derive(Debug)]
pub struct Front {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    certificates: Vec<Loaded>,
    /// Clients show no certificates.
    anonymous: bool,
}

impl Front {
    /// Sessions that were begun under `before` can be resumed, unless clients show certificates: a
    /// resumed session would not have its client's verified again.
    fn new(tls: &Tls, before: Option<&Self>) -> Result<Self, TlsError> {
        let mut config = server::config(tls, &[b"h2", b"http/1.1"])?;
        if let Some(before) = before.filter(|before| before.anonymous && tls.client_ca.is_none()) {
            Arc::make_mut(&mut config).ticketer = Arc::clone(&before.config.ticketer);
        }
        let certificates = tls.certificates.iter().map(store::load).collect::<Result<_, _>>()?;
        Ok(Self { config, certificates, anonymous: tls.client_ca.is_none() })
    }
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
        let limits = before.filter(|before| Limits::same(&before.group, group));
        Ok(Self {
            instance: instance.clone(),
            matcher: Matcher::new(&group.routes),
            upstreams: group
                .upstreams
                .iter()
                .map(|model| Upstream::new(model, known))
                .collect::<Result<_, _>>()?,
            keys: Keys::new(&group.issuers, before.map(|before| &*before.keys))?,
            limits: match limits {
                Some(before) => Arc::clone(&before.limits),
                None => Limits::new(group, observer.clone())?,
            },
            front: group.tls.as_ref().map(|tls| Front::new(tls, front)).transpose()?,
            group: group.clone(),
        })
    }

    /// Whether a connection that asked for `sni` may carry requests for `host`: the same name, or
    /// one that the certificate it was shown covers as well (RFC 9110 §15.5.20).
    pub fn serves(&self, sni: &str, host: &str) -> bool {
        let Some(front) = &self.front else { return true };
        let shown = front.certificates.iter().find(|c| c.covers(sni));
        sni.eq_ignore_ascii_case(host)
            || shown.or(front.certificates.first()).is_none_or(|c| c.covers(host))
    }
}
