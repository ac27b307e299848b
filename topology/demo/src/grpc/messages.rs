//! The messages of `echo.proto` and of gRPC's health protocol, and of its errors, by hand. Not for what is answered. Used
//! by `grpc`.
//!
//! Invariant: numbers and kinds of fields are those of the `.proto` files.

/// What a client says.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EchoRequest {
    /// Comes back as it is.
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    /// How many answers `Repeat` gives.
    #[prost(uint32, tag = "2")]
    pub(crate) times: u32,
    /// Fails with this status code.
    #[prost(int32, tag = "3")]
    pub(crate) fail: i32,
    /// Never answers.
    #[prost(bool, tag = "4")]
    pub(crate) hold: bool,
}

/// What comes back.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EchoReply {
    /// What was said.
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    /// Which answer of the call it is, from 1.
    #[prost(uint32, tag = "2")]
    pub(crate) number: u32,
    /// Who answers.
    #[prost(string, tag = "3")]
    pub(crate) server: String,
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HealthRequest {
    /// Which service; empty for the whole server.
    #[prost(string, tag = "1")]
    pub(crate) service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HealthReply {
    /// 1 is `SERVING`.
    #[prost(int32, tag = "1")]
    pub(crate) status: i32,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RichStatus {
    /// The call's code.
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    /// For programs.
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<Detail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Detail {
    /// What it is.
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    /// As its message is written.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}
