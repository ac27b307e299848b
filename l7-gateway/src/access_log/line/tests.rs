//! The line under ordinary and hostile fields.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use common::observe::Metrics;
use http::{HeaderValue, Method};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng};
use topology::telemetry::Sample;
use topology::units::{InstanceName, ServiceName};

use super::*;
use crate::access_log::{Record, RouteStats, Sink};
use crate::exchange::{Peer, Transport};
use crate::ids::{RequestId, TraceParent};

fn exchange(instance: &str, fill: impl FnOnce(&mut Record)) -> String {
    let metrics = Metrics::new();
    let sink = Sink::new(&InstanceName::new(instance), None, Arc::default(), &metrics);
    let mut record = Record::new(&sink);
    fill(&mut record);
    let transport = Transport::Tls { sni: None, principal: None };
    let client = "192.0.2.7:4711".parse().expect("an address");
    let peer = Peer::new(client, transport, Some("0123-1".into()));
    let mut rng = SmallRng::seed_from_u64(1);
    let ids = (RequestId::new(&mut rng), TraceParent::start(&mut rng, Sample::default()));
    let wall = SystemTime::UNIX_EPOCH + Duration::from_micros(1_793_232_000_123_456);
    let mut x = Exchange::new(Rc::new(peer), tokio::time::Instant::now(), wall, ids, record);
    x.progress.enter(Stage::Tls);
    x.progress.spend(Stage::Tls, Duration::from_micros(700));
    x.progress.enter(Stage::Normalise);
    x.progress.spend(Stage::Normalise, Duration::from_micros(3));
    x.progress.halt(Stage::Normalise);
    let mut out = Vec::new();
    write(&x, instance, Duration::from_micros(2_345), &mut out);
    String::from_utf8(out).expect("text")
}

/// G19: every field that is asked for, in the form that is asked for.
#[test]
fn a_line_has_every_field() {
    let line = exchange("gw-1", |record| {
        record.user = Some(HeaderValue::from_static("98765"));
        record.path = "/api/user/98765".into();
        record.status = Some(StatusCode::OK);
        record.service = Some(ServiceName::new("user"));
        record.route = RouteStats::new("/api/user/*", &Metrics::new());
        record.bytes_out = 42;
        record.end = End::Complete;
    });
    let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(value["timestamp"], "2026-10-29T00:00:00.123456Z");
    assert_eq!(value["userId"], 98765);
    assert_eq!(value["endpoint"], "GET /api/user/98765");
    assert_eq!(value["latency_ms"], 2);
    assert_eq!(value["latency_us"], 2345);
    assert_eq!(value["status"], 200);
    assert_eq!(value["service"], "user");
    assert_eq!(value["gateway_instance"], "gw-1");
    assert_eq!(value["request_id"].as_str().map(str::len), Some(32));
    assert_eq!(value["trace_id"].as_str().map(str::len), Some(32));
    assert_eq!(value["span_id"].as_str().map(str::len), Some(16));
    assert_eq!(value["connection_id"], "0123-1");
    assert_eq!(value["consumer"], serde_json::Value::Null);
    assert_eq!((&value["bytes_in"], &value["bytes_out"]), (&0.into(), &42.into()));
    assert_eq!(value["client"], "192.0.2.7");
    assert_eq!(value["principal"], serde_json::Value::Null);
    assert_eq!(value["route"], "/api/user/*");
    assert_eq!(value["halted"], "normalise");
    assert_eq!(value["stages_us"], serde_json::json!({"tls": 700, "normalise": 3}));
}

/// G19: `userId` is a number where it is decimal, text otherwise, null for nobody.
#[test]
fn users_are_numbers_text_or_null() {
    let of = |user: Option<&str>| {
        let line = exchange("gw", |r| r.user = user.and_then(|u| HeaderValue::from_str(u).ok()));
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        value["userId"].clone()
    };
    assert_eq!(of(None), serde_json::Value::Null);
    assert_eq!(of(Some("0")), serde_json::json!(0));
    for text in ["007", "+1", "9007199254740993", "1e3", "ann", "-1", "99999999999999999999"] {
        assert_eq!(of(Some(text)), serde_json::json!(text), "{text}");
    }
}

/// What breaks readers of logs, in any order.
fn hostile(rng: &mut SmallRng) -> String {
    const PARTS: [&str; 20] = [
        "\"",
        "\\",
        "\n",
        "\r\n",
        "\0",
        "\u{1b}[31m",
        "\u{7f}",
        "\u{85}",
        "\u{9b}",
        "\u{2028}",
        "\u{2029}",
        "\u{feff}",
        "\u{fffd}",
        "é",
        "𝄞",
        "{\"status\":200}",
        "\",\"userId\":1,\"",
        "%00",
        "</script>",
        "plain",
    ];
    let mut text = String::new();
    for _ in 0..rng.random_range(0..6) {
        text.push_str(PARTS[rng.random_range(0..PARTS.len())]);
    }
    // Now and then one that is very long.
    if rng.random_ratio(1, 500) { text.repeat(500) } else { text }
}

/// G19: a hundred thousand lines with hostile text in every field are each one JSON object that says
/// what was put in.
#[test]
fn a_hundred_thousand_hostile_lines_parse() {
    let metrics = Metrics::new();
    let sink = Sink::new(&InstanceName::new("gw"), None, Arc::default(), &metrics);
    let mut rng = SmallRng::seed_from_u64(19);
    let routes: Vec<_> =
        (0..16).map(|_| RouteStats::new(&hostile(&mut rng), &Metrics::new())).collect();
    let (now, wall) = (tokio::time::Instant::now(), SystemTime::UNIX_EPOCH);
    for _ in 0..100_000 {
        let client = "[2001:db8::1]:1".parse().expect("an address");
        let transport = Transport::Tls { sni: Some(hostile(&mut rng)), principal: None };
        let peer = Peer::new(client, transport, Some(hostile(&mut rng).into()));
        let mut record = Record::new(&sink);
        record.path = hostile(&mut rng).into();
        let method: [u8; 3] = std::array::from_fn(|_| b"!#$%&'*+-.^_`|~A"[rng.random_range(0..16)]);
        record.method = Method::from_bytes(&method).expect("a token");
        // Any byte that a header's value may have, invalid UTF-8 included.
        let user: Vec<u8> =
            (0..rng.random_range(0..12)).map(|_| rng.random_range(32..=255)).collect();
        record.user = HeaderValue::from_bytes(&user).ok();
        record.consumer = HeaderValue::from_str(&format!("\\\"{}", rng.random_range(0..99))).ok();
        record.service = Some(ServiceName::new(&hostile(&mut rng)));
        record.route = Rc::clone(&routes[rng.random_range(0..16)]);
        let ids = (RequestId::new(&mut rng), TraceParent::start(&mut rng, Sample::default()));
        let x = Exchange::new(Rc::new(peer), now, wall, ids, record);
        let (instance, mut line) = (hostile(&mut rng), Vec::new());
        write(&x, &instance, Duration::ZERO, &mut line);
        let text = std::str::from_utf8(&line).expect("UTF-8");
        let body = text.strip_suffix('\n').expect("a newline at its end");
        assert!(!body.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')));
        let value: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(body).expect("one object");
        let said = |key: &str| value[key].as_str();
        assert_eq!(said("gateway_instance"), Some(&*instance));
        assert_eq!(said("service"), x.record.service.as_ref().map(ServiceName::as_str));
        assert_eq!(said("consumer"), x.record.consumer.as_ref().and_then(|it| it.to_str().ok()));
        assert_eq!(said("connection_id"), x.peer.connection_id.as_deref());
        let endpoint = format!("{} {}", x.record.method, x.record.path);
        assert_eq!(said("endpoint"), Some(&*endpoint));
    }
}

proptest! {
    /// G19: whatever a client sent, the line is one JSON object and one newline.
    #[test]
    fn a_line_is_always_one_json_object(
        method in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}",
        path in any::<String>(),
        user in "[ -~]{0,40}",
        service in any::<String>(),
        route in "[^\\x00]{0,20}",
    ) {
        let line = exchange(&service, |record| {
            record.method = Method::from_bytes(method.as_bytes()).expect("a token");
            record.path = path.as_str().into();
            record.user = HeaderValue::from_str(&user).ok();
            record.service = Some(ServiceName::new(&service));
            record.route = RouteStats::new(&route, &Metrics::new());
        });
        prop_assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let endpoint = format!("{method} {path}");
        prop_assert_eq!(value["endpoint"].as_str(), Some(endpoint.as_str()));
        prop_assert_eq!(value["service"].as_str(), Some(service.as_str()));
    }
}
