//! docs/coverage.md says which test proves which requirement; here it is kept true: every test
//! that it names exists, and every requirement stands in it.

use std::collections::BTreeSet;
use std::fs;

use crate::tree::{none, root, sources};

/// Requirement families with how many each has.
const REQUIREMENTS: [(&str, u32); 7] =
    [("T", 10), ("N", 12), ("G", 23), ("P", 8), ("D", 3), ("R", 4), ("O", 6)];

#[test]
fn coverage_names_tests_that_exist() {
    let text = fs::read_to_string(root().join("docs/coverage.md")).expect("coverage.md");
    let functions: BTreeSet<String> = sources()
        .iter()
        .flat_map(|source| {
            let lines = source.text.lines().filter_map(|line| line.split_once("fn "));
            lines
                .map(|(_, rest)| {
                    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
                })
                .collect::<Vec<String>>()
        })
        .collect();
    let mut rows = BTreeSet::new();
    let mut findings = Vec::new();
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        rows.insert(cells[1].to_owned());
        let named = row.split('`').skip(1).step_by(2);
        let gone = named.filter(|name| !functions.contains(*name));
        findings.extend(gone.map(|name| format!("{}: no test {name}", cells[1])));
    }
    for (family, count) in REQUIREMENTS {
        let missing = (1..=count).map(|n| format!("{family}{n}")).filter(|id| !rows.contains(id));
        findings.extend(missing.map(|id| format!("{id} has no row")));
    }
    none("docs/coverage.md", &findings);
}
