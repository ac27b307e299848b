//! Riders and drivers: two gateway groups of one topology, each with its own issuer, keys and limits,
//! before one Redis.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::authn::{bearer, now};
use crate::fakes::{Act, Fake};
use crate::forge::Signer;
use crate::rig::{Rig, local};
use crate::servers::Redis;

/// One group; everything that may have the same name in both has it.
fn group(name: &str, folder: &Path, rate: &str) -> String {
    let key = folder.join(format!("{name}.pem"));
    format!(
        "  {name}:
    instances: {{ gw-{name}: {{ listen: 127.0.0.1:0 }} }}
    issuers:
      id: {{ issuer: \"https://{name}.example\", audience: api, key: \"file:{}\", algorithms: [ES256], user: userId }}
    limit-store: {{ redis: \"redis://127.0.0.1:1\", when-away: fail-closed }}
    limits: {{ user: {{ by: user, rate: {rate}, algorithm: sliding-window }} }}
    routes:
      - {{ path: /trips/*, to: {name}-trips, auth: id, limits: [user] }}
",
        key.display()
    )
}

fn claims(issuer: &str) -> Value {
    let issuer = format!("https://{issuer}.example");
    json!({ "iss": issuer, "aud": "api", "exp": now() + 300, "userId": 7 })
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// A fleet's gateway, its service and its key.
struct Fleet {
    name: &'static str,
    rig: Rig,
    trips: Fake,
    signer: Signer,
}

impl Fleet {
    fn token(&self) -> String {
        bearer(&self.signer.token("ES256", Some("1"), &claims(self.name)))
    }

    async fn ask(&self, lines: &str) -> String {
        self.rig.get("/trips/1", lines).await
    }
}

/// Both fleets of one topology file; riders may ask three times, drivers five.
async fn fleets(redis: &Redis) -> [Fleet; 2] {
    let folder = tempfile::tempdir().expect("a folder");
    let trips = [Fake::new(Act::Answer("x")).await, Fake::new(Act::Answer("x")).await];
    let signers = [Signer::es256(), Signer::es256()];
    let names = ["riders", "drivers"];
    for (name, signer) in names.iter().zip(&signers) {
        std::fs::write(folder.path().join(format!("{name}.pem")), signer.pem()).expect("written");
    }
    let text = format!(
        "aqueduct: 1\nservices:\n  riders-trips: {{ endpoints: [{}] }}\n  drivers-trips: {{ endpoints: [{}] }}\ngateways:\n{}{}",
        trips[0].address,
        trips[1].address,
        group("riders", folder.path(), "3/h"),
        group("drivers", folder.path(), "5/h"),
    );
    let topology = topology::parse("fleets.yaml", &text, folder.path());
    let mut topology = topology.map_err(|problems| problems.to_string()).expect("a valid topology");
    for group in &mut topology.gateways {
        // On a socket, so that no port is taken.
        let store = group.limit_store.as_mut().expect("as written");
        store.redis[0].value = redis.address();
        // A busy machine is not what is looked at.
        store.timeout = Duration::from_secs(10);
    }
    let rigs = names.map(|name| Rig::of(&topology, &format!("gw-{name}")));
    let parts = names.into_iter().zip(rigs).zip(trips).zip(signers);
    let mut fleets = parts.map(|(((name, rig), trips), signer)| Fleet { name, rig, trips, signer });
    [fleets.next().expect("riders"), fleets.next().expect("drivers")]
}

/// G5: a rider's token is refused by the drivers' gateway and the other way round, whatever of it is
/// right; no service hears of it, and each side goes on.
#[tokio::test]
async fn a_riders_token_is_refused_by_the_drivers_gateway() {
    local(async {
        let redis = Redis::start();
        let [riders, drivers] = fleets(&redis).await;
        for (own, other) in [(&riders, &drivers), (&drivers, &riders)] {
            let believed = own.ask(&own.token()).await;
            assert_eq!(status(&believed), "200", "{believed}");
            // Also one that its own gateway has just believed.
            let answer = other.ask(&own.token()).await;
            assert_eq!(status(&answer), "401", "{answer}");
            assert!(answer.contains("issuer is not accepted here"), "{answer}");
            // With the other's name, but without its key.
            let posed = bearer(&own.signer.token("ES256", Some("1"), &claims(other.name)));
            let answer = other.ask(&posed).await;
            assert_eq!(status(&answer), "401", "{answer}");
            assert!(answer.contains("signature is not valid"), "{answer}");
        }
        assert_eq!((riders.trips.seen.count(), drivers.trips.seen.count()), (1, 1));
    })
    .await;
}

/// G10: limits of the same name, for users of the same number, in the same Redis: what one group spends,
/// the other still has; what was refused by name spends nothing.
#[tokio::test]
async fn what_riders_spend_drivers_still_have() {
    local(async {
        let redis = Redis::start();
        let [riders, drivers] = fleets(&redis).await;
        let (rider, driver) = (riders.token(), drivers.token());
        for expected in ["200", "200", "200", "429", "429"] {
            assert_eq!(status(&riders.ask(&rider).await), expected);
            assert_eq!(status(&drivers.ask(&rider).await), "401");
        }
        for expected in ["200", "200", "200", "200", "200", "429"] {
            assert_eq!(status(&drivers.ask(&driver).await), expected);
        }
        assert_eq!((riders.trips.seen.count(), drivers.trips.seen.count()), (3, 5));
    })
    .await;
}
