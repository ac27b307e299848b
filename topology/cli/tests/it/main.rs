//! `aqueduct up` as a person runs it: the program itself, in a process of its own, on ports that
//! the system chose. Needs the other programs beside it (`cargo build --workspace --bins`, which
//! `make test` does first), PostgreSQL and Redis.
//!
//! Invariant: nothing that a test starts outlives it.

#[cfg(feature = "verify")]
mod browser;
mod check_live;
mod explain;
mod graph;
mod isolate;
#[path = "../../../../l4-nlb/tests/it/name_server.rs"]
mod name_server;
mod replay;
mod stack;
mod watch;

use std::process::Command;

use crate::stack::{Stack, aqueduct, text};

/// T2, T3, G5: from nothing to `ready`, a request through every tier, and a clean end.
#[test]
fn the_documented_stack_comes_up_serves_and_leaves_nothing_behind() {
    let mut stack = Stack::up("whole");
    let profile = stack.curl("/api/user/profile", &stack.token(&[]));
    assert_eq!(profile.status, 200, "{profile:?}");
    assert_eq!(profile.body["id"], 98765);
    assert_eq!(profile.body["name"], "livia");

    let feed = stack.curl("/api/feed/home", &stack.token(&[]));
    assert_eq!(feed.status, 200, "{feed:?}");
    assert!(feed.body["posts"][0]["author"]["name"].is_string(), "feed asks user: {feed:?}");

    let said = stack.curl("/v1/echo/salve", &stack.token(&[]));
    assert_eq!(
        (said.status, &said.body["text"]),
        (200, &"salve".into()),
        "JSON calls gRPC: {said:?}"
    );

    let expired = stack.curl("/api/user/profile", &stack.token(&["--expired"]));
    assert_eq!(expired.status, 401, "{expired:?}");
    assert_eq!(stack.curl("/nowhere", &stack.token(&[])).status, 404);
    assert_eq!(stack.sql("SELECT count(*) FROM users WHERE id = 98765"), "1");

    let processes = stack.processes();
    assert_eq!(processes.len(), 21, "{processes:?}");
    let output = stack.interrupt();
    assert!(output.status.success(), "{output:?}");
    for process in processes {
        assert!(!running(process), "process {process} is left over");
    }
    assert_eq!(stack.busy_ports(), Vec::<u16>::new());
}

/// T2: a child that was killed is told; the rest runs on, and ends cleanly all the same.
#[test]
fn a_killed_child_is_told_and_leaves_nothing_behind() {
    let mut stack = Stack::up("killed");
    let victim = stack.number_of("user-1");
    assert!(
        Command::new("kill").args(["-9", &victim.to_string()]).status().expect("kill").success()
    );
    let line = stack.until(|line| line.contains("  down "));
    assert!(line.contains("user-1 ended with signal 9 (SIGKILL)"), "{line}");
    let processes = stack.processes();
    assert!(stack.interrupt().status.success());
    for process in processes {
        assert!(!running(process), "process {process} is left over");
    }
}

/// O5: a busy port is told with its place in the file, before anything starts.
#[test]
fn a_busy_port_starts_nothing() {
    let folder = stack::folder("busy");
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = held.local_addr().expect("bound").port();
    let file = folder.path().join("stack.yaml");
    let content = format!(
        "aqueduct: 1\nservices:\n  user: {{ endpoints: [127.0.0.1:{port}], run: demo user }}\n"
    );
    std::fs::write(&file, content).expect("written");
    let state = folder.path().join("state");
    let mut command = aqueduct();
    let output = command.arg("up").arg(&file).arg("--state").arg(&state).output().expect("run");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = text(&output.stderr);
    assert!(error.contains("stack.yaml:3:") && error.contains("is busy"), "{error}");
    assert!(!text(&output.stdout).contains("ready"));
}

/// T4: programs get the same problems as people, with their places, as JSON and as SARIF.
#[test]
fn problems_are_told_to_machines() {
    let folder = stack::folder("machines");
    let file = folder.path().join("stack.yaml");
    std::fs::write(&file, "aqueduct: 1\nservices:\n  user: { endpoint: [127.0.0.1:1] }\n")
        .expect("written");
    let check = |format: &str| {
        let mut command = aqueduct();
        let output =
            command.arg("check").arg(&file).args(["--format", format]).output().expect("run");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        serde_json::from_str::<serde_json::Value>(&text(&output.stdout)).expect("JSON")
    };
    let json = check("json");
    let first = &json["problems"][0];
    assert_eq!((&first["line"], &first["column"]), (&3.into(), &11.into()), "{json}");
    assert_eq!(first["hint"], "did you mean `endpoints`?");
    let sarif = check("sarif");
    assert_eq!(sarif["version"], "2.1.0");
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!(result["level"], "error");
    let region = &result["locations"][0]["physicalLocation"]["region"];
    assert_eq!((&region["startLine"], &region["endColumn"]), (&3.into(), &19.into()), "{sarif}");
}

/// T4, O5: a wrong file is told with its place; exit code 2, by `check` and by `up`.
#[test]
fn a_wrong_file_is_told_with_its_place() {
    let folder = stack::folder("wrong");
    let file = folder.path().join("stack.yaml");
    let content =
        "aqueduct: 1\nservices:\n  user: { endpoints: [127.0.0.1:7011], helth: { http: / } }\n";
    std::fs::write(&file, content).expect("written");
    for subcommand in ["check", "up"] {
        let mut command = aqueduct();
        let output = command.arg(subcommand).arg(&file).output().expect("run");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let told = text(&output.stdout);
        assert!(told.contains("stack.yaml:3:") && told.contains("health"), "{told}");
    }
    let missing = aqueduct().args(["check", "/nowhere.yaml"]).output().expect("run");
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
}

/// T4: a certificate that does not fit its key is told at its place.
#[test]
fn a_certificate_with_another_key_is_told_at_its_place() {
    let folder = stack::folder("pair");
    let own = rcgen::generate_simple_self_signed(["api.example".to_owned()]).expect("made");
    let other = rcgen::KeyPair::generate().expect("made");
    std::fs::write(folder.path().join("api.pem"), own.cert.pem()).expect("written");
    std::fs::write(folder.path().join("api.key"), other.serialize_pem()).expect("written");
    let file = folder.path().join("stack.yaml");
    std::fs::write(&file, GATEWAY_ALONE).expect("written");
    let output = aqueduct().arg("check").arg(&file).output().expect("run");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stdout).contains("stack.yaml:6:"), "{}", text(&output.stdout));
    std::fs::write(folder.path().join("api.key"), own.signing_key.serialize_pem())
        .expect("written");
    let output = aqueduct().arg("check").arg(&file).output().expect("run");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// P2, P4: a pgbouncer.ini with its includes and users becomes a file that `check` takes; nothing is
/// overwritten, and secrets are their owner's alone.
#[test]
fn a_pgbouncer_configuration_is_imported() {
    use std::os::unix::fs::PermissionsExt;
    let folder = stack::folder("import");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("written");
    };
    write(
        "pgbouncer.ini",
        "%include databases.ini\n[pgbouncer]\nauth_file = users.txt\nlogfile = x\n",
    );
    write("databases.ini", "[databases]\nshop = host=10.0.0.7 dbname=shop\n");
    write("users.txt", "\"app\" \"correct horse\"\n");
    let (ini, file) = (folder.path().join("pgbouncer.ini"), folder.path().join("pool.yaml"));
    let import = || aqueduct().arg("import").arg(&ini).arg("-o").arg(&file).output().expect("run");
    let output = import();
    assert!(output.status.success(), "{output:?}");
    let told = text(&output.stdout);
    assert!(told.contains("pgbouncer.ini:4: logfile") && !told.contains("horse"), "{told}");
    let secret = folder.path().join("secrets/1");
    assert_eq!(std::fs::read_to_string(&secret).expect("written"), "correct horse");
    assert_eq!(std::fs::metadata(&secret).expect("there").permissions().mode() & 0o777, 0o600);
    let checked = aqueduct().arg("check").arg(&file).output().expect("run");
    assert!(checked.status.success(), "{checked:?}");
    let again = import();
    assert_eq!(again.status.code(), Some(1), "{again:?}");
}

/// Issue 8: a description becomes a file that `check` takes, and the file a description; nothing is
/// overwritten.
#[test]
fn a_description_is_imported_and_exported() {
    let folder = stack::folder("openapi");
    let (source, file) = (folder.path().join("shop.json"), folder.path().join("shop.yaml"));
    let document = serde_json::json!({
        "openapi": "3.1.0",
        "info": { "title": "Shop" },
        "servers": [{ "url": "http://127.0.0.1:9/api" }],
        "paths": { "/items/{id}": { "get": { "summary": "one" }, "trace": {} } },
    });
    std::fs::write(&source, document.to_string()).expect("written");
    let run = |args: &[&str]| aqueduct().args(args).output().expect("run");
    let (from, to) = (source.to_str().expect("UTF-8"), file.to_str().expect("UTF-8"));
    let import = ["import", from, "-o", to, "--service", "shop"];
    let output = run(&import);
    assert!(output.status.success() && text(&output.stdout).contains("TRACE"), "{output:?}");
    assert!(run(&["check", to]).status.success());
    let made: serde_json::Value =
        serde_json::from_str(&text(&run(&["openapi", to]).stdout)).expect("JSON");
    assert!(made.pointer("/paths/~1api~1items~1{id}/get").is_some(), "{made}");
    assert_eq!(run(&import).status.code(), Some(1));
    assert_eq!(run(&["openapi", to, "--group", "none"]).status.code(), Some(1));
}

/// T4: the schema that the tool prints is the committed one; completions and man pages exist.
#[test]
fn the_tool_documents_itself() {
    let schema = aqueduct().arg("schema").output().expect("run");
    let committed = include_str!("../../../schema.json");
    assert_eq!(text(&schema.stdout).trim_end(), committed.trim_end());
    let bash = aqueduct().args(["completions", "bash"]).output().expect("run");
    assert!(text(&bash.stdout).contains("_aqueduct"));
    let folder = stack::folder("man");
    let man = aqueduct().arg("man").arg(folder.path()).output().expect("run");
    assert!(man.status.success(), "{man:?}");
    assert!(folder.path().join("aqueduct-up.1").is_file());
}

/// Whether a process is there and not only waiting to be reaped by whoever adopted it.
fn running(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let letter = status.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    letter.is_some_and(|letter| letter != 'Z')
}

const GATEWAY_ALONE: &str = "\
aqueduct: 1
services: { user: { endpoints: [127.0.0.1:7011] } }
gateways:
  app:
    instances: { gw-1: { listen: 127.0.0.1:9441 } }
    tls: { certificates: [{ chain: file:api.pem, key: file:api.key }] }
    routes: [{ path: /*, to: user }]
";
