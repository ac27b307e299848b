//! Registries in which instances are entered, resolved. Not for entering: that is the crate `discovery`.
//! Part of a group of gateways or pools.
//!
//! Invariant: nothing in it says where it was written, so that a reload sees what really changed.

use std::fmt;
use std::time::Duration;

use crate::discover::Registry;
use crate::units::SecretRef;

/// Where each instance of a group is entered; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// In Consul; `None`: not there.
    pub consul: Option<RegisterConsul>,
    /// In etcd; `None`: not there.
    pub etcd: Option<RegisterEtcd>,
    /// In Eureka; `None`: not there.
    pub eureka: Option<RegisterEureka>,
    /// The zone that is told.
    pub zone: Option<String>,
    /// The version that is told.
    pub version: Option<String>,
    /// How long it takes new work after it has left (default 1 s).
    pub linger: Duration,
}

/// What Consul is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterConsul {
    /// An agent.
    pub registry: Registry,
    /// The service's name there.
    pub service: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// The token that is shown; `None`: none.
    pub token: Option<SecretRef>,
    /// Silent for so long, it is critical (default 15 s).
    pub ttl: Duration,
    /// Critical for so long, it is forgotten (default 10 min).
    pub deregister_after: Duration,
}

/// What etcd is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterEtcd {
    /// Its servers, `http://HOST:PORT` or `https://HOST:PORT`.
    pub servers: Vec<String>,
    /// What the key begins with; the instance's name follows.
    pub prefix: String,
    /// Who we are, and what proves it; `None`: nobody.
    pub login: Option<(String, SecretRef)>,
    /// Authorities that its certificates must come from; `None`: the system's.
    pub ca: Option<SecretRef>,
    /// Silent for so long, its key is gone (default 15 s).
    pub ttl: Duration,
}

/// What Eureka is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterEureka {
    /// Its address with the path, `http://HOST:8761/eureka`.
    pub registry: Registry,
    /// The application's name there, in any case.
    pub application: String,
    /// Who we are, and what proves it; `None`: nobody.
    pub login: Option<(String, SecretRef)>,
    /// Silent for so long, it may be evicted (default 15 s).
    pub ttl: Duration,
}

impl fmt::Display for RegisterConsul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Consul at {} (service {})", self.registry.address, self.service)
    }
}

impl fmt::Display for RegisterEtcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd at {} (prefix {})", self.servers.join(", "), self.prefix)
    }
}

impl fmt::Display for RegisterEureka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Eureka at {} (application {})", self.registry.address, self.application)
    }
}
