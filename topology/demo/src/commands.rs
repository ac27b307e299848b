//! The demo programs, a command each. Not for what they do: each has a module. Called by `main`.
//!
//! Invariant: a command runs until it is told to end.

use clap::{Parser, Subcommand};

use crate::options::{GameArgs, GrpcArgs, IssuerArgs, RegistryArgs, RtmpArgs, WebArgs};
use crate::web::{self, Kind};
use crate::{echo, eureka, game, grpc, issuer, rtmp};

/// Demo services, game server and token issuer for a local Aqueduct stack.
#[derive(Debug, Parser)]
#[command(name = "demo", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Profiles: GET …/user/profile (of X-User-Id) and GET …/user/ID
    User(WebArgs),
    /// Posts: GET /api/feed/… with their authors, GET /api/search?q=WORD
    Feed(WebArgs),
    /// Checkout: POST /api/checkout/… books an order in one transaction
    Payment(WebArgs),
    /// GET /profile/ID
    Profile(WebArgs),
    /// GET /orders?user=ID and GET /orders/ID
    Orders(WebArgs),
    /// GET /notifications/ID
    Notifications(WebArgs),
    /// Any path: what was asked, as the service saw it
    Echo(WebArgs),
    /// gRPC over HTTP/2 without TLS: echo.proto's service and grpc.health.v1
    Grpc(GrpcArgs),
    /// UDP game server that answers every player's datagram with its own name
    Game(GameArgs),
    /// Live streams: cameras publish to rtmp://ADDR/live/NAME, viewers play it; needs nginx with its RTMP module
    Rtmp(RtmpArgs),
    /// Service registry: /eureka/apps, as Netflix Eureka's REST operations
    Eureka(RegistryArgs),
    /// Token issuer: GET /jwks.json, POST /token
    Issuer(IssuerArgs),
}

/// Runs the program that the command line names.
pub(crate) async fn run() -> anyhow::Result<()> {
    match Cli::parse().what {
        What::User(args) => web::run(Kind::User, args).await,
        What::Feed(args) => web::run(Kind::Feed, args).await,
        What::Payment(args) => web::run(Kind::Payment, args).await,
        What::Profile(args) => web::run(Kind::Profile, args).await,
        What::Orders(args) => web::run(Kind::Orders, args).await,
        What::Notifications(args) => web::run(Kind::Notifications, args).await,
        What::Echo(args) => echo::run(args).await,
        What::Eureka(args) => eureka::run(args).await,
        What::Grpc(args) => grpc::run(args).await,
        What::Game(args) => game::run(args).await,
        What::Rtmp(args) => rtmp::run(args).await,
        What::Issuer(args) => issuer::run(args).await,
    }
}

const EXAMPLES: &str = "\
Examples:
  demo issuer --listen 127.0.0.1:7900 --keys ./keys
  demo user --listen 127.0.0.1:7011 --name user-1 --use data/app=postgres://app:secret@127.0.0.1:6432/app
  demo feed --listen 127.0.0.1:7021 --name feed-1 --use data/app=postgres://… --use internal/user=http://127.0.0.1:7010
  demo echo --listen 127.0.0.1:7012 --name echo-1
  demo user --listen 127.0.0.1:7011 --auth token --jwks http://127.0.0.1:7900/jwks.json";
