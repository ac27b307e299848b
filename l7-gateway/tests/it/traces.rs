//! Traces: whose are continued, what services are told, what collectors get.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use topology::Topology;

use crate::fakes::{Act, Fake};
use crate::instance::run_text;
use crate::rig::{Rig, local, topology};

/// A gateway before this service, with these lines under `telemetry:`.
fn traced(to: SocketAddr, telemetry: &str) -> Topology {
    let gateway = format!(
        "    telemetry: {{ {telemetry} }}\n    routes:\n      - {{ name: all, path: /*, to: user }}"
    );
    topology(&format!("  user: {{ endpoints: [{to}] }}"), &gateway)
}

/// The value of a field of the last request that the service got.
fn sent(fake: &Fake, name: &str) -> Option<String> {
    let text = fake.seen.last();
    let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let value = values.next().map(str::to_owned);
    assert_eq!(values.next(), None, "{text}");
    value
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// G13, G19, O2: a trace of a trusted client goes on with a span of ours, its choice of what is sampled
/// and its `tracestate` included; from anybody else one begins here.
#[tokio::test]
async fn traces_go_on_from_trusted_clients_alone() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let mut rig =
            Rig::new(&traced(fake.address, "sample: 100%, trust-trace-from: [192.0.2.0/24]"));
        let lines = |parent: &str| {
            format!("traceparent: {parent}\r\ntracestate: a=1\r\ntracestate: b=2\r\n")
        };
        rig.get("/1", &lines(PARENT)).await;
        let first = sent(&fake, "traceparent").expect("a trace");
        assert!(first.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{first}");
        assert!(!first.contains("b7ad6b7169203331") && first.ends_with("-01"), "{first}");
        assert_eq!(sent(&fake, "tracestate").as_deref(), Some("a=1,b=2"));
        rig.get("/2", &lines(UNSAMPLED)).await;
        let second = sent(&fake, "traceparent").expect("a trace");
        assert!(second.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{second}");
        assert!(second.ends_with("-00") && second[36..52] != first[36..52], "{second}");
        rig.get("/3", &lines("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01")).await;
        let third = sent(&fake, "traceparent").expect("a trace");
        assert!(!third.contains("0af7651916cd43dd8448eb211c80319c"), "{third}");
        assert_eq!(sent(&fake, "tracestate"), None);
        let records = rig.records();
        for (record, sent) in records.iter().zip([first, second, third]) {
            assert_eq!(record["trace_id"], sent[3..35]);
            assert_eq!(record["span_id"], sent[36..52]);
        }

        let strangers = Rig::new(&traced(fake.address, "trust-trace-from: [10.0.0.0/8]"));
        strangers.get("/4", &lines(PARENT)).await;
        let own = sent(&fake, "traceparent").expect("a trace");
        assert!(!own.contains("0af7651916cd43dd8448eb211c80319c"), "{own}");
        assert_eq!(sent(&fake, "tracestate"), None);
    })
    .await;
}

/// G13, G23: whose trace goes on is judged by who sent the request, and not by whom a trusted proxy has
/// sent it for: that is what clients may choose.
#[tokio::test]
async fn whoever_sent_a_request_is_believed_about_its_trace() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        for (believed, goes_on) in [("192.0.2.7", true), ("203.0.113.9", false)] {
            let gateway = format!(
                "    trust-forwarded-for: {{ from: [192.0.2.7], hops: 1 }}\n    telemetry: {{ trust-trace-from: [{believed}] }}\n    routes:\n      - {{ path: /*, to: user }}"
            );
            let rig = Rig::new(&topology(
                &format!("  user: {{ endpoints: [{}] }}", fake.address),
                &gateway,
            ));
            let lines = format!("X-Forwarded-For: 203.0.113.9\r\ntraceparent: {PARENT}\r\n");
            rig.get("/", &lines).await;
            assert_eq!(sent(&fake, "x-forwarded-for").as_deref(), Some("203.0.113.9"));
            let trace = sent(&fake, "traceparent").expect("a trace");
            assert_eq!(trace.contains("0af7651916cd43dd8448eb211c80319c"), goes_on, "{believed}");
        }
    })
    .await;
}

/// O2: of the traces that begin here, as many are sampled as the file says.
#[tokio::test]
async fn as_many_traces_are_sampled_as_asked() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        for (sample, flag) in [("0%", "-00"), ("100%", "-01")] {
            let rig = Rig::new(&traced(fake.address, &format!("sample: {sample}")));
            for _ in 0..20 {
                rig.get("/", "").await;
                let parent = sent(&fake, "traceparent").expect("a trace");
                assert!(parent.ends_with(flag), "{sample}: {parent}");
            }
        }
    })
    .await;
}

/// O5: what cannot be traced so is a problem at its place.
#[test]
fn wrong_telemetry_is_reported_at_its_place() {
    let of = |line: &str| {
        let text = format!(
            "aqueduct: 1\nservices:\n  a: {{ endpoints: [127.0.0.1:9] }}\ngateways:\n  app:\n    instances:\n      gw: {{ listen: 127.0.0.1:0 }}\n    telemetry: {{ {line} }}\n    routes:\n      - {{ path: /*, to: a }}\n"
        );
        let read = topology::parse("t.yaml", &text, std::path::Path::new("/nowhere"));
        read.expect_err(line).to_string()
    };
    assert!(of("sample: 200%").contains("t.yaml:8:26 gateways.app.telemetry.sample"));
    assert!(of("sample: 0.5").contains("did you mean `0.5%`?"));
    assert!(of("otlp: localhost:4317").contains("http://HOST:PORT"));
    let secret = of("otlp: \"http://user:hunter2@host:4318\"");
    assert!(
        secret.contains("no address of a collector") && !secret.contains("hunter2"),
        "{secret}"
    );
    assert!(of("records: true").contains("add `otlp: URL` beside it"));
}

/// A collector that keeps what it is sent, and says that so many spans were rejected.
#[derive(Clone, Default)]
struct Collector {
    spans: Rc<RefCell<Vec<Span>>>,
    records: Rc<RefCell<Vec<LogRecord>>>,
    resources: Rc<RefCell<Vec<KeyValue>>>,
    rejected: i64,
}

impl Collector {
    async fn start(rejected: i64) -> (Self, SocketAddr) {
        let own = Self { rejected, ..Self::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (address, kept) = (listener.local_addr().expect("bound"), own.clone());
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = kept.clone();
                let answer = service_fn(move |request| kept.clone().take(request));
                let served = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                spawn_local(async move { served.await.expect("served") });
            }
        });
        (own, address)
    }

    async fn take(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        let mut said = Vec::new();
        match path.as_str() {
            "/otel/v1/traces" => {
                let sent = ExportTraceServiceRequest::decode(body).expect("spans");
                for resource in sent.resource_spans {
                    self.resources.borrow_mut().extend(resource.resource.expect("one").attributes);
                    let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                    self.spans.borrow_mut().extend(spans);
                }
                let error_message = String::new();
                let part =
                    ExportTracePartialSuccess { rejected_spans: self.rejected, error_message };
                said = ExportTraceServiceResponse { partial_success: Some(part) }.encode_to_vec();
            }
            "/otel/v1/logs" => {
                let sent = ExportLogsServiceRequest::decode(body).expect("records");
                let scopes =
                    sent.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
                self.records.borrow_mut().extend(scopes.flat_map(|scope| scope.log_records));
            }
            path => assert_eq!(path, "/otel/v1/traces or /otel/v1/logs"),
        }
        Ok(Response::new(Full::from(said)))
    }
}

/// The attributes as text.
fn attributes(list: &[KeyValue]) -> HashMap<String, String> {
    let text = |pair: &KeyValue| {
        let text = match pair.value.clone().and_then(|value| value.value) {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        (pair.key.clone(), text)
    };
    list.iter().map(text).collect()
}

/// An instance with these endpoints and these keys of `telemetry`.
fn instance(endpoints: &str, telemetry: &str) -> String {
    format!(
        "aqueduct: 1
services:
  user: {{ endpoints: [{endpoints}] }}
gateways:
  app:
    instances:
      gw: {{ listen: 127.0.0.1:0 }}
    access-log: off
    telemetry: {{ {telemetry} }}
    routes:
      - {{ name: all, path: /*, to: user }}
"
    )
}

async fn ask(to: SocketAddr, lines: &str) -> String {
    let mut stream = TcpStream::connect(to).await.expect("connected");
    let request = format!("{lines}Host: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an end");
    answer
}

fn lost(metrics: &str, what: &str) -> u64 {
    let start = format!("aqueduct_telemetry_dropped_total{{what=\"{what}\"}} ");
    let mut values = metrics.lines().filter_map(|line| line.strip_prefix(&start));
    values.next().expect("shown").parse().expect("a number")
}

/// O2, G19: a sampled request is a server span, below the caller's where its trace goes on, with an event
/// per stage; and a client span below that, which the service is told as its parent. The record goes
/// too, where it is asked for. No query and no header is in any of them.
#[tokio::test]
async fn a_request_is_spans_at_the_collector() {
    local(async {
        let (collector, at) = Collector::start(0).await;
        let fake = Fake::new(Act::Answer("hello")).await;
        let telemetry = format!(
            "otlp: \"http://{at}/otel/\", records: true, sample: 0%, trust-trace-from: [127.0.0.0/8]"
        );
        let folder = TempDir::new().expect("a folder");
        let (running, options) = run_text(folder.path(), &instance(&fake.address.to_string(), &telemetry)).await;
        let to = running.listeners[0].1;
        let lines = format!("GET /a?token=S3CRET HTTP/1.1\r\nAuthorization: S3CRET\r\ntraceparent: {PARENT}\r\ntracestate: a=1\r\n");
        assert!(ask(to, &lines).await.starts_with("HTTP/1.1 200 "));
        let told = sent(&fake, "traceparent").expect("a trace");
        ask(to, &format!("GET /b HTTP/1.1\r\ntraceparent: {UNSAMPLED}\r\n")).await;
        options.lifecycle.drain();
        running.finished().await.expect("no panic");

        let spans = collector.spans.borrow();
        assert_eq!(spans.len(), 2, "the other request is not sampled: {spans:?}");
        let (server, client) = (&spans[0], &spans[1]);
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(&server.trace_id), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(hex(&server.parent_span_id), "b7ad6b7169203331");
        assert_eq!((server.name.as_str(), server.kind, server.trace_state.as_str()), ("GET all", 2, "a=1"));
        assert_eq!((client.name.as_str(), client.kind), ("GET", 3));
        assert_eq!((&client.trace_id, &client.parent_span_id), (&server.trace_id, &server.span_id));
        assert_eq!(told, format!("00-{}-{}-01", hex(&client.trace_id), hex(&client.span_id)));
        let (ours, theirs) = (attributes(&server.attributes), attributes(&client.attributes));
        for (key, value) in [
            ("http.request.method", "GET"),
            ("url.path", "/a"),
            ("http.route", "all"),
            ("http.response.status_code", "200"),
            ("http.response.body.size", "5"),
            ("client.address", "127.0.0.1"),
            ("aqueduct.service", "user"),
        ] {
            assert_eq!(ours.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert_eq!(theirs["server.port"], fake.address.port().to_string());
        assert_eq!(theirs["http.response.status_code"], "200");
        let stages: Vec<_> = server.events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(stages.len(), 9, "stages 2 to 10: {stages:?}");
        let times = [server.start_time_unix_nano, client.start_time_unix_nano, client.end_time_unix_nano, server.end_time_unix_nano];
        assert!(times.is_sorted(), "{times:?}");
        assert!(server.status.is_none() && client.status.is_none());
        let resource = attributes(&collector.resources.borrow());
        assert_eq!((&*resource["service.name"], &*resource["service.instance.id"]), ("l7-gateway", "gw"));

        let records = collector.records.borrow();
        assert_eq!(records.len(), 2, "of all requests");
        assert_eq!((&records[0].trace_id, &records[0].span_id), (&server.trace_id, &server.span_id));
        let body = attributes(&[KeyValue { value: records[0].body.clone(), ..KeyValue::default() }]);
        let line: serde_json::Value = serde_json::from_str(&body[""]).expect("one object");
        assert_eq!((&line["endpoint"], &line["status"]), (&"GET /a".into(), &200.into()));
        assert!(!format!("{spans:?}{records:?}").contains("S3CRET"));
        assert_eq!(lost(&options.observer.metrics.render(), "span"), 0);
    })
    .await;
}

/// O2, G18: each attempt is a span of its own, which says what became of it; what the collector takes
/// only in part is counted.
#[tokio::test]
async fn every_attempt_is_a_span() {
    local(async {
        let (collector, at) = Collector::start(2).await;
        let fake = Fake::new(Act::Answer("hello")).await;
        let folder = TempDir::new().expect("a folder");
        let gone =
            TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
        let endpoints = format!("{gone}, {}", fake.address);
        let telemetry = format!("otlp: \"http://{at}/otel\", sample: 100%");
        let (running, options) = run_text(folder.path(), &instance(&endpoints, &telemetry)).await;
        let to = running.listeners[0].1;
        // Whichever endpoint is first for the one, the other begins at the other one, sooner or later.
        let mut asked = 0;
        while fake.seen.count() < 20 {
            assert!(ask(to, "GET /a HTTP/1.1\r\n").await.starts_with("HTTP/1.1 200 "));
            asked += 1;
        }
        options.lifecycle.drain();
        running.finished().await.expect("no panic");
        let spans = collector.spans.borrow();
        let servers = spans.iter().filter(|span| span.kind == 2);
        assert_eq!(servers.count(), asked);
        let failed: Vec<_> =
            spans.iter().filter(|span| span.kind == 3 && span.status.is_some()).collect();
        assert!(!failed.is_empty(), "no request met the dead endpoint");
        for span in failed {
            let said = attributes(&span.attributes);
            assert_eq!(
                (&*said["error.type"], &said["server.port"]),
                ("no connection", &gone.port().to_string())
            );
            let siblings = spans.iter().filter(|other| other.parent_span_id == span.parent_span_id);
            let second = siblings
                .map(|other| attributes(&other.attributes))
                .find(|said| said.contains_key("http.request.resend_count"));
            let second = second.expect("another attempt");
            assert_eq!(
                (&*second["http.request.resend_count"], &*second["http.response.status_code"]),
                ("1", "200")
            );
        }
        let ids: std::collections::HashSet<_> = spans.iter().map(|span| &span.span_id).collect();
        assert_eq!(ids.len(), spans.len());
        assert!(lost(&options.observer.metrics.render(), "span") >= 2, "what it rejected");
    })
    .await;
}

/// O2: a collector that is away costs spans, which are counted, and no request; one that takes the
/// message and never answers does not keep an instance from ending.
#[tokio::test]
async fn a_collector_that_is_away_or_silent_costs_no_request() {
    local(async {
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let gone =
            TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
        for at in [gone, silent.local_addr().expect("bound")] {
            let fake = Fake::new(Act::Answer("hello")).await;
            let folder = TempDir::new().expect("a folder");
            let telemetry = format!("otlp: \"http://{at}\", sample: 100%");
            let (running, options) =
                run_text(folder.path(), &instance(&fake.address.to_string(), &telemetry)).await;
            for _ in 0..10 {
                assert!(
                    ask(running.listeners[0].1, "GET /a HTTP/1.1\r\n")
                        .await
                        .starts_with("HTTP/1.1 200 ")
                );
            }
            options.lifecycle.drain();
            running.finished().await.expect("no panic");
            assert_eq!(lost(&options.observer.metrics.render(), "span"), 20);
        }
    })
    .await;
}
