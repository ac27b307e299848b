//! The stages, one module each, in pipeline order (stage 1, the handshake, is in `tls`). Not for the
//! order itself: that is `pipeline`. Called by `pipeline`.
//!
//! Invariant: a stage never imports another stage, except the types that prove a former one.

pub mod tls;

pub mod normalise;

pub mod authn;

pub mod authz;

pub mod rate_limit;

pub mod route;

pub mod request_transform;

pub mod dispatch;

pub mod response_transform;

pub mod emit;
