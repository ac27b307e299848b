//! Limits whose Redis dies in the middle of many requests: what the file says holds, and nobody waits
//! longer than it says.

use std::time::Duration;

use futures_util::future::{join, join_all};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology};
use crate::servers::Redis;

/// How the store is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Killed,
    Frozen,
}

/// Clients at a time, and requests of each.
const CLIENTS: usize = 8;
const REQUESTS: usize = 12;

/// Answers before the loss.
const BEFORE: usize = 16;

/// What the limit admits: fewer than all, more than those before the loss and on their way.
const BUDGET: usize = 40;

/// How long a decision may wait for the store. The clock stands still but for waits, so it may be much
/// longer than what a busy machine takes.
const TIMEOUT_US: u64 = 2_000_000;

fn rig(fake: &Fake, redis: &Redis, policy: &str) -> Rig {
    let gateway = format!(
        "    limit-store: {{ redis: \"redis://127.0.0.1:1\", when-away: {policy} }}
    limits:
      address: {{ by: address, rate: 1000/h, algorithm: sliding-window }}
      all: {{ by: route, rate: {BUDGET}/h, algorithm: sliding-window }}
    routes:
      - {{ path: /*, to: user, limits: [address, all] }}"
    );
    let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
    let mut file = topology(&services, &gateway);
    // On a socket, so that no port is taken.
    let store = file.gateways[0].limit_store.as_mut().expect("as written");
    store.redis[0].value = redis.address();
    store.timeout = Duration::from_micros(TIMEOUT_US);
    Rig::new(&file)
}

/// Asks one request after the other and tells how each was answered.
async fn client(rig: &Rig, answers: UnboundedSender<u16>) {
    for _ in 0..REQUESTS {
        let answer = rig.get("/", "").await;
        let status = answer.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("a status");
        let said = answer.contains("\r\nretry-after: ");
        assert_eq!(said, status != 200, "{answer}");
        answers.send(status).expect("the test waits");
    }
}

/// Takes the store away after some answers; how many were given by then, and all of them.
async fn lose(redis: Redis, loss: Loss, mut answers: UnboundedReceiver<u16>) -> (usize, Vec<u16>) {
    let mut given = Vec::new();
    while given.len() < BEFORE {
        given.push(answers.recv().await.expect("they go on"));
    }
    while let Ok(status) = answers.try_recv() {
        given.push(status);
    }
    let _held = match loss {
        Loss::Killed => (None, Some(redis.stop())),
        Loss::Frozen => {
            redis.freeze();
            (Some(redis), None)
        }
    };
    tokio::time::pause();
    let before = given.len();
    while let Some(status) = answers.recv().await {
        given.push(status);
    }
    tokio::time::resume();
    (before, given)
}

/// How long a request was held up by its limits, before and after it was known whose it was.
fn waited(record: &Value) -> u64 {
    let stages = &record["stages_us"];
    let of = |stage: &str| stages[stage].as_u64().unwrap_or(0);
    of("normalise") + of("rate_limit")
}

async fn under_load(policy: &str, loss: Loss) -> (usize, Vec<u16>) {
    let (fake, redis) = (Fake::new(Act::Answer("x")).await, Redis::start());
    let mut rig = rig(&fake, &redis, policy);
    let (send, answers) = unbounded_channel();
    let clients = join_all((0..CLIENTS).map(|_| client(&rig, send.clone())));
    drop(send);
    let (_, (before, given)) = join(clients, lose(redis, loss, answers)).await;
    let passed = given.iter().filter(|status| **status == 200).count();
    assert_eq!(fake.seen.count(), passed, "{policy} {loss:?}");
    let records = rig.records();
    let longest = records.iter().map(waited).max().expect("records");
    // Tokio's timers are as exact as a millisecond.
    assert!(longest <= TIMEOUT_US + 1000, "{policy} {loss:?}: {longest} µs");
    // Somebody did wait for what had frozen: the others learned from that.
    assert!(loss == Loss::Killed || longest >= TIMEOUT_US, "{policy}: {longest} µs");
    (before, given)
}

/// G10: Redis killed and frozen under load: those before are counted in it, those after it are judged as
/// `when-away` says, and no request waits longer than the store's timeout, whatever it charges.
#[tokio::test]
async fn a_store_that_dies_under_load_holds_nobody_up() {
    local(async {
        for loss in [Loss::Killed, Loss::Frozen] {
            let all = CLIENTS * REQUESTS;
            for (policy, refused) in
                [("fail-open", 200), ("fail-closed", 503), ("local-share", 429)]
            {
                let (before, given) = under_load(policy, loss).await;
                assert_eq!(given.len(), all);
                assert!(given[..before].iter().all(|status| *status == 200), "{given:?}");
                let passed = given.iter().filter(|status| **status == 200).count();
                assert!(given.iter().all(|status| [200, refused].contains(status)), "{given:?}");
                // Whoever was on his way to Redis may have been counted there.
                let expected = match policy {
                    "fail-open" => all..=all,
                    "fail-closed" => before..=before + CLIENTS,
                    _ => before + BUDGET..=before + BUDGET + CLIENTS,
                };
                assert!(expected.contains(&passed), "{policy} {loss:?}: {before} {passed}");
            }
        }
    })
    .await;
}
