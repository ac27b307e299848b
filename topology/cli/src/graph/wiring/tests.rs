//! What is wired, as boxes and lines.

use std::path::Path;

use super::*;

fn wiring(text: &str) -> Wiring {
    let topology = topology::parse("a.yaml", text, Path::new(".")).expect("valid");
    Wiring::of(&topology)
}

fn lines(wiring: &Wiring) -> Vec<String> {
    let text = |line: &Line| format!("{} > {}", line.from.name(), line.to.name());
    wiring.lines.iter().map(text).collect()
}

#[test]
fn a_file_of_one_tier_alone() {
    let wiring = wiring(
        "aqueduct: 1\nservices: { game: { endpoints: [127.0.0.1:7801] } }\nnlbs:\n  edge:\n    \
         instances: { nlb-1: { address: 127.0.0.1 } }\n    listeners: { game: { udp: \"*:7777\", to: game } }\n",
    );
    assert_eq!(lines(&wiring), ["edge/game > game", "udp > edge/game"]);
    assert_eq!(wiring.find("nlb:edge").map(|one| one.column), Some(Column::Edge));
}

#[test]
fn routes_of_one_target_share_a_row_and_many_rows_are_cut() {
    let services: String =
        (0..20).map(|n| format!("  s{n}: {{ endpoints: [127.0.0.1:{}] }}\n", 7100 + n)).collect();
    let routes: String = (0..20)
        .flat_map(|n| ["a", "b", "c"].map(|p| format!("      - {{ path: /{p}{n}, to: s{n} }}\n")))
        .collect();
    let wiring = wiring(&format!(
        "aqueduct: 1\nservices:\n{services}gateways:\n  app:\n    instances: {{ gw-1: {{ listen: \
         127.0.0.1:9441 }} }}\n    defaults: {{ auth: none }}\n    routes:\n{routes}"
    ));
    let app = wiring.find("gateway:app").expect("there");
    assert_eq!(app.rows.len(), ROWS);
    assert_eq!(app.rows[0].text, "/a0 +2");
    assert_eq!(app.rows[ROWS - 1].text, "… 9 more");
    // Every service is still joined, those of the hidden rows by the last row.
    let more = wiring.lines.iter().filter(|line| line.from.row.as_deref() == Some("more"));
    assert_eq!(more.count(), 9);
    assert_eq!(wiring.lines.len(), 21);
}
