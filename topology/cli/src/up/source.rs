//! Which topology `up` runs, and the copy of it that the tiers are given. Not for reading it:
//! that is the crate `topology`. Called first by `up`.
//!
//! Invariant: the copy has the same lines as the file, so that places in it are places in the file.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::stacks;
use crate::up::folder::{Folder, write_public};

/// The documented stack.
#[cfg(test)]
pub(crate) const BUILT_IN: &str = include_str!("../../../stacks/instagram-valorant.yaml");
/// What is started where nothing is named: its name, and that of its folder.
pub(crate) const BUILT_IN_NAME: &str = "instagram-valorant";

/// A topology text and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Names the stack and its folder.
    pub(crate) stack: String,
    /// As messages name the file.
    pub(crate) shown: String,
    /// The whole text.
    pub(crate) text: String,
    /// What relative paths in it start from; `None`: the folder of the stack.
    base: Option<PathBuf>,
    /// A ready stack, not a file.
    ready: bool,
}

impl Source {
    /// Reads the file, or takes the ready stack of that name.
    pub(crate) fn open(file: Option<&Path>) -> anyhow::Result<Self> {
        let file = file.unwrap_or(Path::new(BUILT_IN_NAME));
        if let Some(stack) = stacks::named(file)? {
            return Ok(Self {
                stack: stack.name.to_owned(),
                shown: stack.shown(),
                text: stack.text.to_owned(),
                base: None,
                ready: true,
            });
        }
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the topology file {}", file.display()))?;
        let stack = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let whole = std::path::absolute(file)?;
        Ok(Self {
            stack: stack.unwrap_or_else(|| "stack".to_owned()),
            shown: file.display().to_string(),
            text,
            base: whole.parent().map(Path::to_owned),
            ready: false,
        })
    }

    /// Writes the copy that the tiers read: in it a relative reference to a file (`file:`, `files:`, `protos:` …) that exists
    /// beside the user's file is absolute; all others stay, and mean what `up` makes in its folder.
    pub(crate) fn copy_to(&self, folder: &Folder) -> anyhow::Result<PathBuf> {
        let path = folder.path("topology.yaml");
        write_public(&path, self.adapted().as_bytes())?;
        Ok(path)
    }

    /// Whether it is a ready stack, not a file.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// The text of that copy.
    pub(crate) fn adapted(&self) -> String {
        match &self.base {
            Some(base) => absolute_references(&self.text, base),
            None => self.text.clone(),
        }
    }
}

fn absolute_references(text: &str, base: &Path) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let begin = |text: &str| {
        let begins = ["file:", "files: ", "directory: ", "protos: ", "openapi: ", "validate: "];
        begins.into_iter().filter_map(|word| Some(text.find(word)? + word.len())).min()
    };
    while let Some(at) = begin(rest) {
        let at = at + rest[at..].bytes().take_while(|b| matches!(b, b'"' | b' ')).count();
        let (before, reference) = rest.split_at(at);
        let ends = |c: char| c.is_whitespace() || matches!(c, ',' | '}' | ']' | '"' | '\'');
        let (name, after) = reference.split_at(reference.find(ends).unwrap_or(reference.len()));
        out.push_str(before);
        let found = base.join(name);
        if !name.is_empty() && Path::new(name).is_relative() && found.exists() {
            out.push_str(&found.display().to_string());
        } else {
            out.push_str(name);
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_references_that_exist_beside_the_file_become_absolute() {
        let scratch = tempfile::tempdir().expect("a folder");
        let base = scratch.path();
        std::fs::write(base.join("my.pem"), "x").expect("written");
        std::fs::create_dir(base.join("static")).expect("made");
        let text = "a: { chain: file:my.pem, key: file:other.key }\nb: \"file:/abs\"\nc: [{ files: static }, { files: { directory: \"static\" } }, { files: none }]\n";
        let copied = absolute_references(text, base);
        let (pem, files) = (base.join("my.pem"), base.join("static"));
        let expected = format!(
            "a: {{ chain: file:{}, key: file:other.key }}\nb: \"file:/abs\"\nc: [{{ files: {files} }}, {{ files: {{ directory: \"{files}\" }} }}, {{ files: none }}]\n",
            pem.display(),
            files = files.display()
        );
        assert_eq!(copied, expected);
    }
}
