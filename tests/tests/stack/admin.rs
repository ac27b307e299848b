//! The admin listeners of all three tiers.

use std::net::SocketAddr;
use std::sync::Arc;

use common::cli::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const FILE: &str = "aqueduct: 1
admin-token: file:token
services:
  web: { endpoints: [127.0.0.1:9] }
nlbs:
  edge:
    instances: { nlb-1: { address: 127.0.0.1, admin: 127.0.0.1:0 } }
    listeners: { web: { tcp: \"*:0\", to: web } }
gateways:
  app:
    instances: { gw-1: { listen: 127.0.0.1:0, admin: 127.0.0.1:0 } }
    routes: [{ path: /*, to: web }]
pools:
  data:
    instances: { pool-1: { listen: 127.0.0.1:0, admin: 127.0.0.1:0 } }
    databases: { shop: { primary: 127.0.0.1:9 } }
    users: { app: { secret: file:token } }
";

/// The status line of an answer.
async fn ask(admin: Option<SocketAddr>, path: &str, token: &str) -> String {
    let mut stream = TcpStream::connect(admin.unwrap()).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

/// O1: with `admin-token` every tier answers health to anybody and everything else to its bearer
/// alone.
#[tokio::test]
async fn every_tier_asks_for_the_admin_token() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "s3cret").unwrap();
    let topology = Arc::new(topology::parse("stack.yaml", FILE, folder.path()).unwrap());
    let options = Options::new;
    let edge = l4_nlb::start(topology.clone(), "nlb-1", options("nlb-1")).await.unwrap();
    let gateway = l7_gateway::start(topology.clone(), "gw-1", options("gw-1")).await.unwrap();
    let pool = pgpool::start(topology, "pool-1", options("pool-1")).await.unwrap();
    for admin in [edge.admin, gateway.admin, pool.admin] {
        assert_eq!(ask(admin, "/livez", "").await, "HTTP/1.1 200 OK");
        for path in ["/config", "/metrics", "/endpoints", "/flows"] {
            assert_eq!(ask(admin, path, "wrong").await, "HTTP/1.1 401 Unauthorized", "{path}");
        }
        assert_eq!(ask(admin, "/config", "s3cret").await, "HTTP/1.1 200 OK");
    }
}
