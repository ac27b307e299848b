//! Which parts go on, come and go with a change of the file, and who reads it first: pure. Not for doing it.
//! Called by `follow`.
//!
//! Invariant: who only gains is told before whoever leads to it; who loses is told after.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::bail;
use topology::Topology;
use topology::l4::Protocol;

use crate::up::plan::{Does, Part, Plan, Tier};

/// What becomes of the parts of two plans.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Carried {
    /// Those that go on: index in the new plan, index in the old one.
    pub(super) pairs: Vec<(usize, usize)>,
    /// Of the new plan.
    pub(super) added: Vec<usize>,
    /// Of the old plan.
    pub(super) removed: Vec<usize>,
    /// Of those added: who needs a place that another has until it ends.
    pub(super) taking: Vec<usize>,
    /// Of those removed: who has it, and must end first.
    pub(super) in_place: Vec<usize>,
}

impl Carried {
    /// Those that go on, in the new plan.
    pub(super) fn stay(&self) -> Vec<usize> {
        self.pairs.iter().map(|(new, _)| *new).collect()
    }

    /// The same in the old plan.
    pub(super) fn stayed(&self) -> Vec<usize> {
        self.pairs.iter().map(|(_, old)| *old).collect()
    }
}

/// Compares two plans.
///
/// # Errors
/// For a change that needs a restart.
pub(super) fn carried(old: &Plan, new: &Plan) -> anyhow::Result<Carried> {
    for part in &new.parts {
        let moved = |before: &&Part| before.name == part.name && before.admin != part.admin;
        if matches!(part.does, Does::Tier(_))
            && let Some(before) = old.parts.iter().find(moved)
        {
            bail!(
                "{}'s admin address changes with a restart alone: end `up` and start it again",
                before.name
            );
        }
    }
    let mut all = Carried::default();
    for (index, part) in new.parts.iter().enumerate() {
        match old.parts.iter().position(|before| same(before, part)) {
            Some(former) => all.pairs.push((index, former)),
            None => all.added.push(index),
        }
    }
    let stayed = all.stayed();
    all.removed = (0..old.parts.len()).filter(|former| !stayed.contains(former)).collect();
    let meet = |index: &usize, former: &usize| {
        let both = new.parts.get(*index).zip(old.parts.get(*former));
        both.is_some_and(|(part, before)| excludes(before, part))
    };
    all.taking = all.added.clone();
    all.taking.retain(|index| all.removed.iter().any(|former| meet(index, former)));
    all.in_place = all.removed.clone();
    all.in_place.retain(|former| all.added.iter().any(|index| meet(index, former)));
    Ok(all)
}

/// Whether a process does what the new plan wants: tiers go by their file, databases by what is made in
/// them, and a demo service is known by its address: its name comes from its place in the list.
fn same(before: &Part, part: &Part) -> bool {
    let named = before.name == part.name;
    match (&before.does, &part.does) {
        (Does::Tier(one), Does::Tier(other)) => named && one == other && before.admin == part.admin,
        (Does::Primary(_), Does::Primary(_)) => named && places(before) == places(part),
        (one, other) => {
            (named || matches!(one, Does::Demo { .. }))
                && places(before) == places(part)
                && format!("{one:?}") == format!("{other:?}")
        }
    }
}

fn places(part: &Part) -> Vec<(Protocol, SocketAddr)> {
    part.listens.iter().map(|listen| (listen.protocol, listen.address)).collect()
}

/// Whether the two cannot run at a time: on one port, or on one data folder.
fn excludes(before: &Part, part: &Part) -> bool {
    let taken = places(before);
    let kept = |part: &Part| {
        matches!(part.does, Does::Primary(_) | Does::Replica { .. } | Does::Redis)
            .then(|| part.name.clone())
    };
    places(part).iter().any(|place| taken.contains(place))
        || kept(before).is_some_and(|name| kept(part) == Some(name))
}

/// The tiers of a plan, those behind first.
fn tiers(plan: &Plan) -> Vec<usize> {
    let all = plan.parts.iter().enumerate();
    all.filter(|(_, part)| matches!(part.does, Does::Tier(_))).map(|(index, _)| index).collect()
}

/// Who reads the file, one after the other: first those that lose nothing, from behind to the front; then
/// those that lose something, from the front backwards.
pub(super) fn reloads(
    plan: &Plan,
    known: &[usize],
    before: &Topology,
    after: &Topology,
) -> Vec<usize> {
    let (left, kept) = (entrances(before), entrances(after));
    let gone: BTreeSet<&(String, SocketAddr)> = left.difference(&kept).collect();
    let of_plan = tiers(plan).into_iter().filter(|index| known.contains(index));
    let loses = |index: &usize| {
        let part = plan.parts.get(*index);
        part.is_some_and(|part| gone.iter().any(|(name, _)| *name == part.name))
    };
    let (mut losing, mut order): (Vec<usize>, Vec<usize>) = of_plan.partition(loses);
    // Poolers and gateways stand behind the balancers that lead to them in the plan's order already.
    order.sort_by_key(|index| plan.parts.get(*index).map_or(0, |part| rank(part, *index)));
    losing.reverse();
    order.extend(losing);
    order
}

/// Pools first, then as the plan has them: each after those it needs.
fn rank(part: &Part, index: usize) -> usize {
    if matches!(part.does, Does::Tier(Tier::Pool)) { 0 } else { index + 1 }
}

/// Where each instance takes connections.
fn entrances(topology: &Topology) -> BTreeSet<(String, SocketAddr)> {
    let mut all = BTreeSet::new();
    for group in &topology.nlbs {
        for one in &group.instances {
            let at = group.listeners.iter().map(|listener| listener.at.value.on(one));
            all.extend(at.map(|address| (one.name.to_string(), address)));
        }
    }
    for one in topology.gateways.iter().flat_map(|group| &group.instances) {
        all.insert((one.name.to_string(), one.listen.value));
    }
    for one in topology.pools.iter().flat_map(|group| &group.instances) {
        all.extend(one.tcp().map(|address| (one.name.to_string(), address)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::source::BUILT_IN;

    fn read(text: &str) -> (Topology, Plan) {
        let topology = topology::parse("a.yaml", text, std::path::Path::new("/nowhere"));
        let topology = topology.expect("valid");
        let plan = Plan::new(&topology).expect("a plan");
        (topology, plan)
    }

    fn grown() -> String {
        BUILT_IN
            .replace("\nnlbs:", "  more: { endpoints: [127.0.0.1:7061], run: demo user, uses: [data/app] }\n\nnlbs:")
            .replace("      payment: { tcp", "      more: { tcp: \"*:7060\", to: more }\n      payment: { tcp")
            .replace("    routes:\n", "    routes:\n      - { path: /api/more/*, to: internal/more }\n")
    }

    fn names(plan: &Plan, indices: &[usize]) -> Vec<String> {
        indices.iter().map(|index| plan.parts[*index].name.clone()).collect()
    }

    /// T9: what comes is read from behind to the front; what goes, by those who lead there first.
    #[test]
    fn who_reads_first() {
        let ((small, few), (large, many)) = (read(BUILT_IN), read(&grown()));
        let all = |plan: &Plan| (0..plan.parts.len()).collect::<Vec<_>>();
        let adding = names(&many, &reloads(&many, &all(&many), &small, &large));
        assert_eq!(adding, ["pool-1", "ilb-1", "gw-1", "gw-2", "nlb-1"]);
        let removing = names(&few, &reloads(&few, &all(&few), &large, &small));
        assert_eq!(removing, ["pool-1", "gw-1", "gw-2", "nlb-1", "ilb-1"]);
    }

    /// T9: parts that say the same go on, wherever in the file they stand; others come and go.
    #[test]
    fn parts_are_carried_over() {
        let ((_, few), (_, many)) = (read(BUILT_IN), read(&grown()));
        let growing = carried(&few, &many).expect("no restart");
        assert_eq!(names(&many, &growing.added), ["more-1"]);
        assert_eq!((growing.removed.len(), growing.pairs.len()), (0, few.parts.len()));
        let shrinking = carried(&many, &few).expect("no restart");
        assert_eq!(names(&many, &shrinking.removed), ["more-1"]);
        assert_eq!((shrinking.in_place, shrinking.taking), (Vec::new(), Vec::new()));
        let (_, other) = read(&BUILT_IN.replace("127.0.0.1:9101", "127.0.0.1:9109"));
        assert!(carried(&few, &other).is_err());
    }

    /// T9: who wants the port of one that goes waits for its end; who stands elsewhere in a list goes on.
    #[test]
    fn a_place_is_left_before_it_is_taken() {
        let demo = |endpoints: &str, run: &str| {
            let text = format!(
                "aqueduct: 1\nservices: {{ user: {{ endpoints: [{endpoints}], run: demo {run} }} }}\n"
            );
            read(&text).1
        };
        let [one, two] = ["127.0.0.1:7011", "127.0.0.1:7012"];
        let both = demo(&format!("{one}, {two}"), "user");
        let last = carried(&both, &demo(two, "user")).expect("no restart");
        assert_eq!((last.pairs, last.removed, last.added), (vec![(0, 1)], vec![0], vec![]));
        let other = carried(&both, &demo(two, "feed")).expect("no restart");
        assert_eq!((other.removed, other.in_place, other.taking), (vec![0, 1], vec![1], vec![0]));
    }
}
