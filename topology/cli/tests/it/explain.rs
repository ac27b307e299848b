//! `aqueduct explain` as a person runs it.

use std::path::Path;

use crate::stack::{aqueduct, text};

const FOLDER: &str = "tests/golden/explain";

/// The words of a line as a shell would cut them.
fn words(line: &str) -> Vec<String> {
    let quoted = line.split('\'').enumerate();
    let parts = quoted.flat_map(|(index, part)| match index % 2 {
        1 => vec![part.to_owned()],
        _ => part.split_whitespace().map(str::to_owned).collect(),
    });
    parts.collect()
}

/// What is said, without this machine's folders.
fn answer(line: &str) -> String {
    let folder = Path::new(FOLDER).canonicalize().expect("there");
    let stacks = Path::new("../stacks").canonicalize().expect("there");
    let mut command = aqueduct();
    command.current_dir(&folder).env("AQUEDUCT_HASH_KEY", "0123456789abcdef");
    let output = command.arg("explain").args(words(line)).output().expect("run");
    let said = text(&output.stdout) + &text(&output.stderr);
    let said = said.replace(&folder.display().to_string(), "FOLDER");
    said.replace(&stacks.display().to_string(), "STACKS")
}

/// T5: questions and their answers, byte by byte as they are kept (`UPDATE_GOLDEN=1` writes them anew).
#[test]
fn questions_have_their_answers() {
    let path = Path::new(FOLDER).join("answers.txt");
    let kept = std::fs::read_to_string(&path).expect("kept");
    let (mut all, mut count) = (String::new(), 0);
    for line in kept.lines().filter_map(|line| line.strip_prefix("$ aqueduct explain ")) {
        all += &format!("$ aqueduct explain {line}\n{}\n", answer(line));
        count += 1;
    }
    assert!(count >= 40, "{count}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &all).expect("written");
    }
    let differs = all.lines().zip(kept.lines()).find(|(now, then)| now != then);
    assert!(all == kept, "{differs:?}: look at it, then UPDATE_GOLDEN=1");
}

/// T5: many questions of one file are answered in one go; a wrong one is told with its line.
#[test]
fn many_questions_are_answered_in_one_go() {
    let folder = crate::stack::folder("batch");
    let questions = folder.path().join("questions");
    let ask = |text: &str| {
        std::fs::write(&questions, text).expect("written");
        let mut command = aqueduct();
        command.args(["explain", "tests/golden/explain/shop.yaml", "--format", "json", "--batch"]);
        command.arg(&questions).output().expect("run")
    };
    let output = ask("# two\n--udp 203.0.113.9:1\n\n--get http://a:8080/nowhere\n");
    let said = text(&output.stdout);
    let lines: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert_eq!(
        (&lines[0]["facts"]["service"], &lines[1]["facts"]["status"]),
        (&"voice".into(), &404.into())
    );
    let output = ask("--udp 203.0.113.9:1\n--udp nobody\n");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("questions:2") && said.contains("`nobody` is no address"), "{said}");
}
