//! Files in a real directory, with links and odd names; nothing leads out.

use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;
use topology::units::{At, PathPattern, Place};

use super::*;

/// A directory `in` with files, links and odd things in it, and a secret beside it.
fn tree() -> TempDir {
    let all = tempfile::tempdir().expect("a folder");
    let own = all.path().join("in");
    std::fs::create_dir_all(own.join("d/e")).expect("made");
    for name in ["a", "d/b", "d/e/index.html", ".env", "..a", "\u{e9} x", "d/\\"] {
        std::fs::write(own.join(name), "inside").expect("written");
    }
    for name in ["secret", "in-secret"] {
        std::fs::write(all.path().join(name), "outside").expect("written");
    }
    let links = [
        ("../secret", "up"),
        ("..", "parent"),
        ("/", "root"),
        ("/proc/self/root", "magic"),
        ("d/e/../../../secret", "far"),
        ("d/b", "within"),
        ("d", "folder"),
        ("loop", "loop"),
        ("nowhere", "dangling"),
    ];
    for (to, name) in links {
        symlink(to, own.join(name)).expect("linked");
    }
    symlink(all.path().join("secret"), own.join("absolute")).expect("linked");
    symlink("../..", own.join("d/e/up")).expect("linked");
    all
}

fn directory(path: &Path, links: Links) -> Directory {
    Directory::new(&Files {
        directory: At { value: path.to_owned(), place: Place::default() },
        index: None,
        cache_control: None,
        hidden: true,
        links,
        precompressed: true,
    })
}

fn read(directory: &Directory, name: &[u8]) -> Result<Bytes, Lack> {
    Ok(directory.look(name, &[], true)?.read.expect("small"))
}

/// G22: links within are followed, links that lead out are not there, unless that is asked for.
#[test]
fn no_link_leads_out() {
    let all = tree();
    let inside = directory(&all.path().join("in"), Links::Inside);
    inside.check().expect("it can be opened");
    for name in ["a", "d/b", "within", "folder/b", "folder/e/index.html", "d/e/up/a"] {
        assert_eq!(read(&inside, name.as_bytes()).as_deref(), Ok(&b"inside"[..]), "{name}");
    }
    let out = ["up", "parent/secret", "root/etc/passwd", "magic/etc/passwd", "far", "absolute"];
    for name in out.into_iter().chain(["loop", "dangling", "../secret", "/etc/passwd", "a/"]) {
        assert_eq!(read(&inside, name.as_bytes()), Err(Lack::Missing), "{name}");
    }
    assert_eq!(read(&inside, b"d"), Err(Lack::Folder));
    let anywhere = directory(&all.path().join("in"), Links::Anywhere);
    for name in ["up", "parent/secret", "absolute"] {
        assert_eq!(read(&anywhere, name.as_bytes()).as_deref(), Ok(&b"outside"[..]), "{name}");
    }
    assert_eq!(read(&anywhere, b"magic/etc/passwd"), Err(Lack::Missing));
}

/// G22: what is no file is not there, and nobody waits for a pipe's other end.
#[test]
fn only_regular_files_are_files() {
    let all = tree();
    let own = all.path().join("in");
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, own.join("pipe"), FileType::Fifo, mode, 0).expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(own.join("socket")).expect("bound");
    let inside = directory(&own, Links::Inside);
    for name in ["pipe", "socket"] {
        assert_eq!(read(&inside, name.as_bytes()), Err(Lack::Missing), "{name}");
    }
    assert!(directory(&own.join("a"), Links::Inside).check().is_err());
    assert!(directory(&own.join("none"), Links::Inside).check().is_err());
}

/// G22: a file that was cut or written to since it was found is not read any further.
#[test]
fn a_file_that_changes_is_not_read_on() {
    let all = tree();
    let own = all.path().join("in");
    let found = |name: &str| {
        directory(&own, Links::Inside).look(name.as_bytes(), &[], false).expect("there").opened
    };
    let (cut, grown, replaced) = (found("a"), found("d/b"), found("d/e/index.html"));
    std::fs::write(own.join("a"), "in").expect("written");
    std::fs::write(own.join("d/b"), "inside and more").expect("written");
    std::fs::write(own.join("new"), "new").expect("written");
    std::fs::rename(own.join("new"), own.join("d/e/index.html")).expect("renamed");
    assert!(cut.read(0, 6).is_err());
    assert!(grown.read(0, 6).is_err());
    assert_eq!(replaced.read(0, 6).expect("as it was"), "inside");
    assert_ne!(found("d/e/index.html").tag(), replaced.tag());
}

/// G22: whatever path is asked for, what is read is inside.
#[test]
fn no_path_leads_out() {
    let all = tree();
    let inside = directory(&all.path().join("in"), Links::Inside);
    let parts = vec![
        &b"a"[..],
        b"d",
        b"e",
        b"b",
        b"up",
        b"parent",
        b"root",
        b"magic",
        b"far",
        b"absolute",
        b"secret",
        b"in-secret",
        b"..",
        b".",
        b"",
        b"in",
        b"etc",
        b"passwd",
        b"folder",
        b"\xff",
        b"\\",
        b"..\\secret",
        b"proc",
        b"self",
        b"index.html",
        b"%2e%2e",
        b"\n",
    ];
    let names = prop::collection::vec(prop::sample::select(parts), 0..7);
    let prefix = prop::sample::select(vec!["", "/static", "/a/b"]);
    proptest!(ProptestConfig::with_cases(2000), |(names in names, prefix in prefix, all in any::<bool>())| {
        let escape = |b: &u8| {
            let plain = b.is_ascii_graphic() && !all;
            if plain { char::from(*b).to_string() } else { format!("%{b:02X}") }
        };
        let join = |name: &&[u8]| format!("/{}", name.iter().map(escape).collect::<String>());
        let path = format!("{prefix}{}", names.iter().map(join).collect::<String>());
        let pattern = PathPattern::Prefix(prefix.to_owned());
        if let Some(name) = names::below(&pattern, &path, Some("index.html"))
            && let Ok(bytes) = read(&inside, &name)
        {
            prop_assert_eq!(&bytes[..], b"inside");
        }
        // Also without what names are checked for: the kernel alone keeps it inside.
        let raw = names.join(&b"/"[..]);
        if let Ok(bytes) = read(&inside, &raw) {
            prop_assert_eq!(&bytes[..], b"inside", "{:?}", raw);
        }
    });
}
