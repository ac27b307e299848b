//! What was typed: a mirror of the file in which everything is optional and keeps its place, one
//! table of fields per section (`section!`), from which reading, the JSON schema and the manual's
//! key list all come. Not for what it means together: that is `resolve`, the only caller.
//!
//! Invariant: reading never stops at the first problem, and a missing or wrong value is `None`
//! only after a problem about it has been noted.

mod answers;
mod cache;
mod contract;
mod external;
mod files;
mod gateway;
mod identity;
mod l4;
mod listed;
mod pool;
mod read;
mod register;
mod scalar;
mod schema;
mod service;
mod split;
mod telemetry;
mod transcode;
mod transform;
mod upstream;

pub(crate) use answers::*;
pub(crate) use cache::*;
pub(crate) use contract::*;
pub(crate) use external::*;
pub(crate) use files::*;
pub(crate) use gateway::*;
pub(crate) use identity::*;
pub(crate) use l4::*;
pub(crate) use listed::*;
pub(crate) use pool::*;
pub(crate) use read::{
    Choice, Entry, Fields, Findings, FromTree, KeySpec, Named, OneOrMany, Refused, Spot, Typed,
    prose,
};
pub(crate) use register::*;
pub(crate) use scalar::{Flag, Scalar, Text, Version};
pub(crate) use schema::{SectionSchema, document};
pub(crate) use service::*;
pub(crate) use split::*;
pub(crate) use telemetry::*;
pub(crate) use transcode::*;
pub(crate) use transform::*;
pub(crate) use upstream::*;
