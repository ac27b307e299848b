//! Which crate may use which, where `unsafe` may stand, and how product code may panic.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::tree::{none, root, sources};

/// Crate → our crates that its product code may use (docs/architecture.md, "Crates").
const ALLOWED: [(&str, &[&str]); 9] = [
    ("topology", &[]),
    ("pgpool-wire", &[]),
    ("demo", &[]),
    ("common", &["topology"]),
    ("discovery", &["topology", "common"]),
    ("l4-nlb", &["topology", "common", "discovery"]),
    ("l7-gateway", &["topology", "common", "discovery"]),
    ("pgpool", &["topology", "common", "discovery", "pgpool-wire"]),
    (
        "aqueduct",
        &["topology", "common", "discovery", "l4-nlb", "l7-gateway", "pgpool", "pgpool-wire"],
    ),
];

/// Crate → what it must never use, directly.
const FORBIDDEN: [(&str, &[&str]); 2] = [
    ("topology", &["tokio", "rustls", "hyper", "socket2"]),
    ("pgpool-wire", &["tokio", "rustls", "hyper", "socket2", "futures-util"]),
];

const ALL_MEMBERS: usize = 11;

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata");
    let members = metadata.packages.iter().map(|package| {
        let normal = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind == DependencyKind::Normal)
            .map(|dependency| dependency.name.clone());
        (package.name.to_string(), normal.collect())
    });
    members.collect()
}

#[test]
fn crates_depend_downwards_only() {
    let graph = dependencies();
    assert_eq!(graph.len(), ALL_MEMBERS, "a new crate needs a reason and a line in this test");
    let ours: BTreeSet<_> = graph.keys().cloned().collect();
    let mut findings = Vec::new();
    for (name, allowed) in ALLOWED {
        let used = graph.get(name).unwrap_or_else(|| panic!("{name} is no member"));
        let wrong =
            used.intersection(&ours).filter(|dependency| !allowed.contains(&dependency.as_str()));
        findings.extend(wrong.map(|dependency| format!("{name} uses {dependency}")));
    }
    for (name, forbidden) in FORBIDDEN {
        let used = &graph[name];
        findings.extend(
            forbidden
                .iter()
                .filter(|one| used.contains(**one))
                .map(|one| format!("{name} uses {one}")),
        );
    }
    none("forbidden edges between crates", &findings);
}

#[test]
fn stages_do_not_know_each_other() {
    let mut findings = Vec::new();
    let stages = [
        "normalise",
        "authn",
        "authz",
        "rate_limit",
        "route",
        "request_transform",
        "dispatch",
        "response_transform",
        "emit",
    ];
    for source in sources() {
        let Some(rest) = source.path.strip_prefix("l7-gateway/src/stages/") else { continue };
        let own = rest.split(['/', '.']).next().unwrap_or_default();
        for stage in stages.iter().filter(|stage| **stage != own && own != "mod") {
            // The per-address part of the limits is charged by stage 2, by design.
            let charged = own == "normalise" && *stage == "rate_limit";
            let line = source.product_lines().find(|line| {
                line.contains(&format!("stages::{stage}")) && !line.trim_start().starts_with("//")
            });
            if let (Some(line), false) = (line, charged) {
                findings.push(format!("{}: {}", source.path, line.trim()));
            }
        }
    }
    none("a stage imports another stage", &findings);
}

#[test]
fn unsafe_code_lives_in_two_places() {
    let found = |path: &str, text: &str| {
        let allowed = path == "common/src/net/sys.rs" || path.starts_with("l4-nlb/src/xdp/");
        !allowed && text.lines().any(|line| line.contains("unsafe {") || line.contains("unsafe fn"))
    };
    let findings: Vec<_> = sources()
        .into_iter()
        .filter(|source| source.path != "tests/tests/house/edges.rs")
        .filter(|source| found(&source.path, &source.text))
        .map(|source| source.path)
        .collect();
    none("unsafe code", &findings);
}

#[test]
fn panics_name_their_invariant() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| source.is_product()) {
        for (number, line) in source.product_lines().enumerate() {
            if line.contains(".expect(\"") && !line.contains(".expect(\"invariant: ") {
                findings.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    none("expect(…) without \"invariant: …\"", &findings);
}
