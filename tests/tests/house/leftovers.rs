//! What tools leave behind when a change does not fit is nobody's source.

use std::fs;
use std::path::Path;

use crate::tree::{none, root};

#[test]
fn nothing_is_left_of_patches() {
    let mut findings = Vec::new();
    collect(&root(), &mut findings);
    none("remove what a patch or merge has left", &findings);
}

fn collect(folder: &Path, findings: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder of the workspace").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        // Neither is source: builds, and git's own.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && name != "target" && name != ".git" {
            collect(&path, findings);
        } else if name.ends_with(".orig") || name.ends_with(".rej") {
            findings.push(path.display().to_string());
        }
    }
}
