//! Tests of the flow table: eviction order, expiry, and a model that it must agree with.

use proptest::prelude::*;

use super::*;

fn client(port: u16) -> Client {
    Client { peer: ([127, 0, 0, 1], port).into(), local: None }
}

/// N3: a full table gives up the oldest flow that was never answered, then the oldest that did not
/// go on after an answer, and never one that did.
#[test]
fn confirmed_flows_never_make_room() {
    let mut flows = Flows::new();
    let ids: Vec<_> = (0..4).map(|i| flows.insert(client(i), i, Tick(0)).0).collect();
    flows.heard_endpoint(ids[0], Tick(1));
    flows.heard_client(ids[0], Tick(2));
    flows.heard_endpoint(ids[3], Tick(3));
    flows.heard_client(ids[1], Tick(4));
    let mut order = Vec::new();
    while let Some(id) = flows.expendable() {
        order.extend(flows.remove(id));
    }
    assert_eq!(order, [2, 1, 3]);
    assert_eq!(flows.len(), 1, "the confirmed one stays");
}

/// N3: a flow expires when neither side was heard for the idle time, and not before.
#[test]
fn idle_flows_expire() {
    let mut flows = Flows::new();
    let (a, _) = flows.insert(client(1), 'a', Tick(0));
    let (b, _) = flows.insert(client(2), 'b', Tick(0));
    flows.heard_endpoint(a, Tick(900));
    flows.heard_client(a, Tick(1000));
    assert_eq!(flows.expired(Tick(1199), 1200), None);
    assert_eq!(flows.expired(Tick(1200), 1200), Some(b));
    assert_eq!(flows.remove(b), Some('b'));
    assert_eq!(flows.expired(Tick(2199), 1200), None);
    assert_eq!(flows.expired(Tick(2200), 1200), Some(a));
}

#[test]
fn a_client_has_one_flow_and_places_are_used_again() {
    let mut flows = Flows::new();
    let (first, _) = flows.insert(client(1), 1, Tick(0));
    assert_eq!(flows.insert(client(1), 2, Tick(0)), (first, Some(1)));
    assert_eq!((flows.len(), flows.value(first).copied()), (1, Some(2)));
    assert_eq!(flows.remove(first), Some(2));
    assert_eq!(flows.remove(first), None);
    assert_eq!(flows.find(&client(1)), None);
}

/// What may happen to a table.
#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(u16),
    Client(u16),
    Endpoint(u16),
    Remove(u16),
    Evict,
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6_u16).prop_map(Step::Insert),
        (0..6_u16).prop_map(Step::Client),
        (0..6_u16).prop_map(Step::Endpoint),
        (0..6_u16).prop_map(Step::Remove),
        Just(Step::Evict),
        Just(Step::Wait),
    ]
}

proptest! {
    /// N3: the table agrees with a plain list of (client, last heard, proof).
    #[test]
    fn agrees_with_a_plain_list(steps in prop::collection::vec(step(), 0..200)) {
        let mut flows = Flows::new();
        let mut model: Vec<(u16, u32, Proof)> = Vec::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Wait => now += 1,
                Step::Insert(c) => {
                    flows.insert(client(c), c, Tick(now));
                    model.retain(|m| m.0 != c);
                    model.push((c, now, Proof::None));
                }
                Step::Client(c) => if let Some(id) = flows.find(&client(c)) {
                    flows.heard_client(id, Tick(now));
                    let m = model.iter_mut().find(|m| m.0 == c).unwrap();
                    m.1 = now;
                    if m.2 == Proof::Answered { m.2 = Proof::Confirmed; }
                },
                Step::Endpoint(c) => if let Some(id) = flows.find(&client(c)) {
                    flows.heard_endpoint(id, Tick(now));
                    let m = model.iter_mut().find(|m| m.0 == c).unwrap();
                    m.1 = now;
                    m.2 = m.2.max(Proof::Answered);
                },
                Step::Remove(c) => if let Some(id) = flows.find(&client(c)) {
                    flows.remove(id);
                    model.retain(|m| m.0 != c);
                },
                Step::Evict => {
                    let gone = flows.expendable().and_then(|id| flows.remove(id));
                    let pick = |m: &&(u16, u32, Proof)| (m.2, m.1);
                    let expendable = |m: &&(u16, u32, Proof)| m.2 != Proof::Confirmed;
                    let oldest = model.iter().filter(expendable).map(|m| pick(&m)).min();
                    let gone = gone.and_then(|c| model.iter().position(|m| m.0 == c));
                    prop_assert_eq!(gone.map(|at| pick(&&model[at])), oldest);
                    if let Some(at) = gone { model.remove(at); }
                }
            }
            prop_assert_eq!(flows.len(), model.len());
            let idle = 3;
            let expired = flows.expired(Tick(now), idle).is_some();
            prop_assert_eq!(expired, model.iter().any(|m| now - m.1 >= idle));
        }
    }
}
