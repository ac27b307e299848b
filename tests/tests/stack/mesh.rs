//! The internal gateway that is shipped, between a gateway towards clients and tonic's services: callers by certificate,
//! HTTP and JSON in front, gRPC behind.

use bytes::Bytes;
use http_body_util::Full;
use prost::Message as _;
use serde_json::json;
use tests::clients::grpc::{Echo, EchoReply, EchoRequest};
use tests::clients::http::{self, Answer, Connection, request};
use tests::fakes::demo;
use tests::pki;
use tests::program::Program;
use tests::tier::{Draft, Stack, until};
use tokio::task::JoinHandle;
use tonic::{Request, Status};

struct Scene {
    stack: Stack,
    _servers: [Program; 2],
}

impl Scene {
    async fn new(edit: impl FnOnce(Draft) -> Draft) -> Self {
        let draft = Draft::new(include_str!("../../../topology/stacks/mesh.yaml"))
            .edit("file:ca.pem", "file:pki/ca.pem")
            .edit(
                "    identity-headers",
                "    access-log: file:access.ndjson\n    identity-headers",
            )
            .edit(
                "    upstreams:\n      mesh:",
                "    access-log: off\n    upstreams:\n      mesh:",
            );
        let mut stack = edit(draft).stack();
        let servers = [(7641, "echo-1"), (7642, "echo-2")]
            .map(|(port, name)| demo::grpc(stack.address.at(port), name));
        stack.start_all(&["mesh-1", "public-1"]).await;
        Self { stack, _servers: servers }
    }

    async fn send(&self, ask: http::Request<Full<Bytes>>) -> Answer {
        let mut connection = Connection::plain(self.stack.address.at(9540)).await.unwrap();
        connection.send(ask).await.unwrap()
    }

    /// A caller with a certificate of its own, straight to the internal gateway.
    async fn caller(&self, name: &str) -> Echo {
        let trust = pki::caller(self.stack.folder.path(), name);
        Echo::connect(self.stack.address.at(9640), &trust).await.unwrap()
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path, &[("x-echo", "heard")]).unwrap()).await
    }
}

/// G15: JSON calls a service of tonic's through both gateways: one message, several as lines, metadata both ways, errors
/// with their details, and a deadline.
#[tokio::test]
async fn json_calls_a_real_service() {
    let scene = Scene::new(|draft| draft).await;
    let answer = scene.get("/v1/echo/salve%20%C3%B6").await;
    let said = answer.json();
    assert_eq!(
        (answer.status, &said["text"], &said["number"]),
        (200, &json!("salve ö"), &json!(1))
    );
    assert!(said["server"].as_str().unwrap().starts_with("echo-"), "{said}");
    assert_eq!(answer.header("x-echo"), "heard", "metadata: {answer:?}");

    let mut post =
        request("POST", "/v1/echo/say", &[("content-type", "application/json")]).unwrap();
    *post.body_mut() = Full::new(Bytes::from_static(b"{\"text\":\"ave\"}"));
    assert_eq!(scene.send(post).await.json()["text"], "ave");

    let answer = scene.get("/v1/echo/ave/times/3").await;
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let numbers: Vec<_> = lines.map(|line| line["number"].clone()).collect();
    assert_eq!(numbers, [json!(1), json!(2), json!(3)]);

    let answer = scene.get("/v1/echo/vae?fail=9").await;
    let error = answer.json();
    assert_eq!((answer.status, &error["code"], &error["message"]), (400, &json!(9), &json!("vae")));
    let detail = &error["details"][0];
    assert_eq!(detail["@type"], "type.googleapis.com/aqueduct.demo.v1.EchoRequest");
    assert_eq!((&detail["text"], &detail["fail"]), (&json!("vae"), &json!(9)));

    let answer = scene.get("/v1/echo/mane?hold=true").await;
    assert_eq!(answer.status, 504, "{answer:?}");
}

/// G21, G10: callers are known by certificate alone; each has its share; who calls which version is counted.
#[tokio::test]
async fn callers_of_the_mesh_show_certificates() {
    let scene = Scene::new(|draft| draft.edit("rate: 500/s, burst: 1000", "rate: 2/h")).await;
    let stranger = Connection::tls(scene.stack.address.at(9640), &scene.stack.trust).await;
    let refused = match stranger {
        Err(_) => true,
        // The handshake of TLS 1.3 ends before the server has seen that there is no certificate.
        Ok(mut stranger) => stranger.get("/aqueduct.demo.v1.Echo/Say", &[]).await.is_err(),
    };
    assert!(refused);
    for _ in 0..2 {
        assert_eq!(scene.get("/v1/echo/a").await.status, 200);
    }
    let answer = scene.get("/v1/echo/a").await;
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!(14)), "its share is used up");
    let records = scene.stack.await_records(3).await;
    assert!(records.iter().all(|record| record["principal"] == "public"), "{records:?}");
    let callers = http::plain(scene.stack.address.at(9142), "/callers").await.unwrap().json();
    let counted = (&callers[0]["consumer"], &callers[0]["version"], &callers[0]["total"]);
    assert_eq!(counted, (&json!("public"), &json!("v1"), &json!(2)), "{callers}");
}

/// G15: a browser's call reaches a service of tonic's, and its trailers come as the last message.
#[tokio::test]
async fn a_browser_calls_a_real_service() {
    let scene = Scene::new(|draft| draft).await;
    let said = EchoRequest { text: "salve".to_owned(), ..EchoRequest::default() }.encode_to_vec();
    let length = u32::try_from(said.len()).unwrap().to_be_bytes();
    let fields =
        [("content-type", "application/grpc-web+proto"), ("origin", "https://app.example")];
    let mut post = request("POST", "/aqueduct.demo.v1.Echo/Say", &fields).unwrap();
    *post.body_mut() = Full::new([&[0][..], &length, &said].concat().into());
    let answer = scene.send(post).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/grpc-web+proto"));
    assert!(answer.header("access-control-expose-headers").contains("grpc-status"));
    let (flag, rest) = answer.body.split_first().unwrap();
    let (length, rest) = rest.split_first_chunk::<4>().unwrap();
    let (message, trailers) = rest.split_at(u32::from_be_bytes(*length) as usize);
    assert_eq!((*flag, EchoReply::decode(message).unwrap().text), (0, "salve".to_owned()));
    assert_eq!(trailers.first(), Some(&0x80));
    assert!(String::from_utf8_lossy(trailers).contains("grpc-status: 0\r\n"), "{trailers:?}");
}

/// How many of so many calls, one after the other, are answered.
async fn answered(caller: &mut Echo, calls: usize) -> usize {
    let mut count = 0;
    for _ in 0..calls {
        let said = EchoRequest { text: "salve".to_owned(), ..EchoRequest::default() };
        count += usize::from(caller.say(Request::new(said)).await.is_ok());
    }
    count
}

/// G21, G10: of two callers one floods, with as many calls at a time as it can make: it has what a caller may have at a time, and
/// the other one all that it asks for.
#[tokio::test]
async fn a_caller_at_the_same_time_as_a_flood_has_its_share() {
    // Calls that are held stay so until the test ends.
    let patient = "allow: [{ when: \"@principal in ['public', 'batch']\" }], timeout: 10m";
    let plain = "allow: [{ when: \"@principal in ['public', 'batch']\" }]";
    let scene = Scene::new(|draft| draft.edit(plain, patient)).await;
    let mut flood: Vec<JoinHandle<Result<EchoReply, Status>>> = Vec::new();
    for _ in 0..6 {
        let batch = scene.caller("batch").await;
        for _ in 0..25 {
            let mut batch = batch.clone();
            let said = EchoRequest { hold: true, ..EchoRequest::default() };
            flood.push(tokio::spawn(async move { batch.say(Request::new(said)).await }));
        }
    }
    let refused = async || {
        let over = flood.iter().filter(|call| call.is_finished()).count();
        (over >= 50).then_some(over)
    };
    assert_eq!(until("what is over its share is refused", refused).await, 50);
    let mut public = scene.caller("public").await;
    assert_eq!(answered(&mut public, 60).await, 60, "beside a hundred calls of the other");
    let mut batch = scene.caller("batch").await;
    assert_eq!(answered(&mut batch, 5).await, 0, "it has its share already");
    let over = flood.iter().filter(|call| call.is_finished()).count();
    assert_eq!((over, flood.len()), (50, 150), "and keeps it");
    flood.iter().for_each(JoinHandle::abort);
}

/// G21, G10: one that asks without end uses up its own share, and nothing of the other's.
#[tokio::test]
async fn a_flood_uses_up_its_own_share_alone() {
    let scene = Scene::new(|draft| draft.edit("rate: 500/s, burst: 1000", "rate: 20/h")).await;
    let (mut batch, mut public) = (scene.caller("batch").await, scene.caller("public").await);
    assert_eq!(answered(&mut public, 5).await, 5);
    assert_eq!(answered(&mut batch, 200).await, 20);
    assert_eq!(answered(&mut public, 30).await, 15, "what it has left, and no more");
    let records = scene.stack.await_records(235).await;
    let refused = |name: &str| {
        let own = records.iter().filter(|record| record["principal"] == name);
        own.filter(|record| record["grpc_status"] != 0).count()
    };
    assert_eq!([refused("batch"), refused("public")], [180, 15]);
}
