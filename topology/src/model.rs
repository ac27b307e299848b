//! What runs: the topology resolved. Every name has become a value, every default is filled in,
//! and a reference that can still fail at start (a file, a port) keeps its place. Not for what was
//! typed: that is `raw`. All tiers and the tool read this and nothing else.
//!
//! Invariant: a `Topology` that exists has passed every check that the text alone allows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use crate::discover::{
    Consul, Discover, DiscoverSource, Eds, Etcd, Eureka, Kubernetes, Registry, ServicePort,
};
use crate::problem::Problem;
use crate::units::{
    At, DatabaseName, EndpointName, GroupName, ListenerName, Percent, Place, SecretRef,
    ServiceName, Weight, ZoneName,
};
use crate::{gateway, l4, pool};

/// One topology file, resolved.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The file that it came from, for messages with a place.
    pub source: Arc<SourceFile>,
    /// Everything below `services:`, in the file's order.
    pub services: Vec<Service>,
    /// Balancer groups (tier 1 and 3).
    pub nlbs: Vec<l4::Group>,
    /// Gateway groups (tier 2).
    pub gateways: Vec<gateway::Group>,
    /// Pooler groups (tier 3).
    pub pools: Vec<pool::Group>,
    /// `admin-token:` — what admin listeners ask for; without it they may listen on loopback alone
    /// (spec O1; anything else is a problem of the file).
    pub admin_token: Option<At<SecretRef>>,
    /// What is lawful but looks wrong or dangerous.
    pub warnings: Vec<Problem>,
}

/// The text behind a topology.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// As the user named it.
    pub name: String,
    /// The folder that relative paths start from.
    pub folder: PathBuf,
    /// The whole text.
    pub text: String,
    /// In which form it is written.
    pub form: Form,
}

/// How a file is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// As `docs/config.md` has it.
    Topology,
    /// PgBouncer's, with what it says of the process.
    PgBouncer(Box<crate::pgbouncer::Process>),
}

/// Named servers that do the same work.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name in the file; for a group that stands as a service, the group's name.
    pub name: ServiceName,
    /// Where it answers; at least one, or none and `discover`.
    pub endpoints: Vec<Endpoint>,
    /// Where its endpoints are learned from; `None`: the file has them.
    pub discover: Option<At<Discover>>,
    /// With a smaller part of its endpoints selectable than this, all are used (default 0 %: only
    /// when none is).
    pub panic_threshold: Percent,
    /// How long an endpoint that is new or has come back takes to reach its whole share, where
    /// the balancing does not hash; `None`: none.
    pub slow_start: Option<Duration>,
    /// How to ask whether an endpoint lives; `None`: only passive signs count.
    pub health: Option<HealthCheck>,
    /// What `aqueduct up` starts; ignored by the tiers.
    pub run: Option<At<Run>>,
    /// What the program behind it connects to; for `up`, `graph` and `--isolate` only.
    pub uses: Vec<At<Dependency>>,
    /// Where its key stands.
    pub place: Place,
}

/// One address of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Stable name; see [`EndpointName`].
    pub name: EndpointName,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share.
    pub weight: Weight,
    /// Where it stands; `None`: not said.
    pub zone: Option<ZoneName>,
    /// Where it is written.
    pub place: Place,
}

/// An active check, run per endpoint on the control runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// From the start of one check to the next, ± 10 % jitter (default 1 s).
    pub interval: Duration,
    /// How long an answer may take (default 1 s, at most the interval).
    pub timeout: Duration,
    /// So many good answers in a row bring an endpoint back (default 2).
    pub rise: u8,
    /// So many bad ones take it out (default 3).
    pub fall: u8,
}

/// What an active check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `tcp`: a connection is accepted.
    Tcp,
    /// `tls: true` or `tls: NAME`: a handshake succeeds. It asks whether TLS lives there; the
    /// certificate is not verified.
    Tls {
        /// The server name that is asked for.
        name: Option<String>,
    },
    /// `grpc: true` or `grpc: SERVICE`: `grpc.health.v1` answers SERVING.
    Grpc {
        /// The service asked about; empty: the whole server.
        service: String,
    },
    /// `http: /healthz`: GET answers 2xx; 429 means full: nothing new, known flows stay.
    Http {
        /// Path and query, begins with `/`.
        path: String,
    },
    /// `udp: ping`: this datagram is answered by any datagram; one that begins with `full` means
    /// full.
    Udp {
        /// Bytes to send.
        request: Vec<u8>,
    },
}

/// What `aqueduct up` starts for a service, or for a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// `demo NAME`: the demo program with this subcommand and further words.
    Demo(Vec<String>),
    /// `postgres`: a primary and its streaming replicas.
    Postgres,
}

/// Something that a service connects to, or that traffic is sent to: `data/app`, `internal/user`,
/// `app` (a gateway group) or a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dependency {
    /// A service's endpoints themselves.
    Service(ServiceName),
    /// A balancer's listener.
    Listener(GroupName, ListenerName),
    /// A gateway group.
    Gateway(GroupName),
    /// A database of a pool group.
    Database(GroupName, DatabaseName),
}

impl Topology {
    /// The balancer group that has the instance, and the instance.
    pub fn nlb(&self, instance: &str) -> Option<(&l4::Group, &l4::Instance)> {
        self.nlbs.iter().find_map(|g| Some((g, find(&g.instances, instance, |i| &i.name)?)))
    }

    /// The gateway group that has the instance, and the instance.
    pub fn gateway(&self, instance: &str) -> Option<(&gateway::Group, &gateway::Instance)> {
        self.gateways.iter().find_map(|g| Some((g, find(&g.instances, instance, |i| &i.name)?)))
    }

    /// The pool group that has the instance, and the instance.
    pub fn pool(&self, instance: &str) -> Option<(&pool::Group, &pool::Instance)> {
        self.pools.iter().find_map(|g| Some((g, find(&g.instances, instance, |i| &i.name)?)))
    }
}

/// The item whose name is `wanted`.
fn find<'a, T>(
    items: &'a [T],
    wanted: &str,
    name: impl Fn(&T) -> &crate::units::InstanceName,
) -> Option<&'a T> {
    items.iter().find(|item| name(item).as_str() == wanted)
}
