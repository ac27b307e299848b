//! The walks of docs/architecture.md lead through files that exist and stay short.

use std::fs;

use crate::tree::{none, root};

/// Most files that a reader opens to follow one thing from socket to socket.
const STEPS: usize = 9;

#[test]
fn every_step_of_a_walk_exists() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).expect("architecture.md");
    let mut findings = Vec::new();
    let mut walks = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("- Walk: ")) {
        walks += 1;
        let files: Vec<_> = line.split('`').filter(|word| word.ends_with(".rs")).collect();
        if files.len() > STEPS || files.len() < 3 {
            findings.push(format!("{} files in: {line}", files.len()));
        }
        let gone = files.iter().filter(|file| !root().join(file).is_file());
        findings.extend(gone.map(|file| format!("{file} does not exist")));
    }
    assert!(walks >= 3, "docs/architecture.md has {walks} walks: request, datagram, query");
    none("walks of docs/architecture.md", &findings);
}

#[test]
fn every_file_that_the_documents_name_exists() {
    let mut findings = Vec::new();
    for document in
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md", "docs/lexicon.md"]
    {
        let text = fs::read_to_string(root().join(document)).expect("a document");
        let named = text.split('`').skip(1).step_by(2);
        let files = named.filter(|word| word.contains('/') && word.ends_with(".rs"));
        let gone = files.filter(|file| !root().join(file).is_file());
        findings.extend(gone.map(|file| format!("{document}: {file}")));
    }
    none("files named in documents", &findings);
}
