//! `aqueduct replay` beside a running `aqueduct up`.

use serde_json::Value;

use crate::stack::{Stack, aqueduct, text};

/// R1, N8: `--kill` has the stack end one game server in the middle of a replay: each of its players goes on
/// with one other server, everybody else keeps theirs, and the reports have the moment.
#[test]
fn players_of_a_killed_server_alone_switch() {
    let mut stack = Stack::up("strike");
    let [target, victim] = [7777, 7802].map(|port| stack.place(port));
    let [json, html] = ["json", "html"].map(|kind| stack.state().join(format!("strike.{kind}")));
    // The checks find a dead server within five seconds; by the first second everybody has met one.
    let line = format!(
        "replay udp --target {target} --players 30 --rate 20 --seconds 10 --kill {victim}@1s --state {} --json {} --html {}",
        stack.state().display(),
        json.display(),
        html.display()
    );
    let output = aqueduct().args(line.split(' ')).output().expect("run");
    let told = text(&output.stdout);
    assert!(output.status.success(), "{told}{}", text(&output.stderr));
    let report: Value =
        serde_json::from_slice(&std::fs::read(json).expect("written")).expect("JSON");

    let marks = report["course"]["marks"].as_array().expect("marks");
    assert_eq!(marks.len(), 1, "{marks:?}");
    assert_eq!(marks[0]["what"], "game-2 killed");
    assert!(marks[0]["at_s"].as_f64().is_some_and(|at| (1.0..10.0).contains(&at)), "{marks:?}");
    assert!(told.contains(": game-2 killed"), "{told}");
    assert!(std::fs::read_to_string(html).expect("written").contains("game-2 killed"));

    let players = report["each"].as_array().expect("players");
    assert_eq!(players.len(), 30);
    let mut moved = 0;
    for player in players {
        let met: Vec<_> = player["servers"].as_array().expect("servers").iter().collect();
        let switches = player["switches"].as_u64().expect("a number");
        if met[0] == "game-2" {
            assert_eq!((met.len(), switches), (2, 1), "{player}");
            moved += 1;
        } else {
            assert_eq!((met.len(), switches), (1, 0), "{player}");
        }
    }
    assert!(moved > 0 && moved < 30, "{moved}");
    assert_eq!(report["affinity_violations"], moved);
    let line = stack.until(|line| line.contains("  down "));
    assert!(line.contains("game-2 ended with signal 9 (SIGKILL)"), "{line}");
    assert!(stack.interrupt().status.success());
}
