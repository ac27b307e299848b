//! A file is written whole or not at all: beside its place, then put there in one step. Not for what grows
//! (logs) nor for what the user names as output. Called by `canary` and by `up`'s folder.
//!
//! Invariant: whoever opens the path reads all of the old text or all of the new, also after a crash.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::Context;

/// Writes it for these users (a mode of the system, whatever the process's mask), with what folders it
/// needs; replaces one that exists.
///
/// # Errors
/// The folder cannot be written to, or is full; then the old file stands and nothing is left beside it.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let fault = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(fault)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let placed = fill(beside, content, mode).and_then(|()| std::fs::rename(beside, path));
    if placed.is_err() {
        // What could not be made need not be there.
        let _ = std::fs::remove_file(beside);
    }
    placed.with_context(fault)
}

/// Replaces what is there; the same users may read it. A link stays, and what it leads to is replaced.
///
/// # Errors
/// As [`write()`], or nothing is there.
pub(crate) fn replace(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let fault = || format!("cannot write {}", path.display());
    let own = std::fs::canonicalize(path).with_context(fault)?;
    let mode = std::fs::metadata(&own).with_context(fault)?.permissions().mode();
    write(&own, content, mode & 0o7777)
}

fn fill(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    // One that a crash left may be another's to read: it is made anew.
    match std::fs::remove_file(path) {
        Err(fault) if fault.kind() != io::ErrorKind::NotFound => return Err(fault),
        _ => {}
    }
    let mut file: File = OpenOptions::new().create_new(true).write(true).mode(mode).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    // Else a crash may leave the new name with no content.
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("there").permissions().mode() & 0o7777
    }

    fn names(folder: &Path) -> usize {
        folder.read_dir().expect("a folder").count()
    }

    /// T2: a private file is its owner's from its first byte on, though a crash left an open one beside it.
    #[test]
    fn what_a_crash_left_open_is_not_filled() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("a/key");
        write(&path, b"x", 0o600).expect("written");
        let beside = scratch.path().join("a/key.new");
        std::fs::write(&beside, "half").expect("written");
        std::fs::set_permissions(&beside, Permissions::from_mode(0o644)).expect("opened");
        let seen = File::open(&beside).expect("opened");
        write(&path, b"secret", 0o600).expect("replaced");
        assert_eq!((std::fs::read(&path).expect("read"), mode(&path)), (b"secret".to_vec(), 0o600));
        assert_eq!(io::read_to_string(seen).expect("read"), "half");
        assert_eq!(names(&scratch.path().join("a")), 1);
    }

    /// T2: what cannot be put in its place leaves the old one and nothing else.
    #[test]
    fn nothing_is_left_of_a_failure() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("taken");
        std::fs::create_dir(&path).expect("made");
        let fault = write(&path, b"x", 0o600).expect_err("a folder is there").to_string();
        assert!(fault.contains("taken"), "{fault}");
        assert_eq!(names(scratch.path()), 1);
    }

    /// G12: a replaced file keeps its users, also behind a link.
    #[test]
    fn a_replaced_file_keeps_its_users() {
        let scratch = tempfile::tempdir().expect("a folder");
        let [own, link] = ["shop.yaml", "current.yaml"].map(|name| scratch.path().join(name));
        write(&own, b"old", 0o640).expect("written");
        std::os::unix::fs::symlink(&own, &link).expect("linked");
        replace(&link, b"new").expect("replaced");
        assert_eq!((std::fs::read(&own).expect("read"), mode(&own)), (b"new".to_vec(), 0o640));
        assert!(link.is_symlink() && names(scratch.path()) == 2);
        replace(&scratch.path().join("none"), b"").expect_err("nothing is there");
    }
}
