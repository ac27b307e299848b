//! The client `eureka-js-client` of npm reads the same registry beside us, and enters an instance there: what it
//! makes of the whole, of changes and of signs of life must be what we make of them, or the fake is none.

use super::*;
use crate::register::tests::entered_in;
use crate::register::{Health, Registry as _};
use crate::testing::judge::Judge;

/// The judge does this; back: what it says of it.
async fn does(judge: &mut Judge, verb: &str) -> Value {
    judge.tell(&json!(verb));
    let said = judge.says().await;
    assert_eq!(said["done"], verb, "{said}");
    said["what"].clone()
}

/// Instances as the judge says them.
fn wanted(numbers: &[u16]) -> Value {
    let row = |&number: &u16| json!([id(number), address(number).to_string(), "UP"]);
    numbers.iter().map(row).collect()
}

fn id(number: u16) -> String {
    format!("host-{number}:user:80")
}

/// Who we find there, from scratch.
async fn ours(fake: &Fake) -> Vec<(String, Option<String>)> {
    let answer = Eureka::new(&settings(&fake.server)).ask().await.expect("an answer");
    assert_eq!(answer.nonsense, None);
    answer.instances.into_iter().map(|it| (it.address.to_string(), it.zone)).collect()
}

/// D2: an independent client reads the same fake, the whole and then by changes, and reads what was put there and
/// what we enter.
#[tokio::test]
async fn a_client_of_eureka_reads_what_we_read() {
    let mut fake = Fake::new().await;
    fake.name(&[1, 2]).await;
    let mut judge = Judge::start("eureka.mjs", &format!("{}/eureka", fake.server.address()));
    assert_eq!(does(&mut judge, "whole").await, wanted(&[1, 2]));
    fake.name(&[2, 3, 4]).await;
    assert_eq!(does(&mut judge, "delta").await, wanted(&[2, 3, 4]));
    assert_eq!(does(&mut judge, "whole").await, wanted(&[2, 3, 4]), "changes add up to the whole");
    fake.name(&[]).await;
    assert_eq!(does(&mut judge, "delta").await, json!([]));
    let settings = RegisterEureka {
        registry: settings(&fake.server).registry,
        application: "user".to_owned(),
        login: None,
        ttl: Duration::from_secs(15),
    };
    let mut entry = entered_in::<crate::register::eureka::Eureka>(settings);
    for (health, status) in [(Health::Ready, "UP"), (Health::Unready, "DOWN")] {
        entry.tell(health).await.expect("told");
        let read = does(&mut judge, "delta").await;
        assert_eq!((&read[0][1], &read[0][2]), (&json!("10.0.0.1:443"), &json!(status)), "{read}");
    }
    entry.leave().await.expect("left");
    assert_eq!(does(&mut judge, "delta").await, json!([]));
}

/// D2: what an independent client enters is what we find there; where the registry has forgotten it, a sign of life
/// is refused and it comes again.
#[tokio::test]
async fn a_client_of_eureka_is_found() {
    let fake = Fake::new().await;
    let mut judge = Judge::start("eureka.mjs", &format!("{}/eureka", fake.server.address()));
    let there = [("10.9.0.1:81".to_owned(), Some("z".to_owned()))];
    does(&mut judge, "register").await;
    assert_eq!(ours(&fake).await, there);
    assert_eq!(does(&mut judge, "beat").await, "alive");
    fake.book.with(|state| {
        state.rows.clear();
        state.changes.clear();
    });
    assert!(ours(&fake).await.is_empty());
    assert_eq!(does(&mut judge, "beat").await, "registered anew");
    assert_eq!(ours(&fake).await, there);
    does(&mut judge, "deregister").await;
    assert!(ours(&fake).await.is_empty());
    judge.tell(&json!("deregister"));
    let again = judge.says().await;
    assert!(again["fault"].as_str().is_some_and(|fault| fault.contains("404")), "{again}");
}
