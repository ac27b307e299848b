//! The source files of the workspace, as all rules read them.

use std::fs;
use std::path::{Path, PathBuf};

/// One source file.
pub(crate) struct Source {
    /// Relative to the workspace's root, with `/`.
    pub(crate) path: String,
    /// The whole text.
    pub(crate) text: String,
}

impl Source {
    /// Whether it is product code: neither a test, nor a bench, nor a fake.
    pub(crate) fn is_product(&self) -> bool {
        let test = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        !test && !self.path.starts_with("tests/") && !self.path.starts_with("bench/")
    }

    /// The lines above the first test module at the file's end.
    pub(crate) fn product_lines(&self) -> impl Iterator<Item = &str> {
        let mut lines = self.text.lines().peekable();
        std::iter::from_fn(move || {
            let line = lines.next()?;
            let tests = line.trim_start().starts_with("#[cfg(test)]")
                && lines.peek().is_some_and(|next| {
                    ["mod ", "impl ", "#[path"].iter().any(|s| next.starts_with(s))
                });
            (!tests).then_some(line)
        })
    }
}

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("invariant: tests/ is a member")
        .to_owned()
}

/// Every Rust source of the workspace, in path order.
pub(crate) fn sources() -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    let tops = ["topology", "common", "l4-nlb", "l7-gateway", "pgpool", "tests", "bench"];
    for folder in tops {
        collect(&root, &root.join(folder), &mut found);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 50, "the tree was not found below {}", root.display());
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder of the workspace").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(root).expect("invariant: below the root");
            let text = fs::read_to_string(&path).expect("readable source");
            found.push(Source { path: relative.to_string_lossy().into_owned(), text });
        }
    }
}

/// Fails with every finding at once.
pub(crate) fn none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}
