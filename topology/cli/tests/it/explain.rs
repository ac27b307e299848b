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

/// The facts of one answer about a stack of the folder `stacks`, or what is told in its place.
fn facts(stack: &str, state: &Path, words: &[&str]) -> Result<serde_json::Value, String> {
    let file = Path::new("../stacks").join(stack);
    let mut command = aqueduct();
    command.env_remove("AQUEDUCT_HASH_KEY").arg("explain").arg(file).arg("--state").arg(state);
    let output = command.args(["--format", "json"]).args(words).output().expect("run");
    match output.status.success() {
        true => {
            let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            Ok(said["facts"].clone())
        }
        false => Err(text(&output.stderr)),
    }
}

/// A certificate of this name and its key, as `up` makes them.
fn certificate(folder: &Path, name: &str) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("made");
    let pki = folder.join("pki");
    std::fs::create_dir_all(&pki).expect("made");
    std::fs::write(pki.join(format!("{name}.pem")), made.cert.pem()).expect("written");
    let key = made.signing_key.serialize_pem();
    std::fs::write(pki.join(format!("{name}.key")), key).expect("written");
}

/// T5: a request that a gateway sends to another one is followed through that one, too, which knows the first
/// by its certificate; who asks it directly says whose certificate it would show.
#[test]
fn a_gateway_behind_a_gateway_is_explained() {
    let folder = crate::stack::folder("behind");
    let ask = |words: &[&str]| facts("mesh.yaml", folder.path(), words);
    certificate(folder.path(), "mesh");
    std::fs::copy(folder.path().join("pki/mesh.pem"), folder.path().join("ca.pem")).expect("made");
    let through = ["--get", "http://127.0.0.1:9540/v1/echo/salve"];
    let unknown = ask(&through).expect("answered");
    assert_eq!(
        (&unknown["service"], &unknown["behind"]),
        (&"mesh".into(), &().into()),
        "{unknown}"
    );
    certificate(folder.path(), "public");
    let known = ask(&through).expect("answered");
    let behind = &known["behind"][0];
    assert_eq!((&known["gateway"], &behind["gateway"]), (&"public".into(), &"mesh".into()));
    assert_eq!((&behind["service"], &behind["halted"]), (&"echo".into(), &().into()), "{known}");
    assert!(behind["candidates"].to_string().contains("127.0.0.1:7641"), "{known}");
    let keys = behind["limit_keys"].to_string();
    assert!(keys.contains("public"), "its certificate says who it is: {known}");

    let direct = ["https://mesh:9640/aqueduct.demo.v1.Echo/Say", "--method", "POST"];
    let shown = |name| ask(&[&direct[..], &["--principal", name]].concat()).expect("answered");
    assert_eq!(shown("batch")["service"], "echo");
    let stranger = shown("stranger");
    assert_eq!((&stranger["halted"], &stranger["status"]), (&"authz".into(), &403.into()));
    assert_eq!(ask(&direct).expect("answered")["refused"], true);
    let error = ask(&[&through[..], &["--principal", "batch"]].concat()).expect_err("refused");
    assert!(error.contains("gateway public asks for no certificate"), "{error}");
    let error = ask(&[&direct[..], &["--principal", "a b"]].concat()).expect_err("refused");
    assert!(error.contains("`a b` is in no certificate"), "{error}");
}

/// T5: of a stack that `up` runs, the folder that it keeps has the key of the hash: then a player's server has
/// a name.
#[test]
fn the_folder_of_a_stack_has_the_key_of_its_hash() {
    let folder = crate::stack::folder("key");
    let ask = || facts("instagram-valorant.yaml", folder.path(), &["--udp", "203.0.113.9:5555"]);
    assert!(ask().expect("answered")["endpoint"].is_null());
    std::fs::write(folder.path().join("hash-key"), "0123456789abcdef\n").expect("written");
    let endpoint = ask().expect("answered")["endpoint"].clone();
    let said =
        answer("../../../../stacks/instagram-valorant.yaml --format json --udp 203.0.113.9:5555");
    assert!(endpoint.is_string() && said.contains(&format!("\"endpoint\":{endpoint}")), "{said}");
    let gone =
        facts("instagram-valorant.yaml", Path::new("/nowhere"), &["--udp", "203.0.113.9:5555"]);
    assert!(gone.expect_err("refused").contains("there is no folder /nowhere"));
}
