//! A service as a gateway sees it, resolved: where it is, how an endpoint is chosen, how long it may
//! take. Not for what an endpoint's state is: that is `common::service`. Read by stage 8.
//!
//! Invariant: none beyond the model's.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::gateway::{Certificate, Unplaced};
use crate::l4::Balance;
use crate::model::{Endpoint, HealthCheck};
use crate::units::{At, Place, SecretRef, ServiceName};

/// Index into [`Group::upstreams`](crate::gateway::Group::upstreams).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamId(pub usize);

/// Stage 8: a service as the gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The service behind it, also where a balancer stands in between: the access record's
    /// `service`.
    pub service: ServiceName,
    /// Addresses to connect to: the service's own, or the internal balancer's listeners.
    pub endpoints: Vec<Endpoint>,
    /// Who picks the server.
    pub via: Via,
    /// How an address is chosen (`round-robin`, `least-connections`).
    pub balance: Balance,
    /// Active checks; only where the gateway picks the server.
    pub health: Option<HealthCheck>,
    /// How long a connection may take (default 1 s).
    pub connect_timeout: Duration,
    /// A connection carries so many requests at most (default behind a balancer 1000, else no
    /// bound).
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// A connection lives so long at most (default behind a balancer 60 s, else no bound).
    pub max_connection_age: Option<Duration>,
    /// Most tries of a safe request, the first included (default 3).
    pub max_attempts: u8,
    /// TLS towards it; `None`: plain.
    pub tls: Option<UpstreamTls>,
}

/// TLS towards a service. Its certificate is always verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The authorities that its certificate must come from; `None`: the system's.
    pub ca: Option<At<SecretRef>>,
    /// The name that is asked for and that the certificate must have; `None`: the endpoint's address.
    pub name: Option<At<String>>,
    /// Shown to it (mTLS); `None`: none.
    pub certificate: Option<Certificate>,
}

/// Who picks the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// An internal `l4-nlb` listener, once per connection.
    Balancer,
    /// The gateway, once per request.
    Endpoints,
}

impl Unplaced for UpstreamTls {
    fn unplaced(&self) -> Self {
        let bare = |pair: &Certificate| Certificate {
            chain: pair.chain.unplaced(),
            key: pair.key.unplaced(),
        };
        Self {
            ca: self.ca.as_ref().map(Unplaced::unplaced),
            name: self.name.as_ref().map(Unplaced::unplaced),
            certificate: self.certificate.as_ref().map(bare),
        }
    }
}

impl Unplaced for Upstream {
    fn unplaced(&self) -> Self {
        let nowhere =
            |endpoint: &Endpoint| Endpoint { place: Place::default(), ..endpoint.clone() };
        let endpoints = self.endpoints.iter().map(nowhere).collect();
        Self { endpoints, tls: self.tls.as_ref().map(Unplaced::unplaced), ..self.clone() }
    }
}
