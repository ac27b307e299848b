//! Every malformed file of `golden/` against the text that people are shown. `UPDATE_GOLDEN=1`
//! writes the texts anew; read the difference before keeping it.
//!
//! Invariant: a file named `warn-…` can be used, every other one cannot.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use topology::{Shown, parse};

/// Files of the set, in order.
fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = fs::read_dir(folder).unwrap();
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|end| end == "yaml"));
    all.sort();
    all
}

/// What is said about a file.
fn said(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    let text = fs::read_to_string(path).unwrap();
    let parsed = parse(name, &text, Path::new("/etc/aqueduct"));
    assert_eq!(parsed.is_ok(), name.starts_with("warn-"), "{name}: {parsed:?}");
    match parsed {
        Err(problems) => format!("{problems}\n"),
        Ok(topology) => {
            let shown = |problem| Shown { problem, source: &topology.source }.to_string();
            topology.warnings.iter().map(shown).collect::<Vec<_>>().join("\n")
        }
    }
}

/// T4, O5: every mistake is told with file, line, column, the offending text and what is right.
#[test]
fn malformed_files_are_explained() {
    let cases = cases();
    assert!(cases.len() >= 60, "the golden set has shrunk to {}", cases.len());
    let mut changed = Vec::new();
    for path in cases {
        let golden = path.with_extension("stderr");
        let said = said(&path);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, said).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != said {
            changed.push(format!("{}:\n{said}", path.display()));
        }
    }
    assert!(changed.is_empty(), "set UPDATE_GOLDEN=1 if meant:\n{}", changed.join("\n"));
}

/// O5: a text cut anywhere is a topology or a list of problems, never a panic.
#[test]
fn cut_files_never_panic() {
    for path in cases() {
        let text = fs::read_to_string(&path).unwrap();
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            if let Err(problems) = parse("cut.yaml", text.get(..end).unwrap(), Path::new("/")) {
                assert!(!problems.list().is_empty());
                assert!(!problems.to_string().is_empty());
            }
        }
    }
}

proptest! {
    /// O5: the documented stack with any part of it replaced by anything.
    #[test]
    fn changed_files_never_panic(
        from in 0usize..4000,
        length in 0usize..60,
        with in "\\PC{0,12}|[-{}\\[\\],:&*#|>\\n \"'0-9a-z]{0,24}",
    ) {
        let text = include_str!("../stacks/instagram-valorant.yaml");
        let kept: String = text.chars().take(from).collect();
        let rest: String = text.chars().skip(from + length).collect();
        if let Err(problems) = parse("changed.yaml", &format!("{kept}{with}{rest}"), Path::new("/")) {
            prop_assert!(!problems.list().is_empty());
            prop_assert!(!problems.to_string().is_empty());
        }
    }
}
