//! What a preview says of filters: their order, the calls of an aggregate, and nobody is asked.

use std::time::SystemTime;

use http::Request;
use l7_gateway::exchange::{Stage, Transport};
use l7_gateway::preview::{Foreseen, Preview, Question};
use topology::units::InstanceName;

use crate::fakes::{Act, Fake};
use crate::rig::{client, local, topology};

async fn foreseen(gateway: &str, path: &str) -> Foreseen {
    let services = "  user: { endpoints: [127.0.0.1:9] }\n  order: { endpoints: [127.0.0.1:9] }";
    let topology = topology(services, gateway);
    let (group, _) = topology.gateway("gw").expect("the instance");
    let preview = Preview::new(group, &InstanceName::new("gw")).expect("it builds");
    let request = Request::get(path).header("host", "a").body(()).expect("a request");
    let head = request.into_parts().0;
    let (transport, wall) = (Transport::Plain, SystemTime::UNIX_EPOCH);
    preview.ask(Question { client: client(), transport, head, wall }).await
}

fn reasons(foreseen: &Foreseen, stage: Stage) -> Vec<&str> {
    let own = foreseen.reasons.iter().filter(|(at, _)| *at == stage);
    own.map(|(_, text)| text.as_str()).collect()
}

/// T5, G2: a preview names filters and changes in the order in which a request passes them, and asks nobody.
#[tokio::test]
async fn a_preview_names_filters_in_their_order() {
    local(async {
        let fake = Fake::new(Act::Answer("{}")).await;
        let url = format!("http://{}/filter", fake.address);
        let change = "transform: { request: { headers: { set: { x-a: b } } } }";
        let foreseen = foreseen(
            &format!(
                "    defaults: {{ {change}, external: {{ url: \"{url}\" }} }}
    upstreams: {{ user: {{ {change}, external: {{ url: \"{url}?service\" }} }} }}
    routes:
      - {{ path: /all, to: user, {change}, external: {{ url: \"{url}?route\" }} }}
      - {{ path: /few, to: order }}"
            ),
            "/all",
        )
        .await;
        let said = reasons(&foreseen, Stage::RequestTransform);
        let asked = format!(
            "{url} (the listener), then {url}?route (the route), then {url}?service (the service) would be asked; taken for a yes"
        );
        assert!(said.contains(&asked.as_str()), "{said:?}");
        let changed = "changed by the listener, then the route, then the service; its answer the other way round";
        assert!(said.contains(&changed), "{said:?}");
        assert_eq!((foreseen.answer.status, fake.seen.count()), (200, 0));
    })
    .await;
}

/// T5, G2: it says whose descriptions a request is held against, whose word counts for compressing, and whose
/// cross-origin rules its route has.
#[tokio::test]
async fn a_preview_names_the_places_that_count() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("api.yaml");
        let text = "openapi: 3.0.3\ninfo: { title: a, version: '1' }\npaths: { /all: { get: { responses: { '200': { description: a } } } } }\n";
        std::fs::write(&file, text).expect("written");
        let file = file.display();
        let foreseen = foreseen(
            &format!(
                "    defaults: {{ validate: {file}, compress: true }}
    upstreams: {{ user: {{ validate: {file}, compress: true, cors: {{ origins: \"*\" }} }} }}
    routes: [{{ path: /all, to: user }}, {{ path: /other, to: order }}]"
            ),
            "/all",
        )
        .await;
        let said = reasons(&foreseen, Stage::RequestTransform);
        assert!(said.contains(&"held against the description of the listener, then the service"), "{said:?}");
        let compressed = "its answer is compressed as the service says, where the client takes that";
        assert!(said.contains(&compressed), "{said:?}");
        let said = reasons(&foreseen, Stage::Normalise);
        assert!(said.contains(&"cross-origin rules of the service"), "{said:?}");
    })
    .await;
}

/// T5, G16: the calls of an aggregate are told, each with what it waits for and what becomes of it.
#[tokio::test]
async fn a_preview_names_the_calls_of_an_aggregate() {
    local(async {
        let foreseen = foreseen(
            "    routes:
      - path: /dashboard/{id}
        aggregate:
          calls:
            profile: { to: user, path: \"/profile/${path.id}\" }
            orders: { to: order, path: \"/orders/${call.profile.id}\", timeout: 300ms, on-failure: omit }",
            "/dashboard/7",
        )
        .await;
        let said = reasons(&foreseen, Stage::Dispatch);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("profile: GET /profile/${path.id} of user at once, at most 1s; the whole"), "{said:?}");
        assert!(said[1].contains("of order after profile, at most 300ms; left out if it fails"), "{said:?}");
    })
    .await;
}

/// T5, G15: a route whose requests become calls is told as it is, though there is no answer to be put into JSON.
#[tokio::test]
async fn a_preview_of_a_call_is_no_failure() {
    local(async {
        let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/../topology/stacks/protos/echo.proto");
        let lines = |proto: &str| {
            format!(
                "    upstreams: {{ user: {{ protocol: http2 }} }}\n    routes:\n      - {{ path: /v1/echo/*, to: user, transcode: {{ protos: {proto} }} }}"
            )
        };
        let call = foreseen(&lines(proto), "/v1/echo/salve").await;
        assert_eq!(call.answer.status, 200);
        let sent = call.sent.expect("a call");
        assert_eq!(sent.uri.path(), "/aqueduct.demo.v1.Echo/Say");
        // Descriptions may be on another host.
        assert_eq!(foreseen(&lines("/nowhere/echo.proto"), "/v1/echo/salve").await.answer.status, 200);
    })
    .await;
}
