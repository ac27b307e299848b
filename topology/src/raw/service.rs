//! The file's root and the `services:` section as typed.
//!
//! Invariant: none beyond `raw`'s.

use std::net::SocketAddr;

use schemars::{Schema, SchemaGenerator, json_schema};

use crate::raw::schema::section;
use crate::raw::{
    Findings, Flag, FromTree, GatewayGroup, Named, NlbGroup, PoolGroup, Spot, Text, Typed, Version,
};
use crate::tree::{Kind, Tree};
use crate::units::{Percent, SecretRef, Time, Weight};

section! {
    /// One topology: services, and the groups of processes in front of them. Every section may be
    /// absent.
    File {
        /// Version of the format. Default: 1, the only one.
        may "aqueduct" version: Typed<Version>,
        /// What admin listeners ask for as a bearer token, `file:PATH` or `env:NAME`. Default: none,
        /// and then they listen on loopback addresses only.
        may "admin-token" admin_token: Typed<SecretRef>,
        /// Servers that do the work, by name. Default: none.
        may "services" services: Named<Service>,
        /// Groups of `l4-nlb` processes, by name: TCP and UDP by address. Default: none.
        may "nlbs" nlbs: Named<NlbGroup>,
        /// Groups of `l7-gateway` processes, by name: TLS, tokens, limits, routes. Default: none.
        may "gateways" gateways: Named<GatewayGroup>,
        /// Groups of `pgpool` processes, by name: PostgreSQL connections. Default: none.
        may "pools" pools: Named<PoolGroup>,
    }
}

section! {
    /// Servers that do the same work.
    Service {
        /// Where it answers: `ADDRESS:PORT`, or a section with a weight and a stable name. Exactly
        /// one of `endpoints` and `discover`.
        may "endpoints" endpoints: Vec<Endpoint>,
        /// Where its endpoints are learned from. Default: the file has them.
        may "discover" discover: Discover,
        /// With a smaller part of its endpoints selectable than this, all are used. Default: 0%,
        /// only when none is.
        may "panic-threshold" panic_threshold: Typed<Percent>,
        /// How long an endpoint that is new or has come back takes to reach its whole share, where
        /// the balancing does not hash. Default: none.
        may "slow-start" slow_start: Typed<Time>,
        /// How to ask whether an endpoint lives. Default: not asked; only failures in traffic
        /// count.
        may "health" health: Health,
        /// What `aqueduct up` starts: `demo NAME` or `postgres`. Ignored by the tiers. Default:
        /// nothing.
        may "run" run: Typed<Text>,
        /// What the program connects to: a service, GROUP, GROUP/LISTENER or GROUP/DATABASE. Only
        /// `aqueduct up` and `aqueduct graph` read it. Default: nothing.
        may "uses" uses: Vec<Typed<Text>>,
    }
}

section! {
    /// One address of a service.
    EndpointSection {
        /// Where it listens, `ADDRESS:PORT`.
        must "address" address: Typed<SocketAddr>,
        /// Its share of the traffic, 1 to 1000. Default: 1.
        may "weight" weight: Typed<Weight>,
        /// A stable name, which hashing goes by; give one when the address may change. Default: the
        /// address.
        may "name" name: Typed<Text>,
        /// Where it stands; a balancer's instance prefers those of its own zone. Default: not said.
        may "zone" zone: Typed<Text>,
    }
}

section! {
    /// A source of endpoints. Exactly one of `dns`, `srv`, `file`, `consul`, `etcd`, `eureka`,
    /// `kubernetes` and `eds`.
    Discover at spot {
        /// `HOST:PORT`: all A and AAAA addresses of the host.
        may "dns" dns: Typed<Text>,
        /// The name of SRV records (RFC 2782), `_game._udp.example`.
        may "srv" srv: Typed<Text>,
        /// A file that lists endpoints, YAML or JSON; it is read again when it changes. Relative to this
        /// file's folder.
        may "file" file: Typed<Text>,
        /// A service that Consul knows.
        may "consul" consul: Consul,
        /// Values that etcd holds.
        may "etcd" etcd: Etcd,
        /// An application that Eureka knows.
        may "eureka" eureka: Eureka,
        /// A service that Kubernetes knows.
        may "kubernetes" kubernetes: Kubernetes,
        /// A service that a control plane of Envoy's knows.
        may "eds" eds: Eds,
        /// The DNS server to ask, `ADDRESS:PORT`. Default: the system's.
        may "resolver" resolver: Typed<SocketAddr>,
        /// The shortest time from one question to DNS to the next, whatever the answer's time to live.
        /// Default: 1s.
        may "refresh-floor" refresh_floor: Typed<Time>,
        /// Only endpoints of this version; needs a source that knows versions. Default: all.
        may "version" version: Typed<Text>,
        /// How long a source that knew endpoints must go on saying that there are none until it is
        /// believed. DNS never is. Default: 2m.
        may "empty-after" empty_after: Typed<Time>,
    }
}

section! {
    /// Passing instances of a service in Consul: held questions (blocking queries) tell changes at once.
    Consul {
        /// An agent or server, `http://HOST:8500` or `https://HOST:8501`.
        must "address" address: Typed<Text>,
        /// The service's name there.
        must "service" service: Typed<Text>,
        /// Instances that have this tag. Default: all.
        may "tag" tag: Typed<Text>,
        /// Of this data centre. Default: the agent's own.
        may "datacenter" datacenter: Typed<Text>,
        /// An ACL token that may read the service and its nodes, `file:PATH` or `env:NAME`; read again for
        /// each question. Default: none.
        may "token" token: Typed<SecretRef>,
        /// Authorities that its certificate must come from, `file:PATH`. Default: the system's.
        may "ca" ca: Typed<SecretRef>,
        /// The key of an instance's or its node's metadata that names the zone. Default: zone.
        may "zone-meta" zone: Typed<Text>,
    }
}

section! {
    /// Endpoints in etcd: each key below a prefix has one as its value.
    Etcd {
        /// Its servers, `http://HOST:2379` or `https://HOST:2379`.
        must "servers" servers: Vec<Typed<Text>>,
        /// What keys of endpoints begin with, `/services/user/`.
        must "prefix" prefix: Typed<Text>,
        /// Who we are. Default: nobody.
        may "user" user: Typed<Text>,
        /// What proves it, `file:PATH` or `env:NAME`. Default: nothing.
        may "password" password: Typed<SecretRef>,
        /// Authorities that its certificates must come from, `file:PATH`. Default: the system's.
        may "ca" ca: Typed<SecretRef>,
    }
}

section! {
    /// Instances of an application in Eureka that are UP.
    Eureka {
        /// Its address with the path, `http://HOST:8761/eureka`.
        must "address" address: Typed<Text>,
        /// The application's name there.
        must "application" application: Typed<Text>,
        /// Who we are. Default: nobody.
        may "user" user: Typed<Text>,
        /// What proves it, `file:PATH` or `env:NAME`. Default: nothing.
        may "password" password: Typed<SecretRef>,
        /// Authorities that its certificate must come from, `file:PATH`. Default: the system's.
        may "ca" ca: Typed<SecretRef>,
        /// From one question to the next. Default: 5s.
        may "interval" interval: Typed<Time>,
    }
}

section! {
    /// Pods of a service in Kubernetes, by its EndpointSlices: a watch tells changes at once.
    Kubernetes {
        /// The service's name there.
        must "service" service: Typed<Text>,
        /// The namespace that it is in.
        must "namespace" namespace: Typed<Text>,
        /// The port's name, or the number that the pods listen on. Default: the only port.
        may "port" port: Typed<Text>,
        /// The API, `https://HOST:6443` or `http://HOST:PORT`. Default: the API of the cluster that this
        /// instance runs in.
        may "api" api: Typed<Text>,
        /// A token that may `list` and `watch` `endpointslices` in the namespace, `file:PATH` or
        /// `env:NAME`; read again for each question. Default: without `api` the token of the pod's
        /// service account, else none.
        may "token" token: Typed<SecretRef>,
        /// Authorities that the API's certificate must come from, `file:PATH`. Default: without `api`
        /// those of the pod's service account, else the system's.
        may "ca" ca: Typed<SecretRef>,
    }
}

section! {
    /// Endpoints that a control plane assigns to a service, as Envoy asks for them (EDS over the stream of
    /// ADS, xDS v3 over gRPC): it tells changes at once.
    Eds {
        /// The control plane, `http://HOST:18000` or `https://HOST:18000`, without a path.
        must "address" address: Typed<Text>,
        /// The service's name there: the `cluster_name` of its `ClusterLoadAssignment`.
        must "service" service: Typed<Text>,
        /// Who we are to the control plane (`node.id`); it may go by that in what it tells. Default:
        /// aqueduct.
        may "node" node: Typed<Text>,
        /// What group we are one of there (`node.cluster`). Default: aqueduct.
        may "node-cluster" group: Typed<Text>,
        /// A bearer token, `file:PATH` or `env:NAME`; read again for each stream. Default: none.
        may "token" token: Typed<SecretRef>,
        /// Authorities that its certificate must come from, `file:PATH`. Default: the system's.
        may "ca" ca: Typed<SecretRef>,
    }
}

section! {
    /// An active check of each endpoint. Exactly one of `tcp`, `tls`, `http`, `grpc` and `udp`.
    HealthSection at spot {
        /// A connection must be accepted.
        may "tcp" tcp: Typed<Flag>,
        /// A TLS handshake must succeed, `true` or the server name to ask for; the certificate is
        /// not verified.
        may "tls" tls: Typed<Text>,
        /// GET of this path must be answered with 2xx; 429 means full: nothing new goes there.
        may "http" http: Typed<Text>,
        /// `grpc.health.v1` must answer SERVING, `true` for the whole server or a service's name.
        may "grpc" grpc: Typed<Text>,
        /// This text, sent as one datagram, must be answered by any datagram; an answer that begins
        /// with `full` means full.
        may "udp" udp: Typed<Text>,
        /// From one check to the next, with 10 % jitter. Default: 1s.
        may "interval" interval: Typed<Time>,
        /// How long an answer may take, at most the interval. Default: 1s.
        may "timeout" timeout: Typed<Time>,
        /// So many good answers in a row bring an endpoint back. Default: 2.
        may "rise" rise: Typed<u8>,
        /// So many bad answers in a row take it out. Default: 3.
        may "fall" fall: Typed<u8>,
    }
}

/// An endpoint, in its short or long form.
#[derive(Debug)]
pub(crate) struct Endpoint(pub(crate) EndpointSection);

impl FromTree for Endpoint {
    fn from_tree(tree: &Tree, at: &Spot, out: &mut Findings) -> Option<Self> {
        if !matches!(tree.kind, Kind::Text(_)) {
            return EndpointSection::from_tree(tree, at, out).map(Self);
        }
        let address = Some(Typed::from_tree(tree, at, out)?);
        Some(Self(EndpointSection { address, weight: None, name: None, zone: None }))
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let short = Typed::<SocketAddr>::schema(generator);
        json_schema!({ "anyOf": [short, EndpointSection::schema(generator)] })
    }
}

/// A check, `tcp` as a word or a section.
#[derive(Debug)]
pub(crate) struct Health(pub(crate) HealthSection);

impl FromTree for Health {
    fn from_tree(tree: &Tree, at: &Spot, out: &mut Findings) -> Option<Self> {
        match &tree.kind {
            Kind::Text(text) if text == "tcp" => {
                let tcp = Some(Typed { value: Flag(true), spot: at.clone() });
                Some(Self(HealthSection {
                    spot: at.clone(),
                    tcp,
                    tls: None,
                    http: None,
                    grpc: None,
                    udp: None,
                    interval: None,
                    timeout: None,
                    rise: None,
                    fall: None,
                }))
            }
            Kind::Text(text) => {
                let note = out.error(at, format!("`{text}` is no check"));
                note.allowed("tcp, { http: /PATH }, { tls: true }, { grpc: true }, { udp: TEXT }")
                    .hint("write for example `{ http: /healthz }`");
                None
            }
            _ => HealthSection::from_tree(tree, at, out).map(Self),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "enum": ["tcp"] }, HealthSection::schema(generator)] })
    }
}
