//! The gateway against fakes: one binary, in-memory clients, services on loopback ports that the
//! system chooses. Not for whole stacks: those are in `tests/`.
//!
//! Invariant: no test waits for wall time; where time matters the clock is paused.

mod answers;
mod api_keys;
mod attached;
mod authn;
mod authorizer;
mod balancer;
mod bodies;
mod bodiless;
mod bombs;
mod cache;
mod calls;
mod composed;
mod consumers;
mod contracts;
mod denylist;
mod described;
mod discovery;
mod endpoints;
mod events;
mod external;
mod fakes;
mod files;
mod filters;
mod fleets;
mod floods;
#[expect(dead_code, reason = "the tests of the stage use more of it")]
mod forge;
mod frames;
mod front;
mod grpc_web;
mod headers;
mod holders;
mod identity;
mod instance;
mod interim;
mod introspection;
mod kept;
mod listeners;
mod logs;
mod memory;
mod mutual;
mod order;
mod peers;
mod pipeline;
mod previews;
mod rate_limit;
#[cfg(feature = "verify")]
mod real;
mod records;
mod refusals;
mod reload;
mod retries;
mod rig;
mod scanned;
mod secrets;
mod secured;
mod secured_stores;
#[expect(dead_code, reason = "the tests of the stage use more of it")]
mod servers;
mod services2;
mod signals;
mod split;
mod stands_in;
mod store_loss;
mod traces;
mod traffic;
mod transcode;
mod transcode_facts;
mod transforms;
mod upgrade;
mod vary;
mod websocket2;
mod wire;
