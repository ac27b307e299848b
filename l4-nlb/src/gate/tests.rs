//! The gate as a whole.

use std::time::Duration;

use topology::units::Rate;

use super::*;
use crate::testing::listener;

fn gate(change: impl FnOnce(&mut Listener)) -> Gate {
    let mut rules = listener("udp", &[1]);
    change(&mut rules);
    Gate::new(&rules, None)
}

fn per_second(count: u32) -> Option<Rate> {
    Some(Rate { count: NonZeroU32::new(count).unwrap(), per: Duration::from_secs(1) })
}

/// N9: bounds in all and per source; places come back.
#[tokio::test(start_paused = true)]
async fn flows_are_bounded_in_all_and_per_source() {
    let gate = gate(|rules| {
        rules.max_flows = NonZeroU32::new(3).unwrap();
        rules.max_flows_per_source = NonZeroU32::new(2);
    });
    let (a, b, c) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), [10, 0, 0, 3].into());
    let first = gate.admit(a).unwrap();
    let _second = gate.admit(a).unwrap();
    assert_eq!(gate.admit(a).unwrap_err(), Refusal::Source);
    assert_eq!(gate.flows(), 2, "a refused one takes no place");
    let _third = gate.admit(b).unwrap();
    assert_eq!(gate.admit(c).unwrap_err(), Refusal::Full);
    let handed = first.hand_over(&gate, c).unwrap();
    assert_eq!(gate.flows(), 3, "a place that is handed over is never free");
    drop(handed);
    assert!(gate.admit(a).is_ok());
    let known: usize = gate.counts.sources.iter().map(|shard| shard.lock().unwrap().len()).sum();
    assert_eq!(known, 2);
}

/// N9
#[tokio::test(start_paused = true)]
async fn deny_comes_before_allow() {
    let gate = gate(|rules| {
        rules.allow = vec!["10.0.0.0/8".parse().unwrap()];
        rules.deny = vec!["10.1.0.0/16".parse().unwrap()];
    });
    for (client, good) in
        [("10.0.0.1", true), ("10.1.0.1", false), ("11.0.0.1", false), ("::ffff:10.0.0.1", true)]
    {
        assert_eq!(gate.admit(client.parse().unwrap()).is_ok(), good, "{client}");
    }
}

/// N9: a greedy client meets its own bound and leaves the listener's to the others; both come back
/// with time.
#[tokio::test(start_paused = true)]
async fn new_flows_are_bounded_per_second() {
    let gate = gate(|rules| {
        rules.new_flows = per_second(4);
        rules.new_flows_per_source = per_second(2);
    });
    let client = |last: u8| IpAddr::from([10, 0, 0, last]);
    let outcomes: Vec<_> = (0..5).map(|_| gate.admit(client(1)).err()).collect();
    assert_eq!(
        outcomes,
        [
            None,
            None,
            Some(Refusal::SourceRate),
            Some(Refusal::SourceRate),
            Some(Refusal::SourceRate)
        ]
    );
    assert!(gate.admit(client(2)).is_ok() && gate.admit(client(3)).is_ok());
    assert_eq!(gate.admit(client(4)).unwrap_err(), Refusal::Rate);
    tokio::time::advance(Duration::from_millis(500)).await;
    assert!(gate.admit(client(1)).is_ok());
}

/// N9, T9: what is counted outlives a change of the bounds.
#[tokio::test(start_paused = true)]
async fn counts_outlive_a_change() {
    let mut rules = listener("tcp", &[1]);
    rules.max_flows_per_source = NonZeroU32::new(1);
    rules.new_flows_per_source = per_second(2);
    let before = Gate::new(&rules, None);
    let client = [10, 0, 0, 1].into();
    let pass = before.admit(client).unwrap();
    rules.max_flows = NonZeroU32::new(9).unwrap();
    let after = Gate::new(&rules, Some(&before));
    assert_eq!((after.flows(), after.admit(client).unwrap_err()), (1, Refusal::Source));
    assert_eq!(after.screen(client).unwrap_err(), Refusal::SourceRate, "both tokens are spent");
    drop(pass);
    assert_eq!(after.flows(), 0);
}
