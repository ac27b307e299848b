//! Clients as the outside world has them: browsers, players, services with a database. Not for
//! load: that is `aqueduct replay`. Used by the tests.
//!
//! Invariant: a client hides nothing: an error of the stack is an error of the call.

pub mod game;
pub mod grpc;
pub mod http;
pub mod http2;
pub mod sql;
