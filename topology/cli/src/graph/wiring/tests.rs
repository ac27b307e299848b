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

/// T6: a gateway behind a gateway is its own box, to the right, and clients do not reach it.
#[test]
fn gateways_behind_gateways() {
    let mesh = wiring(include_str!("../../../../stacks/mesh.yaml"));
    let inner = mesh.find("gateway:mesh").expect("there");
    assert_eq!(inner.column, Column::Inner);
    assert!(mesh.find("service:mesh").is_none(), "no box of somewhere else");
    let told = lines(&mesh);
    assert!(told.contains(&"public/mesh > mesh".to_owned()), "{told:?}");
    assert!(told.contains(&"tcp > public".to_owned()) && !told.contains(&"tcp > mesh".to_owned()));
    let paths = wiring(include_str!("../../../../stacks/paths.yaml"));
    assert!(lines(&paths).contains(&"web/assets > assets".to_owned()), "{:?}", lines(&paths));
}

/// T6: whoever a gateway asks is joined with it: stores, authorizers, filters and registries too, each
/// once, and by its own box where the file has one.
#[test]
fn who_is_asked_is_drawn() {
    let netflix = wiring(include_str!("../../../../stacks/netflix.yaml"));
    let told = lines(&netflix);
    assert_eq!(told.iter().filter(|line| *line == "app > eureka").count(), 1, "{told:?}");
    let all = wiring(
        "aqueduct: 1\nservices: { a: { endpoints: [127.0.0.1:7001] }, judge: { endpoints: [127.0.0.1:7002] } }\n\
         gateways:\n  app:\n    instances: { gw-1: { listen: 127.0.0.1:9441 } }\n    \
         denylist: { redis: redis://10.0.0.1:6379 }\n    \
         api-keys: { app: { from: \"postgres://gw@10.0.0.2:5432/app\", header: x-api-key } }\n    \
         register: { consul: { address: http://10.0.0.3:8500, service: gw } }\n    \
         routes: [{ path: /a, to: a, auth: app, authorize: { url: http://127.0.0.1:7002/ }, external: { url: http://10.0.0.4/ } }]\n",
    );
    let told = lines(&all);
    for line in [
        "app > redis://10.0.0.1:6379",
        "app > postgres://10.0.0.2:5432/app",
        "app > http://10.0.0.3:8500",
        "app > judge",
        "app > http://10.0.0.4/",
    ] {
        assert!(told.contains(&line.to_owned()), "{line} in {told:?}");
    }
}

/// T6: routes of one path are told apart by what else a request must have.
#[test]
fn conditions_stand_beside_their_paths() {
    let variants = wiring(include_str!("../../../../stacks/variants.yaml"));
    let web = variants.find("gateway:web").expect("there");
    let texts: Vec<&str> = web.rows.iter().map(|row| row.text.as_str()).collect();
    for text in [
        "/",
        "/  mobile",
        "/  x-country-code: IN",
        "/catalogue  version 2",
        "/checkout  cookie experiment=new_checkout",
    ] {
        assert!(texts.contains(&text), "{text} in {texts:?}");
    }
}
