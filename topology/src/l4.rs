//! The `nlbs:` section resolved: what one `l4-nlb` instance is told. Not for how it is done: that
//! is the crate `l4-nlb`.
//!
//! Invariant: every listener has a service with at least one endpoint.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::Service;
use crate::units::{At, GroupName, InstanceName, ListenerName, Place, SecretRef};

/// Balancers that run the same listeners and choose the same endpoint for the same client.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name in the file.
    pub name: GroupName,
    /// The processes.
    pub instances: Vec<Instance>,
    /// What each of them listens on.
    pub listeners: Vec<Listener>,
    /// Keeps clients from choosing their endpoint; `None`: a key made from the names.
    pub hash_key: Option<At<SecretRef>>,
    /// How long a drain may take before what is left is ended (default 30 s).
    pub drain: Duration,
    /// Where its key stands.
    pub place: Place,
}

/// One `l4-nlb` process.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Unique in the file.
    pub name: InstanceName,
    /// The address that `*:PORT` listeners take on this instance.
    pub address: IpAddr,
    /// Admin listener; `None`: none.
    pub admin: Option<At<SocketAddr>>,
    /// Where its key stands.
    pub place: Place,
}

/// One listening port of the group.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Unique in its group.
    pub name: ListenerName,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where it listens.
    pub at: At<ListenAt>,
    /// Whom it sends to: a service, or a gateway group standing as one.
    pub to: Service,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// A flow without traffic for so long ends (default UDP 120 s, TCP 350 s).
    pub idle: Duration,
    /// Most flows at a time, all workers together (default 50 000).
    pub max_flows: NonZeroU32,
    /// Most flows of one client address at a time; `None`: no bound of its own.
    pub max_flows_per_source: Option<NonZeroU32>,
    /// The header written to the endpoint before the first byte.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Peers whose PROXY header is believed and required (default none).
    pub accept_proxy_from: Vec<IpNet>,
    /// How long a connection to an endpoint may take (default 1 s).
    pub connect_timeout: Duration,
    /// Clients let in; empty: all.
    pub allow: Vec<IpNet>,
    /// Clients turned away, before `allow` is asked.
    pub deny: Vec<IpNet>,
    /// Where its key stands.
    pub place: Place,
}

/// Transport of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Where a listener of a group listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAt {
    /// `*:PORT`: on each instance's own address.
    Instance(u16),
    /// A fixed address.
    Address(SocketAddr),
}

impl ListenAt {
    /// The socket address on an instance.
    pub fn on(self, instance: &Instance) -> SocketAddr {
        match self {
            Self::Instance(port) => SocketAddr::new(instance.address, port),
            Self::Address(address) => address,
        }
    }
}

/// How an endpoint is chosen for a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Balance {
    /// Maglev over the client's address alone: every port of a client, every instance, the same
    /// endpoint. The default of UDP listeners.
    ClientAddress,
    /// Maglev over both addresses and ports.
    FiveTuple,
    /// In turn, by weight. The default of TCP listeners.
    RoundRobin,
    /// Fewest flows for its weight.
    LeastConnections,
    /// The less loaded of two random ones.
    TwoChoices,
}

/// Version of the PROXY protocol header that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}
