//! Tests of the roster: places, ids, the words that end connections.

use common::observe::Metrics;
use common::service::Health;
use proptest::prelude::*;

use super::*;
use crate::testing::{listener, service};

fn meters() -> Arc<Meters> {
    Arc::new(Meters::new(&Metrics::new(), "l"))
}

fn word(entry: &Entry) -> Option<Word> {
    let mut cx = Context::from_waker(Waker::noop());
    match entry.poll_word(&mut cx, &mut None) {
        Poll::Ready(word) => Some(word),
        Poll::Pending => None,
    }
}

fn connect(entry: &Entry, service: &Arc<Service>) {
    let to = (service.clone(), service.endpoints[0].clone());
    entry.connected("10.0.0.9:5555".parse().unwrap(), to);
}

/// N3, N8: an idle connection is told; a long one is told once to settle; one that moves bytes lives.
#[tokio::test(start_paused = true)]
async fn idle_connections_are_told() {
    let (rosters, service) = (Rosters::default(), Service::new(&service(&[1])));
    let (roster, rules) = (rosters.open(meters()), listener("tcp", &[1]));
    let (entry, early) = (roster.enter(), roster.enter());
    connect(&entry, &service);
    let start = Instant::now();
    let after = |ms: u64| start + Duration::from_millis(ms);
    roster.sweep(&rules, after(900));
    assert_eq!(word(&entry), None);
    roster.sweep(&rules, after(1100));
    assert_eq!(word(&entry), Some(Word::Settle));
    entry.heard();
    roster.sweep(&rules, after(300_000));
    assert_eq!(word(&entry), None, "told once");
    entry.up(5);
    entry.down(7);
    roster.sweep(&rules, after(649_900));
    assert_eq!(word(&entry), None);
    let seen = rosters.connections();
    assert_eq!((seen.len(), seen[0].up, seen[0].down, seen[0].quiet.as_secs()), (1, 5, 7, 349));
    assert_eq!(seen[0].id, entry.id());
    roster.sweep(&rules, after(650_300));
    assert_eq!(word(&entry), Some(Word::Idle));
    assert_eq!(word(&early), None, "without an endpoint its own timers hold");
}

/// N8: draining or full endpoints touch no established connection; a dead one's are reset where the
/// file says so.
#[tokio::test(start_paused = true)]
async fn only_death_resets_and_only_where_wanted() {
    let (rosters, service) = (Rosters::default(), Service::new(&service(&[1])));
    let (roster, mut rules) = (rosters.open(meters()), listener("tcp", &[1]));
    let entry = roster.enter();
    connect(&entry, &service);
    let state = &service.endpoints[0].state;
    for on_down in [OnDown::Keep, OnDown::Rehash, OnDown::Reset] {
        rules.on_down = on_down;
        state.drain();
        roster.sweep(&rules, Instant::now());
        assert_eq!(word(&entry), None, "{on_down:?}");
        state.undrain();
        state.set_healthy(Health::Down);
        roster.sweep(&rules, Instant::now());
        assert_eq!(word(&entry).is_some(), on_down == OnDown::Reset, "{on_down:?}");
        state.set_healthy(Health::Up);
    }
    assert_eq!(word(&entry), Some(Word::Down));
    roster.stop();
    assert_eq!(word(&entry), Some(Word::Stop), "the gravest word counts");
}

proptest! {
    /// N3: whatever comes and goes, the roster shows those who are there, each once, with its own id.
    #[test]
    fn places_are_a_set(steps in prop::collection::vec(any::<(bool, u8)>(), 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (rosters, service) = (Rosters::default(), Service::new(&service(&[1])));
            let roster = rosters.open(meters());
            let mut entries = Vec::new();
            for (enters, which) in steps {
                if enters || entries.is_empty() {
                    let entry = roster.enter();
                    connect(&entry, &service);
                    entries.push(entry);
                } else {
                    entries.swap_remove(usize::from(which) % entries.len());
                }
                let mut shown: Vec<String> = rosters.connections().into_iter().map(|c| c.id).collect();
                let mut there: Vec<String> = entries.iter().map(Entry::id).collect();
                shown.sort();
                there.sort();
                assert_eq!(shown, there);
            }
            entries.clear();
            roster.emptied().await;
        });
    }
}
