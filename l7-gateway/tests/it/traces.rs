//! Traces: whose are continued, what services are told, what collectors get.

use std::net::SocketAddr;

use topology::Topology;

use crate::fakes::{Act, Fake};
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
}
