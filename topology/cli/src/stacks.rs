//! The ready topologies, by name: `topology/stacks/*.yaml` inside this program. Not for reading files: that is
//! `file`, and `up::source` for `up`. Asked by every command that takes a topology.
//!
//! Invariant: a name is a file's without `.yaml`.

use std::fmt::Write;
use std::path::Path;

use anyhow::bail;

/// A topology that needs no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stack {
    /// What it is called by.
    pub(crate) name: &'static str,
    /// What it shows, in a line.
    pub(crate) about: &'static str,
    /// The topology as it lies in the repository; what it names beside itself `up` provides.
    pub(crate) text: &'static str,
}

impl Stack {
    /// What messages call its file.
    pub(crate) fn shown(&self) -> String {
        format!("{}.yaml (built in)", self.name)
    }
}

/// The stack that a command's argument names; `None`: it is the path of a file. A file of that very name comes first.
///
/// # Errors
/// There is no such file, and what could be a name is none.
pub(crate) fn named(argument: &Path) -> anyhow::Result<Option<&'static Stack>> {
    let Some(name) = argument.to_str() else { return Ok(None) };
    if argument.is_file() {
        return Ok(None);
    }
    if let Some(stack) = ALL.iter().find(|stack| stack.name == name) {
        return Ok(Some(stack));
    }
    if name.contains(['/', '.']) {
        return Ok(None);
    }
    bail!("{name} is neither a file nor a ready stack. Ready are:\n{}", list().trim_end())
}

/// All of them, a line each.
pub(crate) fn list() -> String {
    let mut text = String::new();
    for stack in &ALL {
        let _ = writeln!(text, "  {:20}{}", stack.name, stack.about);
    }
    text
}

macro_rules! ready {
    ($name:literal, $about:literal) => {
        Stack {
            name: $name,
            about: $about,
            text: include_str!(concat!("../../stacks/", $name, ".yaml")),
        }
    };
}

/// In the order in which they are best read.
pub(crate) const ALL: [Stack; 15] = [
    ready!(
        "instagram-valorant",
        "the documented production stack: game UDP, HTTPS with tokens, SQL"
    ),
    ready!("single-service", "a gateway alone before one service: TLS, turns, nothing else"),
    ready!("paths", "one address, and the path says which pool: 3, 2 and 4 servers, and assets"),
    ready!(
        "variants",
        "phones and others, countries, versions by Accept, eight experiments at once"
    ),
    ready!("l7-only", "plain layer 7: the token passes untouched, services verify it themselves"),
    ready!("dashboard", "three services' answers as one; what is slow is left out"),
    ready!("amazon", "a shop: one domain, four services and files"),
    ready!("canary", "a new version gets 5, 10, 25, 50, 100 % of the visitors, and none at once"),
    ready!("ten-gateways", "ten gateways that share one budget exactly, in Redis"),
    ready!("orders", "GET /orders/42 in ten steps, each of which leaves a trace"),
    ready!("uber", "a gateway for riders and one for drivers: other issuers, keys and limits"),
    ready!("netflix", "limits by device, and servers found in Eureka, with no hop in between"),
    ready!("rtmp", "live streams: long connections that no change of the file disturbs"),
    ready!("mesh", "services among themselves: an internal gateway, callers by certificate, gRPC"),
    ready!(
        "sidecar",
        "a gateway beside each service: plain HTTP within a host, mTLS between hosts"
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;
    use crate::up::plan::{Does, Plan};

    /// T8: each ready topology of the repository can be started by its name: it is valid as it comes, and something runs
    /// behind everything that it has a gateway or a balancer lead to.
    #[test]
    fn every_stack_starts_by_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        for stack in &ALL {
            let topology = topology::parse(stack.name, stack.text, folder.path());
            let topology = topology.unwrap_or_else(|problems| unreachable!("{problems}"));
            assert_eq!(topology.warnings, Vec::new(), "{}", stack.name);
            let plan = Plan::new(&topology).expect("a plan");
            for service in topology.services.iter().filter(|service| service.discover.is_none()) {
                let runs = plan.parts.iter().filter(|part| matches!(part.does, Does::Demo { .. }));
                let all: BTreeSet<_> =
                    runs.flat_map(|part| &part.listens).map(|l| l.address).collect();
                let lacks =
                    service.endpoints.iter().find(|endpoint| !all.contains(&endpoint.address));
                assert_eq!(lacks, None, "{}: {}", stack.name, service.name);
            }
        }
    }

    /// T8: no ready topology is forgotten, each has its page, and an unknown name is told what there is.
    #[test]
    fn every_stack_is_listed_and_described() {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
        let files = std::fs::read_dir(root.join("topology/stacks")).expect("there");
        let names: BTreeSet<String> = files
            .map(|file| file.expect("read").file_name().to_string_lossy().into_owned())
            .filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned))
            // Of other hosts: nothing to start here.
            .filter(|name| name != "two-hosts")
            .collect();
        assert_eq!(names, ALL.iter().map(|stack| stack.name.to_owned()).collect());
        let page = std::fs::read_to_string(root.join("docs/stacks.md")).expect("docs/stacks.md");
        for stack in &ALL {
            let name = stack.name;
            assert!(
                page.contains(&format!("\n## {name}\n")),
                "docs/stacks.md says nothing of {name}"
            );
            let picture = format!("pictures/{name}.svg");
            assert!(page.contains(&picture), "docs/stacks.md does not show {picture}");
            assert!(
                root.join("docs").join(picture).exists(),
                "{name} has no picture: make pictures"
            );
        }
        assert_eq!(named(Path::new("mesh")).expect("a name").map(|stack| stack.name), Some("mesh"));
        assert_eq!(named(Path::new("./mesh")).expect("a path"), None);
        let unknown = named(Path::new("insta")).expect_err("no such stack").to_string();
        assert!(unknown.contains("\n  mesh "), "{unknown}");
    }
}
