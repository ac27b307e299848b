//! The `nlbs:` section as typed.
//!
//! Invariant: none beyond `raw`'s.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use ipnet::IpNet;

use crate::l4::{Balance, ListenAt, ProxyVersion};
use crate::raw::schema::section;
use crate::raw::{Named, Text, Typed};
use crate::units::{SecretRef, Time};

section! {
    /// Balancers that run the same listeners and choose the same endpoint for the same client.
    NlbGroup {
        /// The `l4-nlb` processes, by name.
        must "instances" instances: Named<NlbInstance>,
        /// What each of them listens on, by name.
        must "listeners" listeners: Named<Listener>,
        /// A secret of 16 bytes or more that keeps clients from choosing their endpoint; the same
        /// for all instances. Default: a key made from the names.
        may "hash-key" hash_key: Typed<SecretRef>,
        /// How long a drain may take before what is left is ended. Default: 30s.
        may "drain" drain: Typed<Time>,
    }
}

section! {
    /// One `l4-nlb` process.
    NlbInstance {
        /// The address that `*:PORT` listeners take here.
        must "address" address: Typed<IpAddr>,
        /// Health, metrics and drain, `ADDRESS:PORT`. Default: none.
        may "admin" admin: Typed<SocketAddr>,
    }
}

section! {
    /// One listening port. Exactly one of `tcp` and `udp`.
    Listener at spot {
        /// Listens for connections: `*:PORT` or `ADDRESS:PORT`; port 0 lets the system choose.
        may "tcp" tcp: Typed<ListenAt>,
        /// Listens for datagrams: `*:PORT` or `ADDRESS:PORT`; port 0 lets the system choose.
        may "udp" udp: Typed<ListenAt>,
        /// Whom it sends to: a service, a gateway group, or GROUP/LISTENER of other balancers.
        must "to" to: Typed<Text>,
        /// How an endpoint is chosen for a new flow. Default: `client-address` for UDP,
        /// `round-robin` for TCP.
        may "balance" balance: Typed<Balance>,
        /// A flow without traffic for so long ends. Default: 120s for UDP, 350s for TCP.
        may "idle" idle: Typed<Time>,
        /// Most flows at a time, all workers together; the oldest idle one makes room. Default:
        /// 50000.
        may "max-flows" max_flows: Typed<NonZeroU32>,
        /// Most flows of one client address at a time. Default: no bound of its own.
        may "max-flows-per-source" max_flows_per_source: Typed<NonZeroU32>,
        /// Writes the PROXY protocol header to the endpoint. Default: none is written.
        may "proxy-protocol" proxy_protocol: Typed<ProxyVersion>,
        /// Networks whose PROXY header is believed and required. Default: none.
        may "accept-proxy-from" accept_proxy_from: Vec<Typed<IpNet>>,
        /// How long a connection to an endpoint may take. Default: 1s.
        may "connect-timeout" connect_timeout: Typed<Time>,
        /// Networks let in. Default: all.
        may "allow" allow: Vec<Typed<IpNet>>,
        /// Networks turned away, before `allow` is asked. Default: none.
        may "deny" deny: Vec<Typed<IpNet>>,
    }
}
