//! `aqueduct graph` as a person runs it.

use crate::stack::{aqueduct, folder, text};

const DOCUMENTED: &str = "../stacks/instagram-valorant.yaml";

fn graph(args: &[&str]) -> String {
    let output = aqueduct().arg("graph").args(args).output().expect("run");
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

/// T6: the documented stack, drawn, byte by byte as it is kept (`UPDATE_GOLDEN=1` writes it anew).
#[test]
fn the_documented_stack_is_drawn() {
    let kept = [
        ("mermaid", "tests/golden/stack.mmd"),
        ("dot", "tests/golden/stack.dot"),
        ("svg", "../../docs/pictures/instagram-valorant.svg"),
    ];
    for (format, path) in kept {
        let drawn = graph(&[DOCUMENTED, "--format", format]);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &drawn).expect("written");
        }
        let kept = std::fs::read_to_string(path).expect("kept");
        assert!(drawn == kept, "{path} differs: look at it, then UPDATE_GOLDEN=1\n{drawn}");
    }
}

/// T6: what a change adds and what it removes is marked, row by row and line by line.
#[test]
fn a_change_is_marked() {
    let folder = folder("graph");
    let content = std::fs::read_to_string(DOCUMENTED).expect("there");
    let old = content
        .replace("127.0.0.1:7022], health", "127.0.0.1:7023], health")
        .replace("      - { path: /static/*,       files: static, auth: none }", "");
    let (path, picture) = (folder.path().join("old.yaml"), folder.path().join("change.svg"));
    std::fs::write(&path, old).expect("written");
    let path = path.to_str().expect("text");
    let text = graph(&[DOCUMENTED, "--diff", path]);
    for line in ["+ 127.0.0.1:7022", "− 127.0.0.1:7023", "+ /static/#42;", "<b>static</b>"] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    assert!(!text.contains("+ 127.0.0.1:7021"), "{text}");
    // The name of the file says the format.
    assert_eq!(graph(&[DOCUMENTED, "--diff", path, "-o", picture.to_str().expect("text")]), "");
    let drawn = std::fs::read_to_string(&picture).expect("written");
    assert_eq!(drawn.matches("text class=\"row removed\"").count(), 1);
    assert_eq!(drawn.matches("path class=\"line added\"").count(), 1);
}

/// T4: a file with problems is not drawn; they are told, and the exit code is 2.
#[test]
fn a_wrong_file_is_not_drawn() {
    let folder = folder("wrong");
    let path = folder.path().join("wrong.yaml");
    std::fs::write(&path, "aqueduct: 1\nnlbs: 3\n").expect("written");
    let output = aqueduct().arg("graph").arg(&path).output().expect("run");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(text(&output.stderr).contains("wrong.yaml:2:7"), "{output:?}");
}
