//! The denylist from the outside: two instances, a real Redis between them.

use std::sync::Arc;
use std::time::Duration;

use l7_gateway::redis_server::RedisServer;
use l7_gateway::stages::authn::api_key::{Digest, Record, file};
use l7_gateway::stages::authn::denylist::{Denylist, Entry, revoke};
use serde_json::json;
use tokio::task::{JoinHandle, spawn_local, yield_now};
use topology::gateway::Login;

use crate::authn::{Issuers, bearer, now, rider};
use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology};
use crate::servers::Redis;

const KEY: &str = "aqk_acme-acme-acme-acme";
const ISS: &str = "https://riders.example";
const HOUR: Duration = Duration::from_secs(3600);

/// An instance, and what keeps its list.
struct Instance {
    rig: Rig,
    list: Arc<Denylist>,
    keeper: JoinHandle<()>,
}

impl Instance {
    fn new(issuers: &Issuers, fake: &Fake, keys: &std::path::Path, redis: &str) -> Self {
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let mut file = topology(
            &services,
            &issuers.gateway(&format!(
                "    denylist: {{ redis: \"redis://127.0.0.1:1\" }}
    api-keys: {{ partners: {{ from: \"file:{}\" }} }}
    routes:
      - {{ path: /ride/*, to: user, auth: riders }}
      - {{ path: /keys/*, to: user, auth: partners }}
      - {{ path: /open/*, to: user, auth: none }}",
                keys.display()
            )),
        );
        // On a socket, so that no port is taken.
        let model = file.gateways[0].denylist.as_mut().expect("as written");
        model.redis.value = redis.to_owned();
        let rig = Rig::new(&file);
        let list = rig.published.load_full().vouchers.denylist.clone().expect("as written");
        let keep = Arc::clone(&list).keep(rig.observer.clone(), rig.lifecycle.shutdown());
        Self { rig, list, keeper: spawn_local(keep) }
    }

    async fn status(&self, path: &str, lines: &str) -> String {
        let answer = self.rig.get(path, lines).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// Waits for news after this one.
    async fn hears(&self, after: u64) {
        while self.list.generation() == after {
            yield_now().await;
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn revoke_at(address: &str, entry: &Entry) -> Result<(), redis::RedisError> {
    let server = RedisServer::new(address, &Login::default()).expect("an address");
    revoke(&server, entry, HOUR).await
}

fn keys(folder: &tempfile::TempDir) -> std::path::PathBuf {
    let path = folder.path().join("keys.ndjson");
    let record = Record { consumer: "acme".into(), ..Record::default() };
    file::append(&path, &Digest::of(KEY.as_bytes()), &record).expect("written");
    path
}

/// G8: what is revoked is refused on every instance, verified before or not, and nobody else is.
#[tokio::test]
async fn a_revoked_token_is_refused_everywhere() {
    local(async {
        let (redis, folder) = (Redis::start(), tempfile::tempdir().expect("a folder"));
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let keys = keys(&folder);
        let instance = || Instance::new(&issuers, &fake, &keys, &redis.address());
        let (one, other) = (instance(), instance());
        one.hears(0).await;
        other.hears(0).await;
        let sign = |changes| bearer(&issuers.riders.token("ES256", None, &rider(changes)));
        let first = sign(json!({"jti": "first", "iat": now() - 60}));
        let second = sign(json!({"jti": "second", "iat": now() - 60}));
        let stranger = sign(json!({"jti": "third", "iat": now() - 60, "userId": 7}));
        let key = format!("X-API-Key: {KEY}\r\n");
        let all =
            [("/ride/1", &first), ("/ride/1", &second), ("/ride/1", &stranger), ("/keys/1", &key)];
        // The other instance sees the first token for the first time only after it was revoked.
        for (path, lines) in all {
            assert_eq!(one.status(path, lines).await, "200");
        }
        let token = Entry::Token { iss: ISS.into(), jti: "first".into() };
        let user = Entry::User { iss: ISS.into(), user: "98765".into(), before: now() - 30 };
        let key_entry = Entry::Key { sha256: Digest::of(KEY.as_bytes()).to_string() };
        for (entry, expected) in [
            (token, ["401", "200", "200", "200"]),
            (user, ["401", "401", "200", "200"]),
            (key_entry, ["401", "401", "200", "401"]),
        ] {
            let before = (one.list.generation(), other.list.generation());
            revoke_at(&redis.address(), &entry).await.expect("told");
            one.hears(before.0).await;
            other.hears(before.1).await;
            for instance in [&one, &other] {
                for ((path, lines), expected) in all.iter().zip(expected) {
                    assert_eq!(instance.status(path, lines).await, expected, "{entry:?} {lines}");
                }
            }
        }
        // Who logs in again is welcome.
        let again = sign(json!({"jti": "fourth", "iat": now()}));
        assert_eq!(one.status("/ride/1", &again).await, "200");
        let answer = other.rig.get("/ride/1", &first).await;
        assert!(answer.contains("error_description=\"the token has been revoked\""), "{answer}");
        // One that starts later has the list from its first request on.
        let late = instance();
        assert_eq!(late.status("/ride/1", &first).await, "503");
        assert_eq!(late.status("/open/1", "").await, "200");
        late.hears(0).await;
        for ((path, lines), expected) in all.iter().zip(["401", "401", "200", "401"]) {
            assert_eq!(late.status(path, lines).await, expected);
        }
    })
    .await;
}

/// G8: while Redis is away the last list stands; what was told meanwhile is in force once it is back.
#[tokio::test]
async fn a_list_outlives_its_server() {
    local(async {
        let (redis, folder) = (Redis::start(), tempfile::tempdir().expect("a folder"));
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let keys = keys(&folder);
        let revoked = |jti: &str| Entry::Token { iss: ISS.into(), jti: jti.into() };
        let sign =
            |jti: &str| bearer(&issuers.riders.token("ES256", None, &rider(json!({"jti": jti}))));
        revoke_at(&redis.address(), &revoked("old")).await.expect("told");
        let one = Instance::new(&issuers, &fake, &keys, &redis.address());
        one.hears(0).await;
        let before = one.list.generation();
        let folder = redis.stop();
        for (jti, expected) in [("old", "401"), ("new", "200")] {
            assert_eq!(one.status("/ride/1", &sign(jti)).await, expected);
        }
        let redis = Redis::start_in(folder);
        revoke_at(&redis.address(), &revoked("new")).await.expect("told");
        one.hears(before).await;
        // It was empty when it came back, but for this one.
        for (jti, expected) in [("old", "200"), ("new", "401")] {
            assert_eq!(one.status("/ride/1", &sign(jti)).await, expected);
        }
    })
    .await;
}
