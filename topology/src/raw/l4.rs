//! The `nlbs:` section as typed.
//!
//! Invariant: none beyond `raw`'s.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use ipnet::IpNet;

use crate::l4::{Balance, HashTable, ListenAt, OnDown, ProxyVersion};
use crate::raw::schema::section;
use crate::raw::{Flag, Named, OneOrMany, Recording, Text, Typed};
use crate::units::{HostPattern, Rate, SecretRef, Time};

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
        /// Where it stands: endpoints of the same zone come first, on listeners that do not hash.
        /// Default: none do.
        may "zone" zone: Typed<Text>,
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
        /// Whom it sends to: a service, a gateway group, or GROUP/LISTENER of other balancers. Default:
        /// beside `tls-routes` none, and connections that fit none of them are refused.
        may "to" to: Typed<Text>,
        /// Whom TLS connections go to by server name and protocol; the first that fits. Nothing is
        /// decrypted. Default: none.
        may "tls-routes" tls_routes: Vec<TlsRoute>,
        /// How an endpoint is chosen for a new flow. Default: `client-address` for UDP,
        /// `round-robin` for TCP.
        may "balance" balance: Typed<Balance>,
        /// The table behind `client-address` and `five-tuple`: `maglev` (even shares) or
        /// `rendezvous` (a change of the list moves nobody else). Default: `maglev`.
        may "hash" hash: Typed<HashTable>,
        /// What becomes of an endpoint's flows when it goes down: `rehash` (UDP flows move),
        /// `keep` or `reset`. Default: `rehash` for UDP, `keep` for TCP.
        may "on-down" on_down: Typed<OnDown>,
        /// A flow without traffic for so long ends. Default: 120s for UDP, 350s for TCP.
        may "idle" idle: Typed<Time>,
        /// Most flows at a time, all workers together; in a full UDP table a flow that was never
        /// answered makes room. Default: 50000.
        may "max-flows" max_flows: Typed<NonZeroU32>,
        /// Most flows at a time of one client, which is an IPv4 address or an IPv6 /64. Default: no
        /// bound of its own.
        may "max-flows-per-source" max_flows_per_source: Typed<NonZeroU32>,
        /// Most new flows, 5000/s. Default: no bound.
        may "new-flows" new_flows: Typed<Rate>,
        /// Most new flows of one client, 50/s. Default: no bound.
        may "new-flows-per-source" new_flows_per_source: Typed<Rate>,
        /// Most datagrams of one client, 2000/s; `udp` only. Default: no bound.
        may "packets-per-source" packets_per_source: Typed<Rate>,
        /// The endpoint sees the client's own address and port; needs CAP_NET_ADMIN, and routes that lead
        /// answers back through this host. A `udp` flow then has an upstream socket of its own. Default: false.
        may "transparent" transparent: Typed<Flag>,
        /// Writes the PROXY protocol header to the endpoint: `v1` or `v2`; `udp` only `v2`.
        /// Default: none is written.
        may "proxy-protocol" proxy_protocol: Typed<ProxyVersion>,
        /// Networks whose PROXY header is believed and required. Default: none.
        may "accept-proxy-from" accept_proxy_from: Vec<Typed<IpNet>>,
        /// How long a connection to an endpoint may take. Default: 1s.
        may "connect-timeout" connect_timeout: Typed<Time>,
        /// Datagrams that are recorded for `aqueduct replay udp`, in both directions, with all that is in
        /// them; `udp` only. Default: none.
        may "record" record: Recording,
        /// Networks let in. Default: all.
        may "allow" allow: Vec<Typed<IpNet>>,
        /// Networks turned away, before `allow` is asked. Default: none.
        may "deny" deny: Vec<Typed<IpNet>>,
    }
}

section! {
    /// TLS connections that go to a service of their own.
    TlsRoute at spot {
        /// Server names, `api.example` or `*.example` for all below it. Default: any, or none.
        may "sni" sni: OneOrMany<Typed<HostPattern>>,
        /// Protocols that the client offers, `h2`. Default: any, or none.
        may "alpn" alpn: OneOrMany<Typed<Text>>,
        /// Whom they go to, as the listener's `to`.
        must "to" to: Typed<Text>,
    }
}
