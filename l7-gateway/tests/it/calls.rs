//! gRPC calls through the gateway, frame by frame, and trailers of any answer.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, Response};

use crate::fakes::{Act, Fake};
use crate::peers::{Asked, Fake2, Secure, rest};
use crate::rig::local;

/// A message (gRPC's "Length-Prefixed-Message").
fn message(text: &str) -> Bytes {
    [&[0, 0, 0, 0, text.len() as u8], text.as_bytes()].concat().into()
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(n, v)| (n.parse().expect("a name"), v.parse().expect("a value"))).collect()
}

/// A gateway before services that speak gRPC, with further lines of its section.
fn gateway(addresses: &[SocketAddr], lines: &str) -> Secure {
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    Secure::new(
        &format!("  user: {{ endpoints: [{}] }}", list.join(", ")),
        &format!(
            "    upstreams: {{ user: {{ protocol: http2, eject: {{ first: 50s }} }} }}\n    routes:\n      - {{ path: /*, to: user }}\n{lines}"
        ),
    )
}

/// A call that is begun.
fn call(
    client: &mut SendRequest<Bytes>,
    path: &str,
    more: &[(&'static str, &'static str)],
) -> (ResponseFuture, SendStream<Bytes>) {
    let mut ask = Request::post(format!("https://api.example{path}")).body(()).expect("a request");
    *ask.headers_mut() = fields(&[("content-type", "application/grpc"), ("te", "trailers")]);
    ask.headers_mut().extend(fields(more));
    client.send_request(ask, false).expect("open")
}

/// The head of an answer.
fn answer() -> Response<()> {
    let mut answer = Response::new(());
    answer.headers_mut().extend(fields(&[("content-type", "application/grpc")]));
    answer
}

/// Says every message again, after the first one has come.
async fn echo(mut asked: Asked) {
    let mut to = None;
    while let Some(Ok(data)) = asked.request.body_mut().data().await {
        asked.request.body_mut().flow_control().release_capacity(data.len()).expect("taken");
        let to =
            to.get_or_insert_with(|| asked.respond.send_response(answer(), false).expect("open"));
        to.send_data(data, false).expect("open");
    }
    let Some(mut to) = to else { return };
    to.send_trailers(fields(&[("grpc-status", "0"), ("x-custom", "kept")])).expect("open");
}

/// G4: messages go both ways while both sides are open; trailers end the call and are recorded.
#[tokio::test]
async fn calls_stream_both_ways() {
    local(async {
        let fake = Fake2::new(100, |asked| Box::pin(echo(asked))).await;
        let mut secure = gateway(&[fake.address], "");
        let mut client = secure.client().await;
        let (head, mut to) = call(&mut client, "/shop.Cart/Watch", &[("grpc-timeout", "20S")]);
        to.send_data(message("one"), false).expect("open");
        let head = head.await.expect("an answer");
        assert_eq!(head.headers()["content-type"], "application/grpc");
        let mut body = head.into_body();
        assert_eq!(body.data().await.expect("open").expect("whole"), message("one"));
        for word in ["two", "three"] {
            to.send_data(message(word), false).expect("open");
            assert_eq!(body.data().await.expect("open").expect("whole"), message(word));
        }
        to.send_data(Bytes::new(), true).expect("open");
        let (left, trailers) = rest(&mut body).await.expect("an end");
        assert_eq!(
            (left.len(), trailers.expect("trailers")),
            (0, fields(&[("grpc-status", "0"), ("x-custom", "kept")]))
        );
        for (name, value) in
            [("te", "trailers"), ("grpc-timeout", "20S"), ("content-type", "application/grpc")]
        {
            assert_eq!(fake.seen.header(name).as_deref(), Some(value));
        }
        drop((client, body, to));
        let records = secure.rig.records();
        assert_eq!(
            (&records[0]["grpc_status"], &records[0]["complete"]),
            (&0.into(), &true.into())
        );
        assert_eq!(records[0]["status"], 200);
    })
    .await;
}

/// G4: a call whose client thinks for longer than other bodies and answers may take goes on.
#[tokio::test(start_paused = true)]
async fn quiet_calls_go_on() {
    local(async {
        let fake = Fake2::new(100, |asked| Box::pin(echo(asked))).await;
        let secure = gateway(&[fake.address], "");
        let mut client = secure.client().await;
        let (head, mut to) = call(&mut client, "/shop.Cart/Watch", &[]);
        tokio::time::sleep(Duration::from_secs(100)).await;
        to.send_data(message("late"), false).expect("open");
        let mut body = head.await.expect("an answer").into_body();
        tokio::time::sleep(Duration::from_secs(100)).await;
        to.send_data(message("later"), true).expect("open");
        let (left, trailers) = rest(&mut body).await.expect("an end");
        assert_eq!(left, [message("late"), message("later")].concat());
        assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
    })
    .await;
}

/// G4, O5: what the gateway refuses is told in gRPC's way: trailers alone with a code.
#[tokio::test]
async fn refusals_of_calls_have_codes() {
    local(async {
        let silent = Fake2::new(100, |asked| {
            Box::pin(async move {
                let _kept = asked;
                std::future::pending::<()>().await;
            })
        })
        .await;
        let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let nobody = nobody.local_addr().expect("an address");
        for (address, route, timeout, code) in [
            (nobody, "/*", "20S", 14),
            (silent.address, "/*", "30m", 4),
            (silent.address, "/other", "20S", 12),
        ] {
            let mut secure = Secure::new(
                &format!("  user: {{ endpoints: [{address}] }}"),
                &format!(
                    "    upstreams: {{ user: {{ protocol: http2 }} }}\n    routes:\n      - {{ path: {route}, to: user }}"
                ),
            );
            let mut client = secure.client().await;
            let (head, mut to) = call(&mut client, "/shop.Cart/Add", &[("grpc-timeout", timeout)]);
            to.send_data(message("one"), true).expect("open");
            let head = head.await.expect("an answer");
            assert_eq!(head.status(), 200);
            assert!(head.body().is_end_stream());
            assert_eq!(head.headers()["grpc-status"], code.to_string().as_str());
            assert!(!head.headers()["grpc-message"].is_empty());
            drop((client, head, to));
            assert_eq!(secure.rig.records()[0]["grpc_status"], code);
        }
    })
    .await;
}

/// G15: a refusal says in `grpc-status-details-bin` what a problem says: its code, and when to come again.
#[tokio::test]
async fn refusals_of_calls_have_details() {
    local(async {
        let secure = Secure::new(
            "  user: { endpoints: [\"127.0.0.1:9\"] }",
            "    issuers: { app: { issuer: \"https://id.example\", audience: api, jwks: \"http://127.0.0.1:9/jwks.json\", algorithms: [ES256] } }
    limits: { few: { by: address, rate: 1/h, burst: 1 } }
    upstreams: { user: { protocol: http2 } }
    routes:
      - { path: /a/*, to: user, auth: app }
      - { path: /b/*, to: user, access: deny }
      - { path: /d/*, to: user, maintenance: { retry-after: 90s, detail: \"back at nine\" } }
      - { path: /e/*, to: user, sunset: 2020-01-01 }
      - { path: /f/*, to: user, limits: [few] }",
        );
        let mut client = secure.client().await;
        for (path, code, parts) in [
            ("/a/x", 16, ["UNAUTHENTICATED", "ErrorInfo", "RequestInfo"]),
            ("/b/x", 7, ["FORBIDDEN", "LocalizedMessage", "RequestInfo"]),
            ("/c/x", 12, ["NO_ROUTE", "ErrorInfo", "RequestInfo"]),
            ("/d/x", 14, ["MAINTENANCE", "RetryInfo", "back at nine"]),
            ("/e/x", 2, ["SUNSET", "ErrorInfo", "RequestInfo"]),
            ("/f/x", 14, ["UPSTREAM_UNAVAILABLE", "RetryInfo", "RequestInfo"]),
            ("/f/x", 14, ["RATE_LIMITED", "RetryInfo", "RequestInfo"]),
        ] {
            let (head, _to) = call(&mut client, path, &[]);
            let head = head.await.expect("an answer");
            let headers = head.headers();
            assert_eq!(headers["grpc-status"], code.to_string().as_str(), "{path}");
            let details = headers.get("grpc-status-details-bin").expect(path);
            let details = STANDARD_NO_PAD.decode(details).expect("base64 without padding");
            let details = String::from_utf8_lossy(&details);
            let id = headers["x-request-id"].to_str().expect("text");
            for part in parts.into_iter().chain([id, "aqueduct"]) {
                assert!(details.contains(part), "{path}: {part}: {details}");
            }
        }
    })
    .await;
}

/// G4: a call whose service breaks off ends with a code, not as if it were whole.
#[tokio::test]
async fn broken_calls_have_codes() {
    local(async {
        let fake = Fake2::new(100, |mut asked| {
            Box::pin(async move {
                let mut to = asked.respond.send_response(answer(), false).expect("open");
                to.send_data(message("one"), false).expect("open");
                asked.request.body_mut().data().await;
                to.send_reset(h2::Reason::INTERNAL_ERROR);
            })
        })
        .await;
        let mut secure = gateway(&[fake.address], "");
        let mut client = secure.client().await;
        let (head, mut to) = call(&mut client, "/shop.Cart/Add", &[]);
        let mut body = head.await.expect("an answer").into_body();
        assert_eq!(body.data().await.expect("open").expect("whole"), message("one"));
        to.send_data(message("go"), false).expect("open");
        let (left, trailers) = rest(&mut body).await.expect("trailers, not a reset");
        assert_eq!(
            (left.len(), &trailers.expect("trailers")["grpc-status"]),
            (0, &"14".parse().expect("a value"))
        );
        drop((client, body, to));
        let record = &secure.rig.records()[0];
        assert_eq!((&record["complete"], &record["grpc_status"]), (&false.into(), &14.into()));
    })
    .await;
}

/// G18: an endpoint that says of all calls that it is unavailable is left alone.
#[tokio::test]
async fn unavailable_services_are_ejected() {
    local(async {
        let sick = Fake2::new(100, |mut asked| {
            Box::pin(async move {
                let mut head = answer();
                head.headers_mut().extend(fields(&[("grpc-status", "14")]));
                asked.respond.send_response(head, true).expect("open");
            })
        })
        .await;
        let well = Fake2::new(100, |asked| Box::pin(echo(asked))).await;
        let secure = gateway(&[sick.address, well.address], "");
        let mut client = secure.client().await;
        for _ in 0..20 {
            let (head, mut to) = call(&mut client, "/shop.Cart/Add", &[]);
            to.send_data(message("one"), true).expect("open");
            rest(head.await.expect("an answer").body_mut()).await.expect("an end");
        }
        assert_eq!((sick.seen.count(), well.seen.count()), (3, 17));
    })
    .await;
}

/// G4, G13, G23: trailers of any service pass, without those that nobody may believe behind a body or that name the inside.
#[tokio::test]
async fn trailers_pass_without_the_forbidden() {
    local(async {
        let http1 = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                     2\r\nhi\r\n0\r\nx-sum: 7\r\nset-cookie: a=b\r\ncontent-length: 9\r\nx-internal-server: a\r\nx-powered-by: b\r\nx-node: 3\r\n\r\n";
        let fake = Fake::new(Act::Keep(http1)).await;
        let other = Fake2::new(100, |mut asked| {
            Box::pin(async move {
                let mut to = asked.respond.send_response(Response::new(()), false).expect("open");
                to.send_data(Bytes::from_static(b"hi"), false).expect("open");
                let hidden = [("x-internal-server", "a"), ("x-powered-by", "b"), ("x-node", "3")];
                let forbidden = [("set-cookie", "a=b"), ("content-length", "9")];
                let all = [&[("x-sum", "7")][..], &forbidden, &hidden].concat();
                to.send_trailers(fields(&all)).expect("open");
            })
        })
        .await;
        for (address, protocol) in [(fake.address, "http1"), (other.address, "http2")] {
            let secure = Secure::new(
                &format!("  user: {{ endpoints: [{address}] }}"),
                &format!(
                    "    internal-headers: x-node\n    upstreams: {{ user: {{ protocol: {protocol} }} }}\n    routes:\n      - {{ path: /*, to: user }}"
                ),
            );
            let mut client = secure.client().await;
            let ask = Request::get("https://api.example/").body(()).expect("a request");
            let (head, _) = client.send_request(ask, true).expect("open");
            let mut body = head.await.expect("an answer").into_body();
            let (data, trailers) = rest(&mut body).await.expect("an end");
            assert_eq!((data, trailers), (b"hi".to_vec(), Some(fields(&[("x-sum", "7")]))), "{protocol}");
        }
    })
    .await;
}

/// G2, G4: a call is no body that anybody could wait for: a filter is told of it alone. What only says that it is one, to a
/// service that takes none, is told whole.
#[tokio::test]
async fn filters_do_not_hold_calls() {
    local(async {
        let filter = Fake::new(Act::Answer("{}")).await;
        let lines = |protocol: &str| {
            format!(
                "    upstreams: {{ user: {{ protocol: {protocol} }} }}\n    routes:\n      - {{ path: /*, to: user, external: {{ url: \"http://{}/\", body: 64KiB, timeout: 5s }} }}",
                filter.address
            )
        };
        let told = || {
            let last = filter.seen.last();
            let (_, body) = last.split_once("\r\n\r\n").expect("a body");
            serde_json::from_str::<serde_json::Value>(body).expect("JSON")
        };
        let fake = Fake2::new(100, |asked| Box::pin(echo(asked))).await;
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let secure = Secure::new(&services, &lines("http2"));
        let mut client = secure.client().await;
        let (head, mut to) = call(&mut client, "/shop.Cart/Watch", &[]);
        to.send_data(message("one"), false).expect("open");
        let mut body = head.await.expect("an answer").into_body();
        assert_eq!(body.data().await.expect("open").expect("whole"), message("one"));
        to.send_data(message("two"), true).expect("open");
        assert_eq!(rest(&mut body).await.expect("an end").0, message("two"));
        assert!(filter.seen.count() == 1 && told().get("body").is_none(), "{}", told());

        let fake = Fake::new(Act::Answer("x")).await;
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let secure = Secure::new(&services, &lines("http1"));
        let mut client = secure.client().await;
        let (head, mut to) = call(&mut client, "/shop.Cart/Watch", &[]);
        to.send_data(message("one"), true).expect("open");
        head.await.expect("an answer");
        assert_eq!(told()["body"], "\0\0\0\0\u{3}one");
    })
    .await;
}
