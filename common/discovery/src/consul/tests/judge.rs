//! The client `consul` of npm reads the same agent beside us, and enters a service there: what it makes of lists,
//! indexes and checks must be what we make of them, or the fake is none.

use super::*;
use crate::register::tests::entered_in;
use crate::register::{Health, Registry as _};
use crate::testing::judge::Judge;

/// Waits until the judge's watch has read exactly these.
async fn reads(judge: &mut Judge, wanted: &Value) {
    loop {
        let said = judge.says().await;
        assert!(said.get("fault").is_none(), "{said}");
        if said["read"] == *wanted {
            return;
        }
    }
}

/// The judge does this; back: what the agent said to it.
async fn does(judge: &mut Judge, order: Value) -> Value {
    judge.tell(&order);
    loop {
        let said = judge.says().await;
        if said.get("read").is_none() {
            return said;
        }
    }
}

/// Who we find there, from scratch.
async fn ours(reader: &mut Consul) -> Vec<(String, Option<String>)> {
    reader.forget();
    let answer = reader.ask().await.expect("an answer");
    assert_eq!(answer.nonsense, None);
    answer.instances.into_iter().map(|it| (it.address.to_string(), it.zone)).collect()
}

/// D2: an independent client watches the same fake by its index, and reads what was put there and what we enter.
#[tokio::test]
async fn a_client_of_consul_reads_what_we_read() {
    let mut fake = Fake::new().await;
    fake.name(&[1]).await;
    let mut judge = Judge::start("consul.mjs", &fake.server.address());
    let row = |number: u16, zone: &str| {
        json!({ "id": format!("user-{number}"), "at": address(number).to_string(), "tags": [],
            "zone": zone, "weight": 1 })
    };
    reads(&mut judge, &json!([row(1, "node")])).await;
    fake.name(&[1, 2]).await;
    reads(&mut judge, &json!([row(1, "node"), row(2, "node")])).await;
    let asked = fake.agent.asked.lock().expect("whole").clone();
    assert!(asked.iter().any(|target| target.contains("index=8")), "held back: {asked:?}");
    // A younger log.
    fake.agent.change(|state| (state.index, state.rows) = (2, Vec::new()));
    reads(&mut judge, &json!([])).await;
    let ours = registers(&fake.server.address());
    let mut entry = entered_in::<crate::register::consul::Consul>(ours);
    entry.tell(Health::Ready).await.expect("told");
    let entered = json!({ "id": "user-gw-1", "at": "10.0.0.1:443", "tags": ["v2"], "zone": "a",
        "weight": 1 });
    reads(&mut judge, &json!([entered])).await;
    entry.tell(Health::Unready).await.expect("told");
    reads(&mut judge, &json!([])).await;
    entry.tell(Health::Ready).await.expect("told");
    reads(&mut judge, &json!([entered])).await;
    entry.leave().await.expect("left");
    reads(&mut judge, &json!([])).await;
}

/// D2: what an independent client enters is what we find there: once its check passes, until it fails or the
/// service leaves; and what the agent does not know it refuses to both.
#[tokio::test]
async fn a_client_of_consul_is_found() {
    let fake = Fake::new().await;
    let mut reader = Consul::new(&settings(&fake.server.address()));
    let mut judge = Judge::start("consul.mjs", &fake.server.address());
    let unknown = does(&mut judge, json!(["pass", "service:judge"])).await;
    assert_eq!(unknown, json!({ "refused": "pass", "status": 404 }));
    let service = json!({ "name": "user", "id": "judge", "address": "10.9.0.1", "port": 81,
        "meta": { "zone": "z" }, "check": { "ttl": "15s" } });
    assert_eq!(does(&mut judge, json!(["register", service])).await["done"], "register");
    assert!(ours(&mut reader).await.is_empty(), "nobody has said that it lives");
    let there = [("10.9.0.1:81".to_owned(), Some("z".to_owned()))];
    for (verb, found) in [("pass", &there[..]), ("fail", &[]), ("pass", &there[..])] {
        assert_eq!(does(&mut judge, json!([verb, "service:judge"])).await["done"], verb);
        assert_eq!(ours(&mut reader).await, found, "{verb}");
    }
    assert_eq!(does(&mut judge, json!(["deregister", "judge"])).await["done"], "deregister");
    assert!(ours(&mut reader).await.is_empty());
    let again = does(&mut judge, json!(["deregister", "judge"])).await;
    assert_eq!(again, json!({ "refused": "deregister", "status": 404 }));
}
