//! Descriptions to files and back. Run by the test harness.
//!
//! Invariant: what is written is read back with the file's own reader.

use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const SHOP: &str = r##"
openapi: 3.0.3
info: { title: "Shop: the \"best\"", version: "1" }
servers: [{ url: "https://10.1.2.3:8443/api/v2/" }]
security: [{ login: [read] }]
paths:
  /items/{itemId}:
    get: { responses: {} }
    put: { security: [{ login: [write] }], deprecated: true, x-aqueduct: { timeout: 5s, max-body: 2KiB } }
    trace: {}
  /items/{itemId}.json: { get: { security: [] } }
  /search: { $ref: "#/components/pathItems/search" }
  /odd: { get: { security: [{ login: [], key: [] }] }, post: { security: [{ basic: [] }] } }
components:
  pathItems: { search: { get: { security: [{ key: [] }, { login: [] }] } } }
  securitySchemes:
    login: { type: openIdConnect, openIdConnectUrl: "https://id.example/.well-known/openid-configuration" }
    key: { type: apiKey, in: query, name: api_key }
    basic: { type: http, scheme: basic }
"##;

fn wishes() -> Wishes {
    Wishes { service: "shop".to_owned(), prefix: None, validate: None }
}

fn read(text: &str) -> crate::Topology {
    let topology = crate::parse("imported.yaml", text, Path::new("/"));
    topology.unwrap_or_else(|fault| panic!("{fault}\n{text}"))
}

/// Issue 8: paths, methods, scopes, credentials and extensions; what cannot be written is left out and noted.
#[test]
fn a_description_becomes_routes() {
    let imported = import(SHOP, &wishes()).expect("a description");
    let topology = read(&imported.text);
    let group = &topology.gateways[0];
    let routes: Vec<String> = group
        .routes
        .iter()
        .map(|route| {
            format!("{} {} {:?}", route.methods.join(","), route.path, route.policy.scopes)
        })
        .collect();
    assert_eq!(
        routes,
        [
            "GET,HEAD /api/v2/items/{itemId} [\"read\"]",
            "PUT /api/v2/items/{itemId} [\"write\"]",
            r"GET,HEAD ~/api/v2/items/[^/]+\.json []",
            "GET,HEAD /api/v2/search []",
        ]
    );
    assert_eq!(group.routes[1].max_body_bytes, Some(2048));
    assert_eq!(group.issuers[0].issuer, "https://id.example");
    assert_eq!(group.api_keys[0].query.as_deref(), Some("api_key"));
    assert_eq!(topology.services[0].endpoints[0].address.to_string(), "10.1.2.3:8443");
    for part in ["TRACE", "GET /odd: left out", "POST /odd: left out", "deprecated", "aqueduct key"]
    {
        assert!(
            imported.notes.iter().any(|note| note.contains(part)),
            "{part}: {:?}",
            imported.notes
        );
    }
}

/// Issue 8: what was imported is exported again.
#[test]
fn routes_become_a_description() {
    let imported = import(SHOP, &wishes()).expect("a description");
    let made = export(&read(&imported.text).gateways[0], &|_| None);
    let put = made.pointer("/paths/~1api~1v2~1items~1{itemId}/put").expect("an operation");
    assert_eq!(put["security"], serde_json::json!([{ "login": ["write"] }]));
    assert!(put["responses"].get("401").is_some() && put["responses"].get("429").is_none());
    assert!(made.pointer("/paths/~1api~1v2~1items~1{itemId}/post").is_none());
    assert_eq!(made.pointer("/components/securitySchemes/key/in"), Some(&Value::from("query")));
    let again = import(&made.to_string(), &wishes()).expect("a description");
    let again = read(&again.text);
    let operations = |topology: &crate::Topology| -> Vec<String> {
        let routes = topology.gateways[0].routes.iter();
        let mut all: Vec<_> = routes
            .filter(|route| !matches!(route.path, crate::units::PathPattern::Regex(_)))
            .flat_map(|r| {
                r.methods.iter().map(move |m| format!("{m} {} {:?}", r.path, r.policy.scopes))
            })
            .collect();
        all.sort();
        all
    };
    assert_eq!(operations(&again), operations(&read(&imported.text)));
}

/// Issue 8: routes that were imported to be held against their description are described by it; going round and round
/// changes nothing.
#[test]
fn a_description_comes_back() {
    let text = r##"
openapi: 3.0.3
info: { title: shop, version: "1" }
servers: [{ url: "http://127.0.0.1:9/api/" }]
paths:
  /items/{id}:
    parameters: [{ name: id, in: path, required: true, schema: { type: integer } }]
    get: { operationId: item, parameters: [{ $ref: "#/components/parameters/full" }], responses: { "200": { description: One } } }
    put: { operationId: change, security: [{ key: [] }], requestBody: { content: { application/json: { schema: { $ref: "#/components/schemas/Item" } } } }, responses: {} }
components:
  parameters: { full: { name: full, in: query, schema: { type: boolean } } }
  schemas: { Item: { type: object, required: [name] } }
  securitySchemes: { key: { type: apiKey, in: header, name: x-key } }
"##;
    let round = |text: &str, prefix: Option<&str>| {
        let wishes = Wishes {
            prefix: prefix.map(str::to_owned),
            validate: Some("api.yaml".to_owned()),
            ..wishes()
        };
        let imported = import(text, &wishes).expect("a description");
        let file = read(&imported.text);
        let group = &file.gateways[0];
        let contract = group.routes[0].contract.as_ref().expect("it is held against it");
        assert_eq!(contract.file, Path::new("/api.yaml"));
        export(group, &|route| {
            let prefix = route.contract.as_ref()?.prefix.clone();
            Surface::described(text, prefix.as_deref()).ok()
        })
    };
    let first = round(text, None);
    let get = first.pointer("/paths/~1api~1items~1{id}/get").expect("an operation");
    assert_eq!(get["operationId"], "item");
    assert_eq!(get["parameters"].as_array().map(Vec::len), Some(2));
    assert!(
        get["responses"].get("200").is_some() && get["responses"].get("400").is_some(),
        "{get}"
    );
    assert!(get.get("security").is_none(), "{get}");
    let put = first.pointer("/paths/~1api~1items~1{id}/put").expect("an operation");
    assert_eq!(put["security"], serde_json::json!([{ "key": [] }]));
    assert_eq!(first.pointer("/components/schemas/Item/required/0"), Some(&Value::from("name")));
    // What was written has no server, and whole paths.
    let second = round(&first.to_string(), Some(""));
    assert_eq!(second, round(&second.to_string(), Some("")));
    assert_eq!((&first["paths"], &first["components"]), (&second["paths"], &second["components"]));
}

/// Issue 8: limits come by extension: what they are at the top, who is charged at an operation.
#[test]
fn limits_come_by_extension() {
    let text = r##"
openapi: 3.1.0
info: { title: shop, version: "1" }
x-aqueduct: { limits: { few: { rate: 10/s, by: address } } }
paths:
  /a: { get: { x-aqueduct: { limits: [few], timeout: 2s } } }
  /b: { get: {} }
"##;
    let imported = import(text, &wishes()).expect("a description");
    let group = &read(&imported.text).gateways[0];
    assert_eq!(group.limits.len(), 1);
    let charged: Vec<usize> = group.routes.iter().map(|route| route.policy.limits.len()).collect();
    assert_eq!(charged, [1, 0]);
    assert!(!imported.notes.iter().any(|note| note.contains("limits")), "{:?}", imported.notes);
    let text = text.replace("{ limits: { few: { rate: 10/s, by: address } } }", "{}");
    let imported = import(&text, &wishes()).expect("a description");
    assert!(imported.notes.iter().any(|note| note == "limits.few: say how much it allows"));
}

/// Issue 8: what cannot stand in a description is named.
#[test]
fn what_is_left_out_is_named() {
    let text = "aqueduct: 1
services: { user: { endpoints: [127.0.0.1:8001] } }
gateways:
  app:
    instances: { gw: { listen: 127.0.0.1:8000 } }
    routes:
      - { path: /a, to: user, host: one.example, methods: [GET], name: one }
      - { path: /a, to: user, host: two.example, methods: [GET, PUT], name: two }
      - { path: /a, to: user, host: one.example, methods: [GET], headers: { x: y }, name: beta }
      - { path: '~/v[0-9]+', to: user, name: versions }
";
    let notes = omitted(&read(text).gateways[0]);
    assert_eq!(
        notes,
        [
            "two: GET of two.example left out, another host has this path and method",
            "versions: left out, a regular expression is no path of a description",
        ]
    );
}

/// Issue 8: other documents are refused in words.
#[test]
fn other_documents_are_refused() {
    for (text, part) in
        [("{", "neither"), ("swagger: '2.0'", "OpenAPI 3"), ("openapi: 3.1.0", "paths")]
    {
        let fault = import(text, &wishes()).expect_err(text).to_string();
        assert!(fault.contains(part), "{fault}");
    }
}

proptest! {
    /// Whatever paths and names there are, what is written is a file.
    #[test]
    fn what_is_written_is_read(
        segments in proptest::collection::vec("[a-z{}.\\-]{1,8}", 1..4),
        name in "[a-z:#{}\"' ]{1,10}",
    ) {
        let path = format!("/{}", segments.join("/"));
        let document = serde_json::json!({
            "openapi": "3.1.0",
            "info": { "title": name },
            "paths": { path: { "get": { "security": [{ name.clone(): [] }] } }, "/sound": { "get": {} } },
            "components": { "securitySchemes": { name: { "type": "apiKey", "in": "header", "name": "x-key" } } },
        });
        let imported = import(&document.to_string(), &wishes()).expect("a description");
        let read = crate::parse("imported.yaml", &imported.text, Path::new("/"));
        if let Err(problems) = read {
            // Names and paths that the file does not know are its reader's to refuse, at their place.
            let text = problems.to_string();
            prop_assert!(!text.contains("is not YAML"), "{}\n{}", text, imported.text);
        }
    }
}
