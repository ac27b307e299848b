//! The plan of the documented stack, and what cannot be planned.

use super::*;
use crate::up::source;

fn documented() -> Plan {
    let topology = topology::parse("stack.yaml", source::BUILT_IN, "/stack".as_ref());
    Plan::new(&topology.expect("the built-in stack is valid")).expect("a plan")
}

fn index(plan: &Plan, name: &str) -> usize {
    plan.parts.iter().position(|part| part.name == name).expect(name)
}

/// T2: everything starts after what it needs, and nothing is forgotten.
#[test]
fn the_documented_stack_starts_in_dependency_order() {
    let plan = documented();
    let names: Vec<&str> = plan.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names.len(), 21, "{names:?}");
    for (before, after) in [
        ("primary", "replica"),
        ("replica", "pool-1"),
        ("pool-1", "user-1"),
        ("pool-1", "payment-1"),
        ("user-2", "feed-1"),
        ("feed-2", "ilb-1"),
        ("payment-1", "ilb-1"),
        ("ilb-1", "gw-1"),
        ("echo-2", "gw-1"),
        ("issuer", "gw-1"),
        ("redis", "gw-2"),
        ("gw-1", "nlb-1"),
        ("gw-2", "nlb-1"),
        ("game-3", "nlb-1"),
    ] {
        let (before_at, after_at) = (index(&plan, before), index(&plan, after));
        assert!(before_at < after_at, "{before} starts before {after}");
        let levels = plan.levels();
        assert!(levels[before_at] < levels[after_at], "{before} is ready before {after} starts");
    }
}

/// T2: what does not depend on each other starts side by side.
#[test]
fn independent_parts_share_a_level() {
    let plan = documented();
    let levels = plan.levels();
    for name in ["primary", "redis", "issuer", "game-1", "game-2", "game-3"] {
        assert_eq!(levels[index(&plan, name)], 0, "{name}");
    }
    assert_eq!(levels[index(&plan, "gw-1")], levels[index(&plan, "gw-2")]);
}

#[test]
fn services_are_told_where_their_dependencies_answer() {
    let plan = documented();
    let Does::Demo { words, uses } = &plan.parts[index(&plan, "feed-1")].does else {
        panic!("feed is a demo service")
    };
    assert_eq!(words, &["feed"]);
    let names: Vec<&str> = uses.iter().map(|used| used.name.as_str()).collect();
    assert_eq!(names, ["data/app", "internal/user"]);
    assert_eq!(uses[1].to, Reach::Http("127.0.0.1:7010".parse().expect("valid")));
}

#[test]
fn parts_that_wait_for_each_other_are_named() {
    let part = |name: &str, after| {
        let mut part = Part::new(name, Does::Redis, Vec::new());
        part.after = vec![after];
        part
    };
    let refusal = ordered(vec![part("a", 1), part("b", 0)]).expect_err("a cycle").to_string();
    assert!(refusal.contains("a, b"), "{refusal}");
}

#[test]
fn only_loopback_addresses_are_ours_to_start() {
    assert_eq!(local("redis://localhost/3", "redis://", 6379), "127.0.0.1:6379".parse().ok());
    assert_eq!(local("http://[::1]:7900/jwks.json", "http://", 80), "[::1]:7900".parse().ok());
    assert_eq!(local("redis://10.0.0.1:6379", "redis://", 6379), None);
    assert_eq!(local("redis://:secret@127.0.0.1", "redis://", 6379), None);
    assert_eq!(local("https://id.example/jwks.json", "http://", 80), None);
}
