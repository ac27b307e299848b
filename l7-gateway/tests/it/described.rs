//! What gateways that call gRPC services offer by HTTP, as a description.

use l7_gateway::transcode::Interface;
use serde_json::Value;
use topology::openapi::export;

use crate::rig::topology;

/// G15: paths, parameters, bodies and messages are those of the rules, as far as a route takes them.
#[test]
fn what_can_be_called_is_described() {
    let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/../topology/stacks/protos/echo.proto");
    let described = |words: &str| -> Value {
        let file = topology(
            "  user: { endpoints: [127.0.0.1:9] }",
            &format!(
                "    upstreams: {{ user: {{ protocol: http2 }} }}\n    routes:\n      - {{ {words}, to: user, transcode: {{ protos: {proto} }} }}"
            ),
        );
        export(&file.gateways[0], &|route| {
            Some(Interface::new(route.transcode.as_ref()?).ok()?.surface())
        })
    };
    let made = described("path: /v1/echo/*");
    let paths: Vec<_> = made["paths"].as_object().expect("paths").keys().collect();
    assert_eq!(paths, ["/v1/echo/say", "/v1/echo/{text}", "/v1/echo/{text}/times/{times}"]);
    let get = &made["paths"]["/v1/echo/{text}"]["get"];
    let parameters = get["parameters"].as_array().expect("parameters").iter();
    let parameters: Vec<_> = parameters
        .map(|one| {
            format!("{} {} {}", one["in"], one["name"], one["schema"]["type"]).replace('"', "")
        })
        .collect();
    assert_eq!(
        parameters,
        ["path text string", "query times integer", "query fail integer", "query hold boolean"]
    );
    let reply = Value::from("#/components/schemas/aqueduct.demo.v1.EchoReply");
    let content = |operation: &Value, kind: &str| {
        operation["responses"]["200"]["content"][kind]["schema"]["$ref"].clone()
    };
    assert_eq!(content(get, "application/json"), reply);
    let repeat = &made["paths"]["/v1/echo/{text}/times/{times}"]["get"];
    assert_eq!(content(repeat, "application/x-ndjson"), reply);
    let say = &made["paths"]["/v1/echo/say"]["post"];
    let body = &say["requestBody"]["content"]["application/json"]["schema"]["$ref"];
    assert_eq!(body, "#/components/schemas/aqueduct.demo.v1.EchoRequest");
    let request = &made["components"]["schemas"]["aqueduct.demo.v1.EchoRequest"]["properties"];
    assert_eq!(request["hold"], serde_json::json!({ "type": "boolean" }));
    assert!(made["components"]["schemas"]["google.rpc.Status"].is_object());
    // A route takes what it takes.
    let few = described("path: /v1/echo/*, methods: [GET]");
    assert!(few["paths"].get("/v1/echo/say").is_none(), "{few}");
    let one = described("path: /v1/echo/say");
    assert_eq!(one["paths"].as_object().map(serde_json::Map::len), Some(1), "{one}");
}
