//! What `aqueduct explain` says is what the tiers do, where they hash, split and count: a listener that hashes
//! clients to gateways, services that are hashed by header, cookie, user and address, a split by cookie, limits by
//! user and by address. Beside `explain`, which asks about the documented stack.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tests::clients::http::{Answer, Connection, request};
use tests::fakes::issuer::Issuer;
use tests::fakes::upstream::Upstream;
use tests::tier::{Draft, Stack};

use crate::explain::{among, explain};

/// Two gateways behind a hashing listener; every route decides in a way of its own.
const FILE: &str = r#"aqueduct: 1
services:
  user: { endpoints: [127.0.0.1:7011, 127.0.0.1:7012, 127.0.0.1:7013] }
  user-v2: { endpoints: [127.0.0.1:7014] }
  room: { endpoints: [127.0.0.1:7021, 127.0.0.1:7022, 127.0.0.1:7023, 127.0.0.1:7024] }
  basket: { endpoints: [127.0.0.1:7031, 127.0.0.1:7032, 127.0.0.1:7033] }
  near: { endpoints: [127.0.0.1:7041, 127.0.0.1:7042, 127.0.0.1:7043] }
nlbs:
  edge:
    instances: { nlb-1: { address: 127.0.0.1, admin: 127.0.0.1:9101 } }
    hash-key: file:secrets/hash-key
    listeners: { https: { tcp: "*:8443", to: app, proxy-protocol: v2, balance: client-address } }
gateways:
  app:
    instances:
      gw-1: { listen: 127.0.0.1:9441, admin: 127.0.0.1:9111 }
      gw-2: { listen: 127.0.0.1:9442, admin: 127.0.0.1:9112 }
    trust-proxy-protocol-from: [127.0.0.0/8]
    tls: { certificates: [{ chain: file:pki/api.pem, key: file:pki/api.key }] }
    issuers:
      app: { issuer: "https://id.example", audience: api, jwks: "http://127.0.0.1:7900/jwks.json", algorithms: [ES256], user: userId }
    limits:
      few: { by: user, rate: 1/h, burst: 3 }
      here: { by: address, rate: 1/h, burst: 1 }
      pair: { by: [user, route], rate: 1/h, burst: 2 }
    upstreams:
      user: { balance: "hash:user" }
      room: { balance: "hash:header:X-Room" }
      basket: { balance: "hash:cookie:basket" }
      near: { balance: "hash:address" }
    routes:
      - { path: /user/*, to: user, auth: app, limits: [few] }
      - { path: /room/*, to: room, auth: none }
      - { path: /basket/*, to: basket, auth: none, limits: [here] }
      - { path: /near/*, to: near, auth: none }
      - { path: /pair/*, to: near, auth: app, limits: [pair], scopes: [pay] }
      - path: /split/*
        to: basket
        auth: none
        sticky: "cookie:visitor"
        split: [{ to: user-v2, part: 40%, cookie: canary=true }]
"#;

/// The file's, in its order: a service answers with its port.
const SERVERS: [u16; 14] =
    [7011, 7012, 7013, 7014, 7021, 7022, 7023, 7024, 7031, 7032, 7033, 7041, 7042, 7043];

/// One request and what became of it.
struct Asked {
    question: String,
    answer: Answer,
}

/// T5: of 300 random requests from twenty addresses, each meets the gateway that the listener's hash foretold, has
/// the route, the stage that answers, the side of the split and the hashed server that were foretold, and each
/// limit's foretold key is refused from the very request on that its burst says.
#[tokio::test]
async fn hashes_splits_and_limits_are_as_explain_says() {
    let mut stack = Draft::new(FILE).recorded().stack();
    let issuer = Issuer::start(stack.address.at(7900)).await;
    let mut servers = Vec::new();
    for port in SERVERS {
        servers.push(Upstream::start(stack.address.at(port), &port.to_string()).await);
    }
    stack.start_all(&["gw-1", "gw-2", "nlb-1"]).await;
    let tokens = [
        None,
        Some(issuer.token(1, "pay")),
        Some(issuer.token(2, "")),
        Some(issuer.token(3, "pay")),
        Some(issuer.expired(4, "pay")),
    ];
    let mut rng = StdRng::seed_from_u64(5);
    let mut asked = Vec::new();
    for _ in 0..300 {
        asked.push(ask(&stack, &tokens, &mut rng).await);
    }
    let records = stack.await_records(asked.len()).await;
    let questions: Vec<String> = asked.iter().map(|one| one.question.clone()).collect();
    let foretold = explain(&stack, &questions).await;
    let (mut charged, mut met) = (HashMap::new(), Met::default());
    for (Asked { question, answer }, facts) in asked.iter().zip(&foretold) {
        let id = answer.header("x-request-id");
        let record = records.iter().find(|record| record["request_id"] == id);
        let record = record.unwrap_or_else(|| unreachable!("{question} has no record {id}"));
        let said = format!("{question}\n{facts}\n{record}");
        agree(facts, record, answer, &mut charged, &mut met, &said);
    }
    assert!(met.all(), "each kind must have come: {met:?}");
}

/// A random request from one of twenty addresses, on a connection of its own.
async fn ask(stack: &Stack, tokens: &[Option<String>], rng: &mut StdRng) -> Asked {
    let paths = ["/user/a", "/room/a", "/basket/a", "/near/a", "/pair/a", "/split/a", "/nowhere"];
    let path = paths.choose(rng).expect("some");
    let from = IpAddr::V4(Ipv4Addr::new(127, 200, 7, rng.random_range(1..=20)));
    let token = tokens.choose(rng).expect("some");
    let authorization = token.as_ref().map(|token| format!("Bearer {token}"));
    let room = format!("r{}", rng.random_range(0..9));
    let cookies = [
        "canary=true".to_owned(),
        "canary=false".to_owned(),
        format!("visitor=v{}", rng.random_range(0..9)),
        format!("a=b; basket=b{}; visitor=v{}", rng.random_range(0..9), rng.random_range(0..9)),
    ];
    let cookie = rng.random_bool(0.8).then(|| cookies.choose(rng).expect("some"));
    let mut fields = vec![("x-room", room.as_str())];
    fields.extend(authorization.iter().map(|value| ("authorization", value.as_str())));
    fields.extend(cookie.map(|cookie| ("cookie", cookie.as_str())));
    let words = fields.iter().map(|(name, value)| format!(" --header '{name}: {value}'"));
    let words: String = words.collect();
    let question = format!("--get https://api.example:8443{path} --from {from}{words}");
    let edge = stack.address.at(8443);
    let mut connection = Connection::tls_from(from, edge, &stack.trust).await.expect("in");
    let answer = connection.send(request("GET", path, &fields).expect("a request")).await;
    Asked { question, answer: answer.expect("an answer") }
}

/// Which kinds of answers came.
#[derive(Debug, Default)]
struct Met {
    hashed: usize,
    split: usize,
    limited: usize,
    halted: usize,
}

impl Met {
    fn all(&self) -> bool {
        [self.hashed, self.split, self.limited, self.halted].iter().all(|count| *count > 5)
    }
}

/// What was foretold of one request is what became of it.
fn agree(
    facts: &Value,
    record: &Value,
    answer: &Answer,
    charged: &mut HashMap<String, usize>,
    met: &mut Met,
    said: &str,
) {
    let gateway = &facts["gateways"][0];
    assert_eq!(facts["gateways"].as_array().map(Vec::len), Some(1), "one by hash: {said}");
    assert_eq!(gateway, &record["gateway_instance"], "{said}");
    assert_eq!(facts["route"], record["route"], "{said}");
    // Each gateway counts for itself: which keys are over their burst is told by those before.
    let keys = facts["limit_keys"].as_array().into_iter().flatten();
    let bursts = [("/user/", 3), ("/basket/", 1), ("/pair/", 2)];
    let burst = bursts.iter().find(|(path, _)| said.contains(path)).map_or(usize::MAX, |one| one.1);
    let mut over = false;
    for key in keys {
        let count = charged.entry(format!("{gateway} {key}")).or_default();
        over |= *count >= burst;
        *count += usize::from(*count < burst);
    }
    if over {
        assert_eq!(answer.status, 429, "{said}");
        // Addresses are counted before anybody is known.
        let stage = if said.contains("/basket/") { "normalise" } else { "rate_limit" };
        assert_eq!(record["halted"], stage, "{said}");
        met.limited += 1;
        return;
    }
    assert_eq!(facts["halted"], record["halted"], "{said}");
    if let Some(status) = facts["status"].as_u64() {
        assert_eq!(u64::from(answer.status), status, "{said}");
        met.halted += 1;
        return;
    }
    assert_eq!(answer.status, 200, "{said}");
    assert_eq!(facts["service"], record["service"], "{said}");
    met.split += usize::from(record["service"] == "user-v2");
    let server = answer.json()["server"].as_str().unwrap_or_default().to_owned();
    let port = server.parse().expect("its port");
    assert!(among(facts, port), "{said}");
    if let Some(endpoint) = facts["endpoint"].as_str() {
        assert!(endpoint.ends_with(&format!(":{port}")), "{port}: {said}");
        met.hashed += 1;
    }
}
