//! The programs that stand behind the tiers: HTTP services on PostgreSQL, gRPC, a game server, a token
//! issuer. Not a part of the product: no tier links to any of this, and this links to none of them, so
//! that a fault on one side is not repeated on the other. Started by `aqueduct up`, tests, or by hand.
//!
//! Invariant: every program stops on TERM or INT after it has answered what it had begun.

#![forbid(unsafe_code)]

mod answer;
mod commands;
mod database;
mod echo;
mod eureka;
mod feed;
mod game;
mod grpc;
mod http;
mod identity;
mod issuer;
mod keys;
mod options;
mod orders;
mod register;
mod rtmp;
mod shutdown;
mod upstream;
mod user;
mod web;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    commands::run().await
}
