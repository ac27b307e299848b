//! The contract that every source has, whatever it is asked with.

use std::path::PathBuf;

use topology::Endpoint;
use topology::model::DiscoverSource;

use super::*;
use crate::Endpoints;
use crate::testing::{Says, Script, discover, instances, numbers};

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

fn script(says: Says) -> (Script, Endpoints, Observer) {
    let (script, observer) = (Script::new(says), Observer::new("gw-1"));
    let settings = discover(DiscoverSource::File { path: PathBuf::from("list.yaml") });
    let endpoints = script.watch(settings, &observer);
    (script, endpoints, observer)
}

async fn next(endpoints: &mut Endpoints) -> Vec<u8> {
    numbers(&endpoints.changed().await)
}

fn now(endpoints: &Endpoints) -> Vec<u8> {
    numbers(&endpoints.current())
}

/// D2: what comes, goes and changes is told as whole sets; an equal answer is no news.
#[tokio::test(start_paused = true)]
async fn sets_follow_their_source() {
    let (script, mut watched, _observer) = script(Says::All(instances(&[1, 2])));
    assert_eq!(next(&mut watched).await, [1, 2]);
    script.say(Says::All(instances(&[3, 2, 1])));
    assert_eq!(next(&mut watched).await, [1, 2, 3], "added");
    script.say(Says::All(instances(&[1, 3])));
    assert_eq!(next(&mut watched).await, [1, 3], "removed");
    script.say(Says::All(instances(&[3, 1])));
    let quiet = tokio::time::timeout(MINUTE, watched.changed()).await;
    assert!(quiet.is_err(), "the same set in another order");
}

/// D3: an outage of ten minutes changes nothing; the questions become rare, and the first answer after
/// it counts.
#[tokio::test(start_paused = true)]
async fn an_outage_leaves_the_last_set() {
    let (script, mut watched, observer) = script(Says::All(instances(&[1, 2])));
    assert_eq!(next(&mut watched).await, [1, 2]);
    script.say(Says::Nothing);
    sleep(MINUTE).await;
    let (before, _) = script.asked();
    sleep(9 * MINUTE).await;
    assert_eq!(now(&watched), [1, 2]);
    let (after, _) = script.asked();
    assert!((12..=40).contains(&(after - before)), "{} questions", after - before);
    let shown = watched.status().show();
    assert!(shown["last_error"].as_str().is_some_and(|text| text.contains("no endpoint")));
    assert!(shown["last_success_ago_ms"].as_u64() >= Some(600_000), "{shown}");
    assert!(observer.metrics.render().contains("outcome=\"failed\""));
    script.say(Says::All(instances(&[2])));
    assert_eq!(next(&mut watched).await, [2]);
}

/// D3: a source that says there are none, once or for a minute, is not believed; who is asked is asked
/// afresh. What says so for long enough is.
#[tokio::test(start_paused = true)]
async fn an_empty_answer_must_be_confirmed() {
    let (script, mut watched, _observer) = script(Says::All(instances(&[1, 2])));
    assert_eq!(next(&mut watched).await, [1, 2]);
    // A registry that was started with nothing, and fills.
    script.say(Says::All(Vec::new()));
    sleep(MINUTE).await;
    assert_eq!(now(&watched), [1, 2]);
    assert_eq!(watched.status().show()["empty_answer_doubted"], true);
    assert!(script.asked().1 >= 5, "asked afresh: {:?}", script.asked());
    script.say(Says::All(instances(&[2])));
    assert_eq!(next(&mut watched).await, [2]);
    assert_eq!(watched.status().show()["empty_answer_doubted"], false);
    // An outage in between confirms nothing.
    script.say(Says::All(Vec::new()));
    sleep(MINUTE + MINUTE / 2).await;
    script.say(Says::Nothing);
    sleep(MINUTE).await;
    script.say(Says::All(Vec::new()));
    sleep(MINUTE).await;
    assert_eq!(now(&watched), [2]);
    sleep(2 * MINUTE).await;
    assert!(watched.current().is_empty(), "said for two minutes");
    script.say(Says::All(instances(&[4])));
    let filled = loop {
        let set = next(&mut watched).await;
        if !set.is_empty() {
            break set;
        }
    };
    assert_eq!(filled, [4]);
}

/// D2, O5: an answer of which nothing is of use changes nothing; of one that is odd in part, the rest
/// counts and the oddity is told.
#[tokio::test(start_paused = true)]
async fn nonsense_never_empties_a_set() {
    let (script, mut watched, _observer) = script(Says::All(instances(&[1, 2])));
    assert_eq!(next(&mut watched).await, [1, 2]);
    script.say(Says::Partly(Vec::new()));
    sleep(10 * MINUTE).await;
    assert_eq!(now(&watched), [1, 2]);
    script.say(Says::Partly(instances(&[2])));
    assert_eq!(next(&mut watched).await, [2]);
    assert_eq!(watched.status().show()["last_error"], "an odd entry");
}

/// D2: a source that flaps is followed, and at the end of it the set is the last one.
#[tokio::test(start_paused = true)]
async fn flapping_ends_with_the_last_set() {
    let (script, mut watched, _observer) = script(Says::All(instances(&[1])));
    assert_eq!(next(&mut watched).await, [1]);
    for round in 0..100_u8 {
        script.say(Says::All(instances(if round % 2 == 0 { &[1, 2] } else { &[1] })));
        if round % 7 == 0 {
            script.say(Says::Nothing);
        }
        sleep(Duration::from_millis(3)).await;
    }
    script.say(Says::All(instances(&[1, 2])));
    sleep(MINUTE).await;
    assert_eq!(now(&watched), [1, 2]);
}

/// D2, O5: a huge answer makes a set that is bounded and the same each time, and says so.
#[tokio::test(start_paused = true)]
async fn a_huge_answer_is_bounded() {
    let at = |n: u32| Instance::at(([10, 1, (n >> 8) as u8, n as u8], 80).into());
    let many: Vec<Instance> = (0..20_000).map(at).collect();
    let (script, mut watched, _observer) = script(Says::All(many.clone()));
    assert_eq!(watched.changed().await.len(), MOST);
    script.say(Says::All(many.into_iter().rev().collect()));
    assert!(tokio::time::timeout(MINUTE, watched.changed()).await.is_err());
    assert_eq!(watched.status().show()["left_out"], 19_000);
}

/// D2: a source that never answers holds nobody up.
#[tokio::test(start_paused = true)]
async fn a_silent_source_holds_nobody_up() {
    let (_script, watched, _observer) = script(Says::Silence);
    sleep(MINUTE).await;
    assert!(!watched.status().is_known());
    let _: &[Endpoint] = &watched.current();
}

/// D2: whoever watches no longer ends the questions.
#[tokio::test(start_paused = true)]
async fn a_source_is_left_with_its_reader() {
    let (script, watched, _observer) = script(Says::Nothing);
    sleep(MINUTE).await;
    drop(watched);
    let asked = script.asked().0;
    sleep(10 * MINUTE).await;
    assert!(asked > 1 && script.asked().0 == asked);
}

/// A list that is there, and a watch on it that never is.
struct Unwatched {
    asked: std::sync::Arc<std::sync::atomic::AtomicU32>,
    listed: bool,
}

impl Source for Unwatched {
    async fn ask(&mut self) -> Result<Answer, Fault> {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.listed = !self.listed;
        if !self.listed {
            return Err(Fault::Broken);
        }
        Ok(Answer { instances: instances(&[1]), holds: Duration::ZERO, nonsense: None })
    }
}

/// D2: a source whose every good answer is followed by a fault is asked less and less; one that was well for a while
/// is asked again soon after its next fault.
#[tokio::test(start_paused = true)]
async fn a_fault_after_each_good_answer_is_no_peace() {
    let asked = std::sync::Arc::default();
    let source = Unwatched { asked: std::sync::Arc::clone(&asked), listed: false };
    let settings = discover(DiscoverSource::File { path: PathBuf::from("list.yaml") });
    let discover = At { value: settings, place: Place::default() };
    let publisher = Publisher::new(&[]);
    let observer = Observer::new("gw-1");
    let keeper = Keeper::new(&ServiceName::new("user"), &discover, publisher, &observer);
    let task = tokio::spawn(keeper.run(source));
    sleep(10 * MINUTE).await;
    let questions = asked.load(std::sync::atomic::Ordering::Relaxed);
    assert!((30..=120).contains(&questions), "{questions}");
    task.abort();
    let (script, mut watched, _observer) = script(Says::All(instances(&[1])));
    next(&mut watched).await;
    script.say(Says::Nothing);
    sleep(10 * MINUTE).await;
    script.say(Says::All(instances(&[2])));
    assert_eq!(next(&mut watched).await, [2]);
    sleep(MINUTE).await;
    let (before, _) = script.asked();
    script.say(Says::Nothing);
    sleep(10 * SECOND).await;
    let (after, _) = script.asked();
    assert!((3..=6).contains(&(after - before)), "the pauses begin anew: {}", after - before);
}

/// O5: what others write of themselves is one short line.
#[test]
fn texts_of_others_are_short() {
    let fault = Fault::Nonsense(format!("first\nsecond{}", "x".repeat(1 << 20)));
    let said = fault.to_string();
    assert!(said.contains("first second") && said.len() < 400, "{said}");
}
