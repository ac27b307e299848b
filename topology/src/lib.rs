//! The topology file of Aqueduct: parse, validate, resolve. Values only: no socket, no runtime.

pub mod gateway;
pub mod l4;
pub mod model;
pub mod pool;
pub mod problem;
pub mod units;

pub use gateway::Tls;
pub use l4::Balance;
pub use model::{Endpoint, HealthCheck, Service, SourceFile, Topology};
pub use problem::Problem;
pub use units::{At, EndpointName, Place, SecretRef, ServiceName, Weight};
