//! Instances that enter themselves in a registry: the real programs, as the registry sees them.

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::clients::http;
use tests::fakes::demo;
use tests::fakes::upstream::Upstream;
use tests::program::{Program, sibling};
use tests::tier::{Draft, Stack, until};
use tokio::net::TcpStream;

const TEXT: &str = "aqueduct: 1
services:
  user: { discover: { file: user.yaml } }
gateways:
  app:
    instances: { gw-1: { listen: 127.0.0.1:8443 } }
    access-log: off
    drain: 30s
    register:
      zone: a
      linger: 10s
      eureka: { address: \"http://127.0.0.1:8761/eureka\", application: app, ttl: 3s }
    routes: [{ path: /*, to: user }]
pools:
  data:
    instances: { pool-1: { listen: 127.0.0.1:6432 } }
    drain: 30s
    register:
      linger: 10s
      eureka: { address: \"http://127.0.0.1:8761/eureka\", application: data, ttl: 3s }
    databases: { shop: { primary: 127.0.0.1:1 } }
    users: { app: {} }
    settings: { ready_when: running }
";

/// A gateway and a pool that run by the same file.
fn start(stack: &Stack, program: &str, instance: &str) -> Program {
    let words = ["--log-format", "json", "--workers", "2", "--instance", instance, "--topology"];
    let mut words = words.map(str::to_owned).to_vec();
    words.push(stack.file().display().to_string());
    // Anything that it says: the registry tells when it serves.
    Program::start(sibling(program), &words, None, "")
}

/// The one instance of an application that the registry knows.
async fn entry(stack: &Stack, application: &str) -> Option<Value> {
    let all = http::plain(stack.address.at(8761), "/eureka/apps").await.unwrap().json();
    let mut applications = all["applications"]["application"].as_array().unwrap().iter();
    let found = applications.find(|found| found["name"] == application)?;
    Some(found["instance"][0].clone())
}

async fn until_status(stack: &Stack, application: &str, status: &str) -> Value {
    until(&format!("{application} to be {status}"), async || {
        entry(stack, application).await.filter(|entry| entry["status"] == status)
    })
    .await
}

async fn until_gone(stack: &Stack, application: &str) {
    until(&format!("{application} to be gone"), async || {
        entry(stack, application).await.is_none().then_some(())
    })
    .await;
}

async fn until_closed(stack: &Stack, port: u16) {
    until("the listener to be closed", async || {
        TcpStream::connect(stack.address.at(port)).await.is_err().then_some(())
    })
    .await;
}

/// O4, O3: gateway and pool are entered with their readiness as health; on TERM the entry leaves first, what comes
/// meanwhile is served, and only then listeners close; one that is killed is given up by the registry.
#[tokio::test]
async fn instances_are_in_the_registry_while_they_serve() {
    let stack = Draft::new(TEXT).stack();
    let _registry = demo::words(&["eureka".to_owned()], stack.address.at(8761), "eureka", &[]);
    let _user = Upstream::start(stack.address.at(7011), "user-1").await;
    let gateway = start(&stack, "l7-gateway", "gw-1");
    let pool = start(&stack, "pgpool", "pool-1");
    until_status(&stack, "APP", "DOWN").await;
    let list = format!("endpoints: [\"{}\"]", stack.address.at(7011));
    std::fs::write(stack.folder.path().join("user.yaml"), list).unwrap();
    let entered = until_status(&stack, "APP", "UP").await;
    assert_eq!(entered["ipAddr"], stack.address.ip().to_string());
    assert_eq!(entered["port"]["$"], 8443);
    assert_eq!(entered["metadata"]["zone"], "a");
    assert_eq!(until_status(&stack, "DATA", "UP").await["port"]["$"], 6432);

    gateway.signal(Signal::SIGTERM);
    until_gone(&stack, "APP").await;
    assert_eq!(http::plain(stack.address.at(8443), "/").await.unwrap().status, 200, "it lingers");
    pool.signal(Signal::SIGTERM);
    until_gone(&stack, "DATA").await;
    TcpStream::connect(stack.address.at(6432)).await.expect("it lingers");
    until_closed(&stack, 8443).await;
    until_closed(&stack, 6432).await;

    let killed = start(&stack, "l7-gateway", "gw-1");
    until_status(&stack, "APP", "UP").await;
    // SIGKILL: nobody takes anything back.
    drop(killed);
    until_gone(&stack, "APP").await;
}
