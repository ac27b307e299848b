//! gRPC by tonic's client and WebSocket, through the edge and a gateway to real services.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use tests::clients::grpc::{Echo, EchoReply, EchoRequest};
use tests::clients::http;
use tests::fakes::demo;
use tests::program::Program;
use tests::tier::{Draft, Stack};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};
use tonic::{Code, Request};

/// The edge before a gateway before two gRPC servers.
const FILE: &str = "aqueduct: 1
services:
  echo:
    endpoints: [127.0.0.1:7041, 127.0.0.1:7042]
    health: { grpc: aqueduct.demo.v1.Echo }
  chat: { endpoints: [127.0.0.1:7051] }
nlbs:
  edge:
    instances: { nlb-1: { address: 127.0.0.1, admin: 127.0.0.1:9101 } }
    listeners:
      https: { tcp: \"*:8443\", to: app, proxy-protocol: v2 }
gateways:
  app:
    instances:
      gw-1: { listen: 127.0.0.1:9441, admin: 127.0.0.1:9111 }
    access-log: file:access.ndjson
    trust-proxy-protocol-from: [127.0.0.0/8]
    tls: { certificates: [{ chain: file:pki/api.pem, key: file:pki/api.key }] }
    upstreams: { echo: { protocol: http2 } }
    routes:
      - { path: /aqueduct.demo.v1.Echo/*, to: echo }
      - { path: /chat, to: chat }
";

struct Scene {
    stack: Stack,
    _servers: [Program; 2],
}

impl Scene {
    async fn new() -> Self {
        let mut stack = Draft::new(FILE).stack();
        let servers = [(7041, "echo-1"), (7042, "echo-2")]
            .map(|(p, name)| demo::grpc(stack.address.at(p), name));
        stack.start_all(&["gw-1", "nlb-1"]).await;
        Self { stack, _servers: servers }
    }

    async fn client(&self) -> Echo {
        Echo::connect(self.stack.address.at(8443), &self.stack.trust).await.unwrap()
    }
}

fn said(text: &str) -> EchoRequest {
    EchoRequest { text: text.to_owned(), ..EchoRequest::default() }
}

fn told(reply: &EchoReply) -> (&str, u32) {
    assert!(reply.server.starts_with("echo-"), "{reply:?}");
    (&reply.text, reply.number)
}

/// G4, T10: calls of every kind pass the whole stack: one message for one, many for one, and one for
/// each, where the next is said only after the answer to the last has come.
#[tokio::test]
async fn calls_of_every_kind_pass_the_stack() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    let reply = client.say(Request::new(said("salve"))).await.unwrap();
    assert_eq!(told(&reply), ("salve", 1));

    let ask = EchoRequest { times: 100, ..said("ave") };
    let replies: Vec<_> = client.repeat(Request::new(ask)).await.unwrap().collect().await;
    let numbers: Vec<_> = replies.iter().map(|reply| told(reply.as_ref().unwrap()).1).collect();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());

    let (send, requests) = mpsc::channel::<EchoRequest>(1);
    let requests = futures_util::stream::unfold(requests, async |mut requests| {
        let next = requests.recv().await?;
        Some((next, requests))
    });
    let mut replies = client.talk(requests).await.unwrap();
    for number in 1..=50 {
        let text = format!("ping {number}");
        send.send(said(&text)).await.unwrap();
        let reply = replies.next().await.unwrap().unwrap();
        assert_eq!(told(&reply), (text.as_str(), number));
    }
    drop(send);
    assert!(replies.next().await.is_none(), "the call ends as the client has ended it");
    let records = scene.stack.await_records(3).await;
    assert!(records.iter().all(|r| r["grpc_status"] == 0 && r["complete"] == true), "{records:?}");
}

/// G4: what a call fails with comes whole: code, text, details and trailers, at once and after messages.
#[tokio::test]
async fn a_call_fails_as_the_service_says() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    let ask = EchoRequest { fail: Code::FailedPrecondition as i32, times: 3, ..said("vae: ö %") };
    let status = client.say(Request::new(ask.clone())).await.unwrap_err();
    let mut replies = client.repeat(Request::new(ask)).await.unwrap();
    for number in 1..=3 {
        assert_eq!(replies.next().await.unwrap().unwrap().number, number);
    }
    let last = replies.next().await.unwrap().unwrap_err();
    for status in [status, last] {
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "vae: ö %"));
        // google.rpc.Status: what was said is its one detail.
        let details = String::from_utf8_lossy(status.details());
        assert!(details.contains("aqueduct.demo.v1.EchoRequest"), "{details}");
        assert_eq!(details.matches("vae: ö %").count(), 2, "{details}");
        assert_eq!(status.metadata().get("x-echo").unwrap(), "failed");
    }
    let unknown = scene.stack.await_records(2).await;
    assert!(unknown.iter().all(|record| record["grpc_status"] == 9), "{unknown:?}");
}

/// G4: a call that goes quiet after some messages ends at its deadline, by the gateway's clock: tonic's
/// own runs until the head alone.
#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    let mut ask = Request::new(EchoRequest { hold: true, times: 2, ..said("mane") });
    ask.set_timeout(Duration::from_secs(1));
    let mut replies = client.repeat(ask).await.unwrap();
    assert_eq!(replies.next().await.unwrap().unwrap().number, 1);
    assert_eq!(replies.next().await.unwrap().unwrap().number, 2);
    let status = replies.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let record = scene.stack.await_records(1).await.remove(0);
    assert_eq!((&record["grpc_status"], &record["complete"]), (&4.into(), &false.into()));
}

/// google.rpc.Status, with its details as far as this file reads them.
#[derive(Clone, PartialEq, prost::Message)]
struct Told {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

/// google.protobuf.Any.
#[derive(Clone, PartialEq, prost::Message)]
struct Detail {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// google.rpc.ErrorInfo.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

/// google.rpc.RetryInfo; its delay in full seconds.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, tag = "1")]
    delay: Option<Seconds>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Seconds {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

/// G15: tonic reads why a gateway refuses a call, and when to come again.
#[tokio::test]
async fn a_client_reads_why_a_call_is_refused() {
    let file = FILE.replace("Echo/*, to: echo }", "Echo/*, to: echo, limits: [few] }").replace(
        "    routes:",
        "    limits: { few: { by: route, rate: 1/h, burst: 1 } }\n    routes:",
    );
    let mut stack = Draft::new(&file).stack();
    let _server = demo::grpc(stack.address.at(7041), "echo-1");
    stack.start_all(&["gw-1", "nlb-1"]).await;
    let mut client = Echo::connect(stack.address.at(8443), &stack.trust).await.unwrap();
    client.say(Request::new(said("salve"))).await.unwrap();
    let status = client.say(Request::new(said("iterum"))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let told = Told::decode(status.details()).unwrap();
    assert_eq!((told.code, told.message.as_str()), (14, status.message()));
    let of = |name: &str| {
        let kind = format!("type.googleapis.com/google.rpc.{name}");
        &told.details.iter().find(|detail| detail.kind == kind).unwrap().value
    };
    let info = ErrorInfo::decode(of("ErrorInfo").as_slice()).unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("RATE_LIMITED", "aqueduct"));
    let retry = RetryInfo::decode(of("RetryInfo").as_slice()).unwrap();
    let seconds = retry.delay.unwrap().seconds;
    let said = status.metadata().get("retry-after").unwrap().to_str().unwrap();
    assert_eq!(seconds.to_string(), said);
}

/// Says everything back, and ends with a reason of its own.
async fn echo(stream: TcpStream) {
    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Text(text) if text.as_str() == "vale" => {
                let reason = CloseFrame { code: CloseCode::Away, reason: "vale".into() };
                socket.close(Some(reason)).await.unwrap();
            }
            Message::Text(_) | Message::Binary(_) => socket.send(message).await.unwrap(),
            _ => {}
        }
    }
}

/// G4: a WebSocket of another package's client passes the whole stack: each message comes back before the
/// next is sent, of every size, pings are answered, and the end has the service's reason.
#[tokio::test]
async fn a_websocket_echoes_through_the_stack() {
    let scene = Scene::new().await;
    let listener = TcpListener::bind(scene.stack.address.at(7051)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    let stream = http::secure(scene.stack.address.at(8443), &scene.stack.trust).await.unwrap();
    let connect = tokio_tungstenite::client_async("wss://api.example/chat", stream);
    let (mut socket, answer) = connect.await.unwrap();
    assert_eq!(answer.status(), 101);
    for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
        for message in [Message::text("x".repeat(size)), Message::binary(vec![7; size])] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
    }
    socket.send(Message::Ping("still there".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("still there".into()));
    socket.send(Message::text("vale")).await.unwrap();
    let Message::Close(Some(end)) = socket.next().await.unwrap().unwrap() else { unreachable!() };
    assert_eq!((end.code, end.reason.as_str()), (CloseCode::Away, "vale"));
    assert!(socket.next().await.is_none());
    drop(socket);
    let record = scene.stack.await_records(1).await.remove(0);
    assert_eq!((&record["status"], &record["service"]), (&101.into(), &"chat".into()));
}
