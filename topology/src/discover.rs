//! Sources of endpoints outside of the file, resolved. Not for asking them: that is the crate
//! `discovery`. Part of a service.
//!
//! Invariant: nothing in it says where it was written, so that the same source is equal to itself after
//! lines have moved.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::units::SecretRef;

/// A source of endpoints outside of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discover {
    /// What is asked.
    pub source: DiscoverSource,
    /// The DNS server that is asked; `None`: the system's.
    pub resolver: Option<SocketAddr>,
    /// The shortest time from one question to DNS to the next, whatever the answer's time to live
    /// (default 1 s).
    pub floor: Duration,
    /// Endpoints of this version alone; `None`: all.
    pub version: Option<String>,
    /// How long an empty answer must be repeated until it is believed (default 2 min).
    pub empty_after: Duration,
}

/// What a source is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoverSource {
    /// `dns: HOST:PORT`: all A and AAAA addresses of the host.
    Dns {
        /// A host name.
        host: String,
        /// The port on each address.
        port: u16,
    },
    /// `srv: NAME`: hosts, ports, priorities and weights (RFC 2782).
    Srv {
        /// The name of the records, `_game._udp.example`.
        name: String,
    },
    /// `file: PATH`: a list that is read again when it changes.
    File {
        /// Where it is.
        path: PathBuf,
    },
    /// `consul: { … }`: passing instances of a service.
    Consul(Consul),
    /// `etcd: { … }`: values below a prefix.
    Etcd(Etcd),
    /// `eureka: { … }`: instances of an application that are up.
    Eureka(Eureka),
    /// `kubernetes: { … }`: what the slices of a service name.
    Kubernetes(Kubernetes),
    /// `eds: { … }`: what a control plane of Envoy's assigns to a service.
    Eds(Eds),
}

/// A registry that is asked over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// `http://HOST:PORT` or `https://HOST:PORT`, with a path or without.
    pub address: String,
    /// Authorities that its certificate must come from; `None`: the system's.
    pub ca: Option<SecretRef>,
}

/// What Consul is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consul {
    /// An agent or server.
    pub registry: Registry,
    /// The service's name there.
    pub service: String,
    /// Instances with this tag alone; `None`: all.
    pub tag: Option<String>,
    /// Of this data centre; `None`: the agent's own.
    pub datacenter: Option<String>,
    /// The token that is shown; `None`: none.
    pub token: Option<SecretRef>,
    /// The key of the service's or node's metadata that names its zone (default `zone`).
    pub zone: String,
}

/// What etcd is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// Its servers, `http://HOST:PORT` or `https://HOST:PORT`.
    pub servers: Vec<String>,
    /// Each key that begins so is an endpoint.
    pub prefix: String,
    /// Who we are, and what proves it; `None`: nobody.
    pub login: Option<(String, SecretRef)>,
    /// Authorities that its certificates must come from; `None`: the system's.
    pub ca: Option<SecretRef>,
}

/// What Eureka is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eureka {
    /// Its address with the path, `http://HOST:8761/eureka`.
    pub registry: Registry,
    /// The application's name there, in any case.
    pub application: String,
    /// Who we are, and what proves it; `None`: nobody.
    pub login: Option<(String, SecretRef)>,
    /// From one question to the next (default 5 s).
    pub interval: Duration,
}

/// What Kubernetes is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// Where its API is, `http://HOST:PORT` or `https://HOST:PORT`; `None`: where the cluster in which
    /// we run says that it is.
    pub api: Option<String>,
    /// The service's name there.
    pub service: String,
    /// The namespace that it is in.
    pub namespace: String,
    /// Which of its ports; `None`: the only one.
    pub port: Option<ServicePort>,
    /// What is shown as a bearer token; `None`: nothing.
    pub token: Option<SecretRef>,
    /// Authorities that the API's certificate must come from; `None`: the system's.
    pub ca: Option<SecretRef>,
}

/// What a control plane of Envoy's is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eds {
    /// The control plane, without a path.
    pub registry: Registry,
    /// The service's name there.
    pub service: String,
    /// Who we are to it (default `aqueduct`).
    pub node: String,
    /// What group we are one of there (default `aqueduct`).
    pub group: String,
    /// What is shown as a bearer token; `None`: nothing.
    pub token: Option<SecretRef>,
}

/// A port of a service in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServicePort {
    /// By its name.
    Name(String),
    /// By the number that its pods listen on.
    Number(u16),
}

impl std::fmt::Display for ServicePort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl std::fmt::Display for DiscoverSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns { host, port } => write!(f, "DNS of {host} (port {port})"),
            Self::Srv { name } => write!(f, "SRV records of {name}"),
            Self::File { path } => write!(f, "the file {}", path.display()),
            Self::Consul(consul) => {
                write!(f, "Consul at {} (service {})", consul.registry.address, consul.service)
            }
            Self::Etcd(etcd) => {
                write!(f, "etcd at {} (prefix {})", etcd.servers.join(", "), etcd.prefix)
            }
            Self::Eureka(eureka) => {
                let Eureka { registry, application, .. } = eureka;
                write!(f, "Eureka at {} (application {application})", registry.address)
            }
            Self::Kubernetes(kubernetes) => {
                let Kubernetes { api, service, namespace, .. } = kubernetes;
                f.write_str("Kubernetes")?;
                if let Some(api) = api {
                    write!(f, " at {api}")?;
                }
                write!(f, " (service {namespace}/{service})")
            }
            Self::Eds(eds) => {
                write!(f, "EDS at {} (service {})", eds.registry.address, eds.service)
            }
        }
    }
}
