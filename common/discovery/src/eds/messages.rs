//! The messages that are said on the stream, and no more of them than is said or read: numbers of fields
//! as in Envoy's API (v3). Not for what they mean, that is `assignment`. Called by its parent.
//!
//! Invariant: what repeats without bound is kept as bytes of the message until it is looked at one by one. An
//! entry of no bytes costs two in the message and 32 in memory, which is the worst: a message of 4 MiB, the
//! longest that is read, takes some 64 MiB while it is looked at, and 128 as its list grows.

use bytes::Bytes;
use prost::Message;

/// `envoy.service.discovery.v3.DiscoveryRequest` (service/discovery/v3/discovery.proto).
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    /// Of the last answer of this stream that was of use; none yet: empty.
    #[prost(string, tag = "1")]
    pub(super) version_info: String,
    #[prost(message, optional, tag = "2")]
    pub(super) node: Option<Asker>,
    #[prost(string, repeated, tag = "3")]
    pub(super) resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    /// Of the answer that this is said to.
    #[prost(string, tag = "5")]
    pub(super) response_nonce: String,
    /// Why that answer was refused.
    #[prost(message, optional, tag = "6")]
    pub(super) error_detail: Option<Refusal>,
}

/// `envoy.config.core.v3.Node` (config/core/v3/base.proto).
#[derive(Clone, PartialEq, Message)]
pub(super) struct Asker {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) cluster: String,
    #[prost(string, tag = "6")]
    pub(super) user_agent_name: String,
    #[prost(string, tag = "7")]
    pub(super) user_agent_version: String,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Refusal {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

/// `envoy.service.discovery.v3.DiscoveryResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Response {
    #[prost(string, tag = "1")]
    pub(super) version_info: String,
    /// Of [`Packed`].
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) resources: Vec<Bytes>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Packed {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
}

/// `envoy.service.discovery.v3.Resource`: what a server may put around a resource.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Wrapped {
    #[prost(message, optional, tag = "2")]
    pub(super) resource: Option<Packed>,
    /// By which Envoy knows it.
    #[prost(string, tag = "3")]
    pub(super) name: String,
}

/// `envoy.config.endpoint.v3.ClusterLoadAssignment` (config/endpoint/v3/endpoint.proto).
#[derive(Clone, PartialEq, Message)]
pub(super) struct Assignment {
    #[prost(string, tag = "1")]
    pub(super) cluster_name: String,
    /// Of [`Group`].
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) endpoints: Vec<Bytes>,
}

/// `LocalityLbEndpoints` (config/endpoint/v3/endpoint_components.proto).
#[derive(Clone, PartialEq, Message)]
pub(super) struct Group {
    #[prost(message, optional, tag = "1")]
    pub(super) locality: Option<Locality>,
    /// Of [`Member`].
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) lb_endpoints: Vec<Bytes>,
    #[prost(message, optional, tag = "3")]
    pub(super) load_balancing_weight: Option<Number>,
    #[prost(uint32, tag = "5")]
    pub(super) priority: u32,
    /// `load_balancer_endpoints`, which Envoy does not read either.
    #[prost(bytes = "bytes", optional, tag = "7")]
    pub(super) listed: Option<Bytes>,
    /// `leds_cluster_locality_config`: somebody else is to be asked.
    #[prost(bytes = "bytes", optional, tag = "8")]
    pub(super) elsewhere: Option<Bytes>,
}

/// `envoy.config.core.v3.Locality`, of which the zone counts.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Locality {
    #[prost(string, tag = "2")]
    pub(super) zone: String,
}

/// `google.protobuf.UInt32Value`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Number {
    #[prost(uint32, tag = "1")]
    pub(super) value: u32,
}

/// `LbEndpoint`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Member {
    #[prost(message, optional, tag = "1")]
    pub(super) endpoint: Option<Server>,
    /// `envoy.config.core.v3.HealthStatus`.
    #[prost(int32, tag = "2")]
    pub(super) health_status: i32,
    #[prost(message, optional, tag = "3")]
    pub(super) metadata: Option<Metadata>,
    #[prost(message, optional, tag = "4")]
    pub(super) load_balancing_weight: Option<Number>,
    /// One that stands elsewhere in the assignment, which Envoy does not read either.
    #[prost(string, optional, tag = "5")]
    pub(super) endpoint_name: Option<String>,
}

/// `Endpoint`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Server {
    #[prost(message, optional, tag = "1")]
    pub(super) address: Option<Whereabouts>,
}

/// `envoy.config.core.v3.Address` (config/core/v3/address.proto).
#[derive(Clone, PartialEq, Message)]
pub(super) struct Whereabouts {
    #[prost(message, optional, tag = "1")]
    pub(super) socket_address: Option<Socket>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(super) pipe: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(super) envoy_internal_address: Option<Bytes>,
}

/// `envoy.config.core.v3.SocketAddress`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Socket {
    #[prost(string, tag = "2")]
    pub(super) address: String,
    #[prost(uint32, optional, tag = "3")]
    pub(super) port_value: Option<u32>,
    #[prost(string, optional, tag = "4")]
    pub(super) named_port: Option<String>,
}

/// `envoy.config.core.v3.Metadata`: a `google.protobuf.Struct` by the name of whom it is for.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Metadata {
    #[prost(btree_map = "string, bytes", tag = "1")]
    pub(super) filter_metadata: std::collections::BTreeMap<String, Vec<u8>>,
}

/// `google.protobuf.Struct`: a [`Value`] by its name.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Fields {
    #[prost(btree_map = "string, bytes", tag = "1")]
    pub(super) fields: std::collections::BTreeMap<String, Vec<u8>>,
}

/// `google.protobuf.Value`, if it is a text.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(string, optional, tag = "3")]
    pub(super) string_value: Option<String>,
}

/// What is asked for.
pub(super) const ASSIGNMENT: &str =
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

/// What may be around it.
pub(super) const WRAPPED: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";
