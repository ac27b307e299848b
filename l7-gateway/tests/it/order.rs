//! The printed order of filters, and that it is the one in which they run.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use common::observe::Observer;
use http::Request;
use l7_gateway::access_log::{Record, Sink};
use l7_gateway::body::{BodyLimits, RequestBody};
use l7_gateway::exchange::{Exchange, Peer, Received, Transport};
use l7_gateway::ids::{RequestId, TraceParent};
use l7_gateway::order::{Callers, Ledger, Order, Placed};
use l7_gateway::stages::authn::api_key::{Digest, Record as Key, file};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;
use topology::telemetry::Sample;
use topology::units::InstanceName;

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, client, local, topology};

const KEY: &str = "aqk_acme-acme-acme-acme";

/// What a file may say at each place: of the listener, the consumer, the route and the service.
struct Words {
    filter: String,
    description: String,
}

impl Words {
    fn new(filter: &Fake, folder: &Path) -> Self {
        let description = folder.join("api.yaml");
        let text = "openapi: 3.0.3\ninfo: { title: a, version: '1' }\n\
                    paths: { /a: { post: { responses: { '200': { description: a } } } } }\n";
        std::fs::write(&description, text).expect("written");
        let filter = format!("http://{}/", filter.address);
        Self { filter, description: description.display().to_string() }
    }

    /// Those of all places.
    fn everywhere(&self, place: &str) -> Vec<String> {
        let Self { filter, description } = self;
        let body = "body: { json: [{ set: a, json: 2 }] }";
        let set = format!("headers: {{ set: {{ x-of-{place}: a }} }}");
        let transforms = [
            format!("request: {{ {set} }}"),
            format!("response: {{ {set} }}"),
            format!("request: {{ {body} }}, response: {{ {set}, {body} }}"),
            format!("request: {{ {set}, {body} }}, response: {{ {body} }}"),
        ];
        let mut all: Vec<String> =
            transforms.iter().map(|one| format!("transform: {{ {one} }}")).collect();
        all.push(format!("external: {{ url: \"{filter}\", timeout: 5s }}"));
        all.push(format!("external: {{ url: \"{filter}\", timeout: 5s, answers: true }}"));
        all.push(format!("validate: \"{description}\""));
        all.extend(["compress: true".to_owned(), "compress: false".to_owned()]);
        all
    }

    /// Those of routes alone.
    fn of_routes() -> Vec<String> {
        let all = [
            "cors: { origins: \"*\" }",
            "scopes: [read]",
            "limits: [early, late]",
            "limits: [late]",
            "sunset: 2999-01-01",
            "deprecated: 2020-01-01",
            "cache: { fresh: 1s }",
            "mirror: { to: other, part: 0% }",
            "security-headers: api",
            "response-headers: { x-own: a }",
            "maintenance: true",
        ];
        all.map(str::to_owned).to_vec()
    }
}

/// Some of these, of each key one at most.
fn some(rng: &mut SmallRng, all: Vec<String>, out_of: u32) -> String {
    let mut taken: Vec<String> = Vec::new();
    let key = |word: &String| word.split(':').next().map(str::to_owned);
    for word in all {
        if rng.random_ratio(1, out_of) && taken.iter().all(|other| key(other) != key(&word)) {
            taken.push(word);
        }
    }
    taken.join(", ")
}

fn section(at: &str, words: &str, close: &str) -> String {
    if words.is_empty() { String::new() } else { format!("    {at}{words}{close}\n") }
}

/// What one request passes.
async fn passed(rig: &Rig) -> Vec<Placed> {
    let observer = Observer::new("gw");
    let sink = Sink::new(&InstanceName::new("gw"), None, Arc::default(), &observer.metrics);
    let peer = Rc::new(Peer::new(client(), Transport::Plain, None));
    let mut rng = SmallRng::seed_from_u64(1);
    let ids = (RequestId::new(&mut rng), TraceParent::start(&mut rng, Sample::default()));
    let mut x = Exchange::new(peer, Instant::now(), SystemTime::now(), ids, Record::new(&sink));
    let ledger = Rc::<Ledger>::default();
    x.ledger = Some(Rc::clone(&ledger));
    let request = Request::post("/a")
        .header("host", "api.example")
        .header("x-api-key", KEY)
        .header("origin", "https://app.example")
        .header("content-type", "application/json");
    let (head, ()) = request.body(()).expect("a request").into_parts();
    let limits = BodyLimits { bytes: 1 << 10, idle: std::time::Duration::from_secs(30) };
    let body = RequestBody::whole(Bytes::from_static(b"{\"a\":1}"), limits);
    let received = Received { head: Box::new(head), body, fault: None };
    let emitted = rig.worker.site().pipeline.serve(Box::new(x), received).await;
    drop(emitted);
    ledger.noted()
}

fn texts(all: &[Placed]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

/// G2: whatever filters a file names at whatever places, an exchange passes those that are printed, in that order.
#[tokio::test]
async fn what_runs_is_what_is_printed() {
    local(async {
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
        let (service, filter) =
            (Fake::new(Act::Keep(answer)).await, Fake::new(Act::Answer("{}")).await);
        let folder = tempfile::tempdir().expect("a folder");
        let keys = folder.path().join("keys.ndjson");
        let record =
            Key { consumer: "acme".into(), scopes: vec!["read".to_owned()], ..Key::default() };
        file::append(&keys, &Digest::of(KEY.as_bytes()), &record).expect("written");
        let words = Words::new(&filter, folder.path());
        let address = service.address;
        let services =
            format!("  user: {{ endpoints: [{address}] }}\n  other: {{ endpoints: [{address}] }}");
        let mut rng = SmallRng::seed_from_u64(16);
        let mut longest = 0;
        for case in 0..120 {
            let [listener, consumer, service] = ["listener", "consumer", "service"]
                .map(|place| some(&mut rng, words.everywhere(place), 5));
            let all = [words.everywhere("route"), Words::of_routes()].concat();
            let route = some(&mut rng, all, 5);
            let route = if route.is_empty() { route } else { format!(", {route}") };
            let gateway = [
                format!(
                    "    api-keys: {{ partners: {{ from: \"file:{}\", header: X-API-Key }} }}\n",
                    keys.display()
                ),
                "    limits: { early: { by: address, rate: 1000/s }, late: { by: consumer, rate: 1000/s } }\n"
                    .to_owned(),
                section("defaults: { ", &listener, " }"),
                section("consumers: { acme: { ", &consumer, " } }"),
                section("upstreams: { user: { ", &service, " } }"),
                format!("    routes:\n      - {{ path: /a, to: user, auth: partners{route} }}"),
            ]
            .concat();
            let file = topology(&services, &gateway);
            let group = &file.gateways[0];
            let route = &group.routes[0];
            let to = route.to.service();
            let order = Order::of(group, route, to.as_slice(), Callers::One("acme"));
            let printed = [texts(&order.request), texts(&order.answer)].concat();
            let ran = texts(&passed(&Rig::new(&file)).await);
            assert_eq!(ran, printed, "{case}: {gateway}");
            longest = longest.max(ran.len());
        }
        assert!(longest > 15, "{longest}");
    })
    .await;
}
