//! Elections, fencing, lag and freshness, told by what servers say. Not for asking them. Run by the
//! test harness.
//!
//! Invariant: no clock but the one that a test moves.

use super::*;
use topology::units::DatabaseName;

const BOUND: Duration = Duration::from_secs(10);

fn family() -> Family {
    Family::new(&replication(3), Arc::default())
}

fn replication(count: usize) -> Replication {
    let members = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
    Replication {
        name: DatabaseName::new("shop"),
        alias: DatabaseName::new("shop_ro"),
        members: members.iter().take(count).map(|text| text.parse().expect("address")).collect(),
        reads: Reads::Asked,
        max_lag: BOUND,
        check_every: Duration::from_millis(500),
    }
}

struct Times(Instant);

impl Times {
    fn at(&self, seconds: u64) -> Instant {
        self.0 + Duration::from_secs(seconds)
    }

    fn said(&self, seconds: u64, recovers: bool, timeline: u32, position: u64) -> Said {
        let (asked, age) = (self.at(seconds), Duration::from_secs(3600));
        Said { recovers, system: 1, timeline, position, started: 0, age, asked }
    }
}

fn primary(
    times: &Times,
    seconds: u64,
    timeline: u32,
    position: u64,
    started: u64,
) -> Option<Said> {
    Some(Said { started, ..times.said(seconds, false, timeline, position) })
}

fn replica(times: &Times, seconds: u64, timeline: u32, position: u64) -> Option<Said> {
    Some(times.said(seconds, true, timeline, position))
}

/// P5: a primary that does not answer stays the primary; one that was promoted takes over; the old
/// one never gets a write again.
#[test]
fn an_old_primary_is_fenced() {
    let (all, times) = (family(), Times(Instant::now()));
    let old = primary(&times, 0, 1, 100, 1);
    let round = [old, replica(&times, 0, 1, 100), replica(&times, 0, 1, 100)];
    assert_eq!(all.learn(&round, BOUND), [Change::Primary(0), Change::Replicas]);
    assert_eq!((all.serving(Role::Primary), all.serving(Role::Replica)), (vec![0], vec![1, 2]));

    let round = [None, replica(&times, 1, 1, 100), replica(&times, 1, 1, 100)];
    assert_eq!(all.learn(&round, BOUND), []);
    assert_eq!(all.serving(Role::Primary), [0], "it may come back");

    let new = primary(&times, 2, 2, 120, 2);
    let round = [None, new, replica(&times, 2, 1, 100)];
    assert_eq!(all.learn(&round, BOUND), [Change::Primary(1), Change::Replicas]);
    assert_eq!(all.serving(Role::Replica), [1], "the other replica follows nobody yet");

    // The old one is back, and even says that it has written more.
    let back = primary(&times, 3, 1, 900, 3);
    let round = [back, new, replica(&times, 3, 2, 120)];
    assert_eq!(all.learn(&round, BOUND), [Change::Replicas]);
    assert_eq!((all.serving(Role::Primary), all.serving(Role::Replica)), (vec![1], vec![2]));
    assert!(!all.admits(&back.expect("said")) && all.admits(&new.expect("said")));

    // Alone, it gets nothing either.
    all.learn(&[back, None, None], BOUND);
    assert_eq!(all.serving(Role::Primary), [1]);
}

/// P5: two primaries on one timeline get no writes until one of them is gone; one server under two
/// addresses is not two.
#[test]
fn two_primaries_get_no_writes() {
    let (all, times) = (family(), Times(Instant::now()));
    let one = primary(&times, 0, 1, 100, 7);
    all.learn(&[one, one, None], BOUND);
    assert_eq!((all.serving(Role::Primary), all.serving(Role::Replica)), (vec![0], vec![1]));
    let round = [one, primary(&times, 1, 1, 100, 8), None];
    assert_eq!(all.learn(&round, BOUND), [Change::Split, Change::Replicas]);
    assert!(all.serving(Role::Primary).is_empty());
    assert_eq!(all.learn(&[None, round[1], None], BOUND), [Change::Primary(1), Change::Replicas]);
}

/// P5: a replica gets no reads while it is further behind than the bound, by the primary's own
/// positions; an idle primary and one that is away make no replica late.
#[test]
fn late_replicas_get_no_reads() {
    let (all, times) = (family(), Times(Instant::now()));
    let round = |seconds, written, replayed| {
        [primary(&times, seconds, 1, written, 1), replica(&times, seconds, 1, replayed), None]
    };
    all.learn(&round(0, 100, 50), BOUND);
    assert_eq!(all.serving(Role::Replica), [0], "an hour behind, as it says: the primary serves");
    all.learn(&round(1, 200, 100), BOUND);
    assert_eq!(all.lag(1), Some(Duration::from_secs(1)));
    assert_eq!(all.serving(Role::Replica), [1]);
    all.learn(&round(12, 300, 150), BOUND);
    assert_eq!(all.lag(1), Some(Duration::from_secs(12)));
    assert_eq!(all.serving(Role::Replica), [0]);
    all.learn(&round(13, 300, 300), BOUND);
    all.learn(&round(900, 300, 300), BOUND);
    assert_eq!((all.lag(1), all.serving(Role::Replica)), (Some(Duration::ZERO), vec![1]));
    all.learn(&[None, replica(&times, 2000, 1, 300), None], BOUND);
    assert_eq!((all.lag(1), all.serving(Role::Replica)), (Some(Duration::ZERO), vec![1]));
}

/// P5: who has written reads from a replica once it has replayed what the primary had written by
/// then, and not before.
#[test]
fn replicas_are_fresh_when_they_have_what_was_written() {
    let (all, times) = (family(), Times(Instant::now()));
    let round = |seconds, written, replayed| {
        [primary(&times, seconds, 1, written, 1), replica(&times, seconds, 1, replayed), None]
    };
    all.learn(&round(0, 100, 100), BOUND);
    assert!(!all.is_fresh(times.at(1)), "nobody has asked since");
    all.learn(&round(2, 200, 150), BOUND);
    assert!(!all.is_fresh(times.at(1)), "it may not have it");
    all.learn(&round(3, 900, 200), BOUND);
    assert!(all.is_fresh(times.at(1)), "it has all that was written by then");
    assert!(!all.is_fresh(times.at(3)));
}

/// P5: a family that is made anew, because its servers are others or its process is, still refuses who was
/// overtaken before; a cluster that was made anew is none of that.
#[test]
fn an_old_primary_is_fenced_from_families_to_come() {
    let (marks, times) = (Arc::<Marks>::default(), Times(Instant::now()));
    let learn = |all: &Family, round: &[Option<Said>]| {
        marks.raise(all.name(), &all.raised(round)).expect("kept");
        all.learn(round, BOUND)
    };
    let all = Family::of(&replication(2), None, &marks);
    let (old, new) = (primary(&times, 0, 1, 900, 1), primary(&times, 0, 2, 120, 2));
    learn(&all, &[old, None]);
    learn(&all, &[None, new]);
    assert!(all.raised(&[old, new]).is_empty(), "nothing is kept twice");

    let next = Family::of(&replication(3), Some(&all), &marks);
    assert!(!Arc::ptr_eq(&all, &next));
    assert!(!next.admits(&old.expect("said")), "before anybody was asked");
    assert_eq!(learn(&next, &[old, None, None]), [Change::NoPrimary]);
    assert_eq!(learn(&next, &[old, new, None]), [Change::Primary(1), Change::Replicas]);

    let anew = Family::of(&replication(3), None, &marks);
    let other = old.map(|said| Said { system: 2, ..said });
    assert_eq!(learn(&anew, &[other, None, None]), [Change::Primary(0), Change::Replicas]);
}

/// P5: a member that is of another cluster, because its name leads elsewhere, serves nobody and overtakes nobody,
/// however new and however far it is; a cluster that was made anew at all addresses is taken.
#[test]
fn another_cluster_is_no_member() {
    let (all, times) = (family(), Times(Instant::now()));
    let other = |said: Option<Said>| said.map(|said| Said { system: 2, ..said });
    let ours = primary(&times, 0, 3, 100, 1);
    all.learn(&[ours, replica(&times, 0, 3, 100), None], BOUND);
    for foreign in [replica(&times, 1, 9, 900), primary(&times, 1, 9, 900, 2)] {
        all.learn(&[ours, replica(&times, 1, 3, 100), other(foreign)], BOUND);
        assert_eq!((all.serving(Role::Primary), all.serving(Role::Replica)), (vec![0], vec![1]));
        assert!(!all.admits(&other(primary(&times, 1, 9, 900, 2)).expect("said")));
    }
    let anew = [
        other(primary(&times, 2, 1, 5, 8)),
        other(replica(&times, 2, 1, 5)),
        other(replica(&times, 2, 1, 5)),
    ];
    all.learn(&anew, BOUND);
    assert_eq!((all.serving(Role::Primary), all.serving(Role::Replica)), (vec![0], vec![1, 2]));

    // Before any primary is known, two of different clusters are two.
    let all = family();
    all.learn(&[ours, anew[0], None], BOUND);
    assert!(all.serving(Role::Primary).is_empty());
    all.learn(&[ours, None, None], BOUND);
    assert_eq!(all.serving(Role::Primary), [0]);
}

/// P5: a replica that has what its primary never wrote, as it was not rewound after a promotion, gets no reads: not
/// while it is ahead, nor while the primary is away.
#[test]
fn a_diverged_replica_gets_no_reads() {
    let (all, times) = (family(), Times(Instant::now()));
    let new = |seconds, written| primary(&times, seconds, 2, written, 2);
    let stale = |seconds| replica(&times, seconds, 1, 500);
    all.learn(&[stale(0), new(0, 120), replica(&times, 0, 2, 120)], BOUND);
    assert_eq!(all.serving(Role::Replica), [2]);
    all.learn(&[stale(1), None, replica(&times, 1, 2, 120)], BOUND);
    assert_eq!(all.serving(Role::Replica), [2]);
    // One that is asked a moment after a busy primary is not ahead.
    all.learn(&[stale(2), new(2, 200), replica(&times, 2, 2, 210)], BOUND);
    assert_eq!(all.serving(Role::Replica), [2]);
    all.learn(&[stale(3), new(3, 300), replica(&times, 3, 2, 310)], BOUND);
    assert_eq!(all.serving(Role::Replica), [2]);
}
