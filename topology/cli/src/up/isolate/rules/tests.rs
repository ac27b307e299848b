//! Who may connect to whom, in the documented stack and in all others.

use std::collections::BTreeSet;
use std::path::Path;

use topology::Topology;
use topology::effective::{Effective, ValueFrom, effective};

use super::*;
use crate::stacks;
use crate::up::plan::Plan;
use crate::up::source;

const OURS: Ends = Ends {
    four: Ipv4Addr::new(10, 203, 7, 1),
    six: Ipv6Addr::new(0xfd5c, 0xa90e, 0xd0c7, 0xa07, 0, 0, 0, 1),
};

fn planned(text: &str) -> (Topology, Plan) {
    let topology = topology::parse("a.yaml", text, Path::new("/nowhere")).expect("valid");
    let plan = Plan::new(&topology).expect("a plan");
    (topology, plan)
}

fn seats(plan: &Plan) -> Vec<Seat<'_>> {
    let seat = |(last, part)| Seat { part, ends: Ends::new(7, last) };
    (10u8..).zip(&plan.parts).map(seat).collect()
}

fn names(all: Vec<(&Seat<'_>, &Listen)>) -> Vec<String> {
    let name = |(seat, listen): (&Seat<'_>, &Listen)| {
        format!("{}:{}", seat.part.name, listen.address.port())
    };
    let all: BTreeSet<String> = all.into_iter().map(name).collect();
    all.into_iter().collect()
}

/// T7: the documented stack's wires are those of its picture, and clients reach the edge alone.
#[test]
fn wires_are_those_of_the_file() {
    let (_, plan) = planned(source::BUILT_IN);
    let seats = seats(&plan);
    let clients = Ends::new(7, 2);
    let wires = Wires::of(&seats, OURS, clients);
    assert_eq!(names(wires.open()), ["nlb-1:7777", "nlb-1:8443"]);
    let at = |name: &str| plan.parts.iter().position(|part| part.name == name).expect("there");
    assert_eq!(names(wires.from(at("feed-1"))), ["ilb-1:7010", "pool-1:6432"]);
    assert_eq!(names(wires.from(at("user-1"))), ["pool-1:6432"]);
    assert_eq!(names(wires.from(at("redis"))), Vec::<String>::new());
    let gateway = names(wires.from(at("gw-1")));
    assert!(gateway.contains(&"redis:6379".to_owned()), "{gateway:?}");
    assert!(!gateway.iter().any(|one| one.starts_with("user-")), "{gateway:?}");
    let rules = wires.of_part(at("user-1"));
    let [ilb, six] = seats[at("ilb-1")].ends.both();
    assert!(rules.contains(&format!("ip saddr {ilb} tcp dport 7011 accept")), "{rules}");
    assert!(!rules.contains(&format!("{six} tcp")), "a family that the file does not name");
    assert!(!rules.contains(&format!("{} tcp", clients.both()[0])), "{rules}");
}

/// All addresses in a text, whatever is around them.
fn addresses(text: &str) -> impl Iterator<Item = SocketAddr> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || ".:[]".contains(c)));
    words.filter_map(|word| word.trim_matches(':').parse().ok())
}

/// What is written below these keys, and what is written of the services that are named there.
fn told(values: &[Effective], below: &str) -> BTreeSet<SocketAddr> {
    let written = values.iter().filter(|one| one.from != ValueFrom::Default);
    let own: Vec<&Effective> = written.clone().filter(|one| one.path.starts_with(below)).collect();
    let mut all: BTreeSet<SocketAddr> = own.iter().flat_map(|one| addresses(&one.value)).collect();
    for one in own.iter().filter(|one| one.path.ends_with(".to")) {
        for more in ["endpoints[", "discover."] {
            let service = format!("services.{}.{more}", one.value);
            let of_service = written.clone().filter(|value| value.path.starts_with(&service));
            all.extend(of_service.flat_map(|value| addresses(&value.value)));
        }
    }
    all
}

/// Where a part has been told to connect to, and may not.
fn barred(text: &str) -> Vec<String> {
    let (topology, plan) = planned(text);
    let values = effective("a.yaml", text, Path::new("/nowhere")).expect("valid");
    let seats = seats(&plan);
    let wires = Wires::of(&seats, OURS, Ends::new(7, 2));
    let mut below: Vec<(String, String)> = Vec::new();
    for group in &topology.nlbs {
        let names = group.instances.iter().map(|one| one.name.to_string());
        below.extend(names.map(|name| (name, format!("nlbs.{}.", group.name))));
    }
    for group in &topology.gateways {
        let names = group.instances.iter().map(|one| one.name.to_string());
        below.extend(names.map(|name| (name, format!("gateways.{}.", group.name))));
    }
    for group in &topology.pools {
        let names = group.instances.iter().map(|one| one.name.to_string());
        below.extend(names.map(|name| (name, format!("pools.{}.", group.name))));
    }
    let mut barred = Vec::new();
    for (index, part) in plan.parts.iter().enumerate() {
        let told: BTreeSet<SocketAddr> = match &part.does {
            Does::Demo { words, .. } => words.iter().flat_map(|word| addresses(word)).collect(),
            Does::Tier(_) => {
                let found = below.iter().filter(|(name, _)| *name == part.name);
                // Instances of a group do not speak with each other.
                let own = |at: &SocketAddr| {
                    let group = below.iter().filter(|(_, of)| found.clone().any(|(_, f)| f == of));
                    let mut parts = group
                        .filter_map(|(name, _)| plan.parts.iter().find(|part| part.name == *name));
                    parts.any(|part| part.listens.iter().any(|listen| listen.address == *at))
                };
                let all = found.clone().flat_map(|(_, keys)| told(&values, keys));
                all.filter(|at| !own(at)).collect()
            }
            _ => BTreeSet::new(),
        };
        let open: Vec<SocketAddr> =
            wires.from(index).into_iter().map(|(_, listen)| listen.address).collect();
        let heard = |at: &SocketAddr| {
            let mut others = plan.parts.iter().flat_map(|part| &part.listens);
            others.any(|listen| listen.address == *at)
        };
        let missing = told.into_iter().filter(|at| heard(at) && !open.contains(at));
        barred.extend(missing.map(|at| format!("{} to {at}", part.name)));
    }
    barred
}

/// T7: in every ready stack a part reaches all that it is told to connect to.
#[test]
fn ready_stacks_reach_what_they_are_told() {
    for stack in stacks::ALL {
        assert_eq!(barred(stack.text), Vec::<String>::new(), "{}", stack.name);
    }
    let (_, plan) = planned(include_str!("../../../../../stacks/l7-only.yaml"));
    let seats = seats(&plan);
    let wires = Wires::of(&seats, OURS, Ends::new(7, 2));
    let user = plan.parts.iter().position(|part| part.name == "user-1").expect("there");
    assert_eq!(names(wires.from(user)), ["issuer:7900"]);
    assert_eq!(names(wires.open()), ["gw-1:8443"], "clients do not reach the issuer");
}

/// A file in which tiers ask all that they can.
fn with_everything() -> String {
    let mut text = String::from("services:\n");
    for (name, port) in [
        ("consul", 8500),
        ("etcd", 2379),
        ("eureka", 8761),
        ("cluster", 8001),
        ("plane", 18000),
        ("resolver", 8053),
        ("introspect", 7101),
        ("authorize", 7102),
        ("filter", 7103),
        ("route-filter", 7104),
        ("upstream-filter", 7105),
        ("denylist", 7106),
        ("keys", 7107),
        ("collector", 7109),
        ("static", 7110),
        ("named", 7116),
    ] {
        text += &format!("  {name}: {{ endpoints: [127.0.0.1:{port}], run: demo echo }}\n");
    }
    for (n, registry) in ["consul", "etcd", "eureka", "cluster", "plane"].into_iter().enumerate() {
        let port = 7111 + n;
        text += &format!(
            "  {registry}-servers: {{ endpoints: [127.0.0.1:{port}], run: demo echo, uses: [{registry}] }}\n"
        );
    }
    text += "  \
  by-consul: { discover: { consul: { address: http://127.0.0.1:8500, service: user } } }
  by-etcd: { discover: { etcd: { servers: [http://127.0.0.1:2379], prefix: /user/ } } }
  by-eureka: { discover: { eureka: { address: http://127.0.0.1:8761/eureka, application: user } } }
  by-cluster: { discover: { kubernetes: { api: http://127.0.0.1:8001, service: user, namespace: a } } }
  by-plane: { discover: { eds: { address: http://127.0.0.1:18000, service: user } } }
  by-name: { discover: { dns: \"localhost:7116\", resolver: 127.0.0.1:8053 } }
nlbs:
  edge:
    instances: { nlb-1: { address: 127.0.0.1 } }
    listeners:
      one: { tcp: \"*:9301\", to: by-consul }
      two: { tcp: \"*:9302\", to: by-etcd }
      three: { tcp: \"*:9303\", to: by-name }
gateways:
  app:
    instances: { gw-1: { listen: 127.0.0.1:9441 } }
    issuers:
      asked: { issuer: \"https://a\", audience: api, introspection: { url: http://127.0.0.1:7101/i, client: gw, secret: \"env:S\" } }
    api-keys:
      stored: { from: \"postgres://gw@127.0.0.1:7107/app\", header: x-api-key }
    denylist: { redis: redis://127.0.0.1:7106 }
    telemetry: { otlp: http://127.0.0.1:7109 }
    register:
      consul: { address: http://127.0.0.1:8500, service: gateway }
      etcd: { servers: [http://127.0.0.1:2379], prefix: /gateways }
      eureka: { address: http://127.0.0.1:8761/eureka, application: gateway }
    upstreams: { static: { external: { url: http://127.0.0.1:7105/ } } }
    routes:
      - { path: /a, to: static, auth: [asked, stored], authorize: { url: http://127.0.0.1:7102/ } }
      - { path: /b, to: by-eureka, auth: asked, external: { url: http://127.0.0.1:7104/ } }
      - { path: /d, to: by-plane, auth: asked }
      - { path: /c, to: by-cluster, auth: asked, external: { url: http://127.0.0.1:7103/ } }
pools:
  db:
    instances: { pool-1: { listen: 127.0.0.1:6432 } }
    telemetry: { otlp: http://127.0.0.1:7109 }
    register: { consul: { address: http://127.0.0.1:8500, service: db } }
    databases: { orders: { primary: 127.0.0.1:5432 } }
    users: { app: { secret: env:APP } }
";
    text
}

/// T7: whatever else a tier may be told to ask is wired: stores, issuers, authorizers, filters,
/// registries, collectors, and who is found by them.
#[test]
fn all_that_a_tier_can_ask_is_wired() {
    let text = with_everything();
    assert_eq!(barred(&text), Vec::<String>::new());
    let (_, plan) = planned(&text);
    let seats = seats(&plan);
    let wires = Wires::of(&seats, OURS, Ends::new(7, 2));
    let from = |name: &str| {
        let at = plan.parts.iter().position(|part| part.name == name).expect("there");
        names(wires.from(at))
    };
    let servers = ["consul-servers-1:7111", "etcd-servers-1:7112", "named-1:7116"];
    let asked = ["consul-1:8500", "etcd-1:2379", "resolver-1:8053"];
    let mut edge: Vec<&str> = servers.into_iter().chain(asked).collect();
    edge.sort_unstable();
    assert_eq!(from("nlb-1"), edge);
    let gateway = from("gw-1");
    for found in [
        "eureka-servers-1:7113",
        "cluster-servers-1:7114",
        "plane-servers-1:7115",
        "denylist-1:7106",
    ] {
        assert!(gateway.contains(&found.to_owned()), "{found} in {gateway:?}");
    }
    assert_eq!(from("pool-1"), ["collector-1:7109", "consul-1:8500"]);
}
