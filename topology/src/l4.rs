//! The `nlbs:` section resolved: what one `l4-nlb` instance is told. Not for how it is done: that
//! is the crate `l4-nlb`.
//!
//! Invariant: every listener has a target; a UDP listener has exactly one, for everybody.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::Service;
use crate::telemetry::Recording;
use crate::units::{
    At, GroupName, HostPattern, InstanceName, ListenerName, Place, Rate, SecretRef, ZoneName,
};

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
    /// Where it stands: endpoints of the same zone come first where the balancing does not hash;
    /// `None`: none do.
    pub zone: Option<ZoneName>,
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
    /// Whom it sends to, in the order in which they are tried: those for certain TLS clients, then
    /// the one for everybody else, if there is one. What fits none is refused.
    pub targets: Vec<Target>,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// The table behind a balancing that hashes (default Maglev).
    pub hash: HashTable,
    /// What becomes of an endpoint's flows when it goes down (default: UDP `Rehash`, TCP `Keep`).
    pub on_down: OnDown,
    /// A flow without traffic for so long ends (default UDP 120 s, TCP 350 s).
    pub idle: Duration,
    /// Most flows at a time, all workers together (default 50 000).
    pub max_flows: NonZeroU32,
    /// Most flows of one client at a time; a client is an IPv4 address or an IPv6 /64. `None`: no
    /// bound.
    pub max_flows_per_source: Option<NonZeroU32>,
    /// Most new flows of all clients together; `None`: no bound.
    pub new_flows: Option<Rate>,
    /// Most new flows of one client; `None`: no bound.
    pub new_flows_per_source: Option<Rate>,
    /// Most datagrams of one client (UDP); `None`: no bound.
    pub packets_per_source: Option<Rate>,
    /// The endpoint sees the client's own address and port, as far as the kernel permits it.
    pub transparent: bool,
    /// The header written to the endpoint: before a connection's first byte, or before the payload
    /// of a datagram (v2 alone).
    pub proxy_protocol: Option<ProxyVersion>,
    /// Peers whose PROXY header is believed and required (default none).
    pub accept_proxy_from: Vec<IpNet>,
    /// How long a connection to an endpoint may take (default 1 s).
    pub connect_timeout: Duration,
    /// Datagrams that are recorded; `None`: none.
    pub record: Option<Recording>,
    /// Clients let in; empty: all.
    pub allow: Vec<IpNet>,
    /// Clients turned away, before `allow` is asked.
    pub deny: Vec<IpNet>,
    /// Where its key stands.
    pub place: Place,
}

impl Listener {
    /// All services that it may send to.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.targets.iter().map(|target| &target.to)
    }

    /// The service for everybody, else the first.
    pub fn to(&self) -> Option<&Service> {
        self.targets
            .last()
            .filter(|last| last.when.is_none())
            .or(self.targets.first())
            .map(|t| &t.to)
    }
}

/// A service that a listener sends to, and for whom.
#[derive(Clone, Debug)]
pub struct Target {
    /// Which TLS clients it is for; `None`: everybody.
    pub when: Option<TlsMatch>,
    /// A service, or a gateway group standing as one.
    pub to: Service,
}

/// What a ClientHello must say: one of the names, if there are any, and one of the protocols, if
/// there are any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsMatch {
    /// Server names (RFC 6066 §3).
    pub names: Vec<HostPattern>,
    /// Protocols (RFC 7301), as `h2`.
    pub alpn: Vec<String>,
    /// Where it is written.
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

/// The table by which a hash names an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HashTable {
    /// Even shares to a fraction of a percent; a change of the list moves a few clients of others.
    #[default]
    Maglev,
    /// A change of the list moves nobody else; shares are uneven by some percent.
    Rendezvous,
}

/// What becomes of an endpoint's flows when it goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnDown {
    /// UDP flows go to another endpoint; TCP connections stay, as they cannot move.
    Rehash,
    /// They stay.
    Keep,
    /// TCP connections are reset; UDP flows are forgotten, and the next datagram begins a new one.
    Reset,
}

/// Version of the PROXY protocol header that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}
