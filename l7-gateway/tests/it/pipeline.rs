//! The seams of the pipeline: order of refusals, response sides on our own answers, pure plans.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use common::observe::Observer;
use http::{Method, Request};
use l7_gateway::access_log::{Record, Sink};
use l7_gateway::body::RequestBody;
use l7_gateway::exchange::{Candidate, Exchange, Peer, Received, RouteId, Transport};
use l7_gateway::ids::{RequestId, TraceParent};
use l7_gateway::pipeline::Filter as _;
use l7_gateway::stages::authn::api_key::{Digest, Record as Key, file};
use l7_gateway::stages::normalise::Preflight;
use l7_gateway::trace::Recording;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;
use topology::telemetry::Sample;
use topology::units::InstanceName;

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, client, local, topology, until};

const CORS: &str = "cors: { origins: [\"https://app.example\"], methods: [GET, PUT], headers: [X-A], credentials: true }";

fn shop(address: impl std::fmt::Display) -> topology::Topology {
    topology(
        &format!("  user: {{ endpoints: [{address}] }}"),
        &format!(
            "    issuers:\n      app: {{ issuer: \"https://id.example\", audience: api, jwks: \"http://127.0.0.1:9/jwks.json\", algorithms: [ES256] }}
    routes:
      - {{ path: /secret/*, to: user, auth: app, {CORS} }}
      - {{ path: /open/*, to: user, auth: none, methods: [GET], {CORS} }}
      - {{ path: /old/*, to: user, auth: none, sunset: 2020-02-29 }}
      - {{ path: /plain/*, to: user, auth: none }}"
        ),
    )
}

/// G2: the response sides of what ran run for our own replies: a 401 carries its CORS headers.
#[tokio::test]
async fn a_401_carries_cors_headers() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let rig = Rig::new(&shop(fake.address));
        for (path, status) in [("/secret/1", 401), ("/open/1", 200)] {
            let answer = rig.get(path, "Origin: https://app.example\r\n").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert!(
                answer.contains("access-control-allow-origin: https://app.example\r\n"),
                "{answer}"
            );
            assert!(answer.contains("access-control-allow-credentials: true\r\n"), "{answer}");
            assert!(answer.contains("vary: Origin\r\n"), "{answer}");
            let answer = rig.get(path, "Origin: https://evil.example\r\n").await;
            assert!(!answer.contains("access-control-allow-origin"), "{answer}");
            let answer = rig.get(path, "").await;
            assert!(answer.contains("vary: Origin\r\n"), "a cache may have it: {answer}");
            assert!(!answer.contains("access-control"), "{answer}");
        }
        let answer = rig.get("/plain/1", "Origin: https://app.example\r\n").await;
        assert!(!answer.contains("access-control"), "{answer}");
        assert_eq!(fake.seen.count(), 4);
    })
    .await;
}

/// G13: what a service says of origins, cookies and readable headers does not count beside the rules.
#[tokio::test]
async fn services_do_not_widen_the_rules() {
    local(async {
        let own = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nAccess-Control-Allow-Origin: *\r\n\
                   Access-Control-Allow-Credentials: true\r\nAccess-Control-Expose-Headers: X-Secret\r\n\r\n";
        let fake = Fake::new(Act::Keep(own)).await;
        let rig = Rig::new(&shop(fake.address));
        let answer = rig.get("/open/1", "Origin: https://app.example\r\n").await;
        assert!(answer.contains("access-control-allow-origin: https://app.example\r\n"), "{answer}");
        assert!(!answer.contains("expose"), "{answer}");
        let answer = rig.get("/open/1", "Origin: https://evil.example\r\n").await;
        assert!(!answer.contains("access-control"), "{answer}");
    })
    .await;
}

/// G13: a preflight is answered here, without a token and without the service.
#[tokio::test]
async fn preflights_are_answered_at_the_gateway() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let rig = Rig::new(&shop(fake.address));
        let ask = |path: &str| {
            format!(
                "OPTIONS {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nOrigin: https://app.example\r\n\
                 Access-Control-Request-Method: PUT\r\n\r\n"
            )
        };
        let answer = rig.raw(&ask("/secret/1")).await;
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        for line in [
            "access-control-allow-origin: https://app.example\r\n",
            "access-control-allow-methods: GET, PUT\r\n",
            "access-control-allow-headers: x-a\r\n",
            "access-control-max-age: 600\r\n",
        ] {
            assert!(answer.contains(line), "{line}: {answer}");
        }
        assert_eq!(fake.seen.count(), 0);
        assert!(rig.raw(&ask("/plain/1")).await.starts_with("HTTP/1.1 200 "));
        assert_eq!(fake.seen.count(), 1);
    })
    .await;
}

/// What ends an exchange where: a path, a key, the status, and which of stages 2, 5 and 6 have had a part in it (each says
/// something on the way back).
const ENDS: [(&str, &str, &str, [bool; 3]); 8] = [
    ("/nowhere", "read", "404", [false, false, false]),
    ("/in/1", "none", "401", [true, false, false]),
    ("/in/1", "bare", "403", [true, false, false]),
    ("/few/1", "read", "429", [true, true, false]),
    ("/old/1", "read", "410", [true, true, true]),
    ("/odd/1", "read", "422", [true, true, true]),
    ("/down/1", "read", "503", [true, true, true]),
    ("/in/1", "read", "200", [true, true, true]),
];

/// G2: wherever an exchange ends, the response sides run of exactly those stages that ran, whatever came before it on
/// the same connection.
#[tokio::test]
async fn response_sides_run_of_exactly_what_ran() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let folder = tempfile::tempdir().expect("a folder");
        let keys = folder.path().join("keys.ndjson");
        let key = |name: &str| format!("aqk_{name}-{name}-{name}");
        for (name, scopes) in [("read", vec!["read".to_owned()]), ("bare", Vec::new())] {
            let record = Key { consumer: name.into(), scopes, ..Key::default() };
            file::append(&keys, &Digest::of(key(name).as_bytes()), &record).expect("written");
        }
        let sides = "auth: partners, scopes: [read], deprecated: 2020-01-01, \
                     cors: { origins: [\"https://app.example\"] }";
        let rig = Rig::new(&topology(
            &format!("  user: {{ endpoints: [{}] }}\n  down: {{ endpoints: [127.0.0.1:9] }}", fake.address),
            &format!(
                "    api-keys: {{ partners: {{ from: \"file:{}\", header: X-API-Key }} }}
    limits: {{ many: {{ by: consumer, rate: 100000/h }}, few: {{ by: consumer, rate: 1/h }} }}
    routes:
      - {{ path: /in/*, to: user, {sides}, limits: [many] }}
      - {{ path: /few/*, to: user, {sides}, limits: [few] }}
      - {{ path: /old/*, to: user, {sides}, limits: [many], sunset: 2020-02-29 }}
      - {{ path: /odd/*, to: user, {sides}, limits: [many], transform: {{ request: {{ path: '/${{request.query.none}}' }} }} }}
      - {{ path: /down/*, to: down, {sides}, limits: [many] }}",
                keys.display()
            ),
        ));
        let fields =
            |name: &str| format!("Origin: https://app.example\r\nX-API-Key: {}\r\n", key(name));
        assert!(rig.get("/few/1", &fields("read")).await.starts_with("HTTP/1.1 200 "));
        let (mut stream, _task) = rig.connect();
        let mut rng = SmallRng::seed_from_u64(8);
        for _ in 0..400 {
            let (path, with, status, ran) = ENDS[rng.random_range(0..ENDS.len())];
            let ask = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(with));
            stream.write_all(ask.as_bytes()).await.expect("taken");
            let head = until(&mut stream, "\r\n\r\n").await;
            let (head, body) = head.split_once("\r\n\r\n").expect("an end");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.expect("a length").parse().expect("a number");
            stream.read_exact(&mut vec![0; length - body.len()]).await.expect("a body");
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {with}: {head}");
            let sides = ["vary: Origin", "ratelimit: ", "deprecation: "];
            let found = sides.map(|side| head.contains(&format!("\r\n{side}")));
            assert_eq!(found, ran, "{path} {with}: {head}");
        }
    })
    .await;
}

/// G1: what a client sees of refusals, in their order.
#[tokio::test]
async fn refusals_come_in_their_order() {
    local(async {
        let rig = Rig::new(&shop("127.0.0.1:9"));
        let status = async |text: &str| rig.raw(text).await.get(9..12).map(str::to_owned);
        let put =
            |path: &str| format!("PUT {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&put("/open/../secret")).await.as_deref(), Some("400"));
        assert_eq!(status(&put("/nowhere")).await.as_deref(), Some("404"));
        assert_eq!(status(&put("/secret/1")).await.as_deref(), Some("401"));
        assert_eq!(status(&put("/open/1")).await.as_deref(), Some("405"));
        assert_eq!(status(&put("/old/1")).await.as_deref(), Some("410"));
        assert_eq!(status(&put("/plain/1")).await.as_deref(), Some("503"));
    })
    .await;
}

/// G1, issue 2: a stage's plan is pure: called here without socket, clock or pipeline.
#[tokio::test]
async fn a_plan_is_made_without_any_socket() {
    local(async {
        let rig = Rig::new(&shop("127.0.0.1:9"));
        let site = rig.worker.site();
        let observer = Observer::new("gw");
        let sink = Sink::new(&InstanceName::new("gw"), None, Arc::default(), &observer.metrics);
        let peer = Rc::new(Peer::new(client(), Transport::Plain, None));
        let mut rng = SmallRng::seed_from_u64(1);
        let ids = (RequestId::new(&mut rng), TraceParent::start(&mut rng, Sample::default()));
        let x =
            Exchange::new(peer, Instant::now(), SystemTime::UNIX_EPOCH, ids, Record::new(&sink));
        let request = Request::builder()
            .method(Method::GET)
            .uri("//open/%41")
            .header("host", "Api.Example:1");
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let received = Received { head: Box::new(head), body: RequestBody::empty(), fault: None };
        let mut trace = Recording::default();
        let form = site.pipeline.normalise.plan(&x, &received, &mut trace).expect("a form");
        assert_eq!((&*form.target.host, &*form.target.path), ("api.example", "/open/A"));
        assert_eq!(form.candidate, Candidate::Route(RouteId(1)));
        assert_eq!(form.preflight, Preflight::No);
        assert_eq!(trace.0.len(), 2);
    })
    .await;
}
